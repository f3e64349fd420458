//! What held trees occupy beside their parents: what changed in them, and never a walk of what did not.

use std::path::Path;

use nix::sys::stat::FileStat;
use rootling_backends::{ChangeKind, Context, DiffOptions, Dir, ErrorKind, Form, Result, Tree, footprint};

use super::super::files::{self, Durability};
use super::super::{Node, Store};
use super::index::Entry;
use super::{HeldKind, HeldTrees, HeldUsage};

/// Bytes of the longest note.
const LIMIT: u64 = 4096;

impl HeldTrees {
    /// Returns what a tree occupies beside its parents. One that is not there is an error of kind `NotFound`.
    ///
    /// Of a delta that is its own directory; of any other tree what was added or changed against its parent, each file with all its blocks. Of one that
    /// is committed it is found out once: O(changed), or O(tree) for one on nothing. Of a view it is nothing.
    pub fn usage(&self, key: &str) -> Result<HeldUsage> {
        let entry = self.index.get(key)?;
        self.usage_of(&entry).context(|| format!("measure {key:?}"))
    }

    fn usage_of(&self, entry: &Entry) -> Result<HeldUsage> {
        if entry.info.kind == HeldKind::View {
            return Ok(HeldUsage::default());
        }
        if let Some(known) = entry.usage.get() {
            return Ok(*known);
        }
        let node = self.store.node(&entry.info.id)?;
        if entry.info.kind == HeldKind::Active {
            return self.store.own_usage(&node);
        }
        let note = self.store.object_dir(&node.id).join("usage");
        let known = files::read(&note, LIMIT).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let usage = match known {
            Some(usage) => usage,
            None => {
                let usage = self.store.own_usage(&node)?;
                let text = serde_json::to_vec(&usage).expect("two numbers");
                // Best effort, and not synced: one that is lost, or that another thread was faster to write, is found out again.
                if let Err(error) = files::replace(&note, &text, Durability::Lazy) {
                    log::debug!("{error:?}");
                }
                usage
            }
        };
        Ok(*entry.usage.get_or_init(|| usage))
    }
}

impl Store {
    /// Returns what a node's tree occupies beside what it stands on.
    pub(super) fn own_usage(&self, node: &Node) -> Result<HeldUsage> {
        let backend = self.backend(node.record.backend)?;
        let parent = if node.record.form == Form::Full { self.parent_tree(node)? } else { None };
        let Some(parent) = parent else { return blocks(&self.own_tree(node)?) };
        let tree = self.tree(node)?;
        let changes = backend.changes(&tree, &parent, &node.record.baseline, DiffOptions::default())?;
        let root = Dir::open(tree.fs())?;
        let mut usage = HeldUsage::default();
        for change in changes.iter().filter(|change| change.kind != ChangeKind::Deleted) {
            // What somebody removes meanwhile counts for nothing.
            if let Some(stat) = look(&root, &change.path)? {
                usage.inodes += 1;
                usage.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
        }
        Ok(usage)
    }
}

fn blocks(tree: &Tree) -> Result<HeldUsage> {
    let (inodes, bytes) = footprint::blocks(&Dir::open(tree.fs())?)?;
    Ok(HeldUsage { bytes, inodes })
}

fn look(root: &Dir, path: &Path) -> Result<Option<FileStat>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return root.stat_self().map(Some);
    };
    match root.open_deep(parent) {
        Ok(parent) => parent.stat_if_exists(name),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
