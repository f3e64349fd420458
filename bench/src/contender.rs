//! What can fork a tree, change it, say what changed and delete it: the contract of the loop in `life`.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rootling_backends::Result;

/// What was found to differ: docker diff's letter (`?` where it is not told) and the path below the root.
pub(crate) type Found = BTreeSet<(char, PathBuf)>;

/// Someone who forks. At most one fork lives at a time.
pub(crate) trait Contender: fmt::Debug {
    /// Returns what tables call it.
    fn name(&self) -> &str;

    /// Is it rootling? Then a failure ends the bench, and what it finds must be exact.
    fn is_ours(&self) -> bool {
        false
    }

    /// Makes the fork and returns how long that took.
    fn fork(&mut self) -> Result<Duration>;

    /// Shows the fork for reading and writing. Not timed.
    fn view(&self) -> Result<View>;

    /// Returns what differs in the fork against its parent, and how long that took to find out; `None` if it has no such question.
    fn changes(&mut self) -> Result<Option<(Duration, Found)>> {
        Ok(None)
    }

    /// Destroys the fork and returns how long that took.
    fn delete(&mut self) -> Result<Duration>;

    /// Waits for what a deletion left to the kernel. Not timed.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A fork as it is entered.
#[derive(Debug)]
pub(crate) struct View {
    path: PathBuf,
    /// A detached mount lives as long as its descriptor.
    _mount: Option<OwnedFd>,
}

impl View {
    /// Returns a fork that is a directory.
    pub(crate) fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), _mount: None }
    }

    /// Returns a fork that must be mounted.
    pub(crate) fn mounted(mount: OwnedFd) -> Self {
        Self { path: format!("/proc/self/fd/{}/.", mount.as_raw_fd()).into(), _mount: Some(mount) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
