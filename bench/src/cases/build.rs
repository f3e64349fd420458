//! Builds of Dockerfiles: a table for each thing that is built.

use super::Case;

/// The builder whose layers are of the same kind.
fn same_kind(contender: &str) -> &'static [&'static str] {
    match contender {
        "rootling btrfs" => &["buildah btrfs"],
        _ if contender.starts_with("rootling") => &["buildah overlay"],
        _ => &[],
    }
}

const fn case(id: &'static str, title: &'static str, unit: &'static str, fairness: &'static str) -> Case {
    Case { id, title, unit, fairness, peer: same_kind }
}

/// Forty small steps, nothing there.
pub(crate) const STEPS_COLD: Case = case(
    "build-steps-cold",
    "Build: 40 small RUN steps, nothing there",
    "ms",
    "Whole processes, and the sync of the file system after them. `buildah bud` and `podman build` keep a layer for each step (`--layers`), which they pack \
     and hash; BuildKit packs and hashes nothing before a push, and neither does rootling, whose trees are what a store takes for steps by itself: overlay, or subvolumes on btrfs (reflink trees, of which each step makes every file of the base anew, are not measured). Steps of rootling and BuildKit have namespaces, a filter of \
     system calls and a mount of their own, those of buildah and podman a chroot and a filter (`--isolation=chroot`, the faster of their ways). All of them \
     use the network of the machine. BuildKit's engine runs already and is no part of the time.",
);

/// The same again.
pub(crate) const STEPS_CACHED: Case = case(
    "build-steps-cached",
    "Build: the same 40 steps again",
    "ms",
    "Nothing is done by anybody but to see that all of it is there, and to name it.",
);

/// A compiler is installed, a program compiled, and copied out of its stage.
pub(crate) const STAGES: Case = case(
    "build-stages",
    "Build: a compiler installed, a program compiled, copied into a second stage",
    "ms",
    "dpkg installs gcc from packages in the context, which were fetched before: no build waits for a network. Most of it is dpkg's and gcc's time, which is \
     the same for all but for its writes.",
);

/// The same again.
pub(crate) const STAGES_CACHED: Case = case(
    "build-stages-cached",
    "Build: the same stages again",
    "ms",
    "What the context holds is read or looked at again by everybody: rootling reads no file whose times it knows.",
);

/// Many files.
pub(crate) const FILES: Case = case(
    "build-files",
    "Build: COPY of 20,000 files",
    "ms",
    "BuildKit takes the context over a socket into a directory of its own first, and clones nothing; rootling clones files where the file system can, and copies \
     them on ext4.",
);

/// One of them changed.
pub(crate) const CHANGED: Case = case(
    "build-changed",
    "Build: the same after one of the 20,000 files changed",
    "ms",
    "The step copies all of them again, everywhere: a layer is what one instruction made.",
);

/// One large file.
pub(crate) const BIG: Case = case(
    "build-big",
    "Build: COPY of one file of 2 GiB",
    "ms",
    "The file lies on the same file system as the stores, and its pages are in memory where they fit. rootling reads it for its hash and clones it.",
);

/// The same file again, in another image.
pub(crate) const BIG_KNOWN: Case = case(
    "build-big-known",
    "Build: COPY of the same file of 2 GiB in another image",
    "ms",
    "Who remembers what the file came to need not read it: rootling does as long as inode, size and times are the same and not too young, BuildKit by the copy \
     that it keeps of the context.",
);

/// What that takes.
pub(crate) const BIG_USED: Case = case(
    "build-big-used",
    "What the COPY of one file of 2 GiB takes of the disk",
    "MiB",
    "What is in use on the file system (statfs) after the build and a sync, without what was before.",
);
