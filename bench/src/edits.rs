//! Ten edits of a fork, the same for everyone, and whether they were found.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::contender::Found;
use crate::proof::Inventory;

/// Which paths are edited: spread over the sorted list of files.
#[derive(Debug)]
pub(crate) struct Edits {
    largest: PathBuf,
    largest_size: u64,
    appended: Vec<PathBuf>,
    forged: PathBuf,
    mode: PathBuf,
    owner: PathBuf,
    deleted: PathBuf,
}

const NEW_FILE: &str = "etc/made-by-the-bench";
const NEW_DIRECTORY: &str = "srv/made-by-the-bench";

impl Edits {
    /// Chooses the paths.
    pub(crate) fn choose(tree: &Inventory) -> Result<Self> {
        let mut files = tree.single_files()?;
        let largest = (0..files.len()).max_by_key(|index| files[*index].1);
        let largest = largest.filter(|_| files.len() > 8);
        let Some(largest) = largest else {
            return Err(Error::new(ErrorKind::InvalidInput, "the tree has too few files to edit"));
        };
        let (largest, largest_size) = files.remove(largest);
        let at = |eighth: usize| files[files.len() * eighth / 8].0.clone();
        Ok(Self {
            largest,
            largest_size,
            appended: vec![at(0), at(1), at(2)],
            forged: at(3),
            mode: at(4),
            owner: at(5),
            deleted: at(6),
        })
    }

    /// Makes the first: one byte in the middle of the largest file. Returns how long open, write and close took.
    pub(crate) fn first_write(&self, root: &Path) -> Result<Duration> {
        let path = root.join(&self.largest);
        let what = || format!("write one byte to {path:?}");
        let start = Instant::now();
        let file = OpenOptions::new().write(true).open(&path).context(what)?;
        // Two bytes that the file cannot both hold there already.
        file.write_all_at(b"~\x07", self.largest_size / 2).context(what)?;
        drop(file);
        Ok(start.elapsed())
    }

    /// Makes the other nine.
    pub(crate) fn make_rest(&self, root: &Path) -> Result<()> {
        for path in &self.appended {
            let file = OpenOptions::new().append(true).open(root.join(path));
            file.and_then(|mut file| file.write_all(b"\n")).context(|| format!("append to {path:?}"))?;
        }
        forge(&root.join(&self.forged)).context(|| format!("edit {:?}", self.forged))?;
        std::fs::set_permissions(root.join(&self.mode), Permissions::from_mode(0o4711))
            .context(|| format!("chmod({:?})", self.mode))?;
        std::os::unix::fs::chown(root.join(&self.owner), Some(1234), Some(1234))
            .context(|| format!("chown({:?})", self.owner))?;
        std::fs::remove_file(root.join(&self.deleted)).context(|| format!("unlink({:?})", self.deleted))?;
        std::fs::write(root.join(NEW_FILE), "new\n").context(|| format!("write {NEW_FILE:?}"))?;
        std::fs::create_dir(root.join(NEW_DIRECTORY)).context(|| format!("mkdir({NEW_DIRECTORY:?})"))
    }

    /// Returns what an exact search finds.
    pub(crate) fn expected(&self) -> Found {
        let changed = self.appended.iter().chain([&self.largest, &self.forged, &self.mode, &self.owner]);
        let mut found: Found = changed.map(|path| ('C', path.clone())).collect();
        found.insert(('D', self.deleted.clone()));
        found.extend([NEW_FILE, NEW_DIRECTORY].map(|path| ('A', path.into())));
        found
    }

    /// Says what a search found too much or too little.
    pub(crate) fn check_exact(&self, found: &Found) -> Result<()> {
        let expected = self.expected();
        let differ: Vec<_> = found.symmetric_difference(&expected).collect();
        if differ.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, format!("found too much or too little: {differ:?}")))
    }

    /// Says what a search missed; more may be found. `deletions`: is it to find what is gone?
    pub(crate) fn check_found(&self, found: &Found, deletions: bool) -> Result<()> {
        let paths: BTreeSet<_> = found.iter().map(|(_, path)| path).collect();
        let expected = self.expected();
        let wanted = expected.iter().filter(|(letter, _)| deletions || *letter != 'D');
        let missed: Vec<_> = wanted.filter(|(_, path)| !paths.contains(path)).collect();
        if missed.is_empty() {
            return Ok(());
        }
        let message = format!("missed {} of {} edits: {missed:?}", missed.len(), expected.len());
        Err(Error::new(ErrorKind::Corrupt, message))
    }
}

/// Changes a byte and puts size and modification time back.
fn forge(path: &Path) -> std::io::Result<()> {
    let mut byte = [0];
    File::open(path)?.read_exact(&mut byte)?;
    let modified = path.metadata()?.modified()?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&[!byte[0]], 0)?;
    file.set_modified(modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_edits_are_ten_changes_and_a_missed_one_is_named() {
        let temp = tempfile::tempdir().unwrap();
        for directory in ["etc", "srv"] {
            std::fs::create_dir(temp.path().join(directory)).unwrap();
        }
        for number in 0..20 {
            std::fs::write(temp.path().join(format!("etc/{number}")), "x".repeat(number + 1)).unwrap();
        }
        let edits = Edits::choose(&Inventory::take(temp.path()).unwrap()).unwrap();
        let mut found = edits.expected();
        assert_eq!(found.len(), 10);
        edits.first_write(temp.path()).unwrap();
        found.insert(('C', "etc".into()));
        edits.check_found(&found, true).unwrap();
        assert!(edits.check_exact(&found).is_err());
        found.retain(|(letter, _)| *letter != 'D');
        edits.check_found(&found, false).unwrap();
        assert!(edits.check_found(&found, true).unwrap_err().to_string().starts_with("missed 1 of 10"));
    }
}
