//! Manifests and indexes: read (end-3), taken in (end-7), removed (end-9), by tag or digest. Their bytes stay as they came.

use rootling_backends::ErrorKind;

use super::blobs::is_known;
use super::http::{Answer, Body, Content, Head};
use super::mirror::Mirror;
use super::shelf::{Found, Shelf};
use super::trouble::{Answered, Code, Trouble, failed_there as failed, refuse};
use super::{DIGEST, digest};
use crate::image::{DOCUMENT_MAX, Digest, Document, Parsed, media_type};
use crate::store::{Push, is_tag};

/// Most tags that one push gives.
const TAGS_MAX: usize = 10;

/// Finds a manifest by what it is asked for.
fn find(shelf: &Shelf<'_>, reference: &str) -> Answered<Option<Found>> {
    Ok(if reference.contains(':') { shelf.manifest(&digest(reference)?)? } else { shelf.tag(reference)? })
}

/// Sends a manifest.
pub(super) fn get(shelf: &Shelf<'_>, mirror: Option<&Mirror>, reference: &str, head: &Head) -> Answered {
    let mut found = find(shelf, reference)?;
    if let Some(mirror) = mirror {
        mirror.refresh(shelf, reference, found.as_ref()).or_else(|error| failed(&error))?;
        found = find(shelf, reference)?;
    }
    let Some(Found { digest, media_type }) = found else { return unknown(reference) };
    let answer =
        |status| Answer::new(status).line(DIGEST, digest.to_string()).line("ETag", format!("\"{digest}\""));
    if is_known(head, &digest.to_string()) {
        return Ok(answer(304));
    }
    Ok(answer(200).line("Content-Type", media_type).with(Content::Bytes(shelf.bytes(&digest)?)))
}

/// Takes a manifest in, if all is here that it names.
pub(super) fn put(shelf: &Shelf<'_>, reference: &str, head: &Head, body: &mut Body<'_>) -> Answered {
    let by_digest = reference.contains(':').then(|| digest(reference)).transpose()?;
    let mut tags: Vec<&str> = head.all_asked("tag").collect();
    if by_digest.is_none() {
        tags.insert(0, reference);
    }
    if tags.len() > TAGS_MAX || !tags.iter().all(|tag| is_tag(tag)) {
        return refuse(
            400,
            Code::TagInvalid,
            "a tag is up to 128 letters, digits and _ . -, and there may be ten",
        );
    }
    let Some(bytes) = body.read_all(DOCUMENT_MAX)? else {
        return refuse(413, Code::ManifestInvalid, format!("a manifest has {DOCUMENT_MAX} bytes at most"));
    };
    let declared = head.line("content-type").map(|said| said.split(';').next().unwrap_or_default().trim());
    let document = match &by_digest {
        Some(digest) => Document::parse_with_digest(bytes, digest, declared),
        None => Document::parse(bytes, declared),
    };
    let document = match document {
        Ok(document) => document,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            return refuse(400, Code::DigestInvalid, error.to_string());
        }
        Err(error) => {
            let why =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            return refuse(400, Code::ManifestInvalid, why);
        }
    };
    let is_manifest = |said: &&str| media_type::is_manifest(said) || media_type::is_index(said);
    if let Some(declared) = declared.filter(is_manifest).filter(|said| *said != document.media_type) {
        let message = format!("it says that it is {}, but was sent as {declared}", document.media_type);
        return refuse(400, Code::ManifestInvalid, message);
    }
    require_content(shelf, &document)?;
    let blobs = shelf.store.blobs()?;
    let push =
        Push { document: &document, media_type: &document.media_type, tags: &tags, from: None, made: false };
    shelf.pushed.put(&blobs, &push)?;
    let name = shelf.pushed.name();
    let mut answer = Answer::new(201)
        .line("Location", format!("/v2/{name}/manifests/{}", document.digest))
        .line(DIGEST, document.digest.to_string());
    if let Some(subject) = subject(&document) {
        answer = answer.line("OCI-Subject", subject.to_string());
    }
    for tag in &tags {
        answer = answer.line("OCI-Tag", *tag);
    }
    Ok(answer)
}

fn subject(document: &Document) -> Option<&Digest> {
    let subject = match &document.parsed {
        Parsed::Manifest(manifest) => &manifest.subject,
        Parsed::Index(index) => &index.subject,
    };
    subject.as_ref().map(|subject| &subject.digest)
}

/// Refuses a manifest that names what the repository has not. What it is about need not be here, nor what others serve.
fn require_content(shelf: &Shelf<'_>, document: &Document) -> Answered<()> {
    match &document.parsed {
        Parsed::Manifest(manifest) => {
            for blob in manifest.blobs() {
                if media_type::is_foreign(&blob.media_type) || !blob.urls.is_empty() {
                    continue;
                }
                match shelf.blob(&blob.digest)? {
                    Some(size) if size == blob.size => {}
                    Some(size) => {
                        let message = format!("blob {} has {size} bytes, not {}", blob.digest, blob.size);
                        return refuse(400, Code::ManifestInvalid, message);
                    }
                    None => {
                        let message = format!("push blob {} first", blob.digest);
                        return refuse(400, Code::ManifestBlobUnknown, message);
                    }
                }
            }
        }
        Parsed::Index(index) => {
            for child in &index.manifests {
                if shelf.manifest(&child.digest)?.is_none() && shelf.blob(&child.digest)?.is_none() {
                    let message = format!("push manifest {} first", child.digest);
                    return refuse(400, Code::ManifestBlobUnknown, message);
                }
            }
        }
    }
    Ok(())
}

/// Removes a tag, or a manifest with all its tags. The names of images in the store can be brought back by `undelete`.
pub(super) fn delete(shelf: &Shelf<'_>, reference: &str) -> Answered {
    let (removed, images) = if reference.contains(':') {
        let digest = digest(reference)?;
        let images = shelf.pushed.images()?.into_iter().map(|(_, node)| node);
        let is_it = |node: &crate::store::Node| {
            node.record.image.as_ref().is_some_and(|image| image.manifest == digest)
        };
        (shelf.pushed.remove_manifest(&digest)?, images.filter(is_it).collect::<Vec<_>>())
    } else {
        let image = shelf.pushed.image(reference)?.map(|(node, _)| node);
        (shelf.pushed.untag(reference)?, image.into_iter().collect())
    };
    if !removed && images.is_empty() {
        return unknown(reference);
    }
    for node in images {
        shelf.store.retire(&node, true).map_err(Trouble::Failed)?;
    }
    Ok(Answer::new(202))
}

fn unknown(reference: &str) -> Answered {
    refuse(404, Code::ManifestUnknown, format!("the repository has no manifest {reference}"))
}
