//! A place becomes a directory that is open.
//!
//! A directory of this machine is opened where it is. What comes as an archive, or from a repository, lies in a directory of the store while the
//! context is there, on the file system of the trees: copies share its bytes.

use std::fs;
use std::io::{self, Cursor, Read};
use std::path::Path;

use rootling_backends::attributes::Owners;
use rootling_backends::{Context as _, Dir, Error, ErrorKind, Result};

use super::gathered::Gathered;
use super::{Context, Place};
use crate::build::ignore::IgnoreFile;
use crate::layer::compression;
use crate::sources::{self, Means, Strip, Treatment};
use crate::store::{Scratch, Store};

/// Bytes in the largest Dockerfile.
pub const DOCKERFILE_LIMIT: u64 = 4 << 20;

/// Bytes that tell an archive from a text.
const HEAD: u64 = 512;

/// What the argument of `build` came to.
#[derive(Debug)]
pub struct Loaded {
    /// The files.
    pub context: Context,
    /// The Dockerfile, where it came alone: then there are no files.
    pub dockerfile: Option<Vec<u8>>,
}

/// What loading needs of the caller.
pub struct Loading<'a> {
    /// Where what comes lies meanwhile.
    pub store: &'a Store,
    /// What gets files.
    pub means: &'a Means<'a>,
    /// What git shows servers of http to be let in: `Authorization: …`.
    pub header: Option<&'a str>,
    pub(in crate::build) gathered: Gathered,
}

impl<'a> Loading<'a> {
    /// Starts with nothing fetched.
    pub fn new(store: &'a Store, means: &'a Means<'a>, header: Option<&'a str>) -> Self {
        Self { store, means, header, gathered: Gathered::default() }
    }
}

impl std::fmt::Debug for Loading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").field("store", self.store).finish_non_exhaustive()
    }
}

/// What came as a stream.
enum Came {
    Archive(Scratch),
    Text(Vec<u8>),
}

impl Place {
    /// Gets the context of a build. Its ignore file is not read yet: which one it is depends on the Dockerfile.
    ///
    /// `stdin` is read where the place is that. An image is an error of kind `InvalidInput`.
    pub fn load(&self, loading: &Loading<'_>, stdin: impl Read + Send) -> Result<Loaded> {
        let label = self.to_string();
        let came = match self {
            Self::Path(path) if is_directory(path) => {
                return Ok(Loaded { context: Context::open(path)?, dockerfile: None });
            }
            Self::Git(_) | Self::Path(_) | Self::Web(_) | Self::Image(_) | Self::Layout(_) => {
                match self.files(loading)? {
                    Files::Ready(context) => return Ok(Loaded { context, dockerfile: None }),
                    Files::Came(came) => came,
                }
            }
            Self::Stdin => came(loading, stdin).context(|| "read the context from standard input")?,
        };
        match came {
            Came::Archive(scratch) => {
                Ok(Loaded { context: Context::in_scratch(scratch, label)?, dockerfile: None })
            }
            Came::Text(text) => {
                let context = Context::in_scratch(made_empty(loading.store.scratch()?)?, label)?;
                Ok(Loaded { context, dockerfile: Some(text) })
            }
        }
    }

    /// Gets a named context, with its ignore file. What is no archive is one file, which is called `context`.
    ///
    /// An image is an error of kind `InvalidInput`: that is the executor's.
    pub fn load_named(&self, name: &str, loading: &Loading<'_>) -> Result<Context> {
        let load = || -> Result<Context> {
            let context = match self {
                Self::Path(path) if is_directory(path) => Context::open(path)?,
                _ => match self.files(loading)? {
                    Files::Ready(context) => context,
                    Files::Came(Came::Archive(scratch)) => Context::in_scratch(scratch, name)?,
                    Files::Came(Came::Text(text)) => {
                        let scratch = made_empty(loading.store.scratch()?)?;
                        let path = scratch.path().join(FILES).join("context");
                        fs::write(&path, text).context(|| format!("write({path:?})"))?;
                        Context::in_scratch(scratch, name)?
                    }
                },
            };
            let ignored = IgnoreFile::find(None, context.root())?;
            Ok(Context { label: name.to_owned(), ..context.with_ignored(ignored) })
        };
        load().context(|| format!("get the context {name}"))
    }

    fn files(&self, loading: &Loading<'_>) -> Result<Files> {
        match self {
            Self::Path(path) => {
                let file = fs::File::open(path).context(|| format!("open({path:?})"))?;
                came(loading, file).context(|| format!("read {path:?}")).map(Files::Came)
            }
            Self::Web(location) => {
                if !location.is_safe() {
                    let message =
                        format!("{location} comes in the clear: anybody on the way could replace it");
                    return Err(Error::new(ErrorKind::PermissionDenied, message).hint("use https"));
                }
                let opened = loading.means.fetch.open(location)?;
                came(loading, opened.reader).context(|| format!("get {location}")).map(Files::Came)
            }
            Self::Git(repository) => {
                let scratch = made_empty(loading.store.scratch()?)?;
                let found =
                    repository.check_out(&scratch.path().join(FILES), loading.means, loading.header)?;
                let label = format!("{repository} at {}", &found.commit[..12]);
                let context = Context::of_files(found.directory, label);
                Ok(Files::Ready(Context { _scratch: Some(scratch), ..context }))
            }
            Self::Stdin | Self::Image(_) | Self::Layout(_) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("{self} has no files of a context")))
            }
        }
    }
}

enum Files {
    Ready(Context),
    Came(Came),
}

/// The directory in a scratch directory that is the context.
const FILES: &str = "files";

impl Context {
    fn in_scratch(scratch: Scratch, label: impl Into<String>) -> Result<Self> {
        let root = Dir::open(scratch.path().join(FILES))?;
        Ok(Self { _scratch: Some(scratch), ..Self::of_files(root, label) })
    }
}

/// Is a path to be opened as a directory? What is not there says so then; a pipe has an archive as a file has.
fn is_directory(path: &Path) -> bool {
    path.is_dir() || !path.exists()
}

fn made_empty(scratch: Scratch) -> Result<Scratch> {
    let path = scratch.path().join(FILES);
    fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
    Ok(scratch)
}

/// Reads a text, or unpacks an archive.
fn came(loading: &Loading<'_>, mut reader: impl Read + Send) -> Result<Came> {
    let mut head = Vec::new();
    (&mut reader).take(HEAD).read_to_end(&mut head).map_err(failure)?;
    if head.is_empty() {
        let error = Error::new(ErrorKind::InvalidInput, "there is nothing to read");
        return Err(error.hint("give a Dockerfile, or an archive with one"));
    }
    let refusal = match compression::detect(&head) {
        Ok(_) => {
            let scratch = made_empty(loading.store.scratch()?)?;
            unpack(loading, Cursor::new(head).chain(reader), &scratch.path().join(FILES))?;
            return Ok(Came::Archive(scratch));
        }
        Err(refusal) => refusal,
    };
    if !is_text(&head) {
        return Err(refusal);
    }
    let mut text = head;
    let room = DOCKERFILE_LIMIT + 1 - text.len() as u64;
    reader.take(room).read_to_end(&mut text).map_err(failure)?;
    if text.len() as u64 > DOCKERFILE_LIMIT {
        let message =
            format!("it is no archive, and has more than the {DOCKERFILE_LIMIT} bytes of a Dockerfile");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(Came::Text(text))
}

/// All belongs to the caller: owners in an archive say nothing of the image.
fn unpack(loading: &Loading<'_>, archive: impl Read + Send, target: &Path) -> Result<()> {
    let treatment = Treatment { owners: Owners::Caller, strip: Strip::Exactly(0) };
    let made = sources::unpack(archive, None, &Dir::open(target)?, &treatment, loading.means.tell)?;
    for skipped in &made.skipped {
        log::warn!("{}: {}", String::from_utf8_lossy(&skipped.path), skipped.reason);
    }
    Ok(())
}

/// May these be the first bytes of a Dockerfile?
fn is_text(head: &[u8]) -> bool {
    let is_utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        // The last character may go on.
        Err(error) => error.error_len().is_none(),
    };
    is_utf8 && !head.contains(&0)
}

fn failure(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("read", error))
}

#[cfg(test)]
mod tests;
