//! The console blocks of README.md, run in order in one shell: what they show is what comes out.
//!
//! Numbers, ids and the store's path differ from machine to machine; everything else must be the same to the letter.

use std::fs;
use std::path::Path;

use crate::environment::{BINARY, is_root, ran, skip};

/// A command and what the README says it prints.
struct Step {
    command: String,
    shown: String,
}

fn steps(readme: &str) -> Vec<Step> {
    let blocks =
        readme.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let mut steps: Vec<Step> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: String::new() }),
            (None, Some(step)) => step.shown.push_str(&format!("{line}\n")),
            (None, None) => panic!("output before a command: {line}"),
        }
    }
    steps
}

/// Replaces what may differ: ids by ID, runs of digits and dots by N, columns by one blank.
fn tame(text: &str, store: &str) -> String {
    let text = text.replace(store, "/srv/rootling");
    let mut tamed = String::new();
    for line in text.lines() {
        let words: Vec<String> = line.split_whitespace().map(tame_word).collect();
        // Which unit is a matter of speed.
        tamed.push_str(&words.join(" ").replace("N ms", "N s"));
        tamed.push('\n');
    }
    tamed
}

fn tame_word(word: &str) -> String {
    let core = word.trim_start_matches('(').trim_end_matches([',', ')']);
    let is_id =
        core.len() == 8 && core.bytes().all(|byte| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&byte));
    if is_id {
        return word.replace(core, "ID");
    }
    if !word.starts_with(|c: char| c.is_ascii_digit() || c == '(') {
        return word.to_owned();
    }
    let mut tamed = String::new();
    for c in word.chars() {
        match c {
            '0'..='9' | '.' if tamed.ends_with('N') => {}
            '0'..='9' | '.' => tamed.push('N'),
            other => tamed.push(other),
        }
    }
    tamed
}

#[test]
fn the_readme_tells_the_truth() {
    if !is_root() {
        return;
    }
    let mmdebstrap = std::process::Command::new("mmdebstrap").arg("--version").output();
    if mmdebstrap.is_err() {
        return skip("needs mmdebstrap");
    }
    if !crate::environment::found("runc") {
        return skip("needs runc");
    }
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let steps = steps(&readme);
    assert!(steps.len() > 15, "the README has a session");
    let dir = tempfile::tempdir().unwrap();
    let marker = "=====rootling-step=====";
    let script: String =
        steps.iter().map(|step| format!("{}\necho; echo '{marker}'\n", step.command)).collect();
    let path =
        format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &format!("exec 2>&1\n{script}")])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("ROOTLING_ROOT", dir.path().join("store"))
        .env("ROOTLING_NET", "host")
        .output();
    let ran = ran(output.unwrap());
    let store = dir.path().join("store");
    let printed: Vec<&str> = ran.stdout.split(marker).collect();
    assert_eq!(printed.len(), steps.len() + 1, "{}", ran.stdout);
    for (step, printed) in steps.iter().zip(printed) {
        let (shown, printed) =
            (tame(&step.shown, "/srv/rootling"), tame(printed.trim(), &store.to_string_lossy()));
        assert_eq!(printed.trim(), shown.trim(), "$ {}", step.command);
    }
}

#[test]
fn what_the_readme_points_at_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let targets: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(targets.len() >= 4);
    for target in targets {
        assert!(root.join(target).exists(), "{target}");
    }
}
