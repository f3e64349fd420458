//! Uploads (end-4, 5, 6, 11, 13, 14): in one request, in two, in chunks of any size, or taken from another repository.
//!
//! How far an upload has come is the length of its file: a client that was cut off, or a server that was killed, goes on from there.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rootling_backends::ErrorKind;

use super::http::{Answer, Body, Head};
use super::shelf::Shelf;
use super::trouble::{Answered, Code, Trouble, refuse, says};
use super::{DIGEST, digest};
use crate::image::{Algorithm, Digest, Hasher};
use crate::store::{Upload, canonical};

const BUFFER_BYTES: usize = 256 << 10;

/// How long a request waits for the one before it, which may not know yet that it was cut off.
const WAIT: Duration = Duration::from_secs(10);

/// Uploads whose digests are remembered between two requests; those of others are read again.
const REMEMBERED_MAX: usize = 256;

/// What was taken of uploads into their digests so far.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<HashMap<String, Hasher>>);

impl Taken {
    fn take(&self, id: &str) -> Option<Hasher> {
        self.0.lock().expect("nobody panics who holds it").remove(id)
    }

    fn keep(&self, id: &str, taken: Hasher) {
        let mut all = self.0.lock().expect("nobody panics who holds it");
        if all.len() < REMEMBERED_MAX {
            all.insert(id.to_owned(), taken);
        } else {
            // Whose they are nobody knows any more: forgetting costs a reading.
            all.clear();
        }
    }
}

/// Begins an upload, or does without one.
pub(super) fn post(shelf: &Shelf<'_>, taken: &Taken, head: &Head, body: &mut Body<'_>) -> Answered {
    let name = shelf.pushed.name();
    if let Some(wanted) = head.asked("mount") {
        let wanted = digest(wanted)?;
        if is_mounted(shelf, &wanted, head.asked("from"))? {
            return Ok(created(name, &wanted));
        }
    }
    let wanted = head.asked("digest").map(digest).transpose()?;
    let id = shelf.store.begin_upload(name)?;
    let Some(wanted) = wanted.filter(|_| head.asked("mount").is_none()) else {
        return Ok(progress(202, name, &id, 0));
    };
    let upload = open(shelf, &id)?;
    match receive(upload, taken, &id, body) {
        Ok(upload) => finish(shelf, taken, &id, upload, &wanted),
        Err(trouble) => {
            // Nobody was told of it, so nobody can go on.
            if let Some(upload) = shelf.store.open_upload(name, &id)? {
                upload.cancel()?;
            }
            taken.take(&id);
            Err(trouble)
        }
    }
}

/// Takes a blob from another repository: nothing is copied.
fn is_mounted(shelf: &Shelf<'_>, wanted: &Digest, from: Option<&str>) -> Answered<bool> {
    // Which repository it is in the client has to know: else whoever knows a digest could have the blob.
    let Some(from) = from.and_then(|from| shelf.store.repository(canonical(from)).ok()) else {
        return Ok(false);
    };
    let from = Shelf::new(shelf.store, from, shelf.with_boxes);
    // As long as it lives nothing is swept.
    let _blobs = shelf.store.blobs()?;
    if from.blob(wanted)?.is_none() {
        return Ok(false);
    }
    shelf.pushed.add_blob(wanted)?;
    Ok(true)
}

/// Says how far an upload has come.
pub(super) fn get(shelf: &Shelf<'_>, id: &str) -> Answered {
    let upload = open(shelf, id)?;
    Ok(progress(204, shelf.pushed.name(), id, upload.size()))
}

/// Goes on with an upload.
pub(super) fn patch(
    shelf: &Shelf<'_>,
    taken: &Taken,
    id: &str,
    head: &Head,
    body: &mut Body<'_>,
) -> Answered {
    let upload = open(shelf, id)?;
    require_next(shelf, &upload, id, head, body)?;
    let upload = receive(upload, taken, id, body)?;
    Ok(progress(202, shelf.pushed.name(), id, upload.size()))
}

/// Ends an upload, with a last part or without.
pub(super) fn put(shelf: &Shelf<'_>, taken: &Taken, id: &str, head: &Head, body: &mut Body<'_>) -> Answered {
    let Some(wanted) = head.asked("digest") else {
        return refuse(400, Code::DigestInvalid, "the digest is missing");
    };
    let wanted = digest(wanted)?;
    let upload = open(shelf, id)?;
    require_next(shelf, &upload, id, head, body)?;
    let upload = receive(upload, taken, id, body)?;
    finish(shelf, taken, id, upload, &wanted)
}

/// Forgets an upload.
pub(super) fn delete(shelf: &Shelf<'_>, taken: &Taken, id: &str) -> Answered {
    open(shelf, id)?.cancel()?;
    taken.take(id);
    Ok(Answer::new(204))
}

fn open<'a>(shelf: &Shelf<'a>, id: &str) -> Answered<Upload<'a>> {
    let begun = Instant::now();
    loop {
        match shelf.store.open_upload(shelf.pushed.name(), id) {
            Ok(Some(upload)) => return Ok(upload),
            Ok(None) => return refuse(404, Code::BlobUploadUnknown, "the repository has no such upload"),
            Err(error) if error.kind() == ErrorKind::Busy && begun.elapsed() < WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == ErrorKind::Busy => {
                return refuse(409, Code::BlobUploadInvalid, "another request sends this upload");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses a part that does not follow on what is there.
fn require_next(
    shelf: &Shelf<'_>,
    upload: &Upload<'_>,
    id: &str,
    head: &Head,
    body: &Body<'_>,
) -> Answered<()> {
    let Some(range) = head.line("content-range") else { return Ok(()) };
    let range = range.trim_start_matches("bytes").trim_start_matches([' ', '=']);
    let ends = range.split('/').next().unwrap_or_default().split_once('-');
    let Some((Ok(first), Ok(last))) = ends.map(|(first, last)| (first.parse::<u64>(), last.parse::<u64>()))
    else {
        return refuse(400, Code::BlobUploadInvalid, "the Content-Range is malformed");
    };
    if first != upload.size() {
        let message = format!("the next byte is {}", upload.size());
        let said = says(416, Code::BlobUploadInvalid, message);
        return Err(Trouble::Refused(placed(said, shelf.pushed.name(), id, upload.size())));
    }
    let length = last.checked_sub(first).map(|length| length + 1);
    match body.length() {
        Some(told) if length != Some(told) => {
            refuse(400, Code::SizeInvalid, "the Content-Range has another length than the body")
        }
        _ => Ok(()),
    }
}

/// Adds a body to an upload. What came before a cut stays.
fn receive<'a>(mut upload: Upload<'a>, taken: &Taken, id: &str, body: &mut Body<'_>) -> Answered<Upload<'a>> {
    let known = taken.take(id).or_else(|| Some(Hasher::new(Algorithm::Sha256)));
    let mut known = known.filter(|known| known.size() == upload.size());
    let mut buffer = vec![0; BUFFER_BYTES];
    let received = loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(error) => break Err(Trouble::Cut(error)),
        };
        if let Err(error) = upload.append(&buffer[..read]) {
            break Err(error.into());
        }
        if let Some(known) = &mut known {
            known.update(&buffer[..read]);
        }
    };
    if let Some(known) = known {
        taken.keep(id, known);
    }
    received.map(|()| upload)
}

fn finish(shelf: &Shelf<'_>, taken: &Taken, id: &str, upload: Upload<'_>, wanted: &Digest) -> Answered {
    // As long as it lives nothing is swept: between its name and its note the blob is nobody's.
    let blobs = shelf.store.blobs()?;
    match upload.finish(&blobs, wanted, taken.take(id)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            return refuse(400, Code::DigestInvalid, format!("the bytes that came are not {wanted}"));
        }
        Err(error) => return Err(error.into()),
    }
    shelf.pushed.add_blob(wanted)?;
    Ok(created(shelf.pushed.name(), wanted))
}

fn created(name: &str, digest: &Digest) -> Answer {
    Answer::new(201).line("Location", format!("/v2/{name}/blobs/{digest}")).line(DIGEST, digest.to_string())
}

fn progress(status: u16, name: &str, id: &str, size: u64) -> Answer {
    placed(Answer::new(status), name, id, size)
}

fn placed(answer: Answer, name: &str, id: &str, size: u64) -> Answer {
    // Of nothing docker's registry says 0-0, and its clients know that.
    let range = format!("0-{}", size.saturating_sub(1));
    answer
        .line("Location", format!("/v2/{name}/blobs/uploads/{id}"))
        .line("Range", range)
        .line("Docker-Upload-UUID", id)
}
