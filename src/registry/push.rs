//! Writing: blobs that the registry does not have, manifests as the bytes they are, deletions.
//!
//! ```text
//! HEAD ─ there ──────────────────────────────────────────────> done
//!   └─ POST, or ?mount=&from= ─ 201 ─────────────────────────> done: it was in another repository
//!        └─ 202: PUT of everything ─ 201 ────────────────────> done
//!              └─ cut or refused: PATCH by PATCH ─ PUT ──────> done
//!                    └─ cut: GET tells how far it came; an upload that is gone begins anew
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use crate::image::{Descriptor, Digest, Document, ImageReference, Index, Parsed};

use super::client::{Call, Client, To};
use super::hosts::Endpoint;
use super::progress::Ended;
use super::pull::pull_of;
use super::scope::{Action, Scope};
use super::transport::{Method, Response};
use super::upload::{Started, Upload};
use super::url::escaped;

/// Other repositories of the registry that are asked for a blob.
const MOUNTS: usize = 3;

/// Bytes of content, to be read from anywhere, by several readers and again: an upload that was cut goes on in the middle.
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

impl Content for Vec<u8> {
    fn open_at(&self, offset: u64) -> Result<Box<dyn Read + '_>> {
        self.as_slice().open_at(offset)
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
        let mut started = None;
        for other in others {
            self.abandon(endpoint, started.take());
            let answer = self.begin(endpoint, Some((digest, other)))?;
            if answer.status == 201 {
                return Ok(Ended::Mounted((*other).to_owned()));
            }
            started = Some(Started::read(&answer, endpoint, self)?);
        }
        let started = match started {
            Some(started) => started,
            None => Started::read(&self.begin(endpoint, None)?, endpoint, self)?,
        };
        Upload::new(self, endpoint, descriptor, content, started).run()?;
        Ok(Ended::Transferred)
    }

    /// Begins an upload, or has the blob mounted.
    pub(super) fn begin(&self, endpoint: &Endpoint, mount: Option<(&Digest, &str)>) -> Result<Response> {
        let mut scopes = push_to(endpoint);
        let plain = "blobs/uploads/".to_owned();
        let path = match mount {
            None => plain,
            Some((digest, other)) => {
                scopes.push(Scope::Repository(other.to_owned(), Action::Pull));
                format!("{plain}?mount={}&from={}", escaped(&digest.to_string()), escaped(other))
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

pub(super) fn push_to(endpoint: &Endpoint) -> Vec<Scope> {
    vec![Scope::Repository(endpoint.repository.clone(), Action::Push)]
}

/// Compares what the registry says it took with what was sent.
pub(super) fn agrees(answer: &Response, digest: &Digest) -> Result<()> {
    let said = answer.header("docker-content-digest").and_then(|text| Digest::parse(text).ok());
    match said.filter(|said| said.algorithm() == digest.algorithm() && said != digest) {
        Some(said) => {
            Err(Error::new(ErrorKind::Corrupt, format!("{digest} was sent, the registry took {said}")))
        }
        None => Ok(()),
    }
}
