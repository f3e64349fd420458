//! Reading: manifests and blobs, each verified, from the registry or a mirror.
//!
//! A blob is verified while it streams by. When a connection is cut, the rest is asked for by a range; a server that ignores
//! ranges sends all again, and what is known is skipped. What a file has from an earlier run is hashed first and kept.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt as _;

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use crate::image::{DOCUMENT_MAX, Descriptor, Digest, Document, ImageReference, Verifier, media_type};
use crate::near;

use super::client::{Call, Client, To, Trouble};
use super::hosts::{Endpoint, Purpose};
use super::progress::Ended;
use super::scope::{Action, Scope};
use super::transport::{Failure, Fault, Method, Response};
use super::url::Url;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// What a registry says of a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The digest, where it says so.
    pub digest: Option<Digest>,
    /// What it is, where it says so.
    pub media_type: Option<String>,
    /// Its length in bytes, where it says so.
    pub size: Option<u64>,
}

impl Client {
    /// Returns the manifest or index that a reference leads to; its bytes have the reference's digest, if it has one.
    ///
    /// `NotFound` has a hint with tags of nearly that name; more than 4 MiB, or bytes of another digest, are `Corrupt`.
    pub fn manifest(&self, reference: &ImageReference) -> Result<Document> {
        let get = |endpoint: &Endpoint| self.manifest_at(endpoint, reference);
        self.at_first(reference.domain(), reference.path(), purpose(reference), get)
            .map_err(|error| self.with_near_tags(error, reference))
            .context(|| format!("get the manifest of {reference}"))
    }

    /// Returns what the registry says of a manifest; `None` if it has none. Costs no pull of the hub's.
    pub fn head(&self, reference: &ImageReference) -> Result<Option<Head>> {
        let head = |endpoint: &Endpoint| {
            let path = format!("manifests/{}", reference.manifest_reference());
            let call = Call::new(Method::Head, To::Repository(&path), pull_of(endpoint));
            let call = call.header("accept", media_type::ACCEPTED.join(", ")).answers(&[404]);
            let response = self.send(endpoint, &call)?;
            match response.status {
                // Another server may have it.
                404 if endpoint.is_mirror => {
                    Err(Error::new(ErrorKind::NotFound, format!("{} has it not", endpoint.authority)))
                }
                404 => Ok(None),
                _ => Ok(Some(Head {
                    digest: response
                        .header("docker-content-digest")
                        .and_then(|text| Digest::parse(text).ok()),
                    media_type: response.header("content-type").map(str::to_owned),
                    size: content_length(&response),
                })),
            }
        };
        self.at_first(reference.domain(), reference.path(), purpose(reference), head)
            .context(|| format!("look for the manifest of {reference}"))
    }

    fn manifest_at(&self, endpoint: &Endpoint, reference: &ImageReference) -> Result<Document> {
        let path = format!("manifests/{}", reference.manifest_reference());
        let call = Call::new(Method::Get, To::Repository(&path), pull_of(endpoint));
        let call = call.header("accept", media_type::ACCEPTED.join(", "));
        let read = || {
            let mut response = self.once(endpoint, &call, None)?;
            let length = content_length(&response);
            let body = response.read(DOCUMENT_MAX).map_err(cut)?;
            match (body, length) {
                (Some(body), Some(length)) if (body.len() as u64) < length => {
                    Err(cut(io::ErrorKind::UnexpectedEof.into()))
                }
                (Some(body), _) => Ok((response, body)),
                (None, _) => Err(Trouble::Final(Error::new(
                    ErrorKind::Corrupt,
                    format!("it has more than {DOCUMENT_MAX} bytes, which no manifest may have"),
                ))),
            }
        };
        let (response, bytes) = self
            .persist(&endpoint.host, endpoint.is_mirror, read)
            .map_err(|trouble| self.final_error(trouble, Method::Get, &endpoint.host))?;
        let declared = response.header("content-type");
        if let Some(digest) = reference.digest() {
            return Document::parse_with_digest(bytes, digest, declared);
        }
        // Of digests that are not known nothing can be said.
        match response.header("docker-content-digest").and_then(|text| Digest::parse(text).ok()) {
            Some(digest) => Document::parse_with_digest(bytes, &digest, declared),
            None => Document::parse(bytes, declared),
        }
    }

    fn with_near_tags(&self, error: Error, reference: &ImageReference) -> Error {
        let (Some(tag), None) = (reference.tag_or_latest(), reference.digest()) else { return error };
        if error.kind() != ErrorKind::NotFound || error.first_hint().is_some() {
            return error;
        }
        // Best effort: a registry that lists nothing says less, not something else.
        let tags = self.first_tags(reference.domain(), reference.path()).unwrap_or_default();
        let near = near::near(tag, tags.iter().map(String::as_str));
        match (near.is_empty(), tags.last()) {
            (false, _) => error.hint(format!("did you mean {}?", near.join(" or "))),
            (true, Some(last)) => error.hint(format!("there is a tag {last}, for one")),
            (true, None) => error,
        }
    }

    /// Opens a blob for reading from its start; see [`Blob`].
    pub fn blob(&self, reference: &ImageReference, descriptor: &Descriptor) -> Result<Blob<'_>> {
        self.open(reference, descriptor, descriptor.verifier(), false)
    }

    /// Opens a blob for reading from a byte in its middle. Its digest is for the caller to verify: only cuts are noticed here.
    pub fn blob_from(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Blob<'_>> {
        let mut blob = self.blob_at_start(reference, descriptor, descriptor.verifier(), false);
        blob.offset = offset;
        blob.is_verified = false;
        blob.start()?;
        Ok(blob)
    }

    /// Returns a small blob: a configuration.
    pub fn blob_bytes(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        if descriptor.size > limit {
            let message = format!("{} has {} bytes, more than {limit}", descriptor.digest, descriptor.size);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let mut bytes = Vec::new();
        let mut blob = self.blob(reference, descriptor)?;
        blob.read_to_end(&mut bytes).map_err(|error| blob.failed(error))?;
        Ok(bytes)
    }

    /// Downloads a blob into a file and continues what the file already has of it.
    ///
    /// On success the file is the blob, verified. After a failure it holds a beginning that the next call goes on from; one
    /// that proves wrong at the end is thrown away, and the registry itself is asked once for all of it. Nothing is synced.
    pub fn blob_into(&self, reference: &ImageReference, descriptor: &Descriptor, file: &File) -> Result<()> {
        let held =
            self.rehash(descriptor, file).context(|| format!("continue blob {}", descriptor.digest))?;
        let continued = held.size() > 0;
        let first = self.download(reference, descriptor, file, held, false);
        match first {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                file.set_len(0).context(|| "ftruncate of a blob")?;
                let endpoints =
                    self.settings.hosts.endpoints(reference.domain(), reference.path(), Purpose::Digest)?;
                if !continued && !endpoints.iter().any(|endpoint| endpoint.is_mirror) {
                    return Err(error);
                }
                log::warn!("{}: {error:?}: all of it is asked for again", descriptor.digest);
                self.settings.progress.resumed(&descriptor.digest, 0);
                let again = self.download(reference, descriptor, file, descriptor.verifier(), true);
                again.inspect_err(|error| {
                    if error.kind() == ErrorKind::Corrupt {
                        // Best effort: the next call finds out by itself.
                        drop(file.set_len(0));
                    }
                })
            }
            other => other,
        }
    }

    /// Takes into account what a file has; more than the blob is nothing of it.
    fn rehash(&self, descriptor: &Descriptor, file: &File) -> Result<Verifier> {
        let mut verifier = descriptor.verifier();
        let length = file.metadata().context(|| "fstat of a blob")?.len();
        if length > descriptor.size {
            file.set_len(0).context(|| "ftruncate of a blob")?;
            return Ok(verifier);
        }
        let mut piece = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
        while verifier.size() < length {
            self.check()?;
            let read = file.read_at(&mut piece, verifier.size()).context(|| "read of a blob")?;
            if read == 0 {
                break;
            }
            verifier.update(&piece[..read])?;
        }
        Ok(verifier)
    }

    fn download(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
        file: &File,
        held: Verifier,
        from_origin: bool,
    ) -> Result<()> {
        let mut at = held.size();
        let mut blob = self.open(reference, descriptor, held, from_origin)?;
        let mut piece = vec![0; PIECE];
        loop {
            let read = blob.read(&mut piece).map_err(|error| blob.failed(error))?;
            if read == 0 {
                return Ok(());
            }
            file.write_all_at(&piece[..read], at).context(|| format!("write blob {}", descriptor.digest))?;
            at += read as u64;
        }
    }

    fn open(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
        held: Verifier,
        from_origin: bool,
    ) -> Result<Blob<'_>> {
        let mut blob = self.blob_at_start(reference, descriptor, held, from_origin);
        blob.start()?;
        Ok(blob)
    }

    fn blob_at_start(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
        held: Verifier,
        from_origin: bool,
    ) -> Blob<'_> {
        Blob {
            client: self,
            host: reference.domain().to_owned(),
            repository: reference.path().to_owned(),
            descriptor: descriptor.clone(),
            offset: held.size(),
            verifier: Some(held),
            body: None,
            failed: 0,
            from_origin,
            is_verified: true,
        }
    }
}

/// A blob that is read from a registry: goes on by itself after cuts, and ends with an error unless all bytes were right.
///
/// An error of reading that is one of ours is returned as it was by [`failed`](Self::failed). Nothing that was read is to be
/// trusted before the end was reached.
pub struct Blob<'a> {
    client: &'a Client,
    host: String,
    repository: String,
    descriptor: Descriptor,
    /// Bytes that were handed out, or held from before.
    offset: u64,
    /// Gone once the end was verified.
    verifier: Option<Verifier>,
    body: Option<Box<dyn Read + Send>>,
    /// Failures since the last byte.
    failed: u32,
    from_origin: bool,
    /// Is its digest compared here?
    is_verified: bool,
}

impl fmt::Debug for Blob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("digest", &self.descriptor.digest).finish_non_exhaustive()
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(io::Error::other)
    }
}

impl Blob<'_> {
    /// Returns an error of reading with what it was about.
    pub fn failed(&self, error: io::Error) -> Error {
        let error = match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => Error::io("read", error),
        };
        error.context(self.named())
    }

    /// Connects, where there is anything left to come.
    fn start(&mut self) -> Result<()> {
        let Descriptor { digest, size, .. } = &self.descriptor;
        self.client.settings.progress.begin(digest, *size, self.offset);
        if let Some(bytes) = self.descriptor.inline()? {
            let rest = bytes.get(usize::try_from(self.offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            self.body = Some(Box::new(Cursor::new(rest.to_vec())));
        } else if self.offset < *size {
            self.body = Some(self.connect().context(|| self.named())?);
        }
        Ok(())
    }

    fn named(&self) -> String {
        format!("get blob {} of {}/{}", self.descriptor.digest, self.host, self.repository)
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.verifier.is_none() || buffer.is_empty() {
            return Ok(0);
        }
        loop {
            self.client.check()?;
            let read = match &mut self.body {
                Some(body) => body.read(buffer),
                None => Ok(0),
            };
            match read {
                Ok(0) if self.offset >= self.descriptor.size => return self.finish(),
                Ok(0) => self.go_on(io::ErrorKind::UnexpectedEof.into())?,
                Ok(read) => {
                    let verifier = self.verifier.as_mut().expect("it is there until the end");
                    if self.is_verified {
                        verifier.update(&buffer[..read])?;
                    }
                    self.offset += read as u64;
                    self.failed = 0;
                    self.client.settings.progress.moved(&self.descriptor.digest, read as u64);
                    return Ok(read);
                }
                Err(error) => self.go_on(error)?,
            }
        }
    }

    fn finish(&mut self) -> Result<usize> {
        self.body = None;
        if let Some(verifier) = self.verifier.take() {
            if self.is_verified {
                verifier.finish()?;
            }
            self.client.settings.progress.end(&self.descriptor.digest, &Ended::Transferred);
        }
        Ok(0)
    }

    /// Connects again after a cut.
    fn go_on(&mut self, error: io::Error) -> Result<()> {
        self.failed += 1;
        let trouble = cut(error);
        if !self.client.wait(&self.host, self.failed, &trouble)? {
            return Err(self.client.final_error(trouble, Method::Get, &self.host));
        }
        self.body = Some(self.connect()?);
        self.client.settings.progress.resumed(&self.descriptor.digest, self.offset);
        Ok(())
    }

    /// Returns the bytes from `offset` on.
    fn connect(&self) -> Result<Box<dyn Read + Send>> {
        let purpose = if self.from_origin { Purpose::Origin } else { Purpose::Digest };
        let path = format!("blobs/{}", self.descriptor.digest);
        let get = |endpoint: &Endpoint| {
            let call = self.ranged(Call::new(Method::Get, To::Repository(&path), pull_of(endpoint)));
            self.at_offset(self.client.send(endpoint, &call)?)
        };
        let found = self.client.at_first(&self.host, &self.repository, purpose, get);
        match found {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.descriptor.urls.is_empty() => {
                self.elsewhere().unwrap_or(Err(error))
            }
            other => other,
        }
    }

    /// Asks the addresses that the descriptor names, to which nothing is shown.
    fn elsewhere(&self) -> Option<Result<Box<dyn Read + Send>>> {
        let mut last = None;
        for text in &self.descriptor.urls {
            let get = || -> Result<Box<dyn Read + Send>> {
                let url = Url::parse(text)?;
                let call = self.ranged(Call::new(Method::Get, To::Address(&url), Vec::new()));
                let sent = self.client.persist(&url.authority, false, || self.client.anonymous(&url, &call));
                let error = |trouble| self.client.final_error(trouble, Method::Get, &url.authority);
                self.at_offset(sent.map_err(error)?)
            };
            match get() {
                Ok(body) => return Some(Ok(body)),
                Err(error) => last = Some(error),
            }
        }
        last.map(Err)
    }

    fn ranged<'c>(&self, call: Call<'c>) -> Call<'c> {
        match self.offset {
            0 => call,
            offset => call.header("range", format!("bytes={offset}-")),
        }
    }

    /// Returns an answer's bytes from where we are.
    fn at_offset(&self, response: Response) -> Result<Box<dyn Read + Send>> {
        let (size, digest) = (self.descriptor.size, &self.descriptor.digest);
        let length = content_length(&response);
        if response.status == 206 {
            let start = response.header("content-range").and_then(range_start);
            if start != Some(self.offset) {
                let message = format!("{digest}: another range came than was asked for");
                return Err(Error::new(ErrorKind::Io, message));
            }
            return Ok(response.body);
        }
        if let Some(length) = length.filter(|length| *length != size) {
            let message = format!("{digest} should have {size} bytes, but {length} are offered");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        // The server knows no ranges: what is known goes by once more.
        let mut body = response.body;
        let mut skipped = 0;
        let mut piece = vec![0; PIECE];
        while skipped < self.offset {
            self.client.check()?;
            let want = PIECE.min(usize::try_from(self.offset - skipped).unwrap_or(PIECE));
            match body.read(&mut piece[..want]) {
                // The next read finds out the same, and counts it.
                Ok(0) | Err(_) => return Ok(Box::new(io::empty())),
                Ok(read) => skipped += read as u64,
            }
        }
        Ok(body)
    }
}

fn purpose(reference: &ImageReference) -> Purpose {
    if reference.digest().is_some() { Purpose::Digest } else { Purpose::Tag }
}

pub(super) fn pull_of(endpoint: &Endpoint) -> Vec<Scope> {
    vec![Scope::Repository(endpoint.repository.clone(), Action::Pull)]
}

/// Returns the trouble of a body that ended too soon, or the error that one of ours is.
pub(super) fn cut(error: io::Error) -> Trouble {
    match error.downcast::<Error>() {
        Ok(ours) => Trouble::Final(ours),
        Err(error) => {
            let text = match error.kind() {
                io::ErrorKind::UnexpectedEof => "the connection was cut".to_owned(),
                _ => error.to_string(),
            };
            Trouble::Unanswered(Failure { fault: Fault::Cut, text }, None)
        }
    }
}

fn content_length(response: &Response) -> Option<u64> {
    response.header("content-length").and_then(|text| text.trim().parse().ok())
}

/// Reads the first number of `bytes 10-99/100`.
fn range_start(header: &str) -> Option<u64> {
    header.trim().strip_prefix("bytes")?.trim().split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(range_start("bytes 10-99/100"), Some(10));
        assert_eq!(range_start("bytes 0-0/*"), Some(0));
        assert_eq!(range_start("bytes */100"), None);
        assert_eq!(range_start("10-99"), None);
    }
}
