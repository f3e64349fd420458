//! What nodes say of the builds they come from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::ObjectId;
use crate::image::{Digest, History, Platform};

/// Bytes of the longest text that is kept as it is: a record has its limit, and a step may hold whole files.
const LONGEST: usize = 4096;

/// For a node that is a step of a build: which, and what it depended on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The digest of what it depends on.
    pub key: Digest,
    /// Which recipe it was done for first: as the build calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// The stage: its name, or its number.
    pub stage: String,
    /// Which step of the stage, from 1.
    pub number: u32,
    /// What is shown: the instruction on one line, as it was typed.
    pub shown: String,
    /// What it depends on, by name, in the order in which the key was taken. Never secrets.
    pub fields: Vec<(String, String)>,
    /// What a command needs to find itself where this step's was, besides the configuration: flags of the command line, as in a box's
    /// settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, Vec<String>>,
    /// How it failed; such a step is found by no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Was its tree made by hand?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// How long it took.
    pub took_ms: u64,
}

/// How a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// Its command ended with this code.
    Code(i32),
    /// This signal ended its command.
    Signal(i32),
    /// It could not be done, with the reason.
    Reason(String),
}

impl StepRecord {
    /// Returns what is kept of a field: a long one as its digest. To be compared with what [`fields`](Self::fields) says.
    pub fn kept(value: &str) -> Cow<'_, str> {
        if value.len() <= LONGEST {
            return Cow::Borrowed(value);
        }
        Cow::Owned(format!("{} of {} bytes", Digest::sha256_of(value.as_bytes()), value.len()))
    }

    pub(super) fn shortened(mut self) -> Self {
        for (_, value) in &mut self.fields {
            if let Cow::Owned(short) = Self::kept(value) {
                *value = short;
            }
        }
        if self.shown.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|end| self.shown.is_char_boundary(*end)).unwrap_or(0);
            self.shown.truncate(end);
        }
        self
    }
}

/// For a node that is the end of a build: what its image says, beside its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// How it came to be, from the very first: what it was built on, and entries without a layer, included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// The steps that made layers, the lowest first; what is below them is the image that it was built on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<ObjectId>,
    /// What it was built on, if that was an image or another node. It may be gone; its trees are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<ObjectId>,
    /// Annotations of the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// When it was made, as its configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The latest time that files in its layers have, in seconds since 1970: `SOURCE_DATE_EPOCH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Do the descriptors of its layers say which steps they are?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub carries_keys: bool,
    /// Who made it, as its configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The recipe, as the build calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
}
