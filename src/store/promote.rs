//! Promoting: one box takes the name of another, and with it that one's past; what the other held is a snapshot.
//!
//! The name's next object is known only when its link is replaced, so what is left to do afterwards is written into the record
//! of the winner before: whoever opens it after a kill finishes the promotion, or forgets it where the link was not reached.

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::files::{self, Durability};
use super::freeze::{Taken, life_after};
use super::lock::{self, Mode};
use super::restore::Present;
use super::{Life, Name, Node, Record, State, Store, fault};

/// A promotion that was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// The name that the box gives up.
    pub from: Name,
    /// The name that it takes.
    pub to: Name,
    /// What belongs to the box of that name once it has it.
    pub life: Life,
}

/// What a promotion did.
#[derive(Debug, Clone)]
pub struct Promoted {
    /// The box, by its new name.
    pub node: Node,
    /// What the name stood for before: a snapshot; `None` where nothing had it.
    pub before: Option<Node>,
}

impl Store {
    /// Gives the box `winner` the name `name`; its own name goes.
    ///
    /// A box of that name becomes a snapshot of it first, and undo brings that back: the past of the name goes on. Neither may be in
    /// use, which is an error of kind `Busy`; a committed tree of that name is one of kind `AlreadyExists`. Durable on return; after a
    /// kill the name stands for the one or the other, both whole. Costs what a snapshot of the old box costs.
    pub fn promote(&self, winner: &Node, name: &Name) -> Result<Promoted> {
        let intent = || format!("promote {} to {name}", winner.shown());
        let promoted = {
            let _lock = self.share_to_write().context(intent)?;
            self.promote_locked(winner, name).context(intent)?
        };
        self.empty_trash().context(intent)?;
        Ok(promoted)
    }

    fn promote_locked(&self, winner: &Node, name: &Name) -> Result<Promoted> {
        let winner = self.settle(winner)?;
        let from = self.promotable(&winner, name)?;
        let old = self.named(name)?.filter(|old| old.id != winner.id);
        let old = old.map(|old| self.settle(&old)).transpose()?;
        if old.as_ref().is_some_and(|old| old.record.state == State::Committed) {
            return Err(self.taken(name));
        }
        let (taken, loser) = self.take_both(&winner, old.as_ref())?;
        let (winner, record) = (&taken.node, &taken.node.record);
        let intend = |life: Life| -> Result<Record> {
            let promotion = Promotion { from: from.clone(), to: name.clone(), life };
            let intended = Record { promotion: Some(promotion), ..record.clone() };
            intended.write(&self.object_dir(&winner.id), Durability::Synced)?;
            fault::point("promote.intended");
            Ok(intended)
        };
        let Some(loser) = loser else {
            // Nothing to lose, but the box has both names for a moment: who removed one of them must know of the other.
            let intended = intend(record.life.clone())?;
            self.link_name(name, &winner.id)?;
            fault::point("promote.named");
            files::sync_dir(&self.root.join("n"))?;
            self.finish_promotion(winner, &from, intended)?;
            return Ok(Promoted { node: self.promoted(name)?, before: None });
        };
        let Present { before, seals, .. } = self.keep_present(&loser, None, &[])?;
        fault::point("promote.kept");
        let intended = intend(life_after(&self.node(&loser.node.id)?, Some(&before.id)))?;
        let before = if seals { self.seal_for_safety(&loser.node, &before)? } else { before };
        self.switch(name, &winner.id)?;
        fault::point("promote.switched");
        self.finish_promotion(winner, &from, intended)?;
        if !seals {
            // A snapshot may have given it another parent.
            let parent = self.node(&loser.node.id)?.record.parent;
            self.discard(&loser.node.id, parent.as_ref(), None)?;
        }
        Ok(Promoted { node: self.promoted(name)?, before: Some(before) })
    }

    /// Takes one box or two, by the order of their names: whoever takes the same two waits for us, and we for nobody who waits so.
    fn take_both(&self, winner: &Node, old: Option<&Node>) -> Result<(Taken, Option<Taken>)> {
        let Some(old) = old else { return Ok((self.take_unused(winner)?, None)) };
        if winner.name < old.name {
            let winner = self.take_unused(winner)?;
            return Ok((winner, Some(self.take_unused(old)?)));
        }
        let old = self.take_unused(old)?;
        Ok((self.take_unused(winner)?, Some(old)))
    }

    fn promoted(&self, name: &Name) -> Result<Node> {
        let gone = || Error::new(ErrorKind::NotFound, format!("{name} was removed meanwhile"));
        self.named(name)?.ok_or_else(gone)
    }

    /// Returns the name that the box gives up, if it can take another.
    fn promotable(&self, winner: &Node, name: &Name) -> Result<Name> {
        winner.require_box()?;
        let is_box = |name: &&Name| !name.is_volume() && !name.is_snapshot();
        let from = winner.name.as_ref().filter(is_box).ok_or_else(|| {
            Error::new(ErrorKind::FailedPrecondition, format!("{} has no name to give up", winner.shown()))
                .hint("name the box that takes the other name")
        })?;
        if from == name {
            let message = format!("{name} is called that already");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("say the name that it is to take"));
        }
        Ok(from.clone())
    }

    /// Takes the old name off a box that has its new one. The caller holds the box's change lock.
    fn finish_promotion(&self, winner: &Node, from: &Name, record: Record) -> Result<()> {
        if self.resolve_name(from)?.as_ref() == Some(&winner.id) {
            files::remove_if_exists(&self.name_link(from))?;
            fault::point("promote.renamed");
            files::sync_dir(&self.root.join("n"))?;
            self.unnote_name(&winner.id, from);
        }
        if let Some(promotion) = record.promotion {
            let record = Record { life: promotion.life, promotion: None, ..record };
            record.write(&self.object_dir(&winner.id), Durability::Synced)?;
            fault::point("promote.done");
        }
        Ok(())
    }

    /// Finishes, or forgets, a promotion that was cut short; says whether there was one.
    pub(super) fn settle_promotion(&self, node: &Node) -> Result<bool> {
        if node.record.promotion.is_none() {
            return Ok(false);
        }
        let place = self.object_dir(&node.id);
        let _change = lock::lock_file(&place.join("change"), Mode::Exclusive, node.label())?;
        let record = self.node(&node.id)?.record;
        let Some(promotion) = &record.promotion else { return Ok(true) };
        if self.resolve_name(&promotion.to)?.as_ref() == Some(&node.id) {
            let from = promotion.from.clone();
            self.finish_promotion(node, &from, record)?;
        } else {
            Record { promotion: None, ..record }.write(&place, Durability::Synced)?;
        }
        Ok(true)
    }
}
