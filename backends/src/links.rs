//! Names of one inode: which of them belong together, told by a walk of a tree.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::FileStat;

use crate::change::{Aspects, Change, ChangeKind};
use crate::dir::{Dir, EntryType};
use crate::entry::open_parent;
use crate::error::{ErrorKind, Result};
use crate::walk::{self, vanishing};

/// Returns the unchanged names of inodes that a changed name has too. O(entries of the tree) if there are any.
pub(crate) fn further_names(tree: &Dir, changes: &[Change]) -> Result<Vec<(PathBuf, EntryType)>> {
    let mut wanted: HashMap<Inode, u64> = HashMap::new();
    let mut listed: HashSet<&Path> = HashSet::new();
    for change in changes {
        if change.kind == ChangeKind::Deleted || change.entry_type == EntryType::Directory {
            continue;
        }
        listed.insert(&change.path);
        let Some(stat) = stat(tree, &change.path)? else { continue };
        if has_several(&stat) {
            *wanted.entry((stat.st_dev, stat.st_ino)).or_insert(stat.st_nlink) -= 1;
        }
    }
    wanted.retain(|_, missing| *missing > 0);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let names = names_of(tree, |stat| wanted.contains_key(&(stat.st_dev, stat.st_ino)))?;
    let unlisted = names.into_iter().filter(|name| !listed.contains(name.path.as_path()));
    Ok(unlisted.map(|name| (name.path, name.kind)).collect())
}

/// An inode: its device and number.
pub(crate) type Inode = (u64, u64);

/// Returns names where the target is what the source is, but for the other names of that inode, each with the source's inode: one
/// for each inode of either tree, so that all other names can be linked to it.
///
/// `put` are the names that are to be as in the source, each with whether nothing but names differs there; `gone` those that go.
/// An inode that has a name beyond these is out: that one must not become the same file as another.
pub(crate) fn staying(
    (source, target): (&Dir, &Dir),
    put: &[(PathBuf, bool)],
    gone: impl Iterator<Item = PathBuf>,
) -> Result<Vec<(PathBuf, Inode)>> {
    let inode = |stat: &FileStat| (stat.st_dev, stat.st_ino);
    let mut names: HashMap<Inode, u64> = HashMap::new();
    for path in put.iter().map(|(path, _)| path.clone()).chain(gone) {
        if let Some(stat) = stat(target, &path)? {
            *names.entry(inode(&stat)).or_default() += 1;
        }
    }
    let (mut taken, mut there) = (HashSet::new(), HashSet::new());
    let mut staying = Vec::new();
    for path in put.iter().filter(|(_, is_equal)| *is_equal).map(|(path, _)| path) {
        let (Some(from), Some(to)) = (stat(source, path)?, stat(target, path)?) else { continue };
        let is_known = names.get(&inode(&to)) == Some(&to.st_nlink);
        if is_known && !there.contains(&inode(&from)) && taken.insert(inode(&to)) {
            there.insert(inode(&from));
            staying.push((path.clone(), inode(&from)));
        }
    }
    Ok(staying)
}

/// Looks at a path in a tree, `None` if nothing is there.
fn stat(tree: &Dir, path: &Path) -> Result<Option<FileStat>> {
    match open_parent(tree, path).and_then(|(dir, name)| dir.stat(name)) {
        // What is mounted in a tree is no part of it.
        Err(error) if error.kind() == ErrorKind::CrossDevice => Ok(None),
        found => vanishing(found),
    }
}

/// Has an inode that is no directory several names? OverlayFS and names outside of a tree may count too.
pub(crate) fn has_several(stat: &FileStat) -> bool {
    stat.st_nlink > 1 && EntryType::of_mode(stat.st_mode) != EntryType::Directory
}

/// Adds to `changes` of `new` against `old` what differs in links, of inodes that have a name which `is_near` on either side: what else
/// moves in a tree that is in use is not asked for. O(entries of both). Leaves them unsorted.
pub(crate) fn compare(
    old: &Dir,
    new: &Dir,
    is_near: impl Fn(&Path) -> bool,
    changes: &mut Vec<Change>,
) -> Result<()> {
    let sides = (Groups::of(old)?, Groups::of(new)?);
    let listed: HashMap<PathBuf, usize> =
        changes.iter().enumerate().map(|(index, change)| (change.path.clone(), index)).collect();
    for path in sides.0.paths().chain(sides.1.paths()).collect::<BTreeSet<_>>() {
        let names = (sides.0.names(path), sides.1.names(path));
        if names.0 == names.1 || !names.0.into_iter().chain(names.1).flatten().any(|name| is_near(name)) {
            continue;
        }
        let kinds = (sides.0.kind(old, path)?, sides.1.kind(new, path)?);
        let Some(entry_type) = kinds.1.filter(|_| kinds.0 == kinds.1) else { continue };
        match listed.get(path) {
            Some(index) => changes[*index].aspects.links = true,
            None => changes.push(Change {
                path: path.to_owned(),
                kind: ChangeKind::Modified,
                entry_type,
                aspects: Aspects { links: true, ..Aspects::default() },
            }),
        }
    }
    Ok(())
}

/// Is a name of an inode with several among what a change says is gone from `old`?
pub(crate) fn are_lost(old: &Dir, change: &Change) -> Result<bool> {
    if change.kind != ChangeKind::Deleted && !change.aspects.kind {
        return Ok(false);
    }
    let found = AtomicBool::new(false);
    walk::for_each(vec![change.path.clone()], |path, more| {
        if found.load(Ordering::Relaxed) {
            return Ok(0);
        }
        match stat(old, &path)?.map(|stat| (EntryType::of_mode(stat.st_mode), has_several(&stat))) {
            Some((_, true)) => found.store(true, Ordering::Relaxed),
            Some((EntryType::Directory, _)) => {
                let Some(dir) = vanishing(walk::enter(old, &path))?.flatten() else { return Ok(1) };
                for entry in dir.entries()? {
                    if walk::type_of(&dir, &entry)? == EntryType::Directory {
                        more.push(path.join(&entry.name));
                    } else if dir.stat_if_exists(&entry.name)?.is_some_and(|stat| has_several(&stat)) {
                        found.store(true, Ordering::Relaxed);
                    }
                }
            }
            _ => {}
        }
        Ok(1)
    })?;
    Ok(found.into_inner())
}

/// Is what a change says is new in `new` a name of an inode with several?
pub(crate) fn is_gained(new: &Dir, change: &Change) -> Result<bool> {
    let is_new = change.kind == ChangeKind::Added || change.aspects.kind;
    Ok(is_new && stat(new, &change.path)?.is_some_and(|stat| has_several(&stat)))
}

/// The inodes of a tree that have several names in it.
struct Groups {
    /// Sorted names of each.
    names: Vec<Vec<PathBuf>>,
    of: HashMap<PathBuf, (usize, EntryType)>,
}

impl Groups {
    fn of(tree: &Dir) -> Result<Self> {
        let mut inodes: HashMap<Inode, Vec<Name>> = HashMap::new();
        for name in names_of(tree, has_several)? {
            inodes.entry(name.inode).or_default().push(name);
        }
        let mut groups = Self { names: Vec::new(), of: HashMap::new() };
        for names in inodes.into_values().filter(|names| names.len() > 1) {
            let index = groups.names.len();
            groups.of.extend(names.iter().map(|name| (name.path.clone(), (index, name.kind))));
            let mut names: Vec<PathBuf> = names.into_iter().map(|name| name.path).collect();
            names.sort();
            groups.names.push(names);
        }
        Ok(groups)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.of.keys().map(PathBuf::as_path)
    }

    /// Returns all names of what stands at a path, if there are several.
    fn names(&self, path: &Path) -> Option<&[PathBuf]> {
        self.of.get(path).map(|(index, _)| self.names[*index].as_slice())
    }

    fn kind(&self, tree: &Dir, path: &Path) -> Result<Option<EntryType>> {
        if let Some((_, kind)) = self.of.get(path) {
            return Ok(Some(*kind));
        }
        Ok(stat(tree, path)?.map(|stat| EntryType::of_mode(stat.st_mode)))
    }
}

/// One name of an inode.
struct Name {
    inode: Inode,
    path: PathBuf,
    kind: EntryType,
}

/// Returns all names in a tree of the inodes that are wanted, none of them directories.
fn names_of(tree: &Dir, wanted: impl Fn(&FileStat) -> bool + Sync) -> Result<Vec<Name>> {
    let found = Mutex::new(Vec::new());
    walk::for_each(vec![PathBuf::new()], |path, more: &mut Vec<PathBuf>| {
        let Some(dir) = vanishing(walk::enter(tree, &path))?.flatten() else { return Ok(1) };
        let entries = dir.entries()?;
        for entry in &entries {
            let kind = walk::type_of(&dir, entry)?;
            let path = path.join(&entry.name);
            if kind == EntryType::Directory {
                more.push(path);
            } else if let Some(stat) = dir.stat_if_exists(&entry.name)?.filter(&wanted) {
                let inode = (stat.st_dev, stat.st_ino);
                let mut found = found.lock().expect("no thread panics while it holds the lock");
                found.push(Name { inode, path, kind });
            }
        }
        Ok(entries.len())
    })?;
    Ok(found.into_inner().expect("no thread panics while it holds the lock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidates::Candidates;
    use crate::change::DiffOptions;
    use crate::compare::diff_trees;

    #[test]
    fn each_path_whose_inode_has_other_names_than_before_is_listed() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let [old, new] = ["old", "new"].map(|name| {
            root.make_dir(name, 0o755).unwrap();
            root.open_dir(name).unwrap()
        });
        for name in ["a", "same", "single"] {
            old.create_file(name, 0o644).unwrap();
            new.create_file(name, 0o644).unwrap();
        }
        for dir in [&old, &new] {
            dir.make_link("same-too", dir, "same").unwrap();
        }
        // Joined with `a` before and with `single` now; and a name that `a` had is gone.
        old.make_link("b", &old, "a").unwrap();
        new.make_link("b", &new, "single").unwrap();
        old.make_link("gone", &old, "a").unwrap();

        let changes = diff_trees(&old, &new, DiffOptions::default()).unwrap();

        let links = Aspects { links: true, ..Aspects::default() };
        let found: Vec<_> =
            changes.iter().map(|change| (change.path.to_str().unwrap(), change.aspects)).collect();
        assert_eq!(found, [("a", links), ("b", links), ("gone", Aspects::default()), ("single", links)]);
    }

    /// In one of two trees a directory is gone, and with it names of what stands elsewhere: only the directory is looked at.
    #[test]
    fn names_that_come_and_go_with_a_directory_are_found_from_there() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let [with, without] = ["with", "without"].map(|name| {
            root.make_dir(name, 0o755).unwrap();
            root.open_dir(name).unwrap()
        });
        for dir in [&with, &without] {
            dir.create_file("file", 0o644).unwrap();
        }
        with.make_dir("dir", 0o755).unwrap();
        with.open_dir("dir").unwrap().make_link("name", &with, "file").unwrap();
        for (old, new) in [(&with, &without), (&without, &with)] {
            let expected = diff_trees(old, new, DiffOptions::default()).unwrap();
            assert!(expected.iter().any(|change| change.aspects.links), "{expected:?}");
            let mut candidates = Candidates::default();
            candidates.add_changes(&[Change {
                path: "dir".into(),
                kind: ChangeKind::Deleted,
                entry_type: EntryType::Directory,
                aspects: Aspects::default(),
            }]);
            assert_eq!(candidates.compare(old, new, DiffOptions::default()).unwrap(), expected);
        }
    }
}
