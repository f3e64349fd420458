//! Stacks of layers that both sides know: what was unpacked here is not unpacked again for a holder, nor the other way round.
//!
//! Who prepares a tree to unpack a layer into says in the label [`REF`] which stack of layers that will be. Where the store has it, whoever brought
//! it, a committed tree with these labels is made on the same parent, sharing what is there, and the answer is that it exists: the holder looks for
//! one with that label and that parent, and needs no layer (containerd, core/snapshots/snapshotter.go, "remote snapshot").
//!
//! A tree that is committed under a name that ends in a chain id is noted as that stack, as one that was pulled is.

use std::collections::BTreeMap;

use rootling_backends::{Error, ErrorKind, Result};

use super::super::files::{self, Durability};
use super::super::layers::Layer;
use super::super::stack::Wanted;
use super::super::{Node, ObjectId, Record, Store, lock};
use super::index::Coming;
use super::record::{Held, chain_of};
use super::{HeldInfo, HeldKind, HeldTrees};
use crate::image::{ChainId, Digest};

/// The label that says which stack of layers a tree is about to become.
const REF: &str = "containerd.io/snapshot.ref";

/// A stack of layers that somebody is about to unpack.
#[derive(Debug)]
pub(super) struct Target {
    chain: ChainId,
    /// What it is called if it is here: the second where the first is another's.
    pub(super) names: [String; 2],
}

impl Target {
    /// Returns what labels say a tree on `parent` is about to become.
    pub(super) fn of(parent: &str, labels: &BTreeMap<String, String>) -> Option<Self> {
        let chain = ChainId(Digest::parse(labels.get(REF)?).ok()?);
        let on_parent = Digest::sha256_of(parent.as_bytes());
        let names = [chain.0.to_string(), format!("{}/{}", on_parent.short(), chain.0)];
        Some(Self { chain, names })
    }
}

impl HeldTrees {
    /// Returns only if the store has nothing of this stack of layers. If it has, that is held on this parent, with these labels, and the
    /// error of kind `AlreadyExists` says so.
    ///
    /// The caller has taken the names. Durable on return.
    pub(super) fn require_unknown<'a>(
        &self,
        target: &Target,
        labels: &BTreeMap<String, String>,
        coming: Coming<'a>,
    ) -> Result<Coming<'a>> {
        let parent = coming.parent.as_ref().map_or(String::new(), |parent| parent.info.key.clone());
        let is_it = |info: &HeldInfo| {
            info.kind == HeldKind::Committed
                && info.parent == parent
                && info.labels.get(REF) == labels.get(REF)
        };
        let known = || {
            let message = format!("{} is here already: look for its label {REF}", target.chain);
            Err(Error::new(ErrorKind::AlreadyExists, message))
        };
        if self.index.any(is_it) {
            return known();
        }
        let Some(name) = target.names.iter().find(|name| self.index.find(name).is_none()) else {
            return Ok(coming);
        };
        let _lock = self.store.share_to_write()?;
        let Some(node) = self.store.chain_node(&target.chain)? else { return Ok(coming) };
        // It may be on its way out: then it is unpacked once more.
        let Ok(_held) = self.store.hold(&node) else { return Ok(coming) };
        let draft = self.store.draft()?;
        let record = self.store.sharing(&draft, &node);
        let held = Held::new(name, HeldKind::Committed, &parent, labels.clone());
        self.publish(draft, record, held, coming)?;
        known()
    }

    /// Notes that a committed tree is the stack of layers that its name says, unless another is known.
    pub(super) fn note_chain(&self, name: &str, id: &ObjectId) -> Result<()> {
        let Some(chain) = chain_of(name) else { return Ok(()) };
        if self.store.chain_node(&chain)?.is_some() {
            return Ok(());
        }
        files::make_dir(&self.store.root().join("c"))?;
        self.store.hint(&self.store.chain_hint(&chain), id)
    }
}

impl Store {
    /// Is the node a stack of layers that a holder unpacked?
    pub(in super::super) fn is_held_chain(&self, record: &Record, chain: &ChainId) -> bool {
        record.held.as_ref().and_then(|held| held.chain()).is_some_and(|known| known == *chain)
    }

    /// Notes which layer a stack ends with that a holder unpacked, who knows only what it is called. Durable on return.
    pub(in super::super) fn note_layer(&self, node: &Node, wanted: &Wanted) -> Result<Node> {
        let slot = self.object_dir(&node.id);
        let _change = lock::lock_file(&slot.join("change"), lock::Mode::Exclusive, &node.shown())?;
        let record = Record::read(&slot)?;
        let size = match &record.layer {
            Some(_) => return Ok(Node { record, ..node.clone() }),
            None => self.own_usage(node)?.bytes,
        };
        let layer = Layer {
            diff_id: wanted.diff_id.clone(),
            chain_id: wanted.chain_id.clone(),
            size,
            says_root: false,
            blobs: Vec::new(),
        };
        let record = Record { layer: Some(layer), ..record };
        record.write(&slot, Durability::Synced)?;
        Ok(Node { record, ..node.clone() })
    }
}
