//! Uploads: blobs that a client sends piece by piece, whose digest is told at the end.
//!
//! An upload is the file `blobs/uploads/<id>`: its length is how far the client has come, whatever became of the server meanwhile. Whoever
//! writes to it holds its flock. What was taken of it into a digest is forgotten with the process: then it is read again at the end.
//! Finished, the same file becomes the blob: nothing is copied. What nobody went on with for a day is swept.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind as IoKind, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::{Blobs, Staged, each_piece};
use crate::image::{Digest, Hasher, Verifier};
use crate::store::lock;
use crate::store::{ObjectId, Store, fault, files};

/// How long an upload waits for its client.
const KEPT_UPLOAD: Duration = Duration::from_secs(24 * 3600);

/// Letters of an id that are random.
const RANDOM: usize = 24;

/// Letters of an id that say which repository it is of.
const OWNER: usize = 16;

impl Store {
    pub(super) fn uploads_dir(&self) -> PathBuf {
        self.blobs_dir().join("uploads")
    }

    /// Begins an upload and returns its id, which is of this repository alone.
    pub fn begin_upload(&self, repository: &str) -> Result<String> {
        let _lock = self.share_to_write()?;
        for directory in [self.blobs_dir(), self.uploads_dir()] {
            files::make_dir(&directory)?;
        }
        let mut id = String::new();
        while id.len() < RANDOM {
            id.push_str(ObjectId::random()?.as_str());
        }
        id.truncate(RANDOM);
        id.push_str(owner(repository).as_str());
        let path = self.uploads_dir().join(&id);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        made.context(|| format!("open({path:?}, O_EXCL)"))?;
        Ok(id)
    }

    /// Opens an upload to go on with; `None` where there is none of that id in this repository, an error of kind `Busy` where somebody else
    /// goes on with it.
    pub fn open_upload(&self, repository: &str, id: &str) -> Result<Option<Upload<'_>>> {
        let is_id = id.len() == RANDOM + OWNER && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_id || !id.ends_with(&owner(repository)) {
            return Ok(None);
        }
        let path = self.uploads_dir().join(id);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
            opened => opened.context(|| format!("open({path:?})"))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Busy, format!("upload {id} is being written to")));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("flock", error)),
        }
        // Between the two it may have become a blob, which nobody may write to.
        if !lock::is_at(&file, &path) {
            return Ok(None);
        }
        let mut upload = Upload { store: self, file, path, size: 0 };
        upload.size = upload.file.seek(SeekFrom::End(0)).context(|| format!("lseek({:?})", upload.path))?;
        Ok(Some(upload))
    }

    /// Removes uploads that nobody went on with for a day; returns how many, and their bytes.
    pub fn sweep_uploads(&self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for name in files::list(&self.uploads_dir())? {
            let path = self.uploads_dir().join(name);
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            let is_old = found.modified().is_ok_and(|then| then.elapsed().is_ok_and(|age| age > KEPT_UPLOAD));
            if is_old
                && lock::try_lock_file(&path, lock::Mode::Exclusive)?.is_some()
                && files::remove_if_exists(&path)?
            {
                (count, bytes) = (count + 1, bytes + found.len());
            }
        }
        Ok((count, bytes))
    }
}

/// Returns the part of an id that says which repository it is of.
fn owner(repository: &str) -> String {
    Digest::sha256_of(repository.as_bytes()).hex()[..OWNER].to_owned()
}

/// An upload that nobody else writes to as long as this lives. Dropped, it stays as it is.
#[derive(Debug)]
pub struct Upload<'a> {
    store: &'a Store,
    file: File,
    path: PathBuf,
    size: u64,
}

impl Upload<'_> {
    /// Returns how many bytes are there.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes. After an error nothing of them counts.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes).context(|| format!("write({:?})", self.path));
        if let Err(error) = written {
            // Best effort: what is too much is found out by the digest.
            drop(self.file.set_len(self.size));
            drop(self.file.seek(SeekFrom::Start(self.size)));
            return Err(error);
        }
        self.size += bytes.len() as u64;
        fault::point("upload.written");
        Ok(())
    }

    /// Removes the upload.
    pub fn cancel(self) -> Result<()> {
        files::remove_if_exists(&self.path).map(drop)
    }

    /// Makes the upload the blob `digest`, if it is: else an error of kind `Corrupt`, and the upload is removed. `taken` are its bytes so far
    /// as they were taken into a digest; what does not cover all of it is passed over, and the file is read.
    ///
    /// Durable on return. A kill leaves the upload, or the blob, which nothing keeps before it is noted in a repository.
    pub fn finish(mut self, blobs: &Blobs<'_>, digest: &Digest, taken: Option<Hasher>) -> Result<u64> {
        let what = || format!("finish the upload of {digest}");
        let taken = taken.filter(|taken| taken.size() == self.size);
        let found = taken.map(Hasher::finish).filter(|found| found.algorithm() == digest.algorithm());
        let verified = match found {
            Some(found) if found == *digest => Ok(()),
            Some(found) => Err(Error::new(ErrorKind::Corrupt, format!("the bytes that came have {found}"))),
            None => self.verify(digest),
        };
        if let Err(error) = verified {
            if error.kind() == ErrorKind::Corrupt {
                files::remove_if_exists(&self.path)?;
            }
            return Err(error).context(what);
        }
        fault::point("upload.verified");
        let size = self.size;
        if blobs.has(digest, size)? {
            // Somebody was faster, or it was always there.
            files::remove_if_exists(&self.path)?;
            return Ok(size);
        }
        self.file.sync_data().context(|| format!("fdatasync({:?})", self.path)).context(what)?;
        let file = self.file.try_clone().context(|| "dup").context(what)?;
        let staged = Staged { file, path: Some(self.path.clone()), size };
        blobs.give_name(digest, &staged).context(what)?;
        files::sync_parent(&self.store.blob_path(digest))?;
        fault::point("upload.named");
        Ok(size)
    }

    fn verify(&mut self, digest: &Digest) -> Result<()> {
        self.file.seek(SeekFrom::Start(0)).context(|| format!("lseek({:?})", self.path))?;
        let mut verifier = Verifier::new(digest, None);
        each_piece(&mut self.file, |piece| verifier.update(piece))
            .context(|| format!("read({:?})", self.path))?;
        verifier.finish()
    }
}
