//! Preparing: an active tree, or a view, on a committed one or on nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use rootling_backends::{
    Baseline, Context, Error, ErrorKind, ForkOptions, Form, Kind, Overlay, Result, Tree,
};

use super::super::draft::Draft;
use super::super::files::{self, Durability};
use super::super::{Record, State, fault};
use super::chains::Target;
use super::index::{Coming, Entry};
use super::record::{Held, check_key, check_labels};
use super::{HeldKind, HeldMount, HeldTrees};

/// Bytes that mount(2) takes of options: a page, without its last.
const MOST_OPTION_BYTES: usize = 4095;

/// Bytes of options beside the layers and the two directories that are written to: room for `index=off` and what else is said.
const OTHER_OPTION_BYTES: usize = 192;

impl HeldTrees {
    /// Makes a tree called `key` on the committed one called `parent`, or an empty one where that is the empty text, and returns how to show it.
    ///
    /// `kind` is active or a view. A parent that is not there is an error of kind `NotFound`, one that is not committed of kind
    /// `InvalidInput`, a key that something has of kind `AlreadyExists`. O(1) with btrfs and overlay, unless one layer more could not
    /// be mounted. Durable on return; a kill leaves nothing of it but rubbish for [`open`](Self::open).
    pub fn prepare(
        &self,
        key: &str,
        parent: &str,
        kind: HeldKind,
        labels: BTreeMap<String, String>,
    ) -> Result<HeldMount> {
        self.prepare_now(key, parent, kind, labels).context(|| format!("prepare {key:?}"))
    }

    fn prepare_now(
        &self,
        key: &str,
        parent: &str,
        kind: HeldKind,
        labels: BTreeMap<String, String>,
    ) -> Result<HeldMount> {
        check_key(key)?;
        check_labels(&labels)?;
        if kind == HeldKind::Committed {
            return Err(Error::new(ErrorKind::InvalidInput, "what is prepared is active, or a view"));
        }
        let target = if kind == HeldKind::Active { Target::of(parent, &labels) } else { None };
        let names = target.iter().flat_map(|target| &target.names).map(String::as_str);
        let _taken = self.index.take(&names.chain([key]).collect::<Vec<_>>());
        let mut coming = self.index.expect(parent, ErrorKind::InvalidInput)?;
        self.require_free(key)?;
        if let Some(target) = &target {
            coming = self.require_unknown(target, &labels, coming)?;
        }
        let _lock = self.store.share_to_write()?;
        let draft = self.store.draft()?;
        let made = match kind {
            HeldKind::View => self.make_view(&draft, coming.parent.as_deref())?,
            _ => self.make_active(&draft, coming.parent.as_deref(), State::Active)?,
        };
        fault::point("held.made");
        let held = Held::new(key, kind, parent, labels);
        let entry = self.publish(draft, made, held, coming)?;
        self.mount_of(&entry)
    }

    pub(super) fn require_free(&self, key: &str) -> Result<()> {
        match self.index.find(key) {
            Some(_) => Err(Error::new(ErrorKind::AlreadyExists, format!("{key:?} exists already"))),
            None => Ok(()),
        }
    }

    /// Makes what a draft holds a held tree. Durable on return.
    pub(super) fn publish(
        &self,
        mut draft: Draft,
        record: Record,
        held: Held,
        coming: Coming<'_>,
    ) -> Result<Arc<Entry>> {
        let store = &self.store;
        let record = Record { held: Some(Box::new(held.clone())), created: held.created, ..record };
        for directory in ["by", "names"] {
            files::make_dir(&draft.slot.join(directory))?;
        }
        record.write_first_synced(&draft.slot)?;
        fault::point("held.recorded");
        let (id, object) = (draft.id.clone(), store.object_dir(&draft.id));
        let mut changed = vec![object];
        for needed in record.needs() {
            store.link_child(needed, &id, Durability::Lazy)?;
            changed.push(store.object_dir(needed).join("by"));
        }
        changed.extend([store.root().join("o"), store.held_dir()]);
        let use_lock = store.move_in(&mut draft)?;
        let link = store.held_link(&held.key);
        let linked = files::link_new(&format!("../o/{id}"), &link).and_then(|()| {
            fault::point("held.linked");
            let settled = self.settle(&changed.iter().map(std::path::PathBuf::as_path).collect::<Vec<_>>());
            // What could not be made durable must not be there either.
            settled.inspect_err(|_| drop(files::remove_if_exists(&link)))
        });
        if let Err(error) = linked {
            // Best effort: the error that brought us here is the one to tell.
            if let Err(left) = store.discard(&id, record.parent.as_ref(), use_lock) {
                log::debug!("{left:?}");
            }
            return Err(error);
        }
        fault::point("held.prepared");
        let entry = Entry::new(&record, &held);
        coming.arrive(Arc::clone(&entry));
        Ok(entry)
    }

    /// Makes a tree that can be written to.
    fn make_active(&self, draft: &Draft, parent: Option<&Entry>, state: State) -> Result<Record> {
        let backend = self.store.backend(self.backend)?;
        let record = Record::new(draft.id.clone(), self.backend, state);
        let Some(parent) = parent else {
            backend.create(&draft.slot)?;
            return Ok(record);
        };
        let beneath = self.tree(parent)?;
        let options = ForkOptions { most_layers: Some(self.most_layers()), ..ForkOptions::default() };
        let forked = backend.fork(&beneath, &draft.slot, options)?;
        if self.backend != Kind::Btrfs && forked.form == Form::Full {
            // What was copied is in memory.
            self.sync_all()?;
        }
        Ok(Record {
            form: forked.form,
            parent: Some(parent.info.id.clone()),
            baseline: forked.baseline,
            cost: forked.cost,
            ..record
        })
    }

    /// Makes a node that has its parent's tree; one on nothing has an empty tree. A tree of too many layers is copied.
    fn make_view(&self, draft: &Draft, parent: Option<&Entry>) -> Result<Record> {
        let too_deep = match parent {
            Some(parent) => self.tree(parent)?.layers().len() > self.most_layers(),
            None => true,
        };
        if let (Some(parent), false) = (parent, too_deep) {
            let node = self.store.node(&parent.info.id)?;
            return Ok(self.store.sharing(draft, &node));
        }
        let record = self.make_active(draft, parent, State::Committed)?;
        let tree = Tree::full(&draft.slot);
        self.store.backend(record.backend)?.seal(&tree)?;
        let baseline = if parent.is_some() { record.baseline } else { Baseline::None };
        Ok(Record { baseline, ..record })
    }

    /// Returns how many layers of this store's trees can be mounted with mount(2), as their holder does: from the directory that all of them
    /// lie in, as `<id>/fs` each.
    pub(super) fn most_layers(&self) -> usize {
        const LAYER: usize = super::super::ObjectId::LENGTH + "/fs:".len();
        let object = self.store.root().as_os_str().len() + "/o/".len() + super::super::ObjectId::LENGTH;
        let written = ",upperdir=/fs,workdir=/work".len() + 2 * object;
        let rest = "lowerdir=".len() + written + OTHER_OPTION_BYTES;
        (MOST_OPTION_BYTES.saturating_sub(rest) / LAYER).clamp(2, Overlay::LIMIT)
    }
}
