//! A node that is no image becomes one: a manifest, a configuration, and a layer for each state since the image it began as.
//!
//! The layers of that image go with it as the blobs they came as. A layer of our own is made once: it is kept as a blob, and noted in the
//! record of the state that it ends with, so that the next push neither reads the tree nor packs anything. What was built is made in the same way:
//! its states are its steps, and its record says the history.

use std::io;

use rootling_backends::{Context, DiffOptions, Error, ErrorKind, Result};

use crate::image::{
    Configuration, DOCUMENT_MAX, Descriptor, DiffId, Digest, Document, History, ImageConfig, Manifest,
    Platform, annotations, media_type,
};
use crate::layer::{self, CreateOptions};
use crate::store::{Blobs, Documents, Durability, Line, LineState, Node, PackedState, Record, Store, Synced};

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
/// The same line gives the same manifest, with the same options. A step of a build that changed nothing is no layer, only history.
pub fn make(blobs: &Blobs<'_>, line: &Line, options: &MakeOptions, begin: &dyn Fn(&Node)) -> Result<Made> {
    let (mut configuration, mut layers) = match &line.base {
        Some(base) => base_of(blobs, base)?,
        None => (bare(), Vec::new()),
    };
    // Which layers that history speaks of there are.
    let mut filled = vec![true; layers.len()];
    let built = line.built.as_ref().map_or(0, |built| built.states);
    let mut before = line.base.as_ref();
    let mut fresh = Vec::new();
    for (number, state) in line.states.iter().enumerate() {
        let options =
            MakeOptions { create: CreateOptions { epoch: epoch(line, number, options), ..options.create } };
        let packed = match known(blobs, state, before, &options.create, number < built)? {
            Some(packed) => packed,
            None => {
                begin(&state.node);
                let packed = pack(blobs, state, before, &options, number < built)?;
                fresh.push((&state.node, packed.clone()));
                packed
            }
        };
        filled.push(!packed.blobs.is_empty());
        if let Some(blob) = packed.blobs.into_iter().next() {
            let blob = annotated(blob, state);
            let blob = if number < built && carries_keys(line) { with_key(blob, state) } else { blob };
            layers.push(Layer { blob, diff_id: packed.diff_id });
        }
        before = Some(&state.node);
    }
    // Noted only once they cannot be lost.
    blobs.settle(Synced::No)?;
    let count = fresh.iter().filter(|(_, packed)| !packed.blobs.is_empty()).count();
    for (node, packed) in fresh {
        blobs.store().note_packed(node, &packed)?;
    }
    if let Some(part) = &line.built {
        take_over(&mut configuration, &part.node.record);
        let covered = filled.len() - (line.states.len() - part.states);
        fit(&mut configuration.history, &filled[..covered]);
    }
    configuration.history.extend(line.states[built..].iter().map(history));
    let record = &line.end.record;
    if record.built.is_none() {
        configuration.config = record.config.clone();
        configuration.created = Some(record.created.to_string());
        configuration.author = record.author.clone().unwrap_or_default();
    }
    configuration.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = configuration.to_bytes();
    let descriptor = Descriptor::of(media_type::CONFIG, &config);
    let mut manifest = Manifest::new(descriptor, layers.into_iter().map(|layer| layer.blob).collect());
    if let Some(built) = &record.built {
        manifest.annotations.clone_from(&built.annotations);
    }
    let manifest = Document::of_manifest(manifest);
    if record.built.is_some() {
        let documents = Documents { manifest: manifest.digest.clone(), config: Digest::sha256_of(&config) };
        blobs.store().note_documents(&line.end, &documents)?;
    }
    Ok(Made { manifest, config, packed: count })
}

/// Returns how a node came to be, with an entry for each layer that it would have; none is made.
pub fn history_of(store: &Store, node: &Node) -> Result<Vec<History>> {
    let intent = || format!("read the history of {}", node.label());
    let line = store.line_of(node).context(intent)?;
    let mut history = match (&line.built, &line.base) {
        (Some(part), _) => part.node.record.built.iter().flat_map(|built| built.history.clone()).collect(),
        (None, Some(base)) => history_of_base(store, base).context(intent)?,
        (None, None) => Vec::new(),
    };
    let built = line.built.as_ref().map_or(0, |built| built.states);
    history.extend(line.states[built..].iter().map(self::history));
    Ok(history)
}

fn history_of_base(store: &Store, base: &Node) -> Result<Vec<History>> {
    let mut history = match &base.record.image {
        Some(image) => Configuration::parse(&store.read_blob(&image.config, DOCUMENT_MAX)?)?.history,
        None => Vec::new(),
    };
    fit(&mut history, &vec![true; store.layers(base)?.len()]);
    Ok(history)
}

/// Returns the latest time that files in a layer have: as the build was told, else as whoever makes the image says.
fn epoch(line: &Line, number: usize, options: &MakeOptions) -> Option<i64> {
    let part = line.built.as_ref().filter(|part| number < part.states);
    part.and_then(|part| part.node.record.built.as_ref()?.epoch).or(options.create.epoch)
}

/// Lets a configuration say what the end of a build does.
fn take_over(configuration: &mut Configuration, record: &Record) {
    let Some(built) = &record.built else { return };
    configuration.config = record.config.clone();
    configuration.created = Some(built.created.unwrap_or(record.created).to_string());
    configuration.author = built.author.clone().unwrap_or_default();
    configuration.history.clone_from(&built.history);
    if let Some(platform) = &built.platform {
        configuration.os.clone_from(&platform.os);
        configuration.architecture.clone_from(&platform.architecture);
        configuration.variant.clone_from(&platform.variant);
    }
}

/// Makes history say which of the layers it speaks of there are; others are only steps. Those that it does not speak of get an entry.
fn fit(history: &mut Vec<History>, filled: &[bool]) {
    let said: Vec<usize> = (0..history.len()).filter(|entry| !history[*entry].empty_layer).collect();
    for (entry, filled) in said.iter().zip(filled) {
        history[*entry].empty_layer = !filled;
    }
    // Steps that were let go: their changes are in the layer of the next.
    for entry in said.iter().skip(filled.len()) {
        history[*entry].empty_layer = true;
    }
    for filled in filled.iter().skip(said.len()).filter(|filled| **filled) {
        history.push(History { empty_layer: !filled, ..History::default() });
    }
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

/// Returns what a state was packed into before, with the blob that is asked for, where that is kept.
fn known(
    blobs: &Blobs<'_>,
    state: &LineState,
    before: Option<&Node>,
    options: &CreateOptions,
    may_be_none: bool,
) -> Result<Option<PackedState>> {
    let over = before.map(|node| &node.id);
    let noted = state.node.record.packed.as_ref().filter(|packed| packed.is_over(over, options.epoch));
    let Some(packed) = noted else { return Ok(None) };
    if may_be_none && packed.blobs.is_empty() && packed.diff_id == nothing() {
        return Ok(Some(packed.clone()));
    }
    for blob in packed.blobs.iter().filter(|blob| blob.media_type == options.packing.media_type()) {
        if blobs.has(&blob.digest, blob.size)? {
            return Ok(Some(PackedState { blobs: vec![blob.clone()], ..packed.clone() }));
        }
    }
    Ok(None)
}

/// The digest of an archive with nothing in it: two blocks of zeros.
fn nothing() -> DiffId {
    DiffId(Digest::sha256_of(&[0; 1024]))
}

/// Makes the layer that turns the state before into this one, and keeps it as a blob, which is not durable yet. Where nothing changed there
/// is none, if `may_be_none`.
fn pack(
    blobs: &Blobs<'_>,
    state: &LineState,
    before: Option<&Node>,
    options: &MakeOptions,
    may_be_none: bool,
) -> Result<PackedState> {
    let (store, node) = (blobs.store(), &state.node);
    let intent = || format!("make a layer of {}", node.label());
    let root = store.open_root(node).context(intent)?;
    let changes = match before {
        Some(before) => store.diff(before, node, DiffOptions { times: true }),
        None => layer::whole_tree(&root),
    };
    let changes = changes.context(intent)?;
    let (over, epoch) = (before.map(|node| node.id.clone()), options.create.epoch);
    if changes.is_empty() && may_be_none {
        return Ok(PackedState { over, epoch, diff_id: nothing(), size: Some(0), blobs: Vec::new() });
    }
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
    let (diff_id, size) = (created.packed.diff_id, Some(created.packed.diff_size));
    Ok(PackedState { over, epoch, diff_id, size, blobs: vec![blob] })
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

/// Does the image say which steps its layers are?
fn carries_keys(line: &Line) -> bool {
    let record = line.built.as_ref().map(|part| &part.node.record);
    record.and_then(|record| record.built.as_ref()).is_some_and(|built| built.carries_keys)
}

/// Returns a layer's descriptor with what lets another store take it for the step that it is.
fn with_key(mut blob: Descriptor, state: &LineState) -> Descriptor {
    if let Some(step) = &state.node.record.step {
        blob.annotations.insert(annotations::STEP_KEY.to_owned(), step.key.to_string());
        blob.annotations.insert(annotations::STEP_SHOWN.to_owned(), step.shown.clone());
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
