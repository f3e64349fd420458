//! What a tree says of how it is run, and what the flags make of that.

use super::*;

/// A box whose tree has a configuration.
fn configured(changes: &[&str]) -> Option<Boxes> {
    let boxes = Boxes::new()?;
    let root = format!("dir:{}", boxes.path("tree").display());
    let mut arguments = vec!["import", &root, "app"];
    for change in changes {
        arguments.extend(["--change", change]);
    }
    boxes.ok(&arguments);
    Some(boxes)
}

#[test]
fn entrypoint_command_env_directory_and_user_are_those_of_the_tree() {
    let changes = [
        r#"ENTRYPOINT ["sh", "-c", "echo $0 $A $B; pwd; id -u"]"#,
        r#"CMD ["zero"]"#,
        "ENV A=one B=two",
        "WORKDIR /srv/app",
        "USER me",
    ];
    let Some(boxes) = configured(&changes) else { return };
    assert_eq!(boxes.ok(["run", "app"]), "zero one two\n/srv/app\n1000\n");
    assert_eq!(boxes.ok(["run", "app", "--", "other"]), "other one two\n/srv/app\n1000\n");
    let flags = ["run", "-e", "A=mine", "-w", "/tmp", "-u", "root", "app"];
    assert_eq!(boxes.ok(flags), "zero mine two\n/tmp\n0\n");
    assert_eq!(boxes.ok(["run", "--entrypoint", "echo", "app"]), "\n");
    assert_eq!(boxes.ok(["run", "--entrypoint", "[\"echo\", \"-n\"]", "app", "x"]), "x");
    // A directory that was asked for by a flag and is missing is more likely a slip.
    assert_eq!(boxes.run(["run", "-w", "/missing", "app"]).code, 125);
    // enter and exec bring their own command; the rest holds for them too.
    boxes.ok(["create", "app", "dev"]);
    assert_eq!(boxes.ok(["exec", "dev", "--", "sh", "-c", "echo $A; pwd; id -u"]), "one\n/srv/app\n1000\n");
    boxes.ok(["start", "-e", "A=started", "dev", "--", "unused"]);
    wait_until("it ends", || boxes.row("dev")["status"] == "exited");
    assert_eq!(boxes.ok(["logs", "dev"]), "unused started two\n/srv/app\n1000\n");
    boxes.assert_tidy(&["app", "base", "dev"]);
}

#[test]
fn a_command_that_joins_gets_what_the_box_was_started_with() {
    let Some(boxes) = configured(&["ENV A=image B=image", "WORKDIR /srv"]) else { return };
    boxes.ok([
        "run", "-d", "--name", "web", "-e", "A=asked", "-w", "/tmp", "-u", "1000", "app", "--", "sleep",
        "1000",
    ]);
    let script = "echo $A $B; pwd; id -u; echo $HOME";
    assert_eq!(boxes.ok(["exec", "web", "--", "sh", "-c", script]), "asked image\n/tmp\n1000\n/\n");
    let flags = ["exec", "-e", "B=now", "-w", "/etc", "-u", "root", "web", "--", "sh", "-c", script];
    assert_eq!(boxes.ok(flags), "asked now\n/etc\n0\n/\n");
    // Secrets may be in there.
    let note = boxes.slot("web").join("running.json");
    assert_eq!(fs::metadata(note).unwrap().mode() & 0o777, 0o600);
    boxes.ok(["kill", "web"]);
}

#[test]
fn the_signal_that_stops_it_is_its_own() {
    let changes = [
        "STOPSIGNAL SIGUSR2",
        r#"CMD ["sh", "-c", "trap 'exit 9' USR2; trap '' TERM; echo up; while :; do sleep 0.1; done"]"#,
    ];
    let Some(boxes) = configured(&changes) else { return };
    boxes.ok(["create", "app", "dev"]);
    boxes.ok(["start", "dev"]);
    boxes.logged("dev", "up");
    boxes.ok(["stop", "dev"]);
    assert_eq!(boxes.ok(["wait", "dev"]), "9\n");
    assert!(boxes.ok(["generate", "systemd", "dev"]).contains("KillSignal=SIGUSR2\n"));
}

#[test]
fn settings_are_shown_kept_by_forks_and_changed_by_commits() {
    let Some(boxes) = configured(&["ENV A=1", "LABEL who=\"some body\"", "EXPOSE 80"]) else { return };
    boxes.ok(["create", "app", "dev"]);
    assert_eq!(boxes.json(["show", "dev"])["config"]["Env"][0], "A=1");
    boxes.ok(["exec", "dev", "--", "touch", "/new"]);
    boxes.ok(["commit", "--change", "ENV A=2", "--change", "CMD [\"pwd\"]", "dev", "next"]);
    let config = boxes.json(["show", "next"])["config"].clone();
    assert_eq!((&config["Env"][0], &config["Cmd"][0]), (&"A=2".into(), &"pwd".into()));
    assert_eq!(config["ExposedPorts"]["80/tcp"], serde_json::json!({}));
    assert_eq!(boxes.json(["show", "dev"])["config"]["Env"][0], "A=1", "the box stays as it was");
    boxes.ok(["fork", "next", "third"]);
    assert_eq!(boxes.ok(["run", "third"]), "/\n");
    let text = boxes.ok(["show", "next"]);
    assert!(text.contains("command   [\"pwd\"]") && text.contains("label     who=some body"), "{text}");
    assert!(boxes.json(["show", "base"])["config"].is_null());
    assert!(boxes.fails(["commit", "--change", "RUN x", "dev", "bad"]).contains("there are CMD"));
    boxes.ok(["fsck"]);
}

#[test]
fn a_working_directory_is_made_inside_and_nowhere_else() {
    let Some(boxes) = Boxes::new() else { return };
    let tree = boxes.path("tree");
    fs::create_dir(boxes.path("outside")).unwrap();
    fs::create_dir(tree.join("real")).unwrap();
    symlink("/real", tree.join("inner")).unwrap();
    symlink(boxes.path("outside"), tree.join("escape")).unwrap();
    for (directory, code, words) in [
        ("/inner/made", 0, "/real/made\n"),
        ("/escape/made", 125, ""),
        ("/proc/self/fd/3/made", 125, ""),
        ("/../../made", 0, "/made\n"),
    ] {
        let name = format!("w{}", directory.replace(['/', '.'], "x"));
        let root = format!("dir:{}", tree.display());
        boxes.ok(["import", "--change", &format!("WORKDIR {directory}"), &root, &name]);
        let ran = boxes.run(["run", &name, "--", "pwd"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, words), "{directory}: {}", ran.stderr);
    }
    assert_eq!(fs::read_dir(boxes.path("outside")).unwrap().count(), 0);
}
