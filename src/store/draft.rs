//! Building an object aside, and publishing it.
//!
//! A draft is `tmp/<id>/`, locked by the process that builds it. When that process dies the lock goes, and the
//! sweep removes the draft. Publishing is: record, link in the parent, rename into `o/`, name. The name is the commit point.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use rootling_backends::ground::Ground;
use rootling_backends::{
    Access, Context, Cost, Dir, Error, ErrorKind, Form, Kind, Mount, Result, Tree, reap,
};

use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Name, Node, ObjectId, Record, Store, fault};

/// An object being built. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) id: ObjectId,
    pub(crate) slot: PathBuf,
    lock: Option<File>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // By name, so that a fork that nobody wrote to is gone without a look inside. What is still there is found below.
            drop(files::remove_if_exists(&Record::path(&self.slot)));
            // Best effort: a failure here would hide the one that brought us here, and the sweep tries again.
            if let Err(error) = reap::reap(&self.slot) {
                log::debug!("draft {:?} is left to the sweep: {error:?}", self.slot);
            }
        }
    }
}

impl Store {
    /// Makes an empty draft. The caller holds the store's lock.
    pub(crate) fn draft(&self) -> Result<Draft> {
        loop {
            let id = ObjectId::random()?;
            let slot = self.root.join("tmp").join(id.as_str());
            if self.object_dir(&id).exists() {
                continue;
            }
            match fs::DirBuilder::new().mode(0o700).create(&slot) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.context(|| format!("mkdir({slot:?})"))?,
            }
            let lock = lock::lock_dir(&slot, Mode::Exclusive, "a draft")?;
            fault::point("draft.reserved");
            return Ok(Draft { id, slot, lock: Some(lock) });
        }
    }

    /// Makes the draft a node, and gives it its name. Afterwards it is durable if `durability` says so.
    ///
    /// A name that was taken meanwhile is an error of kind `AlreadyExists`, and nothing is left.
    pub(crate) fn publish(
        &self,
        mut draft: Draft,
        record: &Record,
        name: Option<&Name>,
        durability: Durability,
    ) -> Result<Node> {
        if durability == Durability::Synced {
            self.settle_needed(record.needs())?;
        }
        files::make_dir(&draft.slot.join("by"))?;
        files::make_dir(&draft.slot.join("names"))?;
        record.write(&draft.slot, durability)?;
        fault::point("publish.recorded");
        for needed in record.needs() {
            self.link_child(needed, &draft.id, durability)?;
            fault::point("publish.linked");
        }
        let lock = self.move_in(&mut draft)?;
        if durability == Durability::Synced {
            files::sync_dir(&self.root.join("o"))?;
        }
        if let Some(name) = name {
            if let Err(error) = self.link_name(name, &draft.id) {
                self.discard(&draft.id, record.parent.as_ref(), lock)?;
                return Err(error);
            }
            fault::point("publish.named");
            if durability == Durability::Synced {
                files::sync_dir(&self.root.join("n"))?;
            }
            fault::point("publish.done");
        }
        drop(lock);
        Ok(Node { id: draft.id.clone(), record: record.clone(), name: name.cloned() })
    }

    /// Makes a draft that is finished an object, and returns its use lock: unnamed until the next step, and the sweep's if that never comes.
    pub(super) fn move_in(&self, draft: &mut Draft) -> Result<Option<File>> {
        files::rename_new(&draft.slot, &self.object_dir(&draft.id))?;
        let lock = draft.lock.take();
        fault::point("publish.moved");
        Ok(lock)
    }

    /// Notes in the parent that it has a child. Durable before the child is: removing the parent relies on it.
    pub(crate) fn link_child(
        &self,
        parent: &ObjectId,
        child: &ObjectId,
        durability: Durability,
    ) -> Result<()> {
        let link = self.child_link(parent, child);
        match files::link_new(&format!("../../{child}"), &link) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.context(|| format!("note child {child} of node {parent}"))?,
        }
        if durability == Durability::Synced { files::sync_parent(&link) } else { Ok(()) }
    }

    /// Gives an object a name that nothing has.
    pub(crate) fn link_name(&self, name: &Name, id: &ObjectId) -> Result<()> {
        self.note_name(id, name)?;
        fault::point("name.noted");
        files::link_new(&format!("../o/{id}"), &self.name_link(name)).map_err(|error| {
            if error.kind() != ErrorKind::AlreadyExists {
                return error;
            }
            if self.resolve_name(name).is_ok_and(|has_it| has_it.as_ref() != Some(id)) {
                self.unnote_name(id, name);
            }
            self.taken(name)
        })
    }

    /// Returns the error for a name that something has.
    pub(crate) fn taken(&self, name: &Name) -> Error {
        Error::new(ErrorKind::AlreadyExists, format!("the name {name} is taken"))
            .hint(format!("choose another name, or remove it: rootling rm {name}"))
    }

    /// Refuses a name that something has, before work is spent on it.
    pub(crate) fn require_free(&self, name: &Name) -> Result<()> {
        if self.resolve_name(name)?.is_some() { Err(self.taken(name)) } else { Ok(()) }
    }
}

/// An empty directory of the store for what lies somewhere only for a while: dropping it removes it and what is in it, and when its process dies
/// the sweep does.
#[derive(Debug)]
pub struct Scratch(Draft);

impl Scratch {
    /// Returns where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0.slot
    }
}

impl Store {
    /// Makes a directory that is thrown away: on the store's file system, so that what is in it can be cloned into a tree.
    pub fn scratch(&self) -> Result<Scratch> {
        let _lock = self.share_to_write()?;
        self.draft().map(Scratch)
    }
}

/// A fork that is thrown away when its user is done: never in `o/`, never named.
#[derive(Debug)]
pub struct Ephemeral {
    pub(crate) draft: Draft,
    pub(crate) record: Record,
    pub(crate) tree: Tree,
    pub(crate) parent: Tree,
    /// The use lock of what it was forked from. After the draft: what is below goes last.
    pub(crate) _base: Option<File>,
}

impl Ephemeral {
    /// Returns how to show it.
    pub fn mount(&self, store: &Store, access: Access, volatile: bool) -> Result<Mount> {
        Ok(store.backend(self.record.backend)?.mount(&self.tree, access, volatile))
    }

    /// Opens the root of what it was forked from, for reading: the same files until the first change.
    pub fn open_parent(&self, store: &Store) -> Result<Dir> {
        store.backend(self.record.backend)?.open_root(&self.parent)
    }

    /// Opens it to be written to where it lies. Nobody may have it mounted meanwhile.
    pub fn open_ground(&self, store: &Store) -> Result<Ground> {
        let own = Dir::open(self.tree.fs())?;
        match self.tree.form {
            Form::Full => Ok(Ground::full(own)),
            Form::Delta => Ok(Ground::delta(own, self.open_parent(store)?, store.userxattr())),
        }
    }

    /// Returns the backend that made it.
    pub fn backend(&self) -> Kind {
        self.record.backend
    }

    /// Returns what it cost.
    pub fn cost(&self) -> &Cost {
        &self.record.cost
    }

    /// Returns its directory, where a runner may leave a note of what runs in it.
    pub fn slot(&self) -> &std::path::Path {
        &self.draft.slot
    }

    /// Returns its id.
    pub fn id(&self) -> &ObjectId {
        &self.draft.id
    }
}
