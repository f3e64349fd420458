//! Copying one name that is not a directory: data, attributes, hard links, and the account of it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use crate::attributes::{Attributes, Owners, PERMISSIONS, Xattrs};
use crate::backend::Cost;
use crate::data;
use crate::dir::{Dir, EntryType};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::replace::Scratch;
use crate::walk;

/// How the data of files gets into a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CloneMode {
    /// Share it; fail where a file cannot be.
    Always,
    /// Share it; copy each file that cannot be, and say which and why.
    #[default]
    Auto,
    /// Copy it, with its holes.
    Never,
}

/// How many reasons for copying are kept.
const REASONS: usize = 20;

/// Copies entries of trees and remembers what it did.
#[derive(Debug)]
pub(crate) struct Copier {
    clone: CloneMode,
    xattrs: Xattrs,
    owners: Owners,
    /// Where entries replace others.
    scratch: Option<Scratch>,
    links: Mutex<Links>,
    tally: Tally,
}

/// Inodes with more than one name: where the first is, and which others wait for it.
#[derive(Debug, Default)]
struct Links {
    first: HashMap<(u64, u64), PathBuf>,
    waiting: Vec<(PathBuf, PathBuf)>,
}

#[derive(Debug, Default)]
struct Tally {
    directories: AtomicU64,
    files_cloned: AtomicU64,
    files_copied: AtomicU64,
    others: AtomicU64,
    bytes_cloned: AtomicU64,
    bytes_copied: AtomicU64,
    reasons: Mutex<Vec<(PathBuf, String)>>,
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl Copier {
    pub(crate) fn new(clone: CloneMode, xattrs: Xattrs) -> Self {
        Self {
            clone,
            xattrs,
            owners: Owners::Keep,
            scratch: None,
            links: Mutex::default(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn with_owners(self, owners: Owners) -> Self {
        Self { owners, ..self }
    }

    /// Lets each entry take the place of what stands under its name, in one step.
    pub(crate) fn replacing(self) -> Result<Self> {
        Ok(Self { scratch: Some(Scratch::new()?), ..self })
    }

    pub(crate) fn owners(&self) -> Owners {
        self.owners
    }

    pub(crate) fn xattrs(&self) -> Xattrs {
        self.xattrs
    }

    pub(crate) fn count_directories(&self, number: usize) {
        add(&self.tally.directories, number as u64);
    }

    /// Copies `name` in `from` to the same name in `to`, which is at `parent` in the new tree.
    ///
    /// A further name of an inode that was copied before only waits for [`make_links`](Self::make_links).
    pub(crate) fn copy(
        &self,
        from: &Dir,
        to: &Dir,
        parent: &Path,
        name: &OsStr,
        kind: EntryType,
    ) -> Result<()> {
        if kind != EntryType::File {
            let stat = from.stat(name)?;
            return self.copy_stat(from, to, parent, name, &stat);
        }
        let source = from.open_file(name)?;
        let stat = nix::sys::stat::fstat(&source).context(|| format!("fstat({from}, {name:?})"))?;
        if EntryType::of_mode(stat.st_mode) != EntryType::File {
            return self.copy_stat(from, to, parent, name, &stat);
        }
        if self.waits(&stat, parent, name) {
            return Ok(());
        }
        self.copy_file(&source, &stat, to, parent, name)
    }

    fn copy_stat(&self, from: &Dir, to: &Dir, parent: &Path, name: &OsStr, stat: &FileStat) -> Result<()> {
        if self.waits(stat, parent, name) {
            return Ok(());
        }
        match EntryType::of_mode(stat.st_mode) {
            EntryType::Directory => {
                let message = format!("{from}, {name:?} became a directory while it was copied");
                return Err(Error::new(ErrorKind::FailedPrecondition, message));
            }
            EntryType::File => {
                let source = from.open_file(name)?;
                return self.copy_file(&source, stat, to, parent, name);
            }
            _ => {}
        }
        add(&self.tally.others, 1);
        let attributes = Attributes::of_entry(from, name, stat, self.xattrs)?.owned(self.owners);
        self.place(to, name, |made| {
            match EntryType::of_mode(stat.st_mode) {
                EntryType::Symlink => to.make_symlink(made, &from.read_link(name)?)?,
                _ => to.make_node(made, stat.st_mode, stat.st_rdev).map_err(explain_node)?,
            }
            if self.scratch.is_some() {
                attributes.take_others_from_entry(to, made)?;
            }
            attributes.apply_to_entry(to, made, &to.stat(made)?)
        })
    }

    fn copy_file(&self, source: &File, stat: &FileStat, to: &Dir, parent: &Path, name: &OsStr) -> Result<()> {
        self.place(to, name, |made| {
            // Special bits only once the owner is right.
            let target = to.create_file(made, stat.st_mode & PERMISSIONS & 0o777)?;
            self.fill(source, stat, &target, parent, name)?;
            let what = Quoted(to, made);
            let attributes = Attributes::of_open(source, stat, self.xattrs, &what)?.owned(self.owners);
            if self.scratch.is_some() {
                attributes.take_others_from_open(&target, &what)?;
            }
            let now = nix::sys::stat::fstat(&target).context(|| format!("fstat({what})"))?;
            attributes.apply_to_open(target.as_fd(), &now, &what)
        })
    }

    /// Makes an entry under its name, or, where it replaces another, under a scratch name that is then moved over it.
    pub(crate) fn place(
        &self,
        to: &Dir,
        name: &OsStr,
        make: impl FnOnce(&OsStr) -> Result<()>,
    ) -> Result<()> {
        match &self.scratch {
            None => make(name),
            Some(scratch) => scratch.replace(to, name, make),
        }
    }

    fn fill(&self, source: &File, stat: &FileStat, target: &File, parent: &Path, name: &OsStr) -> Result<()> {
        let path = || parent.join(name);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if self.clone != CloneMode::Never {
            match data::clone(source, target, size) {
                Ok(()) => {
                    add(&self.tally.files_cloned, 1);
                    add(&self.tally.bytes_cloned, size);
                    return Ok(());
                }
                Err(errno) if data::is_final(errno) => {
                    return Err(Error::call(format!("ioctl(FICLONE, {:?})", path()), errno));
                }
                Err(errno) if self.clone == CloneMode::Always => {
                    let error = Error::call(format!("ioctl(FICLONE, {:?})", path()), errno);
                    return Err(error.with_kind(ErrorKind::Unsupported).hint(CLONE_HINT));
                }
                Err(errno) => self.remember(path(), errno),
            }
        }
        let copied = data::copy(source, target, stat).context(|| format!("copy the data of {:?}", path()))?;
        add(&self.tally.files_copied, 1);
        add(&self.tally.bytes_copied, copied);
        Ok(())
    }

    fn remember(&self, path: PathBuf, errno: Errno) {
        let mut reasons = self.tally.reasons.lock().expect("no thread panics while it holds the lock");
        if reasons.len() < REASONS {
            reasons.push((path, errno.desc().to_lowercase()));
        }
    }

    /// Notes a name of an inode that has several; true if an earlier one is copied and this one is to be linked to it.
    fn waits(&self, stat: &FileStat, parent: &Path, name: &OsStr) -> bool {
        if stat.st_nlink < 2 {
            return false;
        }
        let mut links = self.links.lock().expect("no thread panics while it holds the lock");
        let path = parent.join(name);
        match links.first.get(&(stat.st_dev, stat.st_ino)).cloned() {
            Some(first) => {
                links.waiting.push((first, path));
                true
            }
            None => {
                links.first.insert((stat.st_dev, stat.st_ino), path);
                false
            }
        }
    }

    /// Makes the further names of hard-linked inodes; call it once, after everything was copied.
    pub(crate) fn make_links(&self, target: &Dir) -> Result<()> {
        let mut links = self.links.lock().expect("no thread panics while it holds the lock");
        let waiting = std::mem::take(&mut links.waiting);
        for (first, name) in &waiting {
            let (first_dir, first_name) = open_parent(target, first)?;
            let (dir, name) = open_parent(target, name)?;
            self.place(&dir, name, |made| dir.make_link(made, &first_dir, first_name))?;
        }
        add(&self.tally.others, waiting.len() as u64);
        Ok(())
    }

    /// Returns the account.
    pub(crate) fn cost(self) -> Cost {
        let mut reasons = self.tally.reasons.into_inner().expect("no thread panics while it holds the lock");
        reasons.sort();
        Cost {
            snapshots: 0,
            directories: self.tally.directories.into_inner(),
            files_cloned: self.tally.files_cloned.into_inner(),
            files_copied: self.tally.files_copied.into_inner(),
            others: self.tally.others.into_inner(),
            bytes_cloned: self.tally.bytes_cloned.into_inner(),
            bytes_copied: self.tally.bytes_copied.into_inner(),
            copied_because: reasons,
            elapsed: std::time::Duration::ZERO,
        }
    }
}

const CLONE_HINT: &str = "allow copying where files cannot be cloned";

/// Opens the directory that holds `path` in a tree, and returns the last name with it.
pub(crate) fn open_parent<'p>(root: &Dir, path: &'p Path) -> Result<(Dir, &'p OsStr)> {
    let name = path.file_name().unwrap_or(OsStr::new("."));
    Ok((walk::open_below(root, path.parent().unwrap_or(Path::new("")))?, name))
}

/// An unprivileged process may make no device but the whiteout (0:0).
fn explain_node(error: Error) -> Error {
    match error.errno() {
        Some(Errno::EPERM) => error.hint("making device files needs root"),
        _ => error,
    }
}

/// A name in a directory, for messages.
pub(crate) struct Quoted<'a>(pub(crate) &'a Dir, pub(crate) &'a OsStr);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {:?}", self.0, self.1)
    }
}
