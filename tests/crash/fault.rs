//! Killed at every point between two steps of every operation.
//!
//! The program tells which points an operation passes (`ROOTLING_FAULT_TRACE`) and kills itself at one of them
//! (`ROOTLING_FAULT=point:n`). After each kill: fsck is clean, what was acknowledged is whole, the operation happened or did not,
//! saying it again works, and nothing leaks.

use std::path::{Path, PathBuf};

use crate::scenario::{Known, assert_holds, change, changed, fill, program, source, write_source};
use crate::store::{Holdings, Store, faults, said, was_killed};
use crate::support::require::{Outcome, Skip};
use crate::support::tree::{TreeValue, file};

/// An operation that is interrupted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// `SOURCE` stands for the directory to import.
    arguments: &'static [&'static str],
    effect: Effect,
}

#[derive(Debug, Clone, Copy)]
enum Effect {
    Makes(&'static str, fn() -> TreeValue),
    Removes(&'static str),
    Renames(&'static str, &'static str),
    Nothing,
}

use Effect::{Makes, Nothing, Removes, Renames};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation { name: "import", arguments: &["import", "SOURCE", "new"], effect: Makes("new", source) },
    Operation { name: "create", arguments: &["create", "base", "new"], effect: Makes("new", source) },
    Operation { name: "fork_tree", arguments: &["fork", "one", "new"], effect: Makes("new", changed) },
    Operation { name: "fork_box", arguments: &["fork", "work", "new"], effect: Makes("new", work) },
    Operation { name: "commit", arguments: &["commit", "work", "new"], effect: Makes("new", work) },
    Operation { name: "remove_box", arguments: &["rm", "--now", "victim"], effect: Removes("victim") },
    Operation { name: "remove_tree", arguments: &["rm", "--now", "spare"], effect: Removes("spare") },
    Operation { name: "retire_box", arguments: &["rm", "victim"], effect: Removes("victim") },
    Operation { name: "retire_tree", arguments: &["rm", "base"], effect: Removes("base") },
    Operation { name: "undelete", arguments: &["undelete", "gone"], effect: Makes("gone", changed) },
    Operation { name: "rename", arguments: &["rename", "victim", "new"], effect: Renames("victim", "new") },
    Operation { name: "tag", arguments: &["tag", "one", "new"], effect: Makes("new", changed) },
    Operation {
        name: "run_keep",
        arguments: &["run", "--keep", "new", "base", "--", "/true"],
        effect: Makes("new", source),
    },
    Operation { name: "prune", arguments: &["prune"], effect: Nothing },
    Operation { name: "prune_removed", arguments: &["prune", "--removed"], effect: Nothing },
];

fn work() -> TreeValue {
    let mut value = changed();
    value.insert("later", file("later").mode(0o666));
    value
}

impl Operation {
    fn arguments<'a>(&self, source: &'a str) -> Vec<&'a str>
    where
        'static: 'a,
    {
        self.arguments.iter().map(|argument| if *argument == "SOURCE" { source } else { argument }).collect()
    }

    fn applied(&self, before: &Known) -> Known {
        let mut after = before.clone();
        match self.effect {
            Makes(name, value) => drop(after.insert(name.to_owned(), value())),
            Removes(name) => drop(after.remove(name)),
            Renames(from, to) => {
                let value = after.remove(from).expect("what is renamed is there");
                after.insert(to.to_owned(), value);
            }
            Nothing => {}
        }
        after
    }
}

/// One operation on one file system, killed at all its points in turn.
pub(crate) fn run(operation: Operation, place: &Path, scratch: &Path) -> Outcome {
    if operation.name == "run_keep" && program().is_none() {
        return Err(Skip::because("no program for this machine to run"));
    }
    let source_dir = write_source(&place.join("source"));
    let source_url = format!("dir:{}", source_dir.display());
    let arguments = operation.arguments(&source_url);
    let (faults, expected) = undisturbed(&operation, &arguments, place, scratch, &source_dir);
    for (index, fault) in faults.iter().enumerate() {
        let store = Store::new(place.join(format!("at-{index}/store")), scratch);
        killed_at(&operation, &arguments, &store, fault, &source_dir, &expected);
    }
    Ok(())
}

/// Does the operation without a kill and returns the points it passes and what the store holds in the end.
fn undisturbed(
    operation: &Operation,
    arguments: &[&str],
    place: &Path,
    scratch: &Path,
    source_dir: &Path,
) -> (Vec<String>, Holdings) {
    let store = Store::new(place.join("undisturbed/store"), scratch);
    let before = begin(operation, &store, source_dir);
    let trace: PathBuf = place.join("trace");
    let output = store.command(arguments).env("ROOTLING_FAULT_TRACE", &trace).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    assert_holds(&store, &operation.applied(&before), "undisturbed");
    let faults = faults(&trace, operation.name);
    let expected = store.holdings_after_prune("undisturbed");
    store.assert_can_be_emptied("undisturbed");
    (faults, expected)
}

/// Fills a store; `prune` also needs garbage to remove.
fn begin(operation: &Operation, store: &Store, source_dir: &Path) -> Known {
    let mut known = fill(store, source_dir);
    match operation.name {
        "retire_box" | "rename" | "remove_box" => {
            drop(known.insert("victim".to_owned(), snapshotted(store, "victim")))
        }
        "undelete" | "prune_removed" => {
            store.run(&["create", "base", "gone"]);
            snapshotted(store, "gone");
            store.run(&["rm", "gone"]);
        }
        _ => {}
    }
    if matches!(operation.effect, Nothing) {
        for name in ["victim", "spare"] {
            let output = store
                .command(&["rm", "--now", name])
                .env("ROOTLING_FAULT", "remove.unnamed:1")
                .output()
                .unwrap();
            assert!(output.status.success() || was_killed(&output), "rm {name}: {}", said(&output));
            known.remove(name);
        }
    }
    known
}

/// Gives a box a snapshot, by a policy, and returns what it holds.
fn snapshotted(store: &Store, name: &str) -> TreeValue {
    store.in_tree(name, change);
    store.run(&["policy", name, "--every", "@hourly"]);
    store.run(&["policy", "run"]);
    store.run(&["show", &format!("{name}@1")]);
    changed()
}

fn killed_at(
    operation: &Operation,
    arguments: &[&str],
    store: &Store,
    fault: &str,
    source_dir: &Path,
    expected: &Holdings,
) {
    let when = format!("{} killed at {fault}", operation.name);
    let before = begin(operation, store, source_dir);
    let after = operation.applied(&before);
    let output = store.command(arguments).env("ROOTLING_FAULT", fault).output().unwrap();
    assert!(was_killed(&output), "{when}: not killed: {}", said(&output));

    let happened = store.names() != before.keys().cloned().collect();
    assert_holds(store, if happened { &after } else { &before }, &when);

    let again = store.try_run(arguments);
    let changes_names = !before.keys().eq(after.keys());
    if happened && changes_names {
        assert!(!again.status.success(), "{when}: it had happened, yet worked again");
    } else {
        assert!(again.status.success(), "{when}: saying it again: {}", said(&again));
    }
    assert_holds(store, &after, &format!("{when}, said again"));
    match operation.effect {
        // Its snapshots went along.
        Renames(_, name) | Makes(name @ "gone", _) => drop(store.run(&["show", &format!("{name}@1")])),
        _ => {}
    }
    // A box that was frozen twice has one state more in its history; one whose freezing was cut short stands on the sealed
    // state itself until it is next opened, and so has one less. That neither is a leak is seen at the end.
    let slack = usize::from(arguments.contains(&"work"));
    store.holdings_after_prune(&when).assert_like(expected, slack, &when);
    assert_holds(store, &after, &format!("{when}, pruned"));
    store.assert_can_be_emptied(&when);
}
