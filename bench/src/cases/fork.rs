//! From nothing to a writable tree with the parent's content.
//!
//! Everybody starts from the same archive on the same file system, with warm caches and nothing dirty.

use super::{Case, same_means};

/// See the module's head.
pub(crate) const FORK: Case = Case {
    id: "fork",
    title: "Fork: a writable copy of the tree",
    unit: "ms",
    fairness: "rootling's backends are called as a library, the bare ioctl is one system call on open directories; cp, btrfs and podman pay for \
        starting a process (1 to 2 ms; podman, whose `create` also writes a container's record, some 50 ms and more). Overlay forks are not mounted \
        yet: see `run`. A btrfs snapshot is durable when it returns, the others are not: see the next table. rootling's reflink and copy use all \
        cores and also write down which directory stood where, for later searches; cp uses one core and keeps nothing. Both cp \
        --reflink=always and rootling's reflink are told to fail rather than copy a file.",
    peer: same_means,
};
