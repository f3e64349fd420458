//! What is said of a held tree: in its record, and to who asks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rootling_backends::{Access, Error, ErrorKind, Mount, Result};
use serde::{Deserialize, Serialize};

use super::super::ObjectId;
use crate::image::{ChainId, Digest};

/// Bytes of the longest key.
const LONGEST_KEY: usize = 8192;

/// Bytes of all labels of a tree together: a record has its limit.
const MOST_LABEL_BYTES: usize = 256 << 10;

/// What may become of a held tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldKind {
    /// It shows its parent, and never changes.
    View,
    /// It is written to, and may be committed.
    Active,
    /// It never changes again, and may be a parent.
    Committed,
}

/// The part of a record that makes its object a held tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What its holder calls it.
    pub key: String,
    /// What may become of it.
    pub kind: HeldKind,
    /// The key of the tree that it was made on; empty for one made on nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// What its holder put on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was prepared, or committed.
    pub created: Timestamp,
    /// When that, or its labels, changed last.
    pub updated: Timestamp,
    /// What it is once the link in `held/` is the one of that name: a commit that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becoming: Option<HeldName>,
}

/// What a held tree is about to be committed as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldName {
    /// The name, which is a key like any other.
    pub name: String,
    /// The labels, in place of those it had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The moment.
    pub when: Timestamp,
    /// The key of its parent from then on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
}

impl Held {
    /// Returns what is said of a tree that is made now.
    pub(super) fn new(key: &str, kind: HeldKind, parent: &str, labels: BTreeMap<String, String>) -> Self {
        let now = Timestamp::now();
        Self {
            key: key.to_owned(),
            kind,
            parent: parent.to_owned(),
            labels,
            created: now,
            updated: now,
            becoming: None,
        }
    }

    /// Returns what is said of a tree once it has its name.
    pub(super) fn committed(becoming: &HeldName) -> Self {
        Self {
            key: becoming.name.clone(),
            kind: HeldKind::Committed,
            parent: becoming.parent.clone(),
            labels: becoming.labels.clone(),
            created: becoming.when,
            updated: becoming.when,
            becoming: None,
        }
    }

    /// Returns the chain id that it was committed as: containerd calls the stack of layers so that ends with it, after a prefix of its own.
    pub(in super::super) fn chain(&self) -> Option<ChainId> {
        if self.kind == HeldKind::Committed { chain_of(&self.key) } else { None }
    }
}

/// Returns the chain id that a key ends in, if it does.
pub(super) fn chain_of(key: &str) -> Option<ChainId> {
    let last = key.rsplit('/').next().unwrap_or(key);
    last.strip_prefix("sha256:").and_then(|_| Digest::parse(last).ok()).map(ChainId)
}

/// Refuses a key that is empty, or longer than anybody needs.
pub(super) fn check_key(key: &str) -> Result<()> {
    match key.len() {
        0 => Err(Error::new(ErrorKind::InvalidInput, "a key must not be empty")),
        length if length > LONGEST_KEY => {
            let message = format!("a key of {length} bytes is too long: {LONGEST_KEY} are the most");
            Err(Error::new(ErrorKind::InvalidInput, message))
        }
        _ => Ok(()),
    }
}

/// Refuses more labels than a record has room for.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= MOST_LABEL_BYTES {
        return Ok(());
    }
    let message = format!("labels of {bytes} bytes are too many: {MOST_LABEL_BYTES} are the most");
    Err(Error::new(ErrorKind::InvalidInput, message))
}

/// What is known of a held tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldInfo {
    /// What its holder calls it.
    pub key: String,
    /// The key of the tree that it was made on; empty for one made on nothing.
    pub parent: String,
    /// What may become of it.
    pub kind: HeldKind,
    /// What its holder put on it.
    pub labels: BTreeMap<String, String>,
    /// When it was prepared, or committed.
    pub created: Timestamp,
    /// When that, or its labels, changed last.
    pub updated: Timestamp,
    /// Its object: the same before and after it is committed.
    pub id: ObjectId,
}

impl HeldInfo {
    pub(super) fn new(id: &ObjectId, held: &Held) -> Self {
        Self {
            key: held.key.clone(),
            parent: held.parent.clone(),
            kind: held.kind,
            labels: held.labels.clone(),
            created: held.created,
            updated: held.updated,
            id: id.clone(),
        }
    }
}

/// How to show a held tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldMount {
    /// Of what.
    pub mount: Mount,
    /// For writing too?
    pub access: Access,
}

/// What a held tree occupies beside its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}
