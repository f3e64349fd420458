//! Downloads: blobs that come piece by piece from somewhere else, and are gone on with after a cut.
//!
//! A download is the file `blobs/partial/<hex>-<size>`. A length is what some manifest says: one that lies has a file of its own, and so never
//! writes to what another has downloaded and verified, and is about to name.

use std::fs::File;
use std::io::{self, ErrorKind as IoKind, Seek, SeekFrom, Write};
use std::path::PathBuf;

use rootling_backends::{Context, Result};

use super::{Blobs, Staged, each_piece};
use crate::image::{Digest, Verifier};
use crate::store::{fault, files, lock};

impl Blobs<'_> {
    /// Returns what is there of a blob, to go on with; `None` where it is there as a whole.
    ///
    /// What is there is read and taken into the digest. Who else downloads it in this moment, in whichever process, is waited for.
    pub fn partial(&self, digest: &Digest, size: u64) -> Result<Option<Partial<'_>>> {
        let what = || format!("download blob {digest}");
        let path = self.store.blobs_dir().join("partial").join(format!("{}-{size}", digest.hex()));
        loop {
            if self.has(digest, size)? {
                return Ok(None);
            }
            let file = lock::wait_for_file(&path, &format!("blob {digest}")).context(what)?;
            // While we waited it may have become the blob, or have been thrown away.
            if lock::is_at(&file, &path) && !self.has(digest, size)? {
                return Partial::begin(self, digest, size, file, path).map(Some).context(what);
            }
        }
    }
}

/// A blob on its way: bytes are written to it, and verified at the end. Dropped before that it stays as it is, for the next attempt.
#[derive(Debug)]
pub struct Partial<'a> {
    blobs: &'a Blobs<'a>,
    digest: Digest,
    size: u64,
    file: File,
    path: PathBuf,
    verifier: Verifier,
}

impl<'a> Partial<'a> {
    fn begin(
        blobs: &'a Blobs<'a>,
        digest: &Digest,
        size: u64,
        mut file: File,
        path: PathBuf,
    ) -> Result<Self> {
        if file.metadata().context(|| format!("fstat({path:?})"))?.len() > size {
            file.set_len(0).context(|| format!("ftruncate({path:?})"))?;
        }
        file.seek(SeekFrom::Start(0)).context(|| format!("lseek({path:?})"))?;
        let mut verifier = Verifier::new(digest, Some(size));
        each_piece(&mut file, |piece| verifier.update(piece)).context(|| format!("read({path:?})"))?;
        let is_wrong = verifier.size() == size && verifier.clone().finish().is_err();
        let mut partial = Self { blobs, digest: digest.clone(), size, file, path, verifier };
        let touch = partial.file.set_modified(std::time::SystemTime::now());
        touch.context(|| format!("futimens({:?})", partial.path))?;
        if is_wrong {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Returns how many bytes are there: where to go on.
    pub fn have(&self) -> u64 {
        self.verifier.size()
    }

    /// Returns how many bytes there will be.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Forgets what is there.
    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).context(|| format!("ftruncate({:?})", self.path))?;
        self.file.seek(SeekFrom::Start(0)).context(|| format!("lseek({:?})", self.path))?;
        self.verifier = Verifier::new(&self.digest, Some(self.size));
        Ok(())
    }

    /// Ends the download: the blob is staged, and others who wait for it go on.
    ///
    /// What is not the blob is an error of kind `Corrupt`, and is thrown away; what is not all of it yet stays.
    pub fn finish(self) -> Result<()> {
        let is_short = self.have() < self.size;
        let finished = self.verifier.finish();
        if let Err(error) = finished {
            if !is_short {
                files::remove_if_exists(&self.path)?;
            }
            return Err(error);
        }
        fault::point("blob.downloaded");
        // A descriptor of its own: the lock goes with this one.
        let file = File::open(&self.path).context(|| format!("open({:?})", self.path))?;
        let staged = Staged { file, path: Some(self.path), size: self.size };
        self.blobs.staged().entry(self.digest).or_insert(staged);
        Ok(())
    }
}

impl Write for Partial<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // More than there should be is not written at all.
        if self.have() + bytes.len() as u64 > self.size {
            let message = format!("more than {} bytes came of blob {}", self.size, self.digest);
            return Err(io::Error::new(IoKind::InvalidData, message));
        }
        self.file.write_all(bytes)?;
        self.verifier.update(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rootling_backends::ErrorKind;

    use super::super::Synced;
    use super::super::tests::{listed, store};
    use super::*;

    #[test]
    fn a_download_goes_on_and_is_verified_as_a_whole() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        let digest = Digest::sha256_of(b"hello world");
        let begin = || blobs.partial(&digest, 11).unwrap().unwrap();
        let mut partial = begin();
        partial.write_all(b"hello ").unwrap();
        drop(partial);
        let mut partial = begin();
        assert_eq!((partial.have(), partial.size()), (6, 11));
        assert!(partial.write(b"world, and more").is_err());
        partial.write_all(b"world").unwrap();
        partial.finish().unwrap();
        assert!(blobs.partial(&digest, 11).unwrap().is_none());
        assert_eq!(store.blob_size(&digest).unwrap(), None);
        blobs.settle(Synced::No).unwrap();
        assert_eq!(store.read_blob(&digest, 20).unwrap(), b"hello world");
        assert_eq!(listed(&store, "partial"), [""; 0]);
    }

    #[test]
    fn a_download_that_went_wrong_begins_anew() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        let digest = Digest::sha256_of(b"hello world");
        let begin = || blobs.partial(&digest, 11).unwrap().unwrap();
        let mut partial = begin();
        partial.write_all(b"HELLO world").unwrap();
        drop(partial);
        // All of it is there, and wrong.
        assert_eq!(begin().have(), 0);
        let mut partial = begin();
        partial.write_all(b"hello").unwrap();
        assert_eq!(partial.finish().unwrap_err().kind(), ErrorKind::Corrupt);
        // What came so far is as good as before.
        let mut partial = begin();
        assert_eq!(partial.have(), 5);
        partial.restart().unwrap();
        partial.write_all(b"hello World").unwrap();
        assert_eq!(partial.finish().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(begin().have(), 0);
    }

    #[test]
    fn who_is_told_another_length_does_not_touch_what_is_verified() {
        let (_dir, store) = store();
        let digest = Digest::sha256_of(b"hello world");
        let (one, other) = (store.blobs().unwrap(), store.blobs().unwrap());
        let mut partial = one.partial(&digest, 11).unwrap().unwrap();
        partial.write_all(b"hello world").unwrap();
        partial.finish().unwrap();
        for size in [5, 20] {
            let mut lied_to = other.partial(&digest, size).unwrap().unwrap();
            lied_to.write_all(b"HELLO").unwrap();
            drop(lied_to.finish());
        }
        one.settle(Synced::No).unwrap();
        assert_eq!(store.verify_blob(&digest).unwrap(), 11);
    }

    #[test]
    fn who_downloads_the_same_waits_and_then_has_it() {
        let (_dir, store) = store();
        let digest = Digest::sha256_of(b"shared");
        let (one, other) = (store.blobs().unwrap(), store.blobs().unwrap());
        let mut partial = one.partial(&digest, 6).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                // It is all there, though not durable yet: it is verified, and either names it.
                let partial = other.partial(&digest, 6).unwrap();
                partial.map(|partial| (partial.have(), partial.finish().unwrap()))
            });
            std::thread::sleep(Duration::from_millis(20));
            partial.write_all(b"shared").unwrap();
            partial.finish().unwrap();
            assert!(waits.join().unwrap().is_none_or(|(have, ())| have == 6));
        });
        other.settle(Synced::No).unwrap();
        one.settle(Synced::No).unwrap();
        assert_eq!(store.read_blob(&digest, 10).unwrap(), b"shared");
    }
}
