//! Taking over what was done in a fork that would be thrown away: a box becomes what its fork is.
//!
//! Afterwards both are snapshots of the box, what it was before and what was tried, and it stands on the latter; so undo and redo
//! go from one to the other. The fork itself is sealed as that snapshot: what was tried is not lost whatever happens later.

use std::fs::File;

use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use rootling_backends::{
    Change, ChangeKind, Context, DiffOptions, EntryType, Error, ErrorKind, ForkOptions, Result,
};

use super::draft::Ephemeral;
use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Cause, Label, Name, Node, ObjectId, Record, State, Store, fault};

/// A box that can be replaced by a fork of it, and stays so as long as this is kept.
#[derive(Debug)]
pub struct Replaceable {
    node: Node,
    /// What the fork stands on.
    base: Node,
    alone: File,
    _change: File,
    _store: File,
}

/// What taking over a fork did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The box as it is now.
    pub node: Node,
    /// What it was before: a snapshot.
    pub before: Node,
    /// What was tried: a snapshot, on which the box stands now.
    pub state: Node,
}

impl Store {
    /// Returns the box if it is still what the fork was made of, so that nothing is lost when the fork takes its place.
    ///
    /// One that runs is an error of kind `Busy`, one that has changed since is one of kind `FailedPrecondition`. Costs a search for
    /// changes.
    pub fn replaceable(&self, node: &Node, fork: &Ephemeral) -> Result<Replaceable> {
        let intent = || format!("see whether {} is what was forked", node.shown());
        let _store = self.share_to_write().context(intent)?;
        let node = self.settle(node).context(intent)?;
        node.require_box().context(intent)?;
        let change = self.object_dir(&node.id).join("change");
        let _change = lock::lock_file(&change, Mode::Exclusive, node.label()).context(intent)?;
        let alone = self.lock_unused(&node).context(intent)?;
        // Another tree may have taken its place while we waited.
        let name = node.name.clone().filter(|name| !name.is_volume() && !name.is_snapshot());
        let current = name.map(|name| self.named(&name)).transpose().context(intent)?.flatten();
        let base = fork.record.parent.as_ref().map(|base| self.node(base)).transpose().context(intent)?;
        let (Some(node), Some(base)) = (current.filter(|current| current.id == node.id), base) else {
            return Err(Error::new(ErrorKind::Busy, format!("{} has changed meanwhile", node.shown())));
        };
        let changes = self.diff(&base, &node, DiffOptions { times: true }).context(intent)?;
        if let Some(first) = changes.first() {
            let (path, more) = (first.path.display(), changes.len() - 1);
            let message =
                format!("{} has changed since it was forked: /{path} and {more} more", node.shown());
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint("keep what was tried as a box of its own, and compare the two: rootling diff"));
        }
        Ok(Replaceable { node, base, alone, _change, _store })
    }

    /// Makes the box what the fork is. `message` says what was tried.
    ///
    /// The box stays on its backend. Durable on return; a kill leaves the box as it was, and perhaps the snapshots, or as it is to be.
    /// Costs a fork of what was tried by the box's backend.
    pub fn replace(&self, replaceable: Replaceable, fork: Ephemeral, message: String) -> Result<Applied> {
        let applied = {
            let Replaceable { node, base, alone, _change, _store } = replaceable;
            let intent = || format!("make {} what was tried", node.shown());
            self.replace_locked(&node, base, alone, fork, message).context(intent)?
        };
        self.empty_trash()?;
        Ok(applied)
    }

    fn replace_locked(
        &self,
        node: &Node,
        base: Node,
        alone: File,
        fork: Ephemeral,
        message: String,
    ) -> Result<Applied> {
        let name = node.name.as_ref().expect("only what has a name is replaceable");
        let before = self.kept_for_safety(name, base)?;
        fault::point("try.kept");
        let record = Record {
            state: State::Committed,
            created: Timestamp::now(),
            message: Some(message),
            config: node.record.config.clone(),
            ..fork.record.clone()
        };
        let state = self.seal_and_publish(fork.draft, record, None, false)?;
        fault::point("try.sealed");
        let (called, label) = self.number(name, &state.id)?;
        let state = Node { name: Some(called), ..state };
        let draft = self.draft()?;
        let (forked, _) = self.fork_into(&draft, &state, node.record.backend, ForkOptions::default())?;
        let life = node.record.life.clone().moved_to(&before.id).moved_to(&state.id).labelled(&label);
        let forked = Record { life, other: node.record.other.clone(), ..forked };
        let forked = self.publish(draft, &forked, None, Durability::Synced)?;
        fault::point("try.forked");
        self.switch(name, &forked.id)?;
        fault::point("try.switched");
        self.discard(&node.id, node.record.parent.as_ref(), Some(alone))?;
        Ok(Applied { node: Node { name: Some(name.clone()), ..forked }, before, state })
    }

    /// Makes sure that the state that a box is in has a name.
    fn kept_for_safety(&self, name: &Name, state: Node) -> Result<Node> {
        if let Some(known) = self.name_of(&state.id)? {
            return Ok(Node { name: Some(known), ..state });
        }
        let place = self.object_dir(&state.id);
        let record = Record { cause: Cause::Safety, ..state.record.clone() };
        record.write(&place, Durability::Synced)?;
        let (name, _) = self.number(name, &state.id)?;
        Ok(Node { name: Some(name), record, ..state })
    }

    /// Gives a state the next number among the snapshots of a name. Durable on return.
    pub(super) fn number(&self, of: &Name, id: &ObjectId) -> Result<(Name, Label)> {
        loop {
            let labels = self.labels(of)?.into_iter();
            let last = labels.filter_map(|label| label.as_str().parse::<u32>().ok()).max().unwrap_or(0);
            let label = Label::numbered(last.saturating_add(1));
            let name = of.snapshot(&label)?;
            match self.link_name(&name, id) {
                // Somebody else took the number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => {
                    linked?;
                    files::sync_dir(&self.root.join("n"))?;
                    return Ok((name, label));
                }
            }
        }
    }

    /// Returns how many bytes the files have that a fork added or wrote to.
    pub fn ephemeral_bytes(&self, fork: &Ephemeral, changes: &[Change]) -> Result<u64> {
        let root = self.backend(fork.record.backend)?.open_root(&fork.tree)?;
        let written = changes.iter().filter(|change| {
            let content = change.aspects.content || change.aspects.kind || change.kind == ChangeKind::Added;
            change.kind != ChangeKind::Deleted && change.entry_type == EntryType::File && content
        });
        let mut bytes = 0;
        for change in written {
            let file = root.open_beneath(&change.path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
            let size = fstat(&file).context(|| format!("fstat({:?})", change.path))?.st_size;
            bytes += u64::try_from(size).unwrap_or(0);
        }
        Ok(bytes)
    }
}
