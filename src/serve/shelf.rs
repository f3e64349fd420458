//! What a repository offers: what was pushed to it, and the images of the store that are called as it is.

use rootling_backends::Result;

use super::making;
use crate::image::{DOCUMENT_MAX, Digest, Document, Parsed};
use crate::store::{Node, Repository, Store, Tagged};

/// A repository as clients see it.
#[derive(Debug)]
pub(super) struct Shelf<'a> {
    pub(super) store: &'a Store,
    pub(super) pushed: Repository<'a>,
    /// Are boxes, trees and snapshots offered too?
    pub(super) with_boxes: bool,
}

/// A manifest that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

impl<'a> Shelf<'a> {
    pub(super) fn new(store: &'a Store, pushed: Repository<'a>, with_boxes: bool) -> Self {
        Self { store, pushed, with_boxes }
    }

    /// Is there anything?
    pub(super) fn exists(&self) -> Result<bool> {
        Ok(self.pushed.exists() || !self.tags()?.is_empty())
    }

    /// Returns the tags, sorted.
    pub(super) fn tags(&self) -> Result<Vec<String>> {
        let mut tags = self.pushed.tags()?;
        tags.extend(self.pushed.images()?.into_iter().map(|(tag, _)| tag));
        if self.with_boxes {
            tags.extend(self.pushed.node_tags()?);
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(tags)
    }

    /// Returns the manifest that a tag means.
    pub(super) fn tag(&self, tag: &str) -> Result<Option<Found>> {
        match self.pushed.tagged(tag)? {
            Some(Tagged::Pushed(digest)) => self.manifest(&digest),
            Some(Tagged::Image(node)) if node.record.built.is_some() => making::image(self, &node).map(Some),
            Some(Tagged::Image(node)) => Ok(found_in(&node)),
            None if self.with_boxes => {
                self.pushed.node(tag)?.map(|node| making::image(self, &node)).transpose()
            }
            None => Ok(None),
        }
    }

    /// Returns the manifest or index of that digest.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Option<Found>> {
        if let Some(pushed) = self.pushed.manifest(digest)? {
            return Ok(Some(Found { digest: digest.clone(), media_type: pushed.media_type }));
        }
        for (_, node) in self.pushed.images()? {
            let Some(image) = &node.record.image else { continue };
            if image.manifest == *digest {
                return Ok(found_in(&node));
            }
            // The index that it was chosen from is offered by its digest alone: what else it names need not be here.
            if image.index.as_ref() == Some(digest) {
                let index = Document::parse_with_digest(self.bytes(digest)?, digest, None)?;
                return Ok(Some(Found { digest: digest.clone(), media_type: index.media_type }));
            }
        }
        Ok(None)
    }

    /// Returns the bytes of a manifest that is there, verified.
    pub(super) fn bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.store.read_blob(digest, DOCUMENT_MAX)
    }

    /// Returns the length of a blob of the repository.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<u64>> {
        if let Some(size) = self.pushed.blob(digest)? {
            return Ok(Some(size));
        }
        let made = self.makes()? && self.has_in_made(digest)?;
        if made || self.has_in_images(digest)? { self.store.blob_size(digest) } else { Ok(None) }
    }

    /// Can manifests have been made here?
    fn makes(&self) -> Result<bool> {
        let is_built = |(_, node): &(String, Node)| node.record.built.is_some();
        Ok(self.with_boxes || self.pushed.images()?.iter().any(is_built))
    }

    /// Does a manifest that was made here name this blob? Nobody pushed it.
    fn has_in_made(&self, digest: &Digest) -> Result<bool> {
        for manifest in self.pushed.manifests()? {
            let made = self.pushed.manifest(&manifest)?.filter(|pushed| pushed.made);
            if made.is_some_and(|made| made.keeps.iter().any(|kept| kept.digest == *digest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Does an image of the store name this blob?
    pub(super) fn has_in_images(&self, digest: &Digest) -> Result<bool> {
        for (_, node) in self.pushed.images()? {
            let Some(image) = &node.record.image else { continue };
            let document = Document::parse_with_digest(
                self.bytes(&image.manifest)?,
                &image.manifest,
                Some(&image.media_type),
            )?;
            let Parsed::Manifest(manifest) = &document.parsed else { continue };
            if manifest.blobs().any(|blob| blob.digest == *digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn found_in(node: &Node) -> Option<Found> {
    let image = node.record.image.as_ref()?;
    Some(Found { digest: image.manifest.clone(), media_type: image.media_type.clone() })
}
