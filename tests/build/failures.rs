//! Steps that fail, builds that are ended, machines that run full: what is left, and how one goes on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Project;
use crate::environment::{can_make, ran};
use crate::lab::eventually;

fn enter(project: &Project, script: &str) -> String {
    project.environment.ok(["-q", "enter", "@fail", "--", "sh", "-c", script])
}

#[test]
fn a_step_that_fails_can_be_entered_as_it_was() {
    let Some(project) = Project::new() else { return };
    project.built("FROM base\nRUN echo old > /x\n", &["-t", "x"]);
    let recipe = "FROM base\nENV A=b\nARG C=d\nRUN mkdir -m 777 /w\nWORKDIR /w\nUSER me\nRUN echo half > half; exit 3\nRUN true\n";
    let said = project.refused(recipe, &["-t", "x", "-t", "new"]);
    assert!(said.contains("line 7: RUN echo half > half; exit 3: exit code 3"), "{said}");
    assert!(said.contains("enter it: rootling enter @fail"), "{said}");
    assert_eq!(enter(&project, "echo $A $C $(pwd) $(id -un); cat half"), "b d /w me\nhalf\n");
    assert_eq!(project.cat("x", "x"), "old\n", "the name means what it meant");
    assert!(project.environment.fails(["show", "new"]).contains("new"));
    // What is done in it is the visitor's.
    enter(&project, "rm half");
    assert_eq!(enter(&project, "cat half"), "half\n");
    project.assert_clean();
}

#[test]
fn each_way_to_fail_is_told_with_its_line() {
    let Some(project) = Project::new() else { return };
    project.write("a", "x");
    let cases = [
        ("FROM base\nRUN \\\n  exit 9\n", "lines 2 to 3: RUN   exit 9: exit code 9"),
        ("FROM base\nRUN kill -9 $$\n", "line 2: RUN kill -9 $$: "),
        ("FROM base\nRUN [\"nosuch\"]\n", "nosuch"),
        ("FROM base\nUSER nobody\nRUN true\n", "nobody"),
        ("FROM base\nCOPY nosuch /\n", "line 2: COPY nosuch /"),
        ("FROM base\nCOPY a /etc/passwd/\n", "line 2: COPY a /etc/passwd/"),
        ("FROM base\nCOPY --chown=nobody a /\n", "line 2: COPY --chown=nobody a /"),
        ("FROM base\nCOPY --from=nosuch a /\n", "nosuch"),
        ("FROM base AS s\nFROM base\nCOPY --from=s /nosuch /\n", "line 3: COPY --from=s /nosuch /"),
        ("FROM base\nADD --checksum=sha256:0000 http://127.0.0.1:1/x /\n", "line 2"),
        ("FROM base\nWORKDIR /etc/passwd/x\n", "line 2: WORKDIR /etc/passwd/x"),
        ("FROM base\nRUN --mount=type=secret,id=s,required=true true\n", "line 2"),
        ("FROM base\nRUN --mount=from=base,source=/nosuch,target=/x true\n", "line 2"),
        ("FROM base\nRUNN true\n", "line 2, column 1"),
        ("FROM base\nRUN --security=insecure true\n", "--allow security.insecure"),
        ("RUN true\n", "line 1"),
        ("", "no instructions"),
    ];
    let mut wrong = Vec::new();
    for (recipe, told) in cases {
        let said = project.refused(recipe, &["-t", "x"]);
        if !said.contains(told) {
            wrong.push(format!("{recipe}: {said}"));
        }
        assert!(project.environment.fails(["show", "x"]).contains("x"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    project.assert_clean();
}

#[test]
fn on_error_fail_leaves_nothing() {
    let Some(project) = Project::new() else { return };
    let said = project.refused("FROM base\nRUN exit 1\n", &["--on-error", "fail"]);
    assert!(!said.contains("enter it"), "{said}");
    assert!(project.environment.fails(["enter", "@fail"]).contains("no step of a build has failed"));
    project.assert_clean();
}

/// A step that does what a secret says: its key is the same whatever that is.
const ASKS: &str = "FROM base\nRUN echo before > /before\nRUN --mount=type=secret,id=go echo x >> /count; . /run/secrets/go\nRUN cat /count > /after\n";

fn go(project: &Project, script: &str) -> String {
    let file = project.environment.path("go");
    fs::write(&file, script).unwrap();
    format!("--secret=id=go,src={}", file.display())
}

#[test]
fn resume_goes_on_in_what_was_left() {
    let Some(project) = Project::new() else { return };
    let secret = go(&project, "exit 1");
    project.refused(ASKS, &[&secret]);
    go(&project, "exit 0");
    let resumed = project.build(&[&secret, "--resume", "-t", "x"]).succeeded();
    assert_eq!(resumed.steps[0], "hit RUN echo before > /before");
    assert_eq!(project.cat("x", "after"), "x\nx\n", "the step began with what it had left");
    let again = project.build(&[&secret, "-t", "y"]).succeeded();
    assert_eq!(
        (again.did(), project.cat("y", "after").as_str()),
        (vec![], "x\nx\n"),
        "it is the step's result"
    );
    let idle = project.build(&[&secret, "--resume"]).succeeded();
    assert!(idle.ran.stderr.contains("nothing was taken"), "{}", idle.ran.stderr);
    project.assert_clean();
}

#[test]
fn a_repaired_tree_is_taken_for_the_result_and_marked() {
    let Some(project) = Project::new() else { return };
    let secret = go(&project, "exit 1");
    project.refused(ASKS, &[&secret]);
    project.environment.ok(["create", "@fail", "fix"]);
    project.environment.ok(["exec", "fix", "--", "sh", "-c", "echo by hand > /count"]);
    let adopted = project.build(&[&secret, "--adopt", "fix", "-t", "x"]).succeeded();
    assert_eq!(project.cat("x", "after"), "by hand\n");
    assert_eq!(adopted.did().len(), 2, "{:?}", adopted.steps);
    // The box is what it was, and what is done to it changes nothing.
    project.environment.ok(["exec", "fix", "--", "rm", "/count"]);
    assert_eq!(project.cat("x", "count"), "by hand\n");
    assert_eq!(project.build(&[&secret, "-t", "y"]).succeeded().did(), [""; 0]);
    let log = project.environment.ok(["log", "--graph", "--builds"]);
    assert!(log.lines().any(|line| line.contains("RUN --mount") && line.contains("made by hand")), "{log}");
    let blamed = project.environment.ok(["blame", "x", "/count"]);
    assert!(blamed.contains("RUN --mount=type=secret,id=go"), "{blamed}");
    let history = project.environment.json(["history", "x"]);
    assert_eq!(history.as_array().unwrap().len(), 4, "{history}");
    project.environment.ok(["rm", "--now", "fix"]);
    project.assert_clean();
    assert!(project.build(&["--adopt", "nosuch"]).ran.stderr.contains("nosuch"));
}

#[test]
fn an_adopted_last_step_is_what_the_image_is_made_of() {
    let Some(project) = Project::new() else { return };
    project.refused("FROM base\nRUN touch /left; exit 1\nCMD x\n", &[]);
    project.environment.ok(["create", "@fail", "fix"]);
    project.environment.ok(["exec", "fix", "--", "touch", "/fixed"]);
    project.build(&["--adopt", "fix", "-t", "x"]).succeeded();
    assert_eq!(project.added("x"), "f 644 0:0 fixed = \nf 644 0:0 left = \n");
    let log = project.environment.ok(["log", "x"]);
    assert!(!log.contains("failed"), "what failed is no part of it: {log}");
    let blamed = project.environment.ok(["blame", "x", "/fixed"]);
    assert!(blamed.contains("RUN touch /left"), "{blamed}");
    // The same when it is moved elsewhere.
    let file = project.environment.path("x.tar");
    project.environment.ok(["save", "-o", file.to_str().unwrap(), "x"]);
    let Some(other) = Project::new() else { return };
    other.environment.ok(["load", "-i", file.to_str().unwrap()]);
    assert_eq!(other.added("x"), "f 644 0:0 fixed = \nf 644 0:0 left = \n");
    project.assert_clean();
}

/// Starts a build and waits until a step that contains `word` runs.
fn begun(project: &Project, flags: &[&str], word: &str) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = project.command(&[flags, &["."]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while said.read_line(&mut line).unwrap() > 0 {
        if line.contains("\"begun\"") && line.contains(word) {
            return (child, said);
        }
        line.clear();
    }
    let ended = child.wait();
    panic!("no step {word}: {ended:?}");
}

/// Is there a process with this word among its arguments?
fn runs(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_it = |path: std::path::PathBuf| {
        fs::read(path.join("cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
    };
    processes.into_iter().any(|entry| is_it(entry.path()))
}

#[test]
fn a_build_that_is_killed_is_gone_on_with() {
    let Some(project) = Project::new() else { return };
    project.write("Dockerfile", ASKS);
    let secret = go(&project, "sleep 7654321");
    let (mut child, _said) = begun(&project, &[&secret], "type=secret");
    eventually("the command runs", || runs("7654321"));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("its commands end with it", || !runs("7654321"));
    go(&project, "true");
    let built = project.build(&[&secret, "-t", "x"]).succeeded();
    assert_eq!(built.steps[0], "hit RUN echo before > /before");
    assert_eq!(project.cat("x", "after"), "x\n", "of what was half done nothing is there");
    project.environment.ok(["prune"]);
    project.assert_clean();
}

#[test]
fn a_build_that_is_interrupted_ends_its_commands_and_says_so() {
    let Some(project) = Project::new() else { return };
    project.write("Dockerfile", ASKS);
    for (signal, code, number) in [(Signal::SIGINT, 130, "7654322"), (Signal::SIGTERM, 143, "7654323")] {
        let secret = go(&project, &format!("sleep {number}"));
        let (child, said) = begun(&project, &[&secret], "type=secret");
        eventually("the command runs", || runs(number));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let ended = ran(child.wait_with_output().unwrap());
        let said: Vec<String> = said.lines().map(Result::unwrap).collect();
        assert_eq!(ended.code, code, "{said:?}");
        assert!(said.last().unwrap().contains("ended"), "{said:?}");
        assert!(!runs(number));
    }
    assert!(project.environment.fails(["enter", "@fail"]).contains("no step of a build has failed"));
    project.assert_clean();
}

#[test]
fn a_step_whose_files_go_away_meanwhile_is_not_taken_for_one_that_had_them() {
    let Some(project) = Project::new() else { return };
    let recipe = "FROM base\nRUN --mount=source=d,target=/d while [ -e /d/f ]; do sleep 0.7654325; done\n";
    project.write("d/f", "f").write("Dockerfile", recipe);
    let mut command = project.command(&["-t", "x"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the command runs", || runs("0.7654325"));
    fs::remove_dir_all(project.path("d")).unwrap();
    let ended = ran(child.wait_with_output().unwrap());
    assert_ne!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("files that it reads were changed meanwhile"), "{}", ended.stderr);
    project.assert_clean();
}

#[test]
fn a_program_that_is_ended_while_it_is_built_says_so_with_its_code() {
    let Some(project) = Project::new() else { return };
    project.write("tool", "FROM base\nRUN sleep 7654325\n");
    let mut command = project.environment.command();
    command.args(["build-run", "tool"]).current_dir(project.path("")).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    eventually("the command runs", || runs("7654325"));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 143, "{}", ended.stderr);
    assert!(
        ended.stderr.ends_with("the build was ended; what was done of it is there\n"),
        "{}",
        ended.stderr
    );
    project.assert_clean();
}

#[test]
fn what_cannot_be_executed_says_why() {
    let Some(project) = Project::new() else { return };
    let said = project.refused("FROM base\nRUN printf x > /bad; chmod +x /bad\nRUN [\"/bad\"]\n", &[]);
    assert!(said.contains("execute \"/bad\": Exec format error"), "{said}");
    let said = project.refused("FROM base\nRUN [\"/nope\"]\n", &[]);
    assert!(said.contains("find \"/nope\": No such file or directory"), "{said}");
    project.assert_clean();
}

#[test]
fn a_script_is_closed_before_it_is_executed() {
    let Some(project) = Project::new() else { return };
    // It was a race: one in three was "Text file busy".
    for number in 0..20 {
        let recipe = format!("FROM base\nRUN <<X\n#!/bin/sh\necho {number} > /number\nX\n");
        project.built(&recipe, &["-t", "x"]);
        assert_eq!(project.cat("x", "number"), format!("{number}\n"));
    }
    project.assert_clean();
}

#[test]
fn a_failure_ends_what_runs_beside_it() {
    let Some(project) = Project::new() else { return };
    let recipe = "FROM base AS one\nRUN sleep 7654324\nFROM base AS two\nRUN sleep 1; exit 6\nFROM base\nCOPY --from=one / /1\nCOPY --from=two / /2\n";
    let said = project.refused(recipe, &["-j", "2"]);
    assert!(said.contains("line 4: RUN sleep 1; exit 6: exit code 6"), "{said}");
    assert!(!runs("7654324"));
    project.assert_clean();
}

/// A store of 48 MB, steps that want more, by a command and by a copy.
const FULL: &str = r#"disk ext4 48M
    $R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
    cd $D/context; truncate -s 0 big; dd if=/dev/urandom of=big bs=1M count=64 2> /dev/null
    printf 'FROM base\nRUN echo 1 > /one\nRUN dd if=/dev/zero of=/big bs=1M count=64\n' > Dockerfile
    if $R build -t x . 2> $D/said; then echo built; fi
    grep -q 'No space left on device' $D/said || { cat $D/said; exit 3; }
    grep -q 'line 3: RUN dd .*exit code 1' $D/said || { cat $D/said; exit 4; }
    $R -q enter @fail -- ls -l /big > /dev/null || exit 5
    $R -q prune --builds=all > /dev/null || exit 9
    printf 'FROM base\nCOPY big /\n' > Dockerfile
    if $R build -t x . 2> $D/said; then echo built; fi
    grep -qi 'no space left' $D/said || { cat $D/said; exit 6; }
    grep -q 'line 2: COPY big /' $D/said || { cat $D/said; exit 7; }
    ls $ROOTLING_ROOT/tmp | grep . && exit 8
    printf 'FROM base\nRUN echo 1 > /one\n' > Dockerfile; $R -q build -t x . > /dev/null
    $R -q run x -- cat /one; $R -q fsck --verify > /dev/null; cd /; umount $D/fs"#;

#[test]
fn a_full_disk_is_told_and_costs_nothing_but_the_step() {
    if !can_make("ext4") {
        return;
    }
    let Some(project) = Project::new() else { return };
    let ran = project.environment.script(FULL);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "1\n"), "{}", ran.stderr);
}
