//! What is told of images: all of them, one by a digest, and what each consists of.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use rootling_backends::{ErrorKind, Result};
use serde::Serialize;

use super::super::layers::{Image, Layer};
use super::super::{Documents, Name, Node, ObjectId, Record, Store};
use crate::image::{Descriptor, Digest, Platform};

/// An image, for lists.
#[derive(Debug, Clone, Serialize)]
pub struct ImageEntry {
    /// Its node.
    pub id: ObjectId,
    /// What it is called.
    pub names: Vec<Name>,
    /// Its documents; one that was built here has none until it goes elsewhere.
    pub image: Option<Image>,
    /// Of one that was built here, the digests of what it was made into last.
    pub made: Option<Documents>,
    /// What it runs on.
    pub platform: Option<Platform>,
    /// When it was made, as its configuration says.
    pub created: Option<Timestamp>,
    /// When it came.
    pub added: Timestamp,
    /// How many layers it has.
    pub layers: usize,
    /// Bytes of its files, unpacked; of one that was built here it is known once its layers were made.
    pub size_bytes: Option<u64>,
    /// Bytes of its blobs that are kept.
    pub blob_bytes: u64,
}

impl Store {
    /// Returns the layers of an image, or of any node of a layer, the lowest first, each with the node that it is the tree of. O(layers).
    ///
    /// Of what was made from an image it is none: its own changes are no layer yet.
    pub fn layers(&self, node: &Node) -> Result<Vec<(Node, Layer)>> {
        let (mut layers, mut at) = (Vec::new(), Some(node.clone()));
        while let Some(node) = at
            && let Some(layer) = self.layer_of(&node)?
        {
            at = node.record.parent.as_ref().map(|id| self.node(id)).transpose()?;
            layers.push((node, layer));
        }
        layers.reverse();
        Ok(layers)
    }

    /// Returns all images that have a name, by the first of their names. O(names).
    pub fn images(&self) -> Result<Vec<ImageEntry>> {
        let _lock = self.share()?;
        let mut names: BTreeMap<ObjectId, Vec<Name>> = BTreeMap::new();
        for (name, id) in self.names()? {
            names.entry(id).or_default().push(name);
        }
        let mut sizes = HashMap::new();
        let mut images = Vec::new();
        for (id, names) in names {
            let node = match self.node(&id) {
                // Removed since the names were listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                node => node?,
            };
            let record = &node.record;
            let (platform, created) = match (&record.image, &record.built) {
                (Some(image), _) => (image.platform.clone(), image.created),
                (None, Some(built)) => (built.platform.clone(), built.created),
                (None, None) => continue,
            };
            let (image, made, added) = (record.image.clone(), record.made.clone(), record.created);
            let Extent { layers, size_bytes, blobs } = self.extent(&node)?;
            let mut blob_bytes = 0;
            for digest in blobs.iter().chain(image.iter().flat_map(Image::documents)) {
                blob_bytes += self.known_blob_size(&mut sizes, digest)?;
            }
            images.push(ImageEntry {
                id,
                names,
                image,
                made,
                platform,
                created,
                added,
                layers,
                size_bytes,
                blob_bytes,
            });
        }
        images.sort_by(|one, other| one.names.cmp(&other.names));
        Ok(images)
    }

    /// Returns the image whose manifest, index or configuration has this digest; one without a name too, if it was built here. O(objects).
    pub fn image_of_digest(&self, digest: &Digest) -> Result<Option<Node>> {
        let _lock = self.share()?;
        let is_it = |record: &Record| {
            let came = record.image.iter().any(|image| image.documents().any(|known| known == digest));
            came || record.made.iter().any(|made| made.manifest == *digest || made.config == *digest)
        };
        for id in self.ids()? {
            match self.node(&id) {
                Ok(node) if is_it(&node.record) => {
                    let name = self.naming_as_asked().of(&id).into_iter().next();
                    return Ok(Some(Node { name, ..node }));
                }
                Ok(_) => {}
                // Removed since they were listed, or damaged: another may be it.
                Err(error) => log::debug!("{error:?}"),
            }
        }
        Ok(None)
    }

    /// Returns what an image consists of: the layers that it came with, and the steps that were built on them.
    fn extent(&self, node: &Node) -> Result<Extent> {
        let mut extent = Extent { layers: 0, size_bytes: Some(0), blobs: Vec::new() };
        let mut at = Some(node.clone());
        while let Some(node) = at.take() {
            let Some(built) = &node.record.built else {
                for (_, layer) in self.layers(&node)? {
                    extent.add(Some(layer.size), &layer.blobs);
                }
                break;
            };
            for step in &built.steps {
                let Some(step) = self.node_if_exists(step)? else { continue };
                match &step.record.packed {
                    // Nothing changed in it.
                    Some(packed) if packed.blobs.is_empty() => {}
                    Some(packed) => extent.add(packed.size, &packed.blobs),
                    None => extent.add(None, &[]),
                }
            }
            at = built.base.as_ref().map_or(Ok(None), |base| self.node_if_exists(base))?;
        }
        Ok(extent)
    }

    fn known_blob_size(&self, known: &mut HashMap<Digest, u64>, digest: &Digest) -> Result<u64> {
        if let Some(size) = known.get(digest) {
            return Ok(*size);
        }
        let size = self.blob_size(digest)?.unwrap_or_default();
        known.insert(digest.clone(), size);
        Ok(size)
    }
}

/// What an image consists of.
#[derive(Debug)]
struct Extent {
    layers: usize,
    size_bytes: Option<u64>,
    blobs: Vec<Digest>,
}

impl Extent {
    fn add(&mut self, size_bytes: Option<u64>, blobs: &[Descriptor]) {
        self.layers += 1;
        self.size_bytes = self.size_bytes.zip(size_bytes).map(|(sum, size)| sum + size);
        self.blobs.extend(blobs.iter().map(|blob| blob.digest.clone()));
    }
}
