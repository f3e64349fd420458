//! Subvolumes inside a tree (systemd and podman make them): a btrfs snapshot alone would show empty directories.

use std::fs;

use rootling_backends::Tree;

use crate::cases::{Case, case};
use crate::removal::{make_subvolume, needs_subvolumes, set_read_only};
use crate::setup::Setup;
use crate::support::require::Outcome;
use crate::support::tree::{dir, file, tree};

pub(crate) const CASES: &[Case] = &[
    case!(fork_keeps_nested_subvolumes),
    case!(changes_sees_inside_nested_subvolumes),
    case!(reap_removes_nested_subvolumes),
];

/// Makes a tree with a subvolume, one within it, and a read-only one.
fn nested(s: &Setup) -> Tree {
    let tree = s.create(&tree! { "plain" => dir(), "plain/f" => file("f") });
    let root = tree.fs();
    fs::create_dir_all(root.join("var/lib")).unwrap();
    make_subvolume(&root.join("var/lib/machines"));
    fs::write(root.join("var/lib/machines/one"), "one").unwrap();
    fs::create_dir(root.join("var/lib/machines/sub")).unwrap();
    make_subvolume(&root.join("var/lib/machines/sub/inner"));
    fs::write(root.join("var/lib/machines/sub/inner/two"), "two").unwrap();
    make_subvolume(&root.join("fixed"));
    fs::write(root.join("fixed/three"), "three").unwrap();
    set_read_only(&root.join("fixed"), true);
    tree
}

fn fork_keeps_nested_subvolumes(s: &Setup) -> Outcome {
    needs_subvolumes(s)?;
    let tree = nested(s);
    let view = s.view(&tree);
    s.backend.seal(&tree).unwrap();
    let fork = s.fork(&tree);
    s.assert_view(&fork.tree, &view, "fork");
    s.edit(&fork.tree, |root| {
        fs::write(root.join("var/lib/machines/one"), "changed").unwrap();
        fs::write(root.join("var/lib/machines/sub/inner/new"), "").unwrap();
    });
    s.assert_view(&tree, &view, "parent");
    let changed = s.view(&fork.tree);
    let (snapshot, _) = s.snapshot(&fork);
    s.assert_view(&snapshot, &changed, "snapshot");
    s.assert_view(&s.fork(&snapshot).tree, &changed, "fork of the snapshot");
    Ok(())
}

fn changes_sees_inside_nested_subvolumes(s: &Setup) -> Outcome {
    needs_subvolumes(s)?;
    let tree = nested(s);
    s.backend.seal(&tree).unwrap();
    let fork = s.fork(&tree);
    s.assert_changes(&fork, &[]);
    s.edit(&fork.tree, |root| {
        fs::write(root.join("var/lib/machines/one"), "ONE").unwrap();
        fs::remove_file(root.join("var/lib/machines/sub/inner/two")).unwrap();
        fs::write(root.join("var/lib/machines/sub/inner/new"), "").unwrap();
    });
    s.assert_changes(
        &fork,
        &[
            r#"C "var/lib/machines/one" File content"#,
            r#"A "var/lib/machines/sub/inner/new" File "#,
            r#"D "var/lib/machines/sub/inner/two" File "#,
        ],
    );
    Ok(())
}

fn reap_removes_nested_subvolumes(s: &Setup) -> Outcome {
    needs_subvolumes(s)?;
    let tree = nested(s);
    s.backend.seal(&tree).unwrap();
    let fork = s.fork(&tree);
    for slot in [&fork.tree.slot, &tree.slot] {
        s.backend.reap(slot).unwrap();
        assert!(slot.symlink_metadata().is_err(), "{slot:?} is still there");
        s.backend.reap(slot).unwrap();
    }
    Ok(())
}
