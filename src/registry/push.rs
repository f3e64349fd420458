//! Writing: blobs that the registry does not have, manifests as the bytes they are, deletions.
//!
//! ```text
//! HEAD ─ there ──────────────────────────────────────────────> done
//!   └─ POST ?mount=&from= ─ 201 ─────────────────────────────> done: it was in another repository
//!        └─ 202: PUT of everything ─ 201 ────────────────────> done
//!              └─ cut or refused: PATCH by PATCH ─ PUT ──────> done
//!                    └─ cut: GET tells how far it came; an upload that is gone begins anew
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use crate::image::{Descriptor, Digest, Document, ImageReference, Index, Parsed};

use super::client::{Call, Client, To, Trouble};
use super::hosts::Endpoint;
use super::progress::Ended;
use super::pull::pull_of;
use super::scope::{Action, Scope};
use super::transport::{Method, Response};
use super::url::{Url, escaped};

/// Other repositories of the registry that are asked for a blob.
const MOUNTS: usize = 3;

/// Bytes of content, to be read from anywhere, by several readers and again.
pub trait Content: Sync {
    /// Returns the bytes from `offset` on.
    fn open_at(&self, offset: u64) -> Result<Box<dyn Read + '_>>;
}

impl Content for [u8] {
    fn open_at(&self, offset: u64) -> Result<Box<dyn Read + '_>> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(Box::new(self.get(offset..).unwrap_or_default()))
    }
}

impl Content for File {
    fn open_at(&self, offset: u64) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(FileAt { file: self, offset }))
    }
}

/// A file that is read without its one position.
struct FileAt<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FileAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Client {
    /// Does the repository have this blob?
    pub fn has_blob(&self, reference: &ImageReference, digest: &Digest) -> Result<bool> {
        let endpoint = self.origin(reference.domain(), reference.path())?;
        self.has_blob_at(&endpoint, digest, pull_of(&endpoint))
            .context(|| format!("look for blob {digest} in {}", endpoint.name()))
    }

    fn has_blob_at(&self, endpoint: &Endpoint, digest: &Digest, scopes: Vec<Scope>) -> Result<bool> {
        let path = format!("blobs/{digest}");
        let call = Call::new(Method::Head, To::Repository(&path), scopes).answers(&[404]);
        Ok(self.send(endpoint, &call)?.status != 404)
    }

    /// Makes the repository have a blob, in the cheapest way there is; `from` are repositories of the same registry that may have it.
    ///
    /// A second call finds it there. A crash leaves an upload that the registry throws away some day.
    pub fn push_blob(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
        content: &(impl Content + ?Sized),
        from: &[&str],
    ) -> Result<Ended> {
        let push = || -> Result<Ended> {
            let endpoint = self.origin(reference.domain(), reference.path())?;
            self.settings.progress.begin(&descriptor.digest, descriptor.size, 0);
            let ended = if self.has_blob_at(&endpoint, &descriptor.digest, push_to(&endpoint))? {
                Ended::Existed
            } else {
                self.upload(&endpoint, descriptor, content, from)?
            };
            self.settings.progress.end(&descriptor.digest, &ended);
            Ok(ended)
        };
        push().context(|| {
            format!("push blob {} to {}/{}", descriptor.digest, reference.domain(), reference.path())
        })
    }

    fn upload(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        content: &(impl Content + ?Sized),
        from: &[&str],
    ) -> Result<Ended> {
        let digest = &descriptor.digest;
        let others = from.iter().filter(|other| **other != endpoint.repository).take(MOUNTS);
        let candidates: Vec<Option<&str>> = others.map(|other| Some(*other)).collect();
        // Without a name, some registries look everywhere.
        let candidates = if candidates.is_empty() { vec![None] } else { candidates };
        let mut started = None;
        for other in candidates {
            self.abandon(endpoint, started.take());
            let answer = self.begin(endpoint, Some((digest, other)))?;
            if answer.status == 201 {
                return Ok(Ended::Mounted(other.unwrap_or("another repository").to_owned()));
            }
            started = Some(Started::read(&answer, endpoint, self)?);
        }
        let started = started.expect("there is a candidate");
        let chunk = self.settings.chunk.max(started.least).max(1);
        let mut upload = Upload {
            client: self,
            endpoint,
            descriptor,
            content,
            started,
            offset: 0,
            most: 0,
            chunk,
            whole: true,
            failed: 0,
            spoiled: false,
        };
        upload.run()?;
        Ok(Ended::Transferred)
    }

    /// Begins an upload, or has the blob mounted.
    fn begin(&self, endpoint: &Endpoint, mount: Option<(&Digest, Option<&str>)>) -> Result<Response> {
        let mut scopes = push_to(endpoint);
        let plain = "blobs/uploads/".to_owned();
        let path = match mount {
            None => plain,
            Some((digest, other)) => {
                let mut path = format!("{plain}?mount={}", escaped(&digest.to_string()));
                if let Some(other) = other {
                    path.push_str(&format!("&from={}", escaped(other)));
                    scopes.push(Scope::Repository(other.to_owned(), Action::Pull));
                }
                path
            }
        };
        let call = Call::new(Method::Post, To::Repository(&path), scopes);
        match self.send(endpoint, &call) {
            // Who may not read the other repository, or knows no mounts, may upload all the same.
            Err(error) if mount.is_some() && error.kind() != ErrorKind::Busy => {
                self.check()?;
                log::debug!("mount: {error:?}");
                self.begin(endpoint, None)
            }
            other => other,
        }
    }

    /// Ends an upload that is not needed.
    fn abandon(&self, endpoint: &Endpoint, started: Option<Started>) {
        if let Some(started) = started {
            let call = Call::new(Method::Delete, To::Address(&started.location), push_to(endpoint));
            // Best effort: the registry forgets it by itself.
            drop(self.once(endpoint, &call, None));
        }
    }

    /// Pushes a manifest or index as the bytes it is, under the reference's tag, or by its digest where there is no tag.
    ///
    /// What it refers to must be there. Where it has a subject and the registry does not know of such, the tag that stands in
    /// for the list of referrers is brought up to date.
    pub fn push_manifest(&self, reference: &ImageReference, document: &Document) -> Result<()> {
        let push = || -> Result<()> {
            let endpoint = self.origin(reference.domain(), reference.path())?;
            let name = match reference.tag_or_latest() {
                Some(tag) => tag.to_owned(),
                None => document.digest.to_string(),
            };
            let answer = self.put_manifest(&endpoint, &name, document)?;
            let subject = match &document.parsed {
                Parsed::Manifest(manifest) => manifest.subject.as_ref(),
                Parsed::Index(index) => index.subject.as_ref(),
            };
            match subject {
                Some(subject) if answer.header("oci-subject").is_none() => {
                    self.refer_by_tag(reference, &endpoint, &subject.digest, document)
                }
                _ => Ok(()),
            }
        };
        push().context(|| format!("push manifest {} to {reference}", document.digest))
    }

    fn put_manifest(&self, endpoint: &Endpoint, name: &str, document: &Document) -> Result<Response> {
        let path = format!("manifests/{name}");
        let mut call = Call::new(Method::Put, To::Repository(&path), push_to(endpoint));
        call = call.header("content-type", document.media_type.clone());
        call.bytes = &document.bytes;
        let answer = self.send(endpoint, &call)?;
        agrees(&answer, &document.digest)?;
        Ok(answer)
    }

    /// Returns what refers to a manifest: signatures, bills of materials.
    pub fn referrers(&self, reference: &ImageReference, digest: &Digest) -> Result<Vec<Descriptor>> {
        let list = || -> Result<Vec<Descriptor>> {
            let endpoint = self.origin(reference.domain(), reference.path())?;
            match self.referrers_at(&endpoint, digest)? {
                Some(found) => Ok(found),
                None => Ok(self
                    .referrers_by_tag(reference, digest)?
                    .map_or_else(Vec::new, |index| index.manifests)),
            }
        };
        list().context(|| format!("list what refers to {digest} in {}", reference.repository()))
    }

    /// Returns the registry's own list; `None` where it keeps none.
    fn referrers_at(&self, endpoint: &Endpoint, digest: &Digest) -> Result<Option<Vec<Descriptor>>> {
        let mut found = Vec::new();
        let path = format!("referrers/{digest}");
        let known = self.pages(endpoint, To::Repository(&path), pull_of(endpoint), |index: Index| {
            found.extend(index.manifests);
        })?;
        Ok(known.then_some(found))
    }

    fn referrers_by_tag(&self, reference: &ImageReference, digest: &Digest) -> Result<Option<Index>> {
        let tag = reference.with_tag(&format!("{}-{}", digest.algorithm(), digest.hex()))?;
        match self.manifest(&tag) {
            Ok(document) => Ok(document.index().cloned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds a manifest to the index that stands in for a list of referrers. Two that do it at once may lose one: the
    /// specification has nothing better.
    fn refer_by_tag(
        &self,
        reference: &ImageReference,
        endpoint: &Endpoint,
        subject: &Digest,
        document: &Document,
    ) -> Result<()> {
        if self.referrers_at(endpoint, subject)?.is_some() {
            return Ok(());
        }
        let mut index = self.referrers_by_tag(reference, subject)?.unwrap_or_else(|| Index::new(Vec::new()));
        if index.manifests.iter().any(|known| known.digest == document.digest) {
            return Ok(());
        }
        let mut descriptor = document.descriptor();
        match &document.parsed {
            Parsed::Manifest(manifest) => {
                let artifact = manifest.artifact_type.clone();
                descriptor.artifact_type = artifact.or_else(|| Some(manifest.config.media_type.clone()));
                descriptor.annotations.clone_from(&manifest.annotations);
            }
            Parsed::Index(of) => {
                descriptor.artifact_type.clone_from(&of.artifact_type);
                descriptor.annotations.clone_from(&of.annotations);
            }
        }
        index.manifests.push(descriptor);
        let tag = format!("{}-{}", subject.algorithm(), subject.hex());
        self.put_manifest(endpoint, &tag, &Document::of_index(index)).map(drop)
    }

    /// Deletes a manifest, and with it all tags that lead to it.
    pub fn delete_manifest(&self, reference: &ImageReference, digest: &Digest) -> Result<()> {
        self.delete(reference, &digest.to_string())
            .context(|| format!("delete {digest} of {}", reference.repository()))
    }

    /// Deletes a tag and leaves the manifest; not every registry can.
    pub fn delete_tag(&self, reference: &ImageReference) -> Result<()> {
        let tag = reference.tag_or_latest().unwrap_or("latest");
        let deleted = self.delete(reference, tag).map_err(|error| match error.kind() {
            ErrorKind::Unsupported | ErrorKind::InvalidInput => error
                .with_kind(ErrorKind::Unsupported)
                .hint("this registry deletes only manifests by their digest, with all their tags"),
            _ => error,
        });
        deleted.context(|| format!("delete tag {tag} of {}", reference.repository()))
    }

    fn delete(&self, reference: &ImageReference, name: &str) -> Result<()> {
        let endpoint = self.origin(reference.domain(), reference.path())?;
        let scopes = vec![
            Scope::Repository(endpoint.repository.clone(), Action::Delete),
            Scope::Repository(endpoint.repository.clone(), Action::Push),
        ];
        let path = format!("manifests/{name}");
        self.send(&endpoint, &Call::new(Method::Delete, To::Repository(&path), scopes)).map(drop)
    }
}

/// An upload as the registry knows it.
struct Started {
    location: Url,
    /// Bytes that a piece must have, except the last.
    least: u64,
}

impl Started {
    fn read(answer: &Response, endpoint: &Endpoint, client: &Client) -> Result<Self> {
        let least = answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok());
        let location = client.location(endpoint, answer)?;
        Ok(Self { location, least: least.unwrap_or(0) })
    }
}

/// A blob on its way.
struct Upload<'a, C: ?Sized> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    descriptor: &'a Descriptor,
    content: &'a C,
    started: Started,
    /// Bytes that the registry has.
    offset: u64,
    /// The most that it ever had: what it forgets and takes again is no progress.
    most: u64,
    chunk: u64,
    /// All in one request.
    whole: bool,
    /// Failures since the registry last had more than ever.
    failed: u32,
    /// It was begun anew once because the registry had other bytes than were sent.
    spoiled: bool,
}

impl<C: Content + ?Sized> Upload<'_, C> {
    fn run(&mut self) -> Result<()> {
        loop {
            let step = if self.whole {
                self.send_all()
            } else if self.offset < self.descriptor.size {
                self.send_chunk()
            } else {
                self.close()
            };
            match step {
                Ok(true) => return Ok(()),
                Ok(false) if self.offset > self.most => (self.most, self.failed) = (self.offset, 0),
                Ok(false) => {}
                Err(trouble) => self.recover(trouble)?,
            }
        }
    }

    fn send_all(&mut self) -> Result<bool, Trouble> {
        let address = self.finishing();
        let answer = self.send(Method::Put, &address, 0, self.descriptor.size)?;
        agrees(&answer, &self.descriptor.digest).map_err(Trouble::Final)?;
        Ok(true)
    }

    fn send_chunk(&mut self) -> Result<bool, Trouble> {
        let length = self.chunk.min(self.descriptor.size - self.offset);
        let address = self.started.location.clone();
        let answer = self.send(Method::Patch, &address, self.offset, length)?;
        self.started.location = self.client.location(self.endpoint, &answer).map_err(Trouble::Final)?;
        let sent = self.offset + length;
        self.offset = answer.header("range").and_then(held).filter(|held| *held <= sent).unwrap_or(sent);
        if self.offset < sent {
            self.client.settings.progress.resumed(&self.descriptor.digest, self.offset);
        }
        Ok(false)
    }

    fn close(&mut self) -> Result<bool, Trouble> {
        let address = self.finishing();
        let call = Call::new(Method::Put, To::Address(&address), push_to(self.endpoint));
        let answer = self.client.once(self.endpoint, &call, None)?;
        agrees(&answer, &self.descriptor.digest).map_err(Trouble::Final)?;
        Ok(true)
    }

    fn finishing(&self) -> Url {
        self.started.location.clone().with("digest", &self.descriptor.digest.to_string())
    }

    fn send(&self, method: Method, address: &Url, from: u64, length: u64) -> Result<Response, Trouble> {
        let content = self.content.open_at(from).map_err(Trouble::Final)?;
        let mut counted =
            Counted { client: self.client, digest: &self.descriptor.digest, content, failed: None };
        let mut call = Call::new(method, To::Address(address), push_to(self.endpoint));
        call = call.header("content-type", "application/octet-stream");
        if method == Method::Patch {
            call = call.header("content-range", format!("{from}-{}", from + length - 1));
        }
        let sent = self.client.once(self.endpoint, &call, Some((&mut counted, length)));
        match counted.failed {
            // What was to be sent could not be read: that is no matter of the network.
            Some(error) => Err(Trouble::Final(error)),
            None => sent,
        }
    }

    /// Decides how to go on after a failure, and waits where that helps.
    fn recover(&mut self, trouble: Trouble) -> Result<()> {
        self.failed += 1;
        let digest = &self.descriptor.digest;
        let Trouble::Refused(refusal, ..) = &trouble else {
            return self.after_cut(trouble);
        };
        let last_try = self.failed >= self.client.settings.patience.tries.max(2);
        match refusal.status {
            // The token ended on the way: the next request brings another.
            401 if self.failed == 1 => self.resume(),
            413 if !last_try && (self.whole || self.chunk / 2 > self.started.least) => {
                self.chunk =
                    if self.whole { self.chunk.min(self.descriptor.size / 2) } else { self.chunk / 2 }.max(1);
                self.anew()
            }
            // Some take no upload in one piece.
            400 | 405 | 411 | 415 | 501 if self.whole && !refusal.has("DIGEST_INVALID") => self.anew(),
            // What is there is not what was sent: once more, from the beginning.
            400 if refusal.has("DIGEST_INVALID") && !self.spoiled && !self.whole => {
                self.spoiled = true;
                self.anew()
            }
            404 | 416 if !last_try => {
                log::debug!("upload of {digest}: {}", refusal.status);
                self.resume()
            }
            _ => self.after_cut(trouble),
        }
    }

    fn after_cut(&mut self, trouble: Trouble) -> Result<()> {
        self.client.check()?;
        if !self.client.wait(&self.endpoint.host, self.failed, &trouble)? {
            let method = if self.whole { Method::Put } else { Method::Patch };
            return Err(self.client.final_error(trouble, method, &self.endpoint.host));
        }
        self.resume()
    }

    /// Asks how far the upload came; begins another where it is gone.
    fn resume(&mut self) -> Result<()> {
        let call = Call::new(Method::Get, To::Address(&self.started.location), push_to(self.endpoint));
        let call = call.answers(&[400, 404, 405, 416]);
        let answer = self.client.send(self.endpoint, &call)?;
        let held = answer.header("range").and_then(held).filter(|held| *held <= self.descriptor.size);
        let Some(held) = held.filter(|_| answer.status < 300) else { return self.anew() };
        if answer.header("location").is_some() {
            self.started.location = self.client.location(self.endpoint, &answer)?;
        }
        // In pieces, the next cut costs no more than one of them.
        self.whole &= held == 0 && self.descriptor.size <= self.chunk;
        self.offset = held;
        self.client.settings.progress.resumed(&self.descriptor.digest, held);
        Ok(())
    }

    fn anew(&mut self) -> Result<()> {
        let answer = self.client.begin(self.endpoint, None)?;
        self.started = Started::read(&answer, self.endpoint, self.client)?;
        self.chunk = self.chunk.max(self.started.least);
        self.whole = false;
        self.offset = 0;
        self.client.settings.progress.resumed(&self.descriptor.digest, 0);
        Ok(())
    }
}

/// Counts what is sent, and ends it when all was called off.
struct Counted<'a> {
    client: &'a Client,
    digest: &'a Digest,
    content: Box<dyn Read + 'a>,
    failed: Option<Error>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.client.check() {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        match self.content.read(buffer) {
            Ok(read) => {
                self.client.settings.progress.moved(self.digest, read as u64);
                Ok(read)
            }
            Err(error) => {
                self.failed = Some(match error.downcast::<Error>() {
                    Ok(ours) => ours,
                    Err(error) => Error::io("read what is to be sent", error),
                });
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

fn push_to(endpoint: &Endpoint) -> Vec<Scope> {
    vec![Scope::Repository(endpoint.repository.clone(), Action::Push)]
}

/// Compares what the registry says it took with what was sent.
fn agrees(answer: &Response, digest: &Digest) -> Result<()> {
    let said = answer.header("docker-content-digest").and_then(|text| Digest::parse(text).ok());
    match said.filter(|said| said.algorithm() == digest.algorithm() && said != digest) {
        Some(said) => {
            Err(Error::new(ErrorKind::Corrupt, format!("{digest} was sent, the registry took {said}")))
        }
        None => Ok(()),
    }
}

/// Reads `0-99` as 100 bytes. `0-0` is how some write that there is nothing: the one byte is sent again.
fn held(range: &str) -> Option<u64> {
    let (start, end) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    match (start, end) {
        (0, 0) => Some(0),
        (0, end) => end.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_uploads_are_read() {
        assert_eq!(held("0-99"), Some(100));
        assert_eq!(held("bytes=0-99"), Some(100));
        assert_eq!(held("0-0"), Some(0));
        for strange in ["", "5-9", "x-y", "0-18446744073709551615", "0"] {
            assert_eq!(held(strange), None, "{strange:?}");
        }
    }
}
