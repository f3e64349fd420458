//! Ten edits in a fork, found.

use super::Case;

/// See the module's head.
pub(crate) const CHANGES: Case = Case {
    id: "changes",
    title: "Changes: ten edits found",
    unit: "ms",
    fairness: "Edits: 5 files written (one with size and mtime put back), chmod, chown, a deletion, a new file, a new directory. rootling must return \
        exactly these ten, bytes compared; on btrfs the sync of the file system that the search needs is in its time. The stat walk (one thread, one \
        lstat for each entry) and find see only that a ctime is later than a marker: no deletion, no word on what changed, and no comparison with \
        the parent; they do less. All run on the same warm forks, the walks first, by a mount that does not \
        move access times; what it costs when all directories were read since the fork, which does, is a row of its own. podman diff must name all ten paths, and is out where it misses one.",
    peer: |contender| match contender {
        "rootling overlay" => &["stat walk of the fork by rootling overlay"],
        "rootling btrfs" | "rootling btrfs, all directories read before" => {
            &["stat walk of the fork by rootling btrfs"]
        }
        "rootling reflink" | "rootling reflink, all directories read before" => {
            &["stat walk of the fork by rootling reflink"]
        }
        "rootling copy" | "rootling copy, all directories read before" => {
            &["stat walk of the fork by rootling copy"]
        }
        _ => &[],
    },
};
