//! Restoring is the inverse of changing: whatever was done to a box, it goes back to each of its states and forth again.

use std::path::{Path, PathBuf};

use rootling::store::{Base, CreateOptions, Name, Node, RestoreOptions, SnapshotOptions, Store};
use rootling_backends::{Access, Cost, Kind};

use crate::support::compare::{assert_tree_eq, differences};
use crate::support::mounted::Mounted;
use crate::support::ops::Walk;
use crate::support::require::Outcome;
use crate::support::rng::Rng;
use crate::support::tree::TreeValue;

const ROUNDS: u64 = 3;

struct Stage {
    store: Store,
    scratch: PathBuf,
    rng: Rng,
}

/// `ROOTLING_SEED=n` repeats a failure.
pub(crate) fn run(kind: Kind, other: Kind, place: &Path, scratch: &Path) -> Outcome {
    let seed = Rng::seed();
    std::fs::create_dir_all(scratch).unwrap();
    for round in seed..seed + ROUNDS {
        let store = Store::init(&place.join(format!("store-{round}")), None).unwrap();
        let stage = Stage { store, scratch: scratch.join(format!("view-{round}")), rng: Rng::new(round) };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.history(kind, other)));
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
        let (mount, _) = self.store.mount(node).unwrap();
        let mounted = Mounted::attach(&mount, Access::ReadOnly, self.scratch.clone()).unwrap();
        TreeValue::read_path(mounted.path())
    }

    fn edit(&mut self, called: &str, steps: usize) {
        let value = self.view(&self.node(called));
        let (node, _used) = self.store.open_box(&self.node(called)).unwrap();
        let (mount, access) = self.store.mount(&node).unwrap();
        let mounted = Mounted::attach(&mount, access, self.scratch.clone()).unwrap();
        let delta = node.record.form == rootling_backends::Form::Delta;
        Walk::new(value, delta, Rng::new(self.rng.next())).run(mounted.path(), steps);
    }
}
