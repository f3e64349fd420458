//! The reflink backend: plain directories whose files share their extents with the parent's (XFS, btrfs, bcachefs).

use std::path::Path;

use crate::backend::{
    Backend, Baseline, Capabilities, Finding, ForkOptions, Forked, Kind, Reaped, Snapshotted, Tree, Usage,
};
use crate::change::{Change, DiffOptions};
use crate::error::Result;
use crate::mount::{Access, Mount};
use crate::plain::Plain;
use crate::reap::reap;

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reflink(Plain);

impl Reflink {
    /// Returns the backend; `userxattr`: OverlayFS's marks in deltas go to `user.`, not `trusted.` (in a user namespace).
    pub fn new(userxattr: bool) -> Self {
        Self(Plain { kind: Kind::Reflink, userxattr, deltas: true })
    }

    /// The same with snapshots that are copies of the whole tree: for where deltas cannot be written, or not be read.
    #[must_use]
    pub fn without_deltas(self) -> Self {
        Self(Plain { deltas: false, ..self.0 })
    }
}

impl Backend for Reflink {
    fn kind(&self) -> Kind {
        Kind::Reflink
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn create(&self, slot: &Path) -> Result<()> {
        self.0.create(slot)
    }

    fn fork(&self, parent: &Tree, slot: &Path, options: ForkOptions) -> Result<Forked> {
        self.0.fork(parent, slot, options)
    }

    fn snapshot(&self, tree: &Tree, parent: Option<(&Tree, &Baseline)>, slot: &Path) -> Result<Snapshotted> {
        self.0.snapshot(tree, parent, slot)
    }

    /// A plain directory has no switch: nothing to do.
    fn seal(&self, _tree: &Tree) -> Result<()> {
        Ok(())
    }

    fn barrier(&self, directory: &Path) -> Result<()> {
        self.0.barrier(directory)
    }

    fn mount(&self, tree: &Tree, access: Access, volatile: bool) -> Mount {
        self.0.mount(tree, access, volatile)
    }

    fn changes(
        &self,
        tree: &Tree,
        parent: &Tree,
        baseline: &Baseline,
        options: DiffOptions,
    ) -> Result<Vec<Change>> {
        self.0.changes(tree, parent, baseline, options)
    }

    fn usage(&self, tree: &Tree) -> Result<Usage> {
        self.0.usage(tree)
    }

    fn reap(&self, slot: &Path) -> Result<Reaped> {
        reap(slot)
    }

    fn check(&self, tree: &Tree, _sealed: bool) -> Result<Vec<Finding>> {
        self.0.check(tree)
    }
}
