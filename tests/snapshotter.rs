//! The server of containerd's snapshots, by way of its socket: a client like containerd's, and mounts as containerd does them.

mod client;
#[path = "support/compare.rs"]
#[expect(dead_code, reason = "lists of changes are the conformance kit's")]
mod compare;
mod contract;
mod end;
mod grounds;
mod kill;
mod mounting;
mod setup;
mod suite;
#[path = "support/tree.rs"]
#[expect(dead_code, unused_imports, unused_macros, reason = "part of it is the conformance kit's")]
mod tree;
