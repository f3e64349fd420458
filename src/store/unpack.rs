//! One layer into a tree: whole, over what lies beneath it, or alone, as a delta that says what it changes whatever that is.
//!
//! What is read on the way is remembered: the digest of every file goes into the tree's index, so that the tree can be verified later
//! without its blob, and is not read a second time for that.

use std::io::{self, Read};

use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::{Context, Cost, Dir, Error, ErrorKind, Result};

use super::index::Digests;
use crate::image::{Algorithm, Descriptor, DiffId, Digest};
use crate::layer::{self, Applied, ApplyOptions, Content, Member, Whiteouts};

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
    /// What says over which trees it shows right, if it was unpacked alone.
    pub(super) fitting: Applied,
    /// Of its files, by path in the tree.
    pub(super) digests: Digests,
}

/// Unpacks the layer that `open` opens, which must have the digest `diff` once it is unpacked, and that of `blob` before; others are an error
/// of kind `Corrupt`. `digests` are those of what is there.
///
/// `Ok(None)`: it cannot be understood without what lies beneath it. Then, as after an error, what was written is to be thrown away.
pub(super) fn unpack<R: Read + Send>(
    open: impl Fn() -> Result<R>,
    blob: &Descriptor,
    root: &Dir,
    into: Into,
    diff: &DiffId,
    digests: Digests,
) -> Result<Option<Unpacked>> {
    let whiteouts = match into {
        Into::Tree => Whiteouts::Delete,
        Into::Delta { userxattr } => Whiteouts::Overlay { userxattr },
    };
    let options = ApplyOptions { whiteouts, digests: true, ..ApplyOptions::default() };
    let mut unpacked = Unpacked { digests, ..Unpacked::default() };
    let done = layer::unpack(open()?, &mut io::sink(), root, &options, &mut |member| unpacked.note(member))?;
    require(&blob.digest, done.blob.sha256, || digest_of(open()?, blob.digest.algorithm()))?;
    require(&diff.0, done.tar.sha256, || digest_of(layer::decompress(open()?)?.1, diff.0.algorithm()))
        .context(|| "compare what was unpacked")?;
    let applied = match done.tree {
        Err(error) if error.kind() == ErrorKind::NeedsLower => return Ok(None),
        // Over a link such a layer says something else than alone, and who shares its tree later could not tell.
        Ok(applied) if !applied.late_directories.is_empty() => return Ok(None),
        tree => tree?,
    };
    unpacked.size = applied.bytes;
    unpacked.cost =
        Cost { files_copied: applied.entries, bytes_copied: applied.bytes_written, ..Cost::default() };
    unpacked.fitting = Applied {
        whiteout_directories: applied.whiteout_directories,
        root_is_told: applied.root_is_told,
        ..Applied::default()
    };
    Ok(Some(unpacked))
}

/// Refuses bytes of which this is not the digest. `other` takes one that is no SHA-256.
fn require(expected: &Digest, sha256: [u8; 32], other: impl FnOnce() -> Result<Digest>) -> Result<()> {
    let found = match expected.algorithm() {
        Algorithm::Sha256 => Digest::from_sha256(sha256),
        Algorithm::Sha512 => other()?,
    };
    if found == *expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("it has the digest {found}, not {expected}")))
}

fn digest_of(reader: impl Read, algorithm: Algorithm) -> Result<Digest> {
    Digest::of_stream(algorithm, reader).context(|| "read")
}

impl Unpacked {
    fn note(&mut self, member: &Member) {
        match &member.content {
            Content::File { digest: Some(digest), .. } => self.digests.put(&member.path, *digest),
            Content::HardLink { target } => self.digests.link(&member.path, target),
            _ => self.digests.forget(&member.path),
        }
    }
}

/// Gives the root directory of a delta the looks of the one beneath it, because it has none of its own: it is the root of what is shown.
pub(super) fn imitate_root(delta: &Dir, beneath: &Dir) -> Result<()> {
    let attributes = Attributes::of_open(beneath, &beneath.stat_self()?, Xattrs::WithoutOverlay, beneath)?;
    attributes
        .apply_to_open(delta, &delta.stat_self()?, delta)
        .context(|| format!("make {delta} look like {beneath}"))
}
