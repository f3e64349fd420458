//! Parts of the host for a box: opened once, by the caller, before there is a box.
//!
//! From then on a source is a descriptor: whoever swaps its path, or a link on the way to it, changes nothing in what is shown
//! (CVE-2018-15664, CVE-2024-42472). Where the box has users of its own, the caller maps the owners when the box's maps are
//! written; a layer in memory over a source can only be made then.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::MsFlags;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use rootling_backends::{Access, Context, Dir, Error, ErrorKind, MappedOwner, Result, mount, sys as kernel};

use super::plan::{DEV_OPTIONS, PathSource, Plan, Source};
use super::spec::Owners;
use super::{device, give, sys};

/// Opens all sources as detached mounts, and gives those away that are to be given.
pub(super) fn open(plan: &Plan) -> Result<Vec<OwnedFd>> {
    let open = |source: &Source| match source {
        Source::Path(source) => open_path(source).context(|| format!("show {:?}", source.path)),
        Source::Device { path } => device::open(path),
        Source::Dev { devices } => device::make(devices, &DEV_OPTIONS),
    };
    plan.sources.iter().map(open).collect()
}

/// Refuses what cannot be shown, and shows nothing: for a box that another runtime makes, which would refuse less.
pub fn check(plan: &Plan) -> Result<()> {
    for source in &plan.sources {
        if let Source::Path(source) = source
            && source.tree.is_none()
        {
            open_suited(source).context(|| format!("show {:?}", source.path))?;
        }
    }
    Ok(())
}

fn open_suited(source: &PathSource) -> Result<(OwnedFd, FileStat)> {
    let file = open_once(source)?;
    let stat = fstat(&file).context(|| format!("fstat({:?})", source.path))?;
    refuse_unsuited(&file, &stat, source)?;
    Ok((file, stat))
}

fn open_path(source: &PathSource) -> Result<OwnedFd> {
    let PathSource { path, .. } = source;
    if let Some(tree) = &source.tree {
        // What comes late is made when the maps are there: until then something holds its place.
        return if source.comes_late() { placeholder() } else { part(tree.open(Access::ReadWrite)?, source) };
    }
    let (file, stat) = open_suited(source)?;
    let recursive = source.recursive && !source.is_layered();
    let clone = kernel::open_tree_clone(file.as_fd(), c"", recursive).map_err(|errno| {
        let error = Error::call(format!("open_tree({path:?}, OPEN_TREE_CLONE)"), errno);
        match errno {
            // In a user namespace the mounts below are locked to the one above.
            Errno::EINVAL if !recursive => {
                error.hint("something is mounted in it that you may not take away: leave `bind` and `O` out")
            }
            _ => error,
        }
    })?;
    if let Some((uid, gid)) = source.give {
        give::refuse_of_system(&file, &stat)?;
        give::give(&file, &stat, uid, gid)?;
    }
    if source.is_layered() && !source.comes_late() {
        return mount::layer_over(clone, source.layer.as_deref(), None);
    }
    Ok(clone)
}

fn placeholder() -> Result<OwnedFd> {
    nix::fcntl::openat(AT_FDCWD, "/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open(\"/dev/null\", O_PATH)")
}

/// Shows what is asked for of a tree.
fn part(tree: OwnedFd, source: &PathSource) -> Result<OwnedFd> {
    let PathSource { path, below, .. } = source;
    let Some(below) = below else { return Ok(tree) };
    let tree = Dir::from_fd(tree, path);
    let file = tree.open_in_root(below, OFlag::O_PATH)?;
    let stat = fstat(&file).context(|| format!("fstat({below:?})"))?;
    refuse_unsuited(&file, &stat, source)?;
    let clone = kernel::open_tree_clone(file.as_fd(), c"", false).or_else(|errno| match errno {
        // Before Linux 6.15 a clone can only be taken of what is attached.
        Errno::EINVAL => {
            attach(&tree)?;
            kernel::open_tree_clone(file.as_fd(), c"", false)
        }
        errno => Err(errno),
    });
    clone.context(|| format!("open_tree({below:?}, OPEN_TREE_CLONE)"))
}

/// Attaches a mount over `/` in a mount namespace of this thread's own: absolute paths still lead to what is beneath.
fn attach(mount: &Dir) -> nix::Result<()> {
    sys::unshare(libc::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
    kernel::move_mount_to(mount.as_fd(), AT_FDCWD, c"/")
}

fn open_once(source: &PathSource) -> Result<OwnedFd> {
    let PathSource { path, below, .. } = source;
    let file = nix::fcntl::openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let file = file.context(|| format!("open({path:?}, O_PATH)")).map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.hint(format!("make it first: mkdir -p {}", path.display())),
        _ => error,
    })?;
    match below {
        Some(below) => Dir::from_fd(file, path).open_in_root(below, OFlag::O_PATH),
        None => Ok(file),
    }
}

/// `/` and the kernel's file systems would hand out the machine, a device needs more than its node.
fn refuse_unsuited(file: &OwnedFd, stat: &FileStat, source: &PathSource) -> Result<()> {
    let path = &source.path;
    let refuse =
        |message: String, hint: &'static str| Err(Error::new(ErrorKind::InvalidInput, message).hint(hint));
    let root = nix::sys::stat::stat(Path::new("/")).context(|| "stat(\"/\")")?;
    if (stat.st_dev, stat.st_ino) == (root.st_dev, root.st_ino) {
        return refuse(
            format!("{path:?} is the root of the machine"),
            "show the directories that are needed, or fork it: rootling run host:/",
        );
    }
    let kind = fstatfs(file).context(|| format!("fstatfs({path:?})"))?.filesystem_type();
    if kind == PROC_SUPER_MAGIC || kind == SYSFS_MAGIC {
        return refuse(
            format!("{path:?} is a view of the kernel's state"),
            "the box has its own /proc and /sys: see --pid host, --sysctl, --security-opt unmask=PATH",
        );
    }
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFCHR | libc::S_IFBLK => refuse(format!("{path:?} is a device"), "show it with --device"),
        libc::S_IFDIR => Ok(()),
        _ if source.is_layered() => refuse(
            format!("{path:?} is a file"),
            "changes to files are thrown away with the directory they are in: `O` takes one",
        ),
        _ => Ok(()),
    }
}

/// Maps the owners of sources as the tree's are, and gives the box its devices; returns, in the plan's order, what the child gets only now.
pub(super) fn map(plan: &Plan, sources: &[OwnedFd], owner: &MappedOwner<'_>) -> Result<Vec<OwnedFd>> {
    let mut late = Vec::new();
    for (source, mount) in plan.sources.iter().zip(sources) {
        let source = match source {
            Source::Path(source) => source,
            Source::Dev { devices } => {
                device::give(mount.as_fd(), owner.userns, (owner.uid, owner.gid), devices)?;
                continue;
            }
            Source::Device { .. } => continue,
        };
        let intent = || format!("show {:?} with its owners mapped", source.path);
        if let Some(tree) = source.tree.as_ref().filter(|_| source.comes_late()) {
            let mount = tree.open_mapped(Access::ReadWrite, owner).map_err(|error| refused(error, source));
            late.push(mount.and_then(|mount| part(mount, source)).context(intent)?);
        } else if source.comes_late() {
            let lower = kernel::duplicate(mount).context(|| format!("dup({})", mount.as_raw_fd()))?;
            late.push(
                mount::layer_over(lower, source.layer.as_deref(), Some(owner))
                    .map_err(|error| refused(error, source))
                    .context(intent)?,
            );
        } else if source.owners != Owners::Unmapped {
            map_one(source, mount, owner).context(intent)?;
        }
    }
    Ok(late)
}

fn map_one(source: &PathSource, mount: &OwnedFd, owner: &MappedOwner<'_>) -> Result<()> {
    match kernel::mount_idmap(mount.as_fd(), owner.userns, true) {
        Ok(()) => Ok(()),
        Err(errno) if source.owners == Owners::MappedIfPossible => {
            log::warn!(
                "files of {:?} are nobody's inside: its file system cannot map owners ({})",
                source.path,
                errno.desc()
            );
            Ok(())
        }
        Err(errno) => Err(refused(
            Error::call(format!("mount_setattr({:?}, MOUNT_ATTR_IDMAP)", source.path), errno),
            source,
        )),
    }
}

/// Not of kind `Unsupported`, which would start the box again with the host's users.
fn refused(error: Error, source: &PathSource) -> Error {
    let error = error.with_kind(ErrorKind::FailedPrecondition);
    if source.is_layered() || source.give.is_some() {
        error.hint("its file system cannot map owners, or something mounted in it cannot: use --userns host")
    } else {
        error.hint("its file system cannot map owners, or something mounted in it cannot: leave `idmap` out")
    }
}
