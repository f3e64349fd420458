//! Reads any bytes as each of the package databases: it must not panic or take unbounded memory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::packages::{apk, dpkg, pacman, rpm};

fuzz_target!(|data: &[u8]| {
    drop((dpkg::parse(data), apk::parse(data), pacman::parse(data)));
    // An error is as good as success: most inputs are damaged.
    drop((rpm::parse(data), rpm::ndb::blobs(data)));
    let (main, log) = data.split_at(data.len() / 2);
    drop((rpm::sqlite::blobs(data, b"", "Packages"), rpm::sqlite::blobs(main, log, "Packages")));
});
