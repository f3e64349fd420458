//! Reads any bytes as a challenge, an address and a registries.conf: none of them may panic or take more than they are given.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::registry::Url;
use rootling::registry::challenge::Challenge;
use rootling::registry::hosts::Registries;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let challenges = Challenge::parse(&text);
    let values = challenges.iter().flat_map(|challenge| &challenge.parameters);
    assert!(values.map(|(name, value)| name.len() + value.len()).sum::<usize>() <= text.len());
    if let Ok(url) = Url::parse(&text) {
        assert_eq!(Url::parse(&url.to_string()).expect("its own form"), url);
        drop(url.join(&text));
    }
    drop(Registries::parse(&text));
});
