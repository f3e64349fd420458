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
    /// Returns the blobs that neither these records nor repositories name, with their sizes.
    pub(in crate::store) fn unneeded_blobs<'r>(
        &self,
        records: impl Iterator<Item = &'r Record>,
    ) -> Result<Vec<(Digest, u64)>> {
        let pushed = match self.pushed_blobs() {
            Ok(pushed) => pushed,
            Err(error) => {
                // It may name any of them.
                log::warn!("no blobs are removed: {error}");
                return Ok(Vec::new());
            }
        };
        let mut named = Self::named_blobs(records);
        named.extend(pushed);
        Ok(self.all_blobs()?.into_iter().filter(|(digest, _)| !named.contains(digest)).collect())
    }

    fn named_blobs<'r>(records: impl Iterator<Item = &'r Record>) -> HashSet<Digest> {
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
        self.tidy_repositories()?;
        let (mut count, mut bytes) = (0, 0);
        for (digest, size) in self.unneeded_blobs(records.iter())? {
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
    use crate::image::Document;
    use crate::store::{Durability, Push};

    #[test]
    fn what_was_pushed_is_no_blob_that_would_go() {
        let (_dir, store) = store();
        let blobs = store.blobs().unwrap();
        let put = |bytes: &[u8]| blobs.put(bytes, None, Durability::Synced).unwrap();
        let (config, _stray) = (put(b"{}"), put(b"nobody's"));
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": [],
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::sha256_of(&manifest);
        let document = Document::parse_with_digest(manifest, &digest, Some(media_type)).unwrap();
        let repository = store.repository("app").unwrap();
        let push = Push { document: &document, media_type, tags: &["1"], from: None, made: false };
        repository.put(&blobs, &push).unwrap();
        drop(blobs);
        let outcome = store.outcome(&[]).unwrap();
        assert_eq!((outcome.blobs, outcome.blob_bytes), (1, 8));
        let pruned = store.prune(&[]).unwrap();
        assert_eq!((pruned.blobs, pruned.blob_bytes), (1, 8));
        assert_eq!(store.check(false, true).unwrap().problems, []);

        // What is damaged goes, to be pushed again, and until then the image is not whole.
        fs::write(store.blob_path(&config), "[]").unwrap();
        let checked = store.check(true, true).unwrap();
        let told: Vec<_> =
            checked.problems.iter().map(|found| (found.object.clone(), found.repaired)).collect();
        assert_eq!(told, [(config.to_string(), true), (format!("app@{digest}"), false)]);
        assert!(!checked.is_clean());
        let record = store.root().join("refs/app/manifests").join(digest.to_string());
        fs::write(record, "{").unwrap();
        let checked = store.check(false, false).unwrap();
        assert!(checked.problems[0].problem.starts_with("was pushed and cannot be read"), "{checked:?}");
    }

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
