//! System calls that nix lacks: the only unsafe file of this crate.
//!
//! Wrappers borrow descriptors and return owned ones, set close-on-exec, never follow a final symbolic
//! link, retry `EINTR`, and return a bare errno: the caller knows the object and adds the call.

#![expect(unsafe_code, reason = "this file is the fence around it")]

use std::ffi::{CStr, CString, OsStr, OsString, c_int, c_uint, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;

type Result<T> = nix::Result<T>;

fn check(returned: c_int) -> Result<c_int> {
    Errno::result(returned)
}

fn check_long(returned: libc::c_long) -> Result<libc::c_long> {
    Errno::result(returned)
}

/// Turns the number a successful system call returned into its owner.
fn own(raw: libc::c_long) -> OwnedFd {
    let raw = RawFd::try_from(raw).expect("the kernel returns descriptors as int");
    // SAFETY: the kernel just returned this descriptor to us, and nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

// ---------------------------------------------------------------- directories

/// Fills `buffer` with `linux_dirent64` records and returns how many bytes are valid; 0 at the end.
pub fn getdents64(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into a buffer that outlives the call.
    let read = check_long(unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    })?;
    Ok(usize::try_from(read).expect("a successful getdents64 returns a length"))
}

/// Clears the process's file mode creation mask and returns the old one.
pub fn clear_umask() -> libc::mode_t {
    // SAFETY: umask cannot fail and touches no memory.
    unsafe { libc::umask(0) }
}

// ---------------------------------------------------------------- loop devices (linux/loop.h)

/// Returns the number of a loop device that is free at the moment; `control` is `/dev/loop-control`.
pub fn loop_free(control: BorrowedFd<'_>) -> Result<c_int> {
    // #define LOOP_CTL_GET_FREE 0x4C82
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })
}

/// Makes a free loop device (Linux 5.8) show `file`, read-only, until nobody has the device open and nothing on it is mounted.
pub fn loop_show(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<()> {
    // #define LOOP_CONFIGURE 0x4C0A
    const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
    const LO_FLAGS_READ_ONLY: u32 = 1;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    // struct loop_config { u32 fd; u32 block_size; struct loop_info64 info; u64 reserved[8]; }, and
    // struct loop_info64 { u64 device, inode, rdevice, offset, sizelimit; u32 number, encrypt_type, encrypt_key_size, flags;
    // u8 file_name[64], crypt_name[64], encrypt_key[32]; u64 init[2]; }.
    const FLAGS: usize = 8 + 5 * 8 + 3 * 4;
    let mut config = [0_u64; (8 + 232 + 64) / 8];
    let (low, high) = if cfg!(target_endian = "little") { (0, 32) } else { (32, 0) };
    config[0] = u64::from(file.as_raw_fd().cast_unsigned()) << low;
    config[FLAGS / 8] = u64::from(LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR) << high;
    // SAFETY: the kernel reads one loop_config out of an array of its size that outlives the call; both files are open.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config.as_ptr()) }).map(drop)
}

// ---------------------------------------------------------------- clones and flags

// #define FICLONE _IOW(0x94, 9, int)  (linux/fs.h)
const FICLONE: libc::Ioctl = 0x4004_9409;
// #define FS_IOC_GETFLAGS _IOR('f', 1, long)  (linux/fs.h; the kernel reads and writes an int)
const FS_IOC_GETFLAGS: libc::Ioctl = 0x8008_6601;
// #define FS_IOC_SETFLAGS _IOW('f', 2, long)  (linux/fs.h)
const FS_IOC_SETFLAGS: libc::Ioctl = 0x4008_6602;

/// `FS_IMMUTABLE_FL`: the inode can neither change nor go.
pub const FS_IMMUTABLE_FL: c_int = 0x10;
/// `FS_APPEND_FL`: the inode can only grow.
pub const FS_APPEND_FL: c_int = 0x20;
/// `FS_NOCOW_FL`: btrfs writes this file in place.
pub const FS_NOCOW_FL: c_int = 0x0080_0000;

/// Makes `target` share all extents of `source`.
pub fn ficlone(target: BorrowedFd<'_>, source: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: FICLONE takes a descriptor by value; both are open for the whole call.
    retry(|| check(unsafe { libc::ioctl(target.as_raw_fd(), FICLONE, source.as_raw_fd()) })).map(drop)
}

/// Copies up to `length` bytes at `offset` of `source` to the same place in `target`, in the kernel; 0 at the end.
pub fn copy_file_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    offset: i64,
    length: usize,
) -> Result<usize> {
    let (mut from, mut to) = (offset, offset);
    // SAFETY: both offsets are live for the whole call; the rest are integers.
    let copied = Errno::result(unsafe {
        libc::copy_file_range(source.as_raw_fd(), &raw mut from, target.as_raw_fd(), &raw mut to, length, 0)
    })?;
    Ok(usize::try_from(copied).expect("success is not negative"))
}

/// Fills `bytes`, 256 at the most, with random bits (getrandom(2)); waits only right after boot.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    let filled = retry(|| {
        let (buffer, length) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the kernel writes at most `length` bytes into a buffer that outlives the call.
        check_long(unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, 0) })
    })?;
    if usize::try_from(filled) == Ok(bytes.len()) { Ok(()) } else { Err(Errno::EIO) }
}

/// Returns a clock's time: seconds and nanoseconds.
pub fn clock(id: libc::clockid_t) -> Result<(i64, i64)> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec into a live one.
    check(unsafe { libc::clock_gettime(id, &raw mut time) })?;
    Ok((time.tv_sec, time.tv_nsec))
}

// #define BTRFS_IOC_SUBVOL_GETFLAGS _IOR(0x94, 25, __u64)  (linux/btrfs.h)
const BTRFS_IOC_SUBVOL_GETFLAGS: libc::Ioctl = 0x8008_9419;
// #define BTRFS_IOC_SUBVOL_SETFLAGS _IOW(0x94, 26, __u64)  (linux/btrfs.h)
const BTRFS_IOC_SUBVOL_SETFLAGS: libc::Ioctl = 0x4008_941a;
// #define BTRFS_IOC_SNAP_DESTROY _IOW(0x94, 15, struct btrfs_ioctl_vol_args)  (linux/btrfs.h; the struct has 4096 bytes)
const BTRFS_IOC_SNAP_DESTROY: libc::Ioctl = 0x5000_940f;

/// `BTRFS_SUBVOL_RDONLY`.
pub const BTRFS_SUBVOL_RDONLY: u64 = 2;

/// Returns the flags (`BTRFS_SUBVOL_*`) of the subvolume whose root is open.
pub fn subvolume_flags(root: BorrowedFd<'_>) -> Result<u64> {
    let mut flags = 0_u64;
    // SAFETY: the kernel writes one u64 into a live one.
    check(unsafe { libc::ioctl(root.as_raw_fd(), BTRFS_IOC_SUBVOL_GETFLAGS, &raw mut flags) })?;
    Ok(flags)
}

/// Replaces the flags (`BTRFS_SUBVOL_*`) of the subvolume whose root is open.
pub fn set_subvolume_flags(root: BorrowedFd<'_>, flags: u64) -> Result<()> {
    // SAFETY: the kernel reads one u64 out of a live one.
    check(unsafe { libc::ioctl(root.as_raw_fd(), BTRFS_IOC_SUBVOL_SETFLAGS, &raw const flags) }).map(drop)
}

/// struct btrfs_ioctl_vol_args (linux/btrfs.h).
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// Destroys the subvolume that `name` in `parent` is, with all files in it but not the subvolumes below it.
pub fn destroy_subvolume(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let mut arguments = VolArgs { fd: 0, name: [0; 4088] };
    let bytes = name.as_bytes();
    if bytes.len() >= arguments.name.len() || bytes.contains(&0) {
        return Err(Errno::EINVAL);
    }
    arguments.name[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: the kernel reads one struct btrfs_ioctl_vol_args, NUL-terminated name included, out of a live one.
    check(unsafe { libc::ioctl(parent.as_raw_fd(), BTRFS_IOC_SNAP_DESTROY, &raw const arguments) }).map(drop)
}

/// Returns the inode flags (`FS_*_FL`) of an open file or directory.
pub fn inode_flags(file: BorrowedFd<'_>) -> Result<c_int> {
    let mut flags: [c_int; 2] = [0; 2];
    // SAFETY: the kernel writes one int; the buffer has room for the long the request's size names.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, flags.as_mut_ptr()) })?;
    Ok(flags[0])
}

/// Replaces the inode flags (`FS_*_FL`) of an open file or directory.
pub fn set_inode_flags(file: BorrowedFd<'_>, flags: c_int) -> Result<()> {
    let value: [c_int; 2] = [flags, 0];
    // SAFETY: the kernel reads one int out of a buffer that outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SETFLAGS, value.as_ptr()) }).map(drop)
}

// ---------------------------------------------------------------- where data lies (linux/fiemap.h)

/// `FIEMAP_EXTENT_LAST`: no extent of the file lies behind it.
pub const FIEMAP_EXTENT_LAST: u32 = 1;
/// `FIEMAP_EXTENT_UNKNOWN`, `_DELALLOC`, `_DATA_INLINE` and `_DATA_TAIL`: the address says nothing, or not of whole blocks.
pub const FIEMAP_EXTENT_NO_ADDRESS: u32 = 0x2 | 0x4 | 0x200 | 0x400;
/// `FIEMAP_EXTENT_SHARED`: another file, or another place of this one, holds it too.
pub const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

/// A piece of a file and where it lies: the part of `struct fiemap_extent` that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedExtent {
    /// Where it begins in the file.
    pub logical: u64,
    /// Where it begins on the device.
    pub physical: u64,
    /// Its bytes.
    pub length: u64,
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
}

/// Returns the first extents of a file from a place on, as many as `buffer` has room for; none at the end.
///
/// Data that is not written out yet has no address. `EOPNOTSUPP` where the file system has none to tell.
pub fn fiemap(file: BorrowedFd<'_>, from: u64, buffer: &mut [u8]) -> Result<Vec<MappedExtent>> {
    // struct fiemap { u64 fm_start; u64 fm_length; u32 fm_flags; u32 fm_mapped_extents; u32 fm_extent_count; u32 fm_reserved;
    // struct fiemap_extent { u64 fe_logical; u64 fe_physical; u64 fe_length; u64 fe_reserved64[2]; u32 fe_flags;
    // u32 fe_reserved[3]; } fm_extents[]; }
    const HEADER: usize = 32;
    const EXTENT: usize = 56;
    // #define FS_IOC_FIEMAP _IOWR('f', 11, struct fiemap)  (linux/fs.h)
    const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
    let room = u32::try_from(buffer.len().saturating_sub(HEADER) / EXTENT).unwrap_or(u32::MAX);
    assert!(room > 0, "room for the header and an extent");
    buffer[..HEADER].fill(0);
    buffer[..8].copy_from_slice(&from.to_ne_bytes());
    buffer[8..16].copy_from_slice(&(u64::MAX - from).to_ne_bytes());
    buffer[24..28].copy_from_slice(&room.to_ne_bytes());
    // SAFETY: the kernel reads the header and writes at most `fm_extent_count` extents behind it, all inside `buffer`.
    retry(|| check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, buffer.as_mut_ptr()) }))?;
    let long = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().expect("eight bytes"));
    let word = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
    let found = (0..word(20).min(room) as usize).map(|index| HEADER + index * EXTENT);
    let extent = |at: usize| MappedExtent {
        logical: long(at),
        physical: long(at + 8),
        length: long(at + 16),
        flags: word(at + 40),
    };
    Ok(found.map(extent).collect())
}

// ---------------------------------------------------------------- extended attributes

/// Repeats a size-then-fill call until the value fits.
fn fill(mut call: impl FnMut(*mut c_void, usize) -> isize) -> Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 256];
    loop {
        match Errno::result(call(buffer.as_mut_ptr().cast(), buffer.len())) {
            Ok(length) => {
                buffer.truncate(usize::try_from(length).expect("success is not negative"));
                return Ok(buffer);
            }
            // XATTR_SIZE_MAX and XATTR_LIST_MAX are both 64 KiB (linux/limits.h).
            Err(Errno::ERANGE) if buffer.len() < 65536 => buffer = vec![0; 65536],
            Err(errno) => return Err(errno),
        }
    }
}

fn split_names(list: &[u8]) -> Vec<OsString> {
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Returns the names of a file's extended attributes.
pub fn flistxattr(file: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    // SAFETY: `fill` passes a writable buffer and its length.
    fill(|buffer, size| unsafe { libc::flistxattr(file.as_raw_fd(), buffer.cast(), size) })
        .map(|list| split_names(&list))
}

/// Returns the value of an extended attribute.
pub fn fgetxattr(file: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<u8>> {
    let name = c_string(name)?;
    // SAFETY: `name` is NUL-terminated; `fill` passes a writable buffer and its length.
    fill(|buffer, size| unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer, size) })
}

/// Sets an extended attribute.
pub fn fsetxattr(file: BorrowedFd<'_>, name: &OsStr, value: &[u8]) -> Result<()> {
    let name = c_string(name)?;
    // SAFETY: `name` is NUL-terminated and `value` is readable for its length.
    check(unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
        .map(drop)
}

/// Removes an extended attribute.
pub fn fremovexattr(file: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let name = c_string(name)?;
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// Returns the path by which the l*xattr calls reach `name` in `dir` without following it.
fn below(dir: BorrowedFd<'_>, name: &OsStr) -> Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    CString::new(path).map_err(|_| Errno::EINVAL)
}

/// Returns the names of the extended attributes of an entry that cannot be opened (link, device, socket).
pub fn llistxattr(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<OsString>> {
    let path = below(dir, name)?;
    // SAFETY: `path` is NUL-terminated; `fill` passes a writable buffer and its length.
    fill(|buffer, size| unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), size) })
        .map(|list| split_names(&list))
}

/// Returns an extended attribute of an entry that cannot be opened.
pub fn lgetxattr(dir: BorrowedFd<'_>, name: &OsStr, attribute: &OsStr) -> Result<Vec<u8>> {
    let path = below(dir, name)?;
    let attribute = c_string(attribute)?;
    // SAFETY: both strings are NUL-terminated; `fill` passes a writable buffer and its length.
    fill(|buffer, size| unsafe { libc::lgetxattr(path.as_ptr(), attribute.as_ptr(), buffer, size) })
}

/// Sets an extended attribute of an entry that cannot be opened.
pub fn lsetxattr(dir: BorrowedFd<'_>, name: &OsStr, attribute: &OsStr, value: &[u8]) -> Result<()> {
    let path = below(dir, name)?;
    let attribute = c_string(attribute)?;
    // SAFETY: both strings are NUL-terminated and `value` is readable for its length.
    check(unsafe {
        libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    })
    .map(drop)
}

/// Removes an extended attribute of an entry that cannot be opened.
pub fn lremovexattr(dir: BorrowedFd<'_>, name: &OsStr, attribute: &OsStr) -> Result<()> {
    let path = below(dir, name)?;
    let attribute = c_string(attribute)?;
    // SAFETY: both strings are NUL-terminated.
    check(unsafe { libc::lremovexattr(path.as_ptr(), attribute.as_ptr()) }).map(drop)
}

// ---------------------------------------------------------------- mounts as descriptors (linux/mount.h)

/// Opens a configuration context for a new instance of a file system.
pub fn fsopen(file_system: &CStr) -> Result<OwnedFd> {
    const FSOPEN_CLOEXEC: c_uint = 1;
    // SAFETY: the name is NUL-terminated.
    check_long(unsafe { libc::syscall(libc::SYS_fsopen, file_system.as_ptr(), FSOPEN_CLOEXEC) }).map(own)
}

const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_SET_FD: c_uint = 5;
const FSCONFIG_CMD_CREATE: c_uint = 6;

fn fsconfig(
    context: BorrowedFd<'_>,
    command: c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
    aux: c_int,
) -> Result<()> {
    let key = key.map_or(std::ptr::null(), CStr::as_ptr);
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null where the command takes none, else NUL-terminated and outlives the call.
    check_long(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, aux) })
        .map(drop)
}

/// Sets a file system option that has no value.
pub fn fsconfig_flag(context: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    fsconfig(context, FSCONFIG_SET_FLAG, Some(key), None, 0)
}

/// Sets a file system option; the kernel takes values of up to 255 bytes.
pub fn fsconfig_string(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    fsconfig(context, FSCONFIG_SET_STRING, Some(key), Some(value), 0)
}

/// Sets a file system option to an open file (OverlayFS layers: since Linux 6.13).
pub fn fsconfig_fd(context: BorrowedFd<'_>, key: &CStr, value: BorrowedFd<'_>) -> Result<()> {
    fsconfig(context, FSCONFIG_SET_FD, Some(key), None, value.as_raw_fd())
}

/// Makes the super block.
pub fn fsconfig_create(context: BorrowedFd<'_>) -> Result<()> {
    fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0)
}

/// Returns a detached mount of a made super block; `attributes` are `MOUNT_ATTR_*`.
pub fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: c_uint = 1;
    // SAFETY: all arguments are integers.
    check_long(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
        .map(own)
}

/// Returns what the kernel logged about a file system context: the reason behind a bare `EINVAL`.
pub fn fs_context_log(context: BorrowedFd<'_>) -> String {
    let mut text = String::new();
    let mut buffer = [0_u8; 1024];
    while let Ok(read) = nix::unistd::read(context, &mut buffer) {
        if read == 0 {
            break;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(String::from_utf8_lossy(&buffer[..read]).trim());
    }
    text
}

/// Returns a detached clone of the mount at `path`: only that mount, or with those below it.
pub fn open_tree_clone(at: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    const AT_RECURSIVE: c_uint = 0x8000;
    let flags = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    open_tree(at, path, if recursive { flags | AT_RECURSIVE } else { flags })
}

/// Returns a detached clone of the mount at `path`, a path of ours, which may end in a symbolic link.
pub fn open_tree_clone_following(path: &CStr) -> Result<OwnedFd> {
    open_tree(nix::fcntl::AT_FDCWD, path, 0)
}

fn open_tree(at: BorrowedFd<'_>, path: &CStr, flags: c_uint) -> Result<OwnedFd> {
    const OPEN_TREE_CLONE: c_uint = 1;
    let flags = flags | OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is NUL-terminated.
    check_long(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), path.as_ptr(), flags) }).map(own)
}

/// Attaches a detached mount at `name` in `at`; a symbolic link there is not followed.
pub fn move_mount_to(mount: BorrowedFd<'_>, at: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
    // SAFETY: both paths are NUL-terminated strings, both descriptors are open.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            at.as_raw_fd(),
            name.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Attaches a detached mount at the directory or file that `target` is.
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
    const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
    // SAFETY: both paths are empty NUL-terminated strings, both descriptors are open.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// `MOUNT_ATTR_RDONLY`.
pub const MOUNT_ATTR_RDONLY: u64 = 1;
/// `MOUNT_ATTR_NOSUID`.
pub const MOUNT_ATTR_NOSUID: u64 = 2;
/// `MOUNT_ATTR_NODEV`.
pub const MOUNT_ATTR_NODEV: u64 = 4;
/// `MOUNT_ATTR_NOEXEC`.
pub const MOUNT_ATTR_NOEXEC: u64 = 8;

/// struct mount_attr (linux/mount.h).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes and, where `propagation` is not 0, the propagation (`MS_PRIVATE`, ...) of a mount.
pub fn mount_setattr(mount: BorrowedFd<'_>, set: u64, propagation: u64, recursive: bool) -> Result<()> {
    set_mount(mount, &MountAttr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 }, recursive)
}

/// Sets attributes, and clears others.
pub fn mount_change(mount: BorrowedFd<'_>, set: u64, clear: u64) -> Result<()> {
    let attributes = MountAttr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    set_mount(mount, &attributes, false)
}

/// Makes a detached mount show owners through the maps of a user namespace (mount_setattr(2), ID-mapped mounts):
/// what is user 0 on disk is, to everybody, the user that the namespace calls 0.
///
/// `EINVAL` where the file system cannot, `EPERM` where one is not root of the file system's own user namespace.
pub fn mount_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let userns_fd = u64::try_from(userns.as_raw_fd()).expect("descriptors are not negative");
    set_mount(
        mount,
        &MountAttr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd },
        recursive,
    )
}

fn set_mount(mount: BorrowedFd<'_>, attributes: &MountAttr, recursive: bool) -> Result<()> {
    const AT_RECURSIVE: c_uint = 0x8000;
    let flags = libc::AT_EMPTY_PATH.cast_unsigned() | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string; the struct outlives the call and its size is passed.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Does something as the file system user and group given (setfsuid(2)), with every capability that this thread has.
///
/// Only this thread is changed, and only for the time of `what`.
pub fn with_fs_ids<T>(uid: u32, gid: u32, what: impl FnOnce() -> T) -> Result<T> {
    let before = capabilities()?;
    set_fs_ids(uid, gid);
    // A change from 0 took the capabilities over files out of the effective set (capabilities(7)).
    let raised = set_capabilities(Capabilities { effective: before.permitted, ..before });
    let done = raised.map(|()| what());
    // The change back to 0 puts them in again.
    set_fs_ids(0, 0);
    done
}

fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: both arguments are integers; the calls cannot fail for one who may set ids, and are void otherwise.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
}

/// struct __user_cap_header_struct (linux/capability.h); version 3 comes with two data structs.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

/// struct __user_cap_data_struct.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// The sets of a thread, a bit for each capability (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Those that count now.
    pub effective: u64,
    /// Those that may be made effective.
    pub permitted: u64,
    /// Those that an `execve` may keep.
    pub inheritable: u64,
}

/// Returns the sets of this thread.
pub fn capabilities() -> Result<Capabilities> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes two data structs; both outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let both = |half: fn(&CapData) -> u32| u64::from(half(&data[0])) | u64::from(half(&data[1])) << 32;
    Ok(Capabilities {
        effective: both(|half| half.effective),
        permitted: both(|half| half.permitted),
        inheritable: both(|half| half.inheritable),
    })
}

/// Sets the sets of this thread; bits that the kernel does not know are ignored.
pub fn set_capabilities(sets: Capabilities) -> Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let low = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked");
    let half = |shift: u32| CapData {
        effective: low(sets.effective >> shift),
        permitted: low(sets.permitted >> shift),
        inheritable: low(sets.inheritable >> shift),
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two data structs; both outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Lets the command keep these descriptors open, under their numbers; they are closed here with the command.
pub fn pass_descriptors(command: &mut std::process::Command, descriptors: Vec<OwnedFd>) {
    use std::os::unix::process::CommandExt;
    let keep = move || {
        for descriptor in &descriptors {
            // SAFETY: F_SETFD takes an integer and touches no memory.
            check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates nor locks.
    unsafe { command.pre_exec(keep) };
}

/// Duplicates a descriptor, close-on-exec.
pub fn duplicate(file: impl AsFd) -> Result<OwnedFd> {
    file.as_fd()
        .try_clone_to_owned()
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

// ---------------------------------------------------------------- btrfs (linux/btrfs.h)

/// `BTRFS_IOCTL_MAGIC`, and the request number that `_IOC(direction, magic, number, size)` makes of it.
const fn btrfs_request(direction: u32, number: u32, size: usize) -> libc::Ioctl {
    const BTRFS_IOCTL_MAGIC: u32 = 0x94;
    ((direction << 30) | ((size as u32) << 16) | (BTRFS_IOCTL_MAGIC << 8) | number) as libc::Ioctl
}
const IOC_WRITE: u32 = 1;
const IOC_READ: u32 = 2;

/// Bytes of `struct btrfs_ioctl_search_args_v2` before its buffer: the key (104) and `buf_size`.
pub const BTRFS_SEARCH_HEADER: usize = 112;

/// Runs one `BTRFS_IOC_TREE_SEARCH_V2` in the subvolume tree of `file`.
///
/// `arguments` starts with `struct btrfs_ioctl_search_key` as the caller filled it in; its last field, `buf_size`, is
/// set here. The items found lie behind the header. Needs CAP_SYS_ADMIN.
pub fn btrfs_tree_search(file: BorrowedFd<'_>, arguments: &mut [u8]) -> Result<()> {
    // #define BTRFS_IOC_TREE_SEARCH_V2 _IOWR(BTRFS_IOCTL_MAGIC, 17, struct btrfs_ioctl_search_args_v2)
    const REQUEST: libc::Ioctl = btrfs_request(IOC_READ | IOC_WRITE, 17, BTRFS_SEARCH_HEADER);
    assert!(arguments.len() > BTRFS_SEARCH_HEADER, "room for the header and some items");
    let size = (arguments.len() - BTRFS_SEARCH_HEADER) as u64;
    arguments[BTRFS_SEARCH_HEADER - 8..BTRFS_SEARCH_HEADER].copy_from_slice(&size.to_ne_bytes());
    // SAFETY: the kernel reads the header and writes at most `buf_size` bytes behind it, all inside `arguments`.
    retry(|| check(unsafe { libc::ioctl(file.as_raw_fd(), REQUEST, arguments.as_mut_ptr()) })).map(drop)
}

/// What the kernel knows of a subvolume: the part of `struct btrfs_ioctl_get_subvol_info_args` that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its id: the number of its tree.
    pub id: u64,
    /// The transaction that last wrote its tree.
    pub generation: u64,
    /// The transaction that made it.
    pub made_in: u64,
    /// When that was: seconds since 1970.
    pub made_at: i64,
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// The uuid of what it is a snapshot of; zeros for none.
    pub parent_uuid: [u8; 16],
}

/// Returns what the kernel knows of the subvolume that `file` is in (since Linux 4.18; needs no privilege).
pub fn btrfs_subvolume_info(file: BorrowedFd<'_>) -> Result<SubvolumeInfo> {
    // struct btrfs_ioctl_get_subvol_info_args: treeid, name[256], parent_id, dirid, generation, flags, uuid[16],
    // parent_uuid[16], received_uuid[16], ctransid, otransid, stransid, rtransid, 4 times, reserved[8]
    const SIZE: usize = 504;
    // #define BTRFS_IOC_GET_SUBVOL_INFO _IOR(BTRFS_IOCTL_MAGIC, 60, struct btrfs_ioctl_get_subvol_info_args)
    const REQUEST: libc::Ioctl = btrfs_request(IOC_READ, 60, SIZE);
    let mut buffer = [0_u8; SIZE];
    // SAFETY: the kernel writes SIZE bytes, as the request says, into a buffer of that length.
    check(unsafe { libc::ioctl(file.as_raw_fd(), REQUEST, buffer.as_mut_ptr()) })?;
    let number = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().expect("eight bytes"));
    let uuid = |at: usize| buffer[at..at + 16].try_into().expect("sixteen bytes");
    Ok(SubvolumeInfo {
        id: number(0),
        generation: number(280),
        made_in: number(352),
        made_at: number(392).cast_signed(),
        uuid: uuid(296),
        parent_uuid: uuid(312),
    })
}

/// Returns id and containing directory's inode number of the subvolumes directly below the one that `file` is in
/// and whose id is at least `from`: at most 255 (since Linux 4.18; needs no privilege).
///
/// `EOVERFLOW`'s case, more than fit, is told by the second value.
pub fn btrfs_child_subvolumes(file: BorrowedFd<'_>, from: u64) -> Result<(Vec<(u64, u64)>, bool)> {
    // struct btrfs_ioctl_get_subvol_rootref_args { u64 min_treeid; struct { u64 treeid; u64 dirid; } rootref[255];
    // u8 num_items; u8 align[7]; }
    const SIZE: usize = 4096;
    // #define BTRFS_IOC_GET_SUBVOL_ROOTREF _IOWR(BTRFS_IOCTL_MAGIC, 61, struct btrfs_ioctl_get_subvol_rootref_args)
    const REQUEST: libc::Ioctl = btrfs_request(IOC_READ | IOC_WRITE, 61, SIZE);
    let mut buffer = [0_u8; SIZE];
    buffer[..8].copy_from_slice(&from.to_ne_bytes());
    // SAFETY: the kernel reads and writes SIZE bytes, as the request says, of a buffer of that length.
    let more = match check(unsafe { libc::ioctl(file.as_raw_fd(), REQUEST, buffer.as_mut_ptr()) }) {
        Ok(_) => false,
        Err(Errno::EOVERFLOW) => true,
        Err(errno) => return Err(errno),
    };
    let count = usize::from(buffer[SIZE - 8]);
    let number = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().expect("eight bytes"));
    Ok(((0..count).map(|index| (number(8 + 16 * index), number(16 + 16 * index))).collect(), more))
}

/// Returns the path, relative to `dir`, of the subvolume `id` that lies in the directory with inode number
/// `containing` of `dir`'s subvolume (since Linux 4.18; needs only the right to read the directories on the way).
pub fn btrfs_child_path(dir: BorrowedFd<'_>, id: u64, containing: u64) -> Result<OsString> {
    // struct btrfs_ioctl_ino_lookup_user_args { u64 dirid; u64 treeid; char name[256]; char path[3824]; }
    const SIZE: usize = 4096;
    const NAME: usize = 16;
    const PATH: usize = NAME + 256;
    // #define BTRFS_IOC_INO_LOOKUP_USER _IOWR(BTRFS_IOCTL_MAGIC, 62, struct btrfs_ioctl_ino_lookup_user_args)
    const REQUEST: libc::Ioctl = btrfs_request(IOC_READ | IOC_WRITE, 62, SIZE);
    let mut buffer = [0_u8; SIZE];
    buffer[..8].copy_from_slice(&containing.to_ne_bytes());
    buffer[8..NAME].copy_from_slice(&id.to_ne_bytes());
    // SAFETY: the kernel reads and writes SIZE bytes, as the request says, of a buffer of that length.
    check(unsafe { libc::ioctl(dir.as_raw_fd(), REQUEST, buffer.as_mut_ptr()) })?;
    let text = |from: &[u8]| from.iter().copied().take_while(|byte| *byte != 0).collect::<Vec<u8>>();
    // The path ends in a slash where it is not empty.
    let mut path = text(&buffer[PATH..]);
    path.extend(text(&buffer[NAME..PATH]));
    Ok(OsString::from_vec(path))
}

/// Makes a snapshot of the subvolume that `source` is the root of, under a new name in `dir`.
///
/// Returns when the transaction that makes it is committed: the snapshot is durable then.
pub fn btrfs_snapshot(
    source: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    read_only: bool,
) -> Result<()> {
    // struct btrfs_ioctl_vol_args_v2 { s64 fd; u64 transid; u64 flags; u64 unused[4]; char name[4040]; }
    const SIZE: usize = 4096;
    const NAME: usize = 56;
    // #define BTRFS_IOC_SNAP_CREATE_V2 _IOW(BTRFS_IOCTL_MAGIC, 23, struct btrfs_ioctl_vol_args_v2)
    const REQUEST: libc::Ioctl = btrfs_request(IOC_WRITE, 23, SIZE);
    let name = name.as_bytes();
    if name.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if name.len() >= SIZE - NAME {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut buffer = [0_u8; SIZE];
    buffer[..8].copy_from_slice(&i64::from(source.as_raw_fd()).to_ne_bytes());
    let flags = if read_only { BTRFS_SUBVOL_RDONLY } else { 0 };
    buffer[16..24].copy_from_slice(&flags.to_ne_bytes());
    buffer[NAME..NAME + name.len()].copy_from_slice(name);
    // SAFETY: the kernel reads SIZE bytes, as the request says, of a buffer of that length; the descriptor in it
    // is open for the whole call and the name ends in a NUL inside the buffer.
    retry(|| check(unsafe { libc::ioctl(dir.as_raw_fd(), REQUEST, buffer.as_ptr()) })).map(drop)
}

/// Commits the running transaction of `file`'s btrfs and returns its number once it is on disk. Does not write
/// out data that is still in the page cache: `syncfs` does.
pub fn btrfs_commit(file: BorrowedFd<'_>) -> Result<u64> {
    // #define BTRFS_IOC_START_SYNC _IOR(BTRFS_IOCTL_MAGIC, 24, __u64)
    const START: libc::Ioctl = btrfs_request(IOC_READ, 24, 8);
    // #define BTRFS_IOC_WAIT_SYNC _IOW(BTRFS_IOCTL_MAGIC, 22, __u64)
    const WAIT: libc::Ioctl = btrfs_request(IOC_WRITE, 22, 8);
    let mut transaction = 0_u64;
    // SAFETY: the kernel writes one u64 into a variable that outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), START, &raw mut transaction) })?;
    // SAFETY: the kernel reads one u64 out of a variable that outlives the call.
    retry(|| check(unsafe { libc::ioctl(file.as_raw_fd(), WAIT, &raw const transaction) }))?;
    Ok(transaction)
}

/// `BTRFS_BLOCK_GROUP_DATA`.
pub const BTRFS_BLOCK_GROUP_DATA: u64 = 1;

/// What one kind of block groups has: the part of `struct btrfs_ioctl_space_info` that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceInfo {
    /// `BTRFS_BLOCK_GROUP_*`: what it is for and how it is kept.
    pub flags: u64,
    /// Bytes in use, one copy counted.
    pub used_bytes: u64,
}

impl SpaceInfo {
    /// Returns how often each byte is on disk.
    pub fn copies(&self) -> u64 {
        // BTRFS_BLOCK_GROUP_RAID1, _DUP, _RAID10; _RAID1C3; _RAID1C4.
        const TWICE: u64 = 0x10 | 0x20 | 0x40;
        const THRICE: u64 = 0x200;
        const FOUR_TIMES: u64 = 0x400;
        match self.flags {
            flags if flags & FOUR_TIMES != 0 => 4,
            flags if flags & THRICE != 0 => 3,
            flags if flags & TWICE != 0 => 2,
            _ => 1,
        }
    }
}

/// Returns what the block groups of `file`'s btrfs have in use, without the reserve, which is no bytes on disk (needs no privilege).
pub fn btrfs_space_info(file: BorrowedFd<'_>) -> Result<Vec<SpaceInfo>> {
    // struct btrfs_ioctl_space_args { u64 space_slots; u64 total_spaces; struct btrfs_ioctl_space_info { u64 flags;
    // u64 total_bytes; u64 used_bytes; } spaces[]; }
    const HEADER: usize = 16;
    const SPACE: usize = 24;
    // Kinds times profiles while a conversion runs; there are four otherwise.
    const SLOTS: usize = 64;
    const BTRFS_SPACE_INFO_GLOBAL_RSV: u64 = 1 << 49;
    // #define BTRFS_IOC_SPACE_INFO _IOWR(BTRFS_IOCTL_MAGIC, 20, struct btrfs_ioctl_space_args)
    const REQUEST: libc::Ioctl = btrfs_request(IOC_READ | IOC_WRITE, 20, HEADER);
    let mut buffer = [0_u8; HEADER + SLOTS * SPACE];
    buffer[..8].copy_from_slice(&(SLOTS as u64).to_ne_bytes());
    // SAFETY: the kernel reads the header and writes at most `space_slots` structs behind it, all inside `buffer`.
    check(unsafe { libc::ioctl(file.as_raw_fd(), REQUEST, buffer.as_mut_ptr()) })?;
    let number = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().expect("eight bytes"));
    let count = usize::try_from(number(8)).unwrap_or(SLOTS).min(SLOTS);
    let space = |index: usize| SpaceInfo {
        flags: number(HEADER + index * SPACE),
        used_bytes: number(HEADER + index * SPACE + 16),
    };
    Ok((0..count).map(space).filter(|space| space.flags & BTRFS_SPACE_INFO_GLOBAL_RSV == 0).collect())
}
