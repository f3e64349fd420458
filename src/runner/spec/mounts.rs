//! What is mounted in a box besides its root: parts of the host, volumes, memory, generated files.
//!
//! Order in the lists is no matter: what lies nearer to the root is mounted first, so that one can lie in another.

use std::fmt;
use std::path::PathBuf;

use rootling_backends::Mount;
use serde::{Deserialize, Serialize};

/// What may not be done through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restrictions {
    /// Writing, also to what is mounted below.
    pub read_only: bool,
    /// Gaining a user or capabilities by `execve`.
    pub no_suid: bool,
    /// Using device nodes.
    pub no_devices: bool,
    /// Executing files.
    pub no_exec: bool,
}

impl Default for Restrictions {
    /// Writing and executing are fine, set-user-id and devices are not.
    fn default() -> Self {
        Self { read_only: false, no_suid: true, no_devices: true, no_exec: false }
    }
}

/// An empty file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// The directory, inside; made and removed again where it is missing.
    pub target: PathBuf,
    /// Permission bits of its root.
    pub mode: u32,
    /// The most it may hold; the kernel's own limit is half of the memory.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// What may not be done in it.
    #[serde(default)]
    pub restrictions: Restrictions,
}

impl Tmpfs {
    /// A directory of any size, with the usual restrictions.
    pub fn new(target: impl Into<PathBuf>, mode: u32) -> Self {
        Self { target: target.into(), mode, size_bytes: None, restrictions: Restrictions::default() }
    }
}

/// Something of the host shown inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The host's path; symbolic links are followed. It is opened once, and what was opened is shown, whatever becomes of the path.
    pub source: PathBuf,
    /// A tree that is shown instead, where it is no directory by itself; the path is then only what messages name. One that can be written
    /// to is shown to nobody else.
    #[serde(default)]
    pub tree: Option<Mount>,
    /// What is shown of the source instead of all: a path in it that cannot lead out of it, symbolic links included.
    #[serde(default)]
    pub below: Option<PathBuf>,
    /// The path inside; symbolic links are followed within the root. Where nothing is, a directory or an empty file is made, and
    /// removed again when the box ends.
    pub target: PathBuf,
    /// What may not be done through it.
    #[serde(default)]
    pub restrictions: Restrictions,
    /// Show what is mounted in the source, too?
    #[serde(default = "yes")]
    pub recursive: bool,
    /// Whose its files are inside.
    #[serde(default)]
    pub owners: Owners,
    /// Do mounts that the host makes in the source later show inside?
    #[serde(default)]
    pub follows_host: bool,
    /// Throw away what is written: changes go to memory, the source stays as it is.
    #[serde(default)]
    pub throw_away: bool,
    /// Keep what is written in this directory of the host, which gets an `upper` and a `work`: the source stays as it is.
    #[serde(default)]
    pub layer: Option<PathBuf>,
    /// Make everything in the source belong to the user that the command runs as, on the host and for good.
    #[serde(default)]
    pub give: bool,
}

fn yes() -> bool {
    true
}

impl Bind {
    /// Is what is written kept out of the source?
    pub(in crate::runner) fn is_layered(&self) -> bool {
        self.throw_away || self.layer.is_some()
    }

    /// Shows all of `source` as `target`, for reading and writing.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self {
            source: source.into(),
            tree: None,
            below: None,
            target: target.into(),
            restrictions: Restrictions::default(),
            recursive: true,
            owners: Owners::default(),
            follows_host: false,
            throw_away: false,
            layer: None,
            give: false,
        }
    }
}

/// How owners on disk become owners inside, for a box with users of its own.
///
/// Mapped, user 0 inside *is* user 0 on disk, there and only there: what root of the box makes in that directory is root's on the
/// host. Unmapped, it is nobody to files that are not of the box's own ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owners {
    /// Mapped if the box's tree is and the file system can; a warning where it cannot.
    #[default]
    MappedIfPossible,
    /// Mapped, or the box does not start.
    Mapped,
    /// As the host sees them.
    Unmapped,
}

/// A file with given content, in memory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAt {
    /// The path inside; symbolic links are followed within the root, and one that leads nowhere is covered itself. Where nothing
    /// is, an empty file is made and removed again when the box ends. A path below `/dev` is made there.
    pub target: PathBuf,
    /// What it holds.
    #[serde(with = "bytes")]
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// User and group inside.
    pub owner: (u32, u32),
    /// What may not be done through it.
    pub restrictions: Restrictions,
    /// Where there is no place for it: is it left out, with a note that says so? Else the box does not start.
    pub optional: bool,
}

impl FileAt {
    /// Shows a file of root's that all may read and root may write, if there is a place for it.
    pub fn new(target: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        let restrictions = Restrictions { no_exec: true, ..Restrictions::default() };
        Self {
            target: target.into(),
            content: content.into(),
            mode: 0o644,
            owner: (0, 0),
            restrictions,
            optional: true,
        }
    }
}

/// How much it holds, and never what: it may be a secret.
impl fmt::Debug for FileAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileAt({:?}, {} bytes, {:o})", self.target, self.content.len(), self.mode)
    }
}

/// Bytes in JSON: text where they are UTF-8, a list of numbers where they are not.
mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => bytes.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Content::deserialize(deserializer)? {
            Content::Text(text) => text.into_bytes(),
            Content::Bytes(bytes) => bytes,
        })
    }
}
