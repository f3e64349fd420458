//! An archive that streams by: verified, unpacked, its top directory taken off.
//!
//! ```text
//! server, file, program ── verify ── decompress ── apply ──> tree ── strip
//! ```
//!
//! Nothing is known of an archive until its last byte was seen: a caller throws the tree away when there is an error.

use std::io::{self, Read};

use rootling_backends::attributes::Owners;
use rootling_backends::{Cost, Dir, Error, ErrorKind, Result};

use super::fetch::ours;
use super::strip::{self, Strip};
use crate::image::{Algorithm, Digest, Hasher};
use crate::layer::{self, Skipped};

/// What is told while something is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// So many bytes were read, of so many where that is known.
    Read(u64, Option<u64>),
    /// A program says something.
    Says(&'a str),
}

/// Who is told.
pub type Tell<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

/// How an archive becomes a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treatment {
    /// Whose everything is.
    pub owners: Owners,
    /// What is taken off the beginning of all paths.
    pub strip: Strip,
}

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    /// What it cost.
    pub cost: Cost,
    /// What was left out: the first of it.
    pub skipped: Vec<Skipped>,
    /// How much was left out.
    pub skipped_count: u64,
    /// What a person may want to know, each a lowercase fragment.
    pub notes: Vec<String>,
    /// The digest of what was read, where it was a file.
    pub digest: Option<Digest>,
}

/// What an archive must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) digest: Option<Digest>,
    pub(super) length: Option<u64>,
}

/// Bytes between two words to whoever is told.
const TELL_BYTES: u64 = 256 << 10;

/// Bytes that pass by: counted, hashed, and their first error kept as it was.
pub(super) struct Passing<'a, R> {
    inner: R,
    hasher: Hasher,
    length: Option<u64>,
    told: u64,
    tell: Tell<'a>,
    failure: Option<Error>,
    /// Was the end seen?
    pub(super) ended: bool,
}

impl<'a, R: Read> Passing<'a, R> {
    pub(super) fn new(inner: R, expected: &Expected, tell: Tell<'a>) -> Self {
        let algorithm = expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let hasher = Hasher::new(algorithm);
        Self { inner, hasher, length: expected.length, told: 0, tell, failure: None, ended: false }
    }

    /// Reads what is left, and returns the digest of all of it if it is what was expected.
    pub(super) fn finish(mut self, expected: &Expected) -> Result<Digest> {
        let copied = io::copy(&mut self, &mut io::sink());
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        copied.map_err(ours)?;
        let size = self.hasher.size();
        let digest = self.hasher.finish();
        if let Some(length) = expected.length.filter(|length| *length != size) {
            let message = format!("it has {size} bytes, and should have {length}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        match &expected.digest {
            Some(expected) if *expected != digest => {
                let message = format!("its checksum is {digest}, and should be {expected}");
                Err(Error::new(ErrorKind::Corrupt, message))
            }
            _ => Ok(digest),
        }
    }

    /// Returns the error of reading that was at the bottom of `error`, if there was one.
    pub(super) fn cause(self, error: Error) -> Error {
        self.failure.unwrap_or(error)
    }
}

impl<R: Read> Read for Passing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let shown = io::Error::from(error.kind());
                self.failure.get_or_insert(ours(error));
                return Err(shown);
            }
            Ok(read) => read,
        };
        self.ended |= read == 0 && !buffer.is_empty();
        self.hasher.update(&buffer[..read]);
        let size = self.hasher.size();
        if size - self.told >= TELL_BYTES || self.ended {
            self.told = size;
            (self.tell)(Progress::Read(size, self.length));
        }
        Ok(read)
    }
}

/// Unpacks an archive into `target`, an empty directory.
pub(super) fn unpack(
    reader: impl Read + Send,
    expected: &Expected,
    target: &Dir,
    treatment: &Treatment,
    tell: Tell<'_>,
) -> Result<Made> {
    let mut passing = Passing::new(reader, expected, tell);
    match place(&mut passing, target, treatment) {
        Err(error) => Err(passing.cause(error)),
        Ok(made) => Ok(Made { digest: Some(passing.finish(expected)?), ..made }),
    }
    .and_then(|made| {
        let notes = strip::strip(target, treatment.strip)?;
        Ok(Made { notes, ..made })
    })
}

/// Unpacks as far as the archive reaches.
pub(super) fn place(reader: impl Read + Send, target: &Dir, treatment: &Treatment) -> Result<Made> {
    let (_, archive) = layer::decompress(reader)?;
    let options =
        layer::ApplyOptions { owners: treatment.owners != Owners::Caller, ..layer::ApplyOptions::default() };
    let applied = layer::apply(archive, target, &options)?;
    let cost = Cost { files_copied: applied.entries, bytes_copied: applied.bytes_written, ..Cost::default() };
    let (skipped, skipped_count) = (applied.skipped, applied.skipped_count);
    Ok(Made { cost, skipped, skipped_count, ..Made::default() })
}
