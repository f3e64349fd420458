//! Tar archives and trees: what an import or an image layer is unpacked with, and what a layer is made of a tree with.
//!
//! ```text
//! bytes ── compression ──> tar ── read ──> members ── apply ──> tree
//!                                  │                    │
//!                          header, pax, sparse     whiteout, place, content
//!
//! blob <── pack ── tar <── write ── members <── create ── changes of a tree
//!            │                                    │
//!           gzip                         plan, inode, data
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`compression`] | what the bytes are packed with, told by their first bytes |
//! | [`member`] | one entry of an archive: data |
//! | [`read`] | a tar stream, member by member; never touches a tree |
//! | [`mod@apply`] | members into a tree: a root filesystem, a layer on those beneath, or a layer alone |
//! | [`pipeline`] | all of it at once, in threads: blob and tar hashed on the way |
//! | `whiteout` | what names with the prefix `.wh.` mean |
//! | `place` | where members go; what whiteouts take away |
//! | `pipe` | bytes from one thread to the next |
//! | [`mod@create`] | a tree, or what changed in it, into an archive that depends on nothing else |
//! | `write` | a member into headers |
//! | [`mod@pack`] | an archive into a blob: compression, digests, threads |
//!
//! An archive is hostile input. Nothing in it may reach outside the tree, take unbounded memory, or be
//! half understood: where the tar programs of this world disagree about what an archive means, it is
//! refused, and the error names the member and the offset.

pub mod apply;
pub mod compression;
mod content;
pub mod create;
mod gzip;
mod header;
pub mod member;
pub mod pack;
mod pax;
mod pipe;
pub mod pipeline;
mod place;
pub mod read;
mod whiteout;
pub(crate) mod write;

pub use apply::{Applied, ApplyOptions, Skipped, Whiteouts, apply, apply_with};
pub use compression::{Compression, decompress, is_archive};
pub use create::{CreateOptions, Created, create, whole_tree};
pub use member::{Content, Member};
pub use pack::{Packed, Packing, Recipe, pack};
pub use pipeline::{Sum, Unpacked, unpack};
pub use read::{Archive, Limits};
