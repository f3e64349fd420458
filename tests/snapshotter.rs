//! The server of containerd's snapshots, by way of its socket: a client like containerd's, and mounts as containerd does them.

mod client;
mod contract;
mod end;
mod grounds;
mod kill;
mod mounting;
mod setup;
mod suite;

use crate::support::{compare, tree};
