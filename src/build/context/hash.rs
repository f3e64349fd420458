//! What is read of a context comes to one digest: equal digests, equal copies.
//!
//! Of each entry count: its path, type, mode, owner, size, the target of a link, the number of a device, which of the entries before it
//! is another name of the same file, its content, and the extended attributes that a copy has. Times do not. In a context of the host all belong
//! to root.
//!
//! The content of a file is read once: what it came to is remembered with the inode ([`FileHashes`]). So a digest costs a
//! list ([`Context::list`]) and the reading of what has changed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;
use rayon::prelude::*;
use rootling_backends::attributes::{Attributes, Xattrs, is_overlay_xattr};
use rootling_backends::{Context as _, EntryType, Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use super::{Context, Entry, Ownership, Selection, Source};
use crate::image::Digest;
use crate::store::FileHashes;

/// What a file comes to: SHA-256 of its content or, with attributes, of that and them.
type Sum = [u8; 32];

/// Files that are read before other threads are asked for, and bytes.
const ALONE: (usize, i64) = (16, 1 << 20);

/// Bytes of a file that one thread reads at once: larger files are the digest of the digests of these.
const PIECE: u64 = 16 << 20;

const BUFFER: usize = 256 << 10;

/// How often a file that changes while it is read is read again.
const TRIES: usize = 3;

/// What is read, with what it comes to.
#[derive(Debug, Clone)]
pub struct Contents {
    /// What all of it comes to.
    pub digest: Digest,
    /// What it was taken of: for each source what was listed, in order.
    pub sources: Vec<(Source, Vec<Entry>)>,
    /// Bytes that were read for it.
    pub bytes_read: u64,
}

/// A regular file that is to be read.
struct Wanted {
    /// Which source, which entry of it.
    at: (usize, usize),
    /// The path from the root.
    path: PathBuf,
}

impl Context {
    /// Returns what a path comes to, by itself; `None` where there is nothing. See [`contents`](Self::contents).
    pub fn hash_path(&self, path: &Path, known: Option<&FileHashes>) -> Result<Option<Contents>> {
        let source = self.find(path)?;
        source.map(|source| self.contents(&[source], &Selection::default(), known)).transpose()
    }

    /// Returns what some sources come to, as far as they are selected: lists them, for [`contents_of`](Self::contents_of).
    pub fn contents(
        &self,
        sources: &[Source],
        selection: &Selection,
        known: Option<&FileHashes>,
    ) -> Result<Contents> {
        let list = |source: &Source| Ok((source.clone(), self.list(source, selection)?));
        self.contents_of(sources.iter().map(list).collect::<Result<_>>()?, known)
    }

    /// Returns what was listed comes to.
    ///
    /// `known` is what files hashed to before, and learns what they hash to now; whoever opened it saves it. A file that goes on changing while it is
    /// read is an error of kind `Busy`. Costs the reading of what is not known, on all cores where that is much.
    pub fn contents_of(
        &self,
        mut listed: Vec<(Source, Vec<Entry>)>,
        known: Option<&FileHashes>,
    ) -> Result<Contents> {
        let mut sums: HashMap<(usize, usize), Sum> = HashMap::new();
        let mut wanted = Vec::new();
        for (number, (source, entries)) in listed.iter().enumerate() {
            for (at, entry) in entries.iter().enumerate() {
                if entry.kind() != EntryType::File {
                    continue;
                }
                match known.and_then(|known| known.get(&entry.stat)) {
                    Some(sum) => drop(sums.insert((number, at), sum)),
                    None => wanted.push(Wanted { at: (number, at), path: below(&source.real, &entry.path) }),
                }
            }
        }
        let bytes_read = self.read_wanted(&wanted, &mut listed, &mut sums, known)?;
        let mut whole = Sha256::new();
        let mut names = Names::default();
        for (number, (source, entries)) in listed.iter().enumerate() {
            text(&mut whole, source.path.as_os_str());
            number_of(&mut whole, entries.len() as u64);
            for (at, entry) in entries.iter().enumerate() {
                self.add(&mut whole, source, entry, sums.get(&(number, at)), &mut names)?;
            }
        }
        Ok(Contents { digest: Digest::from_sha256(whole.finalize().into()), sources: listed, bytes_read })
    }

    /// Adds one entry, with lengths before all that has no fixed one: two different lists are never the same bytes.
    fn add(
        &self,
        whole: &mut Sha256,
        source: &Source,
        entry: &Entry,
        sum: Option<&Sum>,
        names: &mut Names,
    ) -> Result<()> {
        let (stat, kind) = (&entry.stat, entry.kind());
        text(whole, entry.path.as_os_str());
        whole.update([kind as u8]);
        if kind != EntryType::Symlink {
            number_of(whole, (stat.st_mode & 0o7777).into());
        }
        if self.ownership() == Ownership::Kept {
            number_of(whole, u64::from(stat.st_uid) << 32 | u64::from(stat.st_gid));
        }
        match kind {
            EntryType::File => {
                number_of(whole, stat.st_size.cast_unsigned());
                number_of(whole, names.first_of(stat));
                whole.update(sum.expect("all files were read or known"));
            }
            EntryType::Symlink => text(whole, &self.link_target(source, entry)?),
            EntryType::CharDevice | EntryType::BlockDevice => number_of(whole, stat.st_rdev),
            EntryType::Directory | EntryType::Fifo | EntryType::Socket => {}
        }
        Ok(())
    }

    fn link_target(&self, source: &Source, entry: &Entry) -> Result<OsString> {
        let path = below(&source.real, &entry.path);
        let read = || {
            let dir = self.root().open_deep(path.parent().unwrap_or(Path::new("")))?;
            dir.read_link(path.file_name().unwrap_or_default())
        };
        read().context(|| format!("read link {path:?} of {}", self.label()))
    }

    // ------------------------------------------------------------ files

    fn read_wanted(
        &self,
        wanted: &[Wanted],
        listed: &mut [(Source, Vec<Entry>)],
        sums: &mut HashMap<(usize, usize), Sum>,
        known: Option<&FileHashes>,
    ) -> Result<u64> {
        let before = SystemTime::now();
        let sizes = wanted.iter().map(|file| listed[file.at.0].1[file.at.1].stat.st_size);
        let bytes = sizes.fold(0, i64::saturating_add);
        let read = |file: &Wanted| {
            self.read_file(&file.path).context(|| format!("read {:?} of {}", file.path, self.label()))
        };
        let results: Vec<(FileStat, Sum)> = if wanted.len() > ALONE.0 || bytes > ALONE.1 && wanted.len() > 1 {
            wanted.par_iter().map(read).collect::<Result<_>>()?
        } else {
            wanted.iter().map(read).collect::<Result<_>>()?
        };
        let mut read = 0;
        for (file, (stat, sum)) in wanted.iter().zip(results) {
            if let Some(known) = known {
                known.note(&stat, before, sum);
            }
            read += stat.st_size.cast_unsigned();
            // What is copied is what was read, not what was listed before.
            listed[file.at.0].1[file.at.1].stat = stat;
            sums.insert(file.at, sum);
        }
        Ok(read)
    }

    /// Returns an inode, and what its content came to while it was that.
    fn read_file(&self, path: &Path) -> Result<(FileStat, Sum)> {
        let file = self.open_file(path)?;
        let mut stat = stat_of(&file)?;
        if EntryType::of_mode(stat.st_mode) != EntryType::File {
            return Err(Error::new(ErrorKind::Busy, "it is no file any more"));
        }
        for _ in 0..TRIES {
            let sum = sum(&file, &stat)?;
            let after = stat_of(&file)?;
            if is_unchanged(&stat, &after) {
                return Ok((stat, sum));
            }
            stat = after;
        }
        Err(Error::new(ErrorKind::Busy, "it changes while it is read")
            .hint("wait until nobody writes to it, or leave it out by a line in .dockerignore"))
    }

    fn open_file(&self, path: &Path) -> Result<File> {
        const FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOFOLLOW);
        // One call, unless the path is too long for it.
        match self.root().open_beneath(path, FLAGS) {
            Err(error) if error.errno() == Some(Errno::ENAMETOOLONG) => {
                let dir = self.root().open_deep(path.parent().unwrap_or(Path::new("")))?;
                dir.open_file(path.file_name().unwrap_or_default())
            }
            other => other.map(File::from),
        }
    }
}

/// Does a copy have this extended attribute?
pub fn is_copied_xattr(name: &OsStr) -> bool {
    name == "security.capability" || name.as_bytes().starts_with(b"user.") && !is_overlay_xattr(name)
}

/// Files with several names: the number of the first of them.
#[derive(Default)]
struct Names {
    seen: HashMap<(u64, u64), u64>,
    count: u64,
}

impl Names {
    fn first_of(&mut self, stat: &FileStat) -> u64 {
        self.count += 1;
        if stat.st_nlink < 2 {
            return self.count;
        }
        *self.seen.entry((stat.st_dev, stat.st_ino)).or_insert(self.count)
    }
}

/// Was nothing done to an inode from one look to the next?
fn is_unchanged(a: &FileStat, b: &FileStat) -> bool {
    let of = |stat: &FileStat| {
        let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        (stat.st_dev, stat.st_ino, stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, times)
    };
    of(a) == of(b)
}

fn sum(file: &File, stat: &FileStat) -> Result<Sum> {
    let size = stat.st_size.cast_unsigned();
    let content = if size <= PIECE {
        piece(file, 0, size)?
    } else {
        let pieces: Vec<Sum> = (0..size.div_ceil(PIECE))
            .into_par_iter()
            .map(|number| piece(file, number * PIECE, PIECE.min(size - number * PIECE)))
            .collect::<Result<_>>()?;
        Sha256::digest(pieces.concat()).into()
    };
    let attributes = Attributes::of_open(file, stat, Xattrs::All, &"the file")?;
    let mut copied = attributes.xattrs.iter().filter(|(name, _)| is_copied_xattr(name)).peekable();
    if copied.peek().is_none() {
        return Ok(content);
    }
    let mut both = Sha256::new();
    both.update(content);
    for (name, value) in copied {
        text(&mut both, name);
        text(&mut both, OsStr::from_bytes(value));
    }
    Ok(both.finalize().into())
}

/// Hashes a part of a file, as far as it is there.
fn piece(file: &File, start: u64, length: u64) -> Result<Sum> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER))];
    let mut done = 0;
    while done < length {
        let room = usize::try_from(length - done).map_or(BUFFER, |left| left.min(BUFFER));
        match file.read_at(&mut buffer[..room], start + done) {
            Ok(0) => break,
            Ok(read) => {
                hash.update(&buffer[..read]);
                done += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("pread", error)),
        }
    }
    Ok(hash.finalize().into())
}

fn stat_of(file: &File) -> Result<FileStat> {
    nix::sys::stat::fstat(file).context(|| "fstat")
}

fn text(hash: &mut Sha256, text: &OsStr) {
    number_of(hash, text.len() as u64);
    hash.update(text.as_bytes());
}

fn number_of(hash: &mut Sha256, number: u64) {
    hash.update(number.to_le_bytes());
}

/// Joins without a slash at the end, which would mean another thing to the kernel.
fn below(real: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { real.to_owned() } else { real.join(path) }
}

#[cfg(test)]
mod tests;
