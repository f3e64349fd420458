//! Unpacks any bytes as a tar, a layer onto a tree, and a layer alone: it must not panic, hang, or touch what is beside the root.
//!
//! `cargo +nightly fuzz run tar -- -max_len=16384`; a tmpfs as TMPDIR makes it an order of magnitude faster.

#![no_main]

mod checksums;

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rootling::layer::{ApplyOptions, Limits, Whiteouts, apply};
use rootling_backends::Dir;

/// What a layer lies on: something to delete, links that lead everywhere.
fn make_lower(root: &Path) {
    std::fs::create_dir_all(root.join("usr/lib")).expect("a directory");
    std::fs::write(root.join("usr/lib/x"), "lower").expect("a file");
    for (target, name) in [("usr/lib", "lib"), ("/", "root"), ("../canary", "up"), ("../..", "usr/far")] {
        std::os::unix::fs::symlink(target, root.join(name)).expect("a link");
    }
}

fuzz_target!(|data: &[u8]| {
    let (first, data) = data.split_first().unwrap_or((&0, data));
    let whiteouts = match first % 4 {
        0 => Whiteouts::Plain,
        1 => Whiteouts::Delete,
        2 => Whiteouts::Added,
        _ => Whiteouts::Overlay { userxattr: true },
    };
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (root, canary) = (temp.path().join("root"), temp.path().join("canary"));
    std::fs::create_dir(&root).expect("a root");
    std::fs::write(&canary, "alive").expect("a canary");
    if matches!(whiteouts, Whiteouts::Delete | Whiteouts::Added) {
        make_lower(&root);
    }
    let dir = Dir::open(&root).expect("the root just made");
    let limits = Limits { members: 200, bytes: 1 << 20, archive_bytes: 1 << 22, extension_bytes: 1 << 16 };
    let options = ApplyOptions { whiteouts, digests: true, owners: false, limits, ..ApplyOptions::default() };
    // An error is as good as success: most inputs are no archives.
    drop(apply(&checksums::righted(data)[..], &dir, &options));
    assert_eq!(std::fs::read(&canary).expect("the canary"), b"alive");
    assert_eq!(std::fs::read_dir(temp.path()).expect("beside the root").count(), 2);
});
