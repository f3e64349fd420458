//! Builds without a Dockerfile: a command in a tree; recipes that are run as programs.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{Built, Project};
use crate::environment::{BINARY, ran};

fn build(project: &Project, flags: &[&str], command: &[&str]) -> Built {
    Built::of(ran(project.command(&[flags, &["--"], command].concat()).output().unwrap()))
}

#[test]
fn a_command_that_succeeds_is_kept_and_done_once() {
    let Some(project) = Project::new() else { return };
    let words = ["sh", "-c", "cat /proc/sys/kernel/random/uuid > /id"];
    let first = build(&project, &["-t", "x", "base"], &words).succeeded();
    let again = build(&project, &["-t", "y", "base"], &words).succeeded();
    assert_eq!((first.did().len(), again.did().len()), (1, 0), "{:?}", again.steps);
    assert_eq!(project.cat("x", "id"), project.cat("y", "id"));
    assert_eq!(
        project.environment.ok(["-q", "run", "base", "ls", "/"]).find("id\n"),
        None,
        "the base is what it was"
    );
    build(&project, &["-t", "z", "--label", "a=b", "x"], &["sh", "-c", "wc -l < /id > /n"]).succeeded();
    assert_eq!((project.cat("z", "n").trim(), project.config("z")["Labels"]["a"].as_str()), ("1", Some("b")));
    let history = project.environment.ok(["history", "z"]);
    assert!(history.contains("RUN sh -c wc -l"), "{history}");

    let command = ["sh", "-c", "echo gone > /id; exit 7"];
    let failed = build(&project, &["-t", "x", "x"], &command);
    assert_ne!(failed.ran.code, 0);
    assert!(!failed.ran.stderr.contains("line "), "{}", failed.ran.stderr);
    assert_ne!(project.cat("x", "id"), "gone\n", "what failed is not kept");
    assert_ne!(project.environment.run(["-q", "enter", "@fail", "--", "cat", "/id"]).code, 0);
    build(&project, &["--on-error", "keep", "-t", "x", "x"], &command);
    assert_eq!(project.environment.ok(["-q", "enter", "@fail", "--", "cat", "/id"]), "gone\n");
    let refused = build(&project, &["--target", "a", "base"], &["true"]);
    assert!(refused.ran.stderr.contains("--target is for a Dockerfile"), "{}", refused.ran.stderr);
    let missing = build(&project, &["--pull=never", "nosuch"], &["true"]);
    assert!(missing.ran.code != 0 && missing.ran.stderr.contains("nosuch"), "{}", missing.ran.stderr);
    project.assert_clean();
}

#[test]
fn a_recipe_is_run_as_a_program_and_built_on_its_first_call() {
    let Some(project) = Project::new() else { return };
    let recipe = format!(
        "#!/usr/bin/env -S {BINARY} build-run\nFROM base\nRUN cat /proc/sys/kernel/random/uuid > /id\nENTRYPOINT [\"sh\", \"-c\", \"cat /id; echo $0 $*\"]\nCMD [\"none\"]\n"
    );
    project.write("tool", recipe);
    std::fs::set_permissions(project.path("tool"), PermissionsExt::from_mode(0o755)).unwrap();
    let call = |words: &[&str]| {
        let mut command = Command::new(project.path("tool"));
        command
            .args(words)
            .current_dir("/")
            .env("ROOTLING_ROOT", project.environment.store())
            .env("ROOTLING_NET", "host");
        ran(command.output().unwrap())
    };
    let first = call(&["a", "b c"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let second = call(&[]);
    assert_eq!(second.code, 0, "{}", second.stderr);
    let id = |text: &str| text.lines().next().unwrap().to_owned();
    assert_eq!(id(&first.stdout), id(&second.stdout), "it was built once");
    assert!(first.stdout.ends_with("a b c\n") && second.stdout.ends_with("none\n"), "{first:?} {second:?}");
    assert_eq!(second.stderr, "", "and says nothing of that");
}
