//! What a build leaves for the next one of the same recipe, which compares itself with it: small files, written anew each time.
//!
//! ```text
//! steps/notes/<hex>    <hex> is the SHA-256 of what the build calls the recipe
//! ```
//!
//! Nothing depends on them: one that is lost, or of a later version, is as if there had been no build.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use rootling_backends::{Context, ErrorKind, Result};

use super::super::Store;
use super::super::files::{self, Durability};
use crate::image::Digest;

/// Bytes of the largest note.
const LIMIT: u64 = 4 << 20;

/// How many notes are kept: those that were written last.
const KEPT: usize = 256;

impl Store {
    pub(super) fn notes_dir(&self) -> PathBuf {
        self.root.join("steps").join("notes")
    }

    fn recipe_note(&self, recipe: &str) -> PathBuf {
        self.notes_dir().join(Digest::sha256_of(recipe.as_bytes()).hex())
    }

    /// Replaces what the last build of a recipe left. Not synced: one that a power cut takes is missing, or was not replaced. One that is
    /// longer than 4 MiB is not kept.
    pub fn write_recipe_note(&self, recipe: &str, bytes: &[u8]) -> Result<()> {
        let path = self.recipe_note(recipe);
        if bytes.len() as u64 > LIMIT {
            return files::remove_if_exists(&path).map(drop);
        }
        let _lock = self.share_to_write()?;
        files::make_dir(&self.root.join("steps"))?;
        files::make_dir(&self.notes_dir())?;
        let is_new = !path.exists();
        files::replace(&path, bytes, Durability::Lazy).context(|| format!("note the build of {recipe}"))?;
        if is_new { self.let_notes_go() } else { Ok(()) }
    }

    /// Returns what the last build of a recipe left, if anything.
    pub fn read_recipe_note(&self, recipe: &str) -> Result<Option<Vec<u8>>> {
        match files::read(&self.recipe_note(recipe), LIMIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn let_notes_go(&self) -> Result<()> {
        let names = files::list(&self.notes_dir())?;
        if names.len() <= KEPT {
            return Ok(());
        }
        let written = |path: &PathBuf| fs::metadata(path).and_then(|found| found.modified());
        let mut notes: Vec<PathBuf> = names.into_iter().map(|name| self.notes_dir().join(name)).collect();
        notes.sort_by_cached_key(|path| std::cmp::Reverse(written(path).unwrap_or(SystemTime::UNIX_EPOCH)));
        notes[KEPT..].iter().try_for_each(|path| files::remove_if_exists(path).map(drop))
    }
}
