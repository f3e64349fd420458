//! Images: four tables for each thing that is done with them.

use super::Case;

/// The peer whose trees are of the same kind.
fn same_kind(contender: &str) -> &'static [&'static str] {
    match contender {
        "rootling btrfs" => &["podman btrfs"],
        _ if contender.starts_with("rootling") => &["podman overlay"],
        _ => &[],
    }
}

const fn case(id: &'static str, title: &'static str, unit: &'static str, fairness: &'static str) -> Case {
    Case { id, title, unit, fairness, peer: same_kind }
}

const RETURNED: &str = "Whole processes, without the sync. rootling has made durable what it has when it returns, and so has podman most of it; umoci leaves all to the kernel.";
const PEAK: &str = "Looked at every 10 ms: the sum over the command and all that it started, of the most that each held; of several commands the greatest. \
     containerd's daemon is counted, in which ctr has the work done; a registry is not.";
const WRITTEN: &str = "Sectors written to the loop device from before the command until after the sync. The registry's own disk is another.";

/// An image into an empty store. On the disk, returned, memory, written.
pub(crate) const COLD: [Case; 4] = [
    case(
        "pull-cold",
        "Pull and unpack, nothing there: until it is on the disk",
        "ms",
        "Whole processes, and the sync of the file system after them; a file system of its own, newly made, for each turn. The image has five gzip layers, \
         the registry is on loopback and has them in memory. rootling and containerd keep a tree for each layer and the compressed layers as well, \
         podman the trees only; skopeo and umoci keep a layout and unpack one plain tree from it. rootling unpacks layers at once, which podman does not.",
    ),
    case("pull-cold-returned", "Pull and unpack, nothing there: until it returns", "ms", RETURNED),
    case("pull-cold-peak", "Memory of a pull, nothing there", "MiB", PEAK),
    case("pull-cold-written", "Written by a pull, nothing there", "MiB", WRITTEN),
];

/// An image of whose five layers four are there.
pub(crate) const SHARED: [Case; 4] = [
    case(
        "pull-shared",
        "Pull and unpack, four of five layers there: until it is on the disk",
        "ms",
        "As above; the image that was pulled before has the same four layers below. umoci unpacks all five again, because it keeps no trees of layers.",
    ),
    case(
        "pull-shared-returned",
        "Pull and unpack, four of five layers there: until it returns",
        "ms",
        RETURNED,
    ),
    case("pull-shared-peak", "Memory of a pull, four of five layers there", "MiB", PEAK),
    case("pull-shared-written", "Written by a pull, four of five layers there", "MiB", WRITTEN),
];

/// A box of that image after ten files were written to.
pub(crate) const PUSH: [Case; 4] = [
    case(
        "push-small",
        "Push of a box with 10 changed files: until it is on the disk",
        "ms",
        "`rootling push` of a box as it stands; `podman commit` and `podman push`; `umoci repack` and `skopeo copy`. The registry has the layers below \
         already and everybody may find that out. The box is not running, nothing is dirty before. ctr makes no image of a box.",
    ),
    case("push-small-returned", "Push of a box with 10 changed files: until it returns", "ms", RETURNED),
    case("push-small-peak", "Memory of a push", "MiB", PEAK),
    case("push-small-written", "Written by a push, to the disk of who pushes", "MiB", WRITTEN),
];
