//! Random programs: whatever they do, tree and value agree, and `changes` says what the value says.

use rootling_backends::{CloneMode, DiffOptions, Dir, FS, Form, Tree, flatten};

use crate::cases::{Case, case};
use crate::setup::{Fork, Setup, with_seeds};
use crate::support::compare::{assert_tree_eq, diff, lines};
use crate::support::ops::Walk;
use crate::support::require::Outcome;
use crate::support::rng::Rng;
use crate::support::tree::TreeValue;

pub(crate) const CASES: &[Case] = &[case!(random_operations)];

const ROUNDS: u64 = 6;

fn random_operations(s: &Setup) -> Outcome {
    with_seeds(ROUNDS, |seed| one_history(s, seed))
}

/// A tree grown at random, then a chain of forks, each checked against the model and the model's diff.
fn one_history(s: &Setup, seed: u64) {
    let mut rng = Rng::new(seed);
    let tree = s.create(&TreeValue::empty());
    let mut walk = Walk::new(s.view(&tree), false, Rng::new(rng.next()));
    s.edit(&tree, |root| walk.run(root, 120));
    s.backend.seal(&tree).unwrap();
    let (mut parent, mut value) = (tree, walk.value);
    for _ in 0..3 {
        let fork = s.fork(&parent);
        let before = value.clone();
        let mut walk = Walk::new(value, s.makes_deltas(), Rng::new(rng.next()));
        s.edit(&fork.tree, |root| walk.run(root, 50));
        check(s, &fork, &before, &walk.value);
        // Half of the walk comes after a snapshot, in a tree that has been mounted before.
        let (snapshot, taken) = s.snapshot(&fork);
        let at_snapshot = walk.value.clone();
        assert_tree_eq(&s.view(&snapshot), &s.view(&fork.tree), "snapshot");
        s.edit(&fork.tree, |root| walk.run(root, 30));
        check(s, &fork, &before, &walk.value);
        let since = Fork { tree: fork.tree.clone(), parent: snapshot, baseline: taken.baseline };
        check(s, &since, &at_snapshot, &walk.value);
        s.backend.seal(&fork.tree).unwrap();
        (parent, value) = (fork.tree, walk.value);
    }
    if s.makes_deltas() {
        assert_merged(s, &parent);
    }
}

/// All deltas of a chain merged into one show over the bottom what the chain shows.
fn assert_merged(s: &Setup, top: &Tree) {
    let mut layers = top.layers();
    let bottom = layers.pop().unwrap();
    assert_eq!(layers.len(), 3, "the forks are deltas");
    let (slot, beneath) = (s.slot(), Dir::open(&bottom).unwrap());
    let target = Dir::open(&slot).unwrap();
    target.make_dir(FS, 0o755).unwrap();
    let target = target.open_dir(FS).unwrap();
    flatten::merge_deltas(&layers, &beneath, &target, s.marks_in_user(), CloneMode::Auto).unwrap();
    let merged = Tree { slot, form: Form::Delta, lowers: vec![bottom] };
    assert_tree_eq(&s.view(&merged), &s.view(top), "merged deltas");
}

fn check(s: &Setup, fork: &Fork, before: &TreeValue, after: &TreeValue) {
    let view = s.view(&fork.tree).without_times();
    assert_tree_eq(&view, &after.clone().without_times(), "tree against the model");
    let options = DiffOptions::default();
    assert_eq!(
        lines(&s.changes(fork, options)),
        lines(&diff(before, after, options)),
        "changes against the model"
    );
    s.assert_changes_exact(fork);
}
