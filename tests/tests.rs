//! Table of contents of the tests that run through the built binary or look at the source.
//!
//! | module | what it tests |
//! |---|---|
//! | `images` | images in the store: layers shared, verified, repaired |
//! | `layering` | who imports whom, where unsafe stands, who prints |
//! | `layer` | tar archives, honest and hostile, into trees |
//! | `attack` | attacks on the walls of a box, first without the wall, then with it |
//! | `rootless` | the whole life as an ordinary user |
//! | `runner` | processes in namespaces, through the library |
//! | `budget` | what a start costs: system calls and memory |
//! | `formats` | image layouts and archives, beside skopeo, umoci and podman |
//! | `forks` | many boxes at once, commands in each, and the one that wins |
//! | `trying` `trying_host` | what becomes of what a command changed in a fork |
//! | `limited` | limits as a person asks for them |
//! | `limits` | cgroups: here, and in a virtual machine (`machine`) with other kernels' layouts |
//! | `namespaces` | whose namespaces a box has, and what follows |
//! | `net` | private networks, in network namespaces of their own (`lab`) |
//! | `keeping` | what is removed and brought back, renamed, locked, snapshotted by itself and pruned |
//! | `cli` | every command as a person would use it |
//! | `log` | what is told of states: log, show, ls, completion |
//! | `bisect` | the state in which something broke |
//! | `merging` | apply, revert, rebase and their conflicts |
//! | `run_steps` | `RUN` through the library: surroundings, mounts, secrets, signals, and what is left in the tree |
//! | `states` | snapshots of boxes, restore, undo, redo |
//! | `containerd` | containerd itself, with runc and ctr, on trees that rootling keeps for it |
//! | `diff` | any two states compared: files, texts, packages |
//! | `differ` | containerd's layers into trees and out of them, with a real containerd |
//! | `copy_steps` | `COPY`, `ADD` and `WORKDIR` of builds, beside what docker makes |
//! | `copying` | `cp`, and trees that would have it go elsewhere |
//! | `home` | what is kept with a box, its home, being oneself in it |
//! | `sources` | imports from servers, of packages, of squashfs files, made once |
//! | `volumes` | what is mounted in boxes, and volumes of the store |
//! | `sizes` | what `du` says, beside what the file system says |
//! | `transfer` | images in and out, as a person moves them, beside other programs |
//! | `held` | trees that another program holds, as containerd does |
//! | `wrong` | every command used wrong, and file systems that fail |
//! | `processes` | what is left running, listed, visited and ended; terminals |
//! | `registry` | the registry client beside docker-registry, and beside servers that fail |
//! | `build_flags` | flags of `build` that are for every step |
//! | `dockerfiles` | what is read of Dockerfiles, and what is said of them |
//! | `build` | `build` as a person uses it: every instruction and flag, the cache, failures, hostile contexts |
//! | `built` | what was built, as an image: its layers and its history |
//! | `steps` | the steps of builds: found, kept, swept; failures |
//! | `serve` | the store as a registry: the specification case by case, other programs, faults |
//! | `bundle` | trees handed over to runc, crun and podman |
//! | `snapshotter` | the store as containerd's snapshotter: its suite and more, kills, the end |
//! | `layers` | image layers: deleted from forks, marked in deltas, both the same; the pipeline |
//! | `readme` | the console blocks of README.md |
//!
//! Backends are tested by `conformance/`, crashes by `crash/`.

#[cfg(test)]
mod attack;
#[cfg(test)]
mod bisect;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod build;
#[cfg(test)]
mod build_flags;
#[cfg(test)]
mod built;
#[cfg(test)]
mod bundle;
#[cfg(test)]
mod cli;
#[cfg(test)]
#[cfg(feature = "containerd")]
mod containerd;
#[cfg(test)]
mod copy_steps;
#[cfg(test)]
mod copying;
#[cfg(test)]
mod diff;
#[cfg(test)]
#[cfg(feature = "containerd")]
mod differ;
#[cfg(test)]
mod dockerfiles;
#[cfg(test)]
mod environment;
#[cfg(test)]
mod forks;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod grounds;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod held;
#[cfg(test)]
mod home;
#[cfg(test)]
#[path = "support/host.rs"]
#[expect(dead_code, reason = "the namespace of a whole program is the conformance kit's")]
mod host;
#[cfg(test)]
mod images;
#[cfg(test)]
mod keeping;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod layer;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod limited;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod log;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod merging;
#[cfg(test)]
mod namespaces;
#[cfg(test)]
mod net;
#[cfg(test)]
#[path = "support/oci.rs"]
mod oci;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod rootless;
#[cfg(test)]
mod run_steps;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod sizes;
#[cfg(test)]
#[cfg(feature = "containerd")]
mod snapshotter;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod states;
#[cfg(test)]
mod steps;
#[cfg(test)]
#[cfg(feature = "containerd")]
#[expect(dead_code, reason = "all of it is the conformance kit's")]
mod support {
    pub(crate) mod compare;
    pub(crate) mod mounted;
    pub(crate) mod tree;
}
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod trying;
#[cfg(test)]
mod trying_host;
#[cfg(test)]
mod volumes;
#[cfg(test)]
mod wrong;
