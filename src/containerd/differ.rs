//! The service that makes trees of layers, and layers of trees: containerd's proxy plugin of the type `diff`.
//!
//! ```text
//! containerd ── Apply(descriptor, mounts) ──> [Differ] ── Read ──> containerd's content
//!                                                └──> the tree's own directories
//! containerd ── Diff(left, right) ──────────> [Differ] ── Write ─> containerd's content
//! ```
//!
//! It answers `Unimplemented` to what it does not know (layers of other kinds, mounts of other kinds) before it touches anything, and containerd
//! asks the next differ of its list. What is done with a call whose client has gone ends with the next megabyte.
//!
//! | module | what it is for |
//! |---|---|
//! | `mounts` | mounts as they are told of, read |
//! | `content` | containerd's blobs |
//! | `apply` | a layer into a tree |
//! | `compare` | the layer between two trees |

mod apply;
mod compare;
mod content;
mod mounts;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rootling_backends::{Access, Context, Error, ErrorKind, Result};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use self::compare::Destination;
use self::content::Content;
use self::mounts::Shown;
use super::api::diff::diff_server::Diff;
use super::api::diff::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use super::api::types;
use super::calls::Calls;
use crate::image::{Descriptor, Digest, media_type};
use crate::layer::{Compression, CreateOptions, Packing};
use crate::store::{HeldKind, HeldTrees};

/// The differ of one store.
pub(super) struct Differ {
    calls: Calls,
    containerd: Channel,
}

impl Differ {
    /// `containerd` is the socket that it listens on, which need not be there yet. Must be called inside a runtime.
    pub(super) fn new(calls: Calls, containerd: &Path) -> Result<Self> {
        Ok(Self { calls, containerd: content::channel(containerd)? })
    }

    /// Does a call, and lets it know once nobody waits for it.
    async fn work<T: Send + 'static>(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        act: impl FnOnce(&HeldTrees, &Content) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let waits = Waits(Arc::default());
        let content = Content::new(self.containerd.clone(), metadata, Arc::clone(&waits.0));
        self.calls.work(method, move |trees| act(trees, &content)).await
    }
}

/// Somebody who waits for an answer; dropped, he does no more.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Diff for Differ {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.work("Apply", &metadata, move |trees, content| apply(trees, content, &request)).await
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.work("Diff", &metadata, move |trees, content| diff(trees, content, request)).await
    }
}

fn apply(trees: &HeldTrees, content: &Content, request: &ApplyRequest) -> Result<ApplyResponse> {
    let blob = request.diff.as_ref().ok_or_else(|| invalid("no layer was given"))?;
    let blob = Descriptor::new(&blob.media_type, Digest::parse(&blob.digest)?, size(blob.size)?);
    let intent = || format!("apply layer {}", blob.digest);
    if !media_type::is_layer(&blob.media_type) {
        return Err(unsupported(&blob.media_type)).context(intent);
    }
    let shown = Shown::read(&request.mounts).context(intent)?;
    let shown = shown.ok_or_else(|| invalid("no mount was given")).context(intent)?;
    require_writable(trees, &shown).context(intent)?;
    let tar = apply::apply(content, &blob, &shown, request.sync_fs).context(intent)?;
    let digest = Digest::from_sha256(tar.sha256);
    Ok(ApplyResponse { applied: Some(descriptor(media_type::LAYER_TAR, &digest, tar.bytes)) })
}

/// A tree that somebody may stand on never changes again, whatever the file system would allow.
fn require_writable(trees: &HeldTrees, shown: &Shown) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::FailedPrecondition, format!("the tree cannot be written to: {why}")))
    };
    if shown.access == Access::ReadOnly {
        return refuse("its mount is read-only");
    }
    let Some(written) = shown.written() else { return refuse("its overlay has no upper directory") };
    let Some(id) = compare::object_of(trees.store(), written)? else { return Ok(()) };
    match trees.of_object(&id).map(|info| info.kind) {
        Some(HeldKind::Active) => Ok(()),
        Some(HeldKind::Committed | HeldKind::View) => refuse("it is committed"),
        None => refuse(&format!("nobody holds {id}")),
    }
}

fn diff(trees: &HeldTrees, content: &Content, request: DiffRequest) -> Result<DiffResponse> {
    let intent = || "make a layer of what differs".to_owned();
    let (media_type, packing) = packing(&request.media_type).context(intent)?;
    let left = Shown::read(&request.left).context(|| "read the mounts on the left").context(intent)?;
    let right = Shown::read(&request.right).context(|| "read the mounts on the right").context(intent)?;
    let right = right.ok_or_else(|| invalid("no mount was given on the right")).context(intent)?;
    let epoch = request.source_date_epoch.map(|time| time.seconds);
    let options = CreateOptions { packing, epoch, ..CreateOptions::default() };
    let to = Destination { content, reference: &request.r#ref, labels: request.labels };
    let packed = compare::compare(trees.store(), left.as_ref(), &right, &options, to).context(intent)?;
    Ok(DiffResponse { diff: Some(descriptor(media_type, &packed.digest, packed.size)) })
}

/// Returns how to pack a layer of this type, and what to call it: as it was asked for.
fn packing(asked: &str) -> Result<(&str, Packing)> {
    let (asked, compression) = match asked {
        "" => (media_type::LAYER_GZIP, Compression::Gzip),
        media_type::LAYER_TAR | media_type::DOCKER_LAYER_TAR => (asked, Compression::None),
        media_type::LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => (asked, Compression::Gzip),
        media_type::LAYER_ZSTD | media_type::DOCKER_LAYER_ZSTD => (asked, Compression::Zstd),
        other => return Err(unsupported(other)),
    };
    Ok((asked, Packing::new(compression, None)?))
}

fn descriptor(media_type: &str, digest: &Digest, bytes: u64) -> types::Descriptor {
    types::Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: bytes.cast_signed(),
        ..types::Descriptor::default()
    }
}

fn size(size: i64) -> Result<u64> {
    u64::try_from(size).map_err(|_| invalid("the layer's size is negative"))
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn unsupported(media_type: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("layers of the type {media_type:?} are not known here"))
}
