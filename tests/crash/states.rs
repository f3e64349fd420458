//! Killed at every point of a snapshot, a restore, an undo, a redo and a merge: the box is as it was or as it shall be, what it was before is
//! still there, and so are all other states.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::scenario::{fill, write_source};
use crate::store::{Store, faults, said, was_killed};
use crate::support::compare::differences;
use crate::support::require::Outcome;
use crate::support::tree::{TreeValue, file};

/// An operation on the box `work`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    arguments: &'static [&'static str],
    /// Commands before it; a merge may leave conflicts.
    before: &'static [&'static [&'static str]],
    /// How many more states the box has been in.
    states: usize,
    /// What it says with its exit code.
    code: i32,
    /// What the box holds before and after it.
    old: State,
    new: State,
}

/// What the box can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The snapshot `first`.
    First,
    /// What was changed since.
    Second,
    /// That, with some paths as in the first.
    Mixed,
    /// The second, with what `other` changed where that was no conflict.
    Merged,
    /// That, with their side of the conflict.
    Conflicting,
    /// What `other` holds, with what changed since the first, and that side of the conflict.
    Rebased,
}

use State::{Conflicting, First, Merged, Mixed, Rebased, Second};

const USUAL: Operation =
    Operation { name: "", arguments: &[], before: &[], states: 0, code: 0, old: Second, new: Second };

const APPLY: &[&str] = &["apply", "other@1", "--to", "work"];

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "snapshot",
        arguments: &["snapshot", "work", "new"],
        old: Second,
        new: Second,
        ..USUAL
    },
    Operation {
        name: "snapshot_of_nothing_new",
        arguments: &["snapshot", "work", "new"],
        before: &[&["undo", "work"]],
        old: First,
        new: First,
        ..USUAL
    },
    Operation { name: "restore", arguments: &["restore", "work@first"], old: Second, new: First, ..USUAL },
    Operation { name: "undo", arguments: &["undo", "work"], old: Second, new: First, ..USUAL },
    Operation {
        name: "redo",
        arguments: &["redo", "work"],
        before: &[&["undo", "work"]],
        old: First,
        new: Second,
        ..USUAL
    },
    Operation {
        name: "undo_of_nothing_new",
        arguments: &["undo", "work"],
        before: &[&["snapshot", "work", "second"]],
        old: Second,
        new: First,
        ..USUAL
    },
    Operation {
        name: "restore_paths",
        arguments: &["restore", "work@first", "--", "second", "etc/passwd", "bin"],
        old: Second,
        new: Mixed,
        ..USUAL
    },
    Operation {
        name: "restore_paths_of_nothing_new",
        arguments: &["restore", "work@first", "second", "etc/passwd", "bin"],
        before: &[&["snapshot", "work", "second"]],
        old: Second,
        new: Mixed,
        ..USUAL
    },
    Operation {
        name: "snapshot_that_merges_a_chain",
        arguments: &["snapshot", "work", "new"],
        states: 13,
        ..USUAL
    },
    Operation {
        name: "apply",
        arguments: &["apply", "other@1", "--to", "work", "--", "theirs", "/sparse"],
        new: Merged,
        ..USUAL
    },
    Operation { name: "apply_with_a_conflict", arguments: APPLY, new: Conflicting, code: 1, ..USUAL },
    Operation {
        name: "apply_continue",
        arguments: &["apply", "--continue", "work"],
        before: &[APPLY, &["restore", "work@first", "etc/passwd.theirs"]],
        old: Merged,
        new: Merged,
        ..USUAL
    },
    Operation {
        name: "apply_abort",
        arguments: &["apply", "--abort", "work"],
        before: &[APPLY],
        old: Conflicting,
        new: Second,
        ..USUAL
    },
    Operation {
        name: "rebase",
        arguments: &["rebase", "work", "--onto", "other@1"],
        new: Rebased,
        code: 1,
        ..USUAL
    },
];

impl Operation {
    fn merges(&self) -> bool {
        self.arguments.contains(&"other@1") || self.before.contains(&APPLY)
    }
}

fn make_other(store: &Store) {
    store.run(&["fork", "work@first", "other"]);
    store.in_tree("other", |root| {
        std::fs::write(root.join("theirs"), "theirs").unwrap();
        std::fs::write(root.join("etc/passwd"), "theirs\n").unwrap();
        std::fs::remove_file(root.join("sparse")).unwrap();
    });
    store.run(&["snapshot", "other"]);
}

/// Makes `work` a box with a snapshot and changes after it, and `other` one that has changed the same snapshot in other ways; returns what each
/// of the states is.
fn begin(operation: &Operation, store: &Store, source_dir: &Path) -> BTreeMap<&'static str, TreeValue> {
    let known = fill(store, source_dir);
    store.run(&["snapshot", "work", "first"]);
    store.in_tree("work", |root| {
        std::fs::create_dir(root.join("second")).unwrap();
        std::fs::write(root.join("second/file"), "second").unwrap();
        std::fs::write(root.join("third"), "third").unwrap();
        std::fs::write(root.join("etc/passwd"), "second\n").unwrap();
        std::fs::remove_dir_all(root.join("bin")).unwrap();
    });
    let second = store.in_tree("work", TreeValue::read_path);
    if operation.merges() {
        make_other(store);
    }
    for arguments in operation.before {
        let output = store.try_run(arguments);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?}: {}", said(&output));
    }
    for number in 0..operation.states {
        store.run(&["snapshot", "work", &format!("s{number}")]);
        store.in_tree("work", |root| std::fs::write(root.join("number"), number.to_string()).unwrap());
    }
    let first = known["work"].clone();
    let mut mixed = first.clone();
    mixed.insert("third", file("third").mode(0o666));
    let mut second = second;
    if let Some(last) = operation.states.checked_sub(1) {
        second.insert("number", file(last.to_string()).mode(0o666));
    }
    let mut merged = second.clone();
    merged.insert("theirs", file("theirs").mode(0o666));
    merged.remove_name(Path::new("sparse"));
    let with = |passwd: &str, theirs: &str| {
        let mut value = merged.clone();
        value.insert("etc/passwd", file(passwd));
        value.insert("etc/passwd.theirs", file(theirs));
        value
    };
    let (conflicting, rebased) = (with("second\n", "theirs\n"), with("theirs\n", "second\n"));
    [
        ("first", first),
        ("second", second),
        ("mixed", mixed),
        ("merged", merged),
        ("conflicting", conflicting),
        ("rebased", rebased),
    ]
    .into()
}

fn value(states: &BTreeMap<&'static str, TreeValue>, state: State) -> TreeValue {
    let name = match state {
        First => "first",
        Second => "second",
        Mixed => "mixed",
        Merged => "merged",
        Conflicting => "conflicting",
        Rebased => "rebased",
    };
    states[name].clone().without_times()
}

/// One operation on one file system, killed at all its points in turn.
pub(crate) fn run(operation: Operation, place: &Path, scratch: &Path) -> Outcome {
    let source_dir = write_source(&place.join("source"));
    let store = Store::new(place.join("undisturbed/store"), scratch);
    let states = begin(&operation, &store, &source_dir);
    let trace = place.join("trace");
    let output = store.command(operation.arguments).env("ROOTLING_FAULT_TRACE", &trace).output().unwrap();
    assert_eq!(output.status.code(), Some(operation.code), "{}: {}", operation.name, said(&output));
    store.assert_tree("work", &value(&states, operation.new), "undisturbed");
    assert_nothing_lost(&operation, &store, &states, "undisturbed");
    let is_btrfs = store.run(&["show", "work"]).contains("btrfs");
    assert_can_be_emptied(&store, "undisturbed");
    let faults = faults(&trace, operation.name);
    let merges = faults.iter().any(|fault| fault.starts_with("freeze.merged:"));
    assert!(operation.states == 0 || is_btrfs || merges, "no chain is merged: {faults:?}");
    for (index, fault) in faults.iter().enumerate() {
        let store = Store::new(place.join(format!("at-{index}/store")), scratch);
        killed_at(&operation, &store, fault, &source_dir);
    }
    Ok(())
}

fn killed_at(operation: &Operation, store: &Store, fault: &str, source_dir: &Path) {
    let when = format!("{} killed at {fault}", operation.name);
    let states = begin(operation, store, source_dir);
    let output = store.command(operation.arguments).env("ROOTLING_FAULT", fault).output().unwrap();
    assert!(was_killed(&output), "{when}: not killed: {}", said(&output));
    store.assert_clean(&when);
    let found = store.in_tree("work", TreeValue::read_path).without_times();
    let happened = operation.old != operation.new && same(&found, &value(&states, operation.new));
    if !happened {
        store.assert_tree("work", &value(&states, operation.old), &when);
    }
    assert_nothing_lost(operation, store, &states, &when);
    store.run(&["prune"]);
    store.assert_clean(&when);
    assert_nothing_lost(operation, store, &states, &format!("{when}, pruned"));
    let is_named = names(store).contains("work@new");
    if !happened && !is_named {
        let again = store.try_run(operation.arguments);
        assert_eq!(again.status.code(), Some(operation.code), "{when}: saying it again: {}", said(&again));
        store.assert_tree("work", &value(&states, operation.new), &format!("{when}, said again"));
        assert_nothing_lost(operation, store, &states, &format!("{when}, said again"));
    }
    assert_can_be_emptied(store, &when);
}

/// All that was acknowledged is there, and what the box held before the operation is in the box or in one of its snapshots.
#[track_caller]
fn assert_nothing_lost(
    operation: &Operation,
    store: &Store,
    states: &BTreeMap<&'static str, TreeValue>,
    when: &str,
) {
    store.assert_tree("work@first", &value(states, First), when);
    for number in (0..operation.states).step_by(4) {
        let found =
            store.in_tree(&format!("work@s{number}"), |root| std::fs::read_to_string(root.join("number")));
        let expected = number.checked_sub(1).map(|before| before.to_string());
        assert_eq!(found.ok(), expected, "{when}: work@s{number}");
    }
    let old = value(states, operation.old);
    let labels = names(store).into_iter().filter(|name| name == "work" || name.starts_with("work@"));
    let kept = labels.filter(|name| same(&store.in_tree(name, TreeValue::read_path).without_times(), &old));
    assert!(kept.count() > 0, "{when}: what the box held is lost");
    if names(store).contains("work@new") {
        store.assert_tree("work@new", &old, when);
    }
}

fn same(one: &TreeValue, other: &TreeValue) -> bool {
    differences(one, other).is_empty()
}

/// Returns all names, of snapshots too.
fn names(store: &Store) -> BTreeSet<String> {
    let entries = std::fs::read_dir(store.root.join("n")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with('~')).collect()
}

/// Removes every name and asserts that nothing at all remains.
#[track_caller]
fn assert_can_be_emptied(store: &Store, when: &str) {
    for _ in 0..40 {
        let left = names(store);
        for name in &left {
            // What still has children refuses to go before them.
            store.try_run(&["rm", "--now", name]);
        }
        if left.is_empty() {
            break;
        }
    }
    assert_eq!(names(store), BTreeSet::new(), "{when}: names left");
    store.assert_can_be_emptied(when);
}
