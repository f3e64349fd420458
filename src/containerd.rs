//! rootling as containerd's snapshotter and differ: its services on a unix socket.
//!
//! The one place with an async runtime, at its edge: a call is handed to a thread that may block, unless a glance into memory answers it,
//! and what it does there is [`store`](crate::store)'s business.
//!
//! ```text
//! socket ── server ── the runtime, the end
//!            ├─ services ── which one a request is for
//!            ├─ snapshots ── what containerd calls snapshots: trees that the store holds
//!            │    ├─ filter, quoted ── which of them a list is to show
//!            │    ├─ labels ── what an update changes
//!            │    └─ mounts ── what a client calls mount(2) with
//!            ├─ differ ── layers into trees, and trees into layers
//!            ├─ calls ── where each is done; counted (metrics), told as gRPC (status)
//!            ├─ sweep ── when what was removed is destroyed
//!            └─ page ── what was counted, over HTTP
//! setup ── what systemd and containerd are told
//! api ── what is on the wire
//! ```
//!
//! **Invariants.** What is acknowledged is on disk: [`HeldTrees`](crate::store::HeldTrees) sees to that. No path is made of what a client
//! says, but where the differ is told which directories a tree's mounts are. A call that has begun is done to its end, whoever hangs up;
//! only a layer is left as it stands. What only looks never waits for what works.

pub mod api;
mod calls;
mod differ;
pub mod filter;
mod labels;
mod metrics;
mod mounts;
mod page;
mod quoted;
mod server;
mod services;
mod setup;
mod snapshots;
mod socket;
mod status;
mod sweep;

pub use page::{Listening, Place};
pub use server::{Moment, Server};
pub use setup::Setup;
pub use socket::Socket;
