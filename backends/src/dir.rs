//! A directory held by descriptor: the only way anything reaches inside a tree.
//!
//! A root filesystem is hostile input: any name in it may be a symbolic link that somebody swaps while we
//! look. So every operation here takes *one name* in an open directory and does not follow it, and the
//! few that walk a path do so with `openat2(2)`, beneath the directory.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags};

use crate::error::{Context, Error, Result};
use crate::sys;

/// An open directory, with the path it was opened by for messages (never for access).
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device; also OverlayFS's whiteout, as device 0:0.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl EntryType {
    /// Returns the type in an inode's mode.
    pub fn of_mode(mode: libc::mode_t) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => Self::File,
        }
    }

    fn of_dirent(kind: u8) -> Option<Self> {
        Some(match kind {
            libc::DT_DIR => Self::Directory,
            libc::DT_LNK => Self::Symlink,
            libc::DT_CHR => Self::CharDevice,
            libc::DT_BLK => Self::BlockDevice,
            libc::DT_FIFO => Self::Fifo,
            libc::DT_SOCK => Self::Socket,
            libc::DT_REG => Self::File,
            _ => return None,
        })
    }
}

/// One name in a directory, as `getdents64(2)` gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: any bytes but `/` and NUL.
    pub name: OsString,
    /// Its type; `None` where the file system does not say.
    pub entry_type: Option<EntryType>,
    /// Its inode number within the file system that the directory is on.
    pub inode: u64,
}

/// The two times that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Last access: seconds and nanoseconds since 1970.
    pub accessed: (i64, i64),
    /// Last change of content: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
}

impl Times {
    /// Returns the times of an inode.
    pub fn of(stat: &FileStat) -> Self {
        Self { accessed: (stat.st_atime, stat.st_atime_nsec), modified: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

impl Dir {
    /// Opens a directory of the host. Symbolic links in `path` are followed: it is the user's own word.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty())
            .context(|| format!("open({path:?}, O_DIRECTORY)"))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Takes an open directory; `path` is what messages call it.
    pub fn from_fd(fd: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Self { fd, path: path.into() }
    }

    /// Returns the path it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns another handle on the same directory.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = sys::duplicate(&self.fd).context(|| format!("dup({self})"))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    fn call(&self, name: &str, object: &OsStr) -> String {
        format!("{name}({self}, {object:?})")
    }

    // ------------------------------------------------------------ opening

    /// Opens the directory that one name in this one stands for; a symbolic link is refused.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&self.fd, name, flags, Mode::empty())
            .context(|| format!("openat({self}, {name:?}, O_DIRECTORY|O_NOFOLLOW)"))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Opens what `path` leads to without ever leaving this directory; symbolic links are refused.
    pub fn open_beneath(&self, path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_SYMLINKS;
        self.open_resolved(path.as_ref(), flags, resolve)
    }

    /// Opens what `path` leads to as a process whose root is this directory would see it: symbolic links are
    /// followed, `..` and absolute targets stay inside.
    pub fn open_in_root(&self, path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        self.open_resolved(path.as_ref(), flags, resolve)
    }

    fn open_resolved(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> Result<OwnedFd> {
        // openat2(2) refuses what open(2) ignores: O_PATH goes with O_CLOEXEC, O_DIRECTORY and O_NOFOLLOW only.
        let always =
            if flags.contains(OFlag::O_PATH) { OFlag::O_CLOEXEC } else { OFlag::O_CLOEXEC | OFlag::O_NOCTTY };
        let how = OpenHow::new().flags(flags | always).resolve(resolve);
        // openat2(2): EAGAIN means that a rename or mount elsewhere raced with a `..`: try again.
        for _ in 0..128 {
            match nix::fcntl::openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other.context(|| format!("openat2({self}, {path:?}, {resolve:?})")),
            }
        }
        Err(Error::call(format!("openat2({self}, {path:?}, {resolve:?})"), Errno::EAGAIN))
    }

    /// Opens the file that one name stands for; a symbolic link is refused and a pipe does not block.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let name = name.as_ref();
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        nix::fcntl::openat(&self.fd, name, flags, Mode::empty())
            .map(File::from)
            .context(|| format!("openat({self}, {name:?}, O_NOFOLLOW)"))
    }

    /// Makes a new file and opens it for writing; an existing name is an error.
    pub fn create_file(&self, name: impl AsRef<OsStr>, mode: libc::mode_t) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(&self.fd, name, flags, Mode::from_bits_truncate(mode))
            .map(File::from)
            .context(|| format!("openat({self}, {name:?}, O_CREAT|O_EXCL)"))
    }

    // ------------------------------------------------------------ reading

    /// Returns all names but `.` and `..`, in the file system's order.
    pub fn entries(&self) -> Result<Vec<DirEntry>> {
        // A fresh open file description, so that two listings of one Dir do not share an offset.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&self.fd, ".", flags, Mode::empty())
            .context(|| format!("openat({self}, \".\")"))?;
        self.read_entries(fd.as_fd())
    }

    /// Returns the same by this very descriptor, two system calls cheaper: only the first call tells all names.
    pub(crate) fn entries_once(&self) -> Result<Vec<DirEntry>> {
        self.read_entries(self.as_fd())
    }

    fn read_entries(&self, fd: BorrowedFd<'_>) -> Result<Vec<DirEntry>> {
        let mut buffer = vec![0_u8; 32 * 1024];
        let mut entries = Vec::new();
        loop {
            let read = sys::getdents64(fd, &mut buffer).context(|| format!("getdents64({self})"))?;
            if read == 0 {
                return Ok(entries);
            }
            parse_dirents(&buffer[..read], &mut entries);
        }
    }

    /// Returns the inode behind one name; a symbolic link is not followed.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> Result<FileStat> {
        let name = name.as_ref();
        nix::sys::stat::fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .context(|| self.call("fstatat", name))
    }

    /// Returns the inode behind one name, or `None` where there is none.
    pub fn stat_if_exists(&self, name: impl AsRef<OsStr>) -> Result<Option<FileStat>> {
        match self.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the directory's own inode.
    pub fn stat_self(&self) -> Result<FileStat> {
        nix::sys::stat::fstat(&self.fd).context(|| format!("fstat({self})"))
    }

    /// Returns the target of a symbolic link.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> Result<OsString> {
        let name = name.as_ref();
        nix::fcntl::readlinkat(&self.fd, name).context(|| self.call("readlinkat", name))
    }

    // ------------------------------------------------------------ changing

    /// Makes a directory.
    pub fn make_dir(&self, name: impl AsRef<OsStr>, mode: libc::mode_t) -> Result<()> {
        let name = name.as_ref();
        nix::sys::stat::mkdirat(&self.fd, name, Mode::from_bits_truncate(mode))
            .context(|| self.call("mkdirat", name))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, name: impl AsRef<OsStr>, target: &OsStr) -> Result<()> {
        let name = name.as_ref();
        nix::unistd::symlinkat(target, &self.fd, name)
            .context(|| format!("symlinkat({target:?}, {self}, {name:?})"))
    }

    /// Makes a device, pipe, socket or empty file from an inode's mode and device number.
    pub fn make_node(&self, name: impl AsRef<OsStr>, mode: libc::mode_t, device: libc::dev_t) -> Result<()> {
        let name = name.as_ref();
        let (kind, permissions) =
            (SFlag::from_bits_truncate(mode & libc::S_IFMT), Mode::from_bits_truncate(mode));
        nix::sys::stat::mknodat(&self.fd, name, kind, permissions, device)
            .context(|| format!("mknodat({self}, {name:?}, {mode:#o}, {device:#x})"))
    }

    /// Gives `old_name` in `old_dir` a second name here; a symbolic link is linked, not followed.
    pub fn make_link(
        &self,
        name: impl AsRef<OsStr>,
        old_dir: &Self,
        old_name: impl AsRef<OsStr>,
    ) -> Result<()> {
        let (name, old_name) = (name.as_ref(), old_name.as_ref());
        nix::unistd::linkat(&old_dir.fd, old_name, &self.fd, name, LinkatFlags::empty())
            .context(|| format!("linkat({old_dir}, {old_name:?}, {self}, {name:?})"))
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        nix::unistd::unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)
            .context(|| self.call("unlinkat", name))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        nix::unistd::unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)
            .context(|| format!("unlinkat({self}, {name:?}, AT_REMOVEDIR)"))
    }

    /// Changes the owner of one name; a symbolic link is not followed. Clears setuid, setgid and capabilities.
    pub fn set_owner(&self, name: impl AsRef<OsStr>, user: u32, group: u32) -> Result<()> {
        let name = name.as_ref();
        let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        nix::unistd::fchownat(&self.fd, name, user, group, AtFlags::AT_SYMLINK_NOFOLLOW)
            .context(|| self.call("fchownat", name))
    }

    /// Changes the permission bits of a name that is not a symbolic link.
    ///
    /// fchmodat(2) follows links: call it only on what this process just made there.
    pub fn set_mode_following_symlinks(&self, name: impl AsRef<OsStr>, mode: libc::mode_t) -> Result<()> {
        let name = name.as_ref();
        let bits = Mode::from_bits_truncate(mode);
        nix::sys::stat::fchmodat(&self.fd, name, bits, nix::sys::stat::FchmodatFlags::FollowSymlink)
            .context(|| format!("fchmodat({self}, {name:?}, {mode:#o})"))
    }

    /// Sets access and modification time of one name; a symbolic link is not followed.
    pub fn set_times(&self, name: impl AsRef<OsStr>, times: Times) -> Result<()> {
        use nix::sys::stat::{UtimensatFlags, utimensat};
        use nix::sys::time::TimeSpec;
        let name = name.as_ref();
        let accessed = TimeSpec::new(times.accessed.0, times.accessed.1);
        let modified = TimeSpec::new(times.modified.0, times.modified.1);
        utimensat(&self.fd, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
            .context(|| self.call("utimensat", name))
    }

    /// Returns the extended attributes of one name, sorted, values included; a symbolic link is not followed.
    pub fn xattrs(&self, name: impl AsRef<OsStr>) -> Result<Vec<(OsString, Vec<u8>)>> {
        let name = name.as_ref();
        let mut names = match sys::llistxattr(self.fd.as_fd(), name) {
            Err(Errno::EOPNOTSUPP) => Vec::new(),
            other => other.context(|| self.call("llistxattr", name))?,
        };
        names.sort();
        let mut attributes = Vec::with_capacity(names.len());
        for attribute in names {
            match sys::lgetxattr(self.fd.as_fd(), name, &attribute) {
                Ok(value) => attributes.push((attribute, value)),
                // Listed and gone: somebody removed it between the two calls.
                Err(Errno::ENODATA) => {}
                Err(errno) => {
                    return Err(Error::call(format!("lgetxattr({self}, {name:?}, {attribute:?})"), errno));
                }
            }
        }
        Ok(attributes)
    }

    /// Sets an extended attribute of one name; a symbolic link is not followed.
    pub fn set_xattr(&self, name: impl AsRef<OsStr>, attribute: &OsStr, value: &[u8]) -> Result<()> {
        let name = name.as_ref();
        sys::lsetxattr(self.fd.as_fd(), name, attribute, value)
            .context(|| format!("lsetxattr({self}, {name:?}, {attribute:?}, {} bytes)", value.len()))
    }

    /// Makes everything written to this directory's file system durable.
    pub fn sync_file_system(&self) -> Result<()> {
        nix::unistd::syncfs(&self.fd).context(|| format!("syncfs({self})"))
    }

    /// Makes the directory's own entries durable.
    pub fn sync(&self) -> Result<()> {
        nix::unistd::fsync(&self.fd).context(|| format!("fsync({self})"))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Shows descriptor and path, as `[7]"/srv/x"`.
impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]{:?}", self.fd.as_raw_fd(), self.path)
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits a buffer of `struct linux_dirent64 { u64 d_ino; s64 d_off; u16 d_reclen; u8 d_type; char d_name[]; }`.
fn parse_dirents(mut buffer: &[u8], entries: &mut Vec<DirEntry>) {
    const NAME: usize = 19;
    while buffer.len() > NAME {
        let inode = u64::from_ne_bytes(buffer[..8].try_into().expect("eight bytes"));
        let length = usize::from(u16::from_ne_bytes([buffer[16], buffer[17]]));
        let record = &buffer[..length.clamp(NAME, buffer.len())];
        let name = record[NAME..].split(|byte| *byte == 0).next().unwrap_or_default();
        if name != b"." && name != b".." {
            let name = OsString::from_vec(OsStr::from_bytes(name).as_bytes().to_vec());
            entries.push(DirEntry { name, entry_type: EntryType::of_dirent(record[18]), inode });
        }
        buffer = &buffer[record.len()..];
    }
}
