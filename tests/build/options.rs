//! What flags of `build` do, and what it prints.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Built, Project};
use crate::environment::{Ran, ran};

/// Three stages, of which the last needs one.
const STAGES: &str = "FROM base AS Tools\nRUN echo tools > /tools\nFROM base AS unneeded\nRUN exit 1\nFROM base AS last\nCOPY --from=tools /tools /\n";

#[test]
fn stages_that_nobody_needs_are_not_done() {
    let Some(project) = Project::new() else { return };
    let built = project.built(STAGES, &["-t", "x"]);
    assert_eq!(built.steps, ["did RUN echo tools > /tools", "did COPY --from=tools /tools /"]);
    let built = project.built(STAGES, &["-t", "t", "--target", "tools"]);
    assert_eq!(built.steps, ["hit RUN echo tools > /tools"]);
    assert_eq!(project.added("t"), "f 644 0:0 tools = tools\n");
    assert_eq!(project.built(STAGES, &["--target", "0"]).steps.len(), 1);
    let said = project.refused(STAGES, &["--target", "tool"]);
    assert!(said.contains("did you mean tools?"), "{said}");
    project.refused(STAGES, &["--target", "unneeded"]);
}

#[test]
fn stages_are_made_side_by_side_and_no_more_than_were_asked_for() {
    let Some(project) = Project::new() else { return };
    // Each waits for the other, by files in a cache that both have.
    let recipe = "FROM base AS one\nRUN --mount=type=cache,target=/k touch /k/1; for i in $(seq 200); do [ -e /k/2 ] && exit 0; sleep 0.1; done; exit 1\n\
        FROM base AS two\nRUN --mount=type=cache,target=/k touch /k/2; for i in $(seq 200); do [ -e /k/1 ] && exit 0; sleep 0.1; done; exit 1\n\
        FROM scratch\nCOPY --from=one /bin/busybox /1\nCOPY --from=two /bin/busybox /2\n";
    project.built(recipe, &["-j", "2"]);
    let recipe = "FROM base AS one\nRUN --mount=type=cache,target=/j mkdir /j/x && sleep 0.5 && rmdir /j/x\n\
        FROM base AS two\nRUN --mount=type=cache,target=/j mkdir /j/x && sleep 0.6 && rmdir /j/x\n\
        FROM scratch\nCOPY --from=one /bin/busybox /1\nCOPY --from=two /bin/busybox /2\n";
    project.built(recipe, &["-j", "1"]);
    project.assert_clean();
}

#[test]
fn arguments_are_known_where_they_were_asked_for() {
    let Some(project) = Project::new() else { return };
    let recipe = "ARG TAG=base OUTER=o\nFROM $TAG AS one\nARG OUTER\nARG INNER=i$OUTER\nENV KEPT=$INNER\nRUN echo $OUTER $INNER $TARGETARCH $HTTP_PROXY > /one\n\
        FROM one AS two\nARG TARGETOS\nRUN echo \"$OUTER,$INNER,$KEPT,$TARGETOS\" > /two\nFROM base\nCOPY --from=two /one /two /\nRUN echo \"${OUTER-none}\" > /three\n";
    project.built(recipe, &["-t", "x", "--build-arg", "OUTER=p", "--build-arg", "HTTP_PROXY=http://p"]);
    assert_eq!(project.cat("x", "one"), "p ip http://p\n");
    assert_eq!(project.cat("x", "two"), "p,ip,ip,linux\n");
    assert_eq!(project.cat("x", "three"), "none\n");
    // One without a value is that of the environment, if it is there.
    let passed = |value: Option<&str>| {
        let mut command = project.command(&["--build-arg", "OUTER", "-t", "x", "."]);
        command.envs(value.map(|value| ("OUTER", value)));
        Built::of(ran(command.output().unwrap())).succeeded();
        project.cat("x", "one")
    };
    assert_eq!(passed(Some("e")), "e ie\n");
    assert_eq!(passed(None), "o io\n");
    let history = project.environment.ok(["history", "--no-trunc", "x"]);
    assert!(!history.contains("http://p"), "{history}");
}

#[test]
fn labels_annotations_and_files_with_what_was_built() {
    let Some(project) = Project::new() else { return };
    let flags = [
        "-t",
        "x",
        "-t",
        "y:2",
        "--label",
        "a=b c",
        "--annotation",
        "org.x=z",
        "--iidfile",
        "id",
        "--metadata-file",
        "meta",
    ];
    project.built("FROM base\nLABEL a=old k=l\nRUN echo 1 > /1\n", &flags);
    assert_eq!(project.config("y:2")["Labels"], json!({ "a": "b c", "k": "l" }));
    let inspected = project.environment.json(["inspect", "x"])[0].clone();
    let id = std::fs::read_to_string(project.path("id")).unwrap();
    assert_eq!(json!(id.trim()), inspected["Id"]);
    let said: Value = serde_json::from_slice(&std::fs::read(project.path("meta")).unwrap()).unwrap();
    assert_eq!(said["containerimage.config.digest"], inspected["Id"]);
    assert_eq!(said["containerimage.digest"], inspected["Manifest"]);
    assert_eq!(said["image.name"], "x:latest,y:2");
    let manifest: Value = serde_json::from_str(&project.environment.ok(["inspect", "--raw", "x"])).unwrap();
    assert_eq!(manifest["annotations"]["org.x"], "z");
    let said = project.refused("FROM base\n", &["--label", "nothing"]);
    assert!(said.contains("write NAME=VALUE"), "{said}");
}

#[test]
fn layers_are_those_that_were_asked_for() {
    let Some(project) = Project::new() else { return };
    let recipe = "FROM base\nRUN echo 1 > /1\n# rootling: layer\nRUN echo 2 > /2\nRUN rm /1\nENV A=b\n";
    let layers = |flags: &[&str]| {
        project.built(recipe, &[&["-t", "x"], flags].concat());
        assert_eq!(project.added("x"), "f 644 0:0 2 = 2\n");
        let inspected = project.environment.json(["inspect", "x"])[0].clone();
        let history = project.environment.json(["history", "x"]);
        (inspected["RootFS"]["Layers"].as_array().unwrap().len(), history.as_array().unwrap().len())
    };
    assert_eq!(layers(&[]), (4, 5));
    assert_eq!(layers(&["--layers", "steps"]), (4, 5));
    assert_eq!(layers(&["--squash"]), (2, 5));
    assert_eq!(layers(&["--layers", "base+1"]), (2, 5));
    assert_eq!(layers(&["--layers", "marked"]), (3, 5));
    assert_eq!(layers(&["--layers", "one"]).0, 1);
    project.assert_clean();
}

#[test]
fn check_builds_nothing_and_says_what_is_unwise() {
    let Some(project) = Project::new() else { return };
    let ran_in = |recipe: &str, flags: &[&str]| -> Ran {
        project.write("Dockerfile", recipe);
        let mut command = project.environment.command();
        ran(command.arg("build").args(flags).arg(".").current_dir(project.path("")).output().unwrap())
    };
    let fine = ran_in("FROM base\nRUN exit 1\n", &["--check"]);
    assert_eq!((fine.code, fine.stdout.as_str()), (0, ""), "{}", fine.stderr);
    let unwise = ran_in("FROM base as x\nMAINTAINER me\nRUN exit 1\n", &["--check"]);
    assert_eq!(unwise.code, 1);
    assert!(
        unwise.stdout.contains("FromAsCasing") && unwise.stdout.contains("Dockerfile:2:"),
        "{}",
        unwise.stdout
    );
    assert!(unwise.stdout.contains("MaintainerDeprecated"), "{}", unwise.stdout);

    let printed = ran_in(
        "FROM base\nRUN --mount=type=tmpfs,target=/t <<X\necho\nX\nCMD [\"a\"]\n",
        &["--print", "json"],
    );
    let parsed: Value = serde_json::from_str(&printed.stdout).unwrap();
    let text = parsed.to_string();
    assert!(text.to_lowercase().contains("\"run\"") && text.contains("echo\\n"), "{text}");
    let printed = ran_in("FROM base\nRUN true\n", &["--print", "ast"]);
    assert_eq!((printed.code, printed.stdout.lines().count()), (0, 2), "{}", printed.stdout);
    let wrong = ran_in("FROM base\nRUM true\n", &["--print", "ast"]);
    assert!(wrong.code != 0 && wrong.stderr.contains("did you mean RUN?"), "{}", wrong.stderr);
    project.assert_clean();
}

#[test]
fn programs_are_told_in_json_and_people_may_have_quiet() {
    let Some(project) = Project::new() else { return };
    project.write("Dockerfile", "FROM base\nRUN echo out; echo err >&2\n");
    let run = |flags: &[&str]| -> Ran {
        let mut command = project.environment.command();
        ran(command.args(flags).current_dir(project.path("")).output().unwrap())
    };
    let json = run(&["--format", "json", "build", "--progress", "json", "-t", "x", "."]);
    let row: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (&row["event"], &row["names"], &row["done"]),
        (&json!("built"), &json!(["x:latest"]), &json!(1))
    );
    let events: Vec<Value> = json
        .stderr
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said = |stream: &str| -> String {
        events
            .iter()
            .filter(|event| event["stream"] == stream)
            .map(|event| event["text"].as_str().unwrap())
            .collect()
    };
    assert_eq!((said("stdout").as_str(), said("stderr").as_str()), ("out\n", "err\n"));
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("begun", "done"));

    let quiet = run(&["-q", "build", "--no-cache", "."]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    assert_eq!(quiet.stdout.lines().count(), 1);
    let quiet = run(&["build", "-q", "--no-cache", "."]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    let plain = run(&["build", "--progress", "plain", "--no-cache", "."]);
    assert!(
        plain.stderr.contains("[1/1] | out\n") && plain.stderr.contains("[1/1] | err\n"),
        "{}",
        plain.stderr
    );
    project.write("Dockerfile", "FROM base\nRUN echo last words; exit 1\n");
    let failed = run(&["-q", "build", "."]);
    assert!(failed.code != 0 && failed.stderr.contains("last words"), "{}", failed.stderr);
}

#[test]
fn a_dockerfile_comes_from_anywhere() {
    let Some(project) = Project::new() else { return };
    project
        .write("a", "one")
        .write("other/My.file", "FROM base\nCOPY a /other\n")
        .write("other/My.file.dockerignore", "a\n");
    let piped = |flags: &[&str], text: &str| -> Built {
        let mut command = project.command(flags);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Built::of(ran(child.wait_with_output().unwrap()))
    };
    piped(&["-t", "x", "-f", "-", "."], "FROM base\nCOPY a /a\n").succeeded();
    assert_eq!(project.added("x"), "f 644 0:0 a = one\n");
    piped(&["-t", "x", "-"], "FROM base\nRUN touch /b\n").succeeded();
    assert_eq!(project.added("x"), "f 644 0:0 b = \n");
    let without = piped(&["-"], "FROM base\nCOPY a /a\n");
    assert!(
        without.ran.code != 0 && without.ran.stderr.contains("line 2: COPY a /a"),
        "{}",
        without.ran.stderr
    );
    let both = piped(&["-f", "-", "-"], "FROM base\n");
    assert!(both.ran.stderr.contains("cannot be the Dockerfile and the context"), "{}", both.ran.stderr);
    let left_out = project.build(&["-f", "other/My.file"]);
    assert!(
        left_out.ran.code != 0 && left_out.ran.stderr.contains("My.file.dockerignore"),
        "{}",
        left_out.ran.stderr
    );
    std::fs::remove_file(project.path("other/My.file.dockerignore")).unwrap();
    project.build(&["-f", "other/My.file", "-t", "x"]).succeeded();
    assert_eq!(project.added("x"), "f 644 0:0 other = one\n");
    project.write("Containerfile", "FROM base\nRUN touch /c\n");
    project.build(&["-t", "x"]).succeeded();
    assert_eq!(project.added("x"), "f 644 0:0 c = \n");
}

#[test]
fn walls_limits_and_hosts_of_steps_are_as_asked_for() {
    let Some(project) = Project::new() else { return };
    let recipe = "FROM base\nRUN ulimit -n > /n; df /dev/shm | tail -1 | awk '{print $2}' > /shm; grep -w db /etc/hosts > /h; cat /v/f > /f\n";
    std::fs::create_dir(project.environment.path("v")).unwrap();
    std::fs::write(project.environment.path("v/f"), "mounted").unwrap();
    let volume = format!("{}:/v:ro", project.environment.path("v").display());
    let flags = ["-t", "x", "--ulimit", "nofile=99", "--shm-size", "2m", "--add-host", "db:10.1.2.3"];
    let with_volume = [&flags[..], &["-v", &volume]].concat();
    project.built(recipe, &with_volume);
    assert_eq!(project.cat("x", "n"), "99\n");
    assert_eq!(project.cat("x", "shm"), "2048\n");
    assert!(project.cat("x", "h").starts_with("10.1.2.3"), "{}", project.cat("x", "h"));
    assert_eq!(project.cat("x", "f"), "mounted");
    assert!(!project.exported("x").join("v/f").exists(), "what was mounted is not in the image");
    let network =
        project.built("FROM base\nRUN ip -o link | wc -l > /l\n", &["-t", "x", "--network", "none"]);
    assert_eq!((network.did().len(), project.cat("x", "l").as_str()), (1, "1\n"));
    project.write("Dockerfile", "FROM base\nRUN --network=host true\n");
    let asked = |flags: &[&str]| {
        let mut command = project.command(&[flags, &["."]].concat());
        Built::of(ran(command.env("ROOTLING_NET", "none").output().unwrap()))
    };
    let refused = asked(&[]);
    assert!(
        refused.ran.code != 0 && refused.ran.stderr.contains("--allow network.host"),
        "{}",
        refused.ran.stderr
    );
    asked(&["--allow", "network.host"]).succeeded();
}
