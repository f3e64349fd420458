//! A layer's blob into a tree, in one pass and three threads.
//!
//! ```text
//! thread 1            thread 2                the caller's
//! blob ──> hash ──> [pipe] ──> decompress ──> hash ──> [pipe] ──> parse, make files
//!     └──> copy
//! ```
//!
//! The pipes hold a few MiB, and whoever is slowest sets the pace. A thread that fails leaves its pipes, which ends its
//! neighbours, and the first cause is what the caller hears of.

use std::io::{BufRead, Read, Write};
use std::sync::Mutex;
use std::thread;

use rootling_backends::{Context, Dir, Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::apply::{Applied, ApplyOptions, apply_buffered};
use super::compression::{Compression, decompress_buffered};
use super::member::Member;
use super::pipe::{Filler, Reader, Stop, pipe};

/// Digest and length of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// SHA-256 of all its bytes.
    pub sha256: [u8; 32],
    /// How many they are.
    pub bytes: u64,
}

/// What came of a blob.
#[derive(Debug)]
pub struct Unpacked {
    /// What it was packed with.
    pub compression: Compression,
    /// The blob as it came: its digest is that of the layer's descriptor.
    pub blob: Sum,
    /// The tar in it, all that follows its end included: its digest is the layer's diff ID.
    pub tar: Sum,
    /// The tree; or, with [`Whiteouts::Overlay`](super::Whiteouts::Overlay), the error of the kind
    /// [`ErrorKind::NeedsLower`] that says why this layer is none alone. Everything else is true then, too.
    pub tree: Result<Applied>,
}

/// Unpacks the layer that `blob` holds, packed in any way that [`Compression`] knows, into `root`.
///
/// `root`, `options` and `report` are as for [`apply_with`](super::apply_with). All bytes of the blob go to `copy` as they
/// are read ([`std::io::sink`] if nobody wants them), those behind the tar's end too; the caller compares the digests. An error
/// leaves the tree and the copy half made. A blob that blocks in the middle (a slow network) is noticed to be in vain
/// only when it goes on.
pub fn unpack(
    blob: impl Read + Send,
    copy: &mut (dyn Write + Send),
    root: &Dir,
    options: &ApplyOptions,
    report: &mut dyn FnMut(&Member),
) -> Result<Unpacked> {
    let first = First::default();
    let (mut to_decoder, mut packed) = pipe();
    let (mut to_tree, mut tar) = pipe();
    let done = thread::scope(|scope| {
        let first = &first;
        let reading = scope.spawn(move || {
            let done = first.keep(read(blob, copy, &mut to_decoder));
            done.inspect(|_| to_decoder.finish())
        });
        let limit = options.limits.archive_bytes;
        let decoding = scope.spawn(move || {
            let done = first.keep(decode(&mut packed, limit, &mut to_tree));
            done.inspect(|_| to_tree.finish())
        });
        let tree = first.keep(place(&mut tar, root, options, report).map_err(Stop::from));
        // Those who still write to it end now.
        drop(tar);
        let blob = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let decoded = decoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Some((blob?, decoded?, tree?))
    });
    if let Some(error) = first.0.into_inner().expect("no thread panics while it holds the lock") {
        return Err(error);
    }
    let (blob, (compression, tar), tree) =
        done.expect("who ends early without a cause has a neighbour with one");
    Ok(Unpacked { compression, blob, tar, tree })
}

/// The first cause of a failure: set before its thread leaves the pipes.
#[derive(Debug, Default)]
struct First(Mutex<Option<Error>>);

impl First {
    fn keep<T>(&self, result: Result<T, Stop>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Stop::Gone) => None,
            Err(Stop::Failed(error)) => {
                self.0.lock().expect("no thread panics while it holds the lock").get_or_insert(error);
                None
            }
        }
    }
}

/// A digest of what goes by.
#[derive(Default)]
struct Counter {
    digest: Sha256,
    bytes: u64,
}

impl Counter {
    fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn sum(self) -> Sum {
        Sum { sha256: self.digest.finalize().into(), bytes: self.bytes }
    }
}

fn read(mut blob: impl Read, copy: &mut dyn Write, to: &mut Filler) -> Result<Sum, Stop> {
    let mut counter = Counter::default();
    to.fill_from(&mut blob, "read layer", &mut |bytes| {
        counter.add(bytes);
        copy.write_all(bytes).context(|| "write the layer's blob")
    })?;
    Ok(counter.sum())
}

fn decode(packed: &mut Reader, limit: u64, to: &mut Filler) -> Result<(Compression, Sum), Stop> {
    let mut counter = Counter::default();
    let (compression, mut tar) = decompress_buffered(&mut *packed)?;
    to.fill_from(&mut tar, &format!("unpack {compression}"), &mut |bytes| {
        counter.add(bytes);
        if counter.bytes > limit {
            let message = format!("the archive is longer than {limit} bytes");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(())
    })?;
    drop(tar);
    // What the decoder did not want is part of the blob.
    drain(packed)?;
    Ok((compression, counter.sum()))
}

fn place(
    tar: &mut Reader,
    root: &Dir,
    options: &ApplyOptions,
    report: &mut dyn FnMut(&Member),
) -> Result<Result<Applied>> {
    match apply_buffered(tar, root, options, report) {
        Err(error) if error.kind() == ErrorKind::NeedsLower => {
            drain(tar)?;
            Ok(Err(error))
        }
        other => other.map(Ok),
    }
}

fn drain(reader: &mut Reader) -> Result<()> {
    loop {
        let length = reader.fill_buf().context(|| "read layer")?.len();
        if length == 0 {
            return Ok(());
        }
        reader.consume(length);
    }
}
