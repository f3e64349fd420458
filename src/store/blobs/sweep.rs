//! Blobs that nothing needs any more: which they are, and their removal.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rootling_backends::Result;

use crate::image::Digest;
use crate::store::lock::{self, Mode};
use crate::store::{Record, Store, fault, files};

/// How long what is left of a download is kept.
const KEPT_PARTIAL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Store {
    /// Returns the digests of all blobs that these records name.
    pub(in crate::store) fn named_blobs<'r>(records: impl Iterator<Item = &'r Record>) -> HashSet<Digest> {
        let mut named = HashSet::new();
        for record in records {
            named.extend(record.image.iter().flat_map(|image| image.documents().cloned()));
            let layers = record.layer.iter().flat_map(|layer| &layer.blobs);
            let packed = record.packed.iter().flat_map(|packed| &packed.blobs);
            named.extend(layers.chain(packed).map(|blob| blob.digest.clone()));
        }
        named
    }

    /// Removes blobs that no object names, and what was left of downloads a week ago; none while somebody adds some. The caller holds
    /// the store alone. Returns how many, and their bytes.
    pub(in crate::store) fn sweep_blobs(&self) -> Result<(u64, u64)> {
        let directory = self.blobs_dir();
        if !directory.exists() {
            return Ok((0, 0));
        }
        let Some(_alone) = lock::try_lock_dir(&directory, Mode::Exclusive)? else { return Ok((0, 0)) };
        let records = self.ids()?.into_iter().map(|id| Record::read(&self.object_dir(&id)));
        // One that cannot be read may name any of them.
        let Ok(records) = records.collect::<Result<Vec<_>>>() else { return Ok((0, 0)) };
        let mut named = Self::named_blobs(records.iter());
        self.tidy_repositories()?;
        let Ok(pushed) = self.pushed_blobs() else { return Ok((0, 0)) };
        named.extend(pushed);
        let (mut count, mut bytes) = (0, 0);
        for (digest, size) in self.all_blobs()?.into_iter().filter(|(digest, _)| !named.contains(digest)) {
            files::remove_if_exists(&self.blob_path(&digest))?;
            fault::point("prune.blob");
            (count, bytes) = (count + 1, bytes + size);
        }
        let (uploads, upload_bytes) = self.sweep_uploads()?;
        (count, bytes) = (count + uploads, bytes + upload_bytes);
        for path in self.left_of_downloads()? {
            bytes += fs::symlink_metadata(&path).map_or(0, |found| found.len());
            count += u64::from(files::remove_if_exists(&path)?);
        }
        Ok((count, bytes))
    }

    /// Returns what is left of downloads that nobody went on with for a week, or of blobs that were cut off.
    fn left_of_downloads(&self) -> Result<Vec<PathBuf>> {
        let (directory, partial) = (self.blobs_dir(), self.blobs_dir().join("partial"));
        let mut left = Vec::new();
        for name in files::list(&partial)? {
            let path = partial.join(name);
            let touched = fs::symlink_metadata(&path).and_then(|found| found.modified());
            let is_old = touched.is_ok_and(|touched| touched.elapsed().is_ok_and(|age| age > KEPT_PARTIAL));
            if is_old {
                left.push(path);
            }
        }
        for place in [directory.clone(), directory.join("sha256"), directory.join("sha512")] {
            let names = files::list_where(&place, files::is_leftover)?.into_iter();
            left.extend(names.map(|name| place.join(name)));
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::super::tests::{listed, store};
    use super::*;
    use crate::store::Durability;

    #[test]
    fn the_sweep_waits_for_nobody_and_takes_nothing_that_is_on_its_way() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        blobs.put(&b"on its way"[..], None, Durability::Synced).unwrap();
        assert_eq!(store.prune(&[]).unwrap().blobs, 0);
        let mut partial = blobs.partial(&Digest::sha256_of(b"x"), 1000).unwrap().unwrap();
        partial.write_all(b"part").unwrap();
        drop(partial);
        drop(blobs);
        let pruned = store.prune(&[]).unwrap();
        assert_eq!((pruned.blobs, pruned.blob_bytes), (1, 10));
        let [partial] = listed(&store, "partial").try_into().unwrap();
        let old = std::time::SystemTime::now() - KEPT_PARTIAL - Duration::from_secs(60);
        let file =
            OpenOptions::new().write(true).open(store.blobs_dir().join("partial").join(partial)).unwrap();
        file.set_modified(old).unwrap();
        assert_eq!(store.prune(&[]).unwrap().blobs, 1);
    }
}
