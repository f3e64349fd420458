//! One layer into a tree: whole, over what lies beneath it, or alone, as a delta that says what it changes whatever that is.
//!
//! What is read on the way is remembered: the digest of every file goes into the tree's index, so that the tree can be verified later
//! without its blob, and is not read a second time for that.

use std::io::{self, Read};

use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::{Context, Cost, Dir, Error, ErrorKind, Result};

use super::index::Digests;
use crate::image::{DiffId, Hasher};
use crate::layer::{self, ApplyOptions, Content, Member};

/// What a layer is unpacked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// The tree that it changes: what it takes away is removed.
    Tree,
    /// An empty directory, as an upper directory of OverlayFS: what it takes away is marked. `userxattr`: in `user.`, not `trusted.`
    Delta { userxattr: bool },
}

/// What came of a layer.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) cost: Cost,
    /// Bytes of its files.
    pub(super) size: u64,
    /// Has it an entry for the root directory?
    pub(super) says_root: bool,
    /// Of its files, by path in the tree.
    pub(super) digests: Digests,
}

/// Unpacks a layer, which must have the digest `diff` once it is unpacked; another is an error of kind `Corrupt`. `digests` are those of
/// what is there.
///
/// `Ok(None)`: it cannot be understood without what lies beneath it. Then, as after an error, what was written is to be thrown away.
pub(super) fn unpack(
    packed: impl Read + Send + 'static,
    root: &Dir,
    into: Into,
    diff: &DiffId,
    digests: Digests,
) -> Result<Option<Unpacked>> {
    if matches!(into, Into::Delta { .. }) {
        return Ok(None);
    }
    let (_, tar) = layer::decompress(packed)?;
    let mut tar = Hashing { reader: tar, hasher: Hasher::new(diff.0.algorithm()) };
    let options = ApplyOptions { digests: true, ..ApplyOptions::default() };
    let mut unpacked = Unpacked { digests, ..Unpacked::default() };
    let applied = layer::apply_with(&mut tar, root, &options, &mut |member| unpacked.note(member))?;
    let found = tar.hasher.finish();
    if found != diff.0 {
        let message = format!("unpacked it has the digest {found}, not {diff}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    unpacked.size = applied.bytes;
    unpacked.cost =
        Cost { files_copied: applied.entries, bytes_copied: applied.bytes_written, ..Cost::default() };
    Ok(Some(unpacked))
}

impl Unpacked {
    fn note(&mut self, member: &Member) {
        match &member.content {
            Content::File { digest: Some(digest), .. } => self.digests.put(&member.path, *digest),
            Content::HardLink { target } => self.digests.link(&member.path, target),
            Content::Directory if member.path.is_empty() => self.says_root = true,
            _ => self.digests.forget(&member.path),
        }
    }
}

struct Hashing<R> {
    reader: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Gives the root directory of a delta the looks of the one beneath it, because it has none of its own: it is the root of what is shown.
pub(super) fn imitate_root(delta: &Dir, beneath: &Dir) -> Result<()> {
    let attributes = root_attributes(beneath)?;
    attributes
        .apply_to_open(delta, &delta.stat_self()?, delta)
        .context(|| format!("make {delta} look like {beneath}"))
}

/// Do two root directories look the same, but for their times?
pub(super) fn roots_look_alike(one: &Dir, other: &Dir) -> Result<bool> {
    let (one, other) = (root_attributes(one)?, root_attributes(other)?);
    Ok(Attributes { times: one.times, ..other } == one)
}

fn root_attributes(root: &Dir) -> Result<Attributes> {
    Attributes::of_open(root, &root.stat_self()?, Xattrs::WithoutOverlay, root)
}
