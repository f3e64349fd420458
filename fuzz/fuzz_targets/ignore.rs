//! Reads any bytes as an ignore file, and walks a path by it: what is not entered must not hold anything that comes back.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rootling::build::ignore::Patterns;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, path) = data.split_at(at);
    let Ok(patterns) = Patterns::parse_file(text) else { return };
    let names: Vec<&[u8]> =
        path.split(|byte| matches!(byte, 0 | b'/')).filter(|name| !name.is_empty()).collect();
    let whole = names.join(&b'/');
    let verdict = patterns.matches(Path::new(OsStr::from_bytes(&whole)));
    let mut level = patterns.root();
    for (at, name) in names.iter().enumerate() {
        if at > 0 && !patterns.may_differ_below(&level) {
            assert_eq!(patterns.means(&level), verdict);
        }
        level = patterns.enter(&level, name);
    }
    assert_eq!(patterns.means(&level), verdict);
});
