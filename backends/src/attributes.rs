//! What an inode has besides its content: owner, mode, times, extended attributes; read, and set in the right order.
//!
//! The order is chown, extended attributes, chmod, times: chown(2) clears setuid, setgid and
//! `security.capability`, and everything before it moves the times.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use crate::dir::{Dir, EntryType, Times};
use crate::entry::Quoted;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// Permission bits with setuid, setgid and sticky.
pub(crate) const PERMISSIONS: libc::mode_t = 0o7777;
const SPECIAL: libc::mode_t = 0o7000;

/// Which extended attributes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xattrs {
    /// All of them.
    All,
    /// All but OverlayFS's own (`trusted.overlay.*`, `user.overlay.*`).
    WithoutOverlay,
    /// All, and OverlayFS's own are an error: they would change their meaning where the copy is to lie.
    RefuseOverlay,
}

impl Xattrs {
    fn counts(self, name: &OsStr) -> bool {
        self == Self::All || !is_overlay_xattr(name)
    }

    /// Fails if an attribute says that the inode cannot be copied like this.
    fn check<'a>(self, mut names: impl Iterator<Item = &'a OsString>, what: &impl Display) -> Result<()> {
        match self {
            Self::WithoutOverlay if names.any(|name| name.as_bytes().ends_with(b".overlay.metacopy")) => {
                let message = format!("{what} was copied up with metacopy: its data is in another layer");
                Err(Error::new(ErrorKind::Unsupported, message).hint("write layers with metacopy=off"))
            }
            Self::RefuseOverlay if names.any(|name| is_overlay_xattr(name)) => {
                Err(Error::new(ErrorKind::Unsupported, format!("{what} has marks of OverlayFS of its own")))
            }
            _ => Ok(()),
        }
    }
}

/// Whose the copies are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owners {
    /// The owners of what is copied.
    #[default]
    Keep,
    /// The caller's.
    Caller,
    /// The owners of what is copied, and the caller's where those have no number in this user namespace: the kernel shows
    /// all of them as these two.
    CallerInsteadOf {
        /// `/proc/sys/kernel/overflowuid`.
        user: u32,
        /// `/proc/sys/kernel/overflowgid`.
        group: u32,
    },
}

/// Is this one of OverlayFS's own marks?
pub fn is_overlay_xattr(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"trusted.overlay.") || name.as_bytes().starts_with(b"user.overlay.")
}

/// Everything about an inode but its type and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: libc::mode_t,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Access and modification time.
    pub times: Times,
    /// Extended attributes, sorted by name: ACLs and capabilities too.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    fn new(stat: &FileStat, xattrs: Vec<(OsString, Vec<u8>)>) -> Self {
        let mode = stat.st_mode & PERMISSIONS;
        Self { mode, user: stat.st_uid, group: stat.st_gid, times: Times::of(stat), xattrs }
    }

    /// Reads those of an open file or directory; `what` is its name for messages.
    pub fn of_open(file: impl AsFd, stat: &FileStat, xattrs: Xattrs, what: &impl Display) -> Result<Self> {
        Ok(Self::new(stat, open_xattrs(file, xattrs, what)?))
    }

    /// Reads those of one name, which is not followed.
    pub fn of_entry(dir: &Dir, name: &OsStr, stat: &FileStat, xattrs: Xattrs) -> Result<Self> {
        let mut found = dir.xattrs(name)?;
        xattrs.check(found.iter().map(|(attribute, _)| attribute), &Quoted(dir, name))?;
        found.retain(|(attribute, _)| xattrs.counts(attribute));
        Ok(Self::new(stat, found))
    }

    /// Replaces the owners as `owners` says.
    pub(crate) fn owned(mut self, owners: Owners) -> Self {
        let (user, group) = match owners {
            Owners::Keep => (false, false),
            Owners::Caller => (true, true),
            Owners::CallerInsteadOf { user, group } => (self.user == user, self.group == group),
        };
        if user {
            self.user = nix::unistd::geteuid().as_raw();
        }
        if group {
            self.group = nix::unistd::getegid().as_raw();
        }
        self
    }

    /// Gives them to an open file or directory whose inode was `now` before; sets only what differs.
    pub fn apply_to_open(&self, file: impl AsFd, now: &FileStat, what: &impl Display) -> Result<()> {
        let file = file.as_fd();
        let (user, group) = self.new_owner(now);
        if user.is_some() || group.is_some() {
            nix::unistd::fchown(file, user, group)
                .context(|| format!("fchown({what}, {}, {})", self.user, self.group))?;
        }
        for (name, value) in &self.xattrs {
            sys::fsetxattr(file, name, value)
                .or_else(|errno| tolerate(errno, value, || sys::fgetxattr(file, name)))
                .context(|| format!("fsetxattr({what}, {name:?}, {} bytes)", value.len()))?;
        }
        if self.needs_chmod(now) {
            nix::sys::stat::fchmod(file, Mode::from_bits_truncate(self.mode))
                .context(|| format!("fchmod({what}, {:#o})", self.mode))?;
        }
        let accessed = TimeSpec::new(self.times.accessed.0, self.times.accessed.1);
        let modified = TimeSpec::new(self.times.modified.0, self.times.modified.1);
        nix::sys::stat::futimens(file, &accessed, &modified).context(|| format!("futimens({what})"))
    }

    /// Takes from an open file or directory the extended attributes that these are not among: what it had, or what it
    /// inherited from the directory it was made in.
    pub(crate) fn take_others_from_open(&self, file: impl AsFd, what: &impl Display) -> Result<()> {
        let file = file.as_fd();
        for name in self.others(open_xattrs(file, Xattrs::All, what)?) {
            forgive_gone(sys::fremovexattr(file, &name))
                .context(|| format!("fremovexattr({what}, {name:?})"))?;
        }
        Ok(())
    }

    /// Does the same to one name, which is not followed.
    pub(crate) fn take_others_from_entry(&self, dir: &Dir, name: &OsStr) -> Result<()> {
        for other in self.others(dir.xattrs(name)?) {
            forgive_gone(sys::lremovexattr(dir.as_fd(), name, &other))
                .context(|| format!("lremovexattr({dir}, {name:?}, {other:?})"))?;
        }
        Ok(())
    }

    /// Returns which of the attributes that an inode has are to go. A security module labels every file: labels stay.
    fn others(&self, present: Vec<(OsString, Vec<u8>)>) -> impl Iterator<Item = OsString> {
        let stays = |name: &OsString| {
            let is_wanted = self.xattrs.iter().any(|(wanted, _)| wanted == name);
            is_wanted || is_overlay_xattr(name) || name == "security.selinux" || name == "security.SMACK64"
        };
        present.into_iter().map(|(name, _)| name).filter(move |name| !stays(name))
    }

    /// Gives them to one name, which is not followed, and which this process just made; `now` is its inode.
    pub fn apply_to_entry(&self, dir: &Dir, name: &OsStr, now: &FileStat) -> Result<()> {
        if self.new_owner(now) != (None, None) {
            dir.set_owner(name, self.user, self.group)?;
        }
        for (attribute, value) in &self.xattrs {
            sys::lsetxattr(dir.as_fd(), name, attribute, value)
                .or_else(|errno| tolerate(errno, value, || sys::lgetxattr(dir.as_fd(), name, attribute)))
                .context(|| format!("lsetxattr({dir}, {name:?}, {attribute:?}, {} bytes)", value.len()))?;
        }
        if EntryType::of_mode(now.st_mode) != EntryType::Symlink && self.needs_chmod(now) {
            dir.set_mode_following_symlinks(name, self.mode)?;
        }
        dir.set_times(name, self.times)
    }

    fn new_owner(&self, now: &FileStat) -> (Option<Uid>, Option<Gid>) {
        let user = (self.user != now.st_uid).then(|| Uid::from_raw(self.user));
        let group = (self.group != now.st_gid).then(|| Gid::from_raw(self.group));
        (user, group)
    }

    /// Special bits are set again always: writing, cloning and chown may have cleared them. ACLs move the group bits.
    fn needs_chmod(&self, now: &FileStat) -> bool {
        self.mode != now.st_mode & PERMISSIONS || self.mode & SPECIAL != 0 || !self.xattrs.is_empty()
    }
}

/// XFS shows each ACL twice: the second form goes with the first.
fn forgive_gone(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENODATA) => Ok(()),
        other => other,
    }
}

/// A security module may refuse to set a label that the file already has; then nothing is lost.
fn tolerate(errno: Errno, wanted: &[u8], read: impl FnOnce() -> nix::Result<Vec<u8>>) -> nix::Result<()> {
    match read() {
        Ok(present) if present == wanted => Ok(()),
        _ => Err(errno),
    }
}

/// Returns the extended attributes of an open file or directory, sorted.
pub(crate) fn open_xattrs(
    file: impl AsFd,
    xattrs: Xattrs,
    what: &impl Display,
) -> Result<Vec<(OsString, Vec<u8>)>> {
    let file = file.as_fd();
    let mut names = match sys::flistxattr(file) {
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        other => other.context(|| format!("flistxattr({what})"))?,
    };
    xattrs.check(names.iter(), what)?;
    names.retain(|name| xattrs.counts(name));
    names.sort();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match sys::fgetxattr(file, &name) {
            Ok(value) => found.push((name, value)),
            // Listed and gone: somebody removed it between the two calls.
            Err(Errno::ENODATA) => {}
            Err(errno) => return Err(Error::call(format!("fgetxattr({what}, {name:?})"), errno)),
        }
    }
    Ok(found)
}
