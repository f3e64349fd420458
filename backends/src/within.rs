//! The changes at some paths only: what a person means who names paths.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::change::{Aspects, Change, ChangeKind};
use crate::compare::sort;
use crate::dir::{Dir, EntryType};
use crate::entry::open_parent;
use crate::error::Result;
use crate::walk::vanishing;

/// Returns those of `changes` that are at or below one of `paths`, sorted, and what they need: directories on the way that `target`
/// lacks.
///
/// `changes` are what turns `target` into another tree. Where a directory above a path is deleted, or is no directory there, the
/// path itself is deleted, if `target` has it, and the directory stays. Paths are relative to the root of the tree; the empty one is
/// all of it. O(changes × paths).
pub fn within(changes: Vec<Change>, paths: &[PathBuf], target: &Dir) -> Result<Vec<Change>> {
    let mut chosen = Vec::new();
    let mut above = Vec::new();
    for change in changes {
        if paths.iter().any(|path| change.path.starts_with(path)) {
            chosen.push(change);
        } else if paths.iter().any(|path| path.starts_with(&change.path)) {
            above.push(change);
        }
    }
    let needed: BTreeSet<PathBuf> = chosen
        .iter()
        .filter(|change| change.kind != ChangeKind::Deleted)
        .flat_map(|change| change.path.ancestors().skip(1).map(Path::to_owned))
        .collect();
    for change in above {
        let is_made = change.kind == ChangeKind::Added || change.aspects.kind;
        if change.entry_type == EntryType::Directory && is_made && change.kind != ChangeKind::Deleted {
            if needed.contains(&change.path) {
                chosen.push(change);
            }
        } else if change.kind == ChangeKind::Deleted || change.aspects.kind {
            for path in paths.iter().filter(|path| path.starts_with(&change.path)) {
                chosen.extend(deletion(path, target)?);
            }
        }
    }
    sort(&mut chosen);
    chosen.dedup_by(|one, other| one.path == other.path);
    Ok(chosen)
}

/// Returns the deletion of a path, if there is something to delete.
fn deletion(path: &Path, target: &Dir) -> Result<Option<Change>> {
    let stat = vanishing(open_parent(target, path).and_then(|(dir, name)| dir.stat(name)))?;
    Ok(stat.map(|stat| Change {
        path: path.to_owned(),
        kind: ChangeKind::Deleted,
        entry_type: EntryType::of_mode(stat.st_mode),
        aspects: Aspects::default(),
    }))
}
