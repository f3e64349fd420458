//! What differs between two trees: data only.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dir::EntryType;

/// One difference of a tree against another.
///
/// A deleted directory is one change (nothing is said of what was below it); an added directory is one, and each
/// entry below it is one of its own. A path whose type changed is one `Modified` with [`Aspects::kind`] set (and, where
/// the old or the new entry is a directory, what was below is not listed and what is below now is listed as added).
///
/// A path whose inode has other names than before is `Modified` with [`Aspects::links`], though nothing else may differ: where a
/// hard link is added or removed, each of the names that stay is a change of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// Where: relative to the root of the tree, without a leading `/`; empty for the root itself.
    pub path: PathBuf,
    /// What happened there.
    pub kind: ChangeKind,
    /// What stands there now; for a deletion, what stood there.
    pub entry_type: EntryType,
    /// What is different, for a modification; all false otherwise.
    #[serde(default, skip_serializing_if = "Aspects::is_empty")]
    pub aspects: Aspects,
}

impl Change {
    /// Is the modification time all that is different?
    pub fn is_time_only(&self) -> bool {
        self.kind == ChangeKind::Modified && self.aspects == Aspects { times: true, ..Aspects::default() }
    }

    /// Are other names of the inode all that is different?
    pub fn is_links_only(&self) -> bool {
        self.kind == ChangeKind::Modified && self.aspects == Aspects { links: true, ..Aspects::default() }
    }
}

/// The three things that can happen to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It was there and is different.
    Modified,
    /// It was there and is gone.
    Deleted,
}

impl ChangeKind {
    /// Returns docker diff's letter: `A`, `C` or `D`.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Modified => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// Which sides of an inode differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Aspects {
    /// The type: a file became a directory, and so on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub kind: bool,
    /// The bytes of a file, the target of a link, the number of a device.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// The permission bits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mode: bool,
    /// User or group.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub owner: bool,
    /// Extended attributes: ACLs and file capabilities too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub xattrs: bool,
    /// The names of the inode: other paths are the same file (hard links) than before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub links: bool,
    /// The modification time (looked at only on request).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub times: bool,
}

impl Aspects {
    /// Is nothing different?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What counts as a difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// Report modification times as well: a copy that must equal its source needs them, a person rarely does.
    pub times: bool,
}
