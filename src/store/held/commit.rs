//! Committing: an active tree gets a name, and never changes again.
//!
//! The record that says what it is becoming, and the one that says that it is that, are written aside before the sync that makes the tree durable,
//! and so are on disk with it; after the sync all is renames, in an order that the log keeps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rootling_backends::{Baseline, Context, Error, ErrorKind, Form, Kind, Result, Tree};

use super::super::files::{self, Durability};
use super::super::{Record, State, Store, fault, lock};
use super::index::{Coming, Entry};
use super::record::{Held, HeldName, check_key, check_labels};
use super::{HeldKind, HeldTrees};

/// Returns the error for a tree that is committed already.
pub(super) fn is_committed(key: &str) -> Error {
    Error::new(ErrorKind::FailedPrecondition, format!("{key:?} is committed"))
}

/// Returns the record of a tree that has become what it was to become.
pub(super) fn committed(store: &Store, record: &Record, becoming: &HeldName) -> Result<Record> {
    let was = record.held.as_deref().expect("it is held");
    let done = Record {
        state: State::Committed,
        created: becoming.when,
        held: Some(Box::new(Held::committed(becoming))),
        ..record.clone()
    };
    if was.parent == becoming.parent {
        return Ok(done);
    }
    let Some(parent) = store.held_target(&super::links::file_name(&becoming.parent))? else {
        let message = format!("{:?}, which {:?} stands on, is gone", becoming.parent, becoming.name);
        return Err(Error::new(ErrorKind::Corrupt, message));
    };
    // What was written into an empty directory says what it changes as OverlayFS does.
    Ok(Record {
        backend: Kind::Overlay,
        form: Form::Delta,
        parent: Some(parent),
        baseline: Baseline::Upper,
        ..done
    })
}

impl HeldTrees {
    /// Makes the active tree called `key` a committed one called `name`, with these labels and no others. `key` is free afterwards.
    ///
    /// `parent` is the one it was prepared on, or empty for whichever that is. One that was prepared on nothing may be given a parent now: what is in
    /// it then says what it changes, with whiteouts and opaque directories as OverlayFS writes them.
    ///
    /// A name that something has is an error of kind `AlreadyExists`, a key that is not there `NotFound`, one of a tree that is not active
    /// `FailedPrecondition`, another parent than that it was prepared on `InvalidInput`. Durable on return, with everything that was written to it. O(1).
    /// A kill leaves it active, or committed.
    pub fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        self.commit_now(name, key, parent, labels).context(|| format!("commit {key:?} as {name:?}"))
    }

    fn commit_now(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        check_key(name)?;
        check_labels(&labels)?;
        let _taken = self.index.take(&[name, key]);
        self.require_free(name)?;
        let entry = self.index.get(key)?;
        match entry.info.kind {
            HeldKind::Active => {}
            HeldKind::Committed => return Err(is_committed(key)),
            HeldKind::View => {
                let message = format!("{key:?} is a view: nothing changed in it");
                return Err(Error::new(ErrorKind::FailedPrecondition, message));
            }
        }
        let coming = self.parent_from_now_on(&entry, parent)?;
        let parent = coming.parent.as_ref().map_or(String::new(), |parent| parent.info.key.clone());
        let becoming = HeldName { name: name.to_owned(), labels, when: Timestamp::now(), parent };
        let _lock = self.store.share_to_write()?;
        let done = self.name_tree(&entry, becoming)?;
        let held = done.held.as_deref().expect("it is held");
        coming.replace(key, &entry.info.parent, Entry::new(&done, held));
        Ok(())
    }

    /// Returns the parent that a tree has once it is committed.
    fn parent_from_now_on(&self, entry: &Entry, parent: &str) -> Result<Coming<'_>> {
        let prepared_on = entry.info.parent.as_str();
        if parent.is_empty() || parent == prepared_on {
            return self.index.expect(prepared_on, ErrorKind::FailedPrecondition);
        }
        if !prepared_on.is_empty() {
            let message = format!("{:?} was prepared on {prepared_on:?}, not on {parent:?}", entry.info.key);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let coming = self.index.expect(parent, ErrorKind::FailedPrecondition)?;
        let overlay = self.store.backend(Kind::Overlay);
        overlay.context(|| "what was prepared on nothing can only be shown over a parent by OverlayFS")?;
        let above = coming.parent.as_ref().expect("it has a key");
        let layers = self.tree(above)?.layers().len() + 1;
        if layers > self.most_layers() {
            let message = format!("{layers} layers are more than can be mounted");
            return Err(Error::new(ErrorKind::Unsupported, message).hint("prepare it on its parent"));
        }
        Ok(coming)
    }

    /// Makes a tree what it is becoming; returns its record.
    fn name_tree(&self, entry: &Entry, becoming: HeldName) -> Result<Record> {
        let store = &self.store;
        let (id, slot) = (&entry.info.id, store.object_dir(&entry.info.id));
        let _change = lock::lock_file(&slot.join("change"), lock::Mode::Exclusive, &entry.info.key)?;
        let mut begun = Record::read(&slot)?;
        let done = committed(store, &begun, &becoming)?;
        let was = begun.clone();
        let name = becoming.name.clone();
        begun.held.as_mut().expect("it is held").becoming = Some(becoming);
        let places =
            [Record::path(&slot), slot.join("committed.json")].map(|path| Aside(files::aside(&path)));
        let [begun_aside, done_aside] = &places;
        begun_aside.write(&begun)?;
        done_aside.write(&done)?;
        let mut changed = Vec::new();
        if let Some(parent) = done.parent.as_ref().filter(|_| done.parent != was.parent) {
            store.link_child(parent, id, Durability::Lazy)?;
            changed.push(store.object_dir(parent).join("by"));
        }
        fault::point("held.aside");
        self.sync_all()?;
        fault::point("held.synced");
        begun_aside.becomes(&Record::path(&slot))?;
        fault::point("held.becoming");
        changed.push(slot.clone());
        let (from, to) = (store.held_link(&entry.info.key), store.held_link(&name));
        files::rename_new(&from, &to)?;
        fault::point("held.named");
        changed.push(store.held_dir());
        let settled = self.settle(&changed.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        // What could not be made durable is taken back. Best effort: where that fails, who serves the held trees next finds it committed.
        settled.inspect_err(|_| drop(files::rename_new(&to, &from)))?;
        fault::point("held.committed");
        // From here on it is committed, whatever happens: who opens the held trees next would do this.
        let sealed = seal(store, &was);
        fault::point("held.sealed");
        if let Err(error) = sealed.and_then(|()| done_aside.becomes(&Record::path(&slot))) {
            log::warn!("{name:?} is committed, and is finished later: {error}");
        }
        fault::point("held.finished");
        // Best effort: a hint that is missing costs an unpacking.
        if let Err(error) = self.note_chain(&name, id) {
            log::debug!("{error:?}");
        }
        Ok(done)
    }

    /// Finishes a commit that a kill cut short after its commit point.
    pub(super) fn finish_late(&self, was: &Record, done: &Record) -> Result<()> {
        let slot = self.store.object_dir(&was.id);
        let _change = lock::lock_file(&slot.join("change"), lock::Mode::Exclusive, was.id.as_str())?;
        seal(&self.store, was)?;
        fault::point("held.sealed");
        done.write(&slot, Durability::Synced)?;
        fault::point("held.finished");
        Ok(())
    }
}

/// Seals a tree as the backend does that it was made with.
pub(super) fn seal(store: &Store, was: &Record) -> Result<()> {
    let tree = Tree { slot: store.object_dir(&was.id), form: was.form, lowers: Vec::new() };
    store.backend(was.backend)?.seal(&tree)
}

/// A file that does not count yet, and is gone if it never comes to count.
struct Aside(PathBuf);

impl Aside {
    fn write(&self, record: &Record) -> Result<()> {
        files::remove_if_exists(&self.0)?;
        record.write_aside(&self.0)
    }

    fn becomes(&self, path: &Path) -> Result<()> {
        fs::rename(&self.0, path).context(|| format!("rename({:?}, {path:?})", self.0))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Best effort: what stays goes with the object.
        if let Err(error) = files::remove_if_exists(&self.0) {
            log::debug!("{error}");
        }
    }
}
