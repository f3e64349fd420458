//! Undo and redo: a box goes back and forth along the states that it was in.
//!
//! ```text
//!   origin - past - past - past | future - future
//!                           ^ the state that the box was last snapshotted as, or went to
//! ```
//!
//! What is not in that state any more is snapshotted first, and that snapshot is what redo goes to. States that were removed meanwhile
//! are passed over.

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::freeze::Taken;
use super::restore::{Journey, Moved, Present};
use super::{Life, Node, ObjectId, Store};

/// The states behind and before a box, the nearest last.
struct Line {
    behind: Vec<ObjectId>,
    ahead: Vec<ObjectId>,
}

impl Store {
    /// Takes a box back by so many states: what was changed since the last one counts as one, if anything was.
    ///
    /// Volumes that were kept with a state go back with it. Costs and guarantees are those of [`restore`](Self::restore). With nothing
    /// to undo it is an error of kind `FailedPrecondition`.
    pub fn undo(&self, node: &Node, steps: usize) -> Result<Moved> {
        self.along(node, "undo", |taken| {
            let mut line = self.line(&taken.node)?;
            let last = line.behind.last().map(|id| self.node(id)).transpose()?;
            let volumes = last.map(|last| last.record.volumes).unwrap_or_default();
            let present = self.keep_present(taken, None, &volumes)?;
            let is_changed = line.behind.last() != Some(&present.before.id);
            let (there, back) = (line.behind.len(), steps.saturating_sub(usize::from(is_changed)));
            if back >= there || steps == 0 {
                let possible = there.saturating_sub(usize::from(!is_changed));
                return Err(too_far(&taken.node, "undo", steps, possible));
            }
            if is_changed {
                line.ahead = vec![present.before.id.clone()];
            }
            line.ahead.extend(line.behind.drain(there - back..).rev());
            let journey = self.journey(&taken.node, line)?;
            Ok((present, journey))
        })
    }

    /// Takes a box forth again by so many states after an undo.
    ///
    /// One that was changed since is an error of kind `FailedPrecondition`: what could be redone would be lost behind it.
    pub fn redo(&self, node: &Node, steps: usize) -> Result<Moved> {
        self.along(node, "redo", |taken| {
            let mut line = self.line(&taken.node)?;
            if line.ahead.len() < steps || steps == 0 {
                return Err(too_far(&taken.node, "redo", steps, line.ahead.len()));
            }
            let state = self.present_state(&taken.node, true, true)?;
            if state.as_ref().map(|state| &state.id) != line.behind.last() {
                return Err(self.has_changed(&taken.node, &line));
            }
            let present = self.keep_present(taken, state, &[])?;
            line.behind.extend(line.ahead.drain(line.ahead.len() - steps..).rev());
            let journey = self.journey(&taken.node, line)?;
            Ok((present, journey))
        })
    }

    fn along(
        &self,
        node: &Node,
        verb: &str,
        plan: impl FnOnce(&Taken) -> Result<(Present, Journey)>,
    ) -> Result<Moved> {
        let intent = || format!("{verb} {}", node.shown());
        let moved = {
            let _lock = self.share_to_write().context(intent)?;
            let taken = self.take_unused(node).context(intent)?;
            let (present, journey) = plan(&taken).context(intent)?;
            let life = self.counted(&taken, &present, journey.life).context(intent)?;
            let journey = Journey { life, ..journey };
            self.travel(&taken, present, journey).context(intent)?
        };
        self.empty_trash().context(intent)?;
        Ok(moved)
    }

    /// Goes to the last of the states behind.
    fn journey(&self, node: &Node, line: Line) -> Result<Journey> {
        let Line { mut behind, ahead } = line;
        let target = self.node(behind.last().expect("the caller left one"))?;
        let origin = node.record.life.origin.clone().or_else(|| node.record.parent.clone());
        if behind.first() == origin.as_ref() {
            behind.remove(0);
        }
        let life = Life { past: behind, future: ahead, origin, ..node.record.life.clone() };
        Ok(Journey { volumes: target.record.volumes.clone(), target, life })
    }

    /// Returns the states of a box that still exist.
    fn line(&self, node: &Node) -> Result<Line> {
        let life = &node.record.life;
        let origin = life.origin.as_ref().or(node.record.parent.as_ref());
        let mut line = Line {
            behind: origin.into_iter().chain(&life.past).cloned().collect(),
            ahead: life.future.clone(),
        };
        for states in [&mut line.behind, &mut line.ahead] {
            states.retain(|id| self.object_dir(id).exists());
            states.dedup();
        }
        Ok(line)
    }

    fn has_changed(&self, node: &Node, line: &Line) -> Error {
        let ahead = line.ahead.iter().rev().map(|id| match self.name_of(id) {
            Ok(Some(name)) => name.to_string(),
            _ => id.to_string(),
        });
        let ahead: Vec<String> = ahead.collect();
        let message = format!("{} has changed since the undo", node.shown());
        Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
            "what could be redone is {}: rootling restore {} --to {}",
            ahead.join(", "),
            node.label(),
            ahead[0]
        ))
    }
}

fn too_far(node: &Node, verb: &str, steps: usize, possible: usize) -> Error {
    let name = node.label();
    if steps == 0 {
        return Error::new(ErrorKind::InvalidInput, format!("{verb} by 0 states is nothing"))
            .hint(format!("one state: rootling {verb} {name}"));
    }
    let error = match possible {
        0 => Error::new(ErrorKind::FailedPrecondition, format!("there is nothing to {verb} in {name}")),
        1 => Error::new(ErrorKind::FailedPrecondition, format!("{name} can {verb} 1 state, not {steps}")),
        _ => Error::new(
            ErrorKind::FailedPrecondition,
            format!("{name} can {verb} {possible} states, not {steps}"),
        ),
    };
    error.hint(format!(
        "`rootling show {name}` lists its snapshots; to any of them: rootling restore {name}@LABEL"
    ))
}
