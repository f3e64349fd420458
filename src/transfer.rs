//! Images on their way: between a registry, the store, directories and archives, without being unpacked.
//!
//! ```text
//! Source ── list ──> names        ── publish ──> Sink
//!        ── document ──> manifests ── put_document ──>
//!        ── open_blob ──> layers, configurations ── put_blob ──>
//! ```
//!
//! A place that images come from is a [`Source`], one that they go to is a [`Sink`]; both are small, blocking, and used by several
//! threads at once. Neither is trusted: whoever takes something in verifies it against its descriptor, every time
//! ([`read_blob`], [`pump`]).
//!
//! | module | what it is for |
//! |---|---|
//! | [`catalog`] | names in an index, and which image a word means |
//! | [`mod@copy`] | an image with all that it is made of, from a source to a sink |
//! | [`layout`] | a directory in the form of OCI's image layout |
//! | [`registry`] | a repository of a registry, as a source and as a sink |
//! | [`store_source`] | any node of the store as a source |
//! | [`making`] | a node that is no image becomes one: a layer for each of its states |
//! | [`mod@pull`] | an image from any source into the store: fetched, unpacked, named, its snapshots too |
//! | `tar` | a whole tree as an archive |
//! | [`archive`] | such a layout as a tar (`oci-archive`), and what `docker save` writes (`docker-archive`) |

pub mod archive;
pub mod catalog;
pub mod copy;
mod files;
pub mod layout;
pub mod making;
pub mod pull;
pub mod registry;
mod resolve;
pub mod store_source;
mod stream;
mod tar;

pub use archive::{ArchiveForm, ImageArchive, ImageArchiveWriter};
pub use catalog::{Catalog, Listed};
pub use copy::{CopyOptions, Event, Platforms, copy};
pub use layout::{Layout, LayoutWriter};
pub use pull::{PullOptions, Pulled, fetch_blob, pull};
pub use registry::{Repository, Sibling};
pub use resolve::{Resolved, resolve};
pub use store_source::StoreSource;
pub use stream::{pump, read_blob, read_configuration, read_document};
pub use tar::{stream_tar, write_tar};

use std::io::{self, Read};

use rootling_backends::{Context, Result};

use crate::image::{Descriptor, Document};

pub use crate::registry::Content;

/// A place that images come from: a repository of a registry, the store, a layout, an archive.
pub trait Source: Sync {
    /// Returns what is to be had here by name, in the order of the place.
    fn list(&self) -> Result<Vec<Listed>>;

    /// Returns the manifest or index that `name` means: a tag, a digest, or what else the place calls images; without a name, the
    /// only one there is.
    ///
    /// `NotFound` names what there is.
    fn document(&self, name: Option<&str>) -> Result<Document>;

    /// Returns a manifest or index that an index of this place names, verified.
    ///
    /// Registries keep these apart from blobs; everywhere else they are blobs.
    fn child(&self, descriptor: &Descriptor) -> Result<Document> {
        read_document(self, descriptor)
    }

    /// Opens content that a manifest of this place names. What is read is **not** verified: the caller does it.
    ///
    /// An error of kind `NotFound` if it is not there. Errors while reading may carry an [`Error`](rootling_backends::Error) of ours.
    fn open_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>>;

    /// Opens content from `offset` on; places that can seek need not read what is before it.
    fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>> {
        let mut content = self.open_blob(descriptor)?;
        let skipped = io::copy(&mut content.by_ref().take(offset), &mut io::sink());
        skipped.context(|| format!("read the first {offset} bytes of {}", descriptor.digest))?;
        Ok(content)
    }
}

/// A place that images go to.
///
/// Content comes first, then the documents that name it, then the names: whoever looks at the place meanwhile sees no image that
/// is not whole, and a cut leaves content that nothing names.
pub trait Sink: Sync {
    /// Must content be given one at a time, and in the same order every time? Archives say so.
    fn is_sequential(&self) -> bool {
        false
    }

    /// Is this content here already, or can the place get it by itself (from another repository of the registry)?
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool>;

    /// Takes in content and verifies it. After an error nothing of it can be seen here.
    fn put_blob(&self, descriptor: &Descriptor, content: &dyn Content) -> Result<()>;

    /// Takes in a manifest or index that an index to come names. All that it names is here.
    fn put_document(&self, document: &Document) -> Result<()>;

    /// Takes in a manifest or index, and gives it a name: the commit point. What had the name has it no more. Without a name it is
    /// to be found by its digest.
    fn publish(&self, document: &Document, name: Option<&str>) -> Result<()>;

    /// Makes all durable, after the last call of the others. What was published in an archive is to be seen only then.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
