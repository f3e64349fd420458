//! What building is to cost.

use super::{Verdict, places, together};
use crate::samples::Samples;

/// Judges them all.
pub(super) fn judge(samples: &Samples) -> Vec<Verdict> {
    vec![
        beside(
            samples,
            "40 small steps, nothing there, take less than a fifth of BuildKit's time",
            "BuildKit overlay2",
            5.0,
        ),
        beside(
            samples,
            "40 small steps, nothing there, take less than a twentieth of buildah's time",
            "buildah overlay",
            20.0,
        ),
        at_most(
            samples,
            "a build of which everything is there takes less than 50 ms",
            "build-steps-cached",
            50.0,
            "ms",
        ),
        at_most(samples, "COPY of 2 GiB on XFS and btrfs takes less than 50 ms", "build-big", 50.0, "ms"),
        at_most(
            samples,
            "COPY of 2 GiB on XFS and btrfs takes less than 50 ms where the file was read before",
            "build-big-known",
            50.0,
            "ms",
        ),
        at_most(
            samples,
            "COPY of 2 GiB on XFS and btrfs takes no bytes but those of the records (1 MiB)",
            "build-big-used",
            1.0,
            "MiB",
        ),
    ]
}

/// Each of ours must be so many times as fast as that peer.
fn beside(samples: &Samples, aim: &'static str, peer: &str, times: f64) -> Verdict {
    let case = "build-steps-cold";
    let mut all = Vec::new();
    for (file_system, tree) in places() {
        let Some(theirs) = samples.median(case, file_system, tree, peer) else { continue };
        for ours in ["rootling overlay", "rootling reflink", "rootling btrfs"] {
            let Some(time) = samples.median(case, file_system, tree, ours) else { continue };
            let ratio = theirs / time;
            let text =
                format!("{file_system} {ours} {time:.0} ms, {peer} {theirs:.0}: {ratio:.1} times as fast");
            all.push((ratio > times, text));
        }
    }
    together(aim, &all)
}

/// Each of ours must take at most so much.
fn at_most(samples: &Samples, aim: &'static str, case: &'static str, most: f64, unit: &str) -> Verdict {
    let keys = samples.keys().into_iter();
    let ours = keys.filter(|key| key.case == case && key.contender.starts_with("rootling"));
    let all: Vec<_> = ours
        .filter_map(|key| {
            let taken = samples.summary(&key)?.median;
            Some((taken < most, format!("{} {} {taken:.1} {unit}", key.file_system, key.contender)))
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
    fn an_aim_is_missed_where_one_of_ours_misses_it() {
        let mut samples = Samples::new(Path::new("/x"));
        let mut add = |case, contender: &str, value| {
            let key = Key { case, file_system: "xfs", tree: "minbase", contender: contender.to_owned() };
            samples.add(key, 1, value);
        };
        add("build-steps-cold", "rootling overlay", 10.0);
        add("build-steps-cold", "rootling reflink", 30.0);
        add("build-steps-cold", "BuildKit overlay2", 100.0);
        add("build-steps-cold", "buildah overlay", 1000.0);
        add("build-steps-cached", "rootling overlay", 49.0);
        add("build-big", "rootling reflink", 51.0);
        let met: Vec<_> = judge(&samples).iter().map(|verdict| verdict.met).collect();
        assert_eq!(met, [Some(false), Some(true), Some(true), Some(false), None, None]);
    }
}
