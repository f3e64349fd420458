//! Images, as data: what the OCI documents say of them. Nothing here opens a file or knows a store.
//!
//! ```text
//! reference ──> index ──(platform)──> manifest ──> configuration: how it is run, diff ids, history
//!                                        └──────> layers: descriptors of blobs
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`mod@reference`] | where an image is to be found: host, repository, tag, digest |
//! | [`digest`] | names of content, taken and verified |
//! | [`descriptor`] | which content is meant, and what it is |
//! | [`platform`] | what an image runs on, and which of several fits |
//! | [`manifest`] | manifests and indexes, OCI's and docker's |
//! | [`document`] | a manifest or index with the bytes that it was read from |
//! | [`configuration`] | all that is said of an image beside its layers |
//! | [`config`] | the part of it that says how it is run, and the words that change it |
//! | [`media_type`] [`annotations`] | the names the documents use |
//!
//! **Invariants.** What has a digest is kept as the bytes that have it, beside what was read from them. Fields that are
//! not known are kept. Every size is checked before anything is taken in.

pub mod annotations;
pub mod config;
pub mod configuration;
pub mod descriptor;
pub mod digest;
pub mod document;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;

pub use config::ImageConfig;
pub use configuration::{Configuration, History, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, ChainId, DiffId, Digest, Hasher, Verifier};
pub use document::{Document, Parsed};
pub use manifest::{Index, Manifest};
pub use platform::Platform;
pub use reference::ImageReference;

use serde::{Deserialize, Deserializer};

/// Bytes of the largest manifest, index or configuration that is read: what registries take.
pub const DOCUMENT_MAX: u64 = 4 << 20;

/// Builders write `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
