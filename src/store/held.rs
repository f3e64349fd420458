//! Held trees: those that another program, their *holder*, names by keys of its own and removes itself. containerd's snapshots are such.
//!
//! Words: a *key* is any text. An *active* tree is written to; committed it gets a *name*, which is one more key, and may be the *parent* of others; a
//! *view* shows its parent. Who holds a tree mounts it by himself: what he is told is data.
//!
//! Each key has an object of its own, and `held/<hash of the key>` leads to it. That link is all that says so:
//!
//! ```text
//! prepare:  draft ─> fork ─> o/<id> ─> link held/<key>                                        (the link is the commit point)
//! commit:   two records aside ─> one sync ─> record "is becoming" ─> rename held/<key> to held/<name> ─> seal ─> record "is committed"
//! remove:   unlink held/<key> ─> the object goes to the trash, unless something else needs it
//! ```
//!
//! What is acknowledged is durable. A kill leaves each key as it was or as it was to be; who opens the held trees next finishes what is left to do.
//!
//! One process serves the held trees of a store, so all that is known of them is in memory ([`index`]); threads that work on different
//! keys do not wait for each other, but for a sync, and that they share ([`barrier`]).
//!
//! | file | what it is for |
//! |---|---|
//! | `held.rs` | looking |
//! | [`record`] | what is said of a held tree |
//! | [`links`] | the links in `held/`, for the rest of the store |
//! | [`known`] | what people are told |
//! | [`index`] | what is in memory; who waits for whom |
//! | [`barrier`] | one sync for many |
//! | [`open`] | the lock, what a kill left, loading |
//! | [`prepare`] `commit` `remove` | what changes |
//! | [`chains`] | stacks of layers that both sides know |
//! | [`settled`] | which syncs make a link durable |
//! | [`usage`] | what they occupy |

use std::fs::File;
use std::sync::{Arc, Mutex};

use rootling_backends::{Access, Backend, Context, Dir, Form, Kind, Result, Tree};

use super::{ObjectId, Store};

mod barrier;
mod chains;
mod commit;
mod index;
mod known;
mod links;
mod open;
mod prepare;
mod record;
mod remove;
mod settled;
mod usage;

use barrier::Barrier;
use index::{Entry, Index};
pub use record::{Held, HeldInfo, HeldKind, HeldMount, HeldUsage};

/// The held trees of a store, to be served by this process alone.
#[derive(Debug)]
pub struct HeldTrees {
    store: Store,
    /// What makes new trees.
    backend: Kind,
    index: Index,
    barrier: Barrier,
    /// What is synced. Open all the time: the kernel tells each open file once of what could not be written, and one that is opened later nothing
    /// that another was told before (kernel source, lib/errseq.c).
    root: Dir,
    /// Objects that no key leads to any more, and that somebody used when they were let go.
    left: Mutex<Vec<ObjectId>>,
    /// The lock on `held/`.
    _alone: File,
}

impl HeldTrees {
    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns what is known of a tree. One that is not there is an error of kind `NotFound`. Touches no disk.
    pub fn stat(&self, key: &str) -> Result<HeldInfo> {
        self.index.get(key).map(|entry| entry.info.clone())
    }

    /// Returns what is known of all trees, by key. Touches no disk.
    pub fn walk(&self) -> Vec<HeldInfo> {
        self.index.all().iter().map(|entry| entry.info.clone()).collect()
    }

    /// Returns what is known of the tree that is held with an object. Touches no disk.
    pub fn of_object(&self, id: &ObjectId) -> Option<HeldInfo> {
        self.index.of_object(id).map(|entry| entry.info.clone())
    }

    /// Returns how to show a tree that is active or a view. One that is committed is an error of kind `FailedPrecondition`.
    ///
    /// Touches no disk, unless it stands on what nobody holds.
    pub fn mounts(&self, key: &str) -> Result<HeldMount> {
        let entry = self.index.get(key)?;
        self.mount_of(&entry).context(|| format!("show {key:?}"))
    }

    fn mount_of(&self, entry: &Entry) -> Result<HeldMount> {
        let access = match entry.info.kind {
            HeldKind::Active => Access::ReadWrite,
            HeldKind::View => Access::ReadOnly,
            HeldKind::Committed => return Err(commit::is_committed(&entry.info.key)),
        };
        let tree = self.tree(entry)?;
        Ok(HeldMount { mount: self.backend_of(entry)?.mount(&tree, access, false), access })
    }

    fn backend_of(&self, entry: &Entry) -> Result<&dyn Backend> {
        self.store.backend(entry.stand.backend)
    }

    /// Returns an entry's tree. Those of committed ones are remembered.
    fn tree(&self, entry: &Entry) -> Result<Arc<Tree>> {
        if let Some(known) = entry.tree.get() {
            return Ok(Arc::clone(known));
        }
        let (id, stand) = (&entry.info.id, &entry.stand);
        let parent = self.index.find(&entry.info.parent);
        // A parent that is held too: what it stands on is known already.
        let parent = parent.filter(|parent| stand.parent.as_ref() == Some(&parent.info.id));
        let tree = match (stand.form, &stand.tree, parent) {
            (Form::Full, None, _) => Tree::full(self.store.object_dir(id)),
            (Form::Delta, None, Some(parent)) => {
                Tree::delta(self.store.object_dir(id), self.tree(&parent)?.as_ref())
            }
            _ => self.store.tree(&self.store.node(id)?)?,
        };
        let tree = Arc::new(tree);
        if entry.info.kind == HeldKind::Committed {
            return Ok(Arc::clone(entry.tree.get_or_init(|| tree)));
        }
        Ok(tree)
    }
}
