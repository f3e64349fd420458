//! Killed at every point of adding an image, of moving its name, of removing it and of repairing a layer: names lead to what they led to
//! or to what they shall, whole; saying it again works; and nothing is left of what was cut off, blobs included.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::oci::{Tar, write_layout};
use crate::steps::stepper;
use crate::store::{Holdings, Store, faults, said, was_killed};
use crate::support::compare::{assert_tree_eq, differences};
use crate::support::require::Outcome;
use crate::support::tree::TreeValue;

/// Something that is done to the images of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// What is done before, without a kill.
    pub(crate) before: fn(&Place),
    /// What is done, as arguments of the program, or of `adder` or `stepper`.
    pub(crate) command: &'static [&'static str],
    /// Is the store damaged before?
    pub(crate) damaged: bool,
    /// What holds besides after a kill, at the last of these points.
    pub(crate) check: fn(&Place, &[String]),
}

const ADD_OLD: &[&str] = &["adder", "old", "app:1"];

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "add_first",
        before: |_| {},
        command: &["adder", "new", "app:1", "app:latest"],
        damaged: false,
        check: |_, _| {},
    },
    Operation {
        name: "add_on_shared_layers",
        before: |place| place.run(ADD_OLD),
        command: &["adder", "new", "new:1"],
        damaged: false,
        check: |_, _| {},
    },
    Operation {
        name: "move_name",
        before: |place| place.run(ADD_OLD),
        command: &["adder", "new", "app:1"],
        damaged: false,
        check: |_, _| {},
    },
    Operation {
        name: "move_name_of_base",
        before: |place| {
            place.run(ADD_OLD);
            place.run(&["create", "app:1", "dev"]);
        },
        command: &["adder", "new", "app:1"],
        damaged: false,
        check: |_, _| {},
    },
    Operation {
        name: "add_again",
        before: |place| place.run(ADD_OLD),
        command: &["adder", "old", "app:2"],
        damaged: false,
        check: |_, _| {},
    },
    Operation {
        name: "prune",
        before: |place| {
            place.run(ADD_OLD);
            place.run(&["adder", "new", "new:1"]);
            // What the removal would have taken along is left to the sweep.
            let mut command = place.command(&["rm", "--now", "new:1"]);
            let output = command.env("ROOTLING_FAULT", "remove.unnamed:1").output().unwrap();
            assert!(was_killed(&output));
        },
        command: &["prune"],
        damaged: false,
        check: |_, _| {},
    },
    Operation {
        name: "repair",
        before: |place| {
            place.run(ADD_OLD);
            place.run(&["create", "app:1", "dev"]);
            place.damage();
        },
        command: &["verify", "--repair", "app:1"],
        damaged: true,
        check: |_, _| {},
    },
];

/// A store and the layouts that images come from.
pub(crate) struct Place {
    pub(crate) store: Store,
    layouts: PathBuf,
}

impl Place {
    fn begin(operation: &Operation, root: PathBuf, layouts: &Path, scratch: &Path) -> Self {
        let place = Self { store: Store::new(root, scratch), layouts: layouts.to_owned() };
        std::fs::create_dir_all(place.store.root.parent().expect("it lies in a directory")).unwrap();
        place.run(&["init"]);
        (operation.before)(&place);
        place
    }

    fn command(&self, arguments: &[&str]) -> Command {
        match arguments {
            ["adder", layout, names @ ..] => adder(&self.store.root, &self.layouts.join(layout), names),
            ["stepper", rest @ ..] => stepper(&self.store.root, rest),
            _ => self.store.command(arguments),
        }
    }

    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }

    /// All names and what is in their trees.
    fn trees(&self) -> BTreeMap<String, TreeValue> {
        let names = self.store.names().into_iter();
        names
            .map(|name| {
                let tree = self.store.in_tree(&name, TreeValue::read_path).without_times();
                (name, tree)
            })
            .collect()
    }

    fn listed(&self, directory: &str) -> usize {
        std::fs::read_dir(self.store.root.join(directory)).into_iter().flatten().count()
    }

    /// What is there once nothing is there that nothing needs.
    fn pruned(&self, when: &str) -> (Holdings, [usize; 3]) {
        let holdings = self.store.holdings_after_prune(when);
        self.store.assert_clean(when);
        (holdings, ["blobs/sha256", "c", "d"].map(|directory| self.listed(directory)))
    }

    fn assert_can_be_emptied(&self, when: &str) {
        self.store.assert_can_be_emptied(when);
        for directory in ["blobs/sha256", "blobs/partial", "c", "d"] {
            let left: Vec<_> =
                std::fs::read_dir(self.store.root.join(directory)).into_iter().flatten().collect();
            // Downloads are kept for a while.
            let is_partial = directory == "blobs/partial";
            assert!(left.is_empty() || is_partial, "{when}: left in {directory}: {left:?}");
        }
    }

    /// Changes a file of the lowest layer, as no program of ours does.
    fn damage(&self) {
        let mut damaged = 0;
        for slot in std::fs::read_dir(self.store.root.join("o")).unwrap() {
            let slot = slot.unwrap().path();
            let tree = slot.join("fs");
            let record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(slot.join("meta.json")).unwrap()).unwrap();
            if !tree.join("etc/motd").exists() || record["state"] == "active" || record["parent"].is_string()
            {
                continue;
            }
            let set = |flag: &str| {
                let mut command = Command::new("btrfs");
                let set = command.args(["property", "set", "-f"]).arg(&tree).args(["ro", flag]).status();
                assert!(record["backend"] != "btrfs" || set.unwrap().success());
            };
            if record["backend"] == "btrfs" {
                set("false");
            }
            std::fs::write(tree.join("etc/motd"), "damaged").unwrap();
            if record["backend"] == "btrfs" {
                set("true");
            }
            damaged += 1;
        }
        assert_eq!(damaged, 1);
    }
}

/// The program that adds the image of a layout to a store.
pub(crate) fn adder(store: &Path, layout: &Path, names: &[&str]) -> Command {
    let tests = std::env::current_exe().unwrap();
    let mut command = Command::new(tests.ancestors().nth(2).unwrap().join("examples/adder"));
    command.arg("add").arg(store).arg(layout).args(names);
    command.env_remove("ROOTLING_FAULT").env_remove("ROOTLING_FAULT_TRACE");
    command
}

fn write_layouts(at: &Path) {
    let base = || {
        let tar = Tar::default().dir("etc/").file("etc/motd", "welcome\n").dir("usr/").dir("usr/bin/");
        tar.program("usr/bin/tool", "tool of old\n").end()
    };
    let second = || Tar::default().dir("etc/").file("etc/second", "added\n").end();
    let third = || Tar::default().dir("usr/").dir("usr/bin/").program("usr/bin/tool", "tool of new\n").end();
    write_layout(&at.join("old"), &[base(), second()], &json!({ "Cmd": ["/old"] }));
    write_layout(&at.join("new"), &[base(), second(), third()], &json!({ "Cmd": ["/new"] }));
}

pub(crate) fn run(operation: Operation, place: &Path, scratch: &Path) -> Outcome {
    let layouts = place.join("layouts");
    write_layouts(&layouts);
    let begin = |name: &str| Place::begin(&operation, place.join(name).join("store"), &layouts, scratch);
    let undisturbed = begin("undisturbed");
    let before = undisturbed.trees();
    let trace = place.join("trace");
    let output = undisturbed.command(operation.command).env("ROOTLING_FAULT_TRACE", &trace).output().unwrap();
    assert!(output.status.success(), "{}: {}", operation.name, said(&output));
    let after = undisturbed.trees();
    let expected = undisturbed.pruned("undisturbed");
    undisturbed.assert_can_be_emptied("undisturbed");
    let faults = faults(&trace, operation.name);
    for (index, fault) in faults.iter().enumerate() {
        let when = format!("{} killed at {fault}", operation.name);
        let place = begin(&format!("at-{index}"));
        let mut command = place.command(operation.command);
        let output = command.env("ROOTLING_FAULT", fault).output().unwrap();
        assert!(was_killed(&output), "{when}: not killed: {}", said(&output));
        if !operation.damaged {
            place.store.assert_clean(&when);
        }
        (operation.check)(&place, &faults[..=index]);
        for (name, tree) in place.trees() {
            let mut known = [before.get(&name), after.get(&name)].into_iter().flatten();
            let is_known = known.any(|known| differences(&tree, known).is_empty());
            assert!(is_known, "{when}: {name} is neither what it was nor what it shall be");
        }
        place.run(operation.command);
        let now = place.trees();
        assert!(now.keys().eq(after.keys()), "{when}, said again: {:?}", now.keys());
        for (name, tree) in &now {
            assert_tree_eq(tree, &after[name], &format!("{when}, said again: {name}"));
        }
        let found = place.pruned(&when);
        // A box that was frozen twice, or whose freezing was cut short, has one state more or less in its history.
        found.0.assert_like(&expected.0, usize::from(operation.name == "adopt"), &when);
        assert_eq!(found.1, expected.1, "{when}: blobs and hints");
        place.assert_can_be_emptied(&when);
    }
    Ok(())
}
