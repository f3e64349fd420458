//! What rootling wants to be, and whether it is. An aim that was not measured is said to be so.

mod build;
mod history;
mod images;
mod snapshotter;

use crate::cases::{SCALE_ENTER, SCALE_FORK, SCALE_LEAK, SCALE_LOG, SCALE_LS};
use crate::samples::{Key, Samples};
use crate::stats::Summary;

/// One aim and how it went.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) aim: &'static str,
    /// `None`: not measured in this run.
    pub(crate) met: Option<bool>,
    /// The numbers behind it.
    pub(crate) because: String,
}

const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];
const TREES: [&str; 2] = ["minbase", "large"];

/// Judges all aims by medians.
pub(crate) fn judge(samples: &Samples) -> Vec<Verdict> {
    let mut verdicts = vec![
        reflink_fork(samples),
        overlay_fork(samples),
        btrfs_fork(samples),
        run_time(samples),
        start_beside_bwrap(samples),
        start_beside_crun(samples),
        start_calls(samples),
        waiting_memory(samples),
        btrfs_changes(samples),
        scale(samples),
        leak(samples),
    ];
    verdicts.extend(history::judge(samples));
    verdicts.extend(images::judge(samples));
    verdicts.extend(build::judge(samples));
    verdicts.extend(snapshotter::judge(samples));
    verdicts
}

fn reflink_fork(samples: &Samples) -> Verdict {
    let aim =
        "a reflink fork takes half the time of `cp -a --reflink=always`, on XFS with two cores, minbase";
    let key = |contender: &str| Key {
        case: "fork",
        file_system: "xfs",
        tree: "minbase",
        contender: contender.to_owned(),
    };
    let (ours, cp) =
        (samples.summary(&key("rootling reflink")), samples.summary(&key("cp -a --reflink=always")));
    verdict(
        aim,
        ours.zip(cp).map(|(ours, cp)| {
            let text = format!(
                "{:.1} ms, cp {:.1} ms: {:.2} times as fast (the least of each: {:.1} and {:.1} ms, {:.2})",
                ours.median,
                cp.median,
                cp.median / ours.median,
                ours.min,
                cp.min,
                cp.min / ours.min
            );
            (cp.median >= 2.0 * ours.median, text)
        }),
    )
}

fn overlay_fork(samples: &Samples) -> Verdict {
    let aim = "an overlay fork takes less than 2 ms, everywhere";
    let all: Vec<_> = places()
        .filter_map(|(file_system, tree)| {
            let median = samples.median("fork", file_system, tree, "rootling overlay")?;
            Some((median < 2.0, format!("{file_system} {tree} {median:.2} ms")))
        })
        .collect();
    together(aim, &all)
}

fn btrfs_fork(samples: &Samples) -> Verdict {
    let aim = "a btrfs fork takes at most 1 ms more than the bare ioctl";
    let all: Vec<_> = TREES
        .iter()
        .filter_map(|tree| {
            let ours = samples.median("fork", "btrfs", tree, "rootling btrfs")?;
            let bare = samples.median("fork", "btrfs", tree, "bare ioctl")?;
            Some((ours - bare <= 1.0, format!("{tree}: {ours:.2} ms, ioctl {bare:.2} ms")))
        })
        .collect();
    together(aim, &all)
}

fn run_time(samples: &Samples) -> Verdict {
    let aim = "`run … true` on overlay in the host's network takes at most 1.5 times as long as bwrap with the same namespaces";
    verdict(aim, beside(samples, "run", "ms", "bwrap", |ours, peer| ours <= 1.5 * peer))
}

fn start_beside_bwrap(samples: &Samples) -> Verdict {
    let aim = "`run --net none … true` on overlay, all walls, takes at most 1.3 times as long as `bwrap --unshare-all`";
    verdict(aim, beside(samples, "start", "ms", "bwrap", |ours, peer| ours <= 1.3 * peer))
}

fn start_beside_crun(samples: &Samples) -> Verdict {
    let aim = "`run --net none … true` on overlay, all walls, is faster than `crun run` of a ready bundle";
    verdict(aim, beside(samples, "start", "ms", "crun run", |ours, peer| ours < peer))
}

fn start_calls(samples: &Samples) -> Verdict {
    let aim = "`run --net none … true` on overlay makes fewer than 300 system calls, the command's included";
    verdict(aim, beside(samples, "syscalls", "calls", "bwrap", |ours, _| ours < 300.0))
}

fn waiting_memory(samples: &Samples) -> Verdict {
    let aim = "who waits for a command holds less than 6 MB (5.72 MiB), at its highest";
    verdict(aim, beside(samples, "peak", "MiB", "bwrap", |ours, _| ours < 6e6 / f64::from(1 << 20)))
}

fn beside(
    samples: &Samples,
    case: &'static str,
    unit: &str,
    peer: &str,
    met: fn(f64, f64) -> bool,
) -> Option<(bool, String)> {
    let all: Vec<_> = places()
        .filter_map(|(file_system, tree)| {
            let of = |who: &str| samples.summary(&Key { case, file_system, tree, contender: who.to_owned() });
            let (ours, theirs) = (of("rootling overlay")?, of(peer)?);
            let text = format!(
                "{file_system} {:.1} {unit}, {peer} {:.1}: {:.2} (the least of each: {:.1} and {:.1}, {:.2})",
                ours.median,
                theirs.median,
                ours.median / theirs.median,
                ours.min,
                theirs.min,
                ours.min / theirs.min
            );
            Some((met(ours.median, theirs.median), text))
        })
        .collect();
    joined(&all)
}

fn btrfs_changes(samples: &Samples) -> Verdict {
    let aim = "ten edits of the large tree are found on btrfs in under a tenth of a stat walk";
    let median = |contender| samples.median("changes", "btrfs", "large", contender);
    let pair = median("rootling btrfs").zip(median("stat walk of the fork by rootling btrfs"));
    verdict(
        aim,
        pair.map(|(ours, walk)| {
            (ours < walk / 10.0, format!("{ours:.2} ms, walk {walk:.1} ms: 1/{:.1}", walk / ours))
        }),
    )
}

fn scale(samples: &Samples) -> Verdict {
    let aim = "with 1,000 states on each other or 10,000 boxes beside each other, exec, fork, log and ls of one box take at most 1.5 times as long";
    let cases = [SCALE_ENTER, SCALE_FORK, SCALE_LOG, SCALE_LS];
    let keys = samples.keys().into_iter();
    let ratios = keys.filter_map(|key| {
        let case = cases.iter().find(|case| case.id == key.case)?;
        let peer = (case.peer)(&key.contender).first()?;
        let ratio =
            samples.summary(&key)?.median / samples.median(key.case, key.file_system, key.tree, peer)?;
        Some((ratio, format!("{} {} on {}: {ratio:.2}", key.case, key.contender, key.file_system)))
    });
    let mut ratios: Vec<_> = ratios.collect();
    ratios.sort_by(|a, b| b.0.total_cmp(&a.0));
    let could_not = samples.not_run.iter().any(|out| cases.iter().any(|case| case.id == out.key.case));
    let worst = ratios.first().map(|worst| (worst.0 <= 1.5 && !could_not, worst.1.clone()));
    verdict(
        aim,
        worst.map(|(met, text)| {
            (met, format!("the worst: {text}{}", if could_not { "; some could not at all" } else { "" }))
        }),
    )
}

/// A file system's own bookkeeping may differ by a few blocks.
fn leak(samples: &Samples) -> Verdict {
    each_below(
        samples,
        "a thousand forks and removals leave less than 256 KiB behind",
        |key| key.case == SCALE_LEAK.id,
        (256.0, "KiB"),
        |summary| summary.median,
    )
}

fn is_ours(contender: &str) -> bool {
    contender.starts_with("rootling")
}

/// Each of ours must be so many times as fast as the fastest of the peers that count.
fn beside_fastest(
    samples: &Samples,
    aim: &'static str,
    case: &'static str,
    counts: fn(&str) -> bool,
    times: f64,
) -> Verdict {
    let keys = samples.keys();
    let median = |key: &Key| samples.median(key.case, key.file_system, key.tree, &key.contender);
    let mut all = Vec::new();
    for (file_system, tree) in places() {
        let here = || {
            keys.iter()
                .filter(move |key| key.case == case && key.file_system == file_system && key.tree == tree)
        };
        let peers = here().filter(|key| counts(&key.contender)).filter_map(|key| Some((median(key)?, key)));
        let Some((theirs, peer)) = peers.min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
        for (ours, key) in
            here().filter(|key| is_ours(&key.contender)).filter_map(|key| Some((median(key)?, key)))
        {
            let ratio = theirs / ours;
            let text = format!(
                "{file_system} {} {ours:.0} ms, {} {theirs:.0}: {ratio:.2} times as fast",
                key.contender, peer.contender
            );
            all.push((ratio >= times, text));
        }
    }
    together(aim, &all)
}

/// What is said of each of the places that count must be less than so much.
fn each_below(
    samples: &Samples,
    aim: &'static str,
    counts: fn(&Key) -> bool,
    (most, unit): (f64, &str),
    value: fn(&Summary) -> f64,
) -> Verdict {
    let keys = samples.keys().into_iter().filter(counts);
    let all: Vec<_> = keys
        .filter_map(|key| {
            let value = value(&samples.summary(&key)?);
            let text = format!("{} {}, {}: {value:.1} {unit}", key.file_system, key.contender, key.case);
            Some((value < most, text))
        })
        .collect();
    together(aim, &all)
}

fn verdict(aim: &'static str, outcome: Option<(bool, String)>) -> Verdict {
    match outcome {
        Some((met, because)) => Verdict { aim, met: Some(met), because },
        None => Verdict { aim, met: None, because: "not measured in this run".to_owned() },
    }
}

/// Met where all are met; the numbers of each are behind it.
fn together(aim: &'static str, all: &[(bool, String)]) -> Verdict {
    verdict(aim, joined(all))
}

fn joined(all: &[(bool, String)]) -> Option<(bool, String)> {
    let because = all.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ");
    (!all.is_empty()).then(|| (all.iter().all(|(met, _)| *met), because))
}

fn places() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILE_SYSTEMS.iter().flat_map(|file_system| TREES.iter().map(move |tree| (*file_system, *tree)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn an_aim_is_met_missed_or_not_measured() {
        let mut samples = Samples::new(Path::new("/x"));
        let mut add = |case, contender: &str, value| {
            let key = Key { case, file_system: "xfs", tree: "minbase", contender: contender.to_owned() };
            samples.add(key, 1, value);
        };
        add("fork", "rootling reflink", 100.0);
        add("fork", "cp -a --reflink=always", 210.0);
        add("run", "rootling overlay", 8.0);
        add("run", "bwrap", 5.0);
        add("start", "rootling overlay", 6.0);
        add("start", "bwrap", 5.0);
        add("start", "crun run", 6.0);
        add("peak", "rootling overlay", 5.8);
        add("peak", "bwrap", 2.0);
        let met: Vec<_> = judge(&samples).iter().take(11).map(|verdict| verdict.met).collect();
        assert_eq!(
            met,
            [
                Some(true),
                None,
                None,
                Some(false),
                Some(true),
                Some(false),
                None,
                Some(false),
                None,
                None,
                None
            ]
        );
    }
}
