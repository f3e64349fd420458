//! A node that is no image becomes one: a manifest, a configuration, and a layer for each state since the image it began as.
//!
//! The layers of that image go with it as the blobs they came as. A layer of our own is made once: it is kept as a blob, and noted in the
//! record of the state that it ends with, so that the next push neither reads the tree nor packs anything.

use std::io;

use rootling_backends::{Context, DiffOptions, Error, ErrorKind, Result};

use crate::image::{
    Configuration, DOCUMENT_MAX, Descriptor, DiffId, Document, History, ImageConfig, Manifest, Platform,
    annotations, media_type,
};
use crate::layer::{self, CreateOptions, Packing};
use crate::store::{Blobs, Durability, Line, LineState, Node, Synced};

/// How a node becomes an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct MakeOptions {
    /// How its layers are packed.
    pub create: CreateOptions,
}

/// A manifest that was made, with the configuration that it names.
#[derive(Debug, Clone)]
pub struct Made {
    /// The manifest.
    pub manifest: Document,
    /// The configuration.
    pub config: Vec<u8>,
    /// How many layers had to be packed.
    pub packed: usize,
}

/// What an image has of each layer.
struct Layer {
    blob: Descriptor,
    diff_id: DiffId,
}

/// Makes an image of a line of states. `begin` is told before a layer is made, which takes time.
///
/// The same line gives the same manifest, with the same options.
pub fn make(blobs: &Blobs<'_>, line: &Line, options: &MakeOptions, begin: &dyn Fn(&Node)) -> Result<Made> {
    let (mut configuration, mut layers) = match &line.base {
        Some(base) => base_of(blobs, base)?,
        None => (bare(), Vec::new()),
    };
    let mut before = line.base.as_ref();
    let mut packed = 0;
    let mut fresh = Vec::new();
    for state in &line.states {
        let known = known(blobs, state, before, options.create.packing)?;
        let layer = match known {
            Some(layer) => layer,
            None => {
                begin(&state.node);
                packed += 1;
                let layer = pack(blobs, state, before, options)?;
                fresh.push((&state.node, before, layer.diff_id.clone(), layer.blob.clone()));
                layer
            }
        };
        configuration.history.push(history(state));
        layers.push(Layer { blob: annotated(layer.blob, state), ..layer });
        before = Some(&state.node);
    }
    // Noted only once they cannot be lost.
    blobs.settle(Synced::No)?;
    for (node, over, diff_id, blob) in fresh {
        blobs.store().note_packed(node, over.map(|node| &node.id), &diff_id, &blob)?;
    }
    if let Some(state) = line.states.last() {
        let record = &state.node.record;
        configuration.config = record.config.clone();
        configuration.created = Some(record.created.to_string());
        configuration.author = record.author.clone().unwrap_or_default();
    }
    configuration.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = configuration.to_bytes();
    let descriptor = Descriptor::of(media_type::CONFIG, &config);
    let manifest = Manifest::new(descriptor, layers.into_iter().map(|layer| layer.blob).collect());
    Ok(Made { manifest: Document::of_manifest(manifest), config, packed })
}

/// What is said of a tree that began as no image.
fn bare() -> Configuration {
    let Platform { os, architecture, variant, .. } = Platform::host();
    Configuration { os, architecture, variant, config: ImageConfig::default(), ..Configuration::default() }
}

/// Returns the configuration and the layers of what a line begins as.
fn base_of(blobs: &Blobs<'_>, base: &Node) -> Result<(Configuration, Vec<Layer>)> {
    let store = blobs.store();
    let intent = || format!("read what {} is made of", base.label());
    let nodes = store.layers(base).context(intent)?;
    let Some(image) = &base.record.image else {
        let configuration = Configuration { config: base.record.config.clone(), ..bare() };
        let layers = nodes.into_iter().map(|(_, layer)| {
            let blob = layer.blobs.iter().find(|blob| has(blobs, blob)).cloned();
            let blob = blob.ok_or_else(|| gone(&layer.diff_id.0.to_string()))?;
            Ok(Layer { blob: plain(blob), diff_id: layer.diff_id })
        });
        return Ok((configuration, layers.collect::<Result<_>>().context(intent)?));
    };
    let bytes = store.read_blob(&image.config, DOCUMENT_MAX).context(intent)?;
    let configuration = Configuration::parse(&bytes).context(intent)?;
    let manifest = store.read_blob(&image.manifest, DOCUMENT_MAX).context(intent)?;
    let manifest = Document::parse_with_digest(manifest, &image.manifest, Some(&image.media_type));
    let manifest = manifest.context(intent)?;
    let blobs_of = manifest.manifest().map(|manifest| manifest.layers.clone()).unwrap_or_default();
    let diff_ids = configuration.rootfs.diff_ids.clone();
    let layers = blobs_of.into_iter().zip(diff_ids).map(|(blob, diff_id)| Layer { blob: oci(blob), diff_id });
    Ok((configuration, layers.collect()))
}

fn has(blobs: &Blobs<'_>, blob: &Descriptor) -> bool {
    blobs.has(&blob.digest, blob.size).unwrap_or(false)
}

fn gone(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no blob of layer {what} is kept")).hint("pull the image again")
}

/// A layer as a node of the store knows it: what other images say of it is theirs.
fn plain(blob: Descriptor) -> Descriptor {
    Descriptor::new(media_type_of(&blob), blob.digest, blob.size)
}

/// The same layer in OCI's words: docker's do not mix with them in one manifest.
fn oci(blob: Descriptor) -> Descriptor {
    Descriptor { media_type: media_type_of(&blob), ..blob }
}

fn media_type_of(blob: &Descriptor) -> String {
    match blob.media_type.as_str() {
        media_type::DOCKER_LAYER_TAR => media_type::LAYER_TAR.to_owned(),
        media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP.to_owned(),
        media_type::DOCKER_LAYER_ZSTD => media_type::LAYER_ZSTD.to_owned(),
        // Archives that docker wrote say nothing of their layers.
        "" => media_type::LAYER_TAR.to_owned(),
        other => other.to_owned(),
    }
}

/// Returns the layer that a state was packed into before, where its blob is kept.
fn known(
    blobs: &Blobs<'_>,
    state: &LineState,
    before: Option<&Node>,
    packing: Packing,
) -> Result<Option<Layer>> {
    let Some(packed) = &state.node.record.packed else { return Ok(None) };
    if packed.over.as_ref() != before.map(|node| &node.id) {
        return Ok(None);
    }
    for blob in packed.blobs.iter().filter(|blob| blob.media_type == packing.media_type()) {
        if blobs.has(&blob.digest, blob.size)? {
            return Ok(Some(Layer { blob: blob.clone(), diff_id: packed.diff_id.clone() }));
        }
    }
    Ok(None)
}

/// Makes the layer that turns the state before into this one, and keeps it as a blob, which is not durable yet.
fn pack(blobs: &Blobs<'_>, state: &LineState, before: Option<&Node>, options: &MakeOptions) -> Result<Layer> {
    let (store, node) = (blobs.store(), &state.node);
    let intent = || format!("make a layer of {}", node.label());
    let root = store.open_root(node).context(intent)?;
    let changes = match before {
        Some(before) => store.diff(before, node, DiffOptions { times: true }),
        None => layer::whole_tree(&root),
    };
    let changes = changes.context(intent)?;
    let (reader, mut writer) = io::pipe().context(|| "pipe()").context(intent)?;
    let (created, kept) = std::thread::scope(|scope| {
        let kept = scope.spawn(|| blobs.put(reader, None, Durability::Lazy));
        let created = layer::create(&changes, &root, &options.create, &mut writer);
        // The end of the pipe is the end of the blob.
        drop(writer);
        (created, kept.join().expect("it does not panic"))
    });
    // Where nothing could be kept, nothing could be written: that is the cause.
    let digest = kept.context(intent)?;
    let created = created.context(intent)?;
    for skipped in &created.notes {
        log::warn!(
            "{}: left out {}: {}",
            node.label(),
            String::from_utf8_lossy(&skipped.path),
            skipped.reason
        );
    }
    let blob = Descriptor::new(created.packed.media_type, digest, created.packed.size);
    Ok(Layer { blob, diff_id: created.packed.diff_id })
}

/// Returns a layer's descriptor with what makes it a snapshot again where it is pulled.
fn annotated(mut blob: Descriptor, state: &LineState) -> Descriptor {
    let record = &state.node.record;
    let Some(label) = &state.label else { return blob };
    let mut note = |key: &str, value: String| drop(blob.annotations.insert(key.to_owned(), value));
    note(annotations::SNAPSHOT_LABEL, label.to_string());
    note(annotations::SNAPSHOT_CREATED, record.created.to_string());
    if let Some(text) = &record.marks.note {
        note(annotations::SNAPSHOT_NOTE, text.clone());
    }
    blob
}

fn history(state: &LineState) -> History {
    let record = &state.node.record;
    let by = match (&state.label, &record.source) {
        (Some(label), _) => format!("rootling snapshot {label}"),
        (None, Some(source)) => format!("rootling import {source}"),
        (None, None) => "rootling commit".to_owned(),
    };
    History {
        created: Some(record.created.to_string()),
        created_by: by,
        author: record.author.clone().unwrap_or_default(),
        comment: record.message.clone().unwrap_or_default(),
        ..History::default()
    }
}
