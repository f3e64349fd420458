//! What mount(2) would be told, read: which directories a client means. Nothing is mounted here, and no tree is touched.
//!
//! | what containerd hands on | what is meant |
//! |---|---|
//! | no mount | nothing: a layer that stands on none is compared with that |
//! | one of type `bind` | a directory |
//! | one of type `overlay` | directories, one on the other; of one with an upper directory and no lower one, that alone: a layer that is to stand on others later |
//! | anything else | nothing that is known here: an error of kind `Unsupported`, at which containerd asks its next differ |

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rootling_backends::{Access, Dir, Error, ErrorKind, Mount, Overlay, Result, Upper};

use super::super::api::types;

/// A tree as its mounts tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) ground: Ground,
    pub(super) access: Access,
}

/// Where the content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ground {
    /// In a directory.
    Directory(PathBuf),
    /// In several.
    Overlay(Layers),
}

/// Directories, one on the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layers {
    /// Takes what is written.
    pub(super) upper: Option<PathBuf>,
    /// OverlayFS's scratch directory for that.
    pub(super) work: Option<PathBuf>,
    /// Those beneath, top first.
    pub(super) lowers: Vec<PathBuf>,
    /// Are OverlayFS's marks in `user.`?
    pub(super) userxattr: bool,
}

impl Shown {
    /// Reads mounts; none are `None`.
    pub(super) fn read(mounts: &[types::Mount]) -> Result<Option<Self>> {
        let mount = match mounts {
            [] => return Ok(None),
            [mount] => mount,
            _ => return Err(unsupported(format!("a tree of {} mounts", mounts.len()))),
        };
        if !matches!(mount.target.as_str(), "" | "/") {
            return Err(unsupported(format!("a mount at {:?} in a tree", mount.target)));
        }
        let is_read_only = mount.options.iter().any(|option| option == "ro");
        let access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
        let ground = match mount.r#type.as_str() {
            "bind" => Ground::Directory(absolute(Path::new(&mount.source))?),
            "overlay" => Ground::Overlay(Layers::read(&mount.options)?),
            other => return Err(unsupported(format!("a mount of type {other:?}"))),
        };
        Ok(Some(Self { ground, access }))
    }

    /// Returns all directories, top first.
    pub(super) fn layers(&self) -> Vec<PathBuf> {
        match &self.ground {
            Ground::Directory(path) => vec![path.clone()],
            Ground::Overlay(layers) => layers.upper.iter().chain(&layers.lowers).cloned().collect(),
        }
    }

    /// Returns the directory that takes what is written; `None` where there is none.
    pub(super) fn written(&self) -> Option<&Path> {
        match &self.ground {
            Ground::Directory(path) => Some(path),
            Ground::Overlay(layers) => layers.upper.as_deref(),
        }
    }

    /// Opens the tree for reading, by a mount that is nowhere attached where it takes one.
    pub(super) fn open(&self) -> Result<Dir> {
        let userxattr = matches!(&self.ground, Ground::Overlay(layers) if layers.userxattr);
        open_stack(self.layers(), userxattr)
    }
}

/// Opens directories, one on the other, for reading.
pub(super) fn open_stack(lowers: Vec<PathBuf>, userxattr: bool) -> Result<Dir> {
    match lowers.as_slice() {
        [only] => Dir::open(only),
        // What is mounted elsewhere with the first of them as its upper directory goes on: nothing is written here.
        _ => Mount::Overlay(Overlay { lowers, upper: None, volatile: false, userxattr }).open_root(),
    }
}

impl Layers {
    fn read(options: &[String]) -> Result<Self> {
        let mut layers = Self { upper: None, work: None, lowers: Vec::new(), userxattr: false };
        for option in options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match (key, value) {
                // Two colons begin layers of data alone, which are no part of the tree by their own names.
                ("lowerdir", value) if !value.contains("::") => {
                    layers.lowers = split(value).iter().map(|path| absolute(path)).collect::<Result<_>>()?
                }
                ("upperdir", value) => layers.upper = Some(one(value)?),
                ("workdir", value) => layers.work = Some(one(value)?),
                ("userxattr", "") => layers.userxattr = true,
                // What these say does not change which content is shown.
                ("ro" | "rw" | "volatile", "") | ("index" | "xino" | "nfs_export" | "uuid", _) => {}
                ("redirect_dir", "off" | "nofollow") | ("metacopy", "off") => {}
                _ => return Err(unsupported(format!("an overlay with the option {option:?}"))),
            }
        }
        if layers.upper.is_none() && layers.lowers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "an overlay of no directory was given"));
        }
        Ok(layers)
    }

    /// Returns how to show what may be written to; `None` where it is to stand on what is not known yet.
    pub(super) fn writable(&self) -> Option<Mount> {
        let (dir, work) = (self.upper.clone()?, self.work.clone()?);
        let upper = (!self.lowers.is_empty()).then_some(Upper { dir, work })?;
        let lowers = self.lowers.clone();
        Some(Mount::Overlay(Overlay {
            lowers,
            upper: Some(upper),
            volatile: false,
            userxattr: self.userxattr,
        }))
    }
}

/// Splits a list at its colons, and takes the backslashes away that keep others from being read as such (kernel source, fs/overlayfs/params.c:
/// `ovl_parse_param_split_lowerdirs`, `ovl_unescape`).
fn split(list: &str) -> Vec<PathBuf> {
    let (mut paths, mut path) = (Vec::new(), Vec::new());
    let mut bytes = list.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => path.extend(bytes.next()),
            b':' => paths.push(std::mem::take(&mut path)),
            other => path.push(other),
        }
    }
    paths.push(path);
    paths.into_iter().map(|path| PathBuf::from(OsString::from_vec(path))).collect()
}

/// Reads what is one path: a colon in it is one.
fn one(text: &str) -> Result<PathBuf> {
    let mut bytes = text.bytes();
    let mut path = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        path.extend(if byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    absolute(Path::new(&OsString::from_vec(path)))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("{path:?} is no absolute path")))
}

fn unsupported(what: String) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not understood here"))
        .hint("let containerd ask another differ, too: `default = [\"rootling-diff\", \"walking\"]`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> types::Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        types::Mount { r#type: kind.to_owned(), source: source.to_owned(), target: String::new(), options }
    }

    fn read(mount: types::Mount) -> Result<Shown> {
        Shown::read(&[mount]).map(|shown| shown.expect("there is one"))
    }

    #[test]
    fn directories_and_what_may_be_done_to_them_are_read() {
        assert_eq!(Shown::read(&[]).unwrap(), None);
        let shown = read(mount("bind", "/s/o/a/fs", &["rbind", "ro"])).unwrap();
        assert_eq!(shown, Shown { ground: Ground::Directory("/s/o/a/fs".into()), access: Access::ReadOnly });
        assert_eq!(read(mount("bind", "/a:b", &["rbind"])).unwrap().layers(), [Path::new("/a:b")]);
    }

    #[test]
    fn overlays_are_read_with_all_that_is_escaped() {
        let options = ["index=off", "workdir=/w", "upperdir=/u\\:1:2", "lowerdir=/a\\:b:/c\\\\:/d"];
        let shown = read(mount("overlay", "overlay", &options)).unwrap();
        assert_eq!(shown.access, Access::ReadWrite);
        assert_eq!(shown.layers(), ["/u:1:2", "/a:b", "/c\\", "/d"].map(Path::new));
        let Ground::Overlay(layers) = shown.ground else { panic!() };
        assert!(!layers.userxattr && layers.writable().is_some());
    }

    #[test]
    fn an_upper_directory_alone_is_one_that_is_to_stand_on_others() {
        let shown = read(mount("overlay", "overlay", &["rw", "upperdir=/u"])).unwrap();
        let Ground::Overlay(layers) = &shown.ground else { panic!() };
        assert_eq!((layers.writable(), shown.layers()), (None, vec![PathBuf::from("/u")]));
    }

    #[test]
    fn what_is_not_understood_is_left_to_others() {
        let overlay = |option| mount("overlay", "overlay", &["lowerdir=/a:/b", option]);
        for (mounts, kind) in [
            (vec![mount("btrfs", "/dev/x", &["subvol=1"])], ErrorKind::Unsupported),
            (vec![mount("bind", "/a", &[]), mount("bind", "/b", &[])], ErrorKind::Unsupported),
            (
                vec![types::Mount { target: "below".to_owned(), ..mount("bind", "/a", &[]) }],
                ErrorKind::Unsupported,
            ),
            (vec![overlay("redirect_dir=on")], ErrorKind::Unsupported),
            (vec![overlay("metacopy=on")], ErrorKind::Unsupported),
            (vec![overlay("lowerdir=/a::/data")], ErrorKind::Unsupported),
            (vec![overlay("uidmap=0:1000:1")], ErrorKind::Unsupported),
            (vec![mount("overlay", "overlay", &["ro"])], ErrorKind::InvalidInput),
            (vec![mount("overlay", "overlay", &["lowerdir=a:/b"])], ErrorKind::InvalidInput),
            (vec![mount("bind", "a", &[])], ErrorKind::InvalidInput),
        ] {
            assert_eq!(Shown::read(&mounts).unwrap_err().kind(), kind, "{mounts:?}");
        }
    }
}
