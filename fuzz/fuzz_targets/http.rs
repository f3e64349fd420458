//! Reads any bytes as the head of a request to `serve`: what is taken has one meaning, and leads nowhere outside.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::serve::http::{Framing, Head};

fuzz_target!(|data: &[u8]| {
    let Ok(head) = Head::parse(data) else { return };
    assert!(head.path.starts_with('/') && data.ends_with(b"\r\n\r\n"));
    // A length and chunks at once have two meanings.
    let has = |name: &[u8]| data.to_ascii_lowercase().windows(name.len()).any(|window| window == name);
    match head.framing {
        Framing::Chunked => assert!(head.line("content-length").is_none()),
        Framing::Sized(length) => {
            assert!(head.line("transfer-encoding").is_none());
            assert!(length == 0 || has(b"content-length:"));
        }
    }
});
