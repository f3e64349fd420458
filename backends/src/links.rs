//! Names of one inode: which of them belong together, told by a walk of a tree.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::change::{Change, ChangeKind};
use crate::dir::{Dir, EntryType};
use crate::entry::open_parent;
use crate::error::Result;
use crate::walk::{self, vanishing};

/// Returns the unchanged names of inodes that a changed name has too. O(entries of the tree) if there are any.
pub(crate) fn further_names(tree: &Dir, changes: &[Change]) -> Result<Vec<(PathBuf, EntryType)>> {
    let mut wanted: HashMap<(u64, u64), u64> = HashMap::new();
    let mut listed: HashSet<&Path> = HashSet::new();
    for change in changes {
        if change.kind == ChangeKind::Deleted || change.entry_type == EntryType::Directory {
            continue;
        }
        listed.insert(&change.path);
        let stat = open_parent(tree, &change.path).and_then(|(dir, name)| dir.stat(name));
        let Some(stat) = vanishing(stat)? else { continue };
        if stat.st_nlink > 1 {
            *wanted.entry((stat.st_dev, stat.st_ino)).or_insert(stat.st_nlink) -= 1;
        }
    }
    wanted.retain(|_, missing| *missing > 0);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = names_of(tree, &wanted)?;
    names.retain(|(path, _)| !listed.contains(path.as_path()));
    Ok(names)
}

fn names_of(tree: &Dir, wanted: &HashMap<(u64, u64), u64>) -> Result<Vec<(PathBuf, EntryType)>> {
    let found = Mutex::new(Vec::new());
    walk::for_each(vec![PathBuf::new()], |path, more: &mut Vec<PathBuf>| {
        let Some(dir) = vanishing(walk::enter(tree, &path))?.flatten() else { return Ok(1) };
        let entries = dir.entries()?;
        for entry in &entries {
            let kind = walk::type_of(&dir, entry)?;
            if kind == EntryType::Directory {
                more.push(path.join(&entry.name));
            } else if dir
                .stat_if_exists(&entry.name)?
                .is_some_and(|stat| wanted.contains_key(&(stat.st_dev, stat.st_ino)))
            {
                let mut found = found.lock().expect("no thread panics while it holds the lock");
                found.push((path.join(&entry.name), kind));
            }
        }
        Ok(entries.len())
    })?;
    Ok(found.into_inner().expect("no thread panics while it holds the lock"))
}
