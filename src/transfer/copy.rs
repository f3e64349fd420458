//! An image with all that it is made of, from a source to a sink: nothing is unpacked, and what the sink has is not read.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rootling_backends::{Error, ErrorKind, Result};

use super::resolve::{DEPTH_MAX, resolve};
use super::{Content, Sink, Source};
use crate::image::{Descriptor, Digest, Document, Platform, media_type};

/// Documents of one image: an index of some hundred platforms with attestations has fewer.
const DOCUMENTS_MAX: usize = 10_000;
/// Their bytes, which are all in memory at once.
const DOCUMENTS_BYTES_MAX: u64 = 256 << 20;

/// Which images of an index are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// All of them, and the index itself.
    All,
    /// The one that fits best, without its index.
    One(Platform),
}

/// How to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    /// Which images of an index.
    pub platforms: Platforms,
    /// How many blobs at once, where the sink takes several.
    pub threads: usize,
}

impl Default for CopyOptions {
    /// Everything, six at once: what docker and podman do.
    fn default() -> Self {
        Self { platforms: Platforms::All, threads: 6 }
    }
}

/// What is told of a copy while it goes on. Several threads tell at once.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// All that may have to be copied is known.
    Planned(&'a [Descriptor]),
    /// The sink has this blob.
    Present(&'a Descriptor),
    /// This blob's copy begins.
    Begun(&'a Descriptor),
    /// So many more bytes of it were read; where an upload was cut, some again.
    Moved(&'a Descriptor, u64),
    /// It is whole, verified and in the sink.
    Done(&'a Descriptor),
}

/// Copies the image that `name` means in `source` to `sink`, publishes it there under each of `names` (under none, by its
/// digest), and returns the document that was published.
///
/// [`Sink::finish`] is left to the caller, who may have more to copy. After an error nothing is published.
pub fn copy<S: Source + ?Sized, K: Sink + ?Sized>(
    source: &S,
    name: Option<&str>,
    sink: &K,
    names: &[&str],
    options: &CopyOptions,
    report: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Document> {
    let top = match &options.platforms {
        Platforms::All => source.document(name)?,
        Platforms::One(platform) => resolve(source, name, platform)?.manifest,
    };
    let mut plan = Plan::default();
    plan.add(source, &top, 0)?;
    report(Event::Planned(&plan.blobs));

    let threads = if sink.is_sequential() { 1 } else { options.threads };
    copy_blobs(source, sink, &plan.blobs, threads, report)?;
    for document in &plan.documents {
        sink.put_document(document)?;
    }
    if names.is_empty() {
        sink.publish(&top, None)?;
    }
    for name in names {
        sink.publish(&top, Some(name))?;
    }
    Ok(top)
}

/// What an image is made of, everything once, and before what names it.
#[derive(Debug, Default)]
struct Plan {
    documents: Vec<Document>,
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
    /// What the documents take.
    bytes: u64,
}

impl Plan {
    fn add<S: Source + ?Sized>(&mut self, source: &S, document: &Document, depth: usize) -> Result<()> {
        let is_index = document.index().is_some();
        let refuse = |what: String| {
            let message = format!("there are more than {what}, down to index {}", document.digest);
            Err(Error::new(ErrorKind::InvalidInput, message))
        };
        for child in document.children() {
            if !self.seen.insert(child.digest.clone()) {
                continue;
            }
            if self.seen.len() > DOCUMENTS_MAX && is_index {
                return refuse(format!("{DOCUMENTS_MAX} documents"));
            }
            let is_document =
                media_type::is_manifest(&child.media_type) || media_type::is_index(&child.media_type);
            if is_index && is_document {
                self.bytes = self.bytes.saturating_add(child.size);
                if self.bytes > DOCUMENTS_BYTES_MAX {
                    return refuse(format!("{DOCUMENTS_BYTES_MAX} bytes of documents"));
                }
                if depth == DEPTH_MAX {
                    return refuse(format!("{DEPTH_MAX} indexes in each other"));
                }
                let document = source.child(child).map_err(|error| explain(error, child))?;
                self.add(source, &document, depth + 1)?;
                self.documents.push(document);
            } else if !media_type::is_foreign(&child.media_type) || child.urls.is_empty() {
                self.blobs.push(child.clone());
            }
        }
        Ok(())
    }
}

/// An archive of docker's may have an index of all platforms and the content of one.
fn explain(error: Error, child: &Descriptor) -> Error {
    match (error.kind(), &child.platform) {
        (ErrorKind::NotFound, Some(platform)) => error
            .context(format!("read the manifest for {platform}"))
            .hint("the index names images that are not here: choose one that is with --platform"),
        _ => error,
    }
}

fn copy_blobs<S: Source + ?Sized, K: Sink + ?Sized>(
    source: &S,
    sink: &K,
    blobs: &[Descriptor],
    threads: usize,
    report: &(dyn Fn(Event<'_>) + Sync),
) -> Result<()> {
    let (next, has_failed, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let work = || {
        while !has_failed.load(Ordering::Relaxed) {
            let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = copy_blob(source, sink, blob, report) {
                has_failed.store(true, Ordering::Relaxed);
                // What the others say after the first is most often that it failed.
                failure.lock().expect("nobody panics with it").get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, blobs.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    failure.into_inner().expect("nobody panics with it").map_or(Ok(()), Err)
}

fn copy_blob<S: Source + ?Sized, K: Sink + ?Sized>(
    source: &S,
    sink: &K,
    blob: &Descriptor,
    report: &(dyn Fn(Event<'_>) + Sync),
) -> Result<()> {
    if sink.has_blob(blob)? {
        report(Event::Present(blob));
        return Ok(());
    }
    report(Event::Begun(blob));
    sink.put_blob(blob, &Blob { source, blob, inline: blob.inline()?, report })?;
    report(Event::Done(blob));
    Ok(())
}

/// A blob of a source.
struct Blob<'a, S: ?Sized> {
    source: &'a S,
    blob: &'a Descriptor,
    inline: Option<Vec<u8>>,
    report: &'a (dyn Fn(Event<'_>) + Sync),
}

impl<S: Source + ?Sized> Content for Blob<'_, S> {
    fn open_at(&self, offset: u64) -> Result<Box<dyn Read + '_>> {
        let content = match &self.inline {
            Some(bytes) => bytes.open_at(offset)?,
            None => self.source.open_blob_at(self.blob, offset)?,
        };
        Ok(Box::new(Counted { content, blob: self.blob, report: self.report }))
    }
}

struct Counted<'a, R> {
    content: R,
    blob: &'a Descriptor,
    report: &'a (dyn Fn(Event<'_>) + Sync),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        (self.report)(Event::Moved(self.blob, read as u64));
        Ok(read)
    }
}
