//! What the store knows of one object: `meta.json` beside its tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rootling_backends::{Baseline, Context, Cost, Error, ErrorKind, Form, Kind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::{self, Durability};
use super::held::Held;
use super::id::ObjectId;
use super::layers::{Image, Layer};
use super::life::Life;
use super::line::{Documents, PackedState};
use super::marks::Marks;
use super::name::Name;
use super::promote::Promotion;
use super::steps::{Built, StepRecord};
use super::volumes::VolumeName;
use crate::image::{Digest, ImageConfig};

/// The version of the record that this program writes. A higher one is refused.
pub(super) const SCHEMA: u32 = 1;

/// Bytes in the largest record that is read.
const LIMIT: u64 = 1 << 20;

/// May the node change?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Yes: it is a box.
    Active,
    /// No, never again: it may become a parent.
    Committed,
}

/// What a tree is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is a root file system.
    #[default]
    Root,
    /// It is a volume, or a snapshot of one: mounted in boxes.
    Volume,
}

impl Role {
    fn is_root(&self) -> bool {
        *self == Self::Root
    }
}

/// Why a committed node was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Somebody asked for it.
    #[default]
    Asked,
    /// Something was forked of a box, and stands on the box's state of that moment.
    Fork,
    /// What a box held was about to be replaced: restore, undo, redo, apply, rebase.
    Safety,
    /// A policy, or a shell that makes a node for each command.
    Automatic,
}

impl Cause {
    fn is_asked(&self) -> bool {
        *self == Self::Asked
    }
}

/// The record of one object. Fields it does not know are kept as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `SCHEMA` of the program that wrote it.
    pub schema: u32,
    /// The object's id, as its directory is named.
    pub id: ObjectId,
    /// Active or committed.
    pub state: State,
    /// What the tree is for.
    #[serde(default, skip_serializing_if = "Role::is_root")]
    pub role: Role,
    /// The backend that made the tree.
    pub backend: Kind,
    /// Can the tree be read by itself?
    pub form: Form,
    /// The committed node it was made from. A delta stands on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ObjectId>,
    /// The object that holds this node's `fs/`, where that is not its own: what a delta changes is the same whatever it lies on, and
    /// two images of equal layers differ only in what they say of themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<ObjectId>,
    /// Which layer of an image the tree is against the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Layer>,
    /// Which image it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// For a delta over something outside the store: the directory it stands on (`/` for a fork of the host).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<PathBuf>,
    /// Where the search for changes against the parent starts.
    pub baseline: Baseline,
    /// When the object was made.
    pub created: Timestamp,
    /// Where the content came from, for imports: the reference as it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// For imports: what those have in common that make the same tree, where that was known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_key: Option<Digest>,
    /// For a delta that several were merged into: how many steps of history it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// The state that came before, where that is not the parent: a running delta is snapshotted beside its box, not below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<ObjectId>,
    /// Why it was committed.
    #[serde(default, skip_serializing_if = "Cause::is_asked")]
    pub cause: Cause,
    /// When it may be removed without being asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// For a committed node: its name was let go, so that it goes as soon as nothing stands on it but whole trees, which then follow
    /// its parent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub let_go: bool,
    /// What its owner put on a committed node; what is on a box is in its `life`.
    #[serde(default, skip_serializing_if = "Marks::is_empty")]
    pub marks: Marks,
    /// What belongs to a box, whichever tree it has at the moment.
    #[serde(default, skip_serializing_if = "Life::is_empty")]
    pub life: Life,
    /// What the box is about to become: a restore that was begun, and is finished by whoever opens the box next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becoming: Option<Becoming>,
    /// The volumes that were kept together with this state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<KeptVolume>,
    /// For a node that was a box and was sealed in place: the box, whose name is about to move on to a node above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continued_by: Option<Name>,
    /// For a box that is about to take another's name: what is left to do once it has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
    /// Which step of a build it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepRecord>,
    /// For an image that was built here: what it says beside its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<Built>,
    /// For what was built here: the documents that were made of it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Documents>,
    /// For a tree that another program names and removes itself: what that calls it, and says of it. The link in `held/` says whether it
    /// still does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Box<Held>>,
    /// What it is, in the words of who committed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Who committed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// For a state that left the store as a layer of an image: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedState>,
    /// How the tree wants to be run; what is made from it wants the same.
    #[serde(default, skip_serializing_if = "ImageConfig::is_empty")]
    pub config: ImageConfig,
    /// What making the tree cost.
    pub cost: Cost,
    /// Fields of later versions.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A volume as it was when a box that uses it was snapshotted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVolume {
    /// Which.
    pub volume: VolumeName,
    /// The snapshot.
    pub snapshot: ObjectId,
}

/// A restore that was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Becoming {
    /// The state that the tree becomes.
    pub state: ObjectId,
    /// Which part of the tree.
    pub part: Part,
    /// The volumes that go back with it, each to its snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<KeptVolume>,
    /// What belongs to the box once it is done.
    pub life: Life,
}

/// Which part of a tree is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Nothing is left to do in the tree.
    Nothing,
    /// All of it.
    All,
    /// What is at these paths, relative to its root, and below.
    Paths(Vec<PathBuf>),
}

impl Record {
    /// Returns the record of a tree of its own that was made now, with nothing more to say of it.
    pub(crate) fn new(id: ObjectId, backend: Kind, state: State) -> Self {
        Self {
            schema: SCHEMA,
            id,
            state,
            role: Role::Root,
            backend,
            form: Form::Full,
            parent: None,
            tree: None,
            layer: None,
            image: None,
            outside: None,
            baseline: Baseline::None,
            created: Timestamp::now(),
            source: None,
            source_key: None,
            steps: None,
            follows: None,
            cause: Cause::Asked,
            expires: None,
            let_go: false,
            marks: Marks::default(),
            life: Life::default(),
            becoming: None,
            volumes: Vec::new(),
            continued_by: None,
            promotion: None,
            step: None,
            built: None,
            made: None,
            held: None,
            message: None,
            author: None,
            packed: None,
            config: ImageConfig::default(),
            cost: Cost::default(),
            other: BTreeMap::new(),
        }
    }

    /// Returns all other objects that this one cannot do without.
    pub(super) fn needs(&self) -> impl Iterator<Item = &ObjectId> {
        let becoming = self.becoming.iter().flat_map(|becoming| {
            std::iter::once(&becoming.state).chain(becoming.volumes.iter().map(|kept| &kept.snapshot))
        });
        self.parent
            .iter()
            .chain(&self.tree)
            .chain(becoming)
            .chain(self.volumes.iter().map(|kept| &kept.snapshot))
    }

    /// Returns how many steps of history the node's own tree says, if it is a delta.
    pub(super) fn steps(&self) -> u32 {
        self.steps.unwrap_or(1)
    }

    /// Is it an image, that came from elsewhere or was built here?
    pub fn is_image(&self) -> bool {
        self.image.is_some() || self.built.is_some()
    }

    /// Returns the state that came before this one: what `NAME~1` means.
    pub fn predecessor(&self) -> Option<&ObjectId> {
        self.follows.as_ref().or(self.parent.as_ref())
    }

    /// Returns the record's place in an object's directory.
    pub fn path(slot: &Path) -> PathBuf {
        slot.join("meta.json")
    }

    /// Reads the record of the object in `slot`.
    pub(crate) fn read(slot: &Path) -> Result<Self> {
        let path = Self::path(slot);
        let record: Self = read(&path)?;
        require_known(&path, record.schema)?;
        Ok(record)
    }

    /// Reads what the tree of the object in `slot` stands on, and no more.
    pub(crate) fn read_ground(slot: &Path) -> Result<Ground> {
        let path = Self::path(slot);
        let ground: Ground = read(&path)?;
        require_known(&path, ground.schema)?;
        Ok(ground)
    }

    /// Replaces the record of the object in `slot` in one step.
    pub(crate) fn write(&self, slot: &Path, durability: Durability) -> Result<()> {
        let path = Self::path(slot);
        files::replace(&path, &self.text(), durability).context(|| format!("write record {path:?}"))
    }

    /// Writes the record where it does not count yet.
    pub(crate) fn write_aside(&self, path: &Path) -> Result<()> {
        files::write_new(path, &self.text()).context(|| format!("write record {path:?}"))
    }

    /// Writes the first record of a draft: one that is half written is of a draft that nobody has locked any more.
    pub(crate) fn write_first(&self, slot: &Path) -> Result<()> {
        self.write_aside(&Self::path(slot))
    }

    /// As [`write_first`](Self::write_first), and on disk on return.
    pub(crate) fn write_first_synced(&self, slot: &Path) -> Result<()> {
        let path = Self::path(slot);
        files::write_new_synced(&path, &self.text()).context(|| format!("write record {path:?}"))
    }

    fn text(&self) -> Vec<u8> {
        let mut text =
            serde_json::to_vec_pretty(self).expect("a record has no map with keys that are not text");
        text.push(b'\n');
        text
    }
}

/// The part of a record that says what a tree stands on.
#[derive(Debug, Deserialize)]
pub(crate) struct Ground {
    schema: u32,
    /// Can the tree be read by itself?
    pub(crate) form: Form,
    /// What it was made from.
    pub(crate) parent: Option<ObjectId>,
    /// The object that holds its `fs/`, where that is not its own.
    pub(crate) tree: Option<ObjectId>,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = files::read(path, LIMIT).context(|| format!("read record {path:?}"))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("record {path:?} is damaged: {error}"))
            .hint("run `rootling fsck` to see what else is damaged")
    })
}

fn require_known(path: &Path, schema: u32) -> Result<()> {
    if schema <= SCHEMA {
        return Ok(());
    }
    let message = format!("record {path:?} has schema {schema}, this program reads {SCHEMA}");
    Err(Error::new(ErrorKind::Unsupported, message).hint("use a newer rootling"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            form: Form::Delta,
            parent: Some(ObjectId::parse("0123abcd").unwrap()),
            baseline: Baseline::Upper,
            created: Timestamp::UNIX_EPOCH,
            ..Record::new(ObjectId::parse("0abcdefg").unwrap(), Kind::Overlay, State::Active)
        }
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let dir = tempfile::tempdir().unwrap();
        record().write(dir.path(), Durability::Lazy).unwrap();
        let path = Record::path(dir.path());
        let text = std::fs::read_to_string(&path).unwrap().replacen('{', "{\"later\": [1, 2],", 1);
        std::fs::write(&path, text).unwrap();
        let read = Record::read(dir.path()).unwrap();
        read.write(dir.path(), Durability::Synced).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap().other["later"], serde_json::json!([1, 2]));
        assert_eq!(Record { other: BTreeMap::new(), ..read }, record());
    }

    #[test]
    fn a_later_schema_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        Record { schema: SCHEMA + 1, ..record() }.write(dir.path(), Durability::Lazy).unwrap();
        let error = Record::read(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.first_hint(), Some("use a newer rootling"));
    }

    #[test]
    fn a_damaged_record_is_corrupt_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", "{\"schema\": 1}", "\u{0}\u{0}"] {
            std::fs::write(Record::path(dir.path()), text).unwrap();
            assert_eq!(Record::read(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt, "{text:?}");
        }
    }
}
