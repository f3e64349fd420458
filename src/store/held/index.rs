//! All held trees, in memory: one process serves them, so that who asks for them touches no disk.
//!
//! Two things keep threads apart. A key is *taken* while something is done with it: who wants the same key waits, others do not. And a
//! parent *counts* those made on it, those that are being made included: it cannot go meanwhile, and nobody waits for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rootling_backends::{Error, ErrorKind, Form, Kind, Result, Tree};

use super::super::{ObjectId, Record};
use super::record::{Held, HeldInfo, HeldKind, HeldUsage};

/// A held tree.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) info: HeldInfo,
    pub(super) stand: Stand,
    /// Its tree, once somebody has asked for it; only where it does not change any more.
    pub(super) tree: OnceLock<Arc<Tree>>,
    /// What it occupies, once that is known and does not change any more.
    pub(super) usage: OnceLock<HeldUsage>,
}

/// The part of a record that says how a tree is shown.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    pub(super) backend: Kind,
    pub(super) form: Form,
    pub(super) parent: Option<ObjectId>,
    pub(super) tree: Option<ObjectId>,
}

impl Entry {
    pub(super) fn new(record: &Record, held: &Held) -> Arc<Self> {
        let stand = Stand {
            backend: record.backend,
            form: record.form,
            parent: record.parent.clone(),
            tree: record.tree.clone(),
        };
        let info = HeldInfo::new(&record.id, held);
        Arc::new(Self { info, stand, tree: OnceLock::new(), usage: OnceLock::new() })
    }
}

/// The held trees of a store.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: RwLock<Entries>,
    taken: Mutex<HashSet<String>>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: BTreeMap<String, Arc<Entry>>,
    by_object: HashMap<ObjectId, String>,
    /// How many were made on a key, or are being made.
    children: HashMap<String, usize>,
}

impl Entries {
    fn count(&mut self, parent: &str) {
        if !parent.is_empty() {
            *self.children.entry(parent.to_owned()).or_default() += 1;
        }
    }

    fn uncount(&mut self, parent: &str) {
        if let Some(count) = self.children.get_mut(parent) {
            *count -= 1;
            if *count == 0 {
                self.children.remove(parent);
            }
        }
    }

    fn insert(&mut self, entry: Arc<Entry>) {
        self.by_object.insert(entry.info.id.clone(), entry.info.key.clone());
        self.by_key.insert(entry.info.key.clone(), entry);
    }
}

/// Keys that nobody else does anything with.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    index: &'a Index,
    keys: Vec<String>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut taken = self.index.taken.lock().expect("nobody panics who holds it");
        for key in &self.keys {
            taken.remove(key);
        }
        drop(taken);
        self.index.released.notify_all();
    }
}

/// A tree on its way, which its parent counts.
#[derive(Debug)]
pub(super) struct Coming<'a> {
    index: &'a Index,
    /// What it is made on.
    pub(super) parent: Option<Arc<Entry>>,
    has_come: bool,
}

impl Coming<'_> {
    fn parent_key(&self) -> &str {
        self.parent.as_ref().map_or("", |parent| &parent.info.key)
    }

    /// It is there.
    pub(super) fn arrive(mut self, entry: Arc<Entry>) {
        self.index.write().insert(entry);
        self.has_come = true;
    }

    /// It is there, in place of the one that had this key and this parent.
    pub(super) fn replace(mut self, key: &str, parent: &str, entry: Arc<Entry>) {
        let mut entries = self.index.write();
        entries.by_key.remove(key);
        entries.uncount(parent);
        entries.insert(entry);
        self.has_come = true;
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        if !self.has_come {
            self.index.write().uncount(self.parent_key());
        }
    }
}

impl Index {
    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().expect("nobody panics who holds it")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().expect("nobody panics who holds it")
    }

    /// Takes keys, all at once; waits as long as somebody else has one of them.
    pub(super) fn take(&self, keys: &[&str]) -> Taken<'_> {
        let mut taken = self.taken.lock().expect("nobody panics who holds it");
        while keys.iter().any(|key| taken.contains(*key)) {
            taken = self.released.wait(taken).expect("nobody panics who holds it");
        }
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        taken.extend(keys.iter().cloned());
        Taken { index: self, keys }
    }

    /// Returns the tree that is held as `key`, if there is one.
    pub(super) fn find(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().by_key.get(key).cloned()
    }

    /// Returns the tree that is held as `key`; none is an error of kind `NotFound`.
    pub(super) fn get(&self, key: &str) -> Result<Arc<Entry>> {
        self.find(key).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no {key:?}")))
    }

    /// Returns the tree that is held with this object.
    pub(super) fn of_object(&self, id: &ObjectId) -> Option<Arc<Entry>> {
        let entries = self.read();
        entries.by_key.get(entries.by_object.get(id)?).cloned()
    }

    /// Returns all, by key.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.read().by_key.values().cloned().collect()
    }

    /// Is there one like that?
    pub(super) fn any(&self, is_it: impl Fn(&HeldInfo) -> bool) -> bool {
        self.read().by_key.values().any(|entry| is_it(&entry.info))
    }

    /// Counts a tree that is about to be made on `parent`, or on nothing where that is empty, so that it stays.
    ///
    /// A parent that is not there is an error of kind `NotFound`, one that is not committed of the kind `not_committed`.
    pub(super) fn expect(&self, parent: &str, not_committed: ErrorKind) -> Result<Coming<'_>> {
        if parent.is_empty() {
            return Ok(Coming { index: self, parent: None, has_come: false });
        }
        let mut entries = self.write();
        let found = entries.by_key.get(parent).cloned();
        let found = found
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no {parent:?} to stand on")))?;
        if found.info.kind != HeldKind::Committed {
            return Err(Error::new(
                not_committed,
                format!("{parent:?} is not committed: nothing stands on it"),
            ));
        }
        entries.count(parent);
        Ok(Coming { index: self, parent: Some(found), has_come: false })
    }

    /// Adds one that was found on disk.
    pub(super) fn load(&self, entry: Arc<Entry>) {
        let mut entries = self.write();
        entries.count(&entry.info.parent);
        entries.insert(entry);
    }

    /// Puts what is known now in the place of what was known of a key that was taken.
    pub(super) fn update(&self, entry: Arc<Entry>) {
        self.write().insert(entry);
    }

    /// Takes a tree out, so that nothing more is made on it; its parent goes on counting it until it has [`left`](Self::leave).
    ///
    /// One that others were made on is an error of kind `FailedPrecondition`.
    pub(super) fn take_out(&self, key: &str) -> Result<Arc<Entry>> {
        let mut entries = self.write();
        let Some(entry) = entries.by_key.get(key).cloned() else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no {key:?}")));
        };
        if let Some(count) = entries.children.get(key) {
            let message = format!("cannot remove {key:?}: {count} were made on it");
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("remove those first"));
        }
        entries.by_key.remove(key);
        entries.by_object.remove(&entry.info.id);
        Ok(entry)
    }

    /// Puts back what was taken out.
    pub(super) fn put_back(&self, entry: Arc<Entry>) {
        self.write().insert(entry);
    }

    /// What was taken out is gone: its parent does not count it any more.
    pub(super) fn leave(&self, entry: &Entry) {
        self.write().uncount(&entry.info.parent);
    }
}
