//! What repositories keep, and what goes out of them by itself.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rootling_backends::Result;

use super::Repository;
use crate::image::Digest;
use crate::store::{Store, files};

/// How long a blob stays that no manifest names.
const KEPT_BLOB: Duration = Duration::from_secs(7 * 24 * 3600);

impl Store {
    /// Returns all blobs that repositories keep. One file that cannot be read is an error: it may keep any of them.
    pub(in crate::store) fn pushed_blobs(&self) -> Result<HashSet<Digest>> {
        let mut kept = HashSet::new();
        for name in self.repositories()? {
            let repository = self.repository(&name)?;
            kept.extend(repository.listed("blobs")?);
            for digest in repository.manifests()? {
                kept.extend(
                    repository
                        .manifest(&digest)?
                        .into_iter()
                        .flat_map(|pushed| pushed.keeps)
                        .map(|kept| kept.digest),
                );
                kept.insert(digest);
            }
        }
        Ok(kept)
    }

    /// Forgets blobs that no manifest named for a week, what leads to no manifest, and repositories with nothing in them. The caller holds the
    /// store alone.
    pub(in crate::store) fn tidy_repositories(&self) -> Result<()> {
        for name in self.repositories()? {
            self.repository(&name)?.tidy()?;
        }
        Ok(())
    }
}

impl Repository<'_> {
    fn tidy(&self) -> Result<()> {
        let tags = self.tags()?.into_iter().filter_map(|tag| self.tag(&tag).ok().flatten());
        let tagged: HashSet<Digest> = tags.map(|(digest, _)| digest).collect();
        for digest in self.manifests()?.into_iter().filter(|digest| !tagged.contains(digest)) {
            let path = self.manifest_file(&digest);
            if is_older(&path, KEPT_BLOB)
                && self.manifest(&digest).is_ok_and(|found| found.is_some_and(|found| found.made))
            {
                files::remove_if_exists(&path)?;
            }
        }
        let mut needed = HashSet::new();
        for digest in self.manifests()? {
            // One that is damaged may need any.
            let Ok(Some(pushed)) = self.manifest(&digest) else { return Ok(()) };
            needed.extend(pushed.keeps.into_iter().map(|kept| kept.digest));
        }
        for digest in self.listed("blobs")?.into_iter().filter(|digest| !needed.contains(digest)) {
            let mark = self.blob_mark(&digest);
            if is_older(&mark, KEPT_BLOB) {
                files::remove_if_exists(&mark)?;
            }
        }
        for name in files::list(&self.directory.join("tags"))? {
            if self.tag(&name).is_ok_and(|found| found.is_none()) {
                files::remove_if_exists(&self.directory.join("tags").join(name))?;
            }
        }
        for name in files::list_where(&self.directory.join("manifests"), files::is_leftover)? {
            files::remove_if_exists(&self.directory.join("manifests").join(name))?;
        }
        for subject in files::list(&self.directory.join("referrers"))? {
            let about = self.directory.join("referrers").join(&subject);
            for digest in self.listed(&format!("referrers/{subject}"))? {
                if !self.manifest_file(&digest).is_file() {
                    files::remove_if_exists(&about.join(digest.to_string()))?;
                }
            }
            remove_if_empty(&about);
        }
        for below in ["manifests", "tags", "blobs", "referrers"] {
            remove_if_empty(&self.directory.join(below));
        }
        remove_if_empty(&self.directory);
        Ok(())
    }
}

fn is_older(path: &Path, age: Duration) -> bool {
    let touched = fs::symlink_metadata(path).and_then(|found| found.modified());
    touched.is_ok_and(|touched| touched.elapsed().is_ok_and(|since| since > age))
}

fn remove_if_empty(directory: &Path) {
    // Best effort: one that is not empty stays, and an empty one harms nobody.
    drop(fs::remove_dir(directory));
}
