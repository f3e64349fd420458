//! Whiteouts in a tree that holds the layers beneath: what they name is removed, whatever order they come in.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use rootling_backends::{Dir, EntryType, Result};

use super::own::Whose;
use super::{Beneath, Given, Place, Told, implied_directory, join};

impl Place<'_> {
    /// Removes what the layers beneath have at `path`; nothing there is fine.
    pub(super) fn delete(&mut self, path: &[u8]) -> Result<()> {
        let Some((parent, name, real)) = found(self.lower_parent(path))? else { return Ok(()) };
        let Some(stat) = parent.dir.stat_if_exists(name)? else { return Ok(()) };
        let is_directory = EntryType::of_mode(stat.st_mode) == EntryType::Directory;
        match self.whose(&real) {
            Whose::Lower => self.remove(&parent, name),
            _ if is_directory => {
                self.forget_look(&real);
                self.clear(real)
            }
            _ => Ok(()),
        }
    }

    /// Removes all that the layers beneath have in the directory at `path`; none there is fine.
    pub(super) fn delete_content(&mut self, path: &[u8]) -> Result<()> {
        // The directory stays what it is, and its times are kept: it is opened as the parent of what it holds.
        let Some((parent, _, _)) = found(self.lower_parent(&join(path, b"x")))? else { return Ok(()) };
        let real = parent.path.clone();
        self.clear(real)
    }

    /// Each directory is cleared once: markers over and over cost nothing.
    fn clear(&mut self, path: Vec<u8>) -> Result<()> {
        let Beneath::Here(own) = &self.beneath else { return Ok(()) };
        if own.is_cleared_or_below(&path) {
            return Ok(());
        }
        let mut directories = vec![path];
        while let Some(path) = directories.pop() {
            let parent = self.find(&path)?;
            for entry in parent.dir.entries()? {
                let name = entry.name.as_os_str();
                let inner = join(&path, name.as_bytes());
                let whose = self.whose(&inner);
                if whose == Whose::Lower {
                    self.remove(&parent, name)?;
                } else if self.is_uncleared_directory(&parent.dir, name, &inner)? {
                    self.forget_look(&inner);
                    directories.push(inner);
                }
            }
            if let Beneath::Here(own) = &mut self.beneath {
                own.set_cleared(&path);
            }
        }
        Ok(())
    }

    fn is_uncleared_directory(&self, dir: &Dir, name: &OsStr, path: &[u8]) -> Result<bool> {
        let is_directory = EntryType::of_mode(dir.stat(name)?.st_mode) == EntryType::Directory;
        Ok(is_directory && !matches!(&self.beneath, Beneath::Here(own) if own.is_cleared(path)))
    }

    /// A directory that is deleted beneath and has no entry of its own looks as one made for what it holds.
    fn forget_look(&mut self, path: &[u8]) {
        let has_entry = matches!(self.directories.get(path), Some(Given::Told(Told { has_entry: true, .. })));
        if self.whose(path) == Whose::HoldsOwn && !has_entry {
            let member = implied_directory(path.to_vec());
            let told = Told { member, has_entry: false, is_fresh: false };
            self.directories.insert(path.to_vec(), Given::Told(told));
        }
    }

    fn whose(&self, path: &[u8]) -> Whose {
        match &self.beneath {
            Beneath::Here(own) => own.whose(path),
            Beneath::Nothing | Beneath::Elsewhere(_) => Whose::Own,
        }
    }
}

/// Turns the failure to find a directory into `None`: what is not there need not be deleted.
pub(super) fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
