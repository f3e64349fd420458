//! What people put on nodes: a lock, a note, a further name.

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Name, Node, ObjectId, Record, Role, State, Store, fault};

/// A lock and a note.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Marks {
    /// Nothing removes it: no `rm`, no `prune`, no policy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// What its owner wrote on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Marks {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Record {
    /// Returns what its owner put on the node: those of a box move on with it from object to object.
    pub fn marks(&self) -> &Marks {
        match self.state {
            State::Active => &self.life.marks,
            State::Committed => &self.marks,
        }
    }

    fn marks_mut(&mut self) -> &mut Marks {
        match self.state {
            State::Active => &mut self.life.marks,
            State::Committed => &mut self.marks,
        }
    }
}

impl Node {
    /// Refuses a node that is locked, with kind `FailedPrecondition`.
    pub(super) fn require_unlocked(&self) -> Result<()> {
        if !self.record.marks().locked {
            return Ok(());
        }
        let message = format!("{} is locked", self.shown());
        Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint(format!("unlock it: rootling unlock {}", self.label())))
    }
}

impl Store {
    /// Changes a node's record and nothing else, one change at a time. Durable on return.
    ///
    /// Of a box, whatever object its name leads to now.
    pub fn change_record(&self, node: &Node, change: impl FnOnce(&mut Record) -> Result<()>) -> Result<Node> {
        let intent = || format!("change what is written on {}", node.shown());
        let _lock = self.share_to_write().context(intent)?;
        let node = self.settle(node).context(intent)?;
        let slot = self.object_dir(&node.id);
        let _change =
            lock::lock_file(&slot.join("change"), Mode::Exclusive, &node.shown()).context(intent)?;
        self.require_same(&node).context(intent)?;
        let mut record = self.node(&node.id).context(intent)?.record;
        if node.name.is_some() && record.continued_by == node.name {
            // A commit was cut short while we waited: the box is about to stand on this node.
            let message = format!("{} has changed meanwhile", node.shown());
            return Err(Error::new(ErrorKind::Busy, message).hint("try again")).context(intent);
        }
        change(&mut record)?;
        fault::point("mark.read");
        record.write(&slot, Durability::Synced).context(intent)?;
        fault::point("mark.written");
        Ok(Node { record, ..node })
    }

    /// Puts marks on a node, or takes them off. Durable on return.
    pub fn mark(&self, node: &Node, change: impl FnOnce(&mut Marks)) -> Result<Node> {
        self.change_record(node, |record| {
            change(record.marks_mut());
            Ok(())
        })
    }

    /// Locks a node: nothing removes it until it is unlocked. One that has no name is an error of kind `FailedPrecondition`: it is
    /// kept by what stands on it, and would go with that.
    pub fn lock(&self, node: &Node) -> Result<Node> {
        if node.name.is_none() {
            let message = format!("{} has no name, and so nothing keeps it that could be locked", node.id);
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint(format!("name it first: rootling tag {} NAME", node.id)));
        }
        self.mark(node, |marks| marks.locked = true)
    }

    /// Gives a committed node one name more. Durable on return; a name that is taken is an error of kind `AlreadyExists`.
    pub fn tag(&self, node: &Node, name: &Name) -> Result<Node> {
        let intent = || format!("call {} {name}, too", node.shown());
        if node.record.state == State::Active {
            let message = format!("{} is a box: it has one name", node.label());
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
                "keep its state under a name: rootling commit {} {name}; or call it something else: rootling rename",
                node.label()
            )))
            .context(intent);
        }
        if node.record.role == Role::Volume {
            let message = "a snapshot of a volume has one name";
            return Err(Error::new(ErrorKind::FailedPrecondition, message)).context(intent);
        }
        let _lock = self.share_to_write().context(intent)?;
        self.require_free(name).context(intent)?;
        // Nobody sweeps it away as long as this is held.
        let _held = self.hold(node).context(intent)?;
        self.forget_continuation(&node.id, name).context(intent)?;
        fault::point("tag.ready");
        self.link_name(name, &node.id).context(intent)?;
        fault::point("tag.named");
        files::sync_dir(&self.root.join("n")).context(intent)?;
        Ok(Node { name: Some(name.clone()), ..node.clone() })
    }

    /// Makes a committed node fit to be called `name`: one that was sealed in place as a box of that name would be taken for a box whose
    /// commit was cut short.
    pub(super) fn forget_continuation(&self, id: &ObjectId, name: &Name) -> Result<()> {
        let slot = self.object_dir(id);
        if Record::read(&slot)?.continued_by.as_ref() != Some(name) {
            return Ok(());
        }
        let _change = lock::lock_file(&slot.join("change"), Mode::Exclusive, id.as_str())?;
        let record = Record { continued_by: None, ..Record::read(&slot)? };
        record.write(&slot, Durability::Synced)
    }
}
