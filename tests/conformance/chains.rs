//! Graphs of nodes in a store: any two of them compared along the steps between them, and judged by comparing everything.

use std::fs;
use std::process::Command;

use rootling::store::{Base, CreateOptions, Name, Node, SnapshotOptions, Store};
use rootling_backends::{DiffOptions, Form, Kind, compare};

use crate::cases::{Case, case};
use crate::setup::{Setup, with_seeds};
use crate::support::compare::lines;
use crate::support::mounted::Mounted;
use crate::support::ops::Walk;
use crate::support::require::{Outcome, Skip};
use crate::support::rng::Rng;
use crate::support::tree::TreeValue;

pub(crate) const CASES: &[Case] =
    &[case!(any_two_nodes_are_compared_exactly), case!(what_no_step_touched_is_not_looked_at)];

const ROUNDS: u64 = 2;

/// A store whose boxes are this backend's.
fn store(s: &Setup, name: &str) -> Store {
    Store::init(&s.dir.join(name), Some(s.backend.kind())).unwrap()
}

fn import(store: &Store, rng: &mut Rng) -> Node {
    let name = Name::parse("base").unwrap();
    let made = store.import(&name, "dir:/somewhere", CreateOptions::default(), |root| {
        Walk::new(TreeValue::read(root)?, false, Rng::new(rng.next())).run(root.path(), 60);
        fs::create_dir(root.path().join("quiet")).unwrap();
        fs::write(root.path().join("quiet/untouched"), "0123456789").unwrap();
        Ok(rootling_backends::Cost::default())
    });
    made.unwrap()
}

fn current(store: &Store, name: &Name) -> Node {
    store.named(name).unwrap().unwrap()
}

/// Changes a box as a program in it would; with `then` something happens while it is mounted.
fn edit(s: &Setup, store: &Store, node: &Node, rng: &mut Rng, then: impl FnOnce()) {
    let (mount, access) = store.mount(node).unwrap();
    let at = s.scratch.join(format!("{}", rng.next()));
    let mounted = Mounted::attach(&mount, access, at).unwrap();
    let value = TreeValue::read_path(mounted.path());
    // Only in a delta does writing to one of two names part them.
    let copy_up = node.record.form == Form::Delta;
    Walk::new(value, copy_up, Rng::new(rng.next())).run(mounted.path(), 12);
    then();
}

fn any_two_nodes_are_compared_exactly(s: &Setup) -> Outcome {
    with_seeds(ROUNDS, |seed| one_graph(s, seed))
}

fn one_graph(s: &Setup, seed: u64) {
    let mut rng = Rng::new(seed);
    let store = store(s, &format!("store-{seed}"));
    let kinds: Vec<Kind> = s.all.iter().map(|backend| backend.kind()).collect();
    let mut nodes = vec![import(&store, &mut rng)];
    let mut boxes: Vec<Name> = Vec::new();
    for step in 0..14 {
        let make_box = boxes.is_empty() || rng.below(4) == 0;
        if make_box {
            // Now and then of another backend: the chain goes on through it.
            let other = (rng.below(3) == 0).then(|| *rng.pick(&kinds).unwrap());
            let name = Name::parse(&format!("box-{step}")).unwrap();
            let base = rng.pick(&nodes).unwrap();
            let options = CreateOptions { backend: other, ..CreateOptions::default() };
            nodes.push(store.create(Base::Node(base), &name, options).unwrap());
            boxes.push(name);
            continue;
        }
        let name = rng.pick(&boxes).unwrap().clone();
        let node = current(&store, &name);
        let options = SnapshotOptions::default();
        let mut taken = None;
        if rng.below(3) == 0 && s.backend.capabilities().live_snapshot {
            edit(s, &store, &node, &mut rng, || taken = Some(store.snapshot(&node, &options).unwrap()));
        } else {
            edit(s, &store, &node, &mut rng, || ());
            if rng.below(4) > 0 {
                taken = Some(store.snapshot(&node, &options).unwrap());
            }
        }
        nodes.extend(taken);
        // The box may be another object now.
        nodes.retain(|known| known.name.as_ref() != Some(&name));
        nodes.push(current(&store, &name));
    }
    for old in &nodes {
        for new in &nodes {
            assert_compared(&store, old, new);
        }
    }
}

fn assert_compared(store: &Store, old: &Node, new: &Node) {
    for options in [DiffOptions { times: false }, DiffOptions { times: true }] {
        let found = lines(&store.diff(old, new, options).unwrap());
        let judged =
            compare::diff_trees(&store.open_root(old).unwrap(), &store.open_root(new).unwrap(), options)
                .unwrap();
        assert_eq!(found, lines(&judged), "{} against {} with {options:?}", old.label(), new.label());
    }
}

/// The proof that a chain is not walked: a sealed tree is tampered with at a path that nobody touched, and no comparison along the chain
/// sees it, while one of everything does.
fn what_no_step_touched_is_not_looked_at(s: &Setup) -> Outcome {
    if s.makes_deltas() {
        return Err(Skip::because("both sides would see the one file"));
    }
    let mut rng = Rng::new(1);
    let store = store(s, "store");
    let base = import(&store, &mut rng);
    let name = Name::parse("dev").unwrap();
    store.create(Base::Node(&base), &name, CreateOptions::default()).unwrap();
    let mut states = vec![base.clone()];
    for number in 0..3 {
        let (mount, access) = store.mount(&current(&store, &name)).unwrap();
        let mounted = Mounted::attach(&mount, access, s.scratch.join(format!("{number}"))).unwrap();
        fs::create_dir(mounted.path().join(format!("new-{number}"))).unwrap();
        drop(mounted);
        states.push(store.snapshot(&current(&store, &name), &SnapshotOptions::default()).unwrap());
    }
    states.push(current(&store, &name));
    tamper(s, &store, &base);
    let fenced = s.file_system.name() != "tmpfs";
    for (number, new) in states.iter().enumerate().skip(1) {
        let is_box = number + 1 == states.len();
        let found = lines(&store.diff(&base, new, DiffOptions::default()).unwrap());
        let mut expected: Vec<String> =
            (0..number.min(3)).map(|number| format!("A {:?} Directory ", format!("new-{number}"))).collect();
        if is_box && !fenced {
            // Nothing remembers what changed in such a box: it is compared whole, with the state before it.
            continue;
        }
        assert_eq!(found, expected, "state {number}");
        let roots = (store.open_root(&base).unwrap(), store.open_root(new).unwrap());
        let all = lines(&compare::diff_trees(&roots.0, &roots.1, DiffOptions::default()).unwrap());
        if s.backend.kind() == Kind::Btrfs || is_box {
            expected.push(r#"C "quiet/untouched" File content"#.to_owned());
            expected.sort_by(|a, b| a[2..].cmp(&b[2..]));
            assert_eq!(all, expected, "the tampering shows where everything is compared");
        }
    }
    Ok(())
}

fn tamper(s: &Setup, store: &Store, node: &Node) {
    let tree = store.slot(node).join("fs");
    let property = |value: &str| {
        let status =
            Command::new("btrfs").args(["property", "set", "-f"]).arg(&tree).args(["ro", value]).status();
        assert!(status.unwrap().success(), "btrfs property set");
    };
    if s.backend.kind() == Kind::Btrfs {
        property("false");
    }
    fs::write(tree.join("quiet/untouched"), "9876543210").unwrap();
    if s.backend.kind() == Kind::Btrfs {
        property("true");
    }
}
