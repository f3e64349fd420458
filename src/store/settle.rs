//! What was cut short is finished by whoever opens the box next.

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::freeze::{life_after, what_is};
use super::lock::{self, Mode};
use super::{Node, State, Store};

impl Store {
    /// Returns what a node's name means now, and finishes a commit or a restore of it that was cut short.
    ///
    /// Such a commit left the box's name on the node that it sealed (see `freeze_in_place`); such a restore is written in the
    /// box's record. The caller holds the store's lock, and none of the box.
    pub(crate) fn settle(&self, node: &Node) -> Result<Node> {
        let Some(name) = &node.name else { return self.node(&node.id) };
        let gone = || Error::new(ErrorKind::NotFound, format!("{name} was removed meanwhile"));
        let unfinished = |node: &Node| {
            node.record.state == State::Committed && node.record.continued_by.as_ref() == Some(name)
        };
        let node = self.named(name)?.ok_or_else(gone)?;
        if node.record.becoming.is_some() {
            self.finish(&node)?;
            return self.named(name)?.ok_or_else(gone);
        }
        if !unfinished(&node) {
            return Ok(node);
        }
        let what = format!("box {name}");
        let _change = lock::lock_file(&self.object_dir(&node.id).join("change"), Mode::Exclusive, &what)?;
        let node = self.named(name)?.ok_or_else(gone)?;
        if !unfinished(&node) {
            return Ok(node);
        }
        let above = self.stack_on(&node, life_after(&node, Some(&node.id)))?;
        self.switch(name, &above)?;
        Ok(Node { name: Some(name.clone()), ..self.node(&above)? })
    }

    /// Does what is left to do of a restore.
    fn finish(&self, node: &Node) -> Result<()> {
        let place = self.object_dir(&node.id);
        let what = what_is(node);
        let _change = match lock::lock_file(&place.join("change"), Mode::Exclusive, &what) {
            // Another restore has put another tree in its place.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            locked => locked?,
        };
        let node = Node { name: node.name.clone(), ..self.node(&node.id)? };
        let moved = node.name.as_ref().map(|name| self.resolve_name(name)).transpose()?;
        if node.record.becoming.is_none() || moved.flatten().as_ref() != Some(&node.id) {
            return Ok(());
        }
        // Whoever opens the box comes here first, so that nobody has it open.
        let _alone = self.lock_unused(&node)?;
        let was = self.present_state(&node, false, false)?;
        self.finish_taken(&node, was.as_ref()).context(|| format!("finish the restore of {what}"))
    }
}
