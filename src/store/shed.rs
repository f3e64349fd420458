//! A state sheds what belonged to its box.
//!
//! A box that is sealed in place takes its record along, in which lies what undo and redo go to: up to a thousand ids, in every state
//! that the box has been in. It is needed there until the box's name has moved on ([`settle`](Store::settle)), and means nothing afterwards.
//! So the next time that the box is sealed, the state beneath sheds it: the shorter record is written aside, the sync that the sealing
//! begins with makes it durable, and then it takes the place of the long one.

use std::fs::{self, File};
use std::path::PathBuf;

use rootling_backends::{Context, Result};

use super::{Node, Record, State, Store, fault, files, lock};

/// A shorter record that is written and does not count yet.
#[derive(Debug)]
pub(crate) struct Shedding {
    aside: PathBuf,
    record: PathBuf,
    /// Nobody else changes the record meanwhile.
    _change: File,
}

impl Store {
    /// Writes the shorter record of the state that a box stands on, if it was this box. The caller has taken the box.
    pub(crate) fn begin_shedding(&self, node: &Node) -> Option<Shedding> {
        // Best effort: the long record is as good.
        self.shorten(node).unwrap_or_else(|error| {
            log::debug!("{error:?}");
            None
        })
    }

    fn shorten(&self, node: &Node) -> Result<Option<Shedding>> {
        let (Some(parent), Some(name)) = (&node.record.parent, &node.name) else { return Ok(None) };
        let slot = self.object_dir(parent);
        // Not waited for: who changes the record of an earlier state may be waiting for ours.
        let Some(change) = lock::try_lock_file(&slot.join("change"), lock::Mode::Exclusive)? else {
            return Ok(None);
        };
        let record = Record::read(&slot)?;
        let life = record.life.of_a_state();
        if record.state == State::Active || record.continued_by.as_ref() != Some(name) || record.life == life
        {
            return Ok(None);
        }
        let path = Record::path(&slot);
        let aside = files::aside(&path);
        files::remove_if_exists(&aside)?;
        Record { life, ..record }.write_aside(&aside)?;
        Ok(Some(Shedding { aside, record: path, _change: change }))
    }
}

impl Shedding {
    /// Makes the shorter record count. What was written before must be durable; what this does need not be.
    pub(crate) fn finish(self) {
        fault::point("shed.written");
        let moved = fs::rename(&self.aside, &self.record)
            .context(|| format!("rename({:?}, {:?})", self.aside, self.record));
        // Best effort, as above.
        if let Err(error) = moved {
            log::debug!("{error:?}");
        }
        fault::point("shed.done");
    }
}
