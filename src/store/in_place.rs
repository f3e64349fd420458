//! A box's own tree is changed where it is, until it is what a state is: as a whole, or at some paths.
//!
//! What was left half done is done again: what differs is looked for anew.

use std::path::PathBuf;

use rootling_backends::patch::patch;
use rootling_backends::replicate::Options;
use rootling_backends::within::within;
use rootling_backends::{Access, Change, CloneMode, DiffOptions, Dir, Kind, Result, compare};

use super::{Node, Store, fault};

impl Store {
    /// Makes a box's tree what `state` is, at these paths, or everywhere where there are none. Durable on return.
    ///
    /// `was` is the state that the box is in, where that is known: then only what differs between the two is looked at. The caller has
    /// the box alone.
    pub(crate) fn change_tree(
        &self,
        node: &Node,
        state: &Node,
        paths: &[PathBuf],
        was: Option<&Node>,
    ) -> Result<()> {
        let backend = self.backend(node.record.backend)?;
        let source = self.open_root(state)?;
        let tree = self.tree(node)?;
        let target = backend.mount(&tree, Access::ReadWrite, false).open_root_for(Access::ReadWrite)?;
        let changes = self.differences(&target, &source, state, was)?;
        let changes = if paths.is_empty() { changes } else { within(changes, paths, &target)? };
        let clone = if node.record.backend == Kind::Copy { CloneMode::Never } else { CloneMode::Auto };
        patch(&changes, &source, &target, &Options::from(clone))?;
        fault::point("restore.patched");
        drop(target);
        backend.barrier(&tree.slot)?;
        fault::point("restore.synced");
        Ok(())
    }

    fn differences(
        &self,
        target: &Dir,
        source: &Dir,
        state: &Node,
        was: Option<&Node>,
    ) -> Result<Vec<Change>> {
        let times = DiffOptions { times: true };
        match was {
            Some(was) => self.diff(was, state, times),
            None => compare::diff_trees(target, source, times),
        }
    }
}
