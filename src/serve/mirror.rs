//! What is not here is fetched from another registry and kept: a mirror.
//!
//! A tag that was fetched is asked for again each time, with a request that costs no pull; if the other registry cannot be reached, what is
//! here is served. What was pushed here, and what is an image of the store, is never asked for: it is this registry's own.

use std::io;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::shelf::{Found, Shelf};
use crate::image::{Descriptor, Digest, Document, ImageReference};
use crate::registry::Client;
use crate::store::{Kept, Push, Synced, is_tag};

/// Another registry.
#[derive(Debug)]
pub struct Mirror {
    client: Client,
    host: String,
}

impl Mirror {
    /// Returns a mirror of a registry: `docker.io`, `https://ghcr.io`, `http://127.0.0.1:5001`. Connects to nobody.
    ///
    /// Whether a host is asked in the clear the client decides, as for every other request.
    pub fn new(client: Client, url: &str) -> Result<Self> {
        let host = url.split_once("://").map_or(url, |(_, host)| host).trim_end_matches('/');
        let mirror = Self { client, host: host.to_owned() };
        let is_host =
            !host.contains('/') && mirror.reference("a").is_ok_and(|reference| reference.domain() == host);
        if !is_host {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{url:?} is no registry to mirror"))
                .hint("give its host, as docker.io or https://ghcr.io"));
        }
        Ok(mirror)
    }

    /// Ends what is being fetched, between two reads.
    pub(super) fn end(&self) {
        self.client.call_off();
    }

    fn reference(&self, repository: &str) -> Result<ImageReference> {
        ImageReference::parse(&format!("{}/{repository}", self.host))
    }

    /// Fetches a manifest that is not here, or a tag that has moved there. `local` is what is here.
    pub(super) fn refresh(&self, shelf: &Shelf<'_>, reference: &str, local: Option<&Found>) -> Result<()> {
        if let Some(local) = local {
            let pushed = shelf.pushed.manifest(&local.digest)?;
            let is_ours = pushed.is_none_or(|pushed| pushed.from.is_none());
            // What has this digest cannot have moved.
            if is_ours || reference.contains(':') {
                return Ok(());
            }
        }
        let fetched = self.fetch(shelf, reference, local);
        match (fetched, local) {
            (Err(error), Some(_)) => {
                log::warn!("{} serves what it has of {reference}: {error}", shelf.pushed.name());
                Ok(())
            }
            // It is not there either: that is for the answer to say.
            (Err(error), None) if error.kind() == ErrorKind::NotFound => Ok(()),
            (fetched, _) => fetched,
        }
    }

    fn fetch(&self, shelf: &Shelf<'_>, reference: &str, local: Option<&Found>) -> Result<()> {
        let there = self.reference(shelf.pushed.name())?;
        let there = match Digest::parse(reference) {
            Ok(digest) => there.with_digest(digest),
            Err(_) if is_tag(reference) => there.with_tag(reference)?,
            Err(_) => return Ok(()),
        };
        if let Some(local) = local {
            let head = self.client.head(&there)?;
            if head.is_none_or(|head| head.digest.as_ref() == Some(&local.digest)) {
                return Ok(());
            }
        }
        let document = self.client.manifest(&there)?;
        let tags: &[&str] = if there.digest().is_some() { &[] } else { &[reference] };
        let blobs = shelf.store.blobs()?;
        let Document { media_type, .. } = &document;
        let push = Push { document: &document, media_type, tags, from: Some(&self.host), made: false };
        shelf.pushed.put(&blobs, &push)
    }

    /// Returns the length of a blob that a manifest fetched from there names.
    pub(super) fn size_of(&self, shelf: &Shelf<'_>, digest: &Digest) -> Result<Option<u64>> {
        for manifest in shelf.pushed.manifests()? {
            let Some(pushed) = shelf.pushed.manifest(&manifest)? else { continue };
            let found = pushed.keeps.iter().find(|kept| kept.digest == *digest);
            if let (Some(Kept { size, .. }), Some(_)) = (found, &pushed.from) {
                return Ok(Some(*size));
            }
        }
        Ok(None)
    }

    /// Fetches a blob. Who else wants it at the same time waits, and what a cut left is gone on with.
    pub(super) fn fetch_blob(&self, shelf: &Shelf<'_>, digest: &Digest, size: u64) -> Result<()> {
        let what = || format!("fetch blob {digest} from {}", self.host);
        let there = self.reference(shelf.pushed.name()).context(what)?;
        let blobs = shelf.store.blobs()?;
        if let Some(mut partial) = blobs.partial(digest, size)? {
            let descriptor = Descriptor::new("", digest.clone(), size);
            let mut blob = self.client.blob_from(&there, &descriptor, partial.have()).context(what)?;
            io::copy(&mut blob, &mut partial).map_err(|error| blob.failed(error)).context(what)?;
            drop(blob);
            partial.finish().context(what)?;
            blobs.settle(Synced::No)?;
        }
        shelf.pushed.add_blob(digest)
    }
}
