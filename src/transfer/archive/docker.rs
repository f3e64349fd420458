//! What `docker save` writes beside, or before docker 25 instead of, an image layout.
//!
//! ```text
//! manifest.json               [{"Config": "<hex>.json", "RepoTags": ["alpine:3.20"], "Layers": ["<id>/layer.tar", ...]}]
//! <hex>.json                  the configuration; its SHA-256 is in its name
//! <id>/layer.tar              a layer, packed or not; or a link to one that another image has too
//! repositories                what docker before 1.10 read; never needed beside manifest.json
//! ```
//!
//! There is no manifest with a digest in it: one is made, the same every time.

use std::collections::HashMap;
use std::io::Read;

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::super::catalog::set_name;
use super::members::{Members, Span};
use crate::image::{
    Algorithm, Configuration, Descriptor, DiffId, Digest, Document, Hasher, ImageReference, Index, Manifest,
    media_type,
};
use crate::layer::Compression;
use crate::layer::compression::detect;

pub(super) const LIST: &str = "manifest.json";

/// One image of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
}

/// Reads the list of images.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Item>> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("read {LIST}: {error}")))
}

/// The images of an archive, as if it were a layout.
#[derive(Debug)]
pub(super) struct Images {
    /// Names and manifests.
    pub(super) index: Document,
    /// The manifests that were made.
    pub(super) manifests: HashMap<Digest, Document>,
    /// Where configurations and layers are.
    pub(super) blobs: HashMap<Digest, Span>,
}

/// Makes a manifest for each image. Layers that are packed are read once, for their digests.
pub(super) fn images(members: &Members, items: &[Item]) -> Result<Images> {
    let mut reader = Reader { members, blobs: HashMap::new(), known: HashMap::new() };
    let (mut entries, mut manifests) = (Vec::new(), HashMap::new());
    for item in items {
        let context = || format!("read image {:?} of {LIST}", item.config);
        let (manifest, configuration) = reader.image(item).context(context)?;
        let document = Document::of_manifest(manifest);
        let mut entry = document.descriptor();
        entry.platform = Some(configuration.platform());
        manifests.insert(document.digest.clone(), document);
        let tags = item.repo_tags.as_deref().unwrap_or_default();
        if tags.is_empty() {
            entries.push(entry.clone());
        }
        for tag in tags {
            let mut entry = entry.clone();
            set_name(&mut entry, tag);
            entries.push(entry);
        }
    }
    Ok(Images { index: Document::of_index(Index::new(entries)), manifests, blobs: reader.blobs })
}

struct Reader<'a> {
    members: &'a Members,
    blobs: HashMap<Digest, Span>,
    /// Images share layers.
    known: HashMap<Span, Descriptor>,
}

impl Reader<'_> {
    fn image(&mut self, item: &Item) -> Result<(Manifest, Configuration)> {
        let missing =
            |path: &str| Error::new(ErrorKind::Corrupt, format!("there is no {path:?} in the archive"));
        let bytes = self.members.small(&item.config)?.ok_or_else(|| missing(&item.config))?;
        let configuration = Configuration::parse(&bytes)?;
        let config = Descriptor::of(media_type::CONFIG, &bytes);
        self.blobs.insert(config.digest.clone(), self.members.find(&item.config)?.expect("it was read"));

        let paths = item.layers.as_deref().unwrap_or_default();
        let diff_ids = &configuration.rootfs.diff_ids;
        if paths.len() != diff_ids.len() {
            let message = format!("there are {} layers, but {} diff_ids", paths.len(), diff_ids.len());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let mut layers = Vec::with_capacity(paths.len());
        for (path, diff_id) in paths.iter().zip(diff_ids) {
            let span = self.members.find(path)?.ok_or_else(|| missing(path))?;
            let layer = match self.known.get(&span) {
                Some(known) => known.clone(),
                None => self.layer(path, span, diff_id).context(|| format!("read layer {path:?}"))?,
            };
            layers.push(layer);
        }
        Ok((Manifest::new(config, layers), configuration))
    }

    fn layer(&mut self, path: &str, span: Span, diff_id: &DiffId) -> Result<Descriptor> {
        let mut head = Vec::new();
        let mut data = self.members.open(span);
        data.by_ref().take(512).read_to_end(&mut head).context(|| "read its first bytes")?;
        let media_type = match detect(&head)? {
            Compression::None => media_type::LAYER_TAR,
            Compression::Gzip => media_type::LAYER_GZIP,
            Compression::Zstd => media_type::LAYER_ZSTD,
            other => return Err(Error::new(ErrorKind::Unsupported, format!("it is packed with {other}"))),
        };
        // Whoever takes it in verifies it: what its name or its configuration says need not be true.
        let digest = match path.strip_prefix("blobs/sha256/") {
            Some(hex) => Digest::parse(&format!("sha256:{hex}"))?,
            None if media_type == media_type::LAYER_TAR => diff_id.0.clone(),
            None => self.digest(span)?,
        };
        let layer = Descriptor::new(media_type, digest, span.size);
        self.blobs.insert(layer.digest.clone(), span);
        self.known.insert(span, layer.clone());
        Ok(layer)
    }

    fn digest(&self, span: Span) -> Result<Digest> {
        let (mut data, mut hasher) = (self.members.open(span), Hasher::new(Algorithm::Sha256));
        let mut buffer = vec![0; 256 << 10];
        loop {
            match data.read(&mut buffer).context(|| "read its data")? {
                0 => return Ok(hasher.finish()),
                read => hasher.update(&buffer[..read]),
            }
        }
    }
}

/// Returns a name as `RepoTags` has it: with a tag, and none that is by digest alone. It is the whole reference, as podman writes
/// it: docker reads that as it reads its own, and podman takes the short form for one of `localhost`.
pub(super) fn repo_tag(name: &str) -> Option<String> {
    let reference = ImageReference::parse(name).ok()?;
    let tagged = reference.with_tag(reference.tag_or_latest()?).ok()?;
    Some(tagged.to_string())
}
