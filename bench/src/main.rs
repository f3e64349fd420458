//! Measures rootling beside its peers.
fn main() {}
