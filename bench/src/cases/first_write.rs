//! What copy-on-write costs when it comes to writing.

use super::{Case, same_means};

/// See the module's head.
pub(crate) const FIRST_WRITE: Case = Case {
    id: "first-write",
    title: "First write: two bytes in the middle of the largest file",
    unit: "ms",
    fairness: "open, pwrite, close in a fork that is already entered (overlay: mounted), without fsync: what comes later by writeback is not in it. \
        Overlay copies the whole file up, by clone where upper and lower lie on one XFS or btrfs, byte by byte on ext4. Plain copies paid \
        when they were forked.",
    peer: same_means,
};
