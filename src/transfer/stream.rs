//! Content that streams from a source and is verified on its way.

use std::io::{self, Read};

use rootling_backends::{Error, ErrorKind, Result};

use super::Source;
use crate::image::{Configuration, DOCUMENT_MAX, Descriptor, Document, Manifest};

const BUFFER_BYTES: usize = 256 << 10;

/// Gives all of `content` to `write`, piece by piece, and verifies that it is what `descriptor` says.
///
/// The last piece is given away before the digest is known: what was written counts only once this returned no error.
pub fn pump(
    descriptor: &Descriptor,
    content: &mut (impl Read + ?Sized),
    write: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut verifier = descriptor.verifier();
    // A size that is not true shall not cost memory.
    let mut buffer =
        vec![0; usize::try_from(descriptor.size).map_or(BUFFER_BYTES, |size| size.clamp(1, BUFFER_BYTES))];
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => return verifier.finish(),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ours(error, || format!("read {}", descriptor.digest))),
        };
        verifier.update(&buffer[..read])?;
        write(&buffer[..read])?;
    }
}

/// Takes our own error out of one of the standard library's, or says what was being done.
pub(super) fn ours(error: io::Error, call: impl FnOnce() -> String) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours.context(call()),
        Err(error) => Error::io(call(), error),
    }
}

/// Reads a small blob (a configuration, a document) whole, verified; what its descriptor brings along is not fetched.
pub fn read_blob<S: Source + ?Sized>(source: &S, descriptor: &Descriptor) -> Result<Vec<u8>> {
    if descriptor.size > DOCUMENT_MAX {
        let message =
            format!("{} has {} bytes, more than {DOCUMENT_MAX}", descriptor.digest, descriptor.size);
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    if let Some(bytes) = descriptor.inline()? {
        return Ok(bytes);
    }
    let mut bytes = Vec::new();
    pump(descriptor, &mut *source.open_blob(descriptor)?, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// Reads a manifest or index that lies among the blobs.
pub fn read_document<S: Source + ?Sized>(source: &S, descriptor: &Descriptor) -> Result<Document> {
    Document::parse_verified(read_blob(source, descriptor)?, descriptor)
}

/// Reads the configuration of an image, as bytes and as what they say, and checks that it fits the manifest.
pub fn read_configuration<S: Source + ?Sized>(
    source: &S,
    manifest: &Manifest,
) -> Result<(Vec<u8>, Configuration)> {
    if !manifest.is_image() {
        let kind = manifest.artifact_type.as_ref().unwrap_or(&manifest.config.media_type);
        let message = format!("it is no image of a root filesystem, but {kind:?}");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let bytes = read_blob(source, &manifest.config)?;
    let configuration = Configuration::parse(&bytes)?;
    configuration.check(manifest)?;
    Ok((bytes, configuration))
}
