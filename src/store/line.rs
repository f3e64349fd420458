//! The line of states that leads to a node, from the image it began as: what becomes layers when the node leaves the store.
//!
//! ```text
//! image ──> box@one ──> (no name) ──> box@two ──> present
//! └ base    └ a layer   └───── a layer ──────┘    a layer
//! ```
//!
//! A state becomes a layer if it has a name, or is the last; what happened in others is in the layer of the next. A layer is made once: its
//! blob is noted in the record of the state.

use std::fs::File;

use rootling_backends::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Base, Label, Node, ObjectId, Store};
use crate::image::{Descriptor, DiffId};

/// What a state was packed into, as the layer that turns another state into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedState {
    /// The state before; `None` where the layer is all of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<ObjectId>,
    /// The digest of the layer's tar.
    pub diff_id: DiffId,
    /// The blobs, by compression; each may be gone.
    pub blobs: Vec<Descriptor>,
}

/// The states that lead to a node.
#[derive(Debug)]
pub struct Line {
    /// The image, or the node of layers, that all began as.
    pub base: Option<Node>,
    /// The states after it, the oldest first: each a layer. Empty for an image.
    pub states: Vec<LineState>,
    /// Keeps the last state, which may have no name.
    _held: File,
}

/// A state of a line.
#[derive(Debug)]
pub struct LineState {
    /// Its node; committed.
    pub node: Node,
    /// What it is called as a snapshot of a box.
    pub label: Option<Label>,
}

impl Line {
    /// Returns the node at the end: what leaves the store.
    pub fn last(&self) -> Option<&Node> {
        self.states.last().map(|state| &state.node).or(self.base.as_ref())
    }
}

impl Store {
    /// Returns the line that leads to a node; the present state of a box becomes a committed node first, as for a fork.
    ///
    /// O(states). Nothing of it is removed as long as the line is kept.
    pub fn line_of(&self, node: &Node) -> Result<Line> {
        let intent = || format!("follow the states of {}", node.shown());
        let (last, held) = {
            let _lock = self.share_to_write().context(intent)?;
            let last = self.committed(Base::Node(node)).context(intent)?;
            let last = last.expect("a node was given");
            let held = self.hold(&last).context(intent)?;
            (last, held)
        };
        self.line_to(last, held).context(intent)
    }

    fn line_to(&self, last: Node, held: File) -> Result<Line> {
        let naming = self.naming_as_asked();
        let label_of = |id: &ObjectId| {
            let names = naming.of(id);
            let label = names.iter().find_map(|name| name.of_snapshot()).map(|(_, label)| label);
            (label, names.into_iter().next())
        };
        let (mut states, mut at) = (Vec::new(), Some(last));
        let mut base = None;
        while let Some(node) = at {
            if node.record.image.is_some() || self.layer_of(&node)?.is_some() {
                base = Some(node);
                break;
            }
            let before = self.predecessor(&node)?;
            let (label, name) = label_of(&node.id);
            if name.is_some() || states.is_empty() {
                states.push(LineState { node: Node { name: name.or(node.name.clone()), ..node }, label });
            }
            at = before;
        }
        states.reverse();
        Ok(Line { base, states, _held: held })
    }

    /// Notes which layer a state is over the one before it. Durable on return; a second call does nothing.
    pub fn note_packed(
        &self,
        state: &Node,
        over: Option<&ObjectId>,
        diff_id: &DiffId,
        blob: &Descriptor,
    ) -> Result<()> {
        let noted = self.change_record(state, |record| {
            let known =
                record.packed.take().filter(|known| known.over.as_ref() == over && known.diff_id == *diff_id);
            let mut packed = known.unwrap_or_else(|| PackedState {
                over: over.cloned(),
                diff_id: diff_id.clone(),
                blobs: Vec::new(),
            });
            packed.blobs.retain(|known| known.digest != blob.digest);
            packed.blobs.push(blob.clone());
            record.packed = Some(packed);
            Ok(())
        });
        noted.map(drop)
    }
}
