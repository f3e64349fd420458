//! Who goes away in the middle: containerd, our server, a client; and what a large layer takes of memory.

use std::time::Duration;

use rootling::containerd::api::diff::ApplyRequest;
use rootling_backends::Kind;

use super::lab;
use super::lab::{GZIP, Lab, TAR, can_run};
use super::{base, once, tar};
use crate::environment::Environment;
use crate::layer::{Tar, gzip};
use crate::support::compare::assert_tree_eq;
use crate::support::tree::file;

#[test]
fn a_containerd_that_goes_away_is_told_of_and_found_again() {
    if !can_run() || !crate::environment::is_root() {
        return;
    }
    let environment = Environment::new();
    let mut lab = Lab::new(&environment, Kind::Overlay);
    let blob = lab.put(GZIP, &gzip(&tar(&lab, &base())));
    lab.containerd.kill();
    let mounts = lab.prepare("key", "");
    let status = lab.apply(&lab.differ, &blob, &mounts).expect_err("nobody has the blob");
    assert!(status.message().contains("--containerd"), "{status:?}");
    lab.containerd.start_again();
    lab.apply(&lab.differ, &blob, &mounts).unwrap();
    assert_tree_eq(&lab.tree("key"), &base(), "after containerd came back");
}

/// Bytes that no program packs, each time others.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn a_kill_in_the_middle_leaves_what_can_be_removed_and_made_again() {
    if !can_run() || !crate::environment::is_root() {
        return;
    }
    for backend in [Kind::Overlay, Kind::Copy] {
        let environment = Environment::new();
        let mut lab = Lab::new(&environment, backend);
        let mut tree = base();
        for number in 0..2000 {
            tree.insert(format!("usr/{number}"), file(noise(2000, number)));
        }
        let blob = lab.put(GZIP, &gzip(&tar(&lab, &tree)));
        lab.layer("bottom", "", &lab.put(GZIP, &gzip(&tar(&lab, &base()))));
        for delay_ms in [1, 20, 60, 100, 150, 250, 400] {
            let mounts = lab.prepare("key", "bottom");
            let request = ApplyRequest { diff: Some(blob.clone()), mounts, ..ApplyRequest::default() };
            let mut differ = lab.differ.clone();
            let call = lab.runtime.spawn(async move { differ.apply(lab::named(request)).await });
            std::thread::sleep(Duration::from_millis(delay_ms));
            lab.server.kill();
            drop(lab.runtime.block_on(call).unwrap());
            lab.serve_again(backend);
            lab.remove("key").unwrap();
        }
        assert_tree_eq(&lab.tree("bottom"), &base(), "what it stood on");
        assert_tree_eq(&lab.layer("top", "bottom", &blob), &tree, "made again");
        lab.remove_all();
    }
}

#[test]
fn a_client_that_hangs_up_is_not_worked_for() {
    once(Kind::Copy, |lab| {
        let layer = (0..400).fold(Tar::new().dir("d"), |tar, number| {
            tar.file(&format!("d/{number}"), &noise(100_000, number))
        });
        let blob = lab.put(TAR, &layer.end());
        let mounts = lab.prepare("key", "");
        let mut request = lab::named(ApplyRequest { diff: Some(blob), mounts, ..ApplyRequest::default() });
        request.set_timeout(Duration::from_millis(30));
        let answer = lab.runtime.block_on(lab.differ.clone().apply(request));
        assert!(answer.is_err(), "it takes longer");
        // What is still on its way ends soon, and then nothing is written any more.
        std::thread::sleep(Duration::from_millis(500));
        let count = || lab.tree("key").iter().count();
        let (first, second) = (count(), {
            std::thread::sleep(Duration::from_millis(300));
            count()
        });
        assert_eq!(first, second);
        assert!(first < 402, "all of it was written");
        lab.remove_all();
    });
}

#[test]
fn a_layer_is_never_in_memory_as_a_whole() {
    once(Kind::Copy, |lab| {
        const BYTES: usize = 300 << 20;
        let mut tar = Tar::new().dir("d");
        tar = tar.file("d/large", &noise(BYTES, 7));
        let blob = lab.put(TAR, &tar.end());
        lab.layer("bottom", "", &blob);
        let applied = lab.server.peak_kib();
        let made = lab.diff(&[], &lab.view("view", "bottom"), TAR).unwrap();
        assert!(made.size > BYTES as i64);
        let peak = lab.server.peak_kib();
        assert!(peak < 150 << 10, "{applied} KiB, then {peak} KiB, of a layer of {} KiB", BYTES >> 10);
    });
}
