//! Tells any bytes' compression and unpacks the first of them: it must not panic or take unbounded memory.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use rootling::layer::decompress;

fuzz_target!(|data: &[u8]| {
    if let Ok((_, reader)) = decompress(data) {
        let mut unpacked = Vec::new();
        // An error is as good as success: most inputs are damaged.
        drop(reader.take(1 << 20).read_to_end(&mut unpacked));
    }
});
