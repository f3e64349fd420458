//! Boxes that have not changed: they are in a state that exists already, which only gets one more name.

use rootling_backends::{
    Baseline, Change, DiffOptions, EntryType, ErrorKind, Form, Kind, Result, Tree, overlay,
};

use super::files::Durability;
use super::freeze::{Call, Freezing, life_after};
use super::lock::{self, Mode};
use super::{Cause, Name, Node, Record, Store, fault};

impl Store {
    /// Returns the committed node that a box is just like, if there is one.
    ///
    /// Without `exact` only what can be told at once is looked at: `None` says little. `walk`: look at every file of a plain tree, too.
    pub(crate) fn present_state(&self, node: &Node, exact: bool, walk: bool) -> Result<Option<Node>> {
        let (Some(parent), None) = (&node.record.parent, &node.record.outside) else { return Ok(None) };
        let parent = self.node(parent)?;
        let backend = self.backend(node.record.backend)?;
        let (tree, parent_tree) = (self.tree(node)?, self.tree(&parent)?);
        let beside = match node.record.follows.as_ref().map(|id| self.node(id)) {
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => None,
            beside => beside.transpose()?,
        };
        if backend.is_untouched(&tree, &parent_tree, &node.record.baseline)? {
            return Ok(Some(match beside {
                Some(beside) if self.says_nothing(&beside, &parent)? => beside,
                _ => parent,
            }));
        }
        let plain = !backend.capabilities().constant_time_fork;
        if !exact || (plain && !walk) {
            return Ok(None);
        }
        let times = DiffOptions { times: true };
        if let Some(beside) = beside
            && node.record.form == Form::Delta
            && is_nothing(&backend.changes(&tree, &self.tree(&beside)?, &Baseline::None, times)?)
        {
            return Ok(Some(beside));
        }
        let changes = backend.changes(&tree, &parent_tree, &node.record.baseline, times)?;
        Ok(is_nothing(&changes).then_some(parent))
    }

    /// Is `node` a delta over `parent` that holds nothing?
    fn says_nothing(&self, node: &Node, parent: &Node) -> Result<bool> {
        let stands_on = node.record.form == Form::Delta && node.record.parent.as_ref() == Some(&parent.id);
        Ok(stands_on && overlay::says_nothing(&self.tree(node)?)?)
    }

    /// Gives the state that a box is in already the name that was asked for.
    pub(crate) fn reuse(&self, node: &Node, state: &Node, how: &Freezing<'_>) -> Result<Node> {
        let name = match how.call {
            Call::Next => match self.name_of(&state.id)? {
                None => Some(self.link_next(node, &state.id)?),
                // Nobody asked for a name of the box's own.
                known => return Ok(Node { name: known, ..state.clone() }),
            },
            call => self.call(state, call)?,
        };
        if name.is_some() {
            fault::point("freeze.named");
            self.note_reuse(node, state, name.as_ref(), how.description.cause)?;
        }
        Ok(Node { name, ..state.clone() })
    }

    /// Notes that a box was snapshotted as the state it is in, and that somebody wants that state.
    fn note_reuse(&self, node: &Node, state: &Node, name: Option<&Name>, cause: Cause) -> Result<()> {
        let is_there = node.record.life.past.last() == Some(&state.id);
        let life = if is_there { node.record.life.clone() } else { life_after(node, Some(&state.id)) };
        let life = life.called(name);
        if life != node.record.life {
            self.rewrite(node, |record| record.life = life)?;
        }
        if cause == Cause::Asked && state.record.cause != Cause::Asked {
            let place = self.object_dir(&state.id);
            let _change = lock::lock_file(&place.join("change"), Mode::Exclusive, &state.shown())?;
            Record { cause, ..self.node(&state.id)?.record }.write(&place, Durability::Synced)?;
        }
        Ok(())
    }

    /// Is a delta, in which directories may lie whose times alone are others, the same as what it lies on? O(its entries).
    pub(crate) fn changes_nothing(&self, delta: &Tree, parent: &Tree) -> Result<bool> {
        let times = DiffOptions { times: true };
        let changes = self.backend(Kind::Overlay)?.changes(delta, parent, &Baseline::Upper, times)?;
        Ok(is_nothing(&changes))
    }
}

/// Are these no changes to speak of? What is shown in a running box at a mount point that was missing moves the times of directories.
fn is_nothing(changes: &[Change]) -> bool {
    changes.iter().all(|change| change.entry_type == EntryType::Directory && change.is_time_only())
}
