//! What keeping trees for containerd is to cost.

use super::{Verdict, is_ours, places, together};
use crate::samples::{Key, Samples};

/// What is measured, and what it is called in the verdict.
const WORK: [(&str, &str); 7] = [
    ("snapshotter-prepare", "prepare"),
    ("snapshotter-usage", "usage"),
    ("snapshotter-walk", "walk"),
    ("snapshotter-commit-durable", "commit"),
    ("snapshotter-remove", "remove"),
    ("snapshotter-pull-durable", "pull"),
    ("snapshotter-start", "start"),
];

/// Judges them all.
pub(super) fn judge(samples: &Samples) -> Vec<Verdict> {
    vec![own_ground(samples), layer(samples)]
}

/// Returns the snapshotter of containerd's that does the same by the same means.
fn ground(contender: &str) -> Option<&'static str> {
    match contender {
        "rootling overlay" => Some("containerd overlayfs"),
        "rootling btrfs" => Some("containerd btrfs"),
        "rootling reflink" | "rootling copy" => Some("containerd native"),
        _ => None,
    }
}

fn own_ground(samples: &Samples) -> Verdict {
    let mut all = Vec::new();
    for (file_system, tree) in places() {
        for key in samples.keys().iter().filter(|key| key.file_system == file_system && key.tree == tree) {
            let Some((_, what)) = WORK.iter().find(|(case, _)| *case == key.case) else { continue };
            let Some(peer) = ground(&key.contender) else { continue };
            let median = |who: &str| samples.median(key.case, file_system, tree, who);
            if let (Some(ours), Some(theirs)) = (median(&key.contender), median(peer)) {
                let text = format!("{file_system} {} {what} {ours:.2} ms, {peer} {theirs:.2}", key.contender);
                all.push((ours < theirs, text));
            }
        }
    }
    together(
        "containerd's trees: each of its own snapshotters is beaten on its own ground, all of it durable",
        &all,
    )
}

/// Reading 50,000 files takes a multiple of this.
fn layer(samples: &Samples) -> Verdict {
    let counts = |key: &Key| key.case == "snapshotter-layer" && is_ours(&key.contender);
    super::each_below(
        samples,
        "commit of a layer of 50,000 files does not read it: less than 50 ms",
        counts,
        (50.0, "ms"),
        |summary| summary.median,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn each_is_compared_with_who_does_the_same_by_the_same_means() {
        let mut samples = Samples::new(Path::new("/x"));
        let mut add = |case, contender: &str, value| {
            let key = Key { case, file_system: "xfs", tree: "minbase", contender: contender.to_owned() };
            samples.add(key, 1, value);
        };
        add("snapshotter-prepare", "rootling overlay", 2.0);
        add("snapshotter-prepare", "rootling reflink", 8.0);
        add("snapshotter-prepare", "containerd overlayfs", 3.0);
        add("snapshotter-prepare", "containerd native", 90.0);
        add("snapshotter-layer", "rootling reflink", 51.0);
        let met = |samples: &Samples| judge(samples).iter().map(|verdict| verdict.met).collect::<Vec<_>>();
        assert_eq!(met(&samples), [Some(true), Some(false)]);
        let key = Key {
            case: "snapshotter-prepare",
            file_system: "xfs",
            tree: "minbase",
            contender: "containerd btrfs".to_owned(),
        };
        samples.add(key.clone(), 1, 2.0);
        assert_eq!(met(&samples)[0], Some(true), "it is no peer of these");
        samples.add(Key { contender: "rootling btrfs".to_owned(), ..key }, 1, 3.0);
        assert_eq!(met(&samples)[0], Some(false));
    }
}
