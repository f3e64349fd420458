//! The index of a committed tree: every path with its inode and digest. The only file that knows bincode.
//!
//! It can be rebuilt from the tree at any time; what it is for is to tell later that the tree is still what it
//! was (`fsck --verify`), without a second copy. Layout: `FORMAT.md`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bincode::Options;
use rayon::prelude::*;
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::envelope;
use super::files::{self, Durability};

const MAGIC: &[u8; 8] = b"RLINDEX\0";
/// Bytes in the largest index that is read: about four million paths.
const LIMIT: u64 = 1 << 30;

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path, relative to the root; empty for the root.
    #[serde(with = "serde_bytes")]
    path: Vec<u8>,
    /// What it is.
    pub entry_type: EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Names of the inode.
    pub links: u64,
    /// Bytes of a regular file, else 0.
    pub size: u64,
    /// Modification time: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// Device number of a device, else 0.
    pub device: u64,
    /// Extended attributes, sorted by name.
    xattrs: Vec<(serde_bytes::ByteBuf, serde_bytes::ByteBuf)>,
    /// SHA-256 of a regular file's content or of a symbolic link's target.
    pub digest: Option<[u8; 32]>,
}

impl Entry {
    /// Returns the path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.path.clone()))
    }
}

/// All paths of a tree, sorted bytewise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The entries; the root first.
    pub entries: Vec<Entry>,
}

/// The digests of files that were just written, by path: they need not be read again.
#[derive(Debug, Clone, Default)]
pub(super) struct Digests(HashMap<Vec<u8>, [u8; 32]>);

impl Digests {
    /// Says what a file holds.
    pub(super) fn put(&mut self, path: &[u8], digest: [u8; 32]) {
        self.0.insert(path.to_vec(), digest);
    }

    /// Says that a path is a further name of what is at another.
    pub(super) fn link(&mut self, path: &[u8], first: &[u8]) {
        match self.0.get(first).copied() {
            Some(digest) => self.put(path, digest),
            None => self.forget(path),
        }
    }

    /// Says that something else is there now.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.0.remove(path);
    }
}

impl Index {
    /// Reads every byte of the full tree at `root`. Files of one directory are read in parallel.
    pub fn build(root: &Path) -> Result<Self> {
        Self::build_knowing(root, &Digests::default())
    }

    /// As [`build`](Self::build), but reads no file whose digest is known.
    pub(super) fn build_knowing(root: &Path, known: &Digests) -> Result<Self> {
        let dir = Dir::open(root)?;
        let mut entries = vec![describe(&dir, OsStr::new("."), Vec::new(), known)?];
        walk(&dir, &mut entries, known).context(|| format!("index {root:?}"))?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { entries })
    }

    /// Returns the digests of all files.
    pub(super) fn digests(&self) -> Digests {
        let files = self.entries.iter().filter(|entry| entry.entry_type == EntryType::File);
        Digests(files.filter_map(|entry| Some((entry.path.clone(), entry.digest?))).collect())
    }

    /// Returns the directories that hold whiteouts of OverlayFS, sorted.
    pub(super) fn whiteout_directories(&self) -> Vec<Vec<u8>> {
        let whiteouts = self
            .entries
            .iter()
            .filter(|entry| entry.entry_type == EntryType::CharDevice && entry.device == 0);
        let mut directories: Vec<Vec<u8>> = whiteouts
            .map(|entry| {
                let end = entry.path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
                entry.path[..end].to_vec()
            })
            .collect();
        directories.sort_unstable();
        directories.dedup();
        directories
    }

    /// Returns the paths at which `self` (then) and `other` (now) differ.
    pub fn differences(&self, other: &Self) -> Vec<PathBuf> {
        let (mut then, mut now) = (self.entries.iter().peekable(), other.entries.iter().peekable());
        let mut paths = Vec::new();
        loop {
            let order = match (then.peek(), now.peek()) {
                (None, None) => return paths,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.path.cmp(&b.path),
            };
            let a = if order.is_le() { then.next() } else { None };
            let b = if order.is_ge() { now.next() } else { None };
            if a != b {
                paths.extend(a.or(b).map(Entry::path));
            }
        }
    }
}

/// What waits is a path: the depth of a tree must not cost open files.
fn walk(root: &Dir, entries: &mut Vec<Entry>, known: &Digests) -> Result<()> {
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let dir = root.open_deep(Path::new(OsStr::from_bytes(&path)))?;
        let place = |name: &OsStr| {
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            [path.as_slice(), slash, name.as_bytes()].concat()
        };
        let names = dir.entries()?;
        let described: Result<Vec<Entry>> =
            names.par_iter().map(|entry| describe(&dir, &entry.name, place(&entry.name), known)).collect();
        let described = described?;
        let directories = described.iter().filter(|entry| entry.entry_type == EntryType::Directory);
        pending.extend(directories.map(|entry| entry.path.clone()));
        entries.extend(described);
    }
    Ok(())
}

fn describe(dir: &Dir, name: &OsStr, path: Vec<u8>, known: &Digests) -> Result<Entry> {
    let stat = dir.stat(name)?;
    let entry_type = EntryType::of_mode(stat.st_mode);
    let is_device = matches!(entry_type, EntryType::CharDevice | EntryType::BlockDevice);
    let digest = match entry_type {
        EntryType::File => match known.0.get(&path) {
            Some(digest) => Some(*digest),
            None => Some(digest_of(dir, name)?),
        },
        EntryType::Symlink => Some(Sha256::digest(dir.read_link(name)?.as_bytes()).into()),
        _ => None,
    };
    let bytes = |(name, value): (OsString, Vec<u8>)| (name.into_vec().into(), value.into());
    Ok(Entry {
        path,
        entry_type,
        mode: stat.st_mode & 0o7777,
        user: stat.st_uid,
        group: stat.st_gid,
        links: if entry_type == EntryType::Directory { 1 } else { stat.st_nlink },
        size: if entry_type == EntryType::File { stat.st_size.cast_unsigned() } else { 0 },
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        device: if is_device { stat.st_rdev } else { 0 },
        xattrs: dir.xattrs(name)?.into_iter().map(bytes).collect(),
        digest,
    })
}

fn digest_of(dir: &Dir, name: &OsStr) -> Result<[u8; 32]> {
    let mut file = dir.open_file(name)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 128 * 1024];
    loop {
        let read = file.read(&mut buffer).context(|| format!("read({dir}, {name:?})"))?;
        if read == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..read]);
    }
}

// ---------------------------------------------------------------- the file

fn path(slot: &Path) -> PathBuf {
    slot.join("index")
}

fn codec() -> impl Options {
    bincode::DefaultOptions::new().with_limit(LIMIT)
}

/// Writes the index of the tree in `slot`. The commit's barrier makes it durable.
pub(crate) fn write(slot: &Path, index: &Index) -> Result<()> {
    files::replace(&path(slot), &encode(index)?, Durability::Lazy)
        .context(|| format!("write index of {slot:?}"))
}

/// Reads the index of the tree in `slot`; `None` if there is none, an error of kind `Corrupt` if it is damaged.
pub(crate) fn read(slot: &Path) -> Result<Option<Index>> {
    let path = path(slot);
    match files::read(&path, LIMIT) {
        Ok(bytes) => decode(&bytes).map(Some).context(|| format!("read index {path:?}")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(index: &Index) -> Result<Vec<u8>> {
    let payload = codec()
        .serialize(index)
        .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("index is too large: {error}")))?;
    Ok(envelope::seal(MAGIC, &payload))
}

fn decode(bytes: &[u8]) -> Result<Index> {
    let corrupt = |what: &str| {
        Error::new(ErrorKind::Corrupt, format!("index {what}"))
            .hint("run `rootling fsck --repair` to rebuild it")
    };
    let payload = envelope::open(MAGIC, bytes).map_err(corrupt)?;
    codec().deserialize(payload).map_err(|error| corrupt(&format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    fn sample() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        std::fs::write(dir.path().join(OsStr::from_bytes(b"odd\xff\n")), "").unwrap();
        symlink("etc/hosts", dir.path().join("link")).unwrap();
        let index = Index::build(dir.path()).unwrap();
        (dir, index)
    }

    #[test]
    fn an_index_reads_back_as_written() {
        let (dir, index) = sample();
        let paths: Vec<_> = index.entries.iter().map(|entry| entry.path.as_slice()).collect();
        assert_eq!(paths, [b"".as_slice(), b"etc", b"etc/hosts", b"link", b"odd\xff\n"]);
        write(dir.path(), &index).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(index));
    }

    #[test]
    fn a_tree_deeper_than_files_may_be_open_and_paths_long_is_indexed() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = Dir::open(temp.path()).unwrap();
        for _ in 0..3000 {
            dir.make_dir("deep", 0o755).unwrap();
            dir = dir.open_dir("deep").unwrap();
        }
        let index = Index::build(temp.path()).unwrap();
        assert_eq!(index.entries.len(), 3001);
        rootling_backends::reap::reap(&temp.path().join("deep")).unwrap();
    }

    #[test]
    fn every_kind_of_change_is_a_difference() {
        let (dir, before) = sample();
        std::fs::write(dir.path().join("etc/hosts"), "127.0.0.1 localhosT\n").unwrap();
        std::fs::set_permissions(dir.path().join("etc"), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::remove_file(dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("new"), "").unwrap();
        let after = Index::build(dir.path()).unwrap();
        let paths = before.differences(&after);
        for path in ["etc", "etc/hosts", "link", "new"] {
            assert!(paths.contains(&PathBuf::from(path)), "{path} in {paths:?}");
        }
        assert!(before.differences(&before).is_empty());
    }

    /// The bytes of version 1: a change here needs a new version, and a reader for the old one.
    #[test]
    fn the_format_is_pinned() {
        let entry = Entry {
            path: b"a".to_vec(),
            entry_type: EntryType::File,
            mode: 0o644,
            user: 0,
            group: 1000,
            links: 1,
            size: 3,
            modified: (1, 2),
            device: 0,
            xattrs: vec![(b"user.x".to_vec().into(), b"y".to_vec().into())],
            digest: None,
        };
        let bytes = encode(&Index { entries: vec![entry] }).unwrap();
        let payload = [
            &[1_u8, 1, b'a', 0, 251, 0xa4, 1, 0, 251, 0xe8, 3, 1, 3, 2, 4, 0, 1, 6][..],
            b"user.x",
            &[1, b'y', 0],
        ]
        .concat();
        assert_eq!(&bytes[envelope::HEADER..], payload);
        assert_eq!(
            &bytes[..24],
            [&b"RLINDEX\0\x01\0\0\0\0\0\0\0"[..], &[payload.len() as u8, 0, 0, 0, 0, 0, 0, 0]].concat()
        );
    }

    proptest! {
        #[test]
        fn a_damaged_index_is_an_error_never_other_data(at in 0_usize..1 << 16, bit in 0_u8..8, cut in 0_usize..64) {
            let entries = vec![describe(&Dir::open("/").unwrap(), OsStr::new("."), Vec::new(), &Digests::default()).unwrap()];
            let good = encode(&Index { entries }).unwrap();
            let mut bad = good.clone();
            let at = at % bad.len();
            bad[at] ^= 1 << bit;
            prop_assert!(decode(&bad).is_err());
            prop_assert!(decode(&good[..good.len().saturating_sub(cut + 1)]).is_err());
            prop_assert!(decode(&[good.as_slice(), &[0]].concat()).is_err());
        }
    }
}
