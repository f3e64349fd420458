//! States of a box: one table for each thing that is done with them, each in two sizes of change.

use super::{Case, same_means};

const fn case(id: &'static str, title: &'static str, unit: &'static str, fairness: &'static str) -> Case {
    Case { id, title, unit, fairness, peer: same_means }
}

/// Keep the present state. 10 files, 1,000 files.
pub(crate) const SNAPSHOT: [Case; 2] = [
    case(
        "snapshot-10",
        "Snapshot: 10 files changed since the last",
        "ms",
        "Whole processes, and the sync of the file system after them. `podman commit` and `docker commit` make an image of it: a tar of what \
         changed, unpacked again as a layer, which is what one has to be able to do there to go on from that state; rootling, btrfs-progs and \
         snapper keep the tree itself. The box is not running, nothing is dirty before.",
    ),
    case("snapshot-1000", "Snapshot: 1,000 files changed since the last", "ms", "As above."),
];

/// Say what changed since the last state.
pub(crate) const DIFF: [Case; 2] = [
    case(
        "diff-10",
        "Diff: 10 changed files found",
        "ms",
        "Every changed file must be named by its path; written to are files whose names no tool escapes. rootling compares with the last state, type, bytes, owner, mode and attributes; podman and docker \
         compare with the image that the container was made from, so that they find what earlier rounds wrote, too (the same files); btrfs send takes a \
         snapshot first and tells extents; snapper does the same within, and compares with the last snapshot.",
    ),
    case("diff-1000", "Diff: 1,000 changed files found", "ms", "As above."),
];

/// A second thing to write to.
pub(crate) const FORK: [Case; 2] = [
    case(
        "state-fork-10",
        "Fork of a state (10 files changed)",
        "ms",
        "`rootling fork`, `podman create`, `docker create`, `btrfs subvolume snapshot`, `lxc-copy -s`: none starts anything. rootling's reflink \
         backend makes every file anew, sharing its data: a plain tree for a long life.",
    ),
    case("state-fork-1000", "Fork of a state (1,000 files changed)", "ms", "As above."),
];

/// Back to the last state, after other changes to the same files.
pub(crate) const RESTORE: [Case; 2] = [
    case(
        "restore-10",
        "Restore: 10 changed files put back",
        "ms",
        "rootling keeps what it replaces as a snapshot of its own; btrfs-progs and snapper do not. podman and docker have nothing like it.",
    ),
    case("restore-1000", "Restore: 1,000 changed files put back", "ms", "As above."),
];

/// What keeping a state wrote to the disk.
pub(crate) const WRITTEN: [Case; 2] = [
    case(
        "written-10",
        "Written by a snapshot: 10 files changed",
        "KiB",
        "Sectors written to the loop device from before the command until after the sync; the file system's own journal and tree roots included.",
    ),
    case("written-1000", "Written by a snapshot: 1,000 files changed", "KiB", "As above."),
];
