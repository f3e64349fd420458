//! What differs between nodes.

use rootling_backends::{Change, Context, DiffOptions, Dir, Result, compare};

use super::draft::Ephemeral;
use super::{Node, Record, Store, host};

impl Store {
    /// Returns what changed in a node since it was forked, and nothing for a node without a parent.
    ///
    /// O(changes) with btrfs and overlay, one parallel stat walk with reflink and copy.
    pub fn changes(&self, node: &Node, options: DiffOptions) -> Result<Vec<Change>> {
        let _lock = self.share()?;
        let node = &self.settle(node)?;
        let intent = || format!("find the changes of {}", node.label());
        let Some(parent) = self.parent_tree(node).context(intent)? else { return Ok(Vec::new()) };
        let backend = self.backend(node.record.backend).context(intent)?;
        let changes =
            backend.changes(&self.tree(node)?, &parent, &node.record.baseline, options).context(intent)?;
        self.without_what_stays_out(&node.record, changes)
    }

    /// Returns what changed in a fork that will be thrown away.
    pub fn ephemeral_changes(&self, fork: &Ephemeral, options: DiffOptions) -> Result<Vec<Change>> {
        let backend = self.backend(fork.record.backend)?;
        let changes = backend.changes(&fork.tree, &fork.parent, &fork.record.baseline, options)?;
        self.without_what_stays_out(&fork.record, changes)
    }

    /// In a fork of the host, what was blanked is no change of it.
    fn without_what_stays_out(&self, record: &Record, mut changes: Vec<Change>) -> Result<Vec<Change>> {
        if record.outside.is_some() {
            let root = self.real_root()?;
            changes.retain(|change| !host::stays_out(&change.path, &root));
        }
        Ok(changes)
    }

    /// Returns what turns `old` into `new`, whatever the two are.
    ///
    /// O(changes) where `new` was forked from `old`; else both trees are walked and files of equal size read.
    pub fn diff(&self, old: &Node, new: &Node, options: DiffOptions) -> Result<Vec<Change>> {
        if new.record.parent.as_ref() == Some(&old.id) {
            return self.changes(new, options);
        }
        let _lock = self.share()?;
        let intent = || format!("compare {} with {}", old.label(), new.label());
        let (old_root, new_root) =
            (self.open_root(old).context(intent)?, self.open_root(new).context(intent)?);
        compare::diff_trees(&old_root, &new_root, options).context(intent)
    }

    /// Opens the root of a node's tree for reading.
    pub fn open_root(&self, node: &Node) -> Result<Dir> {
        let tree = self.tree(node)?;
        self.backend(node.record.backend)?.open_root(&tree)
    }
}
