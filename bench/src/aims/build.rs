//! What building is to cost.

use super::{Verdict, beside_fastest, each_below, is_ours};
use crate::samples::Samples;

/// Judges them all.
pub(super) fn judge(samples: &Samples) -> Vec<Verdict> {
    vec![
        beside_fastest(
            samples,
            "40 small steps, nothing there, take less than a fifth of BuildKit's time",
            "build-steps-cold",
            |peer| peer == "BuildKit overlay2",
            5.0,
        ),
        beside_fastest(
            samples,
            "40 small steps, nothing there, take less than a twentieth of buildah's time",
            "build-steps-cold",
            |peer| peer == "buildah overlay",
            20.0,
        ),
        each_below(
            samples,
            "a build of which everything is there takes less than 50 ms",
            |key| key.case == "build-steps-cached" && is_ours(&key.contender),
            (50.0, "ms"),
            |summary| summary.median,
        ),
        each_below(
            samples,
            "COPY of 2 GiB on XFS and btrfs takes less than 50 ms",
            |key| key.case == "build-big" && is_ours(&key.contender),
            (50.0, "ms"),
            |summary| summary.median,
        ),
        each_below(
            samples,
            "COPY of 2 GiB on XFS and btrfs takes less than 50 ms where the file was read before",
            |key| key.case == "build-big-known" && is_ours(&key.contender),
            (50.0, "ms"),
            |summary| summary.median,
        ),
        each_below(
            samples,
            "COPY of 2 GiB on XFS and btrfs takes no bytes but those of the records (1 MiB)",
            |key| key.case == "build-big-used" && is_ours(&key.contender),
            (1.0, "MiB"),
            |summary| summary.median,
        ),
    ]
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
