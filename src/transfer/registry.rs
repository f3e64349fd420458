//! A repository of a registry as a source and a sink.

use std::collections::BTreeSet;
use std::io::Read;

use rootling_backends::Result;

use super::{Content, Listed, Sink, Source};
use crate::image::{Descriptor, Digest, Document, ImageReference};
use crate::registry::Client;

/// Another repository of the registry, from which it may take blobs.
#[derive(Debug, Clone)]
pub struct Sibling {
    /// Its name.
    pub path: String,
    /// The blobs that it has, where that is known; else it is asked for all.
    pub blobs: Option<BTreeSet<Digest>>,
}

impl Sibling {
    fn may_have(&self, digest: &Digest) -> bool {
        self.blobs.as_ref().is_none_or(|blobs| blobs.contains(digest))
    }
}

/// A repository of a registry, with the image that is meant there.
#[derive(Debug)]
pub struct Repository<'a> {
    client: &'a Client,
    reference: ImageReference,
    siblings: Vec<Sibling>,
}

impl<'a> Repository<'a> {
    /// Returns the repository of an image; connects to nobody.
    pub fn new(client: &'a Client, reference: ImageReference) -> Self {
        Self { client, reference, siblings: Vec::new() }
    }

    /// Names other repositories of the registry that may have blobs which are pushed: these are taken from there.
    #[must_use]
    pub fn with_siblings(self, siblings: Vec<Sibling>) -> Self {
        Self { siblings, ..self }
    }

    /// Returns what a name means here: a tag or digest of the repository, or a reference to it.
    fn named(&self, name: Option<&str>) -> Result<ImageReference> {
        let Some(name) = name else { return Ok(self.reference.clone()) };
        if let Ok(digest) = Digest::parse(name) {
            return Ok(self.reference.with_digest(digest));
        }
        match ImageReference::parse(name) {
            Ok(reference) if reference.repository() == self.reference.repository() => Ok(reference),
            _ => self.reference.with_tag(name),
        }
    }
}

impl Source for Repository<'_> {
    fn list(&self) -> Result<Vec<Listed>> {
        let tags = self.client.tags(self.reference.domain(), self.reference.path())?.into_iter();
        Ok(tags.map(|tag| Listed { name: Some(tag), descriptor: None }).collect())
    }

    fn document(&self, name: Option<&str>) -> Result<Document> {
        self.client.manifest(&self.named(name)?)
    }

    fn child(&self, descriptor: &Descriptor) -> Result<Document> {
        if let Some(bytes) = descriptor.inline()? {
            return Document::parse_verified(bytes, descriptor);
        }
        let document = self.client.manifest(&self.reference.with_digest(descriptor.digest.clone()))?;
        Document::parse_verified(document.bytes, descriptor)
    }

    fn open_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.client.blob(&self.reference, descriptor)?))
    }

    fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.client.blob_from(&self.reference, descriptor, offset)?))
    }
}

impl Sink for Repository<'_> {
    /// Only the registry's own word counts, and it is asked when the blob is pushed.
    fn has_blob(&self, _descriptor: &Descriptor) -> Result<bool> {
        Ok(false)
    }

    fn put_blob(&self, descriptor: &Descriptor, content: &dyn Content) -> Result<()> {
        // What was made here nobody has.
        let siblings = self.siblings.iter().filter(|sibling| sibling.may_have(&descriptor.digest));
        let siblings: Vec<&str> = siblings.map(|sibling| sibling.path.as_str()).collect();
        self.client.push_blob(&self.reference, descriptor, content, &siblings).map(drop)
    }

    fn put_document(&self, document: &Document) -> Result<()> {
        let by_digest = format!("{}@{}", self.reference.repository(), document.digest);
        self.client.push_manifest(&ImageReference::parse(&by_digest)?, document)
    }

    fn publish(&self, document: &Document, name: Option<&str>) -> Result<()> {
        self.client.push_manifest(&self.named(name)?, document)
    }
}
