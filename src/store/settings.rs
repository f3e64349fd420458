//! What a box is started with: settings that belong to it, whichever tree it has at the moment.
//!
//! They lie in the record's `life`, so they go on with the box from snapshot to snapshot, and its forks and snapshots get a copy.
//! Flags are kept in the words of the command line, because those are the only grammar that every one of them has, and what reads
//! them is what reads the command line. What the store itself needs to know of them is data: the volumes, and the home.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::files::Durability;
use super::lock::{self, Mode};
use super::{Base, Name, Node, State, Store, VolumeName, VolumeReference, fault};

/// The settings of a box. Fields it does not know are kept as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BoxSettings {
    /// The version of the words in `flags`; see [`GRAMMAR`](Self::GRAMMAR).
    pub grammar: u32,
    /// Flags of the commands that start a box: the long name without hyphens, and the values in their order; a flag that takes
    /// none has an empty list.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, Vec<String>>,
    /// The volumes that the flags name.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<VolumeName>,
    /// What the home directory is; `None` is the tree's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// The home directory of the person in a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// What it is.
    pub mode: HomeMode,
    /// Where it is: the same path on the host and inside.
    pub path: PathBuf,
    /// The volume of the box's own that holds it (`private`, `snapshot`), or what was changed in it (`overlay`: two directories,
    /// `upper` and `work`). It goes where the box goes: forks get a fork of it, and it is removed with the box.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
}

/// Where a home comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HomeMode {
    /// It is the host's: what is written is written there.
    Share,
    /// It is the box's own, begun from what the tree has.
    Private,
    /// It is the host's under a layer of the box's own, which takes what is written.
    Overlay,
    /// It is the box's own, begun as a copy of the host's.
    Snapshot,
}

impl HomeMode {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Private => "private",
            Self::Overlay => "overlay",
            Self::Snapshot => "snapshot",
        }
    }

    /// Does it need a volume of the box's own?
    pub fn has_volume(self) -> bool {
        self != Self::Share
    }
}

impl BoxSettings {
    /// The version of the words that this program writes. A higher one is refused when the box is started.
    pub const GRAMMAR: u32 = 1;

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty() && self.home.is_none() && self.other.is_empty()
    }

    /// Returns the box's own volume: the one with its home.
    pub fn own_volume(&self) -> Option<&VolumeName> {
        self.home.as_ref()?.volume.as_ref()
    }

    /// Do they name a volume?
    pub fn need(&self, volume: &VolumeName) -> bool {
        self.volumes.contains(volume) || self.own_volume() == Some(volume)
    }
}

impl Store {
    /// Changes the settings of a box; they hold from its next start on. Durable on return.
    ///
    /// A committed node is an error of kind `FailedPrecondition`. A kill leaves the old ones or the new ones.
    pub fn change_settings(
        &self,
        node: &Node,
        change: impl FnOnce(BoxSettings) -> Result<BoxSettings>,
    ) -> Result<Node> {
        let intent = || format!("change the settings of {}", node.shown());
        let _lock = self.share_to_write().context(intent)?;
        let node = self.settle(node).context(intent)?;
        let file = self.object_dir(&node.id).join("change");
        let _change = lock::lock_file(&file, Mode::Exclusive, &node.shown()).context(intent)?;
        // A commit may have moved the box to a node further up while we waited.
        let mut node = Node { name: node.name.clone(), ..self.node(&node.id)? };
        if node.record.continued_by.is_some() {
            let message = format!("{} has changed meanwhile", node.shown());
            return Err(Error::new(ErrorKind::Busy, message).hint("try again")).context(intent);
        }
        node.require_box()?;
        node.record.life.settings = change(std::mem::take(&mut node.record.life.settings))?;
        node.record.write(&self.object_dir(&node.id), Durability::Synced).context(intent)?;
        fault::point("settings.written");
        Ok(node)
    }

    /// Returns the settings that a fork of `base`, called `name`, starts with: those of a box or of a snapshot of one, with a fork of
    /// the home that is the box's own, which is durable on return. A tree has none.
    ///
    /// Of a snapshot the home is what it was then, where a snapshot of the volume with the same label says so; else as it is now.
    pub(crate) fn inherited_settings(&self, base: Base<'_>, name: &Name) -> Result<BoxSettings> {
        let Base::Node(node) = base else { return Ok(BoxSettings::default()) };
        // A commit that was cut short left the box's name on the node it sealed.
        let settled = node.record.continued_by.is_some().then(|| self.settle(node)).transpose()?;
        let node = settled.as_ref().unwrap_or(node);
        let label = node.name.as_ref().and_then(Name::of_snapshot).map(|(_, label)| label);
        let mut settings = node.record.life.settings.clone();
        if node.record.state == State::Committed && label.is_none() {
            return Ok(BoxSettings::default());
        }
        let Some(home) = &mut settings.home else { return Ok(settings) };
        let Some(own) = &home.volume else { return Ok(settings) };
        let now = VolumeReference { name: own.clone(), label: None };
        let then =
            label.map(|label| VolumeReference { label: Some(label.as_str().to_owned()), ..now.clone() });
        let found = |reference: &VolumeReference| match self.volume(reference) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        for from in then.into_iter().chain([now]) {
            if found(&from)? {
                home.volume = Some(self.fork_to_free(&from, name)?);
                return Ok(settings);
            }
        }
        // It was never started: the fork's home begins as the box's own would have.
        home.volume = Some(self.free_home_name(name, 1)?);
        Ok(settings)
    }

    fn fork_to_free(&self, from: &VolumeReference, name: &Name) -> Result<VolumeName> {
        for number in 1.. {
            let free = self.free_home_name(name, number)?;
            match self.fork_volume(from, &free) {
                // Somebody else was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                forked => return forked.map(|_| free),
            }
        }
        unreachable!("the numbers do not end before the store is full")
    }

    /// Returns a free name for the home of a box: that of the box as far as volumes can have it, and `.home`, with a number from
    /// `from` on where it is taken. Nothing reads the box's name out of it: the settings say which volume it is.
    pub fn free_home_name(&self, name: &Name, from: u32) -> Result<VolumeName> {
        let tame = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '-' };
        let stem: String = name.as_str().trim_start_matches('_').chars().map(tame).take(40).collect();
        let stem = if stem.is_empty() { "box" } else { stem.trim_end_matches('.') };
        for number in from.. {
            let text = if number == 1 { format!("{stem}.home") } else { format!("{stem}.home-{number}") };
            let volume = VolumeName::parse(&text)?;
            let is_free = match self.volume(&VolumeReference { name: volume.clone(), label: None }) {
                Ok(_) => false,
                Err(error) if error.kind() == ErrorKind::NotFound => self.needing(&volume)?.is_empty(),
                Err(error) => return Err(error),
            };
            if is_free {
                return Ok(volume);
            }
        }
        unreachable!("the numbers do not end before the store is full")
    }

    /// Returns what needs a volume by its settings: boxes, also those that were removed and can be brought back. O(objects).
    pub fn needing(&self, volume: &VolumeName) -> Result<Vec<Node>> {
        let boxes = self.boxes_with_settings()?.into_iter();
        Ok(boxes.filter(|node| node.record.life.settings.need(volume)).collect())
    }

    /// Returns the boxes, and the snapshots of boxes, that have settings.
    pub(crate) fn boxes_with_settings(&self) -> Result<Vec<Node>> {
        let names = self.all_names()?;
        let mut found = Vec::new();
        for id in self.ids()? {
            let node = match self.node(&id) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                node => node?,
            };
            let name = names.iter().find(|(_, target)| **target == id).map(|(name, _)| name.clone());
            let counts = node.record.state == State::Active || name.as_ref().is_some_and(Name::is_snapshot);
            if counts && !node.record.life.settings.is_empty() {
                found.push(Node { name, ..node });
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_later_versions_are_kept() {
        let text = r#"{"grammar":1,"flags":{"env":["A=1"],"privileged":[]},"volumes":["data"],
            "home":{"mode":"private","path":"/home/me","volume":"dev.home"},"later":[1]}"#;
        let read: BoxSettings = serde_json::from_str(text).unwrap();
        assert_eq!(read.own_volume().unwrap().as_str(), "dev.home");
        assert!(
            read.need(&VolumeName::parse("data").unwrap()) && !read.need(&VolumeName::parse("x").unwrap())
        );
        let again: BoxSettings = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!((again.other["later"].clone(), again), (serde_json::json!([1]), read));
        assert_eq!(serde_json::to_string(&BoxSettings::default()).unwrap(), r#"{"grammar":0}"#);
    }
}
