//! What pulling and pushing images is to cost.

use super::{Verdict, places, together};
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

fn memory(samples: &Samples) -> Verdict {
    let aim = "pull and push hold less than 150 MB (143 MiB)";
    let cases = ["pull-cold-peak", "pull-shared-peak", "push-small-peak"];
    let keys = samples.keys().into_iter();
    let ours = keys.filter(|key| cases.contains(&key.case) && is_ours(&key.contender));
    let all: Vec<_> = ours
        .filter_map(|key| {
            let most = samples.summary(&key)?.p90;
            let text = format!("{} {} {}: {most:.0} MiB", key.file_system, key.contender, key.case);
            Some((most < 150e6 / f64::from(1 << 20), text))
        })
        .collect();
    together(aim, &all)
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
