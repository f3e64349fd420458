//! What a patch does where, read off the changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::change::{Aspects, Change, ChangeKind};
use crate::dir::EntryType;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Directories to make.
    pub(super) new: BTreeSet<PathBuf>,
    /// Directories that stay and get the source's attributes.
    pub(super) modified: BTreeSet<PathBuf>,
    /// Directories that something is done in.
    pub(super) touched: BTreeSet<PathBuf>,
    /// What is put in place, by directory.
    pub(super) entries: BTreeMap<PathBuf, Vec<Entry>>,
    /// What is removed, by directory.
    pub(super) deleted: BTreeMap<PathBuf, Vec<OsString>>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) kind: EntryType,
    pub(super) differs: Differs,
}

/// What differs at a name that is no directory's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Differs {
    /// Only which names are the same inode.
    Names,
    /// Only attributes.
    Attributes,
    /// Anything else.
    More,
}

impl Differs {
    fn of(change: &Change) -> Self {
        let aspects = change.aspects;
        if change.kind != ChangeKind::Modified || aspects.kind || aspects.content {
            Self::More
        } else if aspects == (Aspects { links: true, ..Aspects::default() }) {
            Self::Names
        } else if aspects.links {
            Self::More
        } else {
            Self::Attributes
        }
    }
}

impl Plan {
    pub(super) fn of(changes: &[Change]) -> Self {
        let mut plan = Self::default();
        for change in changes {
            let is_directory = change.entry_type == EntryType::Directory;
            match change.kind {
                ChangeKind::Deleted => {
                    let (parent, name) = plan.touch(&change.path);
                    plan.deleted.entry(parent).or_default().push(name);
                }
                ChangeKind::Modified if is_directory && !change.aspects.kind => {
                    plan.modified.insert(change.path.clone());
                }
                _ if is_directory => {
                    plan.touch(&change.path);
                    plan.new.insert(change.path.clone());
                }
                _ => plan.put(&change.path, change.entry_type, Differs::of(change)),
            }
        }
        plan
    }

    fn touch(&mut self, path: &Path) -> (PathBuf, OsString) {
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        self.touched.insert(parent.clone());
        (parent, path.file_name().unwrap_or_default().to_owned())
    }

    pub(super) fn put(&mut self, path: &Path, kind: EntryType, differs: Differs) {
        let (parent, name) = self.touch(path);
        self.entries.entry(parent).or_default().push(Entry { name, kind, differs });
    }

    /// Returns what is put in place.
    pub(super) fn put_paths(&self) -> impl Iterator<Item = (PathBuf, Differs)> {
        self.entries
            .iter()
            .flat_map(|(path, all)| all.iter().map(move |entry| (path.join(&entry.name), entry.differs)))
    }

    /// Returns what is removed.
    pub(super) fn deleted_paths(&self) -> impl Iterator<Item = PathBuf> {
        self.deleted.iter().flat_map(|(path, names)| names.iter().map(move |name| path.join(name)))
    }

    /// Directories that are there and stay.
    pub(super) fn kept(&self) -> impl Iterator<Item = &PathBuf> {
        self.modified.union(&self.touched).filter(|path| !self.new.contains(*path))
    }
}
