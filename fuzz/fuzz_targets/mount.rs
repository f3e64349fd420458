//! Reads any text as the value of `RUN --mount`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::build::syntax::mount;

fuzz_target!(|text: &str| {
    // An error is as good as success: most inputs are damaged.
    drop(mount::parse(text, &mut |value| Ok(value.to_owned())));
});
