//! Deep stacks, and trees of one form forked by a backend that makes the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootling_backends::{DiffOptions, Dir, Form, Overlay, Tree};

use crate::cases::{Case, case};
use crate::setup::Setup;
use crate::support::host::FileSystem;
use crate::support::require::{Outcome, Skip};
use crate::support::tree::{TreeValue, dir, file, link, tree};

pub(crate) const CASES: &[Case] = &[
    case!(stack_200_deep),
    case!(stack_past_the_limit_is_flattened),
    case!(other_backends_fork_its_trees),
    case!(a_tree_of_thousands_of_levels_is_like_any_other),
];

/// Forks `depth` times; every level adds a file, removes the one of five levels before and remakes a directory.
fn grow(s: &Setup, parent: Tree, depth: usize) -> Tree {
    (0..depth).fold(parent, |parent, level| s.child(&parent, |root| change_level(root, level)))
}

fn change_level(root: &Path, level: usize) {
    fs::write(root.join(format!("level-{level}")), format!("{level}")).unwrap();
    if level >= 5 {
        fs::remove_file(root.join(format!("level-{}", level - 5))).unwrap();
    }
    fs::remove_dir_all(root.join("remade")).unwrap();
    fs::create_dir(root.join("remade")).unwrap();
    fs::write(root.join(format!("remade/{level}")), "").unwrap();
    fs::write(root.join("same"), format!("{level}")).unwrap();
}

fn bottom() -> TreeValue {
    tree! { "remade" => dir(), "remade/first" => file(""), "same" => file(""), "untouched" => file("bottom") }
}

fn assert_grown(s: &Setup, tree: &Tree, depth: usize) {
    let view = s.view(tree);
    let mut expected = vec!["".to_owned(), "remade".to_owned(), format!("remade/{}", depth - 1)];
    expected.extend(["same".to_owned(), "untouched".to_owned()]);
    expected.extend((depth - 5..depth).map(|level| format!("level-{level}")));
    expected.sort();
    let found: Vec<String> = view.iter().map(|(path, _)| path.to_str().unwrap().to_owned()).collect();
    let mut found = found;
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(view.node("same").unwrap().content, file(format!("{}", depth - 1)).content);
    assert_eq!(view.node("untouched"), bottom().node("untouched"));
}

/// Deeper than files may be open at once and than a path may be long: no walk may keep the way open.
fn a_tree_of_thousands_of_levels_is_like_any_other(s: &Setup) -> Outcome {
    // Opening by path costs the depth: the deepest only where that is cheapest.
    let depth = if s.file_system == FileSystem::Tmpfs { 3000 } else { 1100 };
    let fork = s.fork(&s.parent(&tree! { "deep" => dir(), "file" => file("") }));
    s.edit(&fork.tree, |root| {
        let mut dir = Dir::open(root.join("deep")).unwrap();
        for _ in 0..depth {
            dir.make_dir("deep", 0o755).unwrap();
            dir = dir.open_dir("deep").unwrap();
        }
        dir.create_file("leaf", 0o644).unwrap();
    });
    assert_eq!(s.changes(&fork, DiffOptions::default()).len(), depth + 1);
    let (copy, _) = s.snapshot(&fork);
    s.backend.seal(&copy).unwrap();
    let next = s.fork(&copy);
    s.edit(&next.tree, |root| {
        let path: PathBuf = std::iter::repeat_n("deep", depth + 1).collect();
        let bottom = Dir::open(root).unwrap().open_deep(&path).unwrap();
        bottom.unlink("leaf").unwrap();
    });
    let changes = s.changes(&next, DiffOptions::default());
    assert_eq!(changes.len(), 1, "{:?}", changes.first());
    assert!(s.backend.footprint(&copy).unwrap().entries > depth as u64);
    for tree in [next.tree, copy, fork.tree] {
        s.backend.reap(&tree.slot).unwrap();
    }
    Ok(())
}

/// moby's and containerd's 128 layers, and more: also what another backend forks from the top.
fn stack_200_deep(s: &Setup) -> Outcome {
    let top = grow(s, s.parent(&bottom()), 200);
    assert_grown(s, &top, 200);
    for other in &s.all {
        let other = s.with(other);
        let fork = other.fork(&top);
        assert_grown(&other, &fork.tree, 200);
        other.edit(&fork.tree, |root| fs::remove_file(root.join("untouched")).unwrap());
        other.assert_changes(&fork, &[r#"D "untouched" File "#]);
    }
    Ok(())
}

/// OverlayFS takes 500 layers: beyond that a fork has to make a full tree again.
fn stack_past_the_limit_is_flattened(s: &Setup) -> Outcome {
    if !s.makes_deltas() {
        return Err(Skip::because("its trees are full: there is no limit to pass"));
    }
    let depth = Overlay::LIMIT + 10;
    let mut tree = s.parent(&bottom());
    let mut flattened = 0;
    for level in 0..depth {
        tree = s.child(&tree, |root| change_level(root, level));
        flattened += usize::from(tree.form == Form::Full);
        assert!(tree.layers().len() <= Overlay::LIMIT, "{} layers at level {level}", tree.layers().len());
    }
    assert!(flattened >= 1, "no fork was flattened");
    assert_grown(s, &tree, depth);
    Ok(())
}

fn other_backends_fork_its_trees(s: &Setup) -> Outcome {
    let value = tree! {
        "a" => dir().mode(0o700).owner(7, 8), "a/f" => file("f").xattr("trusted.x", b"y"), "a/g" => link("a/f"),
        "gone" => dir(), "gone/x" => file("x"),
    };
    let parent = s.parent(&value);
    let child = s.child(&parent, |root| {
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::create_dir(root.join("gone")).unwrap();
        fs::write(root.join("a/h"), "h").unwrap();
    });
    let expected = s.view(&child);
    for other in s.all.iter().map(Arc::clone) {
        let other = s.with(&other);
        let fork = other.fork(&child);
        other.assert_view(&fork.tree, &expected, &format!("fork by {}", other.backend.kind()));
        other.assert_changes(&fork, &[]);
        let grandchild = other.child(&fork.tree, |root| fs::remove_file(root.join("a/h")).unwrap());
        let back = s.fork(&grandchild);
        assert!(s.view(&back.tree).node("a/h").is_none(), "through {}", other.backend.kind());
        s.assert_view(&back.tree, &other.view(&grandchild), "forked there and back");
    }
    Ok(())
}
