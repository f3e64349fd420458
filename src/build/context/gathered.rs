//! What the steps of a build fetch: once, whichever of them name it, and however often they are looked at.

use std::fs::File;

use super::super::once::Once;
use super::Context;
use crate::sources::Downloaded;

/// What was fetched.
#[derive(Debug, Default)]
pub(in crate::build) struct Gathered {
    /// Files of servers.
    pub(in crate::build) files: Once<Fetched>,
    /// Which commits are meant, where servers say so.
    pub(in crate::build) commits: Once<Option<String>>,
    /// Files of repositories.
    pub(in crate::build) checkouts: Once<Context>,
}

/// A file that was fetched: it has no name, and is gone with its descriptor.
#[derive(Debug)]
pub(in crate::build) struct Fetched {
    pub(in crate::build) file: File,
    pub(in crate::build) said: Downloaded,
}
