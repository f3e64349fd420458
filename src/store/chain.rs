//! Chains of deltas kept short: however many states a box has been in, its tree stands on few layers.
//!
//! Every state of a box that is kept as a delta would lie on the one before, and a thousand of them would be a thousand layers:
//! more than can be mounted, and each makes looking up a name slower. So once [`FAN`] states lie one on the other that each say the same
//! number of steps, the next one says all of these at once: it is merged out of their deltas and its own, and stands on what is beneath
//! them. The ones that were merged stay as they are, for whoever stands on them.
//!
//! ```text
//! steps  1 1 1 1 | 4          1 1 1 1 | 4 1 1 1 1 | 4 4 1 ...          (drawn for a fan of four)
//!        base----->           base----------------->
//! ```
//!
//! With `n` states no tree stands on more than about `FAN * log(n) / log(FAN)` layers, and each change is written that many times less `FAN`:
//! at a fan of 16, a thousand states are at most 33 layers, and no change is written more than three times in all.
//!
//! What a state changed against the one before is then not what its delta holds; [`diff`](Store::diff) finds it along both deltas.

use std::path::PathBuf;

use rootling_backends::{CloneMode, Cost, Dir, FS, Form, Kind, Mount, Result, Tree, flatten};

use super::draft::Draft;
use super::{Node, Store, files};

/// How many deltas of the same number of steps lie on each other, the one that is being made included, before they are merged.
const FAN: usize = 16;

/// What is to be merged with a new delta.
#[derive(Debug)]
pub(crate) struct Due {
    /// The deltas, top first.
    merged: Vec<PathBuf>,
    /// What the result stands on.
    pub(crate) beneath: Node,
    /// How many steps it says.
    pub(crate) steps: u32,
}

impl Store {
    /// Returns what a new delta on `parent` is to be merged with, if that is due. O(length of the chain of deltas).
    pub(crate) fn due(&self, parent: &Node) -> Result<Option<Due>> {
        let mut due = Due { merged: Vec::new(), beneath: parent.clone(), steps: 1 };
        loop {
            let mut group = Vec::new();
            let mut at = due.beneath.clone();
            while group.len() < FAN - 1 && is_mergeable(&at) && at.record.steps() == due.steps {
                group.push(self.tree_slot(&at)?.join(FS));
                let below = at.record.parent.clone().expect("a delta of the store has a parent");
                at = self.node(&below)?;
            }
            if group.len() < FAN - 1 {
                break;
            }
            due.merged.append(&mut group);
            due.beneath = at;
            due.steps = due.steps.saturating_mul(u32::try_from(FAN).expect("it is small"));
        }
        Ok((!due.merged.is_empty()).then_some(due))
    }

    /// Merges the delta in `top` with what is due into the draft.
    pub(crate) fn merge_due(&self, top: PathBuf, due: &Due, draft: &Draft) -> Result<Cost> {
        let target = draft.slot.join(FS);
        files::make_dir(&target)?;
        let deltas: Vec<PathBuf> = std::iter::once(top).chain(due.merged.iter().cloned()).collect();
        let beneath = self.open_root(&due.beneath)?;
        flatten::merge_deltas(&deltas, &beneath, &Dir::open(&target)?, self.userxattr(), CloneMode::Auto)
    }

    /// Does whoever writes a delta of this backend write OverlayFS's own marks? fuse-overlayfs has some of its own until it is sealed.
    pub(crate) fn writes_kernel_marks(&self, kind: Kind, tree: &Tree) -> Result<bool> {
        let mount = self.backend(kind)?.mount(tree, rootling_backends::Access::ReadWrite, false);
        Ok(!matches!(mount, Mount::FuseOverlay(_)))
    }
}

/// Is it a delta over another node of the store, and no layer of an image, nor a step of a build? Those are shared, and go where the image goes.
fn is_mergeable(node: &Node) -> bool {
    let record = &node.record;
    let is_layer = record.layer.is_some() || record.step.is_some() || record.tree.is_some();
    record.form == Form::Delta && record.outside.is_none() && record.parent.is_some() && !is_layer
}
