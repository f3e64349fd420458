//! What a node says of itself that is a layer, or an image; and how one is found by its digests.
//!
//! `c/<chain id>` leads to the node whose tree is that stack of layers, `d/<diff id>` to an object whose own `fs/` is that layer as a
//! delta, whatever it lies on. Both are hints: the record of what they lead to is believed, and a hint that leads to nothing, or to something
//! else, counts for nothing. Nothing is kept because of a hint.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::PathBuf;

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Form, Result};
use serde::{Deserialize, Serialize};

use super::{Node, ObjectId, State, Store, files};
use crate::image::{ChainId, Descriptor, DiffId, Digest, Platform};

/// For a node whose tree, against its parent, is a layer of an image: which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the layer's tar.
    pub diff_id: DiffId,
    /// The name of the stack of layers that ends here.
    pub chain_id: ChainId,
    /// Bytes of its files.
    #[serde(default)]
    pub size: u64,
    /// Has it an entry for the root directory? Without one that of a delta looks like the one beneath.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub says_root: bool,
    /// The blobs that it came as, or was packed into; each may be gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Descriptor>,
}

/// For a node that is an image: which documents it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The manifest, a blob.
    pub manifest: Digest,
    /// What the manifest is.
    pub media_type: String,
    /// The configuration, a blob.
    pub config: Digest,
    /// The index that the manifest was chosen from, a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// What was asked for when it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// When it was made, as its configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

impl Image {
    /// Returns the digests of its documents.
    pub fn documents(&self) -> impl Iterator<Item = &Digest> {
        [&self.manifest, &self.config].into_iter().chain(&self.index)
    }
}

impl Store {
    /// Returns which layer a node's tree is against its parent's: what its record says, or that of the node whose tree it has.
    pub fn layer_of(&self, node: &Node) -> Result<Option<Layer>> {
        let mut record = node.record.clone();
        while record.layer.is_none()
            && let Some(id) = &record.tree
        {
            let other = self.node(id)?.record;
            if other.parent != record.parent {
                break;
            }
            record = other;
        }
        Ok(record.layer)
    }

    /// Returns the node whose tree is a stack of layers, if there is one.
    pub fn chain_node(&self, chain: &ChainId) -> Result<Option<Node>> {
        let found = self.hinted(&self.chain_hint(chain))?;
        Ok(found.filter(|node| {
            let record = &node.record;
            // A delta that lies on nothing any more is there only for those who share it.
            let is_stack = record.form == Form::Full || record.parent.is_some();
            let is_it = record.layer.as_ref().is_some_and(|layer| layer.chain_id == *chain);
            is_stack && (is_it || self.is_held_chain(record, chain))
        }))
    }

    /// Returns a node whose own `fs/` is a layer as a delta, if there is one.
    pub(super) fn diff_node(&self, diff: &DiffId) -> Result<Option<Node>> {
        let found = self.hinted(&self.diff_hint(diff))?;
        Ok(found.filter(|node| {
            let record = &node.record;
            let is_it = record.layer.as_ref().is_some_and(|layer| layer.diff_id == *diff);
            is_it && record.tree.is_none() && record.form == Form::Delta
        }))
    }

    pub(super) fn chain_hint(&self, chain: &ChainId) -> PathBuf {
        self.root.join("c").join(chain.0.hex())
    }

    pub(super) fn diff_hint(&self, diff: &DiffId) -> PathBuf {
        self.root.join("d").join(diff.0.hex())
    }

    fn hinted(&self, hint: &PathBuf) -> Result<Option<Node>> {
        let id = match fs::read_link(hint) {
            Ok(target) => {
                target.file_name().and_then(|id| id.to_str()).and_then(|id| ObjectId::parse(id).ok())
            }
            Err(error) if error.kind() == IoKind::NotFound => None,
            Err(error) => return Err(Error::io(format!("readlink({hint:?})"), error)),
        };
        let Some(id) = id else { return Ok(None) };
        match self.node(&id) {
            Ok(node) => Ok((node.record.state == State::Committed).then_some(node)),
            // Removed, or never durable.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a hint lead to a node. Not synced: one that a power cut takes costs an unpacking.
    pub(super) fn hint(&self, hint: &PathBuf, id: &ObjectId) -> Result<()> {
        files::link_over(&format!("../o/{id}"), hint).context(|| format!("note {id} at {hint:?}"))
    }

    /// Removes the hints that lead to nothing. The caller holds the store alone.
    pub(super) fn sweep_hints(&self) -> Result<()> {
        for path in self.lost_hints()? {
            files::remove_if_exists(&self.root.join(path))?;
        }
        Ok(())
    }

    /// Returns the hints that lead to nothing, and the locks of what nobody makes, relative to the store. The caller holds the store alone.
    pub(super) fn lost_hints(&self) -> Result<Vec<PathBuf>> {
        let mut lost = Vec::new();
        for directory in ["c", "d"].map(PathBuf::from) {
            for name in files::list(&self.root.join(&directory))? {
                let path = self.root.join(&directory).join(&name);
                let is_lost = files::is_leftover(&name)
                    || match fs::read_link(&path) {
                        Ok(_) => fs::metadata(&path).is_err_and(|error| error.kind() == IoKind::NotFound),
                        Err(_) => self.is_idle_lock(&path)?,
                    };
                if is_lost {
                    lost.push(directory.join(name));
                }
            }
        }
        Ok(lost)
    }
}
