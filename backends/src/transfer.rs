//! Copying between two places that others may change meanwhile: what a person copies into a tree or out of it.
//!
//! Other than [`replicate`](crate::replicate), which fills an empty directory of ours from a tree that stands still, this goes into
//! what is there: directories become one, everything else takes the place of what has its name in one rename, so that no link is
//! ever written through. Each step is one name below an open directory, never followed: who swaps a directory for a link meanwhile gets
//! an error, and gains nothing.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;

use crate::attributes::{Attributes, PERMISSIONS, Xattrs};
use crate::backend::Cost;
use crate::data;
use crate::dir::{Dir, EntryType, Times};
use crate::entry::Quoted;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// What is kept.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Owners, set-user-id bits, extended attributes and hard links too. Without, the copies are the caller's, with the permissions and the
    /// modification time of what is copied.
    pub archive: bool,
    /// May devices be made?
    pub devices: bool,
    /// What user and group of the source become in the target.
    pub owner: &'a dyn Fn(u32, u32) -> (u32, u32),
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("archive", &self.archive).field("devices", &self.devices).finish()
    }
}

struct Transfer<'a> {
    from: &'a Dir,
    to: &'a Dir,
    options: Options<'a>,
    cost: Cost,
    /// Inodes with several names, and where the first of them is in the target.
    first: HashMap<(u64, u64), PathBuf>,
}

/// Copies `name` in `from` to `target` in `to`, with all that is below it.
///
/// An existing directory is merged with one that is copied and keeps its own attributes; anything else that is in the way is replaced by
/// what is no directory, and an error where a directory would have to replace it. A failure or a kill leaves what was copied, and at most one
/// file of a name that begins with `.rootling-`. Nothing is synced. O(entries).
pub fn transfer(from: &Dir, name: &OsStr, to: &Dir, target: &OsStr, options: Options<'_>) -> Result<Cost> {
    let started = std::time::Instant::now();
    let stat = from.stat(name)?;
    if EntryType::of_mode(stat.st_mode) != EntryType::Directory {
        let mut transfer = Transfer { from, to, options, cost: Cost::default(), first: HashMap::new() };
        transfer.entry(from, name, &stat, to, Path::new(""), target)?;
        transfer.cost.elapsed = started.elapsed();
        return Ok(transfer.cost);
    }
    let source = from.open_dir(name)?;
    let is_new = make_or_find(to, target)?;
    let place = to.open_dir(target)?;
    let mut transfer =
        Transfer { from: &source, to: &place, options, cost: Cost::default(), first: HashMap::new() };
    transfer.cost.directories += u64::from(is_new);
    transfer.tree()?;
    if is_new {
        transfer.finish(&source, &place)?;
    }
    transfer.cost.elapsed = started.elapsed();
    Ok(transfer.cost)
}

/// Copies what is in `from` into `to`, as [`transfer`] does with a directory that is there.
pub fn transfer_content(from: &Dir, to: &Dir, options: Options<'_>) -> Result<Cost> {
    let started = std::time::Instant::now();
    let mut transfer = Transfer { from, to, options, cost: Cost::default(), first: HashMap::new() };
    transfer.tree()?;
    transfer.cost.elapsed = started.elapsed();
    Ok(transfer.cost)
}

/// Makes a directory that only its owner enters, or finds one; returns whether it was made.
fn make_or_find(to: &Dir, name: &OsStr) -> Result<bool> {
    match to.make_dir(name, 0o700) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => return made.map(|()| true),
    }
    if EntryType::of_mode(to.stat(name)?.st_mode) == EntryType::Directory {
        return Ok(false);
    }
    let message = format!("{} is there and is no directory", to.path().join(name).display());
    Err(Error::new(ErrorKind::AlreadyExists, message).hint("remove it first, or name another place"))
}

impl Transfer<'_> {
    fn tree(&mut self) -> Result<()> {
        let own = self.to.stat_self()?;
        let mut made = Vec::new();
        // Paths, not descriptors: the depth of a tree must not cost open files.
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let (from, to) = (self.from.open_deep(&path)?, self.to.open_deep(&path)?);
            for entry in from.entries()? {
                // Gone since the listing.
                let Some(stat) = from.stat_if_exists(&entry.name)? else { continue };
                if EntryType::of_mode(stat.st_mode) != EntryType::Directory {
                    self.entry(&from, &entry.name, &stat, &to, &path, &entry.name)?;
                    continue;
                }
                if (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino) {
                    let message = format!("{} lies in what is copied to it", self.to.path().display());
                    return Err(Error::new(ErrorKind::InvalidInput, message).hint("name another place"));
                }
                let below = path.join(&entry.name);
                if make_or_find(&to, &entry.name)? {
                    self.cost.directories += 1;
                    made.push(below.clone());
                }
                pending.push(below);
            }
        }
        // The deepest last made come first: making an entry moves its directory's time.
        for path in made.iter().rev() {
            let (from, to) = (self.from.open_deep(path)?, self.to.open_deep(path)?);
            self.finish(&from, &to)?;
        }
        Ok(())
    }

    /// Gives a directory that was made what the other has.
    fn finish(&self, from: &Dir, to: &Dir) -> Result<()> {
        let stat = from.stat_self()?;
        let attributes = Attributes::of_open(from, &stat, Xattrs::WithoutOverlay, from)?;
        let now = to.stat_self()?;
        self.kept(attributes, &now).apply_to_open(to, &now, to)
    }

    /// What the copy of an inode gets, whose own are `now`.
    fn kept(&self, attributes: Attributes, now: &FileStat) -> Attributes {
        if self.options.archive {
            let (user, group) = (self.options.owner)(attributes.user, attributes.group);
            return Attributes { user, group, ..attributes };
        }
        Attributes {
            mode: attributes.mode & PERMISSIONS & 0o1777,
            user: now.st_uid,
            group: now.st_gid,
            xattrs: Vec::new(),
            times: Times { accessed: Times::of(now).accessed, modified: attributes.times.modified },
        }
    }

    /// Copies one name that is not a directory to `target` in `to`, which is at `path` below the target's root.
    fn entry(
        &mut self,
        from: &Dir,
        name: &OsStr,
        stat: &FileStat,
        to: &Dir,
        path: &Path,
        target: &OsStr,
    ) -> Result<()> {
        let there = to.stat_if_exists(target)?;
        if there.is_some_and(|there| EntryType::of_mode(there.st_mode) == EntryType::Directory) {
            let message = format!("{} is a directory", to.path().join(target).display());
            return Err(
                Error::new(ErrorKind::AlreadyExists, message).hint("remove it first, or name another place")
            );
        }
        let aside = aside()?;
        let made = self.make(from, name, stat, to, path, target, &aside).and_then(|()| {
            nix::fcntl::renameat(to.as_fd(), aside.as_os_str(), to.as_fd(), target)
                .context(|| format!("renameat({to}, {aside:?}, {target:?})"))
        });
        if made.is_err() {
            // Best effort: the first error is the one to tell.
            to.unlink(&aside).unwrap_or_default();
        }
        made
    }

    #[expect(clippy::too_many_arguments, reason = "a name in one place and two names in another")]
    fn make(
        &mut self,
        from: &Dir,
        name: &OsStr,
        stat: &FileStat,
        to: &Dir,
        path: &Path,
        target: &OsStr,
        aside: &OsStr,
    ) -> Result<()> {
        if self.options.archive && stat.st_nlink > 1 {
            let place = path.join(target);
            if let Some(first) = self.first.get(&(stat.st_dev, stat.st_ino)) {
                let dir = self.to.open_deep(first.parent().unwrap_or(Path::new("")))?;
                self.cost.others += 1;
                return to.make_link(aside, &dir, first.file_name().unwrap_or_default());
            }
            self.first.insert((stat.st_dev, stat.st_ino), place);
        }
        match EntryType::of_mode(stat.st_mode) {
            EntryType::File => return self.file(from, name, to, aside),
            EntryType::Symlink => to.make_symlink(aside, &from.read_link(name)?)?,
            EntryType::CharDevice | EntryType::BlockDevice if !self.options.devices => {
                let message = format!("{} is a device", from.path().join(name).display());
                return Err(Error::new(ErrorKind::PermissionDenied, message)
                    .hint("leave it out; root copies devices with --archive"));
            }
            _ => to.make_node(aside, stat.st_mode & (libc::S_IFMT | 0o600), stat.st_rdev)?,
        }
        self.cost.others += 1;
        let attributes = Attributes::of_entry(from, name, stat, Xattrs::WithoutOverlay)?;
        let now = to.stat(aside)?;
        self.kept(attributes, &now).apply_to_entry(to, aside, &now)
    }

    fn file(&mut self, from: &Dir, name: &OsStr, to: &Dir, aside: &OsStr) -> Result<()> {
        let source = from.open_file(name)?;
        let stat = nix::sys::stat::fstat(&source).context(|| format!("fstat({from}, {name:?})"))?;
        if EntryType::of_mode(stat.st_mode) != EntryType::File {
            let message = format!("{} was changed while it was copied", from.path().join(name).display());
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("try again"));
        }
        let target = to.create_file(aside, 0o600)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        match data::clone(&source, &target, size) {
            Ok(()) => {
                self.cost.files_cloned += 1;
                self.cost.bytes_cloned += size;
            }
            Err(errno) if data::is_final(errno) => {
                return Err(Error::call(format!("ioctl(FICLONE, {from}, {name:?})"), errno));
            }
            Err(_) => {
                let copied = data::copy(&source, &target, &stat);
                self.cost.bytes_copied +=
                    copied.context(|| format!("copy the data of {}", Quoted(from, name)))?;
                self.cost.files_copied += 1;
            }
        }
        let attributes = Attributes::of_open(&source, &stat, Xattrs::WithoutOverlay, from)?;
        let now = nix::sys::stat::fstat(&target).context(|| format!("fstat({to}, {aside:?})"))?;
        self.kept(attributes, &now).apply_to_open(target.as_fd(), &now, &Quoted(to, aside))
    }
}

/// A name that nobody has guessed.
fn aside() -> Result<OsString> {
    let mut bytes = [0; 8];
    sys::random(&mut bytes).context(|| "getrandom()")?;
    Ok(format!(".rootling-{:016x}", u64::from_ne_bytes(bytes)).into())
}
