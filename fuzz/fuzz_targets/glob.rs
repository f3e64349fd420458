//! Matches any bytes against any pattern: it must not panic, nor take long.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::build::glob::{Pattern, clean, has_wildcards};

fuzz_target!(|data: &[u8]| {
    let (pattern, text) = data.split_at(data.len() / 2);
    let cleaned = clean(text).into_owned();
    assert_eq!(clean(&cleaned).into_owned(), cleaned);
    if let Ok(read) = Pattern::parse(pattern) {
        let matches = read.matches(text);
        assert!(has_wildcards(pattern) || pattern.contains(&b'\\') || matches == (pattern == text));
    }
});
