//! What is left out of a context, for those who see it as a directory.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rootling_backends::{EntryType, Result};

use super::Context;
use crate::build::ignore::Level;

impl Context {
    /// Returns the uppermost paths that the ignore file leaves out; of a directory of which a line takes something back, those in it.
    ///
    /// Costs a list of all directories that are not left out, and nothing where there is no ignore file.
    pub fn left_out(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        if !self.ignored().is_empty() {
            self.add_left_out(Path::new(""), &self.ignored().root(), &mut found)?;
        }
        Ok(found)
    }

    fn add_left_out(&self, path: &Path, level: &Level, found: &mut Vec<PathBuf>) -> Result<()> {
        let patterns = self.ignored();
        for entry in self.root().open_deep(path)?.entries_once()? {
            let name = entry.name.as_bytes();
            let is_out = patterns.judge(level, name);
            let below = patterns.enter(level, name);
            let path = path.join(&entry.name);
            let is_directory = match entry.entry_type {
                Some(kind) => kind == EntryType::Directory,
                None => self.find(&path)?.is_some_and(|source| source.is_dir() && source.real == path),
            };
            // What cannot be opened is not looked into: it shows as what it is.
            if is_directory && (!is_out || patterns.may_differ_below(&below)) {
                self.add_left_out(&path, &below, found)?;
            } else if is_out {
                found.push(path);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::ignore::IgnoreFile;

    #[test]
    fn the_uppermost_paths_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/d", "keep/x", "keep/y", "z"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
            std::fs::write(dir.path().join(path).join("file"), "").unwrap();
        }
        let left_out = |text: &str| {
            std::fs::write(dir.path().join(".dockerignore"), text).unwrap();
            let context = Context::open(dir.path()).unwrap();
            let ignored = IgnoreFile::find(None, context.root()).unwrap();
            let mut paths = context.with_ignored(ignored).left_out().unwrap();
            paths.sort();
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left_out("\n"), [""; 0]);
        assert_eq!(left_out("a\nz/file\n"), ["a", "z/file"]);
        assert_eq!(left_out("keep\n!keep/x\n"), ["keep/y"]);
        assert_eq!(left_out("**/c\n"), ["a/b/c"]);
    }
}
