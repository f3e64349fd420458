//! What a box is started with: settings that belong to it, whichever tree it has at the moment.
//!
//! They lie in the record's `life`, so they go on with the box from snapshot to snapshot, and its forks and snapshots get a copy.
//! Flags are kept in the words of the command line, because those are the only grammar that every one of them has, and what reads
//! them is what reads the command line. What the store itself needs to know of them is data: the volumes, and the home.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rayon::prelude::*;
use rootling_backends::{Context, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{Base, CreateOptions, Name, Node, ObjectId, State, Store, VolumeName, VolumeReference};

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
    /// Whose the box is: the user on the host whom `me` in the flags and `home` mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub me: Option<u32>,
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
        self.change_record(node, |record| {
            let of_box = Node { record: record.clone(), ..node.clone() };
            of_box.require_box()?;
            record.life.settings = change(std::mem::take(&mut record.life.settings))?;
            Ok(())
        })
        .context(|| format!("change the settings of {}", node.shown()))
    }

    /// Returns the settings that a fork of `base`, called `name`, starts with: those of a box or of a snapshot of one, with a fork of
    /// the home that is the box's own, which is durable on return. A tree has none.
    ///
    /// Of a snapshot the home is what it was then, where the snapshot was taken with its volumes; else as it is now.
    ///
    /// Without `with_home` the home is the tree's.
    pub fn inherited_settings(&self, base: Base<'_>, name: &Name, with_home: bool) -> Result<BoxSettings> {
        let Base::Node(node) = base else { return Ok(BoxSettings::default()) };
        // A commit that was cut short left the box's name on the node it sealed.
        let settled = node.record.continued_by.is_some().then(|| self.settle(node)).transpose()?;
        let node = settled.as_ref().unwrap_or(node);
        let label = node.name.as_ref().and_then(Name::of_snapshot).map(|(_, label)| label);
        let mut settings = node.record.life.settings.clone();
        if node.record.state == State::Committed && label.is_none() {
            return Ok(BoxSettings::default());
        }
        if !with_home {
            settings.home = None;
        }
        let Some(home) = &mut settings.home else { return Ok(settings) };
        let Some(own) = &home.volume else { return Ok(settings) };
        let then =
            node.record.volumes.iter().find(|kept| kept.volume == *own).map(|kept| kept.snapshot.clone());
        let from = match then {
            Some(id) => Some(self.node(&id)?),
            None => self.named(&own.node_name())?,
        };
        if let Some(from) = from {
            home.volume = Some(self.fork_to_free(&from, name)?);
            return Ok(settings);
        }
        // It was never started: the fork's home begins as the box's own would have.
        home.volume = Some(self.free_home_name(name, 1)?);
        Ok(settings)
    }

    fn fork_to_free(&self, from: &Node, name: &Name) -> Result<VolumeName> {
        let options = CreateOptions { backend: Some(self.volume_backend()), ..CreateOptions::default() };
        for number in 1.. {
            let free = self.free_home_name(name, number)?;
            match self.create(Base::Node(from), &free.node_name(), options.clone()) {
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

    /// Returns the boxes, and the snapshots of boxes, that have settings. O(objects), read in parallel.
    pub(crate) fn boxes_with_settings(&self) -> Result<Vec<Node>> {
        let mut names: BTreeMap<ObjectId, Name> = BTreeMap::new();
        for (name, id) in self.all_names()? {
            // A snapshot is one whatever else it is called.
            if name.is_snapshot() || !names.contains_key(&id) {
                names.insert(id, name);
            }
        }
        let read = self.ids()?.into_par_iter().filter_map(|id| {
            let node = match self.node(&id) {
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                Err(error) => return Some(Err(error)),
                Ok(node) => node,
            };
            let name = names.get(&id).cloned();
            let counts = node.record.state == State::Active || name.as_ref().is_some_and(Name::is_snapshot);
            (counts && !node.record.life.settings.is_empty()).then_some(Ok(Node { name, ..node }))
        });
        read.collect()
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
