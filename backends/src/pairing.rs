//! Turns candidates into changes: compares one path on both sides, for searches that know where to look.
//!
//! A search (a btrfs tree search, the walk of an upper directory) names paths that *may* differ. Everything it
//! names is compared here, so a search may name too much, never too little. What comes out equals, for these
//! paths, what [`diff_trees`](crate::compare::diff_trees) says.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::change::{Aspects, Change, ChangeKind, DiffOptions};
use crate::compare::{added_recursively, compare_stats, diff_parts, sort};
use crate::dir::{Dir, EntryType};
use crate::error::Result;
use crate::links;

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
    /// What was compared and has several names; or something below it has.
    linked: BTreeSet<PathBuf>,
}

impl Changes {
    pub(crate) fn new(options: DiffOptions) -> Self {
        Self { options, found: BTreeMap::new(), linked: BTreeSet::new() }
    }

    /// Returns the changes, sorted by path, parents first, with what differs in links: of inodes that one of the names compared has, on
    /// either side.
    pub(crate) fn finish(self, old: &Dir, new: &Dir) -> Result<Vec<Change>> {
        let mut changes = self.found.into_values().collect::<Vec<_>>();
        if !self.linked.is_empty() {
            let is_near = |path: &Path| path.ancestors().any(|above| self.linked.contains(above));
            links::compare(old, new, is_near, &mut changes)?;
        }
        sort(&mut changes);
        Ok(changes)
    }

    /// Looks for names that are gone, or new, while others of the same inode stay: for a search that is not led to those.
    /// O(changes, and entries below what is gone).
    pub(crate) fn note_lost_and_gained_links(&mut self, old: &Dir, new: &Dir) -> Result<()> {
        for change in self.found.values() {
            if links::are_lost(old, change)? || links::is_gained(new, change)? {
                self.linked.insert(change.path.clone());
            }
        }
        Ok(())
    }

    /// Compares what `name` stands for in both directories, without descending into two directories.
    pub(crate) fn entry(&mut self, old: &Dir, new: &Dir, name: &OsStr, path: &Path) -> Result<Rest> {
        let stats = (old.stat_if_exists(name)?, new.stat_if_exists(name)?);
        if [&stats.0, &stats.1].into_iter().flatten().any(links::has_several) {
            self.linked.insert(path.to_owned());
        }
        match stats {
            (None, None) => {}
            (Some(before), None) => {
                let entry_type = EntryType::of_mode(before.st_mode);
                self.push(path, ChangeKind::Deleted, entry_type, Aspects::default());
            }
            (None, Some(_)) => self.added(new, name, path)?,
            (Some(before), Some(now)) => {
                let aspects = compare_stats((old, name), &before, (new, name), &now, self.options)?;
                let (before, now) = (EntryType::of_mode(before.st_mode), EntryType::of_mode(now.st_mode));
                let was_replaced = before != EntryType::Directory && now == EntryType::Directory;
                if was_replaced {
                    self.added(new, name, path)?;
                }
                if !aspects.is_empty() {
                    self.push(path, ChangeKind::Modified, now, aspects);
                }
                if now == EntryType::Directory && !was_replaced {
                    return Ok(Rest::Children);
                }
            }
        }
        Ok(Rest::Done)
    }

    /// Compares everything from `name` down; it is a directory on both sides.
    pub(crate) fn subtree(&mut self, old: &Dir, new: &Dir, name: &OsStr, path: &Path) -> Result<()> {
        let (changes, linked) = diff_parts(&old.open_dir(name)?, &new.open_dir(name)?, self.options)?;
        if linked {
            self.linked.insert(path.to_owned());
        }
        for mut change in changes {
            change.path = joined(path, &change.path);
            self.found.insert(change.path.clone(), change);
        }
        Ok(())
    }

    /// Notes `name` and all below it as added.
    fn added(&mut self, new: &Dir, name: &OsStr, path: &Path) -> Result<()> {
        let above = path.parent().unwrap_or(Path::new(""));
        for mut change in added_recursively(new, Path::new(name))? {
            change.path = above.join(&change.path);
            self.found.insert(change.path.clone(), change);
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

/// Is the directory on btrfs?
#[cfg(feature = "btrfs")]
pub(crate) fn is_on_btrfs(dir: &Dir) -> Result<bool> {
    use crate::error::Context;
    use std::os::fd::AsFd;
    let status = nix::sys::statfs::fstatfs(dir.as_fd()).context(|| format!("fstatfs({dir})"))?;
    Ok(status.filesystem_type() == nix::sys::statfs::BTRFS_SUPER_MAGIC)
}
