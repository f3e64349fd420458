//! Reads any bytes as a seccomp profile in docker's format: a program that the kernel would take, or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::runner::{Seccomp, SeccompFilter};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let profile = Seccomp::Profile { name: "fuzz".to_owned(), text: text.to_owned() };
    if let Ok(Some(filter)) = SeccompFilter::build(&profile, 0xa804_25fb) {
        // BPF_MAXINSNS, and every path ends: the last instruction returns.
        assert!(filter.instructions().len() <= 4096);
        assert!(filter.instructions().last().is_some_and(|last| last.code == 0x06));
    }
});
