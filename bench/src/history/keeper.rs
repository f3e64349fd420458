//! Who keeps states of one tree that people write to: the contract.

use std::collections::HashSet;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::fixture::Loop;
use crate::proof::Inventory;
use crate::trees::Archive;

/// One file system with one tree on it.
pub(super) struct Stage<'a> {
    pub(super) fixture: &'a Loop,
    pub(super) archive: &'a Archive,
    /// Everything below it is this part's.
    pub(super) directory: PathBuf,
    /// The tree, unpacked; nobody writes to it.
    pub(super) tree: PathBuf,
    /// Its files that have one name, which every tool prints as it is.
    pub(super) files: Vec<PathBuf>,
    pub(super) inventory: Inventory,
}

impl Stage<'_> {
    /// Makes a new directory for somebody.
    pub(super) fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
        Ok(path)
    }
}

/// Someone who keeps states. What it cannot do it returns `None` for.
pub(super) trait Keeper: fmt::Debug {
    /// Returns what tables call it.
    fn name(&self) -> &str;

    /// Is it rootling?
    fn is_ours(&self) -> bool {
        false
    }

    /// Appends a line to each of the files. Not timed.
    fn edit(&mut self, files: &[PathBuf], line: &str) -> Result<()>;

    /// Says what changed since the last state: how long that took, and what was named.
    fn diff(&mut self) -> Result<Option<(Duration, Named)>>;

    /// Keeps the present state.
    fn snapshot(&mut self) -> Result<Option<Duration>>;

    /// Makes a second thing that can be written to, on the state that was just kept.
    fn fork(&mut self) -> Result<Option<Duration>>;

    /// Removes that. Not timed.
    fn drop_fork(&mut self) -> Result<()>;

    /// Goes back to the state that was kept last.
    fn restore(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Makes sure that the files end in that line. Not timed.
    fn check(&mut self, _files: &[PathBuf], _line: &str) -> Result<()> {
        Ok(())
    }

    /// Removes what a next round would stumble over. Not timed.
    fn forget(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The paths in the tree that a search named.
pub(super) type Named = HashSet<PathBuf>;

/// Is the path of letters, digits and signs that no tool escapes?
pub(crate) fn is_plain(path: &Path) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    path.as_os_str().as_encoded_bytes().iter().all(|byte| is_plain(*byte))
}

/// Makes sure that a search named each of the files.
pub(super) fn check_named(named: &Named, files: &[PathBuf]) -> Result<()> {
    match files.iter().find(|path| !named.contains(*path)) {
        Some(path) => {
            let message = format!("{path:?} was written to and is not among the {} named", named.len());
            Err(Error::new(ErrorKind::Corrupt, message))
        }
        None => Ok(()),
    }
}

/// Appends a line to files below `root`.
pub(crate) fn append(root: &Path, files: &[PathBuf], line: &str) -> Result<()> {
    for path in files {
        let file = OpenOptions::new().append(true).open(root.join(path));
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .context(|| format!("append to {path:?}"))?;
    }
    Ok(())
}

/// Looks at every tenth of the files.
pub(super) fn check_ends(root: &Path, files: &[PathBuf], line: &str) -> Result<()> {
    for path in files.iter().step_by(10) {
        let mut content = Vec::new();
        let read = std::fs::File::open(root.join(path)).and_then(|mut file| file.read_to_end(&mut content));
        read.context(|| format!("read {path:?}"))?;
        if !content.ends_with(line.as_bytes()) {
            return Err(Error::new(ErrorKind::Corrupt, format!("{path:?} is not what was kept")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_names_as_many_others_is_seen() {
        let files = [PathBuf::from("etc/a"), PathBuf::from("etc/b")];
        let named = |paths: [&str; 2]| Named::from(paths.map(PathBuf::from));
        check_named(&named(["etc/b", "etc/a"]), &files).unwrap();
        let error = check_named(&named(["etc/b", "etc"]), &files).unwrap_err();
        assert!(error.to_string().contains("etc/a"), "{error}");
    }
}
