//! What OverlayFS writes on disk beside the content: whiteouts, opaque directories, and where it does so.
//!
//! | mark | means |
//! |---|---|
//! | character device 0:0 | the name is deleted |
//! | `overlay.opaque` = `y` on a directory | nothing of the layers beneath shows in it |
//! | `overlay.opaque` = `x` on a directory | it holds whiteouts of the next form |
//! | `overlay.whiteout` on an empty file | the name is deleted |
//! | `overlay.metacopy`, `overlay.redirect` | the content is elsewhere: our mounts never write them |
//!
//! The attributes are in `trusted.` or, for mounts with `userxattr`, in `user.`
//! (kernel documentation, filesystems/overlayfs.rst).

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::dir::{Dir, EntryType};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// How the marks are spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    opaque: OsString,
    whiteout: OsString,
    redirect: OsString,
}

/// What a directory's `overlay.opaque` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opacity {
    /// It is merged with the directories beneath.
    None,
    /// Nothing beneath shows.
    Opaque,
    /// It is merged, and empty files in it may be whiteouts.
    HasXattrWhiteouts,
}

impl Marks {
    /// Returns the spelling in `user.` or in `trusted.`.
    pub fn new(userxattr: bool) -> Self {
        let prefix = if userxattr { "user.overlay." } else { "trusted.overlay." };
        let name = |mark: &str| OsString::from(format!("{prefix}{mark}"));
        Self { opaque: name("opaque"), whiteout: name("whiteout"), redirect: name("redirect") }
    }

    /// Reads a directory's mark. A redirected directory is refused: its content is under another name.
    pub fn opacity(&self, dir: &Dir) -> Result<Opacity> {
        if get(dir, &self.redirect)?.is_some() {
            return Err(foreign(format!("{dir} was renamed with redirect_dir")));
        }
        Ok(match get(dir, &self.opaque)?.as_deref() {
            Some(b"y") => Opacity::Opaque,
            Some(b"x") => Opacity::HasXattrWhiteouts,
            _ => Opacity::None,
        })
    }

    /// Makes a directory hide all that is beneath it.
    pub fn make_opaque(&self, dir: &Dir) -> Result<()> {
        sys::fsetxattr(dir.as_fd(), &self.opaque, b"y")
            .context(|| format!("fsetxattr({dir}, {:?}, \"y\")", self.opaque))
    }

    /// Deletes `name` in `dir` of the layer whose root is `root`: with a device or, where the file system takes none, with the
    /// attributes that Linux 6.8 and later understand. For layers that are to lie beneath others only.
    pub fn hide(&self, root: &Dir, dir: &Dir, name: &OsStr) -> Result<()> {
        match make_whiteout(dir, name) {
            Err(error)
                if matches!(error.errno(), Some(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS))
                    && crate::overlay::kernel_is_at_least((6, 8)) =>
            {
                self.hide_by_xattr(root, dir, name)
            }
            other => other,
        }
    }

    fn hide_by_xattr(&self, root: &Dir, dir: &Dir, name: &OsStr) -> Result<()> {
        dir.create_file(name, 0o600)?;
        sys::lsetxattr(dir.as_fd(), name, &self.whiteout, b"")
            .context(|| format!("lsetxattr({dir}, {name:?}, {:?}, \"\")", self.whiteout))?;
        for marked in [dir, root] {
            if get(marked, &self.opaque)?.is_none() {
                sys::fsetxattr(marked.as_fd(), &self.opaque, b"x")
                    .context(|| format!("fsetxattr({marked}, {:?}, \"x\")", self.opaque))?;
            }
        }
        Ok(())
    }

    /// Is this entry a whiteout? `opacity` is its directory's.
    pub fn is_whiteout(&self, dir: &Dir, name: &OsStr, kind: EntryType, opacity: Opacity) -> Result<bool> {
        match kind {
            EntryType::CharDevice => Ok(dir.stat(name)?.st_rdev == 0),
            EntryType::File if opacity == Opacity::HasXattrWhiteouts => self.has(dir, name, &self.whiteout),
            _ => Ok(false),
        }
    }

    fn has(&self, dir: &Dir, name: &OsStr, attribute: &OsStr) -> Result<bool> {
        match sys::lgetxattr(dir.as_fd(), name, attribute) {
            Ok(_) => Ok(true),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
            Err(errno) => Err(Error::call(format!("lgetxattr({dir}, {name:?}, {attribute:?})"), errno)),
        }
    }
}

fn foreign(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, message)
        .hint("write layers with redirect_dir=nofollow and metacopy=off")
}

fn get(dir: &Dir, attribute: &OsStr) -> Result<Option<Vec<u8>>> {
    match sys::fgetxattr(dir.as_fd(), attribute) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(Error::call(format!("fgetxattr({dir}, {attribute:?})"), errno)),
    }
}

/// Makes a whiteout.
pub fn make_whiteout(dir: &Dir, name: &OsStr) -> Result<()> {
    dir.make_node(name, libc::S_IFCHR, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Mount, Overlay};

    #[test]
    fn both_forms_of_whiteouts_hide_what_lies_beneath() {
        if !nix::unistd::geteuid().is_root() || !crate::overlay::kernel_is_at_least((6, 8)) {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let [lower, upper] = ["lower", "upper"].map(|name| {
            root.make_dir(name, 0o755).unwrap();
            let layer = root.open_dir(name).unwrap();
            layer.make_dir("d", 0o755).unwrap();
            layer
        });
        let below = lower.open_dir("d").unwrap();
        for name in ["by-device", "by-xattr", "kept"] {
            below.create_file(name, 0o644).unwrap();
        }
        let (marks, dir) = (Marks::new(true), upper.open_dir("d").unwrap());
        marks.hide(&upper, &dir, OsStr::new("by-device")).unwrap();
        marks.hide_by_xattr(&upper, &dir, OsStr::new("by-xattr")).unwrap();

        let lowers = ["upper", "lower"].map(|name| temp.path().join(name)).to_vec();
        let overlay = Overlay { lowers, upper: None, volatile: false, userxattr: true };
        let shown = Mount::Overlay(overlay).open_root().unwrap().open_dir("d").unwrap();

        let names: Vec<_> = shown.entries().unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["kept"]);
        assert!(shown.stat_if_exists("by-xattr").unwrap().is_none());
    }
}
