//! Which snapshots a box has, told without a look at all names of the store.
//!
//! ```text
//! labels/<box>/<label>     symbolic links to n/<box>@<label>
//! ```
//!
//! Each is made before the name is given, and stays until the sweep finds that no such name is left; so one that is not true is passed over.
//! A store without `labels/` is of a time before this was noted: all names are looked at, until `fsck --repair` makes it. What removes or
//! moves names always looks at all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::{Label, Name, ObjectId, Store, fault, files};

impl Store {
    fn labels_dir(&self) -> PathBuf {
        self.root.join("labels")
    }

    fn labels_of(&self, of: &Name) -> PathBuf {
        self.labels_dir().join(of.encoded())
    }

    /// Notes that a box is about to have a snapshot of this label.
    pub(super) fn note_label(&self, of: &Name, label: &Label) -> Result<()> {
        let directory = self.labels_of(of);
        let link = directory.join(label.as_str());
        let target = format!("../../n/{}", of.snapshot(label)?.encoded());
        match files::link_new(&target, &link) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            noted => return noted.and_then(|()| self.sync_labels(&[directory])),
        }
        match fs::create_dir(&directory) {
            // The store has none.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("mkdir({directory:?})"), error));
            }
            _ => fault::point("label.directory"),
        }
        match files::link_new(&target, &link) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            noted => noted.and_then(|()| self.sync_labels(&[directory, self.labels_dir()])),
        }
    }

    /// Makes a note as durable as the name will be. Btrfs alone syncs one directory without what was changed before in others; ext4 and
    /// XFS have one log, and what syncs the name syncs the note.
    fn sync_labels(&self, directories: &[PathBuf]) -> Result<()> {
        if self.format.abilities.file_system != "btrfs" {
            return Ok(());
        }
        directories.iter().try_for_each(|directory| files::sync_dir(directory))
    }

    /// Returns the snapshots of a box that are noted; `None` where the store has no notes.
    pub(super) fn noted_snapshots(&self, of: &Name) -> Result<Option<BTreeMap<Name, ObjectId>>> {
        let labels = files::list_some(&self.labels_of(of), usize::MAX)?;
        if labels.is_empty() && !self.labels_dir().exists() {
            return Ok(None);
        }
        let mut snapshots = BTreeMap::new();
        for label in labels.iter().filter_map(|label| Label::parse(label).ok()) {
            let name = of.snapshot(&label)?;
            if let Some(id) = self.resolve_name(&name)? {
                snapshots.insert(name, id);
            }
        }
        Ok(Some(snapshots))
    }

    /// Is this name of a snapshot noted? In a store without notes, yes.
    pub(super) fn is_label_noted(&self, of: &Name, label: &Label) -> bool {
        let link = self.labels_of(of).join(label.as_str());
        link.is_symlink() || !self.labels_dir().exists()
    }

    /// Notes all snapshots of a store that has no notes. The caller holds the store alone.
    pub(super) fn make_labels(&self) -> Result<()> {
        if self.labels_dir().exists() {
            return Ok(());
        }
        // Whole or not at all: a store that has notes is not searched.
        let temporary = self.root.join("tmp").join("labels");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).context(|| format!("remove {temporary:?}"))?;
        }
        files::make_dir(&temporary)?;
        for name in self.all_names()?.into_keys() {
            if let Some((of, label)) = name.of_snapshot() {
                let directory = temporary.join(of.encoded());
                files::make_dir(&directory)?;
                files::link_new(&format!("../../n/{}", name.encoded()), &directory.join(label.as_str()))?;
            }
        }
        rootling_backends::Dir::open(&temporary)?.sync_file_system()?;
        files::rename_new(&temporary, &self.labels_dir())?;
        files::sync_dir(&self.root)
    }

    /// Removes the notes of snapshots that are gone. The caller holds the store alone: nobody is about to give such a name.
    pub(super) fn tidy_labels(&self) -> Result<()> {
        for of in files::list(&self.labels_dir())? {
            let directory = self.labels_dir().join(&of);
            let mut left = 0;
            for label in files::list(&directory)? {
                if self.root.join("n").join(format!("{of}@{label}")).is_symlink() {
                    left += 1;
                } else {
                    files::remove_if_exists(&directory.join(label))?;
                }
            }
            if left == 0 {
                fs::remove_dir(&directory).context(|| format!("rmdir({directory:?})"))?;
            }
        }
        Ok(())
    }
}
