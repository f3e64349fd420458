//! The ways rootling materializes root filesystems.
//!
//! | module | what it is for |
//! |---|---|
//! | [`backend`] | the contract: trait [`Backend`], slots, trees, forms, baselines |
//! | [`mount`] | how a tree is shown: data, and detached mounts made from it |
//! | [`small_file`] | small files of the host, read whole |
//! | [`mount_table`] | what is mounted where |
//! | [`change`] | what differs between two trees: data |
//! | [`dir`] | a directory held by descriptor: the only way inside a tree |
//! | [`error`] | the one error type |
//! | [`replicate`] | a plain tree out of a plain tree |
//! | [`flatten`] | a plain tree out of a chain of deltas |
//! | `fuse` | overlays by fuse-overlayfs, where the kernel refuses them |
//! | [`compare`] | two entries, two trees: what differs |
//! | [`fence`] | what changed in a plain directory, by ctime |
//! | [`delta`] | a difference written down as an OverlayFS upper directory |
//! | [`plain`] | backends: a plain directory for each tree, files cloned or copied |
//! | [`footprint`] [`extents`] | what a tree occupies, and where |
//! | [`reap`] | removing a slot, whatever is in it |
//! | [`attributes`] | owner, mode, times, xattrs of one entry, set in the right order |
//! | [`marks`] | what OverlayFS writes beside the content: whiteouts, opaque directories |
//! | [`patch`] | one tree made what another is, at given changes |
//! | [`aside`] | one entry put beside another of the same name: both sides of a conflict |
//! | [`within`](mod@within) | the changes at some paths only |
//! | [`ground`] | a tree that is written to where it lies, a delta too |
//! | [`graft`] | a part of one tree put into another, by a caller's rules |
//! | `replace`, `links` | a new entry in place of another; names of one inode |
//! | `entry`, `data`, `merge`, `walk` | copying one entry; its bytes; the engine of replicate and flatten; tasks on all cores |
//! | [`candidates`] | paths that may differ, from deltas and searches, compared between any two trees |
//! | `pairing` | one path compared on both sides: turns the candidates of a search into changes |
//! | [`btrfs`] | backend: a subvolume for each tree, snapshots |
//! | [`overlay`] | backend: an upper directory for each tree |
//! | [`probe`] | what a file system can do, found out by doing; chooses and opens backends |
//!
//! This crate knows trees. It never hears of names, tags, digests, records, locks or processes: those are
//! its callers'; `fuse` alone starts a program, which serves a mount. It never prints.

pub mod aside;
pub mod attributes;
pub mod backend;
#[cfg(feature = "btrfs")]
pub mod btrfs;
pub mod candidates;
pub mod change;
pub mod compare;
mod data;
pub mod delta;
pub mod dir;
pub mod entry;
pub mod error;
pub mod extents;
pub mod fence;
pub mod flatten;
pub mod footprint;
mod fuse;
pub mod graft;
pub mod ground;
mod links;
pub mod marks;
mod merge;
pub mod mount;
pub mod mount_table;
pub mod overlay;
mod pairing;
pub mod patch;
pub mod plain;
pub mod private;
pub mod probe;
pub mod reap;
mod replace;
pub mod replicate;
pub mod small_file;
pub mod sys;
pub mod transfer;
mod walk;
pub mod within;

pub use backend::{
    Backend, Baseline, Capabilities, Cost, FS, Finding, ForkOptions, Forked, Form, Kind, Reaped, Snapshotted,
    Tree, WORK,
};
pub use change::{Aspects, Change, ChangeKind, DiffOptions};
pub use dir::{Dir, DirEntry, EntryType, Times};
pub use entry::CloneMode;
pub use error::{Context, Error, ErrorKind, Result};
pub use extents::Extents;
pub use footprint::{Footprint, Surroundings};
pub use merge::clear_umask;
pub use mount::{Access, MappedOwner, Mount, Overlay, Upper};
pub use plain::Plain;
