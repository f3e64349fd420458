//! The life of a tree: created, forked, written to, sealed, snapshotted. Several cases are old bugs of others, with their number.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use rootling_backends::{Access, Baseline, DiffOptions};

use crate::cases::{Case, case};
use crate::commands::move_tree;
use crate::setup::{Fork, Setup};
use crate::support::require::{Outcome, Skip};
use crate::support::tree::{TreeValue, dir, file, link, symlink, tree};

pub(crate) const CASES: &[Case] = &[
    case!(create_gives_an_empty_root),
    case!(fork_sees_parent),
    case!(edits_in_a_fork_leave_the_parent_alone),
    case!(forks_do_not_see_each_other),
    case!(sealing_twice_does_nothing),
    case!(read_only_mount_refuses_writes),
    case!(snapshot_equals_the_tree_and_leaves_it_alone),
    case!(snapshot_of_a_tree_without_parent_is_whole),
    case!(snapshot_while_somebody_writes),
    case!(changes_after_a_snapshot_start_from_it),
    case!(fork_of_a_snapshot_sees_it),
    case!(removed_and_remade_directory_hides_what_was_below),
    case!(removed_file_stays_removed_through_three_levels),
    case!(rewrite_within_one_second_is_seen),
    case!(mode_change_alone_is_seen),
    case!(recursive_chown_is_seen),
    case!(owner_of_a_remade_directory_is_the_new_one),
    case!(renamed_directory_keeps_its_content),
    case!(rename_over_a_file_replaces_it),
    case!(moved_then_linked_file_survives_its_source),
    case!(check_finds_nothing_wrong),
];

fn base() -> TreeValue {
    tree! {
        "bin" => dir(),
        "bin/sh" => file("shell").mode(0o755),
        "bin/ash" => link("bin/sh"),
        "etc" => dir().mode(0o711),
        "etc/passwd" => file("root:x:0:0\n"),
        "etc/alternatives" => dir(),
        "etc/alternatives/vi" => symlink("/usr/bin/vim"),
        "home" => dir().owner(1000, 1000),
    }
}

fn create_gives_an_empty_root(s: &Setup) -> Outcome {
    let slot = s.slot();
    s.backend.create(&slot).unwrap();
    let root = fs::metadata(slot.join("fs")).unwrap();
    assert_eq!(root.permissions().mode() & 0o7777, 0o755);
    let tree = rootling_backends::Tree::full(slot);
    crate::support::compare::assert_tree_eq(
        &s.view(&tree).without_times(),
        &TreeValue::empty().without_times(),
        "created tree",
    );
    Ok(())
}

fn fork_sees_parent(s: &Setup) -> Outcome {
    let parent = s.parent(&base());
    let fork = s.fork(&parent);
    s.assert_view(&fork.tree, &base(), "fork");
    let grandchild = s.fork(&s.child(&parent, |_| ()));
    s.assert_view(&grandchild.tree, &base(), "fork of a fork");
    Ok(())
}

fn edits_in_a_fork_leave_the_parent_alone(s: &Setup) -> Outcome {
    let parent = s.parent(&base());
    let fork = s.fork(&parent);
    s.edit(&fork.tree, |root| {
        fs::write(root.join("etc/passwd"), "changed").unwrap();
        fs::remove_file(root.join("bin/sh")).unwrap();
        fs::remove_dir_all(root.join("etc/alternatives")).unwrap();
        fs::write(root.join("home/new"), "new").unwrap();
        lchown(root.join("home"), Some(5), Some(6)).unwrap();
        fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    s.assert_view(&parent, &base(), "parent after its child's edits");
    let view = s.view(&fork.tree);
    assert!(view.node("bin/sh").is_none() && view.node("etc/alternatives/vi").is_none());
    assert_eq!(view.node("etc/passwd").unwrap().content, file("changed").content);
    assert_eq!(view.node("bin/ash").unwrap().content, file("shell").content);
    assert_eq!(view.node("home").unwrap().owner, (5, 6));
    assert_eq!(view.node("etc").unwrap().mode, 0o700);
    s.assert_changes_exact(&fork);
    Ok(())
}

fn forks_do_not_see_each_other(s: &Setup) -> Outcome {
    let parent = s.parent(&base());
    let (one, two) = (s.fork(&parent), s.fork(&parent));
    let (a, b) = (s.attach(&one.tree), s.attach(&two.tree));
    fs::write(a.path().join("etc/passwd"), "one").unwrap();
    fs::write(b.path().join("etc/passwd"), "two").unwrap();
    fs::write(a.path().join("only-one"), "").unwrap();
    assert_eq!(fs::read(a.path().join("etc/passwd")).unwrap(), b"one");
    assert_eq!(fs::read(b.path().join("etc/passwd")).unwrap(), b"two");
    assert!(!b.path().join("only-one").exists());
    s.assert_view(&parent, &base(), "parent");
    Ok(())
}

fn sealing_twice_does_nothing(s: &Setup) -> Outcome {
    let parent = s.parent(&base());
    s.backend.seal(&parent).unwrap();
    let child = s.child(&parent, |root| fs::write(root.join("x"), "x").unwrap());
    s.backend.seal(&child).unwrap();
    assert!(s.view(&child).node("x").is_some());
    s.backend.barrier(&s.dir).unwrap();
    Ok(())
}

fn read_only_mount_refuses_writes(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&base()));
    let mounted = s.attach_as(&fork.tree, Access::ReadOnly);
    let refused = fs::write(mounted.path().join("etc/passwd"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    Ok(())
}

fn snapshot_equals_the_tree_and_leaves_it_alone(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&base()));
    s.edit(&fork.tree, |root| {
        fs::write(root.join("etc/passwd"), "changed").unwrap();
        fs::remove_file(root.join("bin/ash")).unwrap();
    });
    let before = s.view(&fork.tree);
    let (snapshot, _) = s.snapshot(&fork);
    s.assert_view(&snapshot, &before, "snapshot");
    s.assert_view(&fork.tree, &before, "tree after its snapshot");
    s.edit(&fork.tree, |root| fs::write(root.join("etc/passwd"), "again").unwrap());
    s.assert_view(&snapshot, &before, "snapshot after the tree went on");
    Ok(())
}

fn snapshot_of_a_tree_without_parent_is_whole(s: &Setup) -> Outcome {
    let tree = s.create(&base());
    let slot = s.slot();
    let taken = s.backend.snapshot(&tree, None, &slot).unwrap();
    assert_eq!(taken.form, rootling_backends::Form::Full);
    s.assert_view(&rootling_backends::Tree::full(slot), &base(), "snapshot");
    s.assert_view(&tree, &base(), "tree");
    Ok(())
}

fn snapshot_while_somebody_writes(s: &Setup) -> Outcome {
    if !s.backend.capabilities().live_snapshot {
        return Err(Skip::because("no live snapshots by its capabilities"));
    }
    let fork = s.fork(&s.parent(&base()));
    let mounted = s.attach(&fork.tree);
    let log = mounted.path().join("log");
    fs::write(&log, "first\n").unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::write(mounted.path().join("busy"), "some bytes").unwrap();
                fs::remove_file(mounted.path().join("busy")).unwrap();
            }
        });
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| s.snapshot(&fork).0));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let view = s.view(&taken.unwrap());
        assert_eq!(view.node("log").unwrap().content, file("first\n").content);
        assert!(view.node("etc/alternatives/vi").is_some());
    });
    Ok(())
}

fn changes_after_a_snapshot_start_from_it(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&base()));
    s.edit(&fork.tree, |root| {
        fs::write(root.join("etc/passwd"), "first").unwrap();
        fs::write(root.join("before"), "").unwrap();
    });
    let (snapshot, taken) = s.snapshot(&fork);
    let next = Fork { tree: fork.tree.clone(), parent: snapshot, baseline: taken.baseline };
    s.assert_changes(&next, &[]);
    s.edit(&fork.tree, |root| {
        fs::write(root.join("etc/passwd"), "other").unwrap();
        fs::remove_file(root.join("before")).unwrap();
        fs::write(root.join("home/after"), "").unwrap();
    });
    s.assert_changes(
        &next,
        &[r#"D "before" File "#, r#"C "etc/passwd" File content"#, r#"A "home/after" File "#],
    );
    // Without a baseline everything is compared, to the same result.
    let blind = Fork { baseline: Baseline::None, ..next };
    s.assert_changes_exact(&blind);
    Ok(())
}

fn fork_of_a_snapshot_sees_it(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&base()));
    s.edit(&fork.tree, |root| fs::write(root.join("home/x"), "x").unwrap());
    let (snapshot, _) = s.snapshot(&fork);
    let again = s.fork(&snapshot);
    s.assert_view(&again.tree, &s.view(&fork.tree), "fork of a snapshot");
    s.edit(&again.tree, |root| fs::remove_file(root.join("home/x")).unwrap());
    s.assert_changes(&again, &[r#"D "home/x" File "#]);
    Ok(())
}

/// moby #25244: a directory removed in the second layer and made again must hide the first layer's.
fn removed_and_remade_directory_hides_what_was_below(s: &Setup) -> Outcome {
    let first = s.parent(&tree! {
        "dir" => dir(), "dir/hidden" => file("old"), "dir/sub" => dir(), "dir/sub/deep" => file("old"),
    });
    let second = s.child(&first, |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
    });
    let third = s.child(&second, |root| {
        fs::create_dir(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/new"), "new").unwrap();
    });
    let fork = s.fork(&third);
    let view = s.view(&fork.tree);
    assert!(view.node("dir/hidden").is_none() && view.node("dir/sub/deep").is_none(), "{view:?}");
    assert!(view.node("dir/sub").is_some() && view.node("dir/new").is_some(), "{view:?}");
    s.assert_changes(&fork, &[]);
    Ok(())
}

fn removed_file_stays_removed_through_three_levels(s: &Setup) -> Outcome {
    let first = s.parent(&base());
    let second = s.child(&first, |root| fs::remove_file(root.join("etc/passwd")).unwrap());
    let third = s.child(&second, |root| fs::write(root.join("etc/group"), "g").unwrap());
    let fourth = s.child(&third, |_| ());
    for tree in [&second, &third, &fourth] {
        assert!(s.view(tree).node("etc/passwd").is_none());
    }
    let fork = s.fork(&fourth);
    s.edit(&fork.tree, |root| fs::write(root.join("etc/passwd"), "back").unwrap());
    s.assert_changes(&fork, &[r#"A "etc/passwd" File "#]);
    Ok(())
}

/// moby #21555: same size, same second, other content.
fn rewrite_within_one_second_is_seen(s: &Setup) -> Outcome {
    let parent = s.parent(&tree! { "file" => file("aaaa") });
    let mut last = parent;
    for text in ["bbbb", "cccc", "dddd"] {
        let fork = s.fork(&last);
        s.edit(&fork.tree, |root| fs::write(root.join("file"), text).unwrap());
        s.assert_changes(&fork, &[r#"C "file" File content"#]);
        s.backend.seal(&fork.tree).unwrap();
        last = fork.tree;
    }
    assert_eq!(s.view(&last).node("file").unwrap().content, file("dddd").content);
    Ok(())
}

fn mode_change_alone_is_seen(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&base()));
    s.edit(&fork.tree, |root| {
        fs::set_permissions(root.join("etc/passwd"), fs::Permissions::from_mode(0o4755)).unwrap();
    });
    s.assert_changes(&fork, &[r#"C "etc/passwd" File mode"#]);
    s.backend.seal(&fork.tree).unwrap();
    let again = s.fork(&fork.tree);
    assert_eq!(s.view(&again.tree).node("etc/passwd").unwrap().mode, 0o4755);
    Ok(())
}

/// moby #20240, #24913, #28391: chown -R in a child is the child's and seen by its children.
fn recursive_chown_is_seen(s: &Setup) -> Outcome {
    let parent = s.parent(&tree! {
        "opt" => dir(), "opt/a" => dir(), "opt/a/b" => file("b").mode(0o600), "opt/l" => symlink("a"),
        "opt/empty" => dir(),
    });
    let child = s.child(&parent, |root| {
        for path in ["opt", "opt/a", "opt/a/b", "opt/l", "opt/empty"] {
            lchown(root.join(path), Some(1), Some(2)).unwrap();
        }
    });
    let fork = s.fork(&child);
    let view = s.view(&fork.tree);
    for (path, node) in view.iter().filter(|(path, _)| path.starts_with("opt")) {
        assert_eq!(node.owner, (1, 2), "{path:?}");
    }
    assert_eq!(s.view(&parent).node("opt/a/b").unwrap().owner, (0, 0));
    Ok(())
}

/// moby #27298: the owner of a directory through three layers with a delete and a remake.
fn owner_of_a_remade_directory_is_the_new_one(s: &Setup) -> Outcome {
    let first = s.parent(&tree! { "dir" => dir().owner(1, 1), "dir/f" => file("") });
    let second = s.child(&first, |root| fs::remove_dir_all(root.join("dir")).unwrap());
    let third = s.child(&second, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        lchown(root.join("dir"), Some(2), Some(3)).unwrap();
    });
    let fourth = s.child(&third, |root| fs::write(root.join("dir/g"), "").unwrap());
    let view = s.view(&fourth);
    assert_eq!(view.node("dir").unwrap().owner, (2, 3));
    assert!(view.node("dir/f").is_none());
    Ok(())
}

/// moby #25409: renames of what lies in a lower layer.
fn renamed_directory_keeps_its_content(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&base()));
    s.edit(&fork.tree, |root| move_tree(&root.join("etc"), &root.join("config")));
    let view = s.view(&fork.tree);
    assert!(view.node("etc").is_none());
    assert_eq!(view.node("config"), base().node("etc"));
    assert_eq!(view.node("config/passwd"), base().node("etc/passwd"));
    assert_eq!(view.node("config/alternatives/vi"), base().node("etc/alternatives/vi"));
    s.assert_changes(
        &fork,
        &[
            r#"A "config" Directory "#,
            r#"A "config/alternatives" Directory "#,
            r#"A "config/alternatives/vi" Symlink "#,
            r#"A "config/passwd" File "#,
            r#"D "etc" Directory "#,
        ],
    );
    Ok(())
}

fn rename_over_a_file_replaces_it(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&base()));
    s.edit(&fork.tree, |root| {
        fs::rename(root.join("bin/sh"), root.join("etc/passwd")).unwrap();
        fs::rename(root.join("etc/alternatives/vi"), root.join("vi")).unwrap();
    });
    let view = s.view(&fork.tree);
    assert_eq!(view.node("etc/passwd"), base().node("bin/sh"));
    // A delta has a copy of the moved file, elsewhere it still is the inode of its other name.
    let passwd = if s.makes_deltas() {
        r#"C "etc/passwd" File content,mode"#
    } else {
        r#"C "etc/passwd" File content,mode,links"#
    };
    s.assert_changes(
        &fork,
        &[
            r#"C "bin/ash" File links"#,
            r#"D "bin/sh" File "#,
            r#"D "etc/alternatives/vi" Symlink "#,
            passwd,
            r#"A "vi" Symlink "#,
        ],
    );
    Ok(())
}

fn moved_then_linked_file_survives_its_source(s: &Setup) -> Outcome {
    let first = s.parent(&tree! { "dir" => dir(), "dir/x" => file("x") });
    let second = s.child(&first, |root: &Path| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("other")).unwrap();
        fs::write(root.join("other/x"), "x").unwrap();
    });
    let third = s.child(&second, |root| {
        fs::hard_link(root.join("other/x"), root.join("linked")).unwrap();
        fs::remove_file(root.join("other/x")).unwrap();
    });
    let view = s.view(&s.fork(&third).tree);
    assert_eq!(view.node("linked").unwrap().content, file("x").content);
    assert!(view.node("other/x").is_none() && view.node("dir").is_none());
    Ok(())
}

fn check_finds_nothing_wrong(s: &Setup) -> Outcome {
    let parent = s.parent(&base());
    assert_eq!(s.backend.check(&parent, true).unwrap(), []);
    let fork = s.fork(&parent);
    assert_eq!(s.backend.check(&fork.tree, false).unwrap(), []);
    let (snapshot, _) = s.snapshot(&fork);
    assert_eq!(s.backend.check(&snapshot, true).unwrap(), []);
    fs::remove_dir_all(fork.tree.fs()).unwrap();
    let findings = s.backend.check(&fork.tree, false).unwrap();
    assert!(findings.iter().any(|finding| finding.path.starts_with(&fork.tree.slot)), "{findings:?}");
    assert_eq!(s.changes(&s.fork(&parent), DiffOptions::default()), []);
    Ok(())
}
