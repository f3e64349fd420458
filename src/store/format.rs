//! The `format` file: what makes a directory a store, and what its file system can do.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rootling_backends::probe::Abilities;
use rootling_backends::{Context, Error, ErrorKind, Kind, Result};
use serde::{Deserialize, Serialize};

use super::files::{self, Durability};

/// The version of the layout that this program writes.
pub(super) const VERSION: u32 = 1;

/// The feature of a store in which a node may have another's tree, or be a layer or an image: who does not know of it would find no tree.
pub(super) const SHARED_TREES: &str = "shared-trees";

/// The feature of a store in which another program holds trees: who does not know of it would sweep them away.
pub(super) const HELD_TREES: &str = "held-trees";

/// The incompatible features that this program knows.
const KNOWN: [&str; 2] = [SHARED_TREES, HELD_TREES];

/// Bytes in the largest `format` file that is read.
const LIMIT: u64 = 1 << 20;

/// Features a store may have, by what a program that does not know one may still do (the model of ext4 and XFS).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Everything.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Read.
    #[serde(default)]
    pub read_only_compatible: Vec<String>,
    /// Nothing.
    #[serde(default)]
    pub incompatible: Vec<String>,
}

/// The content of `format`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Format {
    /// `VERSION` of the program that made the store.
    pub version: u32,
    /// What else one must know to use it.
    #[serde(default)]
    pub features: Features,
    /// When the store was made.
    pub created: Timestamp,
    /// The backend that was asked for; `None` is `auto`.
    pub backend: Option<Kind>,
    /// What was found by trying, when the store was made.
    pub abilities: Abilities,
}

impl Format {
    fn path(root: &Path) -> PathBuf {
        root.join("format")
    }

    /// Is there a store at `root`?
    pub(crate) fn exists(root: &Path) -> bool {
        Self::path(root).exists()
    }

    /// Reads the format of the store at `root` and refuses what this program does not understand.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = Self::path(root);
        let text = files::read(&path, LIMIT).context(|| format!("open store {root:?}"))?;
        // The version first: the rest of a later version may not parse at all.
        let newer = |what: String| {
            let message = format!("store {root:?} {what}, which this program does not understand");
            Error::new(ErrorKind::Unsupported, message).hint("use a newer rootling")
        };
        let damaged = |error: serde_json::Error| {
            Error::new(ErrorKind::Corrupt, format!("format file {path:?} is damaged: {error}"))
                .hint("restore it from a backup, or make a store elsewhere and import the trees in o/*/fs")
        };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            let version =
                version.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"));
            return Err(newer(format!("has {version}")));
        }
        let format: Self = serde_json::from_value(value).map_err(damaged)?;
        let mut features = format.features.incompatible.iter();
        if let Some(feature) = features.find(|feature| !KNOWN.contains(&feature.as_str())) {
            return Err(newer(format!("uses the feature {feature:?}")));
        }
        Ok(format)
    }

    /// Refuses to change a store with features that only reading survives.
    pub(crate) fn require_writable(&self, root: &Path) -> Result<()> {
        match self.features.read_only_compatible.first() {
            None => Ok(()),
            Some(feature) => {
                let message =
                    format!("store {root:?} uses the feature {feature:?}: this program may only read it");
                Err(Error::new(ErrorKind::Unsupported, message).hint("use a newer rootling"))
            }
        }
    }

    /// Says in the store at `root` that it has a feature which programs must know. Durable on return; a second call does nothing.
    pub(super) fn require(root: &Path, feature: &str) -> Result<()> {
        let mut format = Self::read(root)?;
        if format.features.incompatible.iter().any(|known| known == feature) {
            return Ok(());
        }
        format.features.incompatible.push(feature.to_owned());
        format.write(root)
    }

    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).expect("a format has only text for keys");
        text.push(b'\n');
        files::replace(&Self::path(root), &text, Durability::Synced)
    }
}
