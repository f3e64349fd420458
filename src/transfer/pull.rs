//! An image from any source into the store: blobs are fetched by several threads, and unpacked as they come.
//!
//! ```text
//! manifest, configuration ──> what is missing ──> fetchers ──> blobs/partial ──> blobs
//!                                                    └── as each is whole ──> add_image unpacks it ──> names
//! ```
//!
//! Whatever ends it (a kill, a cut, a full disk) leaves what was fetched; the next pull goes on with that. The name comes last.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use rootling_backends::{Error, ErrorKind, Result};

use super::stream::ours;
use super::{Event, Resolved, Source, read_configuration, resolve};
use crate::image::{
    Configuration, DOCUMENT_MAX, Descriptor, Digest, Document, Manifest, Platform, annotations,
};
use crate::store::{
    AddedImage, Blobs, Durability, ImageParts, Label, Name, Node, Partial, StateOfImage, Store, Supply,
};

/// How many blobs are fetched at once.
pub const THREADS: usize = 4;

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// What the image is called; the first is its first name.
    pub names: Vec<Name>,
    /// What it is to run on.
    pub platform: Platform,
    /// What was asked for, to be remembered with the image.
    pub reference: Option<String>,
    /// How many blobs are fetched at once.
    pub threads: usize,
}

/// An image that was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// Its node.
    pub image: AddedImage,
    /// Its manifest.
    pub manifest: Document,
    /// The digest that the name leads to: the index's, or the manifest's.
    pub digest: Digest,
    /// Blobs that were fetched.
    pub fetched: usize,
    /// The snapshots that came with it.
    pub snapshots: Vec<Node>,
}

/// Fetches the image that `name` means in `source`, makes it a node, and gives that its names.
///
/// What is in the store is neither fetched nor unpacked again. Durable on return. Two at once share the work: the second waits for the first.
pub fn pull<S: Source + ?Sized>(
    source: &S,
    name: Option<&str>,
    store: &Store,
    options: &PullOptions,
    report: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<Pulled> {
    let Resolved { index, manifest } = resolve(source, name, &options.platform)?;
    let digest = index.as_ref().map_or(&manifest.digest, |index| &index.digest).clone();
    let blobs = store.blobs()?;
    let parsed = manifest.manifest().expect("an image was chosen");
    let (config, configuration) = configuration(source, store, parsed)?;
    let missing: Vec<&Descriptor> = distinct(&parsed.layers);
    let parts =
        ImageParts { manifest: manifest.clone(), config, index, reference: options.reference.clone() };
    report(Event::Planned(&parsed.layers));
    let fetch = Fetch::new(source, &blobs, missing, report);
    let known = known_layers(store, parsed, &configuration)?;
    let image = std::thread::scope(|scope| {
        for _ in 0..options.threads.clamp(1, parsed.layers.len().max(1)) {
            scope.spawn(|| fetch.work());
        }
        // Those that are there as trees are not asked for, but an image goes out with the blobs it came as.
        let fetched = known.iter().try_for_each(|blob| fetch.wait_for(blob));
        let added = fetched.and_then(|()| {
            let supply = Supply { fetch: &|blob| fetch.wait_for(blob), ..Supply::none() };
            store.add_image(&blobs, &options.names, &parts, &supply)
        });
        fetch.stop();
        added
    });
    // Why a blob did not come is said by who fetched it; others only know that it did not.
    let image = match (image, fetch.failure()) {
        (Ok(image), _) => image,
        (Err(_), Some(cause)) => return Err(cause),
        (Err(error), None) => return Err(error),
    };
    let snapshots = name_snapshots(store, options.names.first(), parsed, &configuration)?;
    let fetched = fetch.fetched.load(Ordering::Relaxed);
    drop(fetch);
    Ok(Pulled { image, digest, fetched, snapshots, manifest })
}

/// Fetches one blob of an image of `source`, unless it is there.
pub fn fetch_blob<S: Source + ?Sized>(source: &S, blobs: &Blobs<'_>, blob: &Descriptor) -> Result<()> {
    Fetch::new(source, blobs, vec![blob], &|_| {}).fetch(blob)
}

/// Reads the configuration: the store's, if it is there.
fn configuration<S: Source + ?Sized>(
    source: &S,
    store: &Store,
    manifest: &Manifest,
) -> Result<(Vec<u8>, Configuration)> {
    if manifest.is_image() && store.blob_size(&manifest.config.digest)? == Some(manifest.config.size) {
        let bytes = store.read_blob(&manifest.config.digest, DOCUMENT_MAX)?;
        let configuration = Configuration::parse(&bytes)?;
        configuration.check(manifest)?;
        return Ok((bytes, configuration));
    }
    read_configuration(source, manifest)
}

/// Returns every blob once, in order.
fn distinct(layers: &[Descriptor]) -> Vec<&Descriptor> {
    let mut seen = std::collections::HashSet::new();
    layers.iter().filter(|layer| seen.insert(&layer.digest)).collect()
}

/// Returns the layers whose stack is a tree of the store already.
fn known_layers<'m>(
    store: &Store,
    manifest: &'m Manifest,
    configuration: &Configuration,
) -> Result<Vec<&'m Descriptor>> {
    let mut known = Vec::new();
    for (blob, chain) in manifest.layers.iter().zip(configuration.chain_ids()) {
        if store.chain_node(&chain)?.is_some() {
            known.push(blob);
        }
    }
    Ok(known)
}

// ---------------------------------------------------------------- blobs

/// Blobs on their way.
struct Fetch<'a, S: ?Sized> {
    source: &'a S,
    blobs: &'a Blobs<'a>,
    wanted: Vec<&'a Descriptor>,
    next: AtomicUsize,
    fetched: AtomicUsize,
    state: Mutex<Progress>,
    changed: Condvar,
    stopped: AtomicBool,
    report: &'a (dyn Fn(Event<'_>) + Send + Sync),
}

#[derive(Default)]
struct Progress {
    ended: HashMap<Digest, bool>,
    failure: Option<Error>,
}

impl<'a, S: Source + ?Sized> Fetch<'a, S> {
    fn new(
        source: &'a S,
        blobs: &'a Blobs<'a>,
        wanted: Vec<&'a Descriptor>,
        report: &'a (dyn Fn(Event<'_>) + Send + Sync),
    ) -> Self {
        Self {
            source,
            blobs,
            wanted,
            next: AtomicUsize::new(0),
            fetched: AtomicUsize::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            report,
        }
    }

    /// Fetches one blob after the other, as long as there is something left and nothing went wrong.
    fn work(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            let Some(blob) = self.wanted.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            let result = self.fetch(blob);
            let mut state = self.state();
            state.ended.insert(blob.digest.clone(), result.is_ok());
            // What others say once one has failed, or nobody needs them any more, is that they were stopped.
            if let Err(error) = result
                && !self.stopped.swap(true, Ordering::Relaxed)
            {
                state.failure = Some(error);
            }
            self.changed.notify_all();
        }
    }

    /// Waits until a blob is there.
    fn wait_for(&self, blob: &Descriptor) -> Result<()> {
        let mut state = self.state();
        loop {
            match state.ended.get(&blob.digest) {
                Some(true) => return Ok(()),
                Some(false) => break,
                None if self.stopped.load(Ordering::Relaxed) => break,
                None => state = self.changed.wait(state).expect("nobody panics who holds it"),
            }
        }
        Err(Error::new(ErrorKind::Io, format!("blob {} did not come", blob.digest)))
    }

    fn fetch(&self, blob: &Descriptor) -> Result<()> {
        if self.blobs.has(&blob.digest, blob.size)? {
            (self.report)(Event::Present(blob));
            return Ok(());
        }
        (self.report)(Event::Begun(blob));
        if let Some(bytes) = blob.inline()? {
            self.blobs.put(bytes.as_slice(), Some((&blob.digest, blob.size)), Durability::Lazy)?;
        } else if !self.fetch_bytes(blob)? {
            (self.report)(Event::Present(blob));
            return Ok(());
        }
        self.fetched.fetch_add(1, Ordering::Relaxed);
        (self.report)(Event::Done(blob));
        Ok(())
    }

    /// Fetches what is not there yet of a blob; false where somebody else fetched all of it.
    fn fetch_bytes(&self, blob: &Descriptor) -> Result<bool> {
        loop {
            let Some(partial) = self.blobs.partial(&blob.digest, blob.size)? else { return Ok(false) };
            let had = partial.have();
            let filled = if had < blob.size { self.fill(blob, partial) } else { partial.finish() };
            match filled {
                // What was there from before was wrong: it is gone now.
                Err(error) if error.kind() == ErrorKind::Corrupt && had > 0 => {
                    log::warn!("all of {} is fetched again: {error}", blob.digest);
                }
                filled => return filled.map(|()| had < blob.size),
            }
        }
    }

    fn fill(&self, blob: &Descriptor, mut partial: Partial<'_>) -> Result<()> {
        let mut content = self.source.open_blob_at(blob, partial.have())?;
        (self.report)(Event::Moved(blob, partial.have()));
        let mut buffer = vec![0; 256 << 10];
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Busy, format!("blob {} was given up", blob.digest)));
            }
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ours(error, || format!("fetch blob {}", blob.digest))),
            };
            let written = partial.write_all(&buffer[..read]);
            written.map_err(|error| ours(error, || format!("write blob {}", blob.digest)))?;
            (self.report)(Event::Moved(blob, read as u64));
        }
        drop(content);
        partial.finish()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.state.lock().expect("nobody panics who holds it")
    }

    /// Ends what is still on its way: it is not needed any more.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn failure(&self) -> Option<Error> {
        self.state().failure.take()
    }
}

// ---------------------------------------------------------------- snapshots

/// Makes the states snapshots again that layers are annotated as: `NAME@LABEL`.
fn name_snapshots(
    store: &Store,
    name: Option<&Name>,
    manifest: &Manifest,
    configuration: &Configuration,
) -> Result<Vec<Node>> {
    let Some(name) = name else { return Ok(Vec::new()) };
    let mut snapshots = Vec::new();
    let steps = configuration.layer_history();
    let layers = manifest.layers.iter().zip(configuration.chain_ids()).zip(steps);
    for ((layer, chain), step) in layers {
        let Some(label) = layer.annotation(annotations::SNAPSHOT_LABEL) else { continue };
        // It is somebody else's text.
        let Ok(label) = Label::parse(label).and_then(|label| name.snapshot(&label)) else {
            log::warn!("{label:?} is no label for a snapshot of {name}: it is left out");
            continue;
        };
        let Some(node) = store.chain_node(&chain)? else { continue };
        let state = StateOfImage {
            created: layer.annotation(annotations::SNAPSHOT_CREATED).and_then(|time| time.parse().ok()),
            message: step.map(|step| step.comment.clone()).filter(|comment| !comment.is_empty()),
            note: layer.annotation(annotations::SNAPSHOT_NOTE).map(str::to_owned),
            config: configuration.config.clone(),
        };
        match store.name_state(&node, &label, state) {
            Ok(made) => snapshots.extend(made),
            // The image is whole without it, and what has the name stays.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                log::warn!("{label} is another state here, and stays: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(snapshots)
}
