//! Reads any bytes as a Dockerfile, and what was read in all the ways it is looked at.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::build::syntax;

fuzz_target!(|data: &[u8]| {
    match syntax::problems(data) {
        Ok(file) => {
            assert!(!file.instructions.is_empty());
            for pair in file.instructions.windows(2) {
                assert!(pair[0].position < pair[1].position && pair[0].last_line < pair[1].position.line);
            }
            drop((syntax::to_json(&file), syntax::to_text(&file)));
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        // An error is as good as success: most inputs are damaged.
        drop((syntax::parse_trigger(text), syntax::duration(text)));
    }
});
