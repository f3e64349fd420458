//! Restoring is the inverse of changing: whatever was done to a box, it goes back to each of its states and forth again. And what two boxes
//! changed apart from each other comes together, and apart again.

use std::fs;
use std::path::{Path, PathBuf};

use rootling::store::{Base, CreateOptions, Name, Node, Range, RestoreOptions, SnapshotOptions, Store};
use rootling_backends::{Access, Cost, Kind};

use crate::support::compare::{assert_tree_eq, differences};
use crate::support::mounted::Mounted;
use crate::support::ops::Walk;
use crate::support::require::Outcome;
use crate::support::rng::Rng;
use crate::support::tree::{TreeValue, file};

const ROUNDS: u64 = 3;

/// Directories of trees that are merged.
const PARTS: [&str; 3] = ["left", "right", "both"];

/// A file that each edit writes anew.
const MARK: &str = ".edited";

struct Stage {
    store: Store,
    scratch: PathBuf,
    rng: Rng,
}

/// Boxes of two backends are changed and restored.
pub(crate) fn run(kind: Kind, other: Kind, place: &Path, scratch: &Path) -> Outcome {
    each_seed(place, scratch, |stage| stage.history(kind, other))
}

/// What was changed in boxes of two backends is merged.
pub(crate) fn merge(kind: Kind, other: Kind, place: &Path, scratch: &Path) -> Outcome {
    each_seed(place, scratch, |stage| stage.merge(kind, other))
}

/// `ROOTLING_SEED=n` repeats a failure.
fn each_seed(place: &Path, scratch: &Path, story: impl Fn(Stage)) -> Outcome {
    let seed = Rng::seed();
    std::fs::create_dir_all(scratch).unwrap();
    for round in seed..seed + ROUNDS {
        let store = Store::init(&place.join(format!("store-{round}")), None).unwrap();
        let stage = Stage { store, scratch: scratch.join(format!("view-{round}")), rng: Rng::new(round) };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(stage)));
        if let Err(cause) = run {
            let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("ROOTLING_SEED={round}: {text}");
        }
    }
    Ok(())
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

impl Stage {
    fn history(mut self, kind: Kind, other: Kind) {
        let none = CreateOptions::default();
        self.store.import(&name("base"), "nothing", none, |_| Ok(Cost::default())).unwrap();
        let (mut states, last) = self.grow("dev", kind);
        let steps = states.len();
        self.assert(&states[steps - 1].1, "undone", |store, dev| store.undo(dev, 1).unwrap().node);
        self.assert(&last, "redone", |store, dev| store.redo(dev, 1).unwrap().node);
        self.assert(&states[0].1, "all undone", |store, dev| store.undo(dev, steps).unwrap().node);
        self.assert(&last, "all redone", |store, dev| store.redo(dev, steps).unwrap().node);
        // In any order, and to what another backend made.
        states.extend(self.grow("other", other).0);
        for _ in 0..6 {
            let (state, value) = states[self.rng.below(states.len())].clone();
            let restore = |store: &Store, dev: &Node| {
                store.restore(dev, &state, &RestoreOptions::default()).unwrap().node
            };
            self.assert(&value, &format!("restored to {}", state.label()), restore);
            if self.rng.below(2) == 0 {
                self.edit("dev", 10);
            }
        }
        let mut kept =
            self.store.snapshots(&name("dev")).unwrap().into_iter().map(|(_, node)| self.view(&node));
        assert!(kept.any(|value| differences(&value, &last).is_empty()), "what was undone is lost");
        assert!(self.store.check(false, true).unwrap().is_clean());
    }

    /// Two boxes of one state: in the first only `left` is changed, in the second only `right`, and in `both` each has its own files.
    fn merge(mut self, kind: Kind, other: Kind) {
        let none = CreateOptions::default();
        self.store.import(&name("base"), "nothing", none, |_| Ok(Cost::default())).unwrap();
        let base = self.store.named(&name("base")).unwrap().unwrap();
        let common = self.side("dev", kind, &base, |stage| {
            let make = |root: &Path| PARTS.iter().for_each(|part| fs::create_dir(root.join(part)).unwrap());
            stage.change("dev", make);
            PARTS.iter().for_each(|part| stage.edit_in("dev", part, 40));
        });
        let theirs = self.side("theirs", kind, &common, |stage| {
            stage.edit_in("theirs", "left", 40);
            stage.change("theirs", |root| fs::write(root.join("both/.theirs"), "theirs").unwrap());
        });
        let ours = self.side("ours", other, &common, |stage| {
            stage.edit_in("ours", "right", 40);
            stage.change("ours", |root| fs::write(root.join("both/.ours"), "ours").unwrap());
        });
        let before = self.view(&ours);
        let range = Range { from: common, to: theirs.clone() };
        let merged = self.store.apply(&self.node("ours"), &range, &[], "apply").unwrap();
        assert_eq!(merged.conflicts, []);
        let node = self.node("ours");
        assert_tree_eq(&self.view_in(&node, "left"), &self.view_in(&theirs, "left"), "theirs");
        assert_tree_eq(&self.view_in(&node, "right"), &self.view_in(&ours, "right"), "ours");
        let mut both = self.view_in(&ours, "both");
        both.insert(".theirs", file("theirs").mode(0o666));
        assert_tree_eq(&self.view_in(&node, "both").without_times(), &both.without_times(), "both");

        // Put on top of theirs instead, it comes to the same.
        let (store, root) = (&self.store, Base::Node(&ours));
        store
            .create(
                root,
                &name("rebased"),
                CreateOptions { backend: Some(other), ..CreateOptions::default() },
            )
            .unwrap();
        assert_eq!(store.rebase(&self.node("rebased"), &theirs, "rebase").unwrap().conflicts, []);
        let (rebased, applied) = (self.view(&self.node("rebased")), self.view(&node));
        assert_tree_eq(&rebased.without_times(), &applied.without_times(), "rebased");

        let range = Range { from: range.to, to: range.from };
        let reverted = self.store.apply(&node, &range, &[], "revert").unwrap();
        assert_eq!(reverted.conflicts, []);
        assert_tree_eq(&self.view(&self.node("ours")), &before, "reverted");
        assert!(self.store.check(false, true).unwrap().is_clean());
    }

    /// Makes a box on a node, changes it and returns the state that it is in then.
    fn side(&mut self, called: &str, kind: Kind, on: &Node, change: impl FnOnce(&mut Self)) -> Node {
        let options = CreateOptions { backend: Some(kind), ..CreateOptions::default() };
        self.store.create(Base::Node(on), &name(called), options).unwrap();
        change(self);
        self.store.snapshot(&self.node(called), &SnapshotOptions::default()).unwrap()
    }

    /// Makes a box of three states, and changes it once more; returns the states with their content, and the content in the end.
    fn grow(&mut self, called: &str, kind: Kind) -> (Vec<(Node, TreeValue)>, TreeValue) {
        let base = self.store.named(&name("base")).unwrap().unwrap();
        let options = CreateOptions { backend: Some(kind), ..CreateOptions::default() };
        self.store.create(Base::Node(&base), &name(called), options).unwrap();
        let mut states = Vec::new();
        for size in [60, 30, 30] {
            self.edit(called, size);
            let state = self.store.snapshot(&self.node(called), &SnapshotOptions::default()).unwrap();
            let value = self.view(&self.node(called));
            assert_tree_eq(&self.view(&state), &value, "snapshot");
            states.push((state, value));
        }
        self.edit(called, 30);
        (states, self.view(&self.node(called)))
    }

    fn assert(&self, expected: &TreeValue, what: &str, go: impl FnOnce(&Store, &Node) -> Node) {
        let node = go(&self.store, &self.node("dev"));
        assert_tree_eq(&self.view(&node), expected, what);
    }

    fn node(&self, called: &str) -> Node {
        self.store.named(&name(called)).unwrap().unwrap()
    }

    fn view(&self, node: &Node) -> TreeValue {
        self.view_in(node, "")
    }

    fn view_in(&self, node: &Node, part: &str) -> TreeValue {
        let (mount, _) = self.store.mount(node).unwrap();
        let mounted = Mounted::attach(&mount, Access::ReadOnly, self.scratch.clone()).unwrap();
        TreeValue::read_path(&mounted.path().join(part))
    }

    fn edit(&mut self, called: &str, steps: usize) {
        self.edit_in(called, "", steps);
    }

    /// What comes of the steps may be nothing but the times of directories, which is nothing to be kept: so a mark says that there was an edit.
    fn edit_in(&mut self, called: &str, part: &str, steps: usize) {
        let value = self.view_in(&self.node(called), part);
        let delta = self.node(called).record.form == rootling_backends::Form::Delta;
        let (rng, mark) = (Rng::new(self.rng.next()), self.rng.next());
        self.change(called, |root| {
            Walk::new(value, delta, rng).run(&root.join(part), steps);
            fs::write(root.join(part).join(MARK), mark.to_string()).unwrap();
        });
    }

    fn change(&self, called: &str, change: impl FnOnce(&Path)) {
        let (node, _used) = self.store.open_box(&self.node(called)).unwrap();
        let (mount, access) = self.store.mount(&node).unwrap();
        let mounted = Mounted::attach(&mount, access, self.scratch.clone()).unwrap();
        change(mounted.path());
    }
}
