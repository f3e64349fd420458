//! The line of states that leads to a node, from the image it began as: what becomes layers when the node leaves the store.
//!
//! ```text
//! image ──> box@one ──> (no name) ──> box@two ──> present
//! └ base    └ a layer   └───── a layer ──────┘    a layer
//! ```
//!
//! A state becomes a layer if it has a name, or is the last; what happened in others is in the layer of the next. What was built has as its
//! states the steps that its record names, on those of what it was built on. A layer is made once: its blob is noted in the record of the
//! state.

use std::fs::File;

use rootling_backends::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Base, Image, Label, Node, ObjectId, Store};
use crate::image::{Descriptor, DiffId, Digest};

/// What a state was packed into, as the layer that turns another state into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedState {
    /// The state before; `None` where the layer is all of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<ObjectId>,
    /// The latest time that files in it could have, in seconds since 1970; `None` where they are as in the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The digest of the layer's tar.
    pub diff_id: DiffId,
    /// The length of that tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The blobs, by compression; each may be gone. None where nothing changed, and there is no layer.
    pub blobs: Vec<Descriptor>,
}

impl PackedState {
    /// Is it the layer over this state, with these times?
    pub fn is_over(&self, over: Option<&ObjectId>, epoch: Option<i64>) -> bool {
        self.over.as_ref() == over && self.epoch == epoch
    }
}

/// The documents that a node was made into when it left the store, by digest. They are not kept: made again, they are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Documents {
    /// The manifest: what registries know it by.
    pub manifest: Digest,
    /// The configuration: what docker calls the id of the image.
    pub config: Digest,
}

/// The states that lead to a node.
#[derive(Debug)]
pub struct Line {
    /// The image, or the node of layers, that all began as.
    pub base: Option<Node>,
    /// The states after it, the oldest first: each a layer. Empty for an image.
    pub states: Vec<LineState>,
    /// The last build that led here, if there was one.
    pub built: Option<BuiltLine>,
    /// The node at the end: what leaves the store.
    pub end: Node,
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

/// The part of a line that was built: what its node says of history holds for all of it.
#[derive(Debug)]
pub struct BuiltLine {
    /// The end of the build.
    pub node: Node,
    /// How many states lead to it: the steps, and what they were built on.
    pub states: usize,
}

impl Line {
    /// Returns which image the node still is: nothing was built or changed since it came.
    pub fn image(&self) -> Option<&Image> {
        let base = self.base.as_ref().filter(|_| self.states.is_empty() && self.built.is_none());
        base.and_then(|base| base.record.image.as_ref())
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
        let (mut states, mut at) = (Vec::new(), Some(last.clone()));
        let (mut base, mut built) = (None, None);
        while let Some(node) = at {
            if node.record.built.is_some() {
                let above = states.len();
                at = self.built_on(&node, &mut states)?;
                built.get_or_insert((node, above));
                continue;
            }
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
        let built = built.map(|(node, above)| BuiltLine { node, states: states.len() - above });
        Ok(Line { base, states, built, end: last, _held: held })
    }

    /// Adds the steps that made a build, the latest first, and returns what is below them.
    ///
    /// Steps of whole trees may have been let go: then the next one says their changes too.
    fn built_on(&self, node: &Node, states: &mut Vec<LineState>) -> Result<Option<Node>> {
        let built = node.record.built.as_ref().expect("the caller saw it");
        let mut lowest = None;
        for id in built.steps.iter().rev() {
            if let Some(step) = self.node_if_exists(id)? {
                states.push(LineState { node: step.clone(), label: None });
                lowest = Some(step);
            }
        }
        let Some(base) = &built.base else { return Ok(None) };
        if let Some(base) = self.node_if_exists(base)? {
            return Ok(Some(base));
        }
        // The image is gone, but not the trees that others stand on.
        match (lowest, &node.record.tree) {
            (Some(step), _) => self.predecessor(&step),
            (None, Some(tree)) => self.node_if_exists(tree),
            (None, None) => Ok(None),
        }
    }

    /// Notes what was made of a node that was built. Durable on return; a second call does nothing.
    pub fn note_documents(&self, node: &Node, documents: &Documents) -> Result<()> {
        if node.record.made.as_ref() == Some(documents) {
            return Ok(());
        }
        let noted = self.change_record(node, |record| {
            record.made = Some(documents.clone());
            Ok(())
        });
        noted.map(drop)
    }

    /// Notes which layer a state is over the one before it, with one blob at the most. Durable on return; a second call does nothing.
    pub fn note_packed(&self, state: &Node, packed: &PackedState) -> Result<()> {
        let noted = self.change_record(state, |record| {
            let is_it = |known: &PackedState| {
                known.is_over(packed.over.as_ref(), packed.epoch) && known.diff_id == packed.diff_id
            };
            let known = record.packed.take().filter(is_it);
            let mut noted =
                PackedState { blobs: known.map_or_else(Vec::new, |known| known.blobs), ..packed.clone() };
            noted.blobs.retain(|known| packed.blobs.iter().all(|blob| blob.digest != known.digest));
            noted.blobs.extend(packed.blobs.iter().cloned());
            record.packed = Some(noted);
            Ok(())
        });
        noted.map(drop)
    }
}
