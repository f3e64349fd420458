//! Devices of the host for a box: opened by the caller, who may, for a child that may not.
//!
//! A device's node says who may open it, and on the host that is nobody of a box with users of its own. For such a box a
//! node of the same numbers is made in a file system that only the box sees, owned by the box's root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mknodat};
use nix::unistd::{Gid, Uid, fchownat};
use rootling_backends::{Context, Error, ErrorKind, Result, sys as kernel};

const NAME: &std::ffi::CStr = c"device";

/// Returns a detached mount of the device at `path`; with `owner`, of a node of its own that belongs to that user and group.
pub(super) fn open(path: &Path, owner: Option<(u32, u32)>) -> Result<OwnedFd> {
    let intent = || format!("show device {path:?}");
    let file = nix::fcntl::openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let file = file.context(|| format!("open({path:?}, O_PATH)")).context(intent)?;
    let stat = fstat(&file).context(|| format!("fstat({path:?})")).context(intent)?;
    if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
        let error = Error::new(ErrorKind::InvalidInput, format!("{path:?} is no device"));
        return Err(error.hint("show files and directories with -v"));
    }
    match owner {
        Some(owner) => make(&stat, owner).context(intent),
        None => kernel::open_tree_clone(file.as_fd(), c"", false)
            .context(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))
            .context(intent),
    }
}

fn make(like: &FileStat, (uid, gid): (u32, u32)) -> Result<OwnedFd> {
    let context = kernel::fsopen(c"tmpfs").context(|| "fsopen(\"tmpfs\")")?;
    kernel::fsconfig_create(context.as_fd()).context(|| "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)")?;
    let mount = kernel::fsmount(context.as_fd(), kernel::MOUNT_ATTR_NOEXEC).context(|| "fsmount(tmpfs)")?;
    let kind = SFlag::from_bits_truncate(like.st_mode & libc::S_IFMT);
    mknodat(&mount, NAME, kind, Mode::from_bits_truncate(0o660), like.st_rdev)
        .context(|| "mknodat(tmpfs)")?;
    fchownat(&mount, NAME, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)
        .context(|| format!("fchownat(device, {uid}, {gid})"))?;
    kernel::open_tree_clone(mount.as_fd(), NAME, false).map_err(|errno| {
        let error = Error::call("open_tree(tmpfs, OPEN_TREE_CLONE)", errno);
        error.hint("before Linux 6.15 a clone cannot be taken of what is detached: use --userns host")
    })
}
