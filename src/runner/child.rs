//! The child's side of a plan: system calls only.
//!
//! Nothing here allocates, takes a lock, prints or panics, because the process is a copy of one that may have
//! had other threads (as under a test harness): their locks are held for ever. A failure is sent as a number.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag};
use nix::mount::{MntFlags, MsFlags};
use nix::pty::Winsize;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags};
use rootling_backends::sys as kernel;
use rootling_backends::sys::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

use super::plan::{Base, Command, Like, NewFs, Op};
use super::report::{self, Kind};
use super::{caps, command, landlock, sys, target};

type Result<T> = nix::Result<T>;

/// The child's descriptors have no owner: the last steps close all at once.
pub(super) type Fd = BorrowedFd<'static>;

/// What the child starts with and opens on its way.
#[derive(Debug)]
pub(super) struct Child<'a> {
    /// Where failures go.
    pub(super) report: BorrowedFd<'a>,
    /// The root filesystem's detached mount; it comes with [`Op::Wait`] where the child's own id maps are needed to make it.
    pub(super) root: Option<BorrowedFd<'a>>,
    /// What the caller opened for us, in the plan's order.
    pub(super) sources: &'a [OwnedFd],
    /// Room for those of them that come later.
    pub(super) late: &'a mut [Option<Fd>],
    /// Our bounding set before anything is dropped.
    pub(super) bounding: u64,
    /// What becomes of us; its user owns the terminal.
    pub(super) command: &'a Command,
    /// The terminal's first size.
    pub(super) size: Option<Winsize>,
    /// The command's end of the terminal.
    pub(super) terminal: Option<Fd>,
    held: Held<'a>,
}

#[derive(Debug, Default)]
struct Held<'a> {
    proc: Option<Fd>,
    sys: Option<Fd>,
    dev: Option<BorrowedFd<'a>>,
    null: Option<Fd>,
    /// A clone of `null` that covers nothing yet.
    cover: Option<Fd>,
    empty: Option<Fd>,
    /// The mount point that the last step found or made.
    target: Option<Fd>,
}

impl<'a> Child<'a> {
    /// Starts with nothing opened.
    pub(super) fn new(
        report: BorrowedFd<'a>,
        root: Option<BorrowedFd<'a>>,
        bounding: u64,
        command: &'a Command,
    ) -> Self {
        Self {
            report,
            root,
            sources: &[],
            late: &mut [],
            bounding,
            command,
            size: None,
            terminal: None,
            held: Held::default(),
        }
    }

    /// Runs the plan's steps in order; the first failure is reported and ends the process.
    pub(super) fn set_up(&mut self, ops: &[Op]) {
        for (index, op) in ops.iter().enumerate() {
            match self.step(index, op) {
                Ok(()) => {}
                // What is shown there is left out then, and says so.
                Err(_) if matches!(op, Op::MountPoint { optional: true, .. }) => {}
                Err(errno) if matches!((op, errno), (Op::File { optional: true, .. }, Errno::ENOENT)) => {
                    report::send(self.report, Kind::Note, index, errno as i32, None);
                }
                Err(errno) => {
                    report::send(self.report, Kind::Step, index, errno as i32, None);
                    sys::exit(125);
                }
            }
        }
    }

    fn step(&mut self, index: usize, op: &Op) -> Result<()> {
        match op {
            Op::Wait => self.wait(),
            Op::DieWithParent => die_with_parent(self.report),
            Op::BecomeRoot => become_root(),
            Op::CgroupNamespace => sys::unshare(libc::CLONE_NEWCGROUP),
            Op::SlavePropagation => {
                let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
                nix::mount::mount(None::<&CStr>, c"/", None::<&CStr>, flags, None::<&CStr>)
            }
            Op::AttachRoot { attributes } => self.attach_root(*attributes),
            Op::Either { first, second } => self.step(index, first).or_else(|_| self.step(index, second)),
            Op::Mount { new, base, target, resolve, make, optional, keep } => {
                let mounted = new_mount(new).and_then(|mount| {
                    if *resolve {
                        target::attach(mount, self.mount_point(target)?)?;
                    } else {
                        self.attach(index, mount, *base, target, *make)?;
                    }
                    Ok(mount)
                });
                match mounted {
                    Ok(mount) => self.keep(*keep, mount),
                    // Best effort: an optional file system is a view that the box can do without.
                    Err(_) if *optional => {}
                    Err(errno) => return Err(errno),
                }
                Ok(())
            }
            Op::BindHost { source, recursive, base, target, attributes, keep } => {
                let mount = self.bind_host(index, (source, *recursive), *base, target, *attributes)?;
                self.keep(*keep, mount);
                Ok(())
            }
            Op::Device { source, target, device } => self.device(source, target, *device),
            Op::AttachDev { source } => {
                let dev = self.source(*source)?;
                self.attach(index, dev, Base::Root, c"dev", true)?;
                self.held.dev = Some(dev);
                self.held.null = Some(sys::leave(kernel::open_tree_clone(dev, c"null", false)?));
                Ok(())
            }
            Op::DevDirectory { path, mode } => self.dev_directory(path, Mode::from_bits_truncate(*mode)),
            Op::ShowDevice { source, target } => {
                let device = self.source(*source)?;
                self.show_in_dev(device, target)
            }
            Op::ShowDirectory { source, target, attributes } => {
                let mount = self.source(*source)?;
                kernel::mount_setattr(mount, *attributes, libc::MS_PRIVATE, true)?;
                nix::sys::stat::mkdirat(self.dev()?, target.as_c_str(), Mode::S_IRWXU)?;
                // By name: nobody else reaches this file system yet.
                kernel::move_mount_to(mount, self.dev()?, target)
            }
            Op::DevLink { name, target } => {
                nix::unistd::symlinkat(target.as_c_str(), self.dev()?, name.as_c_str())
            }
            Op::Receive { source } => self.receive(*source),
            Op::MountPoint { parts, like, .. } => {
                let directory = self.is_directory(*like)?;
                let found = target::make(self.root()?, parts, directory, self.report, index)?;
                self.held.target = Some(found);
                Ok(())
            }
            Op::Bind { source, target, attributes, follows_host } => {
                let propagation = if *follows_host { libc::MS_SLAVE } else { libc::MS_PRIVATE };
                self.bind(*source, target, *attributes, propagation)
            }
            Op::File { name, target, content, mode, owner, attributes, optional: _ } => {
                let place = match target {
                    Some(target) => Some(self.mount_point(target)?),
                    None => None,
                };
                let file = self.write_file(name, content, (*mode, *owner))?;
                self.show_file(file.as_fd(), name, place, *attributes)
            }
            Op::Sysctl { path, value } => self.sysctl(path, value),
            Op::ReadOnly { base, path } => self.read_only(*base, path),
            Op::Mask { base, path } => self.mask(*base, path),
            Op::Loopback => sys::loopback_up(),
            Op::Pivot => self.pivot(),
            Op::MakeDirectory { parent, name } => make_directory(parent, name),
            Op::Hostname { name } => nix::unistd::sethostname(lossless(name)),
            Op::Terminal => self.open_terminal(),
            // ENOSYS: a kernel without keyrings has none to leave.
            Op::Keyring => ignore(sys::new_session_keyring(), Errno::ENOSYS),
            Op::Umask => {
                nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
                Ok(())
            }
            Op::Seccomp => command::install_seccomp(self.command),
            Op::DropCapabilities { keep } => caps::drop_all_but(*keep, self.bounding),
            Op::NoNewPrivileges => no_new_privileges(),
            Op::Landlock => landlock::shut_out(self.root()?),
        }
    }

    /// The end of the stream instead of a message means that the caller has given up, and has its own reason.
    fn wait(&mut self) -> Result<()> {
        let (length, tree) = sys::receive_file(self.report, &mut [0])?;
        if length == 0 {
            sys::exit(125);
        }
        if let Some(tree) = tree {
            self.root = Some(sys::leave(tree));
        }
        Ok(())
    }

    fn receive(&mut self, source: usize) -> Result<()> {
        let (length, file) = sys::receive_file(self.report, &mut [0])?;
        if length == 0 {
            sys::exit(125);
        }
        let place = self.late.get_mut(source).ok_or(Errno::EBADF)?;
        *place = Some(sys::leave(file.ok_or(Errno::EBADF)?));
        Ok(())
    }

    // ------------------------------------------------------------ places

    fn is_directory(&self, like: Like) -> Result<bool> {
        match like {
            Like::Directory => Ok(true),
            Like::File => Ok(false),
            Like::Source(source) => Ok(fstat(self.source(source)?)?.st_mode & libc::S_IFMT == libc::S_IFDIR),
        }
    }

    fn base(&self, base: Base) -> Result<BorrowedFd<'a>> {
        let held = match base {
            Base::Root => return self.root(),
            Base::Proc => &self.held.proc,
            Base::Sys => &self.held.sys,
            Base::Dev => &self.held.dev,
        };
        held.ok_or(Errno::EBADF)
    }

    fn root(&self) -> Result<BorrowedFd<'a>> {
        self.root.ok_or(Errno::EBADF)
    }

    fn dev(&self) -> Result<BorrowedFd<'a>> {
        self.base(Base::Dev)
    }

    fn source(&self, index: usize) -> Result<BorrowedFd<'a>> {
        if let Some(Some(late)) = self.late.get(index) {
            return Ok(*late);
        }
        self.sources.get(index).map(AsFd::as_fd).ok_or(Errno::EBADF)
    }

    fn keep(&mut self, keep: Option<Base>, mount: Fd) {
        match keep {
            Some(Base::Proc) => self.held.proc = Some(mount),
            Some(Base::Sys) => self.held.sys = Some(mount),
            Some(Base::Dev) => self.held.dev = Some(mount),
            Some(Base::Root) | None => {}
        }
    }

    // ------------------------------------------------------------ mounts

    /// Attaches over `/`: the one directory that is there on every host. Absolute paths still start at the
    /// host's root, because a process's root directory does not move when something is mounted over it.
    fn attach_root(&self, attributes: u64) -> Result<()> {
        let private = libc::MS_PRIVATE;
        kernel::mount_setattr(self.root()?, attributes, private, true)?;
        kernel::move_mount_to(self.root()?, AT_FDCWD, c"/")
    }

    /// Attaches at a directory whose last name is not followed, making it where asked; what is made in the tree is told. A link, or a
    /// file, is `EINVAL`.
    fn attach(&self, op: usize, mount: BorrowedFd<'_>, base: Base, path: &CStr, make: bool) -> Result<()> {
        let at = self.base(base)?;
        if make && base == Base::Dev {
            // Our own file system, where nothing is yet; what is asked for twice is there the second time.
            ignore(nix::sys::stat::mkdirat(at, path, Mode::from_bits_truncate(0o755)), Errno::EEXIST)?;
        }
        match kernel::move_mount_to(mount, at, path) {
            Err(Errno::ENOENT) if make && base == Base::Root => {
                target::make_stub(at, path, true, self.report, (op, 0))?;
                kernel::move_mount_to(mount, at, path)
            }
            other => other,
        }
    }

    fn bind_host(
        &self,
        op: usize,
        (source, recursive): (&CStr, bool),
        base: Base,
        target: &CStr,
        attributes: u64,
    ) -> Result<Fd> {
        let clone = match kernel::open_tree_clone(AT_FDCWD, source, recursive) {
            // In a user namespace the mounts below are locked to it: only together.
            Err(Errno::EINVAL) => kernel::open_tree_clone(AT_FDCWD, source, true)?,
            other => other?,
        };
        let clone = sys::leave(clone);
        kernel::mount_setattr(clone.as_fd(), attributes, libc::MS_PRIVATE, true)?;
        self.attach(op, clone, base, target, true)?;
        Ok(clone)
    }

    fn device(&mut self, source: &CStr, target: &CStr, device: (u32, u32)) -> Result<()> {
        let clone = sys::leave(kernel::open_tree_clone(AT_FDCWD, source, false)?);
        let stat = fstat(clone)?;
        let expected = libc::makedev(device.0, device.1);
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != expected {
            return Err(Errno::ENXIO);
        }
        self.show_in_dev(clone, target)?;
        if device == (1, 3) {
            self.held.null = Some(clone);
        }
        Ok(())
    }

    fn dev_directory(&self, path: &CStr, mode: Mode) -> Result<()> {
        let dev = self.dev()?;
        ignore(nix::sys::stat::mkdirat(dev, path, mode), Errno::EEXIST)?;
        if mode.contains(Mode::S_ISVTX) {
            // The umask took some of it.
            nix::sys::stat::fchmodat(dev, path, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
        }
        Ok(())
    }

    fn show_in_dev(&self, clone: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        nix::sys::stat::mknodat(self.dev()?, name, SFlag::S_IFREG, Mode::S_IRUSR, 0)?;
        // By name: nobody else reaches this file system yet.
        kernel::move_mount_to(clone.as_fd(), self.dev()?, name)
    }

    /// The mount point that the step before found, which is the one that was made if any was.
    fn mount_point(&mut self, path: &CStr) -> Result<Fd> {
        let target = match self.held.target.take() {
            Some(target) => target,
            None => target::resolve_or_cover(self.root()?, path)?,
        };
        target::refuse_kernels(target, self.dev()?)?;
        Ok(target)
    }

    fn bind(&mut self, source: usize, target: &CStr, attributes: u64, propagation: u64) -> Result<()> {
        let mount = self.source(source)?;
        kernel::mount_setattr(mount, attributes, propagation, true)?;
        target::attach(mount, self.mount_point(target)?)
    }

    fn sysctl(&self, path: &CStr, value: &CStr) -> Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let sysctls = sys::leave(nix::fcntl::openat(self.base(Base::Proc)?, c"sys", flags, Mode::empty())?);
        write_once(sysctls, path, value)
    }

    /// Writes a file in `/dev`, from where it is shown: a clone can only be taken of what is attached (before Linux 6.15).
    ///
    /// The file is to be closed before the command is executed: it may be the command.
    fn write_file(
        &self,
        name: &CStr,
        mut content: &[u8],
        (mode, owner): (u32, (u32, u32)),
    ) -> Result<OwnedFd> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        let file = nix::fcntl::openat(self.dev()?, name, flags, mode)?;
        if owner != (0, 0) {
            nix::unistd::fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
        }
        // The umask took some of it, or the new owner did.
        if owner != (0, 0) || mode.intersects(Mode::S_IWGRP | Mode::S_IWOTH) {
            nix::sys::stat::fchmod(&file, mode)?;
        }
        while !content.is_empty() {
            let written = nix::unistd::write(&file, content)?;
            content = content.get(written..).unwrap_or_default();
        }
        Ok(file)
    }

    /// Shows it over one of the tree, where its name in `/dev` then goes, or where it is.
    fn show_file(&self, file: BorrowedFd<'_>, name: &CStr, place: Option<Fd>, attributes: u64) -> Result<()> {
        let clone = sys::leave(kernel::open_tree_clone(file, c"", false)?);
        // It comes with those of `/dev`, which may have nodes: what may not be done with one matters to no file.
        const OF_DEV: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
        if attributes & !MOUNT_ATTR_NODEV != OF_DEV {
            kernel::mount_change(clone, attributes, (OF_DEV | MOUNT_ATTR_NODEV) & !attributes)?;
        }
        match place {
            Some(place) => {
                kernel::move_mount(clone, place)?;
                nix::unistd::unlinkat(self.dev()?, name, UnlinkatFlags::NoRemoveDir)
            }
            None => kernel::move_mount_to(clone, self.dev()?, name),
        }
    }

    fn read_only(&self, base: Base, path: &CStr) -> Result<()> {
        let base = self.base(base)?;
        let clone = match kernel::open_tree_clone(base, path, false) {
            Err(Errno::ENOENT) => return Ok(()),
            clone => sys::leave(clone?),
        };
        kernel::mount_setattr(clone.as_fd(), MOUNT_ATTR_RDONLY, 0, false)?;
        // By name: the bases are file systems of the kernel, whose names lead nowhere else.
        kernel::move_mount_to(clone.as_fd(), base, path)
    }

    /// The null device is the host's, checked: one inside could have been swapped for a link. Which of the two covers fits is found
    /// by trying: a file covers no directory and the other way round. By name: as in `read_only`.
    fn mask(&mut self, base: Base, path: &CStr) -> Result<()> {
        let at = self.base(base)?;
        let null = match self.held.cover.take() {
            Some(cover) => cover,
            None => sys::leave(kernel::open_tree_clone(self.held.null.ok_or(Errno::EBADF)?, c"", false)?),
        };
        match kernel::move_mount_to(null, at, path) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => {
                // Nothing to hide: the cover is for the next one.
                self.held.cover = Some(null);
                Ok(())
            }
            // do_move_mount (fs/namespace.c): a file on a directory.
            Err(Errno::EINVAL | Errno::ENOTDIR) => {
                self.held.cover = Some(null);
                let empty = self.empty()?;
                kernel::move_mount_to(empty, self.base(base)?, path)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Returns a mount of an empty directory: one file system for all, because taking many down is slow.
    fn empty(&mut self) -> Result<Fd> {
        if let Some(empty) = self.held.empty {
            return kernel::open_tree_clone(empty, c"", false).map(sys::leave);
        }
        let context = sys::leave(kernel::fsopen(c"tmpfs")?);
        kernel::fsconfig_string(context.as_fd(), c"nr_inodes", c"1")?;
        kernel::fsconfig_create(context.as_fd())?;
        let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let mount = sys::leave(kernel::fsmount(context.as_fd(), attributes)?);
        self.held.empty = Some(mount);
        Ok(mount)
    }

    fn pivot(&self) -> Result<()> {
        nix::unistd::fchdir(self.root()?)?;
        // pivot_root(2), NOTES: "." twice stacks the old root on the new one, so no directory is needed for it.
        nix::unistd::pivot_root(c".", c".")?;
        nix::mount::umount2(c".", MntFlags::MNT_DETACH)?;
        nix::unistd::chdir(c"/")
    }

    fn open_terminal(&mut self) -> Result<()> {
        let peer = open_terminal(self.report, self.dev()?, self.command.user.uid, self.size.as_ref())?;
        let clone = sys::leave(kernel::open_tree_clone(peer.as_fd(), c"", false)?);
        self.show_in_dev(clone, c"console")?;
        self.terminal = Some(peer);
        Ok(())
    }
}

/// *child*: becomes root of the user namespace that the process is in by now.
pub(super) fn become_root() -> Result<()> {
    // The caller's groups came along: in the new namespace they are unmapped and mean nothing, but they still open files.
    sys::set_identity(0, 0, Some(&[])).or_else(|errno| match errno {
        // A map of a single id comes with setgroups denied.
        Errno::EPERM => sys::set_identity(0, 0, None),
        errno => Err(errno),
    })?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0)
}

/// In the box's root, which `/` is by then. Links are the tree's own business, those of /proc are ours.
fn make_directory(parent: &CStr, name: &CStr) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let parent = sys::leave(nix::fcntl::openat2(AT_FDCWD, parent, how)?);
    ignore(nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755)), Errno::EEXIST)
}

/// Writes a whole text in one call, as files of proc want it.
fn write_once(at: BorrowedFd<'_>, path: &CStr, text: &CStr) -> Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = sys::leave(nix::fcntl::openat(at, path, flags, Mode::empty())?);
    nix::unistd::write(file, text.to_bytes()).map(drop)
}

/// *child*: opens a new terminal of the devpts in `dev`, sends the master away, returns the other end.
pub(super) fn open_terminal(
    report: BorrowedFd<'_>,
    dev: BorrowedFd<'_>,
    uid: u32,
    size: Option<&Winsize>,
) -> Result<Fd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let master = sys::leave(nix::fcntl::openat(dev, c"pts/ptmx", flags, Mode::empty())?);
    // Somebody inside may have mounted or made something else there.
    let real = nix::sys::statfs::fstatfs(master)?.filesystem_type() == nix::sys::statfs::DEVPTS_SUPER_MAGIC;
    if !real || fstat(master)?.st_rdev != libc::makedev(5, 2) {
        return Err(Errno::ENXIO);
    }
    let peer = sys::leave(sys::pty_peer(master.as_fd())?);
    nix::unistd::fchown(peer, Some(nix::unistd::Uid::from_raw(uid)), None)?;
    if let Some(size) = size {
        sys::set_window_size(master.as_fd(), size)?;
    }
    report::send(report, Kind::Terminal, 0, 0, Some(master.as_fd()));
    Ok(peer)
}

/// *child*: asks to be killed when the parent dies, and finds out whether it already has.
pub(super) fn die_with_parent(report: BorrowedFd<'_>) -> Result<()> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    // In a new pid namespace getppid is always 0; a closed socket tells as well.
    match sys::receive(report, &mut [0], false) {
        Ok(0) => sys::exit(125),
        _ => Ok(()),
    }
}

/// *child*: no set-user-id, and nobody inside looks into this process: it still is the host's program.
pub(super) fn no_new_privileges() -> Result<()> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Linux before 6.14 looks at the options of some file systems only when it makes them: then all wishes are left out.
fn new_mount(new: &NewFs) -> Result<Fd> {
    match new_mount_with(new, &new.wishes) {
        Err(Errno::EINVAL) if !new.wishes.is_empty() => new_mount_with(new, &[]),
        other => other,
    }
}

fn new_mount_with(new: &NewFs, wishes: &[(CString, CString)]) -> Result<Fd> {
    let context = sys::leave(kernel::fsopen(&new.fs)?);
    let set = |key: &CStr, value: &CStr| {
        if value.is_empty() {
            kernel::fsconfig_flag(context.as_fd(), key)
        } else {
            kernel::fsconfig_string(context.as_fd(), key, value)
        }
    };
    for (key, value) in &new.options {
        set(key, value)?;
    }
    for (key, value) in wishes {
        // Best effort: the kernel refuses what this user namespace cannot express.
        set(key, value).ok();
    }
    kernel::fsconfig_create(context.as_fd())?;
    kernel::fsmount(context.as_fd(), new.attributes).map(sys::leave)
}

fn ignore(result: Result<()>, harmless: Errno) -> Result<()> {
    match result {
        Err(errno) if errno == harmless => Ok(()),
        other => other,
    }
}

fn lossless(text: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(text.to_bytes())
}
