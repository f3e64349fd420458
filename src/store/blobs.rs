//! Blobs: bytes known by their digest, kept as they came: layers, configurations, manifests, indexes.
//!
//! A blob is verified while it is written, and has its name only once its bytes are on disk. Until then it is *staged*: a file without a
//! name (`O_TMPFILE`), or what a download has brought so far, `blobs/partial/<hex>-<size>`, which the next attempt goes on with. So a kill costs a
//! download nothing that is on disk, and a power cut leaves no blob that is not what its name says.
//!
//! Many blobs are made durable at once: [`Blobs::settle`], after one sync for all of them.
//!
//! As long as a [`Blobs`] lives, no sweep removes blobs: what it has put there no record names yet. The lock dies with its process.
//!
//! | file | what it is for |
//! |---|---|
//! | `partial` | downloads, which are gone on with after a cut |
//! | `uploads` | what clients send piece by piece |
//! | `sweep` | which blobs nothing needs, and their removal |

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use rootling_backends::{Context, Dir, Error, ErrorKind, Result};

use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{ObjectId, Store, fault};
use crate::image::{Algorithm, Digest, Hasher, Verifier};

mod partial;
mod sweep;
mod uploads;

pub use partial::Partial;
pub use uploads::Upload;

const BUFFER_BYTES: usize = 256 << 10;

impl Store {
    pub(super) fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Returns where a blob lies, whether it is there or not.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.algorithm().name()).join(digest.hex())
    }

    /// Returns the length of a blob; `None` where there is none.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob_path(digest);
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(error) if error.kind() == IoKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("lstat({path:?})"), error)),
        }
    }

    /// Opens a blob for reading. Its bytes are not looked at: who reads them to the end can tell.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        let options = &mut OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW);
        options.open(&path).context(|| format!("open({path:?})"))
    }

    /// Returns the bytes of a small blob, verified; one that is longer than `limit` or not what its name says is an error of kind
    /// `Corrupt`.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let bytes = files::read(&self.blob_path(digest), limit)?;
        let mut verifier = Verifier::new(digest, None);
        verifier.update(&bytes)?;
        verifier.finish().map(|()| bytes)
    }

    /// Reads a blob to its end; one that is not what its name says is an error of kind `Corrupt`.
    pub fn verify_blob(&self, digest: &Digest) -> Result<u64> {
        let mut file = self.open_blob(digest)?;
        let mut verifier = Verifier::new(digest, None);
        each_piece(&mut file, |piece| verifier.update(piece)).context(|| format!("read blob {digest}"))?;
        let size = verifier.size();
        verifier.finish().map(|()| size)
    }

    /// Removes a blob that is not what its name says, so that it can be put there anew; says whether it was so.
    pub fn remove_damaged_blob(&self, digest: &Digest) -> Result<bool> {
        match self.verify_blob(digest) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                files::remove_if_exists(&self.blob_path(digest))
            }
            other => other.map(|_| false),
        }
    }

    /// Returns the digests and sizes of all blobs.
    pub fn all_blobs(&self) -> Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for hex in files::list(&self.blobs_dir().join(algorithm.name()))? {
                let Ok(digest) = Digest::parse(&format!("{algorithm}:{hex}")) else { continue };
                let size = self.blob_size(&digest)?;
                blobs.extend(size.map(|size| (digest, size)));
            }
        }
        Ok(blobs)
    }

    /// Returns the blobs, to add some. No sweep removes any as long as this lives.
    pub fn blobs(&self) -> Result<Blobs<'_>> {
        let _lock = self.share_to_write()?;
        for directory in ["", "sha256", "sha512", "partial"] {
            files::make_dir(&self.blobs_dir().join(directory))?;
        }
        let lease = lock::lock_dir(&self.blobs_dir(), Mode::Shared, "the blobs")?;
        Ok(Blobs { store: self, _lease: lease, staged: Mutex::default() })
    }
}

/// The blobs of a store, for whoever adds some.
#[derive(Debug)]
pub struct Blobs<'a> {
    store: &'a Store,
    _lease: File,
    staged: Mutex<BTreeMap<Digest, Staged>>,
}

/// A blob that is verified, and not durable yet.
#[derive(Debug)]
struct Staged {
    file: File,
    /// Where it lies under a name that is not the last one.
    path: Option<PathBuf>,
    size: u64,
}

impl<'a> Blobs<'a> {
    /// Returns the store they are in.
    pub fn store(&self) -> &'a Store {
        self.store
    }

    fn staged(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Staged>> {
        self.staged.lock().expect("nobody panics who holds it")
    }

    /// Returns the length of a blob, a staged one included; `None` where there is none.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let staged = self.staged().get(digest).map(|staged| staged.size);
        staged.map_or_else(|| self.store.blob_size(digest), |size| Ok(Some(size)))
    }

    /// Is the blob there, staged or not, with this length?
    pub fn has(&self, digest: &Digest, size: u64) -> Result<bool> {
        Ok(self.size(digest)? == Some(size))
    }

    /// Opens a blob for reading, a staged one too.
    pub fn open(&self, digest: &Digest) -> Result<File> {
        if let Some(staged) = self.staged().get(digest) {
            // Not a duplicate, which would share the place in the file.
            let path = format!("/proc/self/fd/{}", staged.file.as_raw_fd());
            return File::open(&path).context(|| format!("open({path:?})"));
        }
        self.store.open_blob(digest)
    }

    /// Adds a blob; `expected` is what its digest and length will be, and other bytes are an error of kind `Corrupt`. Without, it is known
    /// by the SHA-256 of what comes.
    ///
    /// One that is there with that length already is not read again. With `Durability::Lazy` it has no name until it is
    /// [settled](Self::settle), and a kill leaves nothing; else it is durable on return.
    pub fn put(
        &self,
        reader: impl Read,
        expected: Option<(&Digest, u64)>,
        durability: Durability,
    ) -> Result<Digest> {
        if let Some((digest, size)) = expected
            && self.has(digest, size)?
        {
            if durability == Durability::Synced && self.staged().contains_key(digest) {
                self.settle(Synced::No)?;
            }
            return Ok(digest.clone());
        }
        let what =
            || expected.map_or_else(|| "add a blob".to_owned(), |(digest, _)| format!("add blob {digest}"));
        let (file, path) = self.new_file().context(what)?;
        let written = write_verified(reader, &file, expected).context(what);
        let (digest, size) = written.inspect_err(|_| remove_temporary(path.as_deref()))?;
        let staged = Staged { file, path, size };
        fault::point("blob.written");
        if durability == Durability::Lazy {
            self.staged().entry(digest.clone()).or_insert(staged);
            return Ok(digest);
        }
        staged.file.sync_data().context(|| format!("fdatasync(blob {digest})"))?;
        self.give_name(&digest, &staged).context(what)?;
        files::sync_parent(&self.store.blob_path(&digest))?;
        Ok(digest)
    }

    /// Gives all staged blobs their names, after a sync of the file system. Durable on return; a second call does nothing.
    pub fn settle(&self, synced: Synced) -> Result<()> {
        let staged = std::mem::take(&mut *self.staged());
        if staged.is_empty() {
            return Ok(());
        }
        if synced == Synced::No {
            Dir::open(self.store.blobs_dir())?.sync_file_system()?;
        }
        for (digest, staged) in &staged {
            self.give_name(digest, staged).context(|| format!("keep blob {digest}"))?;
            fault::point("blob.named");
        }
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            if staged.keys().any(|digest| digest.algorithm() == algorithm) {
                files::sync_dir(&self.store.blobs_dir().join(algorithm.name()))?;
            }
        }
        fault::point("blob.settled");
        Ok(())
    }

    /// Makes a file that nobody sees: without a name where the file system can do that.
    fn new_file(&self) -> Result<(File, Option<PathBuf>)> {
        let directory = self.store.blobs_dir();
        let options = &mut OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        match options.open(&directory) {
            Ok(file) => Ok((file, None)),
            // Not this file system, or not this kernel.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) =>
            {
                self.new_named_file().map(|(file, path)| (file, Some(path)))
            }
            Err(error) => Err(Error::io(format!("open({directory:?}, O_TMPFILE)"), error)),
        }
    }

    fn new_named_file(&self) -> Result<(File, PathBuf)> {
        let path = files::aside(&self.store.blobs_dir().join(ObjectId::random()?.as_str()));
        let options = &mut OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).context(|| format!("open({path:?}, O_EXCL)"))?;
        Ok((file, path))
    }

    /// Gives a blob its name; one that has it already is the same, unless its length says that it is not.
    fn give_name(&self, digest: &Digest, staged: &Staged) -> Result<()> {
        let target = self.store.blob_path(digest);
        let Some(path) = &staged.path else {
            let link = |to: &Path| link_unnamed(&staged.file, to);
            return match link(&target) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if self.store.blob_size(digest)? == Some(staged.size) {
                        return Ok(());
                    }
                    // It is damaged: in its place in one step.
                    let aside = files::aside(&target);
                    files::remove_if_exists(&aside)?;
                    link(&aside)?;
                    fs::rename(&aside, &target).context(|| format!("rename({aside:?}, {target:?})"))
                }
                linked => linked,
            };
        };
        match fs::rename(path, &target) {
            // Somebody else downloaded on, and was faster here.
            Err(error)
                if error.kind() == IoKind::NotFound && self.store.blob_size(digest)? == Some(staged.size) =>
            {
                Ok(())
            }
            renamed => renamed.context(|| format!("rename({path:?}, {target:?})")),
        }
    }
}

/// Was the file system synced since the blobs were written?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// Yes, by the caller.
    Yes,
    /// No.
    No,
}

impl Drop for Blobs<'_> {
    fn drop(&mut self) {
        // What has a temporary name goes; what a download brought stays, for the next one.
        let partial = self.store.blobs_dir().join("partial");
        for staged in self.staged().values() {
            remove_temporary(staged.path.as_deref().filter(|path| !path.starts_with(&partial)));
        }
    }
}

// ---------------------------------------------------------------- bytes

fn each_piece(reader: &mut impl Read, mut piece: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => piece(&buffer[..read])?,
            Err(error) if error.kind() == IoKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", error)),
        }
    }
}

fn write_verified(
    mut reader: impl Read,
    mut file: &File,
    expected: Option<(&Digest, u64)>,
) -> Result<(Digest, u64)> {
    let mut verifier = expected.map(|(digest, size)| Verifier::new(digest, Some(size)));
    let mut hasher = Hasher::new(Algorithm::Sha256);
    each_piece(&mut reader, |piece| {
        match &mut verifier {
            Some(verifier) => verifier.update(piece)?,
            None => hasher.update(piece),
        }
        file.write_all(piece).context(|| "write(blob)")
    })?;
    match (verifier, expected) {
        (Some(verifier), Some((digest, size))) => verifier.finish().map(|()| (digest.clone(), size)),
        _ => {
            let size = hasher.size();
            Ok((hasher.finish(), size))
        }
    }
}

/// Gives a file without a name one.
fn link_unnamed(file: &File, target: &Path) -> Result<()> {
    // As open(2) says of O_TMPFILE: with AT_EMPTY_PATH only root could.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    match nix::unistd::linkat(AT_FDCWD, link.as_str(), AT_FDCWD, target, AtFlags::AT_SYMLINK_FOLLOW) {
        Err(Errno::EEXIST) => {
            Err(Error::new(ErrorKind::AlreadyExists, format!("linkat({link:?}, {target:?}): there is one")))
        }
        linked => linked.context(|| format!("linkat({link:?}, {target:?})")),
    }
}

fn remove_temporary(path: Option<&Path>) {
    // Best effort: the sweep knows the suffix.
    if let Some(Err(error)) = path.map(files::remove_if_exists) {
        log::debug!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    pub(super) fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::init(&dir.path().join("store"), None).unwrap();
        (dir, store)
    }

    pub(super) fn listed(store: &Store, directory: &str) -> Vec<String> {
        files::list(&store.blobs_dir().join(directory)).unwrap()
    }

    /// Fails when it is read.
    struct Unread;

    impl Read for Unread {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("it was read"))
        }
    }

    #[test]
    fn a_blob_has_its_name_when_it_is_durable_and_is_not_read_twice() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        let digest = blobs.put(&b"one"[..], None, Durability::Synced).unwrap();
        assert_eq!(store.read_blob(&digest, 10).unwrap(), b"one");
        assert_eq!(blobs.put(Unread, Some((&digest, 3)), Durability::Synced).unwrap(), digest);

        let lazy = blobs.put(&b"two"[..], None, Durability::Lazy).unwrap();
        assert_eq!(store.blob_size(&lazy).unwrap(), None);
        assert!(blobs.has(&lazy, 3).unwrap());
        for _ in 0..2 {
            // Each reader begins at the front.
            let mut text = String::new();
            blobs.open(&lazy).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "two");
        }
        blobs.settle(Synced::No).unwrap();
        assert_eq!(store.read_blob(&lazy, 10).unwrap(), b"two");
        assert_eq!(store.all_blobs().unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_what_was_promised_leaves_nothing() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        let digest = Digest::sha256_of(b"four");
        for bytes in ["five!", "fou", "FOUR"] {
            let put = blobs.put(bytes.as_bytes(), Some((&digest, 4)), Durability::Synced);
            assert_eq!(put.unwrap_err().kind(), ErrorKind::Corrupt, "{bytes}");
        }
        assert_eq!(store.all_blobs().unwrap(), []);
        assert_eq!(listed(&store, ""), ["partial", "sha256", "sha512"]);
    }

    #[test]
    fn a_damaged_blob_is_found_and_replaced() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        let digest = blobs.put(&b"bytes"[..], None, Durability::Synced).unwrap();
        fs::write(store.blob_path(&digest), "bytEs").unwrap();
        assert_eq!(store.verify_blob(&digest).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(store.remove_damaged_blob(&digest).unwrap());
        // One that was cut short needs no looking at.
        for damaged in ["", "b"] {
            fs::write(store.blob_path(&digest), damaged).unwrap();
            blobs.put(&b"bytes"[..], Some((&digest, 5)), Durability::Synced).unwrap();
            assert_eq!(store.verify_blob(&digest).unwrap(), 5);
        }
    }

    #[test]
    fn without_files_that_have_no_name_it_is_the_same() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        let (digest, bytes) = (Digest::sha256_of(b"named"), &b"named"[..]);
        let (file, path) = blobs.new_named_file().unwrap();
        let (found, size) = write_verified(bytes, &file, None).unwrap();
        assert_eq!((&found, size), (&digest, 5));
        blobs.staged().insert(found, Staged { file, path: Some(path.clone()), size });
        blobs.settle(Synced::No).unwrap();
        assert_eq!(store.read_blob(&digest, 10).unwrap(), b"named");
        // What nobody settles goes.
        let (file, path) = blobs.new_named_file().unwrap();
        blobs.staged().insert(Digest::sha256_of(b""), Staged { file, path: Some(path.clone()), size: 0 });
        drop(blobs);
        assert!(!path.exists());
    }
}
