//! What to run and in what surroundings: plain data, nothing opened, nothing checked against the host.

use std::ffi::OsString;
use std::path::PathBuf;

use rootling_backends::Mount;
use serde::{Deserialize, Serialize};

use super::net::Private;
use super::user::User;

/// A box: a root filesystem, what is mounted in it, and the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The root filesystem.
    pub root: Mount,
    /// May nothing be written to it?
    pub read_only: bool,
    /// The command.
    pub process: Process,
    /// The name of the machine as seen inside.
    pub hostname: String,
    /// The network.
    pub net: Net,
    /// The user namespace.
    pub userns: Userns,
    /// Empty file systems in memory; the directories must exist.
    pub tmpfs: Vec<Tmpfs>,
    /// Directories and files of the host shown inside.
    pub binds: Vec<Bind>,
    /// Files with content made by the caller, shown over those of the tree and thrown away at the end.
    pub files: Vec<FileAt>,
}

/// A command and the identity and terminal it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments; a program without `/` is looked up in the `PATH` of `env`, inside.
    #[serde(with = "text_list")]
    pub args: Vec<OsString>,
    /// The whole environment, `NAME=value`.
    #[serde(with = "text_list")]
    pub env: Vec<OsString>,
    /// The working directory, inside.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Whether it gets a terminal of its own.
    pub tty: Tty,
}

/// When a process gets a terminal of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tty {
    /// When our standard input and output both are terminals.
    Auto,
    /// Always.
    On,
    /// Never: our three descriptors are passed on as they are.
    Off,
}

/// Which network is seen inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Net {
    /// The caller's.
    Host,
    /// None but loopback.
    None,
    /// One of its own that is connected to the host's.
    Private(Private),
}

/// Which users exist inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Userns {
    /// The caller's.
    Host,
    /// Those mapped; user and group 0 must be among them. The tree shows owners through the maps as they are
    /// on disk: it is not shifted.
    Private {
        /// Users.
        uid_map: Vec<IdMap>,
        /// Groups.
        gid_map: Vec<IdMap>,
    },
}

/// One range of ids: `count` from `inside` on are `outside` and those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in the caller's namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// An empty file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// The directory, inside.
    pub target: PathBuf,
    /// Permission bits of its root.
    pub mode: u32,
}

/// Something of the host shown inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The host's path; symbolic links are followed.
    pub source: PathBuf,
    /// The path inside. It must exist; symbolic links are followed within the root.
    pub target: PathBuf,
    /// May nothing be written through it?
    pub read_only: bool,
}

/// A file with given content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAt {
    /// The path inside; symbolic links are followed within the root. Where nothing is, the file is left out
    /// and a note says so: making a mount point would change the tree.
    pub target: PathBuf,
    /// What it holds.
    pub content: String,
}

/// Strings of bytes in JSON: text where they are UTF-8, a list of numbers where they are not.
mod text_list {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Text {
        Text(String),
        Bytes(Vec<u8>),
    }

    impl Text {
        fn of(text: &OsStr) -> Self {
            text.to_str()
                .map_or_else(|| Self::Bytes(text.as_bytes().to_vec()), |text| Self::Text(text.into()))
        }
    }

    pub(super) fn serialize<S: Serializer>(list: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|text| Text::of(text)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
        let list = Vec::<Text>::deserialize(deserializer)?;
        Ok(list
            .into_iter()
            .map(|text| match text {
                Text::Text(text) => text.into(),
                Text::Bytes(bytes) => OsString::from_vec(bytes),
            })
            .collect())
    }
}
