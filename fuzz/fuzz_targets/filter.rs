//! Reads any text as a filter of containerd's lists.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::containerd::filter::Filters;

fuzz_target!(|text: &str| {
    let Ok(filters) = Filters::parse(&[text]) else { return };
    if text.trim().is_empty() {
        return;
    }
    // All selectors must match: to say them twice changes nothing.
    let twice = Filters::parse(&[format!("{text},{text}")]).expect("what was read once is read twice");
    for value in [None, Some(""), Some(text)] {
        assert_eq!(filters.matches(|_| value), twice.matches(|_| value));
    }
});
