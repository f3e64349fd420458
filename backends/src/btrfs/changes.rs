//! What changed in a subvolume since a transaction, without looking at what did not.
//!
//! Every change of an inode (data, attributes, a name more or less, a move) makes btrfs write its inode item with the number of the
//! running transaction, and every change of a directory's names writes the directory's. So the inodes touched since the fork
//! are all there is to compare:
//!
//! * a touched file is compared at each of its names;
//! * a touched directory that is still the same one gives up the names it lost; those it gained belong to touched inodes themselves;
//! * a touched directory that is another one than stood there (moved here, made anew) is compared with all below it;
//! * a directory that was not touched stands where it stood: moving it would have touched it.
//!
//! Reading touches too: it sets the access time. An inode whose ctime, which cannot be set, is the same on both sides is left out,
//! provided that it lies a second before the snapshot: within one tick of the clock two changes may carry one time.
//!
//! By induction from the root, everything else is equal. Each candidate is really compared, so nothing false is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::nested;
use super::search::{ROOT_INODE, Search, Touched};
use crate::change::{Change, DiffOptions};
use crate::dir::Dir;
use crate::error::Result;
use crate::pairing::{Changes, Rest, is_on_btrfs, joined};

/// Returns the changes of the subvolume `new` against `old` after a transaction.
///
/// `old` may be anything that `new` was made from. Where the second in which the two `parted` is not known and neither is a snapshot of the
/// other, inode numbers say nothing, and more is compared.
pub(super) fn changes_since(
    old: &Dir,
    new: &Dir,
    (generation, parted): (u64, Option<i64>),
    options: DiffOptions,
) -> Result<Vec<Change>> {
    let mut comparison = Comparison { old, new, generation, parted, changes: Changes::new(options) };
    comparison.subvolume(Path::new(""))?;
    // A directory that moved took names with it, and touched none of the inodes.
    comparison.changes.note_lost_and_gained_links(old, new)?;
    comparison.changes.finish(old, new)
}

struct Comparison<'a> {
    old: &'a Dir,
    new: &'a Dir,
    generation: u64,
    /// For the outermost subvolume: when it and `old` were last the same inodes.
    parted: Option<i64>,
    changes: Changes,
}

/// Why a path is looked at.
#[derive(Debug, Clone, Copy)]
enum Candidate {
    /// A touched inode; the second number is its directory.
    Inode(u64, u64),
    /// A subvolume below this one: always looked at.
    Subvolume,
}

/// One subvolume being compared.
struct Subvolume {
    /// Where it lies in the tree.
    prefix: PathBuf,
    touched: BTreeMap<u64, Touched>,
    /// The transaction that the search starts after.
    generation: u64,
    /// Do equal inode numbers on both sides mean the same inode?
    related: bool,
}

impl Comparison<'_> {
    /// Compares the subvolume at `prefix`, which is a directory on both sides.
    fn subvolume(&mut self, prefix: &Path) -> Result<()> {
        let (old, new) = (self.old.open_deep(prefix)?, self.new.open_deep(prefix)?);
        let mut search = Search::new(&new);
        let mut touched = search.touched_after(self.generation)?;
        let related = match self.parted.filter(|_| prefix.as_os_str().is_empty()) {
            Some(second) => Some(second),
            None => are_related(&old, &new)?,
        };
        if let Some(made_at) = related {
            leave_out_read(&old, made_at, &mut touched)?;
        }
        let mut candidates = named(&mut search, &touched)?;
        for nested in nested::children(&new)? {
            candidates.insert(nested.path, Candidate::Subvolume);
        }
        let here = Subvolume {
            prefix: prefix.to_owned(),
            touched,
            generation: self.generation,
            related: related.is_some(),
        };
        if here.touched.contains_key(&ROOT_INODE) {
            self.changes.entry(&old, &new, OsStr::new("."), prefix)?;
            self.lost_names(&old, &new, prefix)?;
        }
        self.visit(&here, candidates)
    }

    fn visit(&mut self, here: &Subvolume, candidates: BTreeMap<PathBuf, Candidate>) -> Result<()> {
        let mut covered: Option<PathBuf> = None;
        for (below, candidate) in candidates {
            let path = joined(&here.prefix, &below);
            if covered.as_ref().is_some_and(|covered| path.starts_with(covered)) {
                continue;
            }
            if self.visit_one(here, &path, candidate)? == Rest::Done {
                covered = Some(path);
            }
        }
        Ok(())
    }

    /// Compares one path; [`Rest::Done`] says that nothing below it is left to compare.
    fn visit_one(&mut self, here: &Subvolume, path: &Path, candidate: Candidate) -> Result<Rest> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Rest::Children) };
        let old = self.old.open_deep(parent)?;
        let new = self.new.open_deep(parent)?;
        if self.changes.entry(&old, &new, name, path)? == Rest::Done {
            return Ok(Rest::Done);
        }
        match candidate {
            Candidate::Inode(inode, directory) if here.is_same(inode, directory, &old, name)? => {
                self.lost_names(&old.open_dir(name)?, &new.open_dir(name)?, path)?;
                Ok(Rest::Children)
            }
            Candidate::Subvolume if are_related(&old.open_dir(name)?, &new.open_dir(name)?)?.is_some() => {
                self.subvolume(path)?;
                Ok(Rest::Done)
            }
            _ => {
                self.changes.subtree(&old, &new, name, path)?;
                Ok(Rest::Done)
            }
        }
    }

    /// Reports the names that the directory at `path` had and has no more.
    fn lost_names(&mut self, old: &Dir, new: &Dir, path: &Path) -> Result<()> {
        let kept: BTreeSet<_> = new.entries()?.into_iter().map(|entry| entry.name).collect();
        for entry in old.entries()? {
            if !kept.contains(&entry.name) {
                self.changes.entry(old, new, &entry.name, &path.join(&entry.name))?;
            }
        }
        Ok(())
    }
}

impl Subvolume {
    /// Is the touched directory `inode` the one that stood under `name` in `old`?
    fn is_same(&self, inode: u64, directory: u64, old: &Dir, name: &OsStr) -> Result<bool> {
        if !self.related {
            // Had it been moved here, the directory that it lies in would be touched too.
            return Ok(!self.touched.contains_key(&directory));
        }
        // A number may be given again after a remount, to an inode that was made later than the fork.
        let old_enough = |touched: &Touched| touched.made_in <= self.generation;
        Ok(self.touched.get(&inode).is_some_and(old_enough) && old.stat(name)?.st_ino == inode)
    }
}

/// Returns the touched inodes by path: all names of files, the one of directories.
fn named(search: &mut Search<'_>, touched: &BTreeMap<u64, Touched>) -> Result<BTreeMap<PathBuf, Candidate>> {
    let mut directories = HashMap::new();
    let mut candidates = BTreeMap::new();
    for &inode in touched.keys().filter(|inode| **inode != ROOT_INODE) {
        for name in search.names(inode)? {
            // No path: deleted while we looked.
            if let Some(parent) = directory_path(search, name.parent, &mut directories)? {
                candidates.insert(parent.join(&name.name), Candidate::Inode(inode, name.parent));
            }
        }
    }
    Ok(candidates)
}

/// Returns the path of a directory in its subvolume; `None` where it has lost its name.
fn directory_path(
    search: &mut Search<'_>,
    inode: u64,
    known: &mut HashMap<u64, Option<PathBuf>>,
) -> Result<Option<PathBuf>> {
    let mut unnamed = Vec::new();
    let mut at = inode;
    let mut path = loop {
        if at == ROOT_INODE {
            break Some(PathBuf::new());
        }
        if let Some(path) = known.get(&at) {
            break path.clone();
        }
        let Some(name) = search.names(at)?.into_iter().next() else { break None };
        unnamed.push((at, name.name));
        at = name.parent;
    };
    for (inode, name) in unnamed.into_iter().rev() {
        path = path.map(|path| path.join(name));
        known.insert(inode, path.clone());
    }
    Ok(path)
}

/// Leaves out the inodes that were only read since the snapshot was made.
fn leave_out_read(old: &Dir, made_at: i64, touched: &mut BTreeMap<u64, Touched>) -> Result<()> {
    let mut search = Search::new(old);
    let mut only_read = Vec::new();
    for (&number, inode) in touched.iter().filter(|(_, inode)| inode.changed_at.0 + 1 < made_at) {
        if search.inode(number)?.as_ref() == Some(inode) {
            only_read.push(number);
        }
    }
    for number in only_read {
        touched.remove(&number);
    }
    Ok(())
}

/// Is one of the two subvolumes a snapshot of the other, or are both of the same one? Then equal inode numbers mean the same inode.
/// Returns the second in which they parted.
fn are_related(old: &Dir, new: &Dir) -> Result<Option<i64>> {
    if !is_on_btrfs(old)? || old.stat_self()?.st_ino != ROOT_INODE || new.stat_self()?.st_ino != ROOT_INODE {
        return Ok(None);
    }
    let (old, new) = (nested::info(old)?, nested::info(new)?);
    let are_siblings = old.parent_uuid == new.parent_uuid && old.parent_uuid != [0; 16];
    Ok(if new.parent_uuid == old.uuid {
        Some(new.made_at)
    } else if old.parent_uuid == new.uuid {
        Some(old.made_at)
    } else {
        are_siblings.then(|| old.made_at.min(new.made_at))
    })
}
