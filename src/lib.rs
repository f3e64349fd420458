//! rootling makes, forks, enters and compares Linux root filesystems on the copy-on-write the host already has.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | tree | a directory on disk that a *backend* made: plain directory, btrfs subvolume, OverlayFS upper directory |
//! | node | the store's object: a tree and its record; *active* (it can change) or *committed* (it never does) |
//! | box | a named active node, with the committed nodes it stands on as its history |
//! | fork | a new active node on a committed one |
//! | volume | a node that boxes mount and that outlives them, with snapshots of its own |
//! | recipe | what is built: a Dockerfile by the place it was read from, and the stage that was asked for |
//! | stage | steps one on the other, on an image, another stage or nothing |
//! | step | an instruction with all that it depends on; one that works on files leaves a committed node, which is found again by its *key* |
//! | cache | a volume that steps of builds write to, and that is in no image |
//!
//! # Code map
//!
//! Imports point one way; `tests/layering.rs` checks this table against the source.
//!
//! | module | what it is for | may import | never |
//! |---|---|---|---|
//! | `rootling_backends` | trees: making, forking, comparing, destroying them | nothing of ours | names, records, processes |
//! | [`layer`] | tar archives into trees, trees into layers | backends, image | store |
//! | [`image`] | what the OCI documents say of images, as data | backends | files |
//! | [`packages`] | what package managers say is installed in a tree | backends | store, processes |
//! | [`store`] | what is on disk and true | backends, layer, image | network, processes |
//! | [`transfer`] | images between registries, stores, directories and archives | layer, image, store, registry | processes |
//! | [`mod@reference`] | the grammar of references | store (its ids and names), image (its names), sources (their grammar) | files |
//! | [`registry`] | talking to registries: pull, push, credentials, mirrors | image, near | store, files of its own |
//! | [`near`] | names that somebody may have meant | nothing of ours | files |
//! | [`sources`] | root file systems from no registry: packages, servers of images, tarballs, squashfs | layer, image, registry, near | store, names |
//! | [`loop_store`] | a store in a loop file | backends | store |
//! | [`runner`] | processes in namespaces | backends | store |
//! | [`process`] | a tree's own settings and what was asked for -> what is run | image, runner | store |
//! | [`build`] | Dockerfiles, where every step is a snapshot | transfer, process, runner, store, layer, image, registry, sources, reference, near | sockets of its own |
//! | [`serve`] | the store as a registry | store, image, registry, transfer | processes |
//! | `containerd` | containerd's snapshotter and differ (feature `containerd`) | store, layer, image, transfer, serve | processes |
//! | [`cli`] | commands | everything | being imported |
//!
//! **Invariants.** `unsafe` stands in two files: `backends/src/sys.rs` and `src/runner/sys.rs`. Only `cli/output.rs` prints.
//! Only `store/index.rs` knows bincode, only `backends/src/btrfs.rs` knows btrfsutil. Library code never reads
//! `$HOME`, never prints, never ends the process.

pub mod build;
pub mod cli;
#[cfg(feature = "containerd")]
pub mod containerd;
pub mod image;
pub mod layer;
pub mod loop_store;
pub mod near;
pub mod packages;
pub mod process;
pub mod reference;
pub mod registry;
pub mod runner;
pub mod serve;
pub mod sources;
pub mod store;
pub mod transfer;
