//! What the user wants mounted, as steps: what lies nearer to the root first, generated files last.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rootling_backends::sys::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use rootling_backends::{Error, ErrorKind, Result};

use super::op::{Base, Like, Op, Part};
use super::order::{below_dev, new_fs};
use super::{PathSource, Source, c_string, fixed};
use crate::runner::device;
use crate::runner::spec::{Bind, Owners, Restrictions, Spec, Tmpfs, Userns};

/// The one place below `/dev` where something may be mounted: pipes to the program that runs the box.
pub const PIPES: &str = "/dev/rootling";

enum Wanted<'a> {
    Tmpfs(&'a Tmpfs),
    Bind(&'a Bind),
}

impl Wanted<'_> {
    fn target(&self) -> &Path {
        match self {
            Self::Tmpfs(tmpfs) => &tmpfs.target,
            Self::Bind(bind) => &bind.target,
        }
    }
}

/// Tmpfs, binds and files; files last, so that they can lie on the others.
pub(super) fn ops(spec: &Spec, ops: &mut Vec<Op>, sources: &mut Vec<Source>) -> Result<()> {
    let tmpfs = spec.tmpfs.iter().map(Wanted::Tmpfs);
    let mut wanted: Vec<Wanted<'_>> = tmpfs.chain(spec.binds.iter().map(Wanted::Bind)).collect();
    wanted.sort_by_key(|wanted| wanted.target().components().count());
    refuse_twice(&wanted)?;
    for wanted in wanted {
        match wanted {
            Wanted::Tmpfs(tmpfs) => tmpfs_ops(tmpfs, ops)?,
            Wanted::Bind(bind) if bind.target == Path::new(PIPES) && bind.below.is_none() => {
                ops.push(Op::ShowDirectory {
                    source: sources.len(),
                    target: fixed(PIPES.trim_start_matches("/dev/")),
                    attributes: attributes(bind.restrictions),
                });
                sources.push(Source::Path(source(spec, bind)?));
            }
            Wanted::Bind(bind) => {
                let like = Like::Source(sources.len());
                ops.push(Op::MountPoint { parts: parts(&bind.target)?, like, optional: false });
                ops.push(Op::Bind {
                    source: sources.len(),
                    target: inside(&bind.target)?,
                    attributes: attributes(bind.restrictions),
                    follows_host: bind.follows_host,
                });
                sources.push(Source::Path(source(spec, bind)?));
            }
        }
    }
    file_ops(spec, ops)
}

fn refuse_twice(sorted: &[Wanted<'_>]) -> Result<()> {
    for (index, wanted) in sorted.iter().enumerate() {
        let twice = sorted.iter().take(index).any(|other| other.target() == wanted.target());
        if twice {
            let message = format!("two mounts on {:?}", wanted.target());
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave one of them out"));
        }
    }
    Ok(())
}

fn tmpfs_ops(tmpfs: &Tmpfs, ops: &mut Vec<Op>) -> Result<()> {
    ops.push(Op::MountPoint { parts: parts(&tmpfs.target)?, like: Like::Directory, optional: false });
    let mode = format!("{:o}", tmpfs.mode & 0o7777);
    let size = tmpfs.size_bytes.map(|size| size.to_string());
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|size| ("size", size)));
    ops.push(Op::Mount {
        new: new_fs("tmpfs", &options, attributes(tmpfs.restrictions)),
        base: Base::Root,
        target: inside(&tmpfs.target)?,
        resolve: true,
        make: false,
        optional: false,
        keep: None,
    });
    Ok(())
}

fn file_ops(spec: &Spec, ops: &mut Vec<Op>) -> Result<()> {
    if spec.files.is_empty() {
        return Ok(());
    }
    for (index, file) in spec.files.iter().enumerate() {
        let in_dev = file.target.strip_prefix("/dev").ok();
        let name = match in_dev {
            Some(_) => below_dev(&file.target)?.to_owned(),
            None => format!(".generated-{index}").into(),
        };
        for parent in device::parents(&name) {
            ops.push(Op::DevDirectory { path: c_string(parent.as_os_str())?, mode: 0o755 });
        }
        if in_dev.is_none() {
            let optional = file.optional;
            ops.push(Op::MountPoint { parts: parts(&file.target)?, like: Like::File, optional });
        }
        ops.push(Op::File {
            name: c_string(name.as_os_str())?,
            target: if in_dev.is_some() { None } else { Some(inside(&file.target)?) },
            content: file.content.clone(),
            mode: file.mode & 0o7777,
            owner: file.owner,
            attributes: attributes(file.restrictions),
            optional: file.optional,
        });
    }
    Ok(())
}

fn attributes(restrictions: Restrictions) -> u64 {
    let bits = [
        (restrictions.read_only, MOUNT_ATTR_RDONLY),
        (restrictions.no_suid, MOUNT_ATTR_NOSUID),
        (restrictions.no_devices, MOUNT_ATTR_NODEV),
        (restrictions.no_exec, MOUNT_ATTR_NOEXEC),
    ];
    bits.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit)
}

/// Decides whose the files are: mapped only if the tree is, and given away only as the owner that shows inside.
fn source(spec: &Spec, bind: &Bind) -> Result<PathSource> {
    let intent = || format!("show {:?} as {:?}", bind.source, bind.target);
    let refuse = |message: String, hint: &'static str| {
        Err(Error::new(ErrorKind::InvalidInput, message).hint(hint).context(intent()))
    };
    let can_map = spec.userns.maps_tree();
    let owners = match (bind.owners, can_map) {
        (Owners::Mapped, false) => {
            return refuse(
                "owners can only be mapped for a box with users of its own".to_owned(),
                "leave `idmap` out, or use --userns auto as root",
            );
        }
        (Owners::MappedIfPossible, false) => Owners::Unmapped,
        // Its ids differ from run to run: files given to them would be nobody's the next time.
        (Owners::Unmapped, true) if bind.give => {
            return refuse(
                "the box's ids are lent for one run: nothing can be given to them".to_owned(),
                "leave `noidmap` out, or use --userns host",
            );
        }
        (Owners::MappedIfPossible, true) if bind.give || bind.is_layered() || bind.tree.is_some() => {
            Owners::Mapped
        }
        (Owners::Unmapped, true) if bind.is_layered() => Owners::Mapped,
        (owners, _) => owners,
    };
    let user = (spec.process.user.uid, spec.process.user.gid);
    let give = bind.give.then(|| match (owners, &spec.userns) {
        (Owners::Unmapped, userns) if *userns != Userns::Host => {
            userns.outside(user.0, user.1).unwrap_or(user)
        }
        _ => user,
    });
    Ok(PathSource {
        path: bind.source.clone(),
        tree: bind.tree.clone(),
        below: bind.below.clone(),
        recursive: bind.recursive,
        owners,
        throw_away: bind.throw_away,
        layer: bind.layer.clone(),
        give,
    })
}

/// A mount point the user named: absolute, and not among those that carry the box's own defences.
fn inside(path: &Path) -> Result<CString> {
    let mut names = path.components();
    let absolute = names.next() == Some(Component::RootDir);
    let first = names.next().map(|name| name.as_os_str().as_bytes());
    let ours = [&b"proc"[..], b"sys", b"dev"];
    let goes_back = path.components().any(|name| name == Component::ParentDir);
    if !absolute || goes_back || first.is_none_or(|first| ours.contains(&first)) {
        let message = format!("cannot mount on {path:?}");
        let error = Error::new(ErrorKind::InvalidInput, message);
        return Err(error.hint("name an absolute path that is not /, /proc, /sys or /dev, without `..`"));
    }
    c_string(path.as_os_str())
}

/// Every name on the way to a mount point, with the path up to it.
fn parts(path: &Path) -> Result<Vec<Part>> {
    let mut paths: Vec<&Path> = path.ancestors().filter(|path| path.file_name().is_some()).collect();
    paths.reverse();
    let part = |path: &Path| {
        let name = c_string(path.file_name().unwrap_or_default())?;
        Ok(Part { path: c_string(path.as_os_str())?, name })
    };
    paths.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mount_points_are_absolute_and_off_the_walls() {
        for good in ["/data", "/a/b", "//srv/x", "/procs", "/development"] {
            assert!(inside(Path::new(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "data",
            "/",
            "//",
            "/.",
            "/proc",
            "/proc/self",
            "/sys/x",
            "/dev/shm",
            PIPES,
            "/./dev",
            "/a/../dev",
            "../x",
            "/..",
        ] {
            assert_eq!(inside(Path::new(bad)).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_parts_of_a_path_grow_by_one_name(names in proptest::collection::vec("[a-z]{1,5}", 1..6)) {
            let path = format!("/{}", names.join("/"));
            let parts = parts(Path::new(&path)).unwrap();
            prop_assert_eq!(parts.len(), names.len());
            let mut grown = String::new();
            for (part, name) in parts.iter().zip(&names) {
                grown = format!("{grown}/{name}");
                prop_assert_eq!(part.path.to_str().unwrap(), grown.as_str());
                prop_assert_eq!(part.name.to_str().unwrap(), name.as_str());
            }
        }
    }
}
