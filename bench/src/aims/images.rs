//! What pulling and pushing images is to cost.

use super::{Verdict, beside_fastest, each_below, is_ours};
use crate::samples::{Key, Samples};

/// Judges them all.
pub(super) fn judge(samples: &Samples) -> Vec<Verdict> {
    vec![
        beside_fastest(
            samples,
            "pull and unpack of an image into an empty store takes at most half the time of the fastest peer",
            "pull-cold",
            |peer| !is_ours(peer),
            2.0,
        ),
        beside_fastest(
            samples,
            "push of a box with ten changed files is ten times as fast as `podman commit` and `podman push`",
            "push-small",
            |peer| peer.starts_with("podman"),
            10.0,
        ),
        memory(samples),
    ]
}

fn memory(samples: &Samples) -> Verdict {
    let counts = |key: &Key| {
        is_ours(&key.contender)
            && ["pull-cold-peak", "pull-shared-peak", "push-small-peak"].contains(&key.case)
    };
    let most = 150e6 / f64::from(1 << 20);
    each_below(samples, "pull and push hold less than 150 MB (143 MiB)", counts, (most, "MiB"), |summary| {
        summary.p90
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_fastest_peer_counts_and_of_pushes_podman_only() {
        let mut samples = Samples::new(Path::new("/x"));
        let mut add = |case, contender: &str, value| {
            let key = Key { case, file_system: "ext4", tree: "large", contender: contender.to_owned() };
            samples.add(key, 1, value);
        };
        add("pull-cold", "rootling overlay", 10.0);
        add("pull-cold", "podman overlay", 30.0);
        add("pull-cold", "skopeo + umoci", 19.0);
        add("push-small", "rootling overlay", 10.0);
        add("push-small", "podman overlay", 100.0);
        add("push-small", "skopeo + umoci", 20.0);
        add("pull-cold-peak", "rootling overlay", 143.0);
        add("pull-cold-peak", "podman overlay", 900.0);
        let met: Vec<_> = judge(&samples).iter().map(|verdict| verdict.met).collect();
        assert_eq!(met, [Some(false), Some(true), Some(true)]);
    }
}
