//! One entry of an archive: data only.

use rootling_backends::EntryType;

/// What an archive says about one path, after all its headers and extensions are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Relative to the root of the tree: no leading `/`, no `.` or `..`, no trailing `/`; empty for the root.
    ///
    /// From an archive it is the path as written there. What [`apply_with`](super::apply_with) reports is
    /// the path in the tree: `lib/x` is `usr/lib/x` where `lib` is a link.
    pub path: Vec<u8>,
    /// What stands there.
    pub content: Content,
    /// Permission bits, setuid, setgid and sticky included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970 (negative before) and nanoseconds after that.
    pub mtime: (i64, u32),
    /// Extended attributes, sorted by name: ACLs and file capabilities too.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What kind of thing a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A regular file.
    File {
        /// Its size, holes included.
        size: u64,
        /// SHA-256 of its bytes, holes included, once it is written and if it was asked for.
        digest: Option<[u8; 32]>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The text of the link: absolute and `..` are ordinary.
        target: Vec<u8>,
    },
    /// A further name of what `target` is: a file, or anything else that is not a directory.
    HardLink {
        /// The path of the first name, in the form of [`Member::path`].
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl Member {
    /// Returns the type; `None` for a hard link, which has that of its target.
    pub fn entry_type(&self) -> Option<EntryType> {
        Some(match self.content {
            Content::File { .. } => EntryType::File,
            Content::Directory => EntryType::Directory,
            Content::Symlink { .. } => EntryType::Symlink,
            Content::CharDevice { .. } => EntryType::CharDevice,
            Content::BlockDevice { .. } => EntryType::BlockDevice,
            Content::Fifo => EntryType::Fifo,
            Content::HardLink { .. } => return None,
        })
    }

    /// Returns the size of a file, 0 for everything else.
    pub fn size(&self) -> u64 {
        match self.content {
            Content::File { size, .. } => size,
            _ => 0,
        }
    }
}
