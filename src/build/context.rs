//! What files are taken from: the context of a build, a named one, a stage, an image.
//!
//! ```text
//! text ─ place ─> Place ─ load ─> Context
//!
//! Context ─ find ─> Sources ─ list ─> entries ─ hash ─> digest
//!                                        └─> copy
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | `place` | what a person writes for a context: data |
//! | `gathered` | what was fetched, once |
//! | `load` | a place becomes a directory that is open: where it is, or in a scratch directory of the store |
//! | `git` | a repository: its grammar, and its files by the program git |
//! | `find` | paths and patterns of `COPY` become sources: links are followed, and lead nowhere but inside |
//! | `hash` | what a list comes to: the digest that a step's key has |
//! | `list` | a source becomes the list of what is taken of it |
//!
//! **Invariants.** A directory of the host is read where it is, and never written to. Every access goes through the open root
//! ([`Dir`]): whatever is in a context, and whoever changes it meanwhile, nothing outside is read.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use rootling_backends::{Context as _, Dir, EntryType, Error, ErrorKind, Result};

use super::ignore::{IgnoreFile, Patterns};
use crate::store::Scratch;

mod find;
mod gathered;
mod git;
mod hash;
mod left_out;
mod list;
mod load;
mod place;

pub use find::Source;
pub(in crate::build) use gathered::Fetched;
pub use git::{CheckedOut, Repository};
pub use hash::{Contents, is_copied_xattr};
pub use list::{Entry, Selection};
pub use load::{DOCKERFILE_LIMIT, Loaded, Loading};
pub use place::{NamedContext, Place, canonical_name};

/// A directory that is open, and what of it counts.
#[derive(Debug)]
pub struct Context {
    label: String,
    root: Dir,
    ignored: IgnoreFile,
    ownership: Ownership,
    /// What the root is in, where that goes with the context.
    _scratch: Option<Scratch>,
}

/// Whose the files count as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Root's: whoever has a directory on the host says nothing of the image.
    Root,
    /// Their own: they are in a tree.
    Kept,
}

impl Context {
    /// Opens a directory of the host, where it is. Nothing is left out yet: see [`with_ignored`](Self::with_ignored).
    pub fn open(path: &Path) -> Result<Self> {
        let root = Dir::open(path).map_err(|error| match error.errno() {
            Some(Errno::ENOENT) => Error::new(ErrorKind::NotFound, format!("there is no directory {path:?}"))
                .hint("the last argument of build is the context, mostly .; with --build-context it is NAME=DIRECTORY"),
            Some(Errno::ENOTDIR) => Error::new(ErrorKind::InvalidInput, format!("{path:?} is no directory")),
            _ => error,
        });
        Ok(Self::of_files(root.context(|| "open the context")?, path.display().to_string()))
    }

    /// Takes an open directory of files that were made on a host; `label` is what messages call it.
    pub fn of_files(root: Dir, label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            root,
            ignored: IgnoreFile::default(),
            ownership: Ownership::Root,
            _scratch: None,
        }
    }

    /// Takes the root of a tree: a stage's, an image's. Owners count, and nothing is left out.
    pub fn of_tree(root: Dir, label: impl Into<String>) -> Self {
        Self { ownership: Ownership::Kept, ..Self::of_files(root, label) }
    }

    /// Leaves out what an ignore file says.
    #[must_use]
    pub fn with_ignored(self, ignored: IgnoreFile) -> Self {
        Self { ignored, ..self }
    }

    /// Returns what messages call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns its root. What is reached through it without [`find`](Self::find) may be what is left out.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// Returns where its root is at the moment.
    pub fn path(&self) -> Result<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.root.as_fd().as_raw_fd());
        std::fs::read_link(&link).context(|| format!("readlink({link:?})"))
    }

    /// Returns what is left out.
    pub fn ignored(&self) -> &Patterns {
        &self.ignored.patterns
    }

    /// Returns the name of the file that says so, if there is one.
    pub fn ignore_file(&self) -> Option<&str> {
        self.ignored.name.as_deref()
    }

    /// Says whose the files count as.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// Reads a file, also one that is left out, as a Dockerfile may be; `None` where there is none. Links lead inside.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        read_file(&self.root, path, limit).context(|| format!("read {path:?} of {}", self.label))
    }
}

/// Reads a regular file below an open directory; `None` where there is none. Links lead inside; more than `limit` bytes are an error.
pub(super) fn read_file(root: &Dir, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    // A pipe would wait for a writer.
    let opened = root.open_in_root(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
    let file = match opened {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR)) => return Ok(None),
        other => File::from(other?),
    };
    let stat = nix::sys::stat::fstat(&file).context(|| format!("fstat({path:?})"))?;
    if EntryType::of_mode(stat.st_mode) != EntryType::File {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{path:?} is no regular file")));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).context(|| format!("read({path:?})"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{path:?} has more than {limit} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
