//! The same Dockerfiles, built by buildah: the same trees, the same configurations.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::cases::CASES;
use super::language::{said, write_context};
use super::{Project, lines};
use crate::environment::{Ran, found, ran, skip};

/// What it leaves in trees: what it had mounted there.
const LEFT: [&str; 3] = [" etc/hostname ", " etc/hosts ", " etc/resolv.conf "];

/// What of a configuration an instruction can say; the rest is the same for every image, or by chance.
const COMPARED: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "OnBuild",
    "StopSignal",
    "Healthcheck",
    "Shell",
];

struct Buildah<'a>(&'a Path);

impl Buildah<'_> {
    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("sh");
        // Tests that use the library clear the umask of all.
        command.args(["-c", "umask 022; exec buildah \"$@\"", "-"]);
        command.args(["--root", "buildah", "--runroot", "buildah-run", "--storage-driver", "vfs"]);
        ran(command.args(arguments).current_dir(self.0).output().unwrap())
    }
}

fn added(base: &str, tree: &Path) -> String {
    let base: std::collections::BTreeSet<&str> = base.lines().collect();
    let is_its_own = |line: &&str| LEFT.iter().any(|left| line.contains(left));
    lines(tree)
        .lines()
        .filter(|line| !base.contains(line) && !is_its_own(line))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn buildah_makes_the_same_of_what_it_knows() {
    if !found("buildah") {
        return skip("buildah is not installed");
    }
    let Some(project) = Project::new() else { return };
    write_context(&project);
    let place = project.environment.dir.path();
    let buildah = Buildah(place);
    project.environment.ok(["save", "-o", place.join("base.tar").to_str().unwrap(), "base"]);
    let pulled = buildah.run(&["pull", "-q", "docker-archive:base.tar"]);
    if pulled.code != 0 {
        return skip(&format!("buildah does not run here: {}", pulled.stderr));
    }
    let base = lines(&project.environment.path("root"));
    let mut differ = Vec::new();
    let mut compared = 0;
    for case in CASES.iter().filter(|case| case.beside && case.tree != "!") {
        let theirs = case.dockerfile.replace("FROM base", &format!("FROM {}", pulled.stdout.trim()));
        let theirs = theirs.replace("--from=base ", &format!("--from={} ", pulled.stdout.trim()));
        let theirs = theirs.replace("I=base", &format!("I={}", pulled.stdout.trim()));
        std::fs::write(place.join("Theirs"), theirs).unwrap();
        let flags = [
            "bud",
            "-q",
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--layers=false",
            "-t",
            "made",
            "-f",
            "Theirs",
        ];
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let built =
            buildah.run(&[&flags[..], &limits, &["--output", "type=local,dest=theirs", "context"]].concat());
        if built.code != 0 {
            differ.push(format!("{}: buildah fails: {}", case.name, built.stderr));
            continue;
        }
        let tree = added(&base, &place.join("theirs"));
        if case.tree != "?" && tree != case.tree {
            differ.push(format!("{}: buildah\n{tree}we\n{}", case.name, case.tree));
        }
        project.built(case.dockerfile, &["-t", "made"]);
        let inspected: Value =
            serde_json::from_str(&buildah.run(&["inspect", "--type", "image", "made"]).stdout).unwrap();
        let mut theirs = inspected["Docker"]["config"].clone();
        theirs["Labels"].as_object_mut().unwrap().remove("io.buildah.version");
        let (theirs, ours) = (said(&theirs), said(&project.config("made")));
        for key in COMPARED {
            if theirs.get(key) != ours.get(key) {
                differ.push(format!(
                    "{}: {key}: buildah {:?}, we {:?}",
                    case.name,
                    theirs.get(key),
                    ours.get(key)
                ));
            }
        }
        compared += 1;
        std::fs::remove_dir_all(place.join("theirs")).unwrap();
        buildah.run(&["rmi", "made"]);
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(compared > 20, "{compared}");
}
