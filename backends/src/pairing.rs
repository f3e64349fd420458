//! Turns candidates into changes: compares one path on both sides, for searches that know where to look.
//!
//! A search (a btrfs tree search, the walk of an upper directory) names paths that *may* differ. Everything it
//! names is compared here, so a search may name too much, never too little. What comes out equals, for these
//! paths, what [`diff_trees`] says.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::change::{Aspects, Change, ChangeKind, DiffOptions};
use crate::compare::{compare_entries, diff_trees};
use crate::dir::{Dir, EntryType};
use crate::error::{Context, Result};

/// What is left to do at a path after the entry itself was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing.
    Done,
    /// Both sides are directories: what is in them was not looked at.
    Children,
}

/// The changes found so far, by path.
#[derive(Debug)]
pub(crate) struct Changes {
    options: DiffOptions,
    found: BTreeMap<PathBuf, Change>,
}

impl Changes {
    pub(crate) fn new(options: DiffOptions) -> Self {
        Self { options, found: BTreeMap::new() }
    }

    /// Returns the changes, sorted by path, parents first.
    pub(crate) fn into_sorted(self) -> Vec<Change> {
        self.found.into_values().collect()
    }

    /// Compares what `name` stands for in both directories, without descending into two directories.
    pub(crate) fn entry(&mut self, old: &Dir, new: &Dir, name: &OsStr, path: &Path) -> Result<Rest> {
        let kind_of = |dir: &Dir| {
            dir.stat_if_exists(name).map(|stat| stat.map(|stat| EntryType::of_mode(stat.st_mode)))
        };
        match (kind_of(old)?, kind_of(new)?) {
            (None, None) => {}
            (Some(entry_type), None) => self.push(path, ChangeKind::Deleted, entry_type, Aspects::default()),
            (None, Some(entry_type)) => self.added(new, name, path, entry_type)?,
            (Some(before), Some(now)) => {
                let aspects = compare_entries((old, name), (new, name), self.options)?;
                if !aspects.is_empty() {
                    self.push(path, ChangeKind::Modified, now, aspects);
                }
                match (before, now) {
                    (EntryType::Directory, EntryType::Directory) => return Ok(Rest::Children),
                    (_, EntryType::Directory) => self.added_below(&new.open_dir(name)?, path)?,
                    _ => {}
                }
            }
        }
        Ok(Rest::Done)
    }

    /// Compares everything from `name` down; it is a directory on both sides.
    pub(crate) fn subtree(&mut self, old: &Dir, new: &Dir, name: &OsStr, path: &Path) -> Result<()> {
        for mut change in diff_trees(&old.open_dir(name)?, &new.open_dir(name)?, self.options)? {
            change.path = joined(path, &change.path);
            self.found.insert(change.path.clone(), change);
        }
        Ok(())
    }

    fn added(&mut self, new: &Dir, name: &OsStr, path: &Path, entry_type: EntryType) -> Result<()> {
        self.push(path, ChangeKind::Added, entry_type, Aspects::default());
        match entry_type {
            EntryType::Directory => self.added_below(&new.open_dir(name)?, path),
            _ => Ok(()),
        }
    }

    fn added_below(&mut self, dir: &Dir, path: &Path) -> Result<()> {
        for entry in dir.entries()? {
            let entry_type = match entry.entry_type {
                Some(entry_type) => entry_type,
                None => EntryType::of_mode(dir.stat(&entry.name)?.st_mode),
            };
            self.added(dir, &entry.name, &path.join(&entry.name), entry_type)?;
        }
        Ok(())
    }

    fn push(&mut self, path: &Path, kind: ChangeKind, entry_type: EntryType, aspects: Aspects) {
        self.found.insert(path.to_owned(), Change { path: path.to_owned(), kind, entry_type, aspects });
    }
}

/// Appends `below` to `path`; unlike `Path::join`, either may be empty without leaving a trailing slash.
pub(crate) fn joined(path: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) }
}

/// Opens the directory at `path` below `root`; symbolic links are refused, an empty path is `root` itself.
pub(crate) fn open_dir_beneath(root: &Dir, path: &Path) -> Result<Dir> {
    if path.as_os_str().is_empty() {
        return root.try_clone();
    }
    let fd = root.open_beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    Ok(Dir::from_fd(fd, root.path().join(path)))
}

/// Is the directory on btrfs?
pub(crate) fn is_on_btrfs(dir: &Dir) -> Result<bool> {
    let status = nix::sys::statfs::fstatfs(dir.as_fd()).context(|| format!("fstatfs({dir})"))?;
    Ok(status.filesystem_type() == nix::sys::statfs::BTRFS_SUPER_MAGIC)
}
