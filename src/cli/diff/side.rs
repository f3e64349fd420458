//! One of the two trees: what stands at a path of it.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use nix::errno::Errno;
use rootling_backends::attributes::is_overlay_xattr;
use rootling_backends::{Context as _, Dir, EntryType, Error, Result};
use serde::Serialize;

use super::ends::split;

/// Bytes in the largest file that is compared line by line.
pub(super) const LIMIT: u64 = 8 << 20;

/// How much of a file is looked at to tell text from the rest, as in git.
const BEGINNING: usize = 8 << 10;

/// A tree.
#[derive(Debug)]
pub(crate) struct Side(pub(crate) Dir);

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Inode {
    #[serde(rename = "type")]
    pub(super) entry_type: EntryType,
    /// Permission bits, as octal digits.
    pub(super) mode: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size_bytes: u64,
    pub(super) links: u64,
    pub(super) modified: Option<Timestamp>,
    pub(super) link_target: Option<String>,
    /// `MAJOR:MINOR`.
    pub(super) device: Option<String>,
    /// Their names.
    pub(super) xattrs: Vec<String>,
    /// Type and permission bits as numbers.
    #[serde(skip)]
    pub(super) bits: u32,
}

/// What of an entry can be compared line by line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A text, or the target of a link.
    Text(Vec<u8>),
    /// A file that is no text, or too large.
    Binary,
    /// A directory or a device: there is none.
    Nothing,
}

fn there<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(error) if is_missing(&error) => Ok(None),
        other => other.map(Some),
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
}

impl Side {
    /// Returns what stands at a path, itself, if it is a link; `None` where nothing does.
    pub(super) fn inode(&self, path: &Path) -> Result<Option<Inode>> {
        let (parent, name) = split(path);
        let Some(dir) = there(self.0.open_deep(parent))? else { return Ok(None) };
        there(inode(&dir, name))
    }

    /// Returns the content of what was found at a path.
    pub(super) fn content(&self, path: &Path, inode: &Inode) -> Result<Content> {
        let (parent, name) = split(path);
        match inode.entry_type {
            EntryType::Symlink => {
                use std::os::unix::ffi::OsStringExt;
                Ok(Content::Text(self.0.open_deep(parent)?.read_link(name)?.into_vec()))
            }
            EntryType::File if inode.size_bytes > LIMIT => Ok(Content::Binary),
            EntryType::File => {
                let file = self.0.open_deep(parent)?.open_file(name)?;
                let mut bytes = Vec::new();
                file.take(LIMIT + 1).read_to_end(&mut bytes).context(|| format!("read {path:?}"))?;
                let is_text =
                    bytes.len() as u64 <= LIMIT && !bytes.iter().take(BEGINNING).any(|byte| *byte == 0);
                Ok(if is_text { Content::Text(bytes) } else { Content::Binary })
            }
            _ => Ok(Content::Nothing),
        }
    }
}

fn inode(dir: &Dir, name: &OsStr) -> Result<Inode> {
    let stat = dir.stat(name)?;
    let entry_type = EntryType::of_mode(stat.st_mode);
    let is_device = matches!(entry_type, EntryType::CharDevice | EntryType::BlockDevice);
    let device = || format!("{}:{}", libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
    let target = (entry_type == EntryType::Symlink).then(|| dir.read_link(name)).transpose()?;
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Ok(Inode {
        entry_type,
        mode: format!("{:04o}", stat.st_mode & 0o7777),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        links: stat.st_nlink,
        modified: Timestamp::new(stat.st_mtime, nanoseconds).ok(),
        link_target: target.as_deref().map(text),
        device: is_device.then(device),
        xattrs: dir
            .xattrs(name)?
            .iter()
            .filter(|(name, _)| !is_overlay_xattr(name))
            .map(|(name, _)| text(name))
            .collect(),
        bits: stat.st_mode,
    })
}
