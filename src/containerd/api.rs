//! The services of containerd that are served or called here, as they are on the wire: generated of `proto/`, by `build.rs`.

#![expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "nobody wrote this"
)]

include!(concat!(env!("OUT_DIR"), "/containerd.rs"));

pub use containerd::services::{content::v1 as content, diff::v1 as diff, snapshots::v1 as snapshots};
pub use containerd::types;
