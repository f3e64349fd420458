//! Killed at every point of what is done with held trees, and the power goes meanwhile: each key is as it was or as it was to be, whatever was
//! acknowledged is there, everything can be removed, and nothing is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rootling_backends::Kind;
use serde_json::{Value, json};

use crate::holding::{Holder, example};
use crate::oci::{Tar, write_layout};
use crate::powercut::Cuts;
use crate::store::{Store, faults, said, was_killed};
use crate::support::host::FileSystem;
use crate::support::require::Outcome;

/// Something that is done with held trees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// What is done before, without a kill; text in it may name the stacks of layers that were pulled.
    before: fn() -> Vec<Value>,
    call: fn() -> Value,
    /// A point at which it was killed once already, so that it is finished by who comes next: then that is what is killed.
    cut: Option<&'static str>,
}

fn layers() -> Vec<Value> {
    vec![
        json!(["prepare", "making", "", {}]),
        json!(["sh", "making", "mkdir d; echo one > d/one; echo both > both"]),
        json!(["commit", "base", "making", "", {"l": "base"}]),
        json!(["prepare", "active", "base", {"l": "active"}]),
        json!(["sh", "active", "rm both; echo two > d/two"]),
        json!(["prepare", "on nothing", "", {}]),
        json!(["sh", "on nothing", "mkdir d; echo three > d/three; mknod both c 0 0"]),
        json!(["view", "seen", "base", {}]),
    ]
}

fn with_leaf() -> Vec<Value> {
    let mut calls = layers();
    calls.push(json!(["commit", "leaf", "active", "", {"l": "leaf"}]));
    calls
}

/// The only layer of an image that was pulled.
fn pulled() -> Tar {
    Tar::default().dir("etc/").file("etc/motd", "welcome\n")
}

fn chain() -> String {
    rootling::image::Digest::sha256_of(&pulled().end()).to_string()
}

const COMMIT: fn() -> Value = || json!(["commit", "leaf", "active", "", {"l": "leaf"}]);
const REBASE: fn() -> Value = || json!(["commit", "leaf", "on nothing", "base", {}]);
const REMOVE: fn() -> Value = || json!(["remove", "active"]);

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "prepare",
        before: layers,
        call: || json!(["prepare", "new", "base", {"l": "new"}]),
        cut: None,
    },
    Operation {
        name: "prepare_empty",
        before: Vec::new,
        call: || json!(["prepare", "new", "", {}]),
        cut: None,
    },
    Operation { name: "view", before: layers, call: || json!(["view", "new", "base", {}]), cut: None },
    Operation { name: "commit", before: layers, call: COMMIT, cut: None },
    Operation { name: "rebase", before: layers, call: REBASE, cut: None },
    Operation { name: "remove_active", before: layers, call: REMOVE, cut: None },
    Operation { name: "remove_view", before: layers, call: || json!(["remove", "seen"]), cut: None },
    Operation { name: "remove_leaf", before: with_leaf, call: || json!(["remove", "leaf"]), cut: None },
    Operation {
        name: "label",
        before: layers,
        call: || json!(["label", "seen", {"new": "label"}]),
        cut: None,
    },
    Operation {
        name: "provide",
        before: layers,
        call: || json!(["prepare", "new", "", {"containerd.io/snapshot.ref": chain()}]),
        cut: None,
    },
    Operation {
        name: "cleanup",
        before: || {
            let mut calls = with_leaf();
            calls.extend([json!(["remove", "leaf"]), json!(["remove", "seen"])]);
            calls
        },
        call: || json!(["cleanup"]),
        cut: None,
    },
    Operation { name: "finish_commit", before: layers, call: COMMIT, cut: Some("held.named") },
    Operation { name: "finish_rebase", before: layers, call: REBASE, cut: Some("held.named") },
    Operation { name: "finish_remove", before: layers, call: REMOVE, cut: Some("held.unlinked") },
    Operation {
        name: "finish_draft",
        before: layers,
        call: || json!(["view", "new", "base", {}]),
        cut: Some("held.made"),
    },
];

/// What is known of each key but for times and ids, with what is in its tree.
type Held = BTreeMap<String, Value>;

struct Place<'a> {
    store: Store,
    kind: &'a str,
}

impl<'a> Place<'a> {
    fn begin(operation: &Operation, root: &Path, scratch: &Path, kind: &'a str) -> Self {
        let place = Self { store: Store::new(root.join("store"), scratch), kind };
        std::fs::create_dir_all(root).unwrap();
        place.store.run(&["init"]);
        if operation.name == "provide" {
            let layout = root.join("layout");
            write_layout(&layout, &[pulled().end()], &json!({}));
            place.store.run(&["pull", &format!("oci:{}", layout.display()), "app:1"]);
        }
        let mut holder = Holder::open(&place.store.root, kind);
        (operation.before)().into_iter().for_each(|call| drop(holder.ok(call)));
        holder.close();
        if let Some(point) = operation.cut {
            let output = place.command(&(operation.call)()).env("ROOTLING_FAULT", point).output().unwrap();
            assert!(was_killed(&output), "{}: {}", operation.name, said(&output));
        }
        place
    }

    fn command(&self, call: &Value) -> Command {
        let mut command = Command::new(example("holder"));
        command.arg(&self.store.root).arg(self.kind).arg(call.to_string());
        command.env_remove("ROOTLING_FAULT").env_remove("ROOTLING_FAULT_TRACE");
        command
    }

    /// Looks at everything, and changes nothing that stays.
    fn held(&self, holder: &mut Holder) -> Held {
        let all = holder.ok(json!(["walk"]));
        let mut held = Held::new();
        for info in all.as_array().unwrap() {
            let key = info["key"].as_str().unwrap();
            let is_committed = info["kind"] == "committed";
            if is_committed {
                holder.ok(json!(["view", "probe", key, {}]));
            }
            let tree = holder.sh(
                if is_committed { "probe" } else { key },
                "find . -type f | LC_ALL=C sort | xargs -r tail -v -n +1; ls -R",
            );
            if is_committed {
                holder.ok(json!(["remove", "probe"]));
            }
            let known = json!([info["kind"], info["parent"], info["labels"], tree]);
            held.insert(key.to_owned(), known);
        }
        held
    }

    /// How many objects and drafts are there, once what was removed is destroyed; no sweep has been here.
    fn left(&self, holder: &mut Holder) -> [usize; 3] {
        holder.ok(json!(["cleanup"]));
        ["o", "tmp", "trash"]
            .map(|directory| std::fs::read_dir(self.store.root.join(directory)).unwrap().count())
    }

    fn assert_can_be_emptied(&self, mut holder: Holder, when: &str) {
        holder.remove_all();
        holder.close();
        self.store.assert_clean(when);
        self.store.assert_can_be_emptied(when);
        assert_eq!(std::fs::read_dir(self.store.root.join("held")).unwrap().count(), 0, "{when}");
    }
}

pub(crate) fn run(operation: Operation, kind: Kind, root: &Path, scratch: &Path) -> Outcome {
    let kind = kind.name();
    let begin = |name: &str| Place::begin(&operation, &root.join(name), scratch, kind);
    let place = begin("undisturbed");
    let (trace, call) = (root.join("trace"), (operation.call)());
    let killed = if operation.cut.is_some() { json!(["walk"]) } else { call.clone() };
    // Before the commit point that a cut operation has passed nothing can be seen of it.
    let before = operation.cut.is_none().then(|| {
        let place = begin("before");
        place.held(&mut Holder::open(&place.store.root, kind))
    });
    let output = place.command(&killed).env("ROOTLING_FAULT_TRACE", &trace).output().unwrap();
    let provides = operation.name == "provide";
    assert!(output.status.success() || provides, "{}: {}", operation.name, said(&output));
    let mut holder = Holder::open(&place.store.root, kind);
    let (after, expected) = (place.held(&mut holder), place.left(&mut holder));
    place.assert_can_be_emptied(holder, "undisturbed");
    for (index, fault) in faults(&trace, operation.name).iter().enumerate() {
        let when = format!("{} killed at {fault}", operation.name);
        let place = begin(&format!("at-{index}"));
        let output = place.command(&killed).env("ROOTLING_FAULT", fault).output().unwrap();
        assert!(was_killed(&output), "{when}: not killed: {}", said(&output));
        place.store.assert_clean(&when);
        let mut holder = Holder::open(&place.store.root, kind);
        let found = place.held(&mut holder);
        let happened = found == after;
        assert!(
            happened || before.as_ref() == Some(&found),
            "{when}: {found:#?}\nis neither\n{before:#?}\nnor\n{after:#?}"
        );
        let again = holder.call(&call);
        let changes = before.as_ref() != Some(&after);
        let may_be_done_twice = !changes || ["label", "cleanup", "finish_draft"].contains(&operation.name);
        if !provides && !may_be_done_twice {
            assert_eq!(again.get("ok").is_some(), !happened, "{when}: saying it again: {again}");
        }
        if operation.name == "finish_draft" {
            holder.ok(json!(["remove", "new"]));
        }
        assert_eq!(place.held(&mut holder), after, "{when}, said again");
        assert_eq!(place.left(&mut holder), expected, "{when}: leaked");
        place.assert_can_be_emptied(holder, &when);
    }
    Ok(())
}

// ---------------------------------------------------------------- the power goes

/// What was acknowledged, none of which is taken back later.
#[derive(Debug, Clone, Default)]
struct Told {
    /// What is in committed trees, by their names.
    committed: BTreeMap<String, String>,
    /// Labels of active ones, by their keys.
    active: BTreeMap<String, Value>,
    removed: BTreeSet<String>,
}

pub(crate) fn powercut(sort: FileSystem, kind: Kind, outer: &Path, scratch: &Path) -> Outcome {
    let inner = scratch.join("inner");
    std::fs::create_dir_all(scratch).unwrap();
    let store = Store::new(inner.join("store"), scratch);
    let cuts = Cuts {
        sort,
        image: &outer.join("image"),
        inner: &inner,
        count: 5,
        is_due: |told: &Told, index| told.committed.len() >= 4 * (index + 1),
        apart: Duration::from_millis(7),
    };
    cuts.run(
        || drop(store.run(&["init"])),
        |told, stop| work(&store, kind, told, stop),
        |told, when| assert_survived(&store, kind, told, when),
    )
}

/// Prepares, writes, commits, labels and removes, four at once, each round on the round before.
fn work(store: &Store, kind: Kind, told: &Mutex<Told>, stop: &AtomicBool) {
    let mut holder = Holder::open(&store.root, kind.name());
    let mut together = |calls: Vec<Value>| {
        let answers = holder.ok(json!(["together", calls]));
        assert!(answers.as_array().unwrap().iter().all(|answer| answer.get("ok").is_some()), "{answers}");
    };
    let (mut below, mut parent) = (String::new(), String::new());
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (stays, goes) = (format!("stays {round}"), format!("goes {round}"));
        let four = |call: &dyn Fn(usize) -> Value| (0..4).map(call).collect::<Vec<_>>();
        let mut calls = four(&|number| json!(["prepare", format!("k {round} {number}"), parent, {}]));
        calls.extend([&stays, &goes].map(|key| json!(["prepare", key, parent, {}])));
        together(calls);
        told.lock().unwrap().active.insert(stays.clone(), Value::Null);
        together(four(&|number| {
            json!(["sh", format!("k {round} {number}"), format!("echo {round} {number} > {round}-{number}")])
        }));
        let name = |number: usize| format!("n {round} {number}");
        let mut calls =
            four(&|number| json!(["commit", name(number), format!("k {round} {number}"), "", {}]));
        calls.extend([json!(["remove", goes]), json!(["label", stays, {"round": round.to_string()}])]);
        together(calls);
        let mut told = told.lock().unwrap();
        for number in 0..4 {
            told.committed.insert(name(number), format!("{below}{round} {number}\n"));
        }
        told.active.insert(stays, json!({"round": round.to_string()}));
        told.removed.insert(goes);
        below = format!("{below}{round} 0\n");
        parent = name(0);
    }
}

#[track_caller]
fn assert_survived(store: &Store, kind: Kind, told: &Told, when: &str) {
    store.assert_clean(when);
    let mut holder = Holder::open(&store.root, kind.name());
    for (name, content) in &told.committed {
        assert_eq!(holder.stat(name)["kind"], "committed", "{when}: {name}");
        let probe = format!("probe {name}");
        holder.ok(json!(["view", probe, name, {}]));
        assert_eq!(holder.sh(&probe, "cat $(ls | sort -n)"), *content, "{when}: {name}");
    }
    for (key, labels) in &told.active {
        let found = holder.stat(key);
        assert_eq!(found["kind"], "active", "{when}: {key}");
        assert!(labels.is_null() || found["labels"] == *labels, "{when}: {key}: {found}");
        holder.sh(key, "ls; touch works");
    }
    for key in &told.removed {
        assert_eq!(holder.fails(json!(["stat", key])), "NotFound", "{when}: {key}");
    }
    holder.remove_all();
    holder.close();
    store.assert_clean(&format!("{when}, emptied"));
    store.assert_can_be_emptied(when);
}
