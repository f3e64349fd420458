//! Opening the held trees of a store: the lock, what a kill left, loading.

use std::fs::File;
use std::sync::Mutex;

use rayon::prelude::*;
use rootling_backends::{Context, Dir, Error, ErrorKind, Kind, Result};

use super::super::{ObjectId, Record, Store, files, format, lock};
use super::barrier::Barrier;
use super::index::{Entry, Index};
use super::links::file_name;
use super::record::Held;
use super::{HeldKind, HeldTrees, commit};

impl HeldTrees {
    /// Opens the held trees of a store, to be served by this process until the value is dropped; `backend` makes new ones, `None` is the
    /// store's choice for what is thrown away, as containers are.
    ///
    /// Where another process serves them it is an error of kind `Busy` that names it. Finishes what a kill left, and moves to the trash what it left
    /// for nobody. Reads the records of all objects, in parallel.
    pub fn open(store: Store, backend: Option<Kind>) -> Result<Self> {
        let intent = format!("open the held trees of store {:?}", store.root());
        Self::open_now(store, backend).context(|| intent)
    }

    fn open_now(store: Store, backend: Option<Kind>) -> Result<Self> {
        let kind = backend.unwrap_or_else(|| store.ephemeral_backend());
        store.backend(kind)?;
        let alone = {
            let _lock = store.share_to_write()?;
            format::Format::require(&store.root, format::SHARED_TREES)?;
            format::Format::require(&store.root, format::HELD_TREES)?;
            files::make_dir(&store.held_dir())?;
            files::sync_dir(&store.root)?;
            serve_alone(&store)?
        };
        let held = Self {
            root: Dir::open(store.root())?,
            store,
            backend: kind,
            index: Index::default(),
            barrier: Barrier::default(),
            left: Mutex::default(),
            _alone: alone,
        };
        held.load()?;
        held.let_lost_ones_go()?;
        Ok(held)
    }

    /// Loads what is linked, and finishes commits that have reached their commit point.
    fn load(&self) -> Result<()> {
        let _lock = self.store.share_to_write()?;
        let links = self.store.held_links()?.into_par_iter();
        let loaded: Vec<_> = links.map(|(name, id)| self.load_one(&name, &id)).collect::<Result<_>>()?;
        loaded.into_iter().flatten().for_each(|entry| self.index.load(entry));
        Ok(())
    }

    fn load_one(&self, link: &str, id: &ObjectId) -> Result<Option<std::sync::Arc<Entry>>> {
        if files::is_leftover(link) {
            return Ok(None);
        }
        let record = match Record::read(&self.store.object_dir(id)) {
            Ok(record) => record,
            // Nothing is left to be held, and whoever held it could never use its key again.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                log::warn!("what held/{link} leads to is gone: {error}");
                files::remove_if_exists(&self.store.held_dir().join(link))?;
                return Ok(None);
            }
            Err(error) => {
                log::warn!("held/{link} is left out: {error}");
                return Ok(None);
            }
        };
        let Some(held) = &record.held else {
            log::warn!("held/{link} is left out: object {id} says nothing of it");
            return Ok(None);
        };
        match &held.becoming {
            _ if file_name(&held.key) == link => {
                if held.kind == HeldKind::Committed && record.backend == Kind::Btrfs && record.tree.is_none()
                {
                    // A power cut may have taken what btrfs keeps beside the tree that the record is in.
                    commit::seal(&self.store, &record)?;
                }
                let held = Held { becoming: None, ..(**held).clone() };
                Ok(Some(Entry::new(&record, &held)))
            }
            Some(becoming) if file_name(&becoming.name) == link => {
                let done = commit::committed(&self.store, &record, becoming)?;
                self.finish_late(&record, &done)?;
                let held = done.held.as_deref().expect("it is held");
                Ok(Some(Entry::new(&done, held)))
            }
            _ => {
                log::warn!("held/{link} is left out: object {id} is called {:?}", held.key);
                Ok(None)
            }
        }
    }

    /// Moves objects to the trash that were held, or about to be, and that nothing needs; and drafts of who was killed.
    fn let_lost_ones_go(&self) -> Result<()> {
        // Not waited for: a draft does no harm.
        if let Some(_alone) = lock::try_lock_file(&self.store.root().join("lock"), lock::Mode::Exclusive)? {
            self.store.sweep_drafts()?;
        }
        let _lock = self.store.share_to_write()?;
        let ids = self.store.ids()?.into_par_iter();
        let lost = ids.filter(|id| self.index.of_object(id).is_none()).filter(|id| {
            // One whose record is damaged is fsck's business.
            Record::read(&self.store.object_dir(id)).is_ok_and(|record| record.held.is_some())
        });
        lost.collect::<Vec<_>>().iter().try_for_each(|id| self.let_go(id))
    }
}

/// Takes the lock of who serves the held trees, without waiting.
fn serve_alone(store: &Store) -> Result<File> {
    let directory = store.held_dir();
    if let Some(alone) = lock::try_lock_dir(&directory, lock::Mode::Exclusive)? {
        return Ok(alone);
    }
    let opened = File::open(&directory).context(|| format!("open({directory:?})"))?;
    let what = "what containerd holds";
    Err(Error::context(lock::busy(&opened, what), "one process at a time serves it"))
}
