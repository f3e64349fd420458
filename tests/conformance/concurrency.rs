//! Many at once.

use std::fs;

use rootling_backends::ForkOptions;

use crate::cases::{Case, case};
use crate::setup::{Setup, tree_of};
use crate::support::require::Outcome;
use crate::support::tree::{TreeValue, dir, file, link};

pub(crate) const CASES: &[Case] = &[case!(eight_forks_at_once), case!(forks_while_siblings_are_reaped)];

fn some_files() -> TreeValue {
    let mut value = TreeValue::empty();
    for number in 0..10 {
        value.insert(format!("d{number}"), dir());
        for inner in 0..10 {
            value.insert(format!("d{number}/f{inner}"), file(format!("{number} {inner}")));
        }
        crate::support::tree::Put::put(
            link(format!("d{number}/f0")),
            &mut value,
            format!("d{number}/same").into(),
        );
    }
    value
}

fn eight_forks_at_once(s: &Setup) -> Outcome {
    let (parent, value) = (s.parent(&some_files()), some_files());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (parent, value) = (&parent, &value);
            scope.spawn(move || {
                let fork = s.fork(parent);
                s.assert_view(&fork.tree, value, "fork");
                s.edit(&fork.tree, |root| fs::write(root.join("mine"), format!("{number}")).unwrap());
                s.assert_changes(&fork, &[r#"A "mine" File "#]);
                let (snapshot, _) = s.snapshot(&fork);
                assert_eq!(
                    s.view(&snapshot).node("mine").unwrap().content,
                    file(format!("{number}")).content
                );
            });
        }
    });
    s.assert_view(&parent, &value, "parent");
    Ok(())
}

fn forks_while_siblings_are_reaped(s: &Setup) -> Outcome {
    let (parent, value) = (s.parent(&some_files()), some_files());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let slot = s.slot();
                    let forked = s.backend.fork(
                        &parent,
                        &slot,
                        ForkOptions { ephemeral: true, ..ForkOptions::default() },
                    );
                    let tree = tree_of(forked.unwrap().form, slot, &parent);
                    s.assert_view(&tree, &value, "fork");
                    s.backend.reap(&tree.slot).unwrap();
                }
            });
        }
    });
    Ok(())
}
