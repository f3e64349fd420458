//! Boxes that were made for runtime bundles: found by the directory, whatever they are called by now.

use std::path::Path;

use rootling_backends::{Context, Result};

use super::{Node, State, Store};

impl Store {
    /// Returns the box that was made for the bundle in `directory`: of several, the one that is mounted at `rootfs`, else the youngest. O(names).
    ///
    /// There are several where a box was brought back after its bundle had gone, and another was made in the same place.
    pub fn box_of_bundle(&self, directory: &Path, rootfs: &Path) -> Result<Option<Node>> {
        let is_its = |node: &Node| {
            node.record.state == State::Active && node.record.life.bundle.as_deref() == Some(directory)
        };
        let mut found: Vec<(bool, Node)> = Vec::new();
        for node in self.nodes()?.into_iter().filter(is_its) {
            found.push((self.mounted_at(&node)?.iter().any(|place| place == rootfs), node));
        }
        Ok(found
            .into_iter()
            .max_by_key(|(is_shown, node)| (*is_shown, node.record.created))
            .map(|(_, node)| node))
    }

    /// Notes that a box is none of a bundle any more. Durable on return.
    pub fn leave_bundle(&self, node: &Node) -> Result<Node> {
        self.change_record(node, |record| {
            record.life.bundle = None;
            Ok(())
        })
        .context(|| format!("take {} out of its bundle", node.shown()))
    }
}
