//! Removing, and what changes in no tree: labels.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::super::files::{self, Durability};
use super::super::{ObjectId, Record, fault, lock};
use super::index::Entry;
use super::record::check_labels;
use super::{HeldInfo, HeldTrees, commit};

impl HeldTrees {
    /// Removes a tree. One that others were made on is an error of kind `FailedPrecondition`, one that is not there of kind `NotFound`.
    ///
    /// Its key is free afterwards, and nothing of it can be brought back; it is destroyed later, by [`cleanup`](Self::cleanup). What
    /// somebody has forked stays for the fork. Durable on return; a kill leaves it, or rubbish for [`open`](Self::open).
    pub fn remove(&self, key: &str) -> Result<()> {
        self.remove_now(key).context(|| format!("remove {key:?}"))
    }

    fn remove_now(&self, key: &str) -> Result<()> {
        let _taken = self.index.take(&[key]);
        let _lock = self.store.share_to_write()?;
        let entry = self.index.take_out(key)?;
        if let Err(error) = files::remove_if_exists(&self.store.held_link(key)) {
            self.index.put_back(entry);
            return Err(error);
        }
        fault::point("held.unlinked");
        let gone = self.settle(&[&self.store.held_dir()]).and_then(|()| {
            fault::point("held.removed");
            self.let_go(&entry.info.id)
        });
        self.index.leave(&entry);
        gone
    }

    /// Moves an object that no key leads to any more to the trash, unless something needs it. What somebody uses is looked at again later.
    pub(super) fn let_go(&self, id: &ObjectId) -> Result<()> {
        if let Some((node, alone)) = self.store.unneeded(id)? {
            return self.store.discard(&node.id, node.record.parent.as_ref(), Some(alone));
        }
        let is_there = self.store.object_dir(id).exists();
        if is_there && !self.store.has_children(id)? {
            self.left.lock().expect("nobody panics who holds it").push(id.clone());
        }
        Ok(())
    }

    /// Destroys what was removed. Takes as long as that takes, and holds no lock meanwhile; a second call goes on where the first stopped.
    pub fn cleanup(&self) -> Result<()> {
        let intent = || "clean up after held trees";
        let left = std::mem::take(&mut *self.left.lock().expect("nobody panics who holds it"));
        if !left.is_empty() {
            let _lock = self.store.share_to_write().context(intent)?;
            left.iter().try_for_each(|id| self.let_go(id)).context(intent)?;
        }
        self.store.empty_trash().map(drop).context(intent)
    }

    /// Changes the labels of a tree, and returns what is known of it then. One that is not there is an error of kind `NotFound`.
    ///
    /// Durable on return: one record is written. A kill leaves the old labels, or the new.
    pub fn set_labels(
        &self,
        key: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<HeldInfo> {
        self.set_labels_now(key, change).context(|| format!("label {key:?}"))
    }

    fn set_labels_now(
        &self,
        key: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<HeldInfo> {
        let _taken = self.index.take(&[key]);
        let entry = self.index.get(key)?;
        let mut labels = entry.info.labels.clone();
        change(&mut labels);
        check_labels(&labels)?;
        let _lock = self.store.share_to_write()?;
        let slot = self.store.object_dir(&entry.info.id);
        // Others write to the record, too: of what was pulled, which blobs it came as.
        let _change = lock::lock_file(&slot.join("change"), lock::Mode::Exclusive, key)?;
        let mut record = Record::read(&slot)?;
        let becoming = record.held.as_ref().and_then(|held| held.becoming.clone());
        if let Some(becoming) = becoming.filter(|becoming| becoming.name == key) {
            // The last step of its commit failed: what is written now must not forget what it is called.
            commit::seal(&self.store, &record)?;
            record = commit::committed(&self.store, &record, &becoming)?;
        }
        let Some(held) = record.held.as_mut() else {
            return Err(Error::new(ErrorKind::Corrupt, format!("object {} is not held", entry.info.id)));
        };
        (held.labels, held.updated, held.becoming) = (labels, Timestamp::now(), None);
        record.write(&slot, Durability::Synced)?;
        fault::point("held.labelled");
        let held = record.held.as_deref().expect("it was written");
        let info = HeldInfo::new(&record.id, held);
        self.index.update(std::sync::Arc::new(Entry { info: info.clone(), ..(*entry).clone() }));
        Ok(info)
    }
}
