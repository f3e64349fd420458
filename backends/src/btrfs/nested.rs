//! Subvolumes inside a subvolume: a snapshot leaves an empty directory where each one was, so they are
//! snapshotted one by one into their places.
//!
//! They are found by asking the file system for the subvolumes that refer to this one as their parent: the cost follows their number, and
//! is one call where there are none. Their paths come from inside a tree and are opened beneath it, never as paths of the host.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::dir::{Dir, Times};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// A subvolume directly below another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nested {
    /// Its id.
    pub(super) id: u64,
    /// Where it lies in the other.
    pub(super) path: PathBuf,
}

/// Returns the subvolumes directly below the subvolume that `root` is the root of, sorted by path.
pub(super) fn children(root: &Dir) -> Result<Vec<Nested>> {
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        let (children, more) = sys::btrfs_child_subvolumes(root.as_fd(), from)
            .context(|| format!("ioctl({root}, BTRFS_IOC_GET_SUBVOL_ROOTREF)"))?;
        for &(id, containing) in &children {
            match sys::btrfs_child_path(root.as_fd(), id, containing) {
                Ok(path) => found.push(Nested { id, path: path.into() }),
                // Deleted between the two calls.
                Err(nix::errno::Errno::ENOENT) => {}
                Err(errno) => {
                    return Err(Error::call(
                        format!("ioctl({root}, BTRFS_IOC_INO_LOOKUP_USER, {id})"),
                        errno,
                    ));
                }
            }
        }
        match children.last() {
            Some(&(last, _)) if more => from = last + 1,
            _ => break,
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Opens a nested subvolume and makes sure that it is the one that was listed.
pub(super) fn open(root: &Dir, nested: &Nested) -> Result<Dir> {
    let dir = root.open_deep(&nested.path)?;
    let info = info(&dir)?;
    if info.id != nested.id {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("{dir} was subvolume {} and is now {}", nested.id, info.id),
        ));
    }
    Ok(dir)
}

pub(super) fn info(dir: &Dir) -> Result<sys::SubvolumeInfo> {
    sys::btrfs_subvolume_info(dir.as_fd()).context(|| format!("ioctl({dir}, BTRFS_IOC_GET_SUBVOL_INFO)"))
}

/// Makes a snapshot of `source`, nested subvolumes included, and returns how many subvolumes were made.
///
/// Each is one transaction, and durable when this returns; a kill in between leaves a snapshot with empty directories, writable.
/// Where `read_only` is false all of them are writable: which of the source's were not is not kept.
pub(super) fn snapshot(source: &Dir, parent: &Dir, name: &OsStr, read_only: bool) -> Result<u64> {
    let nested = children(source)?;
    let make_read_only = read_only && nested.is_empty();
    sys::btrfs_snapshot(source.as_fd(), parent.as_fd(), name, make_read_only)
        .context(|| format!("ioctl({parent}, BTRFS_IOC_SNAP_CREATE_V2, {source}, {name:?})"))?;
    if nested.is_empty() {
        return Ok(1);
    }
    let copy = parent.open_dir(name)?;
    let mut made = 1;
    for nested in &nested {
        made += fill_place(&open(source, nested)?, &copy, &nested.path, read_only)?;
    }
    if read_only {
        set_read_only(&copy)?;
    }
    Ok(made)
}

/// Puts a snapshot of `source` where the snapshot of what it lies in has an empty directory.
fn fill_place(source: &Dir, copy: &Dir, path: &Path, read_only: bool) -> Result<u64> {
    let Some(name) = path.file_name() else {
        return Err(Error::new(ErrorKind::Corrupt, format!("nested subvolume {source} has no name")));
    };
    let parent = copy.open_deep(path.parent().unwrap_or(Path::new("")))?;
    let times = Times::of(&parent.stat_self()?);
    match parent.remove_dir(name) {
        Ok(()) => {}
        // Made after the snapshot of its parent was: it is not part of that moment.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    }
    let made = snapshot(source, &parent, name, read_only)?;
    parent.set_times(".", times)?;
    Ok(made)
}

/// Makes what lies below a subvolume read-only, and then the subvolume. A second call does nothing.
pub(super) fn set_read_only_all(root: &Dir) -> Result<()> {
    for nested in children(root)? {
        set_read_only_all(&open(root, &nested)?)?;
    }
    set_read_only(root)
}

fn set_read_only(dir: &Dir) -> Result<()> {
    let flags = flags(dir)?;
    if flags & sys::BTRFS_SUBVOL_RDONLY != 0 {
        return Ok(());
    }
    sys::set_subvolume_flags(dir.as_fd(), flags | sys::BTRFS_SUBVOL_RDONLY)
        .context(|| format!("ioctl({dir}, BTRFS_IOC_SUBVOL_SETFLAGS, BTRFS_SUBVOL_RDONLY)"))
}

/// Makes a subvolume writable, and nothing in it.
pub(super) fn set_writable(dir: &Dir) -> Result<()> {
    let flags = flags(dir)?;
    sys::set_subvolume_flags(dir.as_fd(), flags & !sys::BTRFS_SUBVOL_RDONLY)
        .context(|| format!("ioctl({dir}, BTRFS_IOC_SUBVOL_SETFLAGS, 0)"))
}

fn flags(dir: &Dir) -> Result<u64> {
    sys::subvolume_flags(dir.as_fd()).context(|| format!("ioctl({dir}, BTRFS_IOC_SUBVOL_GETFLAGS)"))
}

/// Is the subvolume, with all inside it, read-only?
pub(super) fn is_read_only(root: &Dir) -> Result<bool> {
    for nested in children(root)? {
        if !is_read_only(&open(root, &nested)?)? {
            return Ok(false);
        }
    }
    Ok(flags(root)? & sys::BTRFS_SUBVOL_RDONLY != 0)
}
