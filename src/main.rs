//! The `rootling` program: everything is in the library.

fn main() {}
