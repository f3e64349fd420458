//! Where the members of a tar lie in its file: each is then read at its place, by several threads at once.
//!
//! The tar is hostile input. Its headers are read as those of layers are; names with `..` end it there. Links are followed among
//! the names of the archive and nowhere else.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::image::DOCUMENT_MAX;
use crate::layer::{Archive, Content, Limits};

/// An archive of images has a few members for each layer.
const MEMBERS_MAX: u64 = 1_000_000;
/// `docker save` wrote links to layers, and never links to links.
const LINKS_MAX: usize = 8;
const BLOCK: u64 = 512;
/// What is read for a header, at least: more would be read in vain, for data follows.
const HEADER_BYTES: usize = 4 << 10;

/// The members of a tar.
#[derive(Debug)]
pub(super) struct Members {
    file: File,
    places: HashMap<Vec<u8>, Place>,
}

/// Where the data of a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Span {
    /// Returns what is left of it from `offset` on.
    pub(super) fn from(self, offset: u64) -> Self {
        let passed = offset.min(self.size);
        Self { offset: self.offset + passed, size: self.size - passed }
    }
}

#[derive(Debug)]
enum Place {
    Data(Span),
    /// The name of another member, from the root of the archive; `None` if it leads out of it.
    Link(Option<Vec<u8>>),
}

impl Members {
    /// Reads the headers of a tar that is not packed; data is skipped by seeking.
    ///
    /// Of two members of one name the later counts, as for all who unpack tars.
    pub(super) fn read(file: File) -> Result<Self> {
        let end = file.metadata().context(|| "fstat(archive)")?.len();
        let (mut places, mut at) = (HashMap::new(), 0);
        for count in 0.. {
            if count == MEMBERS_MAX {
                let message = format!("it has more than {MEMBERS_MAX} members");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            let mut archive = Archive::new(
                BufReader::with_capacity(HEADER_BYTES, Headers { file: &file, at }),
                Limits::default(),
            );
            let entry = archive.next_entry().context(|| format!("read the archive from offset {at}"))?;
            let Some(entry) = entry else { break };
            let span = Span { offset: at + archive.offset(), size: entry.member.size() };
            let path = entry.member.path.clone();
            let shown = || String::from_utf8_lossy(&path).into_owned();
            if entry.is_sparse() {
                let message = format!("member {:?} is stored as a sparse file", shown());
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .hint("unpack the archive, and pack it without -S"));
            }
            let past = span.offset.checked_add(span.size).filter(|past| *past <= end);
            let Some(past) = past else {
                let message =
                    format!("the archive ends at offset {end}, in the middle of member {:?}", shown());
                return Err(
                    Error::new(ErrorKind::Corrupt, message).hint("it was not copied whole: fetch it again")
                );
            };
            at = past.next_multiple_of(BLOCK);
            match entry.member.content {
                Content::File { .. } => drop(places.insert(path, Place::Data(span))),
                Content::Symlink { target } => {
                    let target = follow(&path, &target);
                    places.insert(path, Place::Link(target));
                }
                Content::HardLink { target } => drop(places.insert(path, Place::Link(Some(target)))),
                // Directories need none, and of devices nothing is wanted.
                _ => {}
            }
        }
        Ok(Self { file, places })
    }

    /// Returns where the data of that member is, links followed; an error if they lead nowhere.
    pub(super) fn find(&self, path: &str) -> Result<Option<Span>> {
        let refuse =
            |why: &str| Err(Error::new(ErrorKind::InvalidInput, format!("member {path:?} is a link {why}")));
        let mut name = path.strip_prefix("./").unwrap_or(path).as_bytes();
        for followed in 0..=LINKS_MAX {
            match self.places.get(name) {
                None if followed == 0 => return Ok(None),
                None => return refuse("to what is not in the archive"),
                Some(Place::Data(span)) => return Ok(Some(*span)),
                Some(Place::Link(None)) => return refuse("that leads out of the archive"),
                Some(Place::Link(Some(target))) => name = target,
            }
        }
        refuse("in a loop of links")
    }

    /// Returns a small member whole, if it is there.
    pub(super) fn small(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(span) = self.find(path)? else { return Ok(None) };
        if span.size > DOCUMENT_MAX {
            let message = format!("member {path:?} has {} bytes, more than {DOCUMENT_MAX}", span.size);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let mut bytes = Vec::new();
        self.open(span).read_to_end(&mut bytes).context(|| format!("read member {path:?}"))?;
        Ok(Some(bytes))
    }

    /// Opens the data of a member.
    pub(super) fn open(&self, span: Span) -> Data<'_> {
        Data { file: &self.file, at: span.offset, left: span.size }
    }
}

/// Resolves the target of a symbolic link of that name by its letters.
fn follow(path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// The file from some offset on, in small steps.
struct Headers<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(HEADER_BYTES);
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The data of a member.
#[derive(Debug)]
pub(super) struct Data<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
