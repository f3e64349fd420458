//! Images, as data: what the OCI documents say of them. Nothing here opens a file or knows a store.

pub mod config;

pub use config::ImageConfig;
