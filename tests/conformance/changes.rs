//! Finding what changed: exactly, whatever was done to hide it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink as make_symlink};
use std::path::Path;

use rootling_backends::{Baseline, DiffOptions, Dir, Times};

use crate::cases::{Case, case};
use crate::commands::move_tree;
use crate::setup::{Fork, Setup};
use crate::support::compare::lines;
use crate::support::require::Outcome;
use crate::support::tree::{NOBODY, acl, dir, file, link, symlink, tree};

pub(crate) const CASES: &[Case] = &[
    case!(unchanged_fork_has_no_changes),
    case!(names_that_move_with_their_directory_are_links_that_changed),
    case!(what_was_touched_is_never_called_untouched),
    case!(edit_with_the_old_time_put_back),
    case!(xattr_alone),
    case!(acl_alone),
    case!(touch_counts_only_with_times),
    case!(directory_moved_over_one_with_the_same_names),
    case!(file_replaced_by_directory_and_back),
    case!(directory_replaced_by_symlink),
    case!(hard_linked_file_edited_by_one_name),
    case!(hard_link_added_and_removed),
    case!(everything_removed),
    case!(added_tree_lists_every_entry),
    case!(undone_changes_are_none),
    case!(changed_link_target_and_sparse_growth),
    case!(lost_baseline_compares_everything),
];

fn fork_of_sample(s: &Setup) -> Fork {
    s.fork(&s.parent(&tree! {
        "etc" => dir(), "etc/passwd" => file("root:x"), "etc/link" => symlink("passwd"),
        "usr" => dir(), "usr/bin" => dir(), "usr/bin/tool" => file("tool").mode(0o755), "usr/bin/same" => file("same"),
        "usr/lib" => dir(), "usr/lib/tool" => file("library"), "usr/lib/same" => file("same"),
        "one" => file("linked"), "two" => link("one"),
    }))
}

fn unchanged_fork_has_no_changes(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.assert_changes(&fork, &[]);
    s.edit(&fork.tree, |root| drop(fs::read(root.join("etc/passwd")).unwrap()));
    s.assert_changes(&fork, &[]);
    Ok(())
}

/// A directory that moves takes names of inodes with it and touches none of these.
fn names_that_move_with_their_directory_are_links_that_changed(s: &Setup) -> Outcome {
    let parent = s.parent(&tree! { "dir" => dir(), "dir/name" => file("linked"), "top" => link("dir/name") });
    let fork = s.fork(&parent);
    s.edit(&fork.tree, |root| {
        // Not by rename: OverlayFS refuses that of a directory from below.
        fs::create_dir(root.join("moved")).unwrap();
        fs::rename(root.join("dir/name"), root.join("moved/name")).unwrap();
        fs::remove_dir(root.join("dir")).unwrap();
    });
    s.assert_changes_exact(&fork);
    let plain =
        s.fork(&s.parent(&tree! { "dir" => dir(), "dir/name" => file("x"), "top" => link("dir/name") }));
    if !s.makes_deltas() {
        s.edit(&plain.tree, |root| fs::rename(root.join("dir"), root.join("moved")).unwrap());
        let expected = [
            "D \"dir\" Directory ",
            "A \"moved\" Directory ",
            "A \"moved/name\" File ",
            "C \"top\" File links",
        ];
        s.assert_changes(&plain, &expected);
    }
    Ok(())
}

/// No may be said of a fork that nobody touched; yes never of one that somebody did, but for the time of the root alone.
fn what_was_touched_is_never_called_untouched(s: &Setup) -> Outcome {
    let untouched = |fork: &Fork| s.backend.is_untouched(&fork.tree, &fork.parent, &fork.baseline).unwrap();
    let edits: [fn(&Path); 4] = [
        |root| fs::write(root.join("etc/passwd"), "evil:x").unwrap(),
        |root| fs::remove_file(root.join("one")).unwrap(),
        |root| fs::set_permissions(root, fs::Permissions::from_mode(0o700)).unwrap(),
        |root| {
            fs::File::open(root.join("usr/bin/tool")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap()
        },
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let fork = fork_of_sample(s);
        untouched(&fork);
        s.edit(&fork.tree, edit);
        assert!(!untouched(&fork), "edit {number} was not seen");
    }
    let fork = fork_of_sample(s);
    if s.backend.capabilities().constant_time_fork && fork.baseline != Baseline::None {
        assert!(untouched(&fork), "{:?} is as it was forked", fork.tree);
    }
    Ok(())
}

/// snapper and containerd take an equal mtime for equal content.
fn edit_with_the_old_time_put_back(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        let etc = Dir::open(root.join("etc")).unwrap();
        let times = Times::of(&etc.stat("passwd").unwrap());
        fs::write(root.join("etc/passwd"), "evil:x").unwrap();
        etc.set_times("passwd", times).unwrap();
    });
    s.assert_changes(&fork, &[r#"C "etc/passwd" File content"#]);
    Ok(())
}

fn xattr_alone(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        Dir::open(root.join("etc")).unwrap().set_xattr("passwd", "user.a".as_ref(), b"1").unwrap();
        Dir::open(root).unwrap().set_xattr("usr", "trusted.b".as_ref(), b"2").unwrap();
    });
    s.assert_changes(&fork, &[r#"C "etc/passwd" File xattrs"#, r#"C "usr" Directory xattrs"#]);
    Ok(())
}

fn acl_alone(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    // rw- owner, r-- user 1000, r-- group, r-- mask, r-- other: the mode stays 0644.
    let list = acl(&[(1, 6, NOBODY), (2, 4, 1000), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 4, NOBODY)]);
    s.edit(&fork.tree, |root| {
        let etc = Dir::open(root.join("etc")).unwrap();
        etc.set_xattr("passwd", "system.posix_acl_access".as_ref(), &list).unwrap();
    });
    s.assert_changes(&fork, &[r#"C "etc/passwd" File xattrs"#]);
    Ok(())
}

fn touch_counts_only_with_times(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        let etc = Dir::open(root.join("etc")).unwrap();
        etc.set_times("passwd", Times { accessed: (5, 5), modified: (5, 5) }).unwrap();
    });
    s.assert_changes(&fork, &[]);
    let found = lines(&s.changes(&fork, DiffOptions { times: true }));
    assert_eq!(found, [r#"C "etc/passwd" File times"#]);
    Ok(())
}

fn directory_moved_over_one_with_the_same_names(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        fs::remove_dir_all(root.join("usr/lib")).unwrap();
        move_tree(&root.join("usr/bin"), &root.join("usr/lib"));
    });
    s.assert_changes(&fork, &[r#"D "usr/bin" Directory "#, r#"C "usr/lib/tool" File content,mode"#]);
    Ok(())
}

fn file_replaced_by_directory_and_back(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        fs::remove_file(root.join("etc/passwd")).unwrap();
        fs::create_dir(root.join("etc/passwd")).unwrap();
        fs::write(root.join("etc/passwd/x"), "x").unwrap();
        fs::remove_dir_all(root.join("usr/lib")).unwrap();
        fs::write(root.join("usr/lib"), "a file").unwrap();
    });
    s.assert_changes(
        &fork,
        &[r#"C "etc/passwd" Directory kind"#, r#"A "etc/passwd/x" File "#, r#"C "usr/lib" File kind"#],
    );
    Ok(())
}

fn directory_replaced_by_symlink(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        move_tree(&root.join("usr/bin"), &root.join("bin"));
        make_symlink("../bin", root.join("usr/bin")).unwrap();
    });
    s.assert_changes(
        &fork,
        &[
            r#"A "bin" Directory "#,
            r#"A "bin/same" File "#,
            r#"A "bin/tool" File "#,
            r#"C "usr/bin" Symlink kind"#,
        ],
    );
    Ok(())
}

/// In a delta the edited name parts from the other (copy-up), elsewhere both change: either way exactly that is reported.
fn hard_linked_file_edited_by_one_name(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| fs::write(root.join("two"), "edited").unwrap());
    if s.makes_deltas() {
        s.assert_changes(&fork, &[r#"C "one" File links"#, r#"C "two" File content,links"#]);
    } else {
        s.assert_changes(&fork, &[r#"C "one" File content"#, r#"C "two" File content"#]);
    }
    Ok(())
}

fn hard_link_added_and_removed(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        fs::hard_link(root.join("etc/passwd"), root.join("etc/shadow")).unwrap();
        fs::remove_file(root.join("one")).unwrap();
    });
    let expected = [
        r#"C "etc/passwd" File links"#,
        r#"A "etc/shadow" File "#,
        r#"D "one" File "#,
        r#"C "two" File links"#,
    ];
    s.assert_changes(&fork, &expected);
    Ok(())
}

fn everything_removed(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root: &Path| {
        for path in ["etc", "usr"] {
            fs::remove_dir_all(root.join(path)).unwrap();
        }
        fs::remove_file(root.join("one")).unwrap();
        fs::remove_file(root.join("two")).unwrap();
    });
    s.assert_changes(
        &fork,
        &[r#"D "etc" Directory "#, r#"D "one" File "#, r#"D "two" File "#, r#"D "usr" Directory "#],
    );
    Ok(())
}

fn added_tree_lists_every_entry(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        fs::create_dir_all(root.join("opt/a/b")).unwrap();
        fs::write(root.join("opt/a/f"), "").unwrap();
    });
    let expected = [
        r#"A "opt" Directory "#,
        r#"A "opt/a" Directory "#,
        r#"A "opt/a/b" Directory "#,
        r#"A "opt/a/f" File "#,
    ];
    s.assert_changes(&fork, &expected);
    Ok(())
}

fn undone_changes_are_none(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        fs::write(root.join("etc/passwd"), "other").unwrap();
        fs::write(root.join("etc/passwd"), "root:x").unwrap();
        fs::set_permissions(root.join("usr"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(root.join("usr"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(root.join("usr/bin/same")).unwrap();
        fs::write(root.join("usr/bin/same"), "same").unwrap();
        fs::set_permissions(root.join("usr/bin/same"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(root.join("etc/link"), root.join("etc/moved")).unwrap();
        fs::rename(root.join("etc/moved"), root.join("etc/link")).unwrap();
    });
    s.assert_changes(&fork, &[]);
    Ok(())
}

fn changed_link_target_and_sparse_growth(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| {
        fs::remove_file(root.join("etc/link")).unwrap();
        make_symlink("shadow", root.join("etc/link")).unwrap();
        fs::OpenOptions::new().write(true).open(root.join("usr/bin/tool")).unwrap().set_len(1 << 20).unwrap();
    });
    s.assert_changes(&fork, &[r#"C "etc/link" Symlink content"#, r#"C "usr/bin/tool" File content"#]);
    Ok(())
}

fn lost_baseline_compares_everything(s: &Setup) -> Outcome {
    let fork = fork_of_sample(s);
    s.edit(&fork.tree, |root| fs::write(root.join("etc/passwd"), "ROOT:X").unwrap());
    let blind = Fork { baseline: Baseline::None, ..fork };
    s.assert_changes(&blind, &[r#"C "etc/passwd" File content"#]);
    Ok(())
}
