//! The store as a registry: what the specification says, what other programs do, and what goes wrong on the way.

mod conformance;
mod faults;
mod interop;
pub(crate) mod server;
