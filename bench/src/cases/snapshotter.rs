//! Trees kept for containerd: what each call of its client costs, and what that makes of pulls and starts.

use super::Case;

/// What containerd has itself, of the same kind.
fn same_kind(contender: &str) -> &'static [&'static str] {
    match contender {
        "rootling btrfs" => &["containerd btrfs"],
        "rootling overlay" => &["containerd overlayfs"],
        _ if contender.starts_with("rootling") => &["containerd native"],
        _ => &[],
    }
}

const fn case(id: &'static str, title: &'static str, fairness: &'static str) -> Case {
    Case { id, title, unit: "ms", fairness, peer: same_kind }
}

const EACH: &str = "One client, one call after the other, through containerd's own socket and its metadata, whoever keeps the trees: rootling is another \
     process that containerd asks over a second socket, its own snapshotters are within it. Of a thousand calls the time of one.";

const SYNC: &str = "rootling answers once what it has is durable, data included; containerd's snapshotters write their database and no data: \
     what a power cut leaves of their layers is luck. Nothing is dirty before.";

pub(crate) const PREPARE: Case =
    case("snapshotter-prepare", "containerd: prepare, one of 1,000 on one parent", EACH);
pub(crate) const USAGE: Case = case("snapshotter-usage", "containerd: usage, one of 1,000", EACH);
pub(crate) const WALK: Case = case(
    "snapshotter-walk",
    "containerd: walk of 1,000",
    "The whole list, as one call gives it: for each snapshot containerd asks its snapshotter by name.",
);
pub(crate) const COMMIT: [Case; 2] = [
    case(
        "snapshotter-commit",
        "containerd: commit, one of 1,000 with a small file each: until it returns",
        SYNC,
    ),
    case(
        "snapshotter-commit-durable",
        "containerd: commit, one of 1,000 with a small file each: until all are on the disk",
        "As above, and the sync of the file system after the last of them.",
    ),
];
pub(crate) const REMOVE: Case = case(
    "snapshotter-remove",
    "containerd: remove, one of 1,000, until the trees are gone",
    "A removal is noted at once and done by containerd's collection of garbage, which is asked for and waited for; it lets each snapshotter clean up, and \
     no name of a tree may be left. What btrfs frees, it frees later, whoever asks.",
);
pub(crate) const LAYER: [Case; 2] = [
    case(
        "snapshotter-layer",
        "containerd: commit of a layer of 50,000 files: until it returns",
        "The layer was written by way of the mounts that the snapshotter gave, and synced: neither has anything to write but its records. containerd's \
         snapshotters count the layer's bytes within the call.",
    ),
    case(
        "snapshotter-layer-dirty",
        "containerd: commit of a layer of 50,000 files just written: until it is on the disk",
        "As above, but nothing was synced before, and the sync of the file system after it counts.",
    ),
];
pub(crate) const PULL: [Case; 2] = [
    case(
        "snapshotter-pull",
        "containerd: `ctr images pull`: until it returns",
        "Whole processes, from a registry on loopback; five gzip layers; containerd fetches, unpacks them by itself and one after the other, into \
         the mounts that the snapshotter gives.",
    ),
    case(
        "snapshotter-pull-durable",
        "containerd: `ctr images pull`: until it is on the disk",
        "As above, and the sync of the file system after it.",
    ),
];
pub(crate) const START: Case = case(
    "snapshotter-start",
    "containerd: `ctr run --rm` of /bin/true, one of 50",
    "Whole processes: most of it is ctr, containerd, its shim and runc.",
);
