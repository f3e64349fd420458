//! What the states of boxes are to cost.

use super::{TREES, Verdict, places, together};
use crate::samples::Samples;

/// Judges them all.
pub(super) fn judge(samples: &Samples) -> Vec<Verdict> {
    let beside_podman = |aim, case, file_systems, kind, times| {
        times_faster(samples, aim, case, Rivals { file_systems, kind, times })
    };
    vec![
        beside_podman(
            "on btrfs a snapshot takes a hundredth of the commit of podman's btrfs driver",
            "snapshot-10",
            &["btrfs"],
            "btrfs",
            100.0,
        ),
        beside_podman(
            "on btrfs a diff takes a fiftieth of that of podman's btrfs driver",
            "diff-10",
            &["btrfs"],
            "btrfs",
            50.0,
        ),
        beside_podman(
            "on ext4 and XFS a snapshot of an overlay box takes a tenth of the commit of podman's overlay driver",
            "snapshot-10",
            &["ext4", "xfs"],
            "overlay",
            10.0,
        ),
        beside_podman(
            "on ext4 and XFS a diff of an overlay box takes a fifth of that of podman's overlay driver",
            "diff-10",
            &["ext4", "xfs"],
            "overlay",
            5.0,
        ),
        reflink_snapshot(samples),
    ]
}

/// Who is compared with podman's driver of the same kind, and how much faster it is to be.
struct Rivals {
    file_systems: &'static [&'static str],
    kind: &'static str,
    times: f64,
}

fn times_faster(samples: &Samples, aim: &'static str, case: &'static str, rivals: Rivals) -> Verdict {
    let Rivals { file_systems, kind, times } = rivals;
    let all: Vec<_> = file_systems
        .iter()
        .flat_map(|file_system| TREES.iter().map(move |tree| (*file_system, *tree)))
        .filter_map(|(file_system, tree)| {
            let ours = samples.median(case, file_system, tree, &format!("rootling {kind}"))?;
            let theirs = samples.median(case, file_system, tree, &format!("podman {kind}"))?;
            let ratio = theirs / ours;
            let text =
                format!("{file_system} {tree} {ours:.1} ms, podman {theirs:.1}: {ratio:.1} times as fast");
            Some((ratio >= times, text))
        })
        .collect();
    together(aim, &all)
}

fn reflink_snapshot(samples: &Samples) -> Verdict {
    let aim = "a snapshot of a reflink box takes at most 20 ms more than a parallel stat walk";
    let all: Vec<_> = places()
        .filter_map(|(file_system, tree)| {
            let ours = samples.median("snapshot-10", file_system, tree, "rootling reflink")?;
            let walk = samples.median("snapshot-10", file_system, tree, "parallel stat walk")?;
            Some((ours <= walk + 20.0, format!("{file_system} {tree} {ours:.1} ms, walk {walk:.1}")))
        })
        .collect();
    together(aim, &all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Key;
    use std::path::Path;

    #[test]
    fn an_aim_is_met_where_it_is_met_everywhere() {
        let mut samples = Samples::new(Path::new("/x"));
        let mut add = |case, file_system, contender: &str, value| {
            let key = Key { case, file_system, tree: "large", contender: contender.to_owned() };
            samples.add(key, 1, value);
        };
        add("snapshot-10", "btrfs", "rootling btrfs", 10.0);
        add("snapshot-10", "btrfs", "podman btrfs", 1000.0);
        add("snapshot-10", "ext4", "rootling overlay", 10.0);
        add("snapshot-10", "ext4", "podman overlay", 200.0);
        add("snapshot-10", "xfs", "rootling overlay", 10.0);
        add("snapshot-10", "xfs", "podman overlay", 90.0);
        let met: Vec<_> = judge(&samples).iter().map(|verdict| verdict.met).collect();
        assert_eq!(met, [Some(true), None, Some(false), None, None]);
    }
}
