//! The store as a source: any node, as the image it came as, or as one that is made of it.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::OnceLock;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::making::{Made, MakeOptions, make};
use super::{Listed, Source};
use crate::image::{DOCUMENT_MAX, Descriptor, Document};
use crate::store::{Blobs, Line, Node};

/// A node of the store that goes elsewhere.
pub struct StoreSource<'a> {
    blobs: &'a Blobs<'a>,
    line: Line,
    label: String,
    options: MakeOptions,
    begin: Box<dyn Fn(&Node) + Sync + 'a>,
    made: OnceLock<Made>,
}

impl std::fmt::Debug for StoreSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSource").field("line", &self.line).finish_non_exhaustive()
    }
}

impl<'a> StoreSource<'a> {
    /// Takes a node, of a box its present state; nothing is packed yet. `begin` is told of each state that is packed.
    pub fn new(
        blobs: &'a Blobs<'a>,
        node: &Node,
        options: MakeOptions,
        begin: impl Fn(&Node) + Sync + 'a,
    ) -> Result<Self> {
        let line = blobs.store().line_of(node)?;
        let label = node.label().to_owned();
        Ok(Self { blobs, line, label, options, begin: Box::new(begin), made: OnceLock::new() })
    }

    /// Returns the image as it came, if it is one.
    fn own(&self) -> Result<Option<Document>> {
        let Some(image) = self.line.image() else { return Ok(None) };
        let bytes = self.blobs.store().read_blob(&image.manifest, DOCUMENT_MAX)?;
        Document::parse_with_digest(bytes, &image.manifest, Some(&image.media_type)).map(Some)
    }

    fn made(&self) -> Result<&Made> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let made = make(self.blobs, &self.line, &self.options, &*self.begin)?;
        Ok(self.made.get_or_init(|| made))
    }
}

impl Source for StoreSource<'_> {
    fn list(&self) -> Result<Vec<Listed>> {
        Ok(vec![Listed { name: Some(self.label.clone()), descriptor: None }])
    }

    /// Returns the manifest. There is one image, whatever it is called.
    fn document(&self, _name: Option<&str>) -> Result<Document> {
        let intent = || format!("make an image of {}", self.label);
        match self.own().context(intent)? {
            Some(document) => Ok(document),
            None => Ok(self.made().context(intent)?.manifest.clone()),
        }
    }

    fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>> {
        let Ok(mut file) = self.blobs.open(&descriptor.digest) else {
            let mut content = self.open_blob(descriptor)?;
            let skipped = io::copy(&mut content.by_ref().take(offset), &mut io::sink());
            skipped.context(|| format!("read {}", descriptor.digest))?;
            return Ok(content);
        };
        file.seek(SeekFrom::Start(offset)).context(|| format!("lseek(blob {})", descriptor.digest))?;
        Ok(Box::new(file))
    }

    fn open_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        if let Some(made) = self.made.get()
            && made.manifest.manifest().is_some_and(|manifest| manifest.config.digest == descriptor.digest)
        {
            return Ok(Box::new(io::Cursor::new(made.config.clone())));
        }
        match self.blobs.open(&descriptor.digest) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!("blob {} of {} is not kept", descriptor.digest, self.label);
                Err(Error::new(ErrorKind::NotFound, message).hint("pull the image again"))
            }
            opened => Ok(Box::new(opened?)),
        }
    }
}
