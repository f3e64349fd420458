//! Referrers (end-12): what says that it is about a manifest: signatures, bills of materials, attestations.

use super::digest;
use super::http::{Answer, Head};
use super::shelf::Shelf;
use super::trouble::Answered;
use crate::image::{Descriptor, Document, Index, Parsed, media_type};

/// Lists what is about a manifest, which need not be here.
pub(super) fn list(shelf: &Shelf<'_>, subject: &str, head: &Head) -> Answered {
    let subject = digest(subject)?;
    let wanted = head.asked("artifactType");
    let mut found = Vec::new();
    for digest in shelf.pushed.referrers(&subject)? {
        let descriptor = described(&shelf.pushed.document(&digest)?);
        if wanted.is_none_or(|wanted| descriptor.artifact_type.as_deref() == Some(wanted)) {
            found.push(descriptor);
        }
    }
    let answer = Answer::json(200, media_type::INDEX, &Index::new(found));
    Ok(match wanted {
        Some(_) => answer.line("OCI-Filters-Applied", "artifactType"),
        None => answer,
    })
}

/// Returns the descriptor of a manifest with what it says of itself.
fn described(document: &Document) -> Descriptor {
    let (artifact_type, annotations) = match &document.parsed {
        Parsed::Manifest(manifest) => {
            let config = Some(manifest.config.media_type.clone()).filter(|said| !said.is_empty());
            (manifest.artifact_type.clone().or(config), manifest.annotations.clone())
        }
        Parsed::Index(index) => (index.artifact_type.clone(), index.annotations.clone()),
    };
    Descriptor { artifact_type, annotations, ..document.descriptor() }
}
