//! Unpacks any bytes as a tar: it must not panic, hang, or touch what is beside the root.
//!
//! `cargo +nightly fuzz run tar -- -max_len=16384`; a tmpfs as TMPDIR makes it an order of magnitude faster.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::layer::{ApplyOptions, Limits, apply};
use rootling_backends::Dir;

/// Makes the checksums right: random ones end every run at the first header.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] != *b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

fuzz_target!(|data: &[u8]| {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (root, canary) = (temp.path().join("root"), temp.path().join("canary"));
    std::fs::create_dir(&root).expect("a root");
    std::fs::write(&canary, "alive").expect("a canary");
    let dir = Dir::open(&root).expect("the root just made");
    let options = ApplyOptions {
        digests: true,
        owners: false,
        limits: Limits { members: 200, bytes: 1 << 20, extension_bytes: 1 << 16 },
        ..ApplyOptions::default()
    };
    // An error is as good as success: most inputs are no archives.
    drop(apply(&with_checksums(data)[..], &dir, &options));
    assert_eq!(std::fs::read(&canary).expect("the canary"), b"alive");
    assert_eq!(std::fs::read_dir(temp.path()).expect("beside the root").count(), 2);
});
