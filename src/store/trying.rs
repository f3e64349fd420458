//! Taking over what was done in a fork that would be thrown away: a box becomes what its fork is.
//!
//! Afterwards both are snapshots of the box, what it was before and what was tried, and it stands on the latter; so undo and redo
//! go from one to the other. The fork itself is sealed as that snapshot: what was tried is not lost whatever happens later.

use std::fs::File;

use jiff::Timestamp;
use rootling_backends::{Context, DiffOptions, Error, ErrorKind, Result};

use super::draft::Ephemeral;
use super::freeze::{Call, Freezing, Taken, life_after};
use super::restore::{Journey, Present};
use super::{Cause, Description, Node, Record, State, Store, fault};

/// A box that can be replaced by a fork of it, and stays so as long as this is kept.
#[derive(Debug)]
pub struct Replaceable {
    taken: Taken,
    /// What the fork stands on.
    base: Node,
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
        let taken = self.take_unused(node).context(intent)?;
        let node = &taken.node;
        let Some(base) = &fork.record.parent else {
            let message = format!("{} is not what was forked", node.shown());
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        };
        let base = self.node(base).context(intent)?;
        let changes = self.diff(&base, node, DiffOptions { times: true }).context(intent)?;
        if let Some(first) = changes.first() {
            let (path, more) = (first.path.display(), changes.len() - 1);
            let message =
                format!("{} has changed since it was forked: /{path} and {more} more", node.shown());
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint("keep what was tried as a box of its own, and compare the two: rootling diff"));
        }
        Ok(Replaceable { taken, base, _store })
    }

    /// Makes the box what the fork is. `message` says what was tried.
    ///
    /// The box stays on its backend. Durable on return; a kill leaves the box as it was, and perhaps the snapshots, or as it is to be.
    /// Costs what a restore costs.
    pub fn replace(&self, replaceable: Replaceable, fork: Ephemeral, message: String) -> Result<Applied> {
        let applied = {
            let Replaceable { taken, base, _store } = replaceable;
            let intent = || format!("make {} what was tried", taken.node.shown());
            self.replace_taken(&taken, &base, fork, message).context(intent)?
        };
        self.empty_trash()?;
        Ok(applied)
    }

    fn replace_taken(&self, taken: &Taken, base: &Node, fork: Ephemeral, message: String) -> Result<Applied> {
        let node = &taken.node;
        let description = Description { cause: Cause::Safety, ..Description::default() };
        let how = Freezing { description: &description, call: Call::Next, exact: true };
        let before = self.reuse(node, base, &how)?;
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
        let state = Node { name: Some(self.link_next(node, &state.id)?), ..state };
        fault::point("try.named");
        let life = life_after(node, Some(&before.id)).moved_to(&state.id).called(state.name.as_ref());
        let present = Present { before, seals: false, is_kept: false };
        let journey = Journey { target: state, volumes: Vec::new(), life };
        let moved = self.travel(taken, present, journey)?;
        Ok(Applied { node: moved.node, before: moved.before, state: moved.state })
    }
}
