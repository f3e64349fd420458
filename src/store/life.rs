//! What belongs to a box whichever tree it has: it moves on when the box's name moves to another object.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::id::ObjectId;
use super::marks::Marks;
use super::merging::Merging;
use super::name::Name;
use super::path_text;
use super::policy::Policy;
use super::settings::BoxSettings;

/// The part of a box's record that its next object takes over. Fields it does not know are kept as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// The states that `undo` goes back to, oldest first; the last is the one that the box was last snapshotted as or restored to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<ObjectId>,
    /// The states that `redo` goes forward to, the next one last. Empty once the box has changed since an undo.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub future: Vec<ObjectId>,
    /// What its owner put on the box.
    #[serde(skip_serializing_if = "Marks::is_empty")]
    pub marks: Marks,
    /// When it is snapshotted by itself, and which of its snapshots stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// The state that the box was made on, once it stands on another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<ObjectId>,
    /// What it is started with.
    #[serde(skip_serializing_if = "BoxSettings::is_empty")]
    pub settings: BoxSettings,
    /// The highest number that a snapshot of the box was called; 0 where none was.
    #[serde(skip_serializing_if = "is_zero")]
    pub numbered: u32,
    /// A merge that left conflicts; it counts while the state that it made is in the past, so not after an undo. A restore of the whole
    /// box gives it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merging: Option<Merging>,
    /// The directory of the runtime bundle that it was made for.
    #[serde(with = "path_text::optional", skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Life {
    /// How many states back `undo` can go.
    pub const DEPTH: usize = 1000;

    /// Returns the merge whose conflicts are still to be settled.
    pub fn unfinished(&self) -> Option<&Merging> {
        self.merging.as_ref().filter(|merging| self.past.contains(&merging.state))
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what of it means something in a state of the box: what is forked of that starts as the box did.
    pub(super) fn of_a_state(&self) -> Self {
        Self { settings: self.settings.clone(), other: self.other.clone(), ..Self::default() }
    }

    /// Notes that the box is in a new state: what was undone before can not be redone any more.
    #[must_use]
    pub(crate) fn moved_to(mut self, state: &ObjectId) -> Self {
        self.future.clear();
        if self.past.last() != Some(state) {
            self.past.push(state.clone());
        }
        let too_many = self.past.len().saturating_sub(Self::DEPTH);
        self.past.drain(..too_many);
        self
    }

    /// Notes that a state of the box has this name, so that the next number is known without a look at all labels.
    #[must_use]
    pub(crate) fn called(mut self, name: Option<&Name>) -> Self {
        if let Some((_, label)) = name.and_then(Name::of_snapshot) {
            self.numbered = self.numbered.max(label.as_str().parse().unwrap_or(0));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_state_ends_the_future_and_the_past_is_bounded() {
        let id = |number: u32| ObjectId::parse(&format!("{number:0>8}")).unwrap();
        let mut life = Life { future: vec![id(9)], ..Life::default() };
        for number in 0..1005 {
            life = life.moved_to(&id(number)).moved_to(&id(number));
        }
        assert_eq!(life.future, []);
        assert_eq!((life.past.len(), &life.past[0]), (Life::DEPTH, &id(5)));
    }
}
