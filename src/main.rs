//! The `rootling` program: everything is in the library.

use std::process::exit;

fn main() {
    exit(rootling::cli::main());
}
