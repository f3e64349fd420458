//! Failures: the right kind, the object in the message, and nothing left behind.

use std::fs;

use rootling_backends::{Backend, ErrorKind, ForkOptions, Tree};

use crate::cases::{Case, case};
use crate::setup::{Setup, assert_error};
use crate::support::require::{Outcome, Skip};
use crate::support::tree::{dir, file, tree};

pub(crate) const CASES: &[Case] = &[
    case!(fork_into_a_used_slot_fails),
    case!(fork_of_a_missing_parent_fails),
    case!(missing_slot_fails),
    case!(mount_of_a_missing_tree_fails),
    case!(always_clone_fails_where_nothing_can_be_cloned),
    case!(fork_costs_are_counted),
];

fn fork_into_a_used_slot_fails(s: &Setup) -> Outcome {
    let value = tree! { "f" => file("f") };
    let parent = s.parent(&value);
    let used = s.fork(&parent).tree;
    let (slot, kinds) = (&used.slot, [ErrorKind::AlreadyExists, ErrorKind::FailedPrecondition]);
    let object = slot.to_str().unwrap();
    assert_error(s.backend.fork(&parent, slot, ForkOptions::default()), &kinds, object);
    assert_error(s.backend.create(slot), &kinds, object);
    s.assert_view(&used, &value, "what was in the slot");
    Ok(())
}

fn fork_of_a_missing_parent_fails(s: &Setup) -> Outcome {
    let missing = s.dir.join("no-such-parent");
    let slot = s.slot();
    let result = s.backend.fork(&Tree::full(&missing), &slot, ForkOptions::default());
    assert_error(result, &[ErrorKind::NotFound], "no-such-parent");
    s.backend.reap(&slot).unwrap();
    assert!(!slot.exists());
    Ok(())
}

fn missing_slot_fails(s: &Setup) -> Outcome {
    let slot = s.dir.join("no-such-slot");
    assert_error(s.backend.create(&slot), &[ErrorKind::NotFound], "no-such-slot");
    let parent = s.parent(&tree! { "d" => dir() });
    let result = s.backend.fork(&parent, &slot, ForkOptions::default());
    assert_error(result, &[ErrorKind::NotFound], "no-such-slot");
    Ok(())
}

fn mount_of_a_missing_tree_fails(s: &Setup) -> Outcome {
    let tree = Tree::full(s.dir.join("no-such-tree"));
    let access = rootling_backends::Access::ReadOnly;
    assert_error(s.backend.mount(&tree, access, false).open(access), &[ErrorKind::NotFound], "no-such-tree");
    Ok(())
}

/// A backend that copies file by file must refuse to copy data when told to clone, and leave nothing.
fn always_clone_fails_where_nothing_can_be_cloned(s: &Setup) -> Outcome {
    if s.file_system.clones_files() {
        return Err(Skip::because("files can be cloned here"));
    }
    if s.backend.capabilities().constant_time_fork {
        return Err(Skip::because("its forks touch no file"));
    }
    let parent = s.parent(&tree! { "d" => dir(), "d/f" => file("data") });
    let slot = s.slot();
    let result = s.backend.fork(&parent, &slot, ForkOptions { always_clone: true, ..ForkOptions::default() });
    let error = result.expect_err("nothing can be cloned here");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    let left: Vec<_> = fs::read_dir(&slot).into_iter().flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// What is reported is what was done: shared data where the capabilities promise it.
fn fork_costs_are_counted(s: &Setup) -> Outcome {
    let parent = s.parent(&tree! { "d" => dir(), "d/f" => file([1; 10_000]), "d/g" => file([2; 300]) });
    let cost = |backend: &dyn Backend| backend.fork(&parent, &s.slot(), ForkOptions::default()).unwrap().cost;
    let cost = cost(&*s.backend);
    let capabilities = s.backend.capabilities();
    if capabilities.constant_time_fork {
        assert_eq!((cost.files_cloned, cost.files_copied, cost.bytes_copied), (0, 0, 0), "{cost:?}");
    } else if capabilities.shares_data {
        assert_eq!((cost.files_cloned, cost.files_copied), (2, 0), "{cost:?}");
        assert_eq!(cost.bytes_cloned, 10_300, "{cost:?}");
    } else {
        assert_eq!((cost.files_cloned, cost.files_copied, cost.bytes_copied), (0, 2, 10_300), "{cost:?}");
    }
    assert!(cost.copied_because.is_empty(), "{cost:?}");
    Ok(())
}
