//! Killed at every point of what moves names between boxes: promoting, many forks, and taking over what was tried.
//!
//! As `fault`, but here several names change: after each kill every name stands for something whole that was meant, what was is not
//! lost, and saying it again ends where one would have ended.

use std::path::Path;

use crate::scenario::{changed, fill, program, source, write_source};
use crate::store::{Store, faults, said, was_killed};
use crate::support::require::{Outcome, Skip};
use crate::support::tree::{TreeValue, dir, file};

/// Something that is said, and what holds after it was cut off and after it was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    arguments: &'static [&'static str],
    runs: bool,
    cut_off: fn(&Store, &str),
    done: fn(&Store, &str),
}

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "promote",
        arguments: &["promote", "work", "as", "victim"],
        runs: false,
        cut_off: promotion_cut_off,
        done: promoted,
    },
    Verb {
        name: "promote_to_new_name",
        arguments: &["promote", "work", "new"],
        runs: false,
        cut_off: |store, when| {
            let names = store.names();
            if names.contains("work") && names.contains("new") {
                // The old name is about to go: who removes it does not take the box away from under the new one.
                store.try_run(&["rm", "--now", "work"]);
            }
            let name = if names.contains("new") { "new" } else { "work" };
            store.assert_tree(name, &work(), when);
        },
        done: |store, when| {
            assert!(!store.names().contains("work"), "{when}");
            store.assert_tree("new", &work(), when);
        },
    },
    Verb {
        name: "fork_count",
        arguments: &["fork", "work", "new", "--count", "3"],
        runs: false,
        cut_off: |store, when| {
            for name in store.names().iter().filter(|name| name.starts_with("new")) {
                store.assert_tree(name, &work(), when);
            }
            store.assert_tree("work", &work(), when);
        },
        done: |store, when| {
            for name in ["new-1", "new-2", "new-3", "work"] {
                store.assert_tree(name, &work(), when);
            }
        },
    },
    Verb {
        name: "try_apply",
        arguments: &["try", "--on-exit", "apply", "work", "--", "/make"],
        runs: true,
        cut_off: |store, when| {
            let happened = store.in_tree("work", |root| root.join("made").exists());
            store.assert_tree("work", &if happened { tried() } else { before() }, when);
        },
        done: |store, when| store.assert_tree("work", &tried(), when),
    },
    Verb {
        name: "try_keep",
        arguments: &["try", "--on-exit", "keep", "--keep-as", "new", "work", "--", "/make"],
        runs: true,
        cut_off: |store, when| {
            store.assert_tree("work", &before(), when);
            if store.names().contains("new") {
                store.assert_tree("new", &tried(), when);
            }
        },
        done: |store, when| {
            store.assert_tree("work", &before(), when);
            store.assert_tree("new", &tried(), when);
        },
    },
];

/// A program that makes the directory `/made`: as [`program`], with `mkdir` before the end.
fn maker() -> Option<Vec<u8>> {
    const HEADERS: usize = 120;
    let mut elf = program()?;
    elf.truncate(HEADERS);
    // mov eax, 83; mov edi, path; mov esi, 0755; syscall; mov eax, 60; xor edi, edi; syscall
    elf.extend_from_slice(&[0xb8, 83, 0, 0, 0, 0xbf, 0x92, 0, 0x40, 0, 0xbe, 0xed, 1, 0, 0, 0x0f, 0x05]);
    elf.extend_from_slice(&[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
    elf.extend_from_slice(b"/made\0");
    let size = (elf.len() as u64).to_le_bytes();
    elf[96..104].copy_from_slice(&size);
    elf[104..112].copy_from_slice(&size);
    Some(elf)
}

/// What the box `work` holds where a program runs in it.
fn before() -> TreeValue {
    let mut value = work();
    value.insert("make", file(maker().unwrap_or_default()).mode(0o755));
    value
}

/// What it holds afterwards.
fn tried() -> TreeValue {
    let mut value = before();
    value.insert("made", dir());
    value
}

/// What the box `victim` holds.
fn victim() -> TreeValue {
    let mut value = source();
    value.insert("mine", file("mine").mode(0o666));
    value
}

/// What the box `work` holds.
fn work() -> TreeValue {
    let mut value = changed();
    value.insert("later", file("later").mode(0o666));
    value
}

fn promotion_cut_off(store: &Store, when: &str) {
    let (names, later) =
        (store.names(), |name: &str| store.in_tree(name, |root| root.join("later").exists()));
    if later("victim") {
        store.assert_tree("victim", &work(), when);
        store.assert_tree("victim@1", &victim(), when);
    } else {
        store.assert_tree("victim", &victim(), when);
        assert!(names.contains("work"), "{when}: the winner is gone");
    }
    if names.contains("work") {
        // By now it may have been finished: looking at a box is opening it.
        let known = store.names().contains("work");
        assert!(known || later("victim"), "{when}");
    }
}

fn promoted(store: &Store, when: &str) {
    assert!(!store.names().contains("work"), "{when}");
    store.assert_tree("victim", &work(), when);
    store.assert_tree("victim@1", &victim(), when);
}

/// One verb on one file system, killed at all its points in turn.
pub(crate) fn run(verb: Verb, place: &Path, scratch: &Path) -> Outcome {
    if verb.runs && program().is_none() {
        return Err(Skip::because("no program for this machine to run"));
    }
    let source_dir = write_source(&place.join("source"));
    let begin = |name: &str| {
        let store = Store::new(place.join(name).join("store"), scratch);
        fill(&store, &source_dir);
        store.in_tree("victim", |root| std::fs::write(root.join("mine"), "mine").unwrap());
        if let Some(maker) = maker().filter(|_| verb.runs) {
            store.in_tree("work", |root| {
                let path = root.join("make");
                std::fs::write(&path, maker).unwrap();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            });
        }
        store
    };
    let store = begin("undisturbed");
    let trace = place.join("trace");
    let output = store.command(verb.arguments).env("ROOTLING_FAULT_TRACE", &trace).output().unwrap();
    assert!(output.status.success(), "{:?}: {}", verb.arguments, said(&output));
    (verb.done)(&store, "undisturbed");
    end(&store, "undisturbed");
    for (index, fault) in faults(&trace, verb.name).iter().enumerate() {
        let when = format!("{} killed at {fault}", verb.name);
        let store = begin(&format!("at-{index}"));
        let output = store.command(verb.arguments).env("ROOTLING_FAULT", fault).output().unwrap();
        assert!(was_killed(&output), "{when}: not killed: {}", said(&output));
        store.assert_clean(&when);
        (verb.cut_off)(&store, &when);
        // It may have happened; then it cannot happen again.
        store.try_run(verb.arguments);
        store.assert_clean(&format!("{when}, said again"));
        (verb.done)(&store, &format!("{when}, said again"));
        end(&store, &when);
    }
    Ok(())
}

/// Nothing leaks: without its names the store is empty.
fn end(store: &Store, when: &str) {
    store.run(&["prune"]);
    store.assert_clean(when);
    for name in std::fs::read_dir(store.root.join("n")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        if name.contains('@') {
            store.run(&["rm", "--force", &name]);
        }
    }
    store.assert_can_be_emptied(when);
}
