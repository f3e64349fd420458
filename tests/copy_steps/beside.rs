//! The same cases, made by buildah as podman has it.

use std::process::Command;

use super::cases::{CASES, Case};
use super::*;
use crate::environment::{found, is_root, skip};

/// What buildah makes otherwise, while BuildKit does as we do.
const OTHERWISE: &[&str] = &[
    // It makes a directory of what the link should lead to.
    "a link at the end of the destination leads on, to what is not there too",
];

/// It takes set-user-id and set-group-id bits from what it copies.
fn without_special_bits(lines: &str) -> String {
    let plain = |line: &str| {
        let mut words: Vec<String> = line.splitn(3, ' ').map(str::to_owned).collect();
        let mode = u32::from_str_radix(&words[1], 8).unwrap();
        words[1] = format!("{:o}", mode & !0o6000);
        words.join(" ") + "\n"
    };
    lines.lines().map(plain).collect()
}

/// Can buildah of any age be asked?
fn is_common(case: &Case) -> bool {
    let is_new =
        ["--link", "--parents", "--exclude", "<<", "u=rwX"].iter().any(|word| case.step.contains(word));
    // They speak of the root of a context, which here is another.
    let is_whole = case.step.contains(" . ")
        || case.context.contains("-> /real")
        || case.step.contains("..")
        || !case.ignored.is_empty();
    let says_otherwise = OTHERWISE.contains(&case.name);
    !case.made.starts_with('!') && !is_new && !is_whole && !says_otherwise && !case.context.contains("s 600")
}

/// Writes one Dockerfile: a stage for each case, and all of them side by side at the end.
fn dockerfile(root: &Path, cases: &[&Case]) -> String {
    let mut text = String::new();
    for (number, case) in cases.iter().enumerate() {
        make_all(&root.join(format!("c{number}")), case.context);
        let tree = root.join(format!("tree-{number}"));
        make_all(&tree, case.tree);
        let status = Command::new("tar")
            .arg("-cf")
            .arg(root.join(format!("t{number}.tar")))
            .arg("-C")
            .arg(&tree)
            .arg(".")
            .status();
        assert!(status.unwrap().success());
        let words: Vec<&str> = case.step.split_ascii_whitespace().collect();
        let last = words.len() - 1;
        let place = |(at, word): (usize, &&str)| {
            let is_source = at > 0 && at < last && !word.starts_with("--");
            if is_source { format!("c{number}/{word}") } else { (*word).to_owned() }
        };
        let step: Vec<String> = words.iter().enumerate().map(place).collect();
        text += &format!("FROM scratch AS s{number}\nADD t{number}.tar /\n{}\n", step.join(" "));
    }
    text += "FROM scratch\n";
    for number in 0..cases.len() {
        text += &format!("COPY --from=s{number} / /{number}/\n");
    }
    text
}

fn make_all(root: &Path, lines: &str) {
    fs::create_dir_all(root).unwrap();
    make(root, lines);
}

#[test]
fn buildah_makes_the_same() {
    if !is_root() {
        return;
    }
    if !found("podman") {
        return skip("podman is not installed");
    }
    rootling_backends::sys::clear_umask();
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("context");
    let cases: Vec<&Case> = CASES.iter().filter(|case| is_common(case)).collect();
    fs::create_dir(&root).unwrap();
    fs::write(temp.path().join("Dockerfile"), dockerfile(&root, &cases)).unwrap();
    let output = Command::new("podman")
        .args([
            "--root",
            "root",
            "--runroot",
            "run",
            "--storage-driver",
            "vfs",
            "build",
            "-q",
            "--layers=false",
        ])
        .args(["-f", "Dockerfile", "--output", "type=local,dest=out", "context"])
        .current_dir(temp.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut differ = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let made = lines(&temp.path().join("out").join(number.to_string()));
        let ours = without_special_bits(&sorted(case.made));
        if made != ours {
            differ.push(format!("{} ({})\nbuildah: {made}\nwe: {ours}", case.name, case.step));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(cases.len() > 10);
}
