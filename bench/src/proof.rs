//! Equal work or no number: what every fork must hold.
//!
//! Each fork of each round is walked: every path with its type, mode, owner, size and (of files) modification time. In the warm-up round the
//! bytes of all files are compared as well. Nothing of this is timed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rootling_backends::{
    Change, ChangeKind, Context, DiffOptions, Dir, Error, ErrorKind, Result, compare::diff_trees,
};
use walkdir::WalkDir;

/// What one entry must look like. Sizes of directories are the file system's own affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
}

/// All entries of a tree.
#[derive(Debug)]
pub(crate) struct Inventory {
    root: PathBuf,
    entries: HashMap<PathBuf, Entry>,
    /// Sum of the sizes of files and links, each name counted.
    pub(crate) bytes: u64,
}

/// How equal a fork must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// In everything.
    Exact,
    /// In everything but the mode of the root itself, which podman takes writing from.
    ExactBelowRoot,
    /// The container's own mount points and files may be there too (podman's `/run/.containerenv`, …).
    WithAdditions,
}

impl Inventory {
    /// Walks a tree.
    pub(crate) fn take(root: &Path) -> Result<Self> {
        let mut inventory = Self { root: root.to_owned(), entries: HashMap::new(), bytes: 0 };
        each(root, |path, entry| {
            inventory.bytes += entry.size;
            inventory.entries.insert(path, entry);
        })?;
        Ok(inventory)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the regular files that have one name and some bytes, sorted: what `edits` may edit.
    pub(crate) fn single_files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for entry in WalkDir::new(&self.root) {
            let entry = entry.map_err(std::io::Error::from).context(|| "walk the tree")?;
            let stat = entry.metadata().map_err(std::io::Error::from).context(|| "lstat")?;
            if stat.is_file() && stat.nlink() == 1 && stat.len() > 0 {
                files.push((below(&self.root, entry.path()), stat.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Compares a fork with the tree; the first difference is the error.
    pub(crate) fn check(&self, fork: &Path, strictness: Strictness) -> Result<()> {
        let (mut seen, mut wrong) = (0, None);
        each(fork, |path, entry| match self.entries.get(&path) {
            Some(expected) if *expected == entry => seen += 1,
            None if strictness == Strictness::WithAdditions => {}
            Some(expected) if strictness != Strictness::Exact && path.as_os_str().is_empty() => {
                seen += usize::from(expected.mode != 0);
            }
            expected => {
                wrong.get_or_insert_with(|| format!("{path:?} is {entry:?}, should be {expected:?}"));
            }
        })?;
        let missing = self.entries.len() - seen.min(self.entries.len());
        match wrong {
            Some(message) => Err(unequal(message)),
            None if missing > 0 => Err(unequal(format!("{missing} of {} entries are missing", self.len()))),
            None => Ok(()),
        }
    }

    /// Compares the bytes of all files, links, devices and extended attributes too.
    pub(crate) fn check_bytes(&self, fork: &Path, strictness: Strictness) -> Result<()> {
        let options = DiffOptions { times: strictness == Strictness::Exact };
        let changes = diff_trees(&Dir::open(&self.root)?, &Dir::open(fork)?, options)?;
        let counts = |change: &&Change| {
            let is_addition = strictness == Strictness::WithAdditions && change.kind == ChangeKind::Added;
            let is_root = strictness != Strictness::Exact && change.path.as_os_str().is_empty();
            !is_addition && !is_root
        };
        match changes.iter().find(counts) {
            Some(change) => Err(unequal(format!("{change:?}"))),
            None => Ok(()),
        }
    }
}

fn unequal(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the fork is not equal to its parent: {message}"))
}

fn each(root: &Path, mut visit: impl FnMut(PathBuf, Entry)) -> Result<()> {
    for entry in WalkDir::new(root) {
        let entry = entry.map_err(std::io::Error::from).context(|| format!("walk {root:?}"))?;
        let stat = entry
            .metadata()
            .map_err(std::io::Error::from)
            .context(|| format!("lstat({:?})", entry.path()))?;
        // The root may be reached through a link of /proc.
        let (size, modified) = match (stat.is_dir() || entry.depth() == 0, stat.is_file()) {
            (true, _) => (0, (0, 0)),
            (false, true) => (stat.size(), (stat.mtime(), stat.mtime_nsec())),
            (false, false) => (stat.size(), (0, 0)),
        };
        let entry_of = Entry { mode: stat.mode(), owner: (stat.uid(), stat.gid()), size, modified };
        visit(below(root, entry.path()), entry_of);
    }
    Ok(())
}

/// Returns a path relative to the root of its tree.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Inventory, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let (parent, fork) = (temp.path().join("parent"), temp.path().join("fork"));
        for root in [&parent, &fork] {
            std::fs::create_dir_all(root.join("d")).unwrap();
            std::fs::write(root.join("d/f"), "bytes").unwrap();
            let file = std::fs::File::open(root.join("d/f")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let inventory = Inventory::take(&parent).unwrap();
        (temp, inventory, fork)
    }

    #[test]
    fn an_equal_fork_passes_and_is_counted() {
        let (_temp, inventory, fork) = tree();
        assert_eq!((inventory.len(), inventory.bytes), (3, 5));
        inventory.check(&fork, Strictness::Exact).unwrap();
    }

    #[test]
    fn a_missing_entry_an_added_one_and_other_bytes_are_seen() {
        let (_temp, inventory, fork) = tree();
        std::fs::write(fork.join("more"), "").unwrap();
        assert!(inventory.check(&fork, Strictness::Exact).is_err());
        assert!(inventory.check(&fork, Strictness::ExactBelowRoot).is_err());
        inventory.check(&fork, Strictness::WithAdditions).unwrap();
        std::fs::write(fork.join("d/f"), "BYTES").unwrap();
        assert!(inventory.check_bytes(&fork, Strictness::WithAdditions).is_err());
        std::fs::remove_file(fork.join("d/f")).unwrap();
        assert!(inventory.check(&fork, Strictness::WithAdditions).is_err());
    }
}
