//! What is written at the end, and the only place that prints.
//!
//! ```text
//! DATE-KERNEL-CORESc/
//!     raw.csv       every sample
//!     summary.md    aims, a table and a fairness note for each benchmark, who did not run, proofs, the machine
//!     plot.svg      medians, on a logarithmic scale
//! ```

use std::fmt::Write;
use std::path::{Path, PathBuf};

use rootling_backends::{Context, Error, Result};

use crate::aims;
use crate::cases::{self, Case};
use crate::facts::Facts;
use crate::options::Options;
use crate::plot;
use crate::samples::{Key, Samples};
use crate::stats::Summary;

/// Says what is being done now.
#[expect(clippy::print_stderr, reason = "the one place of this program that prints")]
pub(crate) fn progress(what: &str) {
    eprintln!("{what}");
}

/// Says why nothing was measured.
#[expect(clippy::print_stderr, reason = "the one place of this program that prints")]
pub(crate) fn complain(error: &Error) {
    eprintln!("rootling-bench: {error:?}");
    if let Some(hint) = error.first_hint() {
        eprintln!("  hint: {hint}");
    }
}

/// Shows the summary and where it is kept.
#[expect(clippy::print_stdout, reason = "the one place of this program that prints")]
pub(crate) fn print(facts: &Facts, samples: &Samples, directory: &Path) {
    println!("{}", summary(facts, samples));
    println!("written to {}", directory.display());
}

/// Writes the run's directory and returns its path. A second run on the same day replaces the first.
pub(crate) fn write(facts: &Facts, samples: &Samples, options: &Options) -> Result<PathBuf> {
    let directory = options.out.join(facts.directory());
    std::fs::create_dir_all(&directory).context(|| format!("mkdir({directory:?})"))?;
    let files = [
        ("raw.csv", raw(samples)),
        ("summary.md", summary(facts, samples)),
        ("plot.svg", plot::draw(samples)),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::write(&path, text).context(|| format!("write {path:?}"))?;
    }
    Ok(directory)
}

fn raw(samples: &Samples) -> String {
    let mut text = "case,unit,file_system,tree,contender,round,value\n".to_owned();
    for sample in &samples.taken {
        let Key { case, file_system, tree, contender } = &sample.key;
        let unit = cases::ALL.iter().find(|known| known.id == *case).map_or("", |known| known.unit);
        line(
            &mut text,
            format_args!(
                "{case},{unit},{file_system},{tree},{contender},{},{:.4}",
                sample.round, sample.value
            ),
        );
    }
    text
}

fn summary(facts: &Facts, samples: &Samples) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("# Run of {}\n", facts.date));
    facts.lines().iter().for_each(|fact| line(&mut text, format_args!("- {fact}")));
    if let Some(Summary { median, min, n, .. }) = Summary::of(samples.processors.clone()) {
        line(
            &mut text,
            format_args!(
                "- {median:.2} of {} cores could be had (median of {n} looks between the rounds, least {min:.2}): others use this machine too",
                facts.cores
            ),
        );
    }
    line(
        &mut text,
        format_args!(
            "\nTimes in ms, memory in MiB; the ratio is the median over that of the peer named: below 1.00 rootling is faster.\n"
        ),
    );
    line(&mut text, format_args!("## Aims\n\n| | aim | measured |\n|---|---|---|"));
    for verdict in aims::judge(samples) {
        let met = match verdict.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "–",
        };
        line(&mut text, format_args!("| {met} | {} | {} |", verdict.aim, verdict.because));
    }
    cases::ALL.iter().for_each(|case| table(&mut text, case, samples));
    line(&mut text, format_args!("\n## Equal work\n"));
    samples.proofs.iter().for_each(|proof| line(&mut text, format_args!("- {proof}")));
    text
}

/// Writes nothing of what this run was not to measure.
fn table(text: &mut String, case: &Case, samples: &Samples) {
    let of_case = |key: &Key| key.case == case.id;
    if !samples.keys().iter().any(of_case) && !samples.not_run.iter().any(|out| of_case(&out.key)) {
        return;
    }
    line(text, format_args!("\n## {}\n\n{}\n", case.title, case.fairness));
    line(
        text,
        format_args!(
            "| file system | tree | who | median | min | p90 | n | ratio |\n|---|---|---|---:|---:|---:|---:|---|"
        ),
    );
    let mut keys: Vec<_> = samples.keys().into_iter().filter(of_case).collect();
    keys.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.contender.cmp(&b.contender)));
    for key in keys {
        let Some(Summary { median, min, p90, n }) = samples.summary(&key) else { continue };
        let ratio = ratio(case, &key, median, samples);
        let Key { file_system, tree, contender, .. } = &key;
        let who = if contender.starts_with("rootling") || case.id.starts_with("scale") {
            format!("**{contender}**")
        } else {
            contender.clone()
        };
        let digits = if case.unit == "calls" { 0 } else { 2 };
        line(
            text,
            format_args!(
                "| {file_system} | {tree} | {who} | {median:.digits$} | {min:.digits$} | {p90:.digits$} | {n} | {ratio} |"
            ),
        );
    }
    for out in samples.not_run.iter().filter(|out| of_case(&out.key)) {
        let Key { file_system, tree, contender, .. } = &out.key;
        line(
            text,
            format_args!("| {file_system} | {tree} | {contender} | not run: {} | | | | |", out.reason),
        );
    }
}

fn place(key: &Key) -> (usize, std::cmp::Reverse<&'static str>) {
    let order = ["ext4", "xfs", "btrfs"].iter().position(|name| *name == key.file_system);
    (order.unwrap_or(usize::MAX), std::cmp::Reverse(key.tree))
}

fn ratio(case: &Case, key: &Key, median: f64, samples: &Samples) -> String {
    let beside = |peer: &&'static str| {
        let theirs = samples.median(key.case, key.file_system, key.tree, peer)?;
        let ratio = median / theirs;
        let digits = if ratio < 0.1 { 4 } else { 2 };
        Some(format!("{ratio:.digits$} of {peer}"))
    };
    (case.peer)(&key.contender).iter().find_map(beside).unwrap_or_default()
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_could_not_run_is_in_the_table_and_a_ratio_names_its_peer() {
        let mut samples = Samples::new(Path::new("/scratch"));
        let key = |contender: &str| Key {
            case: "run",
            file_system: "xfs",
            tree: "minbase",
            contender: contender.to_owned(),
        };
        samples.add(key("rootling overlay"), 1, 3.0);
        samples.add(key("bwrap"), 1, 2.0);
        let error = Error::new(rootling_backends::ErrorKind::NotFound, "no /scratch/x here");
        samples.fail(key("podman run"), &error);
        let mut text = String::new();
        table(&mut text, &cases::RUN, &samples);
        assert!(
            text.contains(
                "| xfs | minbase | **rootling overlay** | 3.00 | 3.00 | 3.00 | 1 | 1.50 of bwrap |"
            )
        );
        assert!(text.contains("podman run | not run: no SCRATCH/x here |"), "{text}");
    }
}
