//! Comparing tree values: an assertion for people, and the list of changes that a backend must find.

use std::collections::BTreeSet;
use std::path::Path;

use rootling_backends::{Aspects, Change, ChangeKind, DiffOptions};

use super::tree::{Content, Node, TreeValue};

/// Fails with every path that differs.
#[track_caller]
pub(crate) fn assert_tree_eq(found: &TreeValue, expected: &TreeValue, what: &str) {
    let differences = differences(found, expected);
    assert!(
        differences.is_empty(),
        "{what}: {} differences\n  {}",
        differences.len(),
        differences.join("\n  ")
    );
}

/// Returns the first paths that differ, each with how.
pub(crate) fn differences(found: &TreeValue, expected: &TreeValue) -> Vec<String> {
    let (found_links, expected_links) = (found.first_names(), expected.first_names());
    let paths: BTreeSet<&Path> = found.iter().chain(expected.iter()).map(|(path, _)| path).collect();
    let one = |path: &Path| match (found.node(path), expected.node(path)) {
        (Some(_), None) => Some(format!("{path:?} should not be there")),
        (None, Some(node)) => Some(format!("{path:?} is missing: {node:?}")),
        (Some(found), Some(expected)) if found != expected => {
            Some(format!("{path:?}\n    is        {found:?}\n    should be {expected:?}"))
        }
        _ if found_links[path] != expected_links[path] => {
            let (found, expected) = (found_links[path], expected_links[path]);
            Some(format!("{path:?} is the inode of {found:?}, should be that of {expected:?}"))
        }
        _ => None,
    };
    paths.into_iter().filter_map(one).take(20).collect()
}

/// Returns what changed from `parent` to `child`, as a backend has to say it: sorted by the bytes of the paths.
pub(crate) fn diff(parent: &TreeValue, child: &TreeValue, options: DiffOptions) -> Vec<Change> {
    let paths: BTreeSet<&Path> = parent.iter().chain(child.iter()).map(|(path, _)| path).collect();
    let mut changes: Vec<Change> =
        paths.into_iter().filter_map(|path| change(parent, child, path, options)).collect();
    // By bytes, not by components: `a.b` comes between `a` and `a/b`.
    changes.sort_by(|one, other| one.path.as_os_str().cmp(other.path.as_os_str()));
    changes
}

fn change(parent: &TreeValue, child: &TreeValue, path: &Path, options: DiffOptions) -> Option<Change> {
    let of = |kind, node: &Node, aspects| Change {
        path: path.to_owned(),
        kind,
        entry_type: node.entry_type(),
        aspects,
    };
    match (parent.node(path), child.node(path)) {
        // What was below a directory that is gone, or is one no more, goes without saying.
        (Some(old), None) => {
            let stood_in = path.parent().and_then(|above| child.node(above));
            stood_in.filter(|node| node.is_dir()).map(|_| of(ChangeKind::Deleted, old, Aspects::default()))
        }
        (None, Some(new)) => Some(of(ChangeKind::Added, new, Aspects::default())),
        (Some(old), Some(new)) => {
            let mut aspects = aspects(old, new, options);
            aspects.links = !aspects.kind && !new.is_dir() && parent.names_at(path) != child.names_at(path);
            (!aspects.is_empty()).then(|| of(ChangeKind::Modified, new, aspects))
        }
        (None, None) => None,
    }
}

fn aspects(old: &Node, new: &Node, options: DiffOptions) -> Aspects {
    let kind = old.entry_type() != new.entry_type();
    let content = match (&old.content, &new.content) {
        (Content::File { bytes: old, .. }, Content::File { bytes: new, .. }) => old != new,
        (old, new) => old != new,
    };
    Aspects {
        kind,
        content: content && !kind,
        mode: old.mode != new.mode,
        owner: old.owner != new.owner,
        xattrs: old.xattrs != new.xattrs,
        links: false,
        times: options.times && old.mtime != new.mtime,
    }
}

/// Returns changes in one line each, for messages; where the type changed only that counts.
pub(crate) fn lines(changes: &[Change]) -> Vec<String> {
    let line = |change: &Change| {
        let aspects =
            if change.aspects.kind { Aspects { kind: true, ..Aspects::default() } } else { change.aspects };
        format!("{} {:?} {:?} {}", change.kind.letter(), change.path, change.entry_type, words(aspects))
    };
    changes.iter().map(line).collect()
}

fn words(aspects: Aspects) -> String {
    let named = [
        (aspects.kind, "kind"),
        (aspects.content, "content"),
        (aspects.mode, "mode"),
        (aspects.owner, "owner"),
        (aspects.xattrs, "xattrs"),
        (aspects.links, "links"),
        (aspects.times, "times"),
    ];
    named.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>().join(",")
}
