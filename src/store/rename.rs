//! Other names: of a tree, of a snapshot, and of a box with all its snapshots.
//!
//! A box's snapshots are called after it, so its name is many links. Before the first of them moves, the file `renaming` says from
//! what to what; while it is there, `n/` is flocked by whoever moves. A process that finds it without that lock finishes what another did
//! not, before it does anything else with the store.

use std::path::PathBuf;

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Name, Node, State, Store, fault};

/// Bytes in the largest `renaming` that is read.
const LIMIT: u64 = 4096;

/// The content of `renaming`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Renaming {
    from: Name,
    to: Name,
}

impl Store {
    fn renaming(&self) -> PathBuf {
        self.root.join("renaming")
    }

    /// Gives a box, a tree or a snapshot another name; the snapshots of a box get it, too. A box may run meanwhile.
    ///
    /// A name that is taken is an error of kind `AlreadyExists`. Durable on return; what a kill cuts short, the next command finishes.
    pub fn rename(&self, node: &Node, to: &Name) -> Result<Node> {
        let intent = || format!("rename {} to {to}", node.shown());
        let Some(from) = node.name.clone() else {
            let message = format!("{} has no name", node.id);
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint(format!("give it one: rootling tag {} {to}", node.id)));
        };
        require_same_sort(&from, to).context(intent)?;
        let _lock = self.share_to_write().context(intent)?;
        let _names = self.lock_names().context(intent)?;
        let node = self.settle(node).context(intent)?;
        let change = self.object_dir(&node.id).join("change");
        let _change = lock::lock_file(&change, Mode::Exclusive, &node.shown()).context(intent)?;
        self.require_same(&node).context(intent)?;
        let renaming = Renaming { from, to: to.clone() };
        for (_, to) in self.moves(&renaming).context(intent)? {
            self.require_free(&to).context(intent)?;
        }
        if node.record.state == State::Committed && node.record.continued_by.as_ref() == Some(to) {
            // Not through `forget_continuation`: its lock is ours already.
            let record = super::Record { continued_by: None, ..self.node(&node.id).context(intent)?.record };
            record.write(&self.object_dir(&node.id), Durability::Synced).context(intent)?;
        }
        let text = serde_json::to_vec(&renaming).expect("two names");
        files::replace(&self.renaming(), &text, Durability::Synced).context(intent)?;
        fault::point("rename.intended");
        self.carry_out(&renaming).context(intent)?;
        Ok(Node { name: Some(to.clone()), ..node })
    }

    /// Finishes a renaming that was cut short; says whether there was one. The caller holds the store's lock.
    pub(super) fn finish_renaming(&self) -> Result<bool> {
        if !self.renaming().exists() {
            return Ok(false);
        }
        let _names = self.lock_names()?;
        let text = match files::read(&self.renaming(), LIMIT) {
            // Whoever held the lock has finished it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            text => text?,
        };
        let renaming: Renaming = serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("{:?} is damaged: {error}", self.renaming())).hint(
                "see with `rootling ls` what the box and its snapshots are called, then remove the file",
            )
        })?;
        match self.carry_out(&renaming) {
            // Somebody else was faster with the name, and we undid what was intended.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(true),
            done => done
                .map(|()| true)
                .context(|| format!("finish renaming {} to {}", renaming.from, renaming.to)),
        }
    }

    fn lock_names(&self) -> Result<std::fs::File> {
        lock::lock_dir(&self.root.join("n"), Mode::Exclusive, "the names of the store")
    }

    /// Returns which links become which: the box's own, then those of its snapshots.
    fn moves(&self, renaming: &Renaming) -> Result<Vec<(Name, Name)>> {
        let mut moves = vec![(renaming.from.clone(), renaming.to.clone())];
        if renaming.from.is_snapshot() {
            return Ok(moves);
        }
        for name in self.snapshot_names(&renaming.from)?.into_keys() {
            if let Some((_, label)) = name.of_snapshot() {
                moves.push((name, renaming.to.snapshot(&label)?));
            }
        }
        Ok(moves)
    }

    fn carry_out(&self, renaming: &Renaming) -> Result<()> {
        let mut taken = Ok(());
        for (from, to) in self.moves(renaming)? {
            let id = self.resolve_name(&from)?;
            if let Some(id) = &id {
                self.note_name(id, &to)?;
            }
            match files::rename_new(&self.name_link(&from), &self.name_link(&to)) {
                // Moved before we were cut short.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists && to == renaming.to => {
                    taken = Err(self.taken(&to));
                    break;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    log::warn!("{from} keeps its name: {to} is taken");
                }
                other => {
                    other?;
                    if let Some(id) = &id {
                        self.unnote_name(id, &from);
                    }
                }
            }
            fault::point("rename.moved");
        }
        files::sync_dir(&self.root.join("n"))?;
        files::remove_if_exists(&self.renaming())?;
        files::sync_dir(&self.root)?;
        fault::point("rename.done");
        taken
    }
}

/// A snapshot stays one of its box, and what is none does not become one.
fn require_same_sort(from: &Name, to: &Name) -> Result<()> {
    let owner = |name: &Name| name.of_snapshot().map(|(owner, _)| owner);
    let (of, into) = (owner(from), owner(to));
    if of == into || (of.is_none() && into.is_none()) {
        return Ok(());
    }
    let message = match of {
        Some(of) => format!("{from} is a snapshot of {of}, and {to} is none"),
        None => format!("{to} is the name of a snapshot, and {from} is none"),
    };
    Err(Error::new(ErrorKind::InvalidInput, message)
        .hint(format!("to give a snapshot a further name: rootling tag {from} NAME")))
}
