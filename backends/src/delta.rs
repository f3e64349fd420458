//! A difference written down as an OverlayFS upper directory.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::attributes::Xattrs;
use crate::backend::Cost;
use crate::change::{Change, ChangeKind};
use crate::dir::{Dir, EntryType};
use crate::entry::{CloneMode, Copier, open_parent};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::links::further_names;
use crate::marks::{Marks, make_whiteout};
use crate::merge::{Made, clear_umask, directory_attributes, finish};
use crate::walk::{self, vanishing};

/// Writes into the existing empty directory `target` what makes `tree` out of `parent` when it lies over it.
///
/// `changes` are all differences, times included, sorted. Deletions become whiteouts, directories that replace something else
/// are opaque, unchanged directories on the way are made with their attributes, and files that share an inode with a
/// changed one come along, so that they still do. `Unsupported` says that the difference cannot be told by a delta: `tree` holds
/// OverlayFS's own marks. O(changes), on all cores. An entry that vanished since it was listed is left out.
pub fn write_delta(
    changes: &[Change],
    tree: &Dir,
    parent: &Dir,
    target: &Dir,
    userxattr: bool,
    clone: CloneMode,
) -> Result<Cost> {
    let started = Instant::now();
    clear_umask();
    let writer = Writer { tree, parent, target, copier: Copier::new(clone, Xattrs::RefuseOverlay) };
    let mut cost = writer
        .write(changes, &Marks::new(userxattr))
        .context(|| format!("write the changes of {:?} to {:?}", tree.path(), target.path()))?;
    cost.elapsed = started.elapsed();
    Ok(cost)
}

struct Writer<'a> {
    tree: &'a Dir,
    parent: &'a Dir,
    target: &'a Dir,
    copier: Copier,
}

/// What is to be made, by directory.
#[derive(Default)]
struct Plan {
    directories: BTreeSet<PathBuf>,
    opaque: Vec<PathBuf>,
    entries: BTreeMap<PathBuf, Vec<(OsString, Action)>>,
}

#[derive(Clone, Copy)]
enum Action {
    Copy(EntryType),
    Whiteout,
}

impl Plan {
    fn of(changes: &[Change]) -> Self {
        let mut plan = Self::default();
        plan.directories.insert(PathBuf::new());
        for change in changes {
            if change.kind == ChangeKind::Deleted {
                plan.add(&change.path, Action::Whiteout);
            } else if change.entry_type != EntryType::Directory {
                plan.add(&change.path, Action::Copy(change.entry_type));
            } else {
                plan.need(&change.path);
                if change.aspects.kind {
                    plan.opaque.push(change.path.clone());
                }
            }
        }
        plan
    }

    /// Makes a directory, and all on the way, part of the plan.
    fn need(&mut self, path: &Path) {
        for ancestor in path.ancestors() {
            if !self.directories.insert(ancestor.to_owned()) {
                break;
            }
        }
    }

    fn add(&mut self, path: &Path, action: Action) {
        let parent = path.parent().unwrap_or(Path::new(""));
        self.need(parent);
        let name = path.file_name().unwrap_or_default().to_owned();
        self.entries.entry(parent.to_owned()).or_default().push((name, action));
    }
}

impl Writer<'_> {
    fn write(self, changes: &[Change], marks: &Marks) -> Result<Cost> {
        let mut plan = Plan::of(changes);
        for (path, kind) in further_names(self.tree, changes)? {
            plan.add(&path, Action::Copy(kind));
        }
        let made = self.make_directories(&plan)?;
        let present: HashSet<&Path> = made.iter().map(|made| made.path.as_path()).collect();
        let groups: Vec<_> =
            plan.entries.into_iter().filter(|(path, _)| present.contains(path.as_path())).collect();
        walk::for_each(groups, |(path, entries), _| self.entries(&path, &entries))?;
        self.copier.make_links(self.target)?;
        for path in plan.opaque.iter().filter(|path| present.contains(path.as_path())) {
            marks.make_opaque(&walk::open_below(self.target, path)?)?;
        }
        self.copier.count_directories(made.len() - 1);
        finish(self.target, made)?;
        Ok(self.copier.cost())
    }

    /// Makes the directories, parents first; one that vanished, and all below it, is not made.
    fn make_directories(&self, plan: &Plan) -> Result<Vec<Made>> {
        let mut made: Vec<Made> = Vec::new();
        let mut gone: HashSet<&Path> = HashSet::new();
        for path in &plan.directories {
            if path.parent().is_some_and(|parent| gone.contains(parent)) {
                gone.insert(path);
                continue;
            }
            let Some(attributes) = vanishing(directory_attributes(self.tree, path, self.copier.xattrs()))?
            else {
                gone.insert(path);
                self.hide(path)?;
                continue;
            };
            if path.parent().is_some() {
                let (dir, name) = open_parent(self.target, path)?;
                dir.make_dir(name, 0o700)?;
            }
            made.push(Made { path: path.clone(), attributes });
        }
        Ok(made)
    }

    fn entries(&self, path: &Path, entries: &[(OsString, Action)]) -> Result<usize> {
        let to = walk::open_below(self.target, path)?;
        let from = vanishing(walk::open_below(self.tree, path))?;
        for (name, action) in entries {
            match (action, &from) {
                (Action::Whiteout, _) => make_whiteout(&to, name)?,
                (Action::Copy(_), None) => self.hide(&path.join(name))?,
                (Action::Copy(kind), Some(from)) => self.copy(from, &to, path, name, *kind)?,
            }
        }
        Ok(entries.len())
    }

    fn copy(&self, from: &Dir, to: &Dir, path: &Path, name: &OsStr, kind: EntryType) -> Result<()> {
        if kind == EntryType::CharDevice && from.stat(name)?.st_rdev == 0 {
            let message = format!("{from}, {name:?} is a whiteout of its own");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        match vanishing(self.copier.copy(from, to, path, name, kind))? {
            Some(()) => Ok(()),
            None => self.hide(&path.join(name)),
        }
    }

    /// Makes a whiteout for a path that is gone, if the parent has it.
    fn hide(&self, path: &Path) -> Result<()> {
        let (dir, name) = open_parent(self.target, path)?;
        let there = vanishing(open_parent(self.parent, path).and_then(|(dir, name)| dir.stat(name)))?;
        if there.is_some() && dir.stat_if_exists(name)?.is_none() {
            make_whiteout(&dir, name)?;
        }
        Ok(())
    }
}
