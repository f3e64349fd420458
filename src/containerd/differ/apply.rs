//! A layer into the tree that a client holds: written straight into its directory, by the reader of layers that hostile ones are kept in.
//!
//! | the tree's mount | whiteouts |
//! |---|---|
//! | a directory | remove what they name |
//! | an overlay | become OverlayFS's marks in the upper directory, as long as that is empty and the layer can be told without what lies beneath; else the overlay is mounted, attached nowhere, and what they name is removed through it |
//! | an upper directory alone | become marks, whatever it will stand on; a layer that needs what lies beneath is refused |
//!
//! A layer that fails leaves the tree half made: an ordinary tree, which its holder removes.

use std::io;
use std::path::Path;

use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::{Access, Context, Dir, Error, ErrorKind, Result, reap};

use super::content::Content;
use super::mounts::{Ground, Layers, Shown, open_stack};
use crate::image::{Algorithm, Descriptor, Digest};
use crate::layer::{self, Applied, ApplyOptions, Sum, Whiteouts};

/// Places the layer `blob` in a tree and returns the digest and the length of its tar. `sync`: it is durable on return.
///
/// A blob that is not what its descriptor says is an error of kind `Corrupt`. Whatever fails once the tree was touched is of no kind
/// at which another differ would be asked.
pub(super) fn apply(content: &Content, blob: &Descriptor, shown: &Shown, sync: bool) -> Result<Sum> {
    let layer = Layer { content, blob };
    let place = || {
        let (root, sum) = match &shown.ground {
            Ground::Directory(path) => {
                let root = Dir::open(path)?;
                let (sum, placed) = layer.place(&root, Whiteouts::Delete)?;
                placed?;
                (root, sum)
            }
            Ground::Overlay(layers) => layer.place_over(layers)?,
        };
        if sync {
            root.sync_file_system()?;
        }
        Ok(sum)
    };
    place().map_err(|error: Error| match error.kind() {
        ErrorKind::Unsupported => error.with_kind(ErrorKind::FailedPrecondition),
        _ => error,
    })
}

struct Layer<'a> {
    content: &'a Content,
    blob: &'a Descriptor,
}

impl Layer<'_> {
    /// Places it in `root`. The inner error is that of a layer which needs what lies beneath.
    fn place(&self, root: &Dir, whiteouts: Whiteouts) -> Result<(Sum, Result<Applied>)> {
        let options = ApplyOptions { whiteouts, ..ApplyOptions::default() };
        let digest = &self.blob.digest;
        let done = layer::unpack(self.content.read(digest)?, &mut io::sink(), root, &options, &mut |_| {})?;
        self.require_blob(done.blob)?;
        for skipped in done.tree.iter().flat_map(|applied| &applied.skipped) {
            log::warn!(
                "layer {digest}: left out {}: {}",
                String::from_utf8_lossy(&skipped.path),
                skipped.reason
            );
        }
        Ok((done.tar, done.tree))
    }

    /// Refuses what was read if it is not what was asked for.
    fn require_blob(&self, read: Sum) -> Result<()> {
        let expected = &self.blob.digest;
        let found = match expected.algorithm() {
            Algorithm::Sha256 => Digest::from_sha256(read.sha256),
            Algorithm::Sha512 => Digest::of_stream(Algorithm::Sha512, self.content.read(expected)?)
                .context(|| "read the blob")?,
        };
        if found != *expected {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the blob has the digest {found}, not {expected}"),
            ));
        }
        if read.bytes != self.blob.size {
            let message = format!(
                "the blob has {} bytes, and not {} as its descriptor says",
                read.bytes, self.blob.size
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(())
    }

    fn place_over(&self, layers: &Layers) -> Result<(Dir, Sum)> {
        let path = layers.upper.as_deref().unwrap_or(Path::new(""));
        let upper = Dir::open(path)?;
        let is_empty = upper.entries()?.is_empty();
        let stands_on = (!layers.lowers.is_empty()).then_some(&layers.lowers);
        if is_empty {
            let looks = look_of(&upper)?;
            let (sum, placed) = self.place(&upper, Whiteouts::Overlay { userxattr: layers.userxattr })?;
            match (placed, stands_on) {
                (Ok(_), None) => return Ok((upper, sum)),
                (Ok(applied), Some(lowers)) => {
                    let lower = open_stack(lowers.clone(), layers.userxattr)?;
                    if !applied.root_is_told {
                        imitate(&upper, &look_of(&lower)?)?;
                    }
                    if applied.fits(&upper, &lower)? {
                        return Ok((upper, sum));
                    }
                }
                (Err(error), Some(_)) if error.kind() == ErrorKind::NeedsLower => {}
                (Err(error), None) if error.kind() == ErrorKind::NeedsLower => {
                    return Err(error.hint(
                        "let containerd unpack one layer after the other: leave \"rebase\" out of its configuration",
                    ));
                }
                (Err(error), _) => return Err(error),
            }
            for entry in upper.entries()? {
                reap::remove(&upper, &entry.name)?;
            }
            imitate(&upper, &looks)?;
        }
        let Some(mount) = layers.writable() else {
            let message = format!("{path:?} is not empty, and it is not known what it stands on");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        };
        let root = mount.open_root_for(Access::ReadWrite)?;
        let (sum, placed) = self.place(&root, Whiteouts::Delete)?;
        placed?;
        Ok((upper, sum))
    }
}

fn look_of(root: &Dir) -> Result<Attributes> {
    Attributes::of_open(root, &root.stat_self()?, Xattrs::WithoutOverlay, root)
}

fn imitate(root: &Dir, looks: &Attributes) -> Result<()> {
    looks.apply_to_open(root, &root.stat_self()?, root).context(|| format!("set attributes of {root}"))
}
