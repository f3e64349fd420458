//! Making one tree what another is: whatever the two are, wholly or in part, once or again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rootling_backends::compare::diff_trees;
use rootling_backends::patch::patch;
use rootling_backends::sys::{FS_APPEND_FL, FS_IMMUTABLE_FL, inode_flags};
use rootling_backends::within::within;
use rootling_backends::{Change, CloneMode, DiffOptions, Dir, ErrorKind, Tree};

use crate::cases::{Case, case};
use crate::removal::{clear_flags, set_flag};
use crate::setup::{Setup, assert_error, with_seeds};
use crate::support::compare::{assert_tree_eq, lines};
use crate::support::ops::Walk;
use crate::support::require::Outcome;
use crate::support::rng::Rng;
use crate::support::tree::{NOBODY, Node, TreeValue, acl, dir, fifo, file, link, sparse, symlink, tree};

pub(crate) const CASES: &[Case] = &[
    case!(random_trees_become_each_other),
    case!(parts_of_a_tree_become_the_others),
    case!(hard_links_over_directories_are_joined_and_parted),
    case!(attributes_alone_are_given_in_place),
    case!(acls_alone_are_given_in_place),
    case!(default_acls_colour_nothing_that_is_made),
    case!(flags_in_the_way_go_and_directories_on_the_way_keep_theirs),
    case!(sparse_files_keep_their_holes),
    case!(mounts_are_refused_before_anything_is_changed),
    case!(nothing_is_followed),
];

const ROUNDS: u64 = 4;

pub(crate) fn changes(target: &Dir, source: &Dir) -> Vec<Change> {
    diff_trees(target, source, DiffOptions { times: true }).unwrap()
}

/// Makes the tree at `root` what `source` is.
pub(crate) fn turn_into(root: &Path, source: &Dir) {
    let target = Dir::open(root).unwrap();
    let found = changes(&target, source);
    patch(&found, source, &target, &CloneMode::Auto.into()).unwrap();
    assert_eq!(lines(&changes(&target, source)), Vec::<String>::new(), "after one patch");
    assert_tree_eq(&TreeValue::read(&target).unwrap(), &TreeValue::read(source).unwrap(), "after one patch");
    patch(&found, source, &target, &CloneMode::Auto.into()).unwrap();
    assert_tree_eq(&TreeValue::read(&target).unwrap(), &TreeValue::read(source).unwrap(), "after the second");
}

/// Returns a sealed random tree, and what it should be.
fn grown(s: &Setup, rng: &mut Rng) -> (Tree, TreeValue) {
    let tree = s.create(&TreeValue::empty());
    let mut walk = Walk::new(s.view(&tree), false, Rng::new(rng.next()));
    s.edit(&tree, |root| walk.run(root, 120));
    s.backend.seal(&tree).unwrap();
    (tree, walk.value)
}

fn each_seed(one: impl Fn(&mut Rng)) -> Outcome {
    with_seeds(ROUNDS, |seed| one(&mut Rng::new(seed)))
}

/// A fork becomes its parent again, and then a tree that it has nothing to do with.
fn random_trees_become_each_other(s: &Setup) -> Outcome {
    each_seed(|rng| {
        let ((parent, value), (stranger, _)) = (grown(s, rng), grown(s, rng));
        let fork = s.fork(&parent);
        let mut walk = Walk::new(value, s.makes_deltas(), Rng::new(rng.next()));
        s.edit(&fork.tree, |root| walk.run(root, 60));
        for source in [&parent, &stranger, &parent] {
            let source = s.root(source);
            s.edit(&fork.tree, |root| turn_into(root, &source));
        }
        s.assert_changes_exact(&fork);
    })
}

fn parts_of_a_tree_become_the_others(s: &Setup) -> Outcome {
    each_seed(|rng| {
        let ((parent, _), (stranger, _)) = (grown(s, rng), grown(s, rng));
        let (fork, source) = (s.fork(&parent), s.root(&stranger));
        for _ in 0..4 {
            s.edit(&fork.tree, |root| some_become(&Dir::open(root).unwrap(), &source, rng));
        }
    })
}

/// Takes a few changed paths over and nothing else.
fn some_become(target: &Dir, source: &Dir, rng: &mut Rng) {
    let before = TreeValue::read(target).unwrap();
    let expected = TreeValue::read(source).unwrap();
    let all = changes(target, source);
    let paths: Vec<PathBuf> = (0..3)
        .filter_map(|_| rng.pick(&all))
        .map(|change| change.path.clone())
        .filter(|path| path != Path::new(""))
        .collect();
    let some = within(all, &paths, target).unwrap();
    patch(&some, source, target, &CloneMode::Auto.into()).unwrap();
    let after = TreeValue::read(target).unwrap();
    let listed: BTreeSet<&Path> = some.iter().map(|change| change.path.as_path()).collect();
    let is_selected = |path: &Path| paths.iter().any(|chosen| path.starts_with(chosen));
    // What goes with a directory that must be one for a path below it.
    let is_listed = |path: &Path| path.ancestors().any(|above| listed.contains(above));
    for path in before.iter().chain(after.iter()).chain(expected.iter()).map(|(path, _)| path) {
        if is_selected(path) || listed.contains(path) {
            assert_eq!(after.node(path), expected.node(path), "selected {path:?} of {paths:?}");
        } else if !is_listed(path) {
            assert_eq!(after.node(path), before.node(path), "unselected {path:?} of {paths:?}");
        }
    }
}

fn hard_links_over_directories_are_joined_and_parted(s: &Setup) -> Outcome {
    let joined = s.parent(&tree! {
        "a" => dir(), "b" => dir(), "a/one" => file("same"), "b/two" => link("a/one"), "three" => link("a/one"),
        "x" => file("other"), "a/y" => file("other"),
    });
    let parted = s.parent(&tree! {
        "a" => dir(), "b" => dir(), "a/one" => file("same"), "b/two" => file("changed"), "c" => dir(),
        "c/four" => link("a/one"), "x" => file("third"), "a/y" => link("x"),
    });
    let fork = s.fork(&joined);
    for source in [&parted, &joined] {
        let source = s.root(source);
        s.edit(&fork.tree, |root| turn_into(root, &source));
    }
    // A name more for what a fork has of its parent: the names there are stay one inode.
    let more = s.parent(&tree! {
        "a" => dir(), "b" => dir(), "a/one" => file("same"), "b/two" => link("a/one"), "three" => link("a/one"),
        "four" => link("a/one"), "x" => file("other"), "a/y" => file("other"),
    });
    s.edit(&s.fork(&joined).tree, |root| turn_into(root, &s.root(&more)));
    // One name is changed and listed; the others come along.
    s.edit(&fork.tree, |root| {
        fs::remove_file(root.join("b/two")).unwrap();
        let (source, target) = (s.root(&joined), Dir::open(root).unwrap());
        let some = within(changes(&target, &source), &["b/two".into()], &target).unwrap();
        patch(&some, &source, &target, &CloneMode::Auto.into()).unwrap();
        let inode = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
        assert_eq!((inode("b/two"), inode("three")), (inode("a/one"), inode("a/one")));
    });
    Ok(())
}

fn attributes_alone_are_given_in_place(s: &Setup) -> Outcome {
    let plain =
        s.parent(&tree! { "etc" => dir(), "etc/file" => file("same"), "etc/link" => symlink("file") });
    let odd = s.parent(&tree! {
        "etc" => dir().xattr("user.d", b"1").mode(0o1777), "etc/link" => symlink("file").owner(3, 4),
        "etc/file" => file("same").xattr("user.f", b"2").mode(0o6711).owner(1, 2).mtime(-5, 6),
    });
    let target = s.create(&s.view(&plain));
    s.edit(&target, |root| {
        let inode = fs::metadata(root.join("etc/file")).unwrap().ino();
        for source in [&odd, &plain] {
            turn_into(root, &s.root(source));
            assert_eq!(fs::metadata(root.join("etc/file")).unwrap().ino(), inode);
        }
    });
    Ok(())
}

/// Lists that differ in a user, in being there, and in the mask that the group bits show.
fn acls_alone_are_given_in_place(s: &Setup) -> Outcome {
    let list =
        |user| acl(&[(1, 7, NOBODY), (2, 5, user), (4, 0, NOBODY), (0x10, 5, NOBODY), (0x20, 0, NOBODY)]);
    let value = |user: Option<u32>| {
        let with = |node: Node| match user {
            Some(user) => node.mode(0o750).xattr("system.posix_acl_access", &list(user)),
            None => node.mode(0o700),
        };
        tree! { "d" => with(dir()), "d/file" => with(file("same")), "d/pipe" => with(fifo()) }
    };
    let sources = [Some(7), Some(8), None, Some(7)].map(|user| s.parent(&value(user)));
    let target = s.create(&value(None));
    s.edit(&target, |root| {
        let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
        let (file, dir) = (inode("d/file"), inode("d"));
        for source in &sources {
            turn_into(root, &s.root(source));
            assert_eq!((inode("d/file"), inode("d")), (file, dir));
        }
    });
    Ok(())
}

/// What is made below has the source's lists and modes, none that the directory would give it.
fn default_acls_colour_nothing_that_is_made(s: &Setup) -> Outcome {
    let default = acl(&[(1, 7, NOBODY), (2, 5, 1), (4, 5, NOBODY), (0x10, 5, NOBODY), (0x20, 5, NOBODY)]);
    let set = || dir().mode(0o2755).xattr("system.posix_acl_default", &default);
    let full = s.parent(&tree! {
        "d" => set(), "d/file" => file("file").mode(0o666), "d/dir" => dir().mode(0o777), "d/pipe" => fifo(),
        "d/link" => symlink("file"), "d/dir/deep" => file("").mode(0o600), "d/kept" => file("new"),
    });
    let bare = s.parent(&tree! { "d" => set(), "d/kept" => file("old") });
    let plain = s.parent(&tree! { "d" => dir() });
    let target = s.create(&s.view(&bare));
    s.edit(&target, |root| {
        for source in [&full, &plain, &full, &bare] {
            turn_into(root, &s.root(source));
        }
    });
    Ok(())
}

fn flags_in_the_way_go_and_directories_on_the_way_keep_theirs(s: &Setup) -> Outcome {
    let value = |text: &str, mode| {
        tree! {
            "way" => dir(), "way/replaced" => file(text), "way/same" => file("same"), "way/mode" => file("mode").mode(mode),
            "way/linked" => file("linked"), "append" => dir(), "append/file" => file(text),
        }
    };
    let old = value("old", 0o600);
    let mut new = value("new", 0o755);
    new.link(Path::new("way/linked"), "way/further".into());
    let source = s.parent(&new);
    let mut gone = old.clone();
    gone.insert("way/gone", file("gone"));
    gone.insert("way/gone-too", dir());
    gone.insert("way/gone-too/file", file("gone"));
    let target = s.create(&gone);
    let flags = |path: PathBuf| {
        inode_flags(File::open(path).unwrap().as_fd()).unwrap() & (FS_IMMUTABLE_FL | FS_APPEND_FL)
    };
    s.edit(&target, |root| {
        let immutable = ["replaced", "same", "mode", "linked", "gone", "gone-too/file", "gone-too", ""];
        for name in immutable {
            set_flag(&root.join("way").join(name), FS_IMMUTABLE_FL)?;
        }
        set_flag(&root.join("append"), FS_APPEND_FL)?;
        turn_into(root, &s.root(&source));
        let found = ["way", "append", "way/same", "way/replaced"].map(|path| flags(root.join(path)));
        for path in ["way", "append", "way/same"] {
            clear_flags(&root.join(path));
        }
        assert_eq!(found, [FS_IMMUTABLE_FL, FS_APPEND_FL, FS_IMMUTABLE_FL, 0]);
        Ok(())
    })
}

fn sparse_files_keep_their_holes(s: &Setup) -> Outcome {
    let source = s.parent(&tree! { "disk" => sparse(1 << 20, &[(0, b"start"), (900_000, b"end")]) });
    let target = s.create(&tree! { "disk" => file("small") });
    s.edit(&target, |root| turn_into(root, &s.root(&source)));
    Ok(())
}

fn mounts_are_refused_before_anything_is_changed(s: &Setup) -> Outcome {
    let source = s.parent(&tree! { "a" => file("new"), "way" => dir(), "way/file" => file("new") });
    let target = s.create(&tree! {
        "a" => file("old"), "gone" => dir(), "gone/deep" => dir(), "gone/deep/mount" => dir(), "way" => dir(),
    });
    s.edit(&target, |root| {
        for place in ["gone/deep/mount", "way"] {
            let at = root.join(place);
            nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
                .unwrap();
            let (source, open) = (s.root(&source), Dir::open(root).unwrap());
            let result = patch(&changes(&open, &source), &source, &open, &CloneMode::Auto.into());
            nix::mount::umount(&at).unwrap();
            assert_error(result, &[ErrorKind::Busy], place);
            assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "old");
        }
    });
    Ok(())
}

/// A link where the source has a directory leads nowhere: it is replaced.
fn nothing_is_followed(s: &Setup) -> Outcome {
    let source = s.parent(
        &tree! { "etc" => dir(), "etc/file" => file("new"), "etc/deep" => dir(), "etc/deep/x" => file("x") },
    );
    let outside = tempfile::tempdir_in(&s.scratch).unwrap();
    fs::write(outside.path().join("file"), "untouched").unwrap();
    let target = s.create(&TreeValue::empty());
    s.edit(&target, |root| {
        std::os::unix::fs::symlink(outside.path(), root.join("etc")).unwrap();
        turn_into(root, &s.root(&source));
    });
    assert_eq!(fs::read_to_string(outside.path().join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    Ok(())
}
