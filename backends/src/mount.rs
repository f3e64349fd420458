//! How a tree is shown: data that a caller can print, and a detached mount made from it.
//!
//! A detached mount exists only as a descriptor: it is in no mount table, nobody else can reach it, and when
//! the process dies it is gone. `runner` attaches it inside its own mount namespace.
//!
//! | kernel feature | since | used for | where it is missing |
//! |---|---|---|---|
//! | `fsopen`, `fsconfig`, `fsmount`, `move_mount`, `open_tree` | 5.2 | every mount | an error that says so |
//! | `mount_setattr` | 5.12 | read-only, nosuid, propagation | an error that says so |
//! | id-mapped mounts | 5.12 (ext4), 5.15 (btrfs), 5.19 (XFS; below an overlay's upper), 6.3 (tmpfs) | root inside is nobody outside | an error of kind `Unsupported` |
//! | overlay option `userxattr` | 5.11 | OverlayFS in a user namespace | fuse-overlayfs ([`Mount::FuseOverlay`]) |
//! | overlay option `lowerdir+` | 6.8 | up to 500 layers | `lowerdir` in one 255-byte string: [`Overlay::SHORT_LIMIT`] layers |

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::dir::Dir;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::{fuse, sys};

/// May the tree be written through the mount?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// One way to show a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Mount {
    /// The tree is a directory: show it as it is. Mounts below it are not shown.
    Bind {
        /// The directory.
        source: PathBuf,
    },
    /// The tree is the sum of directories.
    Overlay(Overlay),
    /// The same by the program fuse-overlayfs, where the kernel refuses to.
    FuseOverlay(Overlay),
}

/// The layers of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Read-only layers, top first; at least one.
    pub lowers: Vec<PathBuf>,
    /// Where changes go; without it the overlay is read-only.
    pub upper: Option<Upper>,
    /// Skip every sync of the upper layer: for what is thrown away. A crash makes the upper worthless.
    pub volatile: bool,
    /// Keep OverlayFS's own marks in `user.overlay.*` instead of `trusted.overlay.*` (in a user namespace).
    pub userxattr: bool,
}

/// The writable layer of an overlay; both directories lie on one file system and serve nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// Receives what is written.
    pub dir: PathBuf,
    /// OverlayFS's scratch directory.
    pub work: PathBuf,
}

impl Mount {
    /// Makes the detached mount.
    ///
    /// Closing the descriptor unmounts it unless it was attached. O(layers); a kill leaves nothing behind.
    pub fn open(&self, access: Access) -> Result<OwnedFd> {
        let mount = match self {
            Self::Bind { source } => open_bind(source),
            Self::Overlay(overlay) => overlay.open_or_read_by_fuse(),
            Self::FuseOverlay(overlay) => fuse::open(overlay),
        };
        self.finish(mount, access)
    }

    /// Makes the detached mount, with owners mapped: who is 0 on disk is root of the user namespace, and what root of the
    /// namespace writes lies on disk as 0's. Nothing on disk changes.
    ///
    /// Of an overlay the layers are mapped, because it cannot be mapped itself (kernel documentation,
    /// filesystems/overlayfs.rst, "Permission model"). A file system that cannot is an error of kind `Unsupported`.
    pub fn open_mapped(&self, access: Access, owner: &MappedOwner<'_>) -> Result<OwnedFd> {
        let mount = match self {
            Self::Bind { source } => open_bind(source).and_then(|mount| owner.map(mount, source)),
            Self::Overlay(overlay) => overlay.open_mapped(owner),
            Self::FuseOverlay(_) => {
                Err(Error::new(ErrorKind::Unsupported, "fuse-overlayfs cannot map owners"))
            }
        };
        self.finish(mount, access)
    }

    fn finish(&self, mount: Result<OwnedFd>, access: Access) -> Result<OwnedFd> {
        let mount = mount.context(|| format!("mount {self}"))?;
        if access == Access::ReadOnly {
            sys::mount_setattr(mount.as_fd(), sys::MOUNT_ATTR_RDONLY, 0, false)
                .context(|| format!("mount_setattr({self}, MOUNT_ATTR_RDONLY)"))?;
        }
        Ok(mount)
    }

    /// Opens the root of the tree for reading, mounting it only where it must be.
    pub fn open_root(&self) -> Result<Dir> {
        self.open_root_for(Access::ReadOnly)
    }

    /// Opens the root of the tree, mounting it only where it must be.
    pub fn open_root_for(&self, access: Access) -> Result<Dir> {
        match self {
            Self::Bind { source } => Dir::open(source),
            Self::Overlay(overlay) | Self::FuseOverlay(overlay) => {
                let root = self.open(access)?;
                // fsmount returns an O_PATH descriptor; reading needs a real one.
                let path = overlay.lowers.first().cloned().unwrap_or_default();
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let fd = nix::fcntl::openat(&root, ".", flags, Mode::empty())
                    .context(|| format!("openat({self}, \".\")"))?;
                Ok(Dir::from_fd(fd, path))
            }
        }
    }
}

/// Who owns on the host what is root's in a tree.
#[derive(Debug, Clone, Copy)]
pub struct MappedOwner<'a> {
    /// The user namespace whose maps are used.
    pub userns: BorrowedFd<'a>,
    /// What the namespace's user 0 is outside.
    pub uid: u32,
    /// What its group 0 is outside.
    pub gid: u32,
}

impl MappedOwner<'_> {
    fn map(&self, mount: OwnedFd, path: &Path) -> Result<OwnedFd> {
        sys::mount_idmap(mount.as_fd(), self.userns, false).map_err(|errno| {
            let error = Error::call(format!("mount_setattr({path:?}, MOUNT_ATTR_IDMAP)"), errno);
            match errno {
                Errno::EINVAL | Errno::EPERM | Errno::ENOSYS => error.with_kind(ErrorKind::Unsupported),
                _ => error,
            }
        })?;
        Ok(mount)
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, format!("{path:?} contains a NUL byte")))
}

fn open_bind(source: &Path) -> Result<OwnedFd> {
    let path = c_path(source)?;
    sys::open_tree_clone(AT_FDCWD, &path, false).context(|| format!("open_tree({source:?}, OPEN_TREE_CLONE)"))
}

impl Overlay {
    /// Layers of one mount with `lowerdir+` (kernel source, fs/overlayfs/params.h: OVL_MAX_STACK).
    pub const LIMIT: usize = 500;

    /// Layers of one mount where only the old `lowerdir=` exists: `/proc/self/fd/NNN:` twelve times is under 255 bytes.
    pub const SHORT_LIMIT: usize = 12;

    /// A backend that makes no overlays may still have to read one, wherever it came from.
    fn open_or_read_by_fuse(&self) -> Result<OwnedFd> {
        match self.open() {
            Err(error) if self.upper.is_none() && is_refusal(&error) && fuse::is_usable() => {
                fuse::open(self).map_err(|_| error)
            }
            other => other,
        }
    }

    /// What the mount table shows: whose changes these are. The kernel takes up to 255 bytes.
    pub(crate) fn shown(&self) -> Option<CString> {
        let shown = self.upper.as_ref().map(|upper| &upper.dir).or(self.lowers.first());
        let shown = shown.filter(|path| path.as_os_str().len() < 255);
        shown.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok())
    }

    fn open(&self) -> Result<OwnedFd> {
        let lowers = self.lowers.iter().map(|path| open_layer(path)).collect::<Result<Vec<_>>>()?;
        let upper = self.upper.as_ref().map(Upper::open).transpose()?;
        self.assemble(self.shown().as_deref().unwrap_or(c"rootling"), &lowers, upper.as_ref(), create)
    }

    /// The mount acts with the rights of whoever makes it: as the mapped owner, or what it writes would have none.
    fn open_mapped(&self, owner: &MappedOwner<'_>) -> Result<OwnedFd> {
        let lowers: Result<Vec<_>> = self
            .lowers
            .iter()
            .map(|path| open_lower(path).and_then(|mount| owner.map(mount, path)))
            .collect();
        let upper = self.upper.as_ref().map(|upper| upper.open_mapped(owner)).transpose()?;
        // Named for those who look at the mount table from inside: the host's paths are not theirs to know.
        self.assemble(c"rootling", &lowers?, upper.as_ref(), |context| {
            sys::with_fs_ids(owner.uid, owner.gid, || create(context)).context(|| "capset(effective)")?
        })
    }

    /// Makes the mount of open layers; `create` is the moment that decides with whose rights it acts.
    fn assemble(
        &self,
        source: &CStr,
        lowers: &[OwnedFd],
        upper: Option<&OpenUpper>,
        create: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<OwnedFd> {
        let context = sys::fsopen(c"overlay").map_err(|errno| {
            let error = Error::call("fsopen(\"overlay\")", errno);
            match errno {
                Errno::ENODEV => error.hint("load the module with `modprobe overlay`, or use --backend copy"),
                Errno::EPERM => {
                    error.hint("overlay mounts need root or a user namespace: see `rootling doctor`")
                }
                _ => error,
            }
        })?;
        let set_source = || {
            sys::fsconfig_string(context.as_fd(), c"source", source)
                .context(|| format!("fsconfig(overlay, \"source\", {source:?})"))
        };
        set_source()
            .and_then(|()| self.configure(&context, lowers, upper))
            .and_then(|()| create(&context))
            .map_err(|error| {
            // The kernel's own words, from the context's log, belong into the message.
            let log = sys::fs_context_log(context.as_fd());
            if log.is_empty() { error } else { error.context(format!("overlay: {log}")) }
        })?;
        sys::fsmount(context.as_fd(), 0).context(|| "fsmount(overlay)")
    }

    fn configure(&self, context: &OwnedFd, lowers: &[OwnedFd], upper: Option<&OpenUpper>) -> Result<()> {
        let set = |key: &CStr, value: &CStr| {
            sys::fsconfig_string(context.as_fd(), key, value)
                .context(|| format!("fsconfig(overlay, {key:?}, {value:?})"))
        };
        let flag = |key: &CStr| {
            sys::fsconfig_flag(context.as_fd(), key).context(|| format!("fsconfig(overlay, {key:?})"))
        };
        // Explicit, because the kernel's defaults are a build option and these three make an upper directory
        // unreadable without the mount that wrote it (kernel documentation, filesystems/overlayfs.rst).
        if self.userxattr {
            flag(c"userxattr")?;
        } else {
            set(c"redirect_dir", c"nofollow")?;
            set(c"metacopy", c"off")?;
        }
        set(c"index", c"off")?;
        set(c"xino", c"auto")?;
        set_lowers(context, lowers)?;
        if let Some(upper) = upper {
            set(c"upperdir", &upper.dir)?;
            set(c"workdir", &upper.work)?;
            if self.volatile {
                flag(c"volatile")?;
            }
        }
        Ok(())
    }
}

/// Stacks a layer over `lower`, a detached mount of a directory: what is written goes there.
///
/// The layer is `kept`, a directory that serves nothing else and gets `upper` and `work` where it lacks them; without it the layer is
/// in memory and goes away with the mount. With `owner` both are mapped, and `lower` must not have been shown yet. What is mounted in the directory is not shown. A file
/// system that cannot map is an error of kind `Unsupported`. O(1).
pub fn layer_over(lower: OwnedFd, kept: Option<&Path>, owner: Option<&MappedOwner<'_>>) -> Result<OwnedFd> {
    let userxattr = in_own_userns()?;
    let stat = nix::sys::stat::fstat(&lower).context(|| "fstat(lower layer)")?;
    let layer = match kept {
        Some(kept) => open_bind(kept)?,
        None => memory()?,
    };
    // Made last: a layer that has it is whole.
    if !has(&layer, "work")? {
        imitate(&make(&layer, "upper")?, &stat)?;
        drop(make(&layer, "work")?);
    }
    let (lower, layer) = match owner {
        Some(owner) => (owner.map(lower, Path::new("lower"))?, owner.map(layer, Path::new("layer"))?),
        None => (lower, layer),
    };
    let paths = (proc_path_in(&layer, "upper"), proc_path_in(&layer, "work"));
    let upper = OpenUpper { dir: paths.0, work: paths.1, _files: vec![layer] };
    let overlay = Overlay { lowers: Vec::new(), upper: None, volatile: false, userxattr };
    overlay.assemble(c"rootling", &[lower], Some(&upper), |context| match owner {
        Some(owner) => {
            sys::with_fs_ids(owner.uid, owner.gid, || create(context)).context(|| "capset(effective)")?
        }
        None => create(context),
    })
}

fn memory() -> Result<OwnedFd> {
    let memory = sys::fsopen(c"tmpfs").context(|| "fsopen(\"tmpfs\")")?;
    sys::fsconfig_create(memory.as_fd()).context(|| "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)")?;
    sys::fsmount(memory.as_fd(), 0).context(|| "fsmount(tmpfs)")
}

fn has(layer: &OwnedFd, name: &str) -> Result<bool> {
    match nix::sys::stat::fstatat(layer, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(Error::call(format!("fstatat(layer, {name:?})"), errno)),
    }
}

fn make(layer: &OwnedFd, name: &str) -> Result<OwnedFd> {
    match nix::sys::stat::mkdirat(layer, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(Error::call(format!("mkdirat(layer, {name:?})"), errno)),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(layer, name, flags, Mode::empty()).context(|| format!("openat(layer, {name:?})"))
}

/// The root of an overlay looks as its upper directory does.
fn imitate(dir: &OwnedFd, stat: &nix::sys::stat::FileStat) -> Result<()> {
    let (user, group) = (nix::unistd::Uid::from_raw(stat.st_uid), nix::unistd::Gid::from_raw(stat.st_gid));
    match nix::unistd::fchown(dir, Some(user), Some(group)) {
        // An owner that the user namespace does not have: nobody here, and so is the copy's.
        Ok(()) | Err(Errno::EINVAL | Errno::EPERM) => {}
        Err(errno) => return Err(Error::call(format!("fchown(upper, {user}, {group})"), errno)),
    }
    nix::sys::stat::fchmod(dir, Mode::from_bits_truncate(stat.st_mode & 0o7777))
        .context(|| format!("fchmod(upper, {:#o})", stat.st_mode & 0o7777))
}

/// Is this process in a user namespace that is not the machine's? There OverlayFS must keep its marks in `user.`.
pub fn in_own_userns() -> Result<bool> {
    // user_namespaces(7): the initial one maps all ids to themselves.
    let map = crate::small_file::read_record("/proc/self/uid_map")?;
    Ok(map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

fn create(context: &OwnedFd) -> Result<()> {
    sys::fsconfig_create(context.as_fd()).context(|| "fsconfig(overlay, FSCONFIG_CMD_CREATE)")
}

/// The two directories of an upper layer, on one mount: paths that are good as long as the files are open.
struct OpenUpper {
    dir: CString,
    work: CString,
    _files: Vec<OwnedFd>,
}

impl Upper {
    fn open(&self) -> Result<OpenUpper> {
        let (dir, work) = (open_layer(&self.dir)?, open_layer(&self.work)?);
        Ok(OpenUpper { dir: proc_path(&dir), work: proc_path(&work), _files: vec![dir, work] })
    }

    /// One clone of a mount carries both, because the kernel wants them on one.
    fn open_mapped(&self, owner: &MappedOwner<'_>) -> Result<OpenUpper> {
        let both = self.dir.parent().filter(|parent| self.work.parent() == Some(parent));
        let both = both.ok_or_else(|| {
            let message = format!("{:?} and {:?} do not lie in one directory", self.dir, self.work);
            Error::new(ErrorKind::Unsupported, message)
        })?;
        let mount = owner.map(open_bind(both)?, both)?;
        let below = |path: &Path| proc_path_in(&mount, path.file_name().unwrap_or_default());
        let (dir, work) = (below(&self.dir), below(&self.work));
        Ok(OpenUpper { dir, work, _files: vec![mount] })
    }
}

/// A lower layer by itself; the one under a fork of the host is a link.
fn open_lower(path: &Path) -> Result<OwnedFd> {
    sys::open_tree_clone_following(&c_path(path)?).context(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))
}

/// Does the kernel refuse overlay mounts here, in a user namespace (before 5.11) or altogether?
fn is_refusal(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::EPERM | Errno::ENODEV))
}

pub(crate) fn open_layer(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty())
        .context(|| format!("open({path:?}, O_PATH|O_DIRECTORY)"))
}

/// A path to an open directory that is short and has no character an option would need to escape.
fn proc_path(layer: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", layer.as_raw_fd())).expect("no NUL in a number")
}

/// The same of a name in it.
fn proc_path_in(dir: &OwnedFd, name: impl AsRef<std::ffi::OsStr>) -> CString {
    let name = name.as_ref().as_bytes();
    CString::new([proc_path(dir).as_bytes(), b"/", name].concat()).expect("a name has no NUL")
}

fn set_lowers(context: &OwnedFd, lowers: &[OwnedFd]) -> Result<()> {
    for (index, layer) in lowers.iter().enumerate() {
        match sys::fsconfig_string(context.as_fd(), c"lowerdir+", &proc_path(layer)) {
            Ok(()) => {}
            // The first layer decides: before 6.8 the key is unknown.
            Err(Errno::EINVAL) if index == 0 => return set_lowers_in_one_string(context, lowers),
            Err(errno) => {
                return Err(Error::call(format!("fsconfig(overlay, \"lowerdir+\", layer {index})"), errno));
            }
        }
    }
    Ok(())
}

fn set_lowers_in_one_string(context: &OwnedFd, lowers: &[OwnedFd]) -> Result<()> {
    let paths: Vec<String> =
        lowers.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let joined = CString::new(paths.join(":")).expect("no NUL in numbers");
    sys::fsconfig_string(context.as_fd(), c"lowerdir", &joined).map_err(|errno| {
        let error = Error::call(format!("fsconfig(overlay, \"lowerdir\", {} layers)", lowers.len()), errno);
        error.hint("kernels before 6.8 take few layers: flatten the tree, or use another backend")
    })
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { source } => write!(f, "bind {source:?}"),
            Self::Overlay(Overlay { lowers, upper, .. })
            | Self::FuseOverlay(Overlay { lowers, upper, .. }) => {
                let by = if matches!(self, Self::FuseOverlay(_)) { "fuse-" } else { "" };
                write!(f, "{by}overlay of {} layers, top {:?}", lowers.len(), lowers.first())?;
                upper.as_ref().map_or(Ok(()), |upper| write!(f, ", changes in {:?}", upper.dir))
            }
        }
    }
}
