//! The ways rootling materializes root filesystems.
//!
//! | module | what it is for |
//! |---|---|
//! | [`backend`] | the contract: trait [`Backend`], slots, trees, forms, baselines |
//! | [`mount`] | how a tree is shown: data, and detached mounts made from it |
//! | [`change`] | what differs between two trees: data |
//! | [`dir`] | a directory held by descriptor: the only way inside a tree |
//! | [`error`] | the one error type |
//!
//! This crate knows trees. It never hears of names, tags, digests, records, locks or processes: those are
//! its callers'. It never prints.

pub mod backend;
pub mod change;
pub mod dir;
pub mod error;
pub mod mount;
pub mod sys;

pub use backend::{
    Backend, Baseline, Capabilities, Cost, FS, Finding, ForkOptions, Forked, Form, Kind, Reaped, Snapshotted,
    Tree, Usage, WORK,
};
pub use change::{Aspects, Change, ChangeKind, DiffOptions};
pub use dir::{Dir, DirEntry, EntryType, Times};
pub use error::{Context, Error, ErrorKind, Result};
pub use mount::{Access, Mount, Overlay, Upper};
