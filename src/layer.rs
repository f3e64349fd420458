//! Tar archives and trees: what an import, and later an image layer, is unpacked with.
//!
//! ```text
//! bytes ── compression ──> tar ── read ──> members ── apply ──> tree
//!                                  │                    │
//!                          header, pax, sparse     place, content
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`compression`] | what the bytes are packed with, told by their first bytes |
//! | [`member`] | one entry of an archive: data |
//! | [`read`] | a tar stream, member by member; never touches a tree |
//! | [`mod@apply`] | members into a tree |
//!
//! An archive is hostile input. Nothing in it may reach outside the tree, take unbounded memory, or be
//! half understood: where the tar programs of this world disagree about what an archive means, it is
//! refused, and the error names the member and the offset.

pub mod apply;
pub mod compression;
mod content;
mod header;
pub mod member;
mod pax;
mod place;
pub mod read;
mod sparse;

pub use apply::{Applied, ApplyOptions, Skipped, Whiteouts, apply, apply_with};
pub use compression::{Compression, decompress};
pub use member::{Content, Member};
pub use read::{Archive, Limits};
