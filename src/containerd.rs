//! rootling as containerd's snapshotter and differ: its services on a unix socket.
//!
//! The one place with an async runtime, at its edge: each call is handed to a thread that may block, and what it does there is
//! [`store`](crate::store)'s business.

pub mod api;
