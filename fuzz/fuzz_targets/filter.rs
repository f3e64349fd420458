//! Reads any text as a filter of containerd's lists.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::containerd::filter::Filters;

fuzz_target!(|text: &str| {
    let Ok(filters) = Filters::parse(&[text]) else { return };
    // What it says of two things depends on their fields alone.
    for value in [None, Some(""), Some(text)] {
        assert_eq!(filters.matches(|_| value), filters.matches(|_| value));
    }
});
