//! What a transfer tells of itself, so that somebody can draw bars or write events.

use std::time::Duration;

use crate::image::Digest;

/// How a blob came to be where it was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Its bytes went over the network.
    Transferred,
    /// It was there.
    Existed,
    /// The registry took it from this other repository of its own.
    Mounted(String),
}

/// Is told of transfers, from several threads.
pub trait Progress: Send + Sync {
    /// A blob begins, or begins again; `held` of its `size` bytes are there from before.
    fn begin(&self, digest: &Digest, size: u64, held: u64) {
        let _ = (digest, size, held);
    }

    /// More bytes of it went.
    fn moved(&self, digest: &Digest, bytes: u64) {
        let _ = (digest, bytes);
    }

    /// It goes on from byte `held`: fewer than were told of, where a server lost some.
    fn resumed(&self, digest: &Digest, held: u64) {
        let _ = (digest, held);
    }

    /// It is complete.
    fn end(&self, digest: &Digest, how: &Ended) {
        let _ = (digest, how);
    }

    /// A host is given time, because of `why`.
    fn waiting(&self, host: &str, wait: Duration, why: &str) {
        let _ = (host, wait, why);
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}
