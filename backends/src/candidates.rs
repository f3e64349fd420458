//! Paths that may differ between two trees, and nothing else: compared, they become the exact difference.
//!
//! Trees are often connected by steps, each of which knows what it touched: a delta by the entries of its upper directory, a box by a
//! search for changes. What differs between the two ends was touched by one of the steps, so the touched paths of all of them are all
//! there is to compare, whatever came and went in between. The steps need not be exact, and the ends may be of different backends.
//!
//! A step may hide more than it names: a deleted directory or a whiteout speaks for everything below. Such a path is compared with all
//! below it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::backend::Tree;
use crate::change::{Change, ChangeKind, DiffOptions};
use crate::dir::{Dir, EntryType};
use crate::error::{Error, Result};
use crate::overlay::is_opaque;
use crate::pairing::{Changes, Rest};
use crate::walk;

/// What of a path may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    /// The entry.
    Entry,
    /// The entry and everything below it.
    Subtree,
}

/// Paths that may differ, relative to the root of the trees.
#[derive(Debug, Clone, Default)]
pub struct Candidates(BTreeMap<PathBuf, Extent>);

impl Candidates {
    fn add(&mut self, path: PathBuf, extent: Extent) {
        let known = self.0.entry(path).or_insert(extent);
        *known = extent.max(*known);
    }

    /// Adds what a step changed, in either direction: what [`changes`](crate::Backend::changes) says of it.
    pub fn add_changes(&mut self, changes: &[Change]) {
        for change in changes {
            // Only of these is nothing said, or not all, of what was below.
            let hides = change.kind == ChangeKind::Deleted || change.aspects.kind;
            self.add(change.path.clone(), if hides { Extent::Subtree } else { Extent::Entry });
        }
    }

    /// Adds what a delta that one of the trees stands on may have changed: the entries of its upper directory, marks included.
    /// O(its entries).
    pub fn add_layer(&mut self, upper: &Dir) -> Result<()> {
        self.add(PathBuf::new(), Extent::Entry);
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let dir = upper.open_deep(&path)?;
            for entry in dir.entries()? {
                let below = path.join(&entry.name);
                let is_directory = walk::type_of(&dir, &entry)? == EntryType::Directory;
                if is_directory && !is_opaque(&dir.open_dir(&entry.name)?) {
                    self.add(below.clone(), Extent::Entry);
                    pending.push(below);
                } else {
                    self.add(below, Extent::Subtree);
                }
            }
        }
        Ok(())
    }

    /// Takes out paths that are not to be looked at, with all below them.
    pub fn leave_out(&mut self, is_out: impl Fn(&Path) -> bool) {
        self.0.retain(|path, _| !is_out(path));
    }

    /// Returns what turns `old` into `new`, provided that nothing but these paths differs. O(candidates).
    ///
    /// Equals what [`diff_trees`](crate::compare::diff_trees) returns, which looks everywhere.
    pub fn compare(&self, old: &Dir, new: &Dir, options: DiffOptions) -> Result<Vec<Change>> {
        let mut changes = Changes::new(options);
        let mut done: Option<&Path> = None;
        let mut open: Option<(&Path, Option<(Dir, Dir)>)> = None;
        // A path comes before those below it, and these before all others.
        for (path, extent) in &self.0 {
            if done.is_some_and(|done| path.starts_with(done)) {
                continue;
            }
            let (parent, name) = match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => (parent, name),
                _ => (Path::new(""), OsStr::new(".")),
            };
            if open.as_ref().is_none_or(|(at, _)| *at != parent) {
                open = Some((parent, both(old, new, parent)?));
            }
            let Some((_, Some((old, new)))) = &open else {
                // On one side or both there is no such directory, so one above it differs, and that was compared.
                done = Some(parent);
                continue;
            };
            let rest = changes.entry(old, new, name, path)?;
            if rest == Rest::Children && *extent == Extent::Subtree {
                changes.subtree(old, new, name, path)?;
            }
            // Of the root, the entry was compared, never what is below.
            if (rest == Rest::Done || *extent == Extent::Subtree) && !path.as_os_str().is_empty() {
                done = Some(path);
            }
        }
        changes.note_lost_and_gained_links(old, new)?;
        changes.finish(old, new)
    }
}

/// Opens a directory in both trees; `None` where one of them has none there.
fn both(old: &Dir, new: &Dir, path: &Path) -> Result<Option<(Dir, Dir)>> {
    let open = |root: &Dir| match root.open_deep(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if is_no_directory(&error) => Ok(None),
        Err(error) => Err(error),
    };
    Ok(open(old)?.zip(open(new)?))
}

fn is_no_directory(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
}

/// Compares two trees that stand on common layers by what their other layers hold; `None` where they have no layer in common.
/// O(entries of the layers that only one of them has).
pub(crate) fn compare_stacks(
    (old_tree, old): (&Tree, &Dir),
    (new_tree, new): (&Tree, &Dir),
    options: DiffOptions,
) -> Result<Option<Vec<Change>>> {
    let Some(layers) = differing_layers(new_tree, old_tree) else { return Ok(None) };
    let mut candidates = Candidates::default();
    for layer in layers {
        candidates.add_layer(&Dir::open(layer)?)?;
    }
    candidates.compare(old, new, options).map(Some)
}

/// Returns the layers that only one of the trees has; `None` where they have no layer in common.
fn differing_layers(new: &Tree, old: &Tree) -> Option<Vec<PathBuf>> {
    let (mut ours, mut theirs) = (new.layers(), old.layers());
    let mut shared = false;
    while let (Some(a), Some(b)) = (ours.last(), theirs.last())
        && a == b
    {
        ours.pop();
        theirs.pop();
        shared = true;
    }
    ours.extend(theirs);
    shared.then_some(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::diff_trees;
    use std::fs;

    #[test]
    fn only_layers_that_are_not_shared_are_walked() {
        let base = Tree::full("/s/base");
        let one = Tree::delta("/s/one", &base);
        let two = Tree::delta("/s/two", &base);
        assert_eq!(differing_layers(&one, &base), Some(vec!["/s/one/fs".into()]));
        assert_eq!(differing_layers(&base, &one), Some(vec!["/s/one/fs".into()]));
        assert_eq!(differing_layers(&one, &two), Some(vec!["/s/one/fs".into(), "/s/two/fs".into()]));
        assert_eq!(differing_layers(&Tree::full("/s/flat"), &one), None);
    }

    #[test]
    fn steps_that_undo_each_other_leave_what_still_differs() {
        // The tests beside this one do, and modes count.
        crate::clear_umask();
        let temp = tempfile::tempdir().unwrap();
        let paths = ["first", "second", "third"].map(|name| temp.path().join(name));
        for path in &paths {
            fs::create_dir_all(path.join("d/e")).unwrap();
            fs::write(path.join("d/e/f"), "same").unwrap();
            fs::write(path.join("d-e"), "sorts between d and d/e as bytes").unwrap();
        }
        // The second step brings the directory back, with one file changed.
        fs::remove_dir_all(paths[1].join("d")).unwrap();
        fs::write(paths[2].join("d/e/f"), "diff").unwrap();
        let [first, second, third] = paths.map(|path| Dir::open(path).unwrap());
        let options = DiffOptions::default();
        let mut candidates = Candidates::default();
        for (old, new) in [(&first, &second), (&second, &third)] {
            candidates.add_changes(&diff_trees(old, new, options).unwrap());
        }
        let found = candidates.compare(&first, &third, options).unwrap();
        assert_eq!(found, diff_trees(&first, &third, options).unwrap());
        let paths: Vec<_> = found.iter().map(|change| change.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["d/e/f"]);
    }
}
