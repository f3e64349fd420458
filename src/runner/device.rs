//! Devices of the host for a box: opened or made by the caller, who may, for a child that may not.
//!
//! A device's node says who may open it, and on the host that is nobody of a box with users of its own. Such a box gets
//! a `/dev` with nodes of its own, made here in a file system that nobody else sees; the box cannot make more. Elsewhere the host's
//! nodes are shown one by one, in a file system where a node that is made is dead.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat};
use rootling_backends::{Context, Error, ErrorKind, Result, sys as kernel};

use super::plan::DEVICES;
use super::spec::Device;

/// Returns a detached mount of the host's device at `path`.
pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    let (file, _) = find(path)?;
    kernel::open_tree_clone(file.as_fd(), c"", false)
        .context(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))
        .context(|| format!("show device {path:?}"))
}

fn find(path: &Path) -> Result<(OwnedFd, FileStat)> {
    let intent = || format!("show device {path:?}");
    let file = nix::fcntl::openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let file = file.context(|| format!("open({path:?}, O_PATH)")).context(intent)?;
    let stat = fstat(&file).context(|| format!("fstat({path:?})")).context(intent)?;
    if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
        let error = Error::new(ErrorKind::InvalidInput, format!("{path:?} is no device"));
        return Err(error.hint("show files and directories with -v"));
    }
    Ok((file, stat))
}

/// Returns a detached `/dev` with the usual nodes and those asked for; [`give`] gives it to its box.
pub(super) fn make(devices: &[Device], options: &[(&std::ffi::CStr, &std::ffi::CStr)]) -> Result<OwnedFd> {
    let context = kernel::fsopen(c"tmpfs").context(|| "fsopen(\"tmpfs\")")?;
    for (key, value) in options {
        kernel::fsconfig_string(context.as_fd(), key, value)
            .context(|| format!("fsconfig(tmpfs, {key:?}, {value:?})"))?;
    }
    kernel::fsconfig_create(context.as_fd()).context(|| "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)")?;
    let attributes = kernel::MOUNT_ATTR_NOSUID | kernel::MOUNT_ATTR_NOEXEC;
    let dev = kernel::fsmount(context.as_fd(), attributes).context(|| "fsmount(tmpfs)")?;
    for (name, major, minor) in DEVICES {
        node(&dev, Path::new(name), SFlag::S_IFCHR, 0o666, libc::makedev(major, minor))?;
    }
    for device in devices {
        let (_, stat) = find(&device.source)?;
        let below = below_dev(device);
        for parent in parents(below) {
            match mkdirat(&dev, parent, Mode::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) => {}
                made => made.context(|| format!("mkdirat(/dev, {parent:?})"))?,
            }
        }
        let kind = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
        node(&dev, below, kind, 0o660, stat.st_rdev)?;
    }
    Ok(dev)
}

fn node(dev: &OwnedFd, path: &Path, kind: SFlag, mode: u32, number: libc::dev_t) -> Result<()> {
    let call = || format!("mknodat(/dev, {path:?})");
    mknodat(dev, path, kind, Mode::from_bits_truncate(mode), number).context(call)
}

/// The path in `/dev`; that it is below was checked when the plan was made.
fn below_dev(device: &Device) -> &Path {
    device.target.strip_prefix("/dev").unwrap_or(&device.target)
}

/// The directories above, the outermost first.
pub(super) fn parents(path: &Path) -> Vec<&Path> {
    let mut parents: Vec<_> = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    parents.reverse();
    parents
}

/// Makes what [`make`] made the property of the box's root: by a map, where tmpfs has them (Linux 6.3), else one by one.
pub(super) fn give(
    dev: BorrowedFd<'_>,
    userns: BorrowedFd<'_>,
    owner: (u32, u32),
    devices: &[Device],
) -> Result<()> {
    match kernel::mount_idmap(dev, userns, false) {
        Err(Errno::EINVAL) => {}
        mapped => return mapped.context(|| "mount_setattr(/dev, MOUNT_ATTR_IDMAP)"),
    }
    let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
    let usual = DEVICES.iter().map(|(name, ..)| Path::new(*name));
    let asked = devices.iter().map(below_dev);
    for path in usual.chain(asked.clone()).chain(asked.flat_map(parents)).chain([Path::new(".")]) {
        fchownat(dev, path, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            .context(|| format!("fchownat(/dev, {path:?}, {owner:?})"))?;
    }
    Ok(())
}
