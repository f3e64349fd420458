//! From a name to the manifest of one platform.

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::Source;
use crate::image::{Document, Platform};

/// Indexes in indexes: two are seen, more than this are a trap.
pub(super) const DEPTH_MAX: usize = 8;

/// What a name means on one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The index that the name is of, if it is one.
    pub index: Option<Document>,
    /// The manifest.
    pub manifest: Document,
}

/// Finds the manifest that `name` means on `platform`, through nested indexes.
///
/// A name of a manifest means that, whatever it was made for: who reads its configuration sees it.
pub fn resolve<S: Source + ?Sized>(source: &S, name: Option<&str>, platform: &Platform) -> Result<Resolved> {
    let top = source.document(name)?;
    let mut document = top.clone();
    for _ in 0..=DEPTH_MAX {
        let Some(index) = document.index() else {
            let index = top.index().is_some().then_some(top);
            return Ok(Resolved { index, manifest: document });
        };
        let chosen = index.select(platform).context(|| format!("choose from index {}", document.digest))?;
        document = source.child(chosen)?;
    }
    let message = format!("index {} holds more than {DEPTH_MAX} indexes in each other", top.digest);
    Err(Error::new(ErrorKind::InvalidInput, message))
}
