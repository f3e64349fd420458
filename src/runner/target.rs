//! *child*: mount points: found within the root, made where they are missing.
//!
//! The tree is hostile: any name on the way may be a link, or be swapped for one while we look. So a path is resolved by the
//! kernel within the root, to a descriptor that the mount then goes to; what is made is one name in an open directory at a time,
//! which no link can redirect. The caller gets a descriptor of each directory that something was made in, and of what was made:
//! by these two it is removed again, and by no path (see `stubs`).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{
    BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FsType, PROC_SUPER_MAGIC,
    SECURITYFS_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC, TRACEFS_MAGIC, fstatfs,
};

use super::plan::Part;
use super::report::{self, Kind};
use super::{stubs, sys};

type Result<T> = nix::Result<T>;
type Fd = BorrowedFd<'static>;

/// *child*: opens a path that the user named as a process inside would see it.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &std::ffi::CStr, flags: OFlag) -> Result<Fd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    for _ in 0..128 {
        // openat2(2): EAGAIN means that a rename or mount elsewhere raced with a `..`: try again.
        match nix::fcntl::openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other.map(sys::leave),
        }
    }
    Err(Errno::EAGAIN)
}

/// *child*: opens where a file is shown: what the path leads to, or the link itself where that leads nowhere.
pub(super) fn resolve_or_cover(root: BorrowedFd<'_>, path: &std::ffi::CStr) -> Result<Fd> {
    match resolve(root, path, OFlag::empty()) {
        Err(Errno::ENOENT) => resolve(root, path, OFlag::O_NOFOLLOW),
        other => other,
    }
}

/// *child*: opens a mount point, after making what is missing of its path, with a directory or a file at its end.
///
/// `op` is the step's number, for the reports. An `EEXIST` is a link that leads nowhere.
pub(super) fn make(
    root: BorrowedFd<'_>,
    parts: &[Part],
    directory: bool,
    report: BorrowedFd<'_>,
    op: usize,
) -> Result<Fd> {
    let last = parts.last().ok_or(Errno::ENOENT)?;
    let there = if directory {
        resolve(root, &last.path, OFlag::empty())
    } else {
        resolve_or_cover(root, &last.path)
    };
    match there {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let (mut parent, mut found) = (root, None);
    for (index, part) in parts.iter().enumerate() {
        let as_directory = directory || index + 1 < parts.len();
        let here = match resolve(root, &part.path, OFlag::empty()) {
            Err(Errno::ENOENT) => make_one(parent, part, as_directory, report, (op, index))?,
            other => other?,
        };
        (parent, found) = (here, Some(here));
    }
    found.ok_or(Errno::ENOENT)
}

fn make_one(
    parent: BorrowedFd<'_>,
    part: &Part,
    directory: bool,
    report: BorrowedFd<'_>,
    (op, index): (usize, usize),
) -> Result<Fd> {
    make_stub(parent, &part.name, directory, report, (op, index))
}

/// *child*: makes a mount point and tells the caller, who removes it.
pub(super) fn make_stub(
    parent: BorrowedFd<'_>,
    name: &CStr,
    directory: bool,
    report: BorrowedFd<'_>,
    (op, index): (usize, usize),
) -> Result<Fd> {
    let before = fstat(parent)?;
    if directory {
        nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
    } else {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(parent, name, flags, Mode::from_bits_truncate(0o644))?;
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = sys::leave(nix::fcntl::openat(parent, name, flags, Mode::empty())?);
    // Best effort: the directory is as it was but for the time.
    stubs::keep_time(parent, &before).unwrap_or_default();
    let part = i32::try_from(index).unwrap_or(i32::MAX);
    report::send(report, Kind::MadeIn, op, part, Some(parent));
    report::send(report, Kind::Made, op, part, Some(made));
    Ok(made)
}

/// *child*: refuses a mount point in the kernel's own file systems, where only a link in the tree can have led: what is mounted
/// there could stand in for what we read or write there ourselves.
pub(super) fn refuse_kernels(target: BorrowedFd<'_>, dev: BorrowedFd<'_>) -> Result<()> {
    const KERNELS: [FsType; 8] = [
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
        SECURITYFS_MAGIC,
        BPF_FS_MAGIC,
    ];
    let kind = fstatfs(target)?.filesystem_type();
    let in_dev = || Ok(kind == TMPFS_MAGIC && fstat(target)?.st_dev == fstat(dev)?.st_dev);
    if KERNELS.contains(&kind) || in_dev()? {
        return Err(Errno::EXDEV);
    }
    Ok(())
}

/// *child*: attaches a mount; what is a directory goes on a directory, and anything else on anything else.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    rootling_backends::sys::move_mount(mount.as_fd(), target).map_err(|errno| {
        let is_dir = |file| fstat(file).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        match (errno, is_dir(mount), is_dir(target)) {
            (Errno::EINVAL, true, false) => Errno::ENOTDIR,
            (Errno::EINVAL, false, true) => Errno::EISDIR,
            _ => errno,
        }
    })
}
