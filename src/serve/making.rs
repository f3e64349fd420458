//! What was built, and boxes, trees and snapshots, which are no images until somebody asks for them.
//!
//! The layers are made once and noted in the records of the states (`transfer/making.rs`); the manifest is kept with the repository, so that
//! what it names is found by its digest, until nobody asked for a week.

use rootling_backends::{Context, Result};

use super::shelf::{Found, Shelf};
use crate::image::{Digest, Document};
use crate::store::{Durability, Line, Node, Push};
use crate::transfer::making::{MakeOptions, make};

/// Makes an image of a node, of a box its present state.
///
/// Takes as long as packing what changed, the first time.
pub(super) fn image(shelf: &Shelf<'_>, node: &Node) -> Result<Found> {
    let intent = || format!("make an image of {}", node.label());
    let blobs = shelf.store.blobs().context(intent)?;
    let line = shelf.store.line_of(node).context(intent)?;
    let document = match own(shelf, &line).context(intent)? {
        Some(document) => document,
        None => {
            let made = make(&blobs, &line, &MakeOptions::default(), &|_| ()).context(intent)?;
            let known = (&Digest::sha256_of(&made.config), made.config.len() as u64);
            blobs.put(made.config.as_slice(), Some(known), Durability::Synced).context(intent)?;
            made.manifest
        }
    };
    let Document { digest, media_type, .. } = &document;
    if shelf.pushed.manifest(digest)?.is_none() {
        let push = Push { document: &document, media_type, tags: &[], from: None, made: true };
        shelf.pushed.put(&blobs, &push).context(intent)?;
    }
    Ok(Found { digest: digest.clone(), media_type: media_type.clone() })
}

/// Returns the image that it still is: nothing has changed since.
fn own(shelf: &Shelf<'_>, line: &Line) -> Result<Option<Document>> {
    let Some(image) = line.image() else { return Ok(None) };
    Document::parse_with_digest(shelf.bytes(&image.manifest)?, &image.manifest, Some(&image.media_type))
        .map(Some)
}
