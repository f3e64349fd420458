//! Volumes: trees that are mounted in boxes and outlive them, with snapshots of their own.
//!
//! A volume is an object like a box, with the role `volume` in its record and the name `_volume/NAME`, which no tree can have; its
//! snapshots are committed objects called `_volume/NAME/LABEL`. So everything that holds for boxes (drafts, locks, commit points,
//! the sweep, fsck) holds for them, and a program that does not know volumes sees boxes of odd names. A volume is always a full tree,
//! readable without a mount: OverlayFS as a volume would need one, and gains nothing where nothing is beneath.

use std::fmt;
use std::fs::File;

use rootling_backends::replicate::{Options, replicate};
use rootling_backends::{CloneMode, Context, Cost, Dir, Error, ErrorKind, FS, Kind, Result};
use serde::{Deserialize, Serialize};

use super::files::Durability;
use super::freeze::{Call, Freezing, Taken, moving};
use super::lock::{self, Mode};
use super::{
    Base, Cause, CreateOptions, Description, KeptVolume, Label, Life, Marks, Name, Node, ObjectId, Record,
    Role, State, Store, fault,
};

/// The name of a volume: letters, digits and `_ . -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

impl VolumeName {
    /// Bytes in the longest name; that of a snapshot is as long.
    pub const MAX: usize = 59;

    /// Reads a name. Those of docker that end in a dot, or have two in a row, are refused.
    pub fn parse(text: &str) -> Result<Self> {
        if is_word(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is not the name of a volume")).hint(
            "use letters, digits and _ . - and begin with a letter or digit; a path begins with / or .",
        ))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn node_name(&self) -> Name {
        Name::parse_any(&format!("{}{}", Name::VOLUMES, self.0))
            .expect("its characters and length are among a name's")
    }

    pub(crate) fn snapshot_name(&self, label: &str) -> Result<Name> {
        if !is_word(label) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{label:?} is not the name of a snapshot"),
            )
            .hint("use letters, digits and _ . - and begin with a letter or digit"));
        }
        Name::parse_any(&format!("{}{}/{label}", Name::VOLUMES, self.0))
    }
}

fn is_word(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    first && rest && text.len() <= VolumeName::MAX && !text.contains("..") && !text.ends_with('.')
}

impl TryFrom<String> for VolumeName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A volume, or a snapshot of one: `NAME` or `NAME@LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReference {
    /// The volume.
    pub name: VolumeName,
    /// The snapshot.
    pub label: Option<String>,
}

impl VolumeReference {
    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, label) = text.split_once('@').map_or((text, None), |(name, label)| (name, Some(label)));
        let name = VolumeName::parse(name)?;
        if let Some(label) = label {
            name.snapshot_name(label)?;
        }
        Ok(Self { name, label: label.map(str::to_owned) })
    }

    /// Returns what its node is called.
    pub fn node_name(&self) -> Result<Name> {
        match &self.label {
            Some(label) => self.name.snapshot_name(label),
            None => Ok(self.name.node_name()),
        }
    }

    /// Reads what a node of a volume or snapshot is called; `None` for the name of a tree.
    pub fn of(name: &Name) -> Option<Self> {
        let text = name.as_str().strip_prefix(Name::VOLUMES)?;
        Self::parse(&text.replacen('/', "@", 1)).ok()
    }
}

impl fmt::Display for VolumeReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "{}@{label}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// The label of a volume's snapshot, by its node's name.
fn label(name: &Name) -> Option<String> {
    VolumeReference::of(name)?.label
}

/// How a volume is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveVolume {
    /// So that it cannot be brought back.
    pub for_good: bool,
    /// Also if boxes are started with it.
    pub force: bool,
}

impl Store {
    // ------------------------------------------------------------ reading

    /// Returns all volumes and snapshots, sorted by name, each volume before its snapshots.
    pub fn volumes(&self) -> Result<Vec<(VolumeReference, Node)>> {
        let _lock = self.share()?;
        let nodes = self.named_nodes(self.volume_names()?)?.into_iter();
        Ok(nodes.filter_map(|node| Some((VolumeReference::of(node.name.as_ref()?)?, node))).collect())
    }

    /// Returns a volume, or a snapshot; one that does not exist is an error of kind `NotFound`.
    pub fn volume(&self, reference: &VolumeReference) -> Result<Node> {
        self.named(&reference.node_name()?)?.ok_or_else(|| {
            let what = if reference.label.is_some() { "snapshot" } else { "volume" };
            let error = Error::new(
                ErrorKind::NotFound,
                format!("there is no {what} {reference} in store {:?}", self.root),
            );
            error.hint("`rootling volume ls` lists what there is")
        })
    }

    /// Returns the snapshots of a volume that have a name, by label. The volume itself need not exist any more.
    pub fn volume_snapshots(&self, volume: &VolumeName) -> Result<Vec<(String, Node)>> {
        let _lock = self.share()?;
        let nodes = self.named_nodes(self.volume_snapshot_names(volume)?)?.into_iter();
        Ok(nodes.filter_map(|node| Some((label(node.name.as_ref()?)?, node))).collect())
    }

    /// Returns the backend of volumes: the store's own, or where that is OverlayFS the one that keeps plain directories.
    pub fn volume_backend(&self) -> Kind {
        match self.default_backend() {
            Kind::Overlay if self.format.abilities.reflink.works => Kind::Reflink,
            Kind::Overlay => Kind::Copy,
            kind => kind,
        }
    }

    // ------------------------------------------------------------ making

    /// Makes a volume: empty, or with the content and attributes of a directory.
    ///
    /// Durable on return. A name that is taken is an error of kind `AlreadyExists`. A failure or a kill leaves nothing but what the sweep removes.
    pub fn create_volume(&self, name: &VolumeName, content: Option<&Dir>) -> Result<Node> {
        let intent = || format!("make volume {name}");
        let made = {
            let _lock = self.share_to_write().context(intent)?;
            self.make_volume(name, content).context(intent)
        };
        if made.is_err() {
            // Best effort: what was made for nothing is the sweep's, too.
            drop(self.empty_trash());
        }
        made
    }

    fn make_volume(&self, name: &VolumeName, content: Option<&Dir>) -> Result<Node> {
        let node_name = name.node_name();
        if self.resolve_name(&node_name)?.is_some() {
            return Err(self.volume_taken(name));
        }
        self.publish_volume(content, Some(&node_name)).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => self.volume_taken(name),
            _ => error,
        })
    }

    pub(super) fn volume_taken(&self, name: &VolumeName) -> Error {
        Error::new(ErrorKind::AlreadyExists, format!("there is a volume {name} already"))
            .hint(format!("choose another name, or remove it: rootling volume rm {name}"))
    }

    /// Makes an object of the role; the caller holds the store's lock.
    fn publish_volume(&self, content: Option<&Dir>, name: Option<&Name>) -> Result<Node> {
        self.publish_volume_of(name, |root, kind| {
            let clone = if kind == Kind::Copy { CloneMode::Never } else { CloneMode::Auto };
            content.map_or_else(
                || Ok(Cost::default()),
                |content| replicate(content, root, &Options::from(clone)),
            )
        })
    }

    /// Makes an object of the role, of what `fill` makes of an empty tree; the caller holds the store's lock.
    pub(super) fn publish_volume_of(
        &self,
        name: Option<&Name>,
        fill: impl FnOnce(&Dir, Kind) -> Result<Cost>,
    ) -> Result<Node> {
        let kind = self.volume_backend();
        let draft = self.draft()?;
        let backend = self.backend(kind)?;
        backend.create(&draft.slot)?;
        let mut record = Record { role: Role::Volume, ..Record::new(draft.id.clone(), kind, State::Active) };
        record.cost = fill(&Dir::open(draft.slot.join(FS))?, kind)?;
        if record.cost != Cost::default() {
            backend.barrier(&draft.slot)?;
        }
        fault::point("volume.filled");
        self.publish(draft, &record, name, Durability::Synced)
    }

    /// Opens a volume for use, with a lock that says it is in use; makes it where there is none.
    ///
    /// One that is new, or empty and used by nobody, gets what is in `content` first. A snapshot cannot be used: fork it.
    pub fn use_volume(&self, name: &VolumeName, content: Option<&Dir>) -> Result<(Node, File)> {
        let intent = || format!("use volume {name}");
        loop {
            let node = match self.named(&name.node_name()).context(intent)? {
                Some(node) => node,
                None => match self.create_volume(name, content) {
                    // Somebody else was faster.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    made => made?,
                },
            };
            if let Some(content) = content
                && is_empty(&self.volume_dir(&node).context(intent)?).context(intent)?
                && !is_empty(content).context(intent)?
            {
                self.fill_volume(name, &node, content).context(intent)?;
                self.empty_trash().context(intent)?;
            }
            return self.open_box(&node).context(intent);
        }
    }

    fn volume_dir(&self, node: &Node) -> Result<Dir> {
        Dir::open(self.object_dir(&node.id).join(FS))
    }

    /// Puts a filled tree in the place of an empty one; does nothing where somebody uses that.
    fn fill_volume(&self, name: &VolumeName, node: &Node, content: &Dir) -> Result<()> {
        let _lock = self.share_to_write()?;
        let change = self.object_dir(&node.id).join("change");
        let _change = lock::lock_file(&change, Mode::Exclusive, name.as_str())?;
        let Some(alone) = lock::try_lock_dir(&self.object_dir(&node.id), Mode::Exclusive)? else {
            return Ok(());
        };
        // Once more, now that it cannot change.
        let same = self.resolve_name(&name.node_name())?.as_ref() == Some(&node.id);
        if !same || !is_empty(&self.volume_dir(node)?)? {
            return Ok(());
        }
        let filled = self.publish_volume(Some(content), None)?;
        self.put_in_place(name, node, &filled.id, alone)
    }

    /// Moves a volume's name to another object, in one step; the old one goes to the trash. The caller has it alone.
    pub(super) fn put_in_place(
        &self,
        name: &VolumeName,
        old: &Node,
        new: &ObjectId,
        alone: File,
    ) -> Result<()> {
        fault::point("volume.made");
        self.switch(&name.node_name(), new)?;
        fault::point("volume.switched");
        self.discard(&old.id, old.record.parent.as_ref(), Some(alone))
    }

    // ------------------------------------------------------------ snapshots

    /// Makes the present state of a volume a snapshot, used or not; without a label it gets the next number.
    ///
    /// Durable on return. O(1) with btrfs, else O(changed files). The first one is O(files).
    pub fn snapshot_volume(&self, name: &VolumeName, label: Option<&str>) -> Result<(String, Node)> {
        let node = self.volume(&VolumeReference { name: name.clone(), label: None })?;
        loop {
            let wanted = match label {
                Some(label) => label.to_owned(),
                None => self.next_label(name)?,
            };
            match self.commit(&node, &name.snapshot_name(&wanted)?, &Description::default()) {
                // Somebody else took the number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && label.is_none() => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let message = format!("there is a snapshot {name}@{wanted} already");
                    return Err(Error::new(ErrorKind::AlreadyExists, message).hint(format!(
                        "choose another name, or remove it: rootling volume rm {name}@{wanted}"
                    )));
                }
                made => return made.map(|node| (wanted, node)),
            }
        }
    }

    fn next_label(&self, name: &VolumeName) -> Result<String> {
        Ok(self.last_number_of_volume(name)?.saturating_add(1).to_string())
    }

    pub(crate) fn last_number_of_volume(&self, name: &VolumeName) -> Result<u32> {
        let names = self.volume_snapshot_names(name)?.into_keys();
        Ok(names.filter_map(|name| label(&name)?.parse().ok()).max().unwrap_or(0))
    }

    /// Makes a volume with the content of a snapshot, or of a volume as it stands. Durable on return.
    pub fn fork_volume(&self, from: &VolumeReference, name: &VolumeName) -> Result<Node> {
        let node = self.volume(from)?;
        let options = CreateOptions { backend: Some(self.volume_backend()), ..CreateOptions::default() };
        match self.create(Base::Node(&node), &name.node_name(), options) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(self.volume_taken(name)),
            made => made,
        }
    }

    /// Gives a volume the content of one of its snapshots; what it held becomes a snapshot first, whose label is returned.
    ///
    /// One that is in use is an error of kind `Busy`. Durable on return; a kill leaves the volume as it was or as it shall be.
    pub fn restore_volume(&self, name: &VolumeName, label: &str) -> Result<String> {
        let intent = || format!("restore volume {name} to {name}@{label}");
        let snapshot = self.volume(&VolumeReference { name: name.clone(), label: Some(label.to_owned()) })?;
        let now = self.volume(&VolumeReference { name: name.clone(), label: None })?;
        self.lock_unused(&now).map(drop).context(intent)?;
        let (kept, _) = self.snapshot_volume(name, None).context(intent)?;
        self.replace_by(name, &snapshot, now).context(intent)?;
        self.empty_trash().context(intent)?;
        Ok(kept)
    }

    /// Returns a volume; one that does not exist is an error of kind `NotFound`.
    pub(crate) fn any_volume(&self, name: &VolumeName) -> Result<Node> {
        self.volume(&VolumeReference { name: name.clone(), label: None })
    }

    /// Makes the present state of a volume a snapshot of this label, or of the next number where the label is taken.
    pub(crate) fn keep_volume(&self, name: &VolumeName, volume: &Taken, label: &Label) -> Result<Node> {
        let description = Description::default();
        let called = name.snapshot_name(label.as_str())?;
        let freeze = |call| {
            let how = Freezing { description: &description, call, exact: false };
            self.freeze_taken(volume, &how, &mut moving)
        };
        match self.resolve_name(&called)? {
            None => freeze(Call::As(&called)),
            Some(_) => freeze(Call::Next),
        }
    }

    /// Makes the present state of each volume a snapshot, where it is none yet.
    pub(crate) fn keep_volumes<'a>(
        &self,
        names: impl Iterator<Item = &'a VolumeName>,
    ) -> Result<Vec<KeptVolume>> {
        let mut kept = Vec::new();
        for name in names {
            // One that is gone has no state to keep.
            if let Some(node) = self.named(&name.node_name())? {
                let state = self.keep_state(&node)?;
                kept.push(KeptVolume { volume: name.clone(), snapshot: state.id });
            }
        }
        Ok(kept)
    }

    fn keep_state(&self, node: &Node) -> Result<Node> {
        let description = Description { cause: Cause::Safety, ..Description::default() };
        self.freeze(node, &Freezing { description: &description, call: Call::Next, exact: true })
    }

    /// Gives a volume the content of a snapshot of it, and makes it anew where it is gone. A second call finds nothing to do.
    pub(crate) fn restore_volume_to(&self, name: &VolumeName, snapshot: &Node) -> Result<()> {
        let Some(now) = self.named(&name.node_name())? else {
            let options = CreateOptions { backend: Some(self.volume_backend()), ..CreateOptions::default() };
            return self.create(Base::Node(snapshot), &name.node_name(), options).map(drop);
        };
        self.lock_unused(&now).map(drop)?;
        if self.keep_state(&now)?.id == snapshot.id {
            return Ok(());
        }
        self.replace_by(name, snapshot, now)
    }

    /// Puts a fork of `snapshot` in the place of a volume that nobody uses.
    fn replace_by(&self, name: &VolumeName, snapshot: &Node, now: Node) -> Result<()> {
        let _lock = self.share_to_write()?;
        let change = self.object_dir(&now.id).join("change");
        let _change = lock::lock_file(&change, Mode::Exclusive, name.as_str())?;
        let alone = self.lock_unused(&now)?;
        if self.resolve_name(&name.node_name())?.as_ref() != Some(&now.id) {
            let message = format!("volume {name} has changed meanwhile");
            return Err(Error::new(ErrorKind::Busy, message).hint("try again"));
        }
        // The snapshot gave it another parent.
        let now = Node { record: self.node(&now.id)?.record, ..now };
        let forked = self.fork_unnamed(snapshot, now.record.life.marks.clone())?;
        self.put_in_place(name, &now, &forked, alone)
    }

    fn fork_unnamed(&self, snapshot: &Node, marks: Marks) -> Result<ObjectId> {
        let _held = self.hold(snapshot)?;
        let draft = self.draft()?;
        let (record, _) = self.fork_into(
            &draft,
            snapshot,
            self.volume_backend(),
            rootling_backends::ForkOptions::default(),
        )?;
        let record = Record { life: Life { marks, ..record.life }, ..record };
        let node = self.publish(draft, &record, None, Durability::Synced)?;
        Ok(node.id)
    }

    /// Removes a volume or a snapshot so that it can be brought back, or for good. The snapshots of a volume stay: it can be forked from
    /// them again.
    ///
    /// A volume in use is an error of kind `Busy`, one that boxes are started with of kind `FailedPrecondition` unless that is forced.
    /// What others still need of a snapshot stays until they go.
    pub fn remove_volume(&self, reference: &VolumeReference, how: RemoveVolume) -> Result<()> {
        let node = self.volume(reference)?;
        let is_snapshot = reference.label.is_some();
        let boxes = if how.force || is_snapshot { Vec::new() } else { self.needing(&reference.name)? };
        if !boxes.is_empty() {
            let boxes: Vec<String> = boxes.iter().map(Node::shown).collect();
            let message = format!("volume {reference} is mounted by {} when it starts", boxes.join(", "));
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
                "rootling volume rm --force {reference} removes it; a start makes an empty one anew"
            )));
        }
        if how.for_good { self.remove(&node, is_snapshot) } else { self.retire(&node, is_snapshot) }
    }

    /// Returns the volumes that nobody uses and no box is started with, and that are not locked; those of builds only where `caches` are
    /// meant, too.
    pub fn unneeded_volumes(&self, caches: bool) -> Result<Vec<(VolumeName, Node)>> {
        let boxes = self.boxes_with_settings()?;
        let mut unneeded = Vec::new();
        for (reference, node) in self.volumes()? {
            let is_kept = node.record.marks().locked || (reference.name.is_cache() && !caches);
            let needed =
                is_kept || boxes.iter().any(|found| found.record.life.settings.need(&reference.name));
            if reference.label.is_none() && !needed && !self.is_in_use(&node)? {
                unneeded.push((reference.name, node));
            }
        }
        Ok(unneeded)
    }
}

fn is_empty(dir: &Dir) -> Result<bool> {
    Ok(dir.entries()?.iter().all(|entry| entry.name == "lost+found"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn volumes_have_names_that_no_tree_can_have() {
        let name = VolumeName::parse("db-1.2_x").unwrap();
        assert!(Name::parse(name.node_name().as_str()).is_err());
        for bad in ["", ".x", "-x", "a/b", "a@b", "a..b", "a.", "ä", &"x".repeat(60)] {
            assert!(VolumeName::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_node_is_called_says_which_volume_it_is(
            name in "[a-zA-Z0-9][a-zA-Z0-9_-]{0,58}",
            label in proptest::option::of("[a-zA-Z0-9][a-zA-Z0-9_-]{0,58}"),
        ) {
            let reference = VolumeReference { name: VolumeName::parse(&name).unwrap(), label };
            let node_name = reference.node_name().unwrap();
            let read = VolumeReference::of(&Name::decode(&node_name.encoded()).unwrap());
            prop_assert_eq!(read, Some(reference.clone()));
            prop_assert_eq!(VolumeReference::parse(&reference.to_string()).unwrap(), reference);
        }
    }
}
