//! Killed at every point of a build's dealings with the store: steps that were finished are found, names lead to what they led to or to
//! what they shall, and what a power cut leaves is not believed.
//!
//! The operations are told as those of images are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::images::{Operation, Place};
use crate::store::Store;

const BUILD: &[&str] = &["stepper", "build", "base", "app:1", "3", "a"];

/// Cut off before anything was synced, as far as names can say: the machine has started again since.
const NO_BOOT: &str = "00000000-0000-0000-0000-000000000000";

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "build_first",
        before: import,
        command: BUILD,
        damaged: false,
        check: finished_steps_are_found,
    },
    Operation {
        name: "build_anew",
        before: |place| {
            import(place);
            place.run(&["stepper", "build", "base", "app:1", "3", "old"]);
            place.run(&["create", "app:1", "dev"]);
        },
        command: BUILD,
        damaged: false,
        check: finished_steps_are_found,
    },
    Operation {
        name: "build_cached",
        before: |place| {
            import(place);
            place.run(BUILD);
            place.run(&["rm", "--now", "app:1"]);
        },
        command: BUILD,
        damaged: false,
        check: every_step_is_whole,
    },
    Operation {
        name: "fail",
        before: |place| {
            import(place);
            (0..5)
                .for_each(|number| place.run(&["stepper", "fail", "base", &number.to_string(), "step-9=x"]));
        },
        command: &["stepper", "fail", "base", "six", "step-9=x"],
        damaged: false,
        check: every_step_is_whole,
    },
    Operation {
        name: "adopt",
        before: |place| {
            import(place);
            place.run(&["stepper", "step", "base", "key", "step-1=bad"]);
            place.run(&["create", "base", "dev"]);
            place.store.in_tree("dev", |root| fs::write(root.join("step-1"), "by hand").unwrap());
        },
        command: &["stepper", "adopt", "dev", "base", "key"],
        damaged: false,
        check: every_step_is_whole,
    },
    Operation {
        name: "settle",
        before: |place| {
            import(place);
            place.run(&["stepper", "step", "base", "one", "step-1=x"]);
            place.run(&["stepper", "step", "base", "two", "step-2=x"]);
            place.run(&["stepper", "fail", "base", "three", "step-3=x"]);
        },
        command: &["stepper", "settle"],
        damaged: false,
        check: every_step_is_whole,
    },
    Operation {
        name: "prune_builds",
        before: |place| {
            import(place);
            place.run(&["stepper", "build", "base", "old:1", "2", "old"]);
            place.run(&["rm", "--now", "old:1"]);
            place.run(&["stepper", "build", "base", "kept:1", "2", "kept"]);
            place.run(&["stepper", "step", "base", "lost", "step-1=x"]);
            lose_power(&place.store);
        },
        command: &["prune", "--builds"],
        damaged: false,
        check: every_step_is_whole,
    },
    Operation {
        name: "cache_of_what_succeeded",
        before: |place| {
            import(place);
            place.run(&["stepper", "cache", "/c", "shared", "a=old", "good"]);
        },
        command: &["stepper", "cache", "/c", "shared+success", "a=new", "good"],
        damaged: false,
        check: |place, _| {
            let cached = place.store.run(&["volume", "export", CACHE, "tar:-"]);
            assert!(cached.contains("old") || cached.contains("new"));
        },
    },
];

const CACHE: &str = "cache.c.facd442ef6";

fn import(place: &Place) {
    let source = place.store.root.with_file_name("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("motd"), "welcome\n").unwrap();
    place.run(&["import", &format!("dir:{}", source.display()), "base"]);
}

/// The program that does what a build does with a store.
pub(crate) fn stepper(store: &Path, arguments: &[&str]) -> Command {
    let tests = std::env::current_exe().unwrap();
    let mut command = Command::new(tests.ancestors().nth(2).unwrap().join("examples/stepper"));
    command.arg(store).args(arguments);
    command.env_remove("ROOTLING_FAULT").env_remove("ROOTLING_FAULT_TRACE");
    command
}

/// A build that was killed goes on where it stopped: no step that got its name is done again.
fn finished_steps_are_found(place: &Place, passed: &[String]) {
    every_step_is_whole(place, passed);
    let named = passed.iter().filter(|fault| fault.starts_with("step.named:")).count();
    for number in 0..named {
        let key = format!("base a {number}");
        let output = stepper(&place.store.root, &["look", &key]).output().unwrap();
        assert_ne!(String::from_utf8_lossy(&output.stdout).trim(), "-", "step {number} was done");
    }
}

fn every_step_is_whole(place: &Place, _passed: &[String]) {
    assert_whole(&place.store, "after the kill");
}

/// Asserts that every step that can be found changed what it was to change against the one before.
#[track_caller]
pub(crate) fn assert_whole(store: &Store, when: &str) {
    let steps: serde_json::Value =
        serde_json::from_str(&store.run(&["ls", "--builds", "--format", "json"])).unwrap();
    for step in steps.as_array().unwrap() {
        let id = step["id"].as_str().unwrap();
        let changes = store.run(&["diff", &format!("{id}~1"), id]);
        assert!(changes.starts_with("A /step-") && changes.lines().count() == 1, "{when}: {id}: {changes}");
    }
}

/// Makes what is in the store without a sync look as if the machine had started again since.
pub(crate) fn lose_power(store: &Store) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let tentative = store.root.join("steps").join(boot.trim());
    if tentative.exists() {
        fs::rename(tentative, store.root.join("steps").join(NO_BOOT)).unwrap();
    }
    for object in fs::read_dir(store.root.join("o")).unwrap() {
        let mark = object.unwrap().path().join("unsettled");
        if mark.is_symlink() {
            fs::remove_file(&mark).unwrap();
            symlink(NO_BOOT, &mark).unwrap();
        }
    }
}
