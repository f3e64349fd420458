//! The server of containerd's snapshots, by way of its socket: a client like containerd's, and mounts as containerd does them.

pub(crate) mod client;
mod contract;
mod end;
pub(crate) mod grounds;
mod kill;
pub(crate) mod mounting;
mod setup;
mod suite;

use crate::support::{compare, tree};
