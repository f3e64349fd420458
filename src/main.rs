//! The `rootling` program: everything is in the library.
//!
//! The C library calls `main` directly: what Rust's runtime does before it costs 15 of the system calls that `run` is
//! measured by, mostly to prepare a message about an overflown stack. What of it matters, `cli::main` does itself.

#![no_main]

use std::ffi::{c_char, c_int};

#[expect(unsafe_code, reason = "the name belongs to the C library, which calls it once")]
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    rootling::cli::main()
}
