//! What the conformance kit and the crash kit share: file systems to test on, trees as values, random operations.

pub(crate) mod compare;
pub(crate) mod host;
pub(crate) mod mounted;
pub(crate) mod ops;
pub(crate) mod require;
pub(crate) mod rng;
pub(crate) mod tree;
