//! From `-d` to the end, whoever brings it about.

use super::*;

#[test]
fn what_is_left_running_is_found_read_joined_and_stopped() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "echo out; echo err >&2; echo $$ > /tmp/pid; exec sleep 1000";
    let started = boxes.ok(["start", "dev", "--", "sh", "-c", script]);
    assert_eq!(started, "dev\n");
    boxes.logged("dev", "out");
    let row = boxes.row("dev");
    assert_eq!((row["status"].as_str(), row["kind"].as_str()), (Some("running"), Some("box")));
    assert_eq!((row["detached"].as_bool(), row["terminal"].as_bool()), (Some(true), Some(false)));
    assert_eq!(row["command"][2], script);
    assert!(boxes.ok(["ps"]).contains("up "), "{}", boxes.ok(["ps"]));
    assert_eq!(boxes.ok(["-q", "ps"]), "dev\n");
    let logs = boxes.run(["logs", "dev"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(boxes.ok(["exec", "dev", "--", "cat", "/tmp/pid"]), "2\n");
    assert!(boxes.fails(["start", "dev", "--", "true"]).contains("dev runs already"));
    assert!(boxes.fails(["exec", "-d", "dev", "--", "true"]).contains("only what starts a box"));
    assert!(boxes.fails(["rm", "dev"]).contains("in use"), "{}", boxes.fails(["rm", "dev"]));
    assert_eq!(boxes.ok(["stop", "dev"]), "dev\n");
    let row = boxes.row("dev");
    assert_eq!((row["status"].as_str(), row["exit_code"].as_i64()), (Some("exited"), Some(143)));
    assert_eq!(boxes.ok(["-q", "ps"]), "");
    assert_eq!(boxes.ok(["wait", "dev"]), "143\n");
    assert_eq!(boxes.ok(["stop", "dev"]), "dev\n", "stopped already is stopped");
    assert!(boxes.ok(["logs", "dev"]).contains("out"), "a box keeps its log");
    boxes.assert_tidy(&["base", "dev"]);
}

#[test]
fn the_caller_is_told_why_it_did_not_start_with_the_same_code() {
    let Some(boxes) = Boxes::with_dev() else { return };
    for (command, code, words) in [
        (&["/nowhere"][..], 127, "find \"/nowhere\""),
        (&["/etc"], 126, "execute \"/etc\""),
        (&["-w", "/missing", "true"], 125, "/missing"),
        (&["-u", "nobody-here", "true"], 125, "nobody-here"),
    ] {
        for verb in [&["run", "-d", "--name", "x", "base"][..], &["start", "dev"], &["exec", "-d", "dev"]] {
            let split = command.len() - 1;
            let arguments: Vec<&str> = match verb[0] {
                "run" => [&verb[..4], &command[..split], &["base", "--"], &command[split..]].concat(),
                _ => [&verb[..verb.len() - 1], &command[..split], &["dev", "--"], &command[split..]].concat(),
            };
            let ran = boxes.run(&arguments);
            assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
            assert!(
                ran.stderr.contains(words) && ran.stdout.is_empty(),
                "{arguments:?}: {}{}",
                ran.stdout,
                ran.stderr
            );
        }
    }
    boxes.assert_tidy(&["base", "dev"]);
}

#[test]
fn a_fork_goes_with_its_run_unless_it_is_kept() {
    let Some(boxes) = Boxes::new() else { return };
    boxes.ok(["run", "-d", "--name", "web", "base", "--", "sh", "-c", "echo hi; exec sleep 1000"]);
    assert!(
        boxes.fails(["run", "-d", "--name", "web", "base", "--", "true"]).contains("the name web is taken")
    );
    assert!(boxes.fails(["run", "--name", "base", "base", "--", "true"]).contains("the name base is taken"));
    boxes.logged("web", "hi");
    assert_eq!(boxes.row("web")["kind"], "run");
    assert_eq!(boxes.ok(["exec", "web", "--", "pwd"]), "/\n");
    let wait = Killed(boxes.command().args(["wait", "web"]).stdout(Stdio::piped()).spawn().unwrap());
    // Whoever waits has found it before it ends.
    wait_until("wait has opened the note", || {
        fs::read_dir(format!("/proc/{}/fd", wait.0.id())).is_ok_and(|files| {
            files
                .flatten()
                .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.ends_with("running.json")))
        })
    });
    assert_eq!(boxes.ok(["kill", "web"]), "web\n");
    let mut wait = wait;
    let mut said = String::new();
    wait.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((wait.code(), said.as_str()), (0, "137\n"));
    assert!(boxes.row("web").is_null());
    assert!(boxes.fails(["logs", "web"]).contains("there is no web"));
    boxes.assert_tidy(&["base"]);
    let id =
        boxes.ok(["run", "-d", "--keep", "mine", "base", "--", "sh", "-c", "echo work > /work; echo done"]);
    let id = id.trim();
    wait_until("kept", || boxes.run(["ls"]).stdout.contains("mine"));
    wait_until("the end", || boxes.row("mine")["status"] == "exited");
    assert_eq!(boxes.row("mine")["id"], id);
    assert_eq!(boxes.ok(["logs", "mine"]), "done\n");
    assert_eq!(boxes.ok(["exec", "mine", "--", "cat", "/work"]), "work\n");
    boxes.assert_tidy(&["base", "mine"]);
}

#[test]
fn a_command_that_ignores_the_question_is_killed_and_one_that_answers_is_not() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let deaf = "trap '' TERM; echo up; while :; do sleep 1; done";
    boxes.ok(["start", "dev", "--", "sh", "-c", deaf]);
    boxes.logged("dev", "up");
    let start = Instant::now();
    boxes.ok(["stop", "-t", "1", "dev"]);
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(8));
    assert_eq!(boxes.row("dev")["exit_code"], 137);
    let polite = "trap 'echo bye; exit 5' USR1; echo up again; while :; do sleep 0.1; done";
    boxes.ok(["start", "dev", "--", "sh", "-c", polite]);
    boxes.logged("dev", "up again");
    boxes.ok(["stop", "--signal", "USR1", "dev"]);
    assert_eq!(boxes.row("dev")["exit_code"], 5);
    assert!(boxes.ok(["logs", "dev"]).ends_with("bye\n"));
    boxes.ok([
        "start",
        "dev",
        "--",
        "sh",
        "-c",
        "trap 'echo sent' HUP; echo third; while :; do sleep 0.1; done",
    ]);
    boxes.logged("dev", "third");
    boxes.ok(["kill", "-s", "HUP", "dev"]);
    boxes.logged("dev", "sent");
    boxes.ok(["kill", "dev"]);
    assert_eq!(boxes.ok(["wait", "dev"]), "137\n");
    assert!(boxes.fails(["kill", "dev"]).contains("dev does not run"));
    assert!(boxes.fails(["stop", "nobody", "dev"]).contains("there is no nobody"));
}

#[test]
fn a_killed_supervisor_leaves_nothing_running_and_the_store_clean() {
    let Some(boxes) = Boxes::with_dev() else { return };
    boxes.ok(["run", "-d", "--name", "web", "base", "--", "sh", "-c", "sleep 1000 & sleep 1000"]);
    boxes.ok(["start", "-t", "dev", "--", "sh", "-c", "sleep 1000 & sleep 1000"]);
    for name in ["web", "dev"] {
        let (pid, supervisor) = (boxes.pid(name), boxes.supervisor(name));
        kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
        wait_until("the end of the command", || !is_alive(pid) && !is_alive(supervisor));
    }
    assert_eq!(boxes.ok(["-q", "ps"]), "");
    assert_eq!(boxes.row("dev")["status"], "killed");
    let waited = boxes.run(["wait", "dev"]);
    assert_eq!(waited.stdout, "137\n");
    assert!(waited.stderr.contains("nobody saw how it ended"), "{}", waited.stderr);
    boxes.ok(["fsck"]);
    boxes.ok(["prune"]);
    boxes.ok(["start", "-t", "dev", "--", "sleep", "1000"]);
    boxes.ok(["kill", "dev"]);
    boxes.assert_tidy(&["base", "dev"]);
}

#[test]
fn of_many_who_start_the_same_one_does_and_the_others_are_told() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let all = |arguments: &[&str]| {
        let mut started = Vec::new();
        for _ in 0..8 {
            let mut command = boxes.command();
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
            started.push(command.spawn().unwrap());
        }
        let ends: Vec<_> = started.into_iter().map(|child| ran(child.wait_with_output().unwrap())).collect();
        let (good, bad): (Vec<_>, Vec<_>) = ends.into_iter().partition(|end| end.code == 0);
        assert_eq!(good.len(), 1, "{good:?} {bad:?}");
        bad
    };
    for end in all(&["-q", "start", "dev", "--", "sleep", "1000"]) {
        assert!(end.code == 125 && end.stderr.contains("dev runs already"), "{end:?}");
    }
    for end in all(&["-q", "run", "-d", "--name", "web", "base", "--", "sleep", "1000"]) {
        assert!(end.code == 125 && end.stderr.contains("the name web is taken"), "{end:?}");
    }
    boxes.ok(["kill", "dev", "web"]);
    boxes.assert_tidy(&["base", "dev"]);
}

#[test]
fn a_killed_caller_takes_back_what_it_asked_for() {
    let Some(boxes) = Boxes::new() else { return };
    // The store's lock is held, so that the start waits.
    let lock = fs::File::options().write(true).open(boxes.store().join("lock")).unwrap();
    lock.lock().unwrap();
    let mut caller =
        Killed(boxes.command().args(["-q", "run", "-d", "base", "--", "sleep", "1000"]).spawn().unwrap());
    let child =
        || fs::read_to_string(format!("/proc/{0}/task/{0}/children", caller.0.id())).unwrap_or_default();
    wait_until("the supervisor", || !child().is_empty());
    let supervisor: i32 = child().trim().parse().unwrap();
    caller.0.kill().unwrap();
    caller.0.wait().unwrap();
    wait_until("the end of the supervisor", || !is_alive(supervisor));
    lock.unlock().unwrap();
    boxes.assert_tidy(&["base"]);
}

#[test]
fn a_supervisor_holds_nothing_of_its_callers() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "exec 7< /etc 9> $D/held; cd $D/tree; out=$($R start dev -- sleep 1000 2>&1); echo got $out";
    assert_eq!(boxes.script_ok(script), "got dev\n");
    let supervisor = boxes.supervisor("dev");
    let links = || fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().map(|file| file.unwrap().path());
    let files: Vec<String> =
        links().map(|link| fs::read_link(link).unwrap().to_string_lossy().into_owned()).collect();
    // By inode: the box has a directory of that name too, whose mount points the supervisor will remove.
    let inode = |path: PathBuf| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    assert!(!links().any(|link| inode(link) == inode("/etc".into())), "{files:?}");
    assert!(!files.iter().any(|file| file.ends_with("held")), "{files:?}");
    assert_eq!(files.iter().filter(|file| *file == "/dev/null").count(), 3, "{files:?}");
    assert_eq!(fs::read_link(format!("/proc/{supervisor}/cwd")).unwrap(), PathBuf::from("/"));
    let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[3], fields[4]), (supervisor.to_string().as_str(), "0"), "session and terminal");
    boxes.ok(["kill", "dev"]);
}

#[test]
fn logs_are_followed_to_the_end_cut_by_lines_and_time_and_rotated() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); sleep 0.2; done; echo last >&2; echo -n unended";
    boxes.ok(["start", "dev", "--", "sh", "-c", script]);
    let followed = boxes.run(["logs", "-f", "dev"]);
    assert_eq!(followed.stdout, "line 0\nline 1\nline 2\nline 3\nline 4\nunended");
    assert_eq!(followed.stderr, "last\n");
    assert_eq!(boxes.run(["logs", "--tail", "2", "dev"]).stdout, "unended");
    assert_eq!(boxes.run(["logs", "-n", "3", "dev"]).stdout, "line 4\nunended");
    assert_eq!(boxes.ok(["logs", "--since", "2000-01-01T00:00:00Z", "-n", "0", "dev"]), "");
    assert_eq!(boxes.ok(["logs", "--since", "2099-01-01T00:00:00Z", "dev"]), "");
    let stamped = boxes.ok(["logs", "-t", "dev"]);
    let times: Vec<&str> = stamped.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(times.iter().all(|time| time.len() == 30 && time.ends_with('Z')), "{times:?}");
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
    // Five times as much as both files may hold.
    boxes.ok(["start", "--log-size", "64K", "dev", "--", "sh", "-c", "seq 1 100000"]);
    boxes.ok(["wait", "dev"]);
    let slot = boxes.slot("dev");
    for name in ["log", "log.1"] {
        let meta = fs::metadata(slot.join(name)).unwrap();
        assert!(meta.len() <= 64 << 10 && meta.len() > 0, "{name}: {}", meta.len());
        assert_eq!(meta.mode() & 0o777, 0o600);
    }
    let numbers: Vec<u32> = boxes.ok(["logs", "dev"]).lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&100_000));
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "lines are missing in between");
}

#[test]
fn a_full_disk_costs_lines_and_never_the_command() {
    let Some(boxes) = Boxes::new() else { return };
    let script = "
        mkdir $D/small; mount -t tmpfs -o size=4m tmpfs $D/small
        export ROOTLING_ROOT=$D/small/store; $R -q init > /dev/null; $R -q import dir:$D/tree base > /dev/null; $R -q create base dev > /dev/null
        $R -q start dev -- sh -c 'echo begin; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 50000; touch /tmp/said; while [ ! -e /tmp/room ]; do sleep 0.05; done; echo after; exit 7' > /dev/null
        $R -q exec dev -- touch /tmp/go; dd if=/dev/zero of=$D/small/fill bs=4k 2> /dev/null || true
        i=0; until $R -q exec dev -- ls /tmp/said > /dev/null 2>&1; do sleep 0.1; i=$((i+1)); test $i -lt 100; done
        rm $D/small/fill; $R -q exec dev -- touch /tmp/room; $R wait dev; $R logs dev > $D/out 2> $D/note; head -1 $D/out; tail -1 $D/out; cat $D/note";
    let said = boxes.script_ok(script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["7", "begin", "after"], "{said}");
    assert!(lines[3].contains("lines before this one could not be written"), "{said}");
    let kept = fs::read_to_string(boxes.path("out")).unwrap();
    assert!(kept.lines().skip(1).all(|line| line == "after" || line.parse::<u32>().is_ok()), "a torn line");
}

#[test]
fn a_thousand_orphans_are_reaped() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let script = "i=0; while [ $i -lt 1000 ]; do (true &); i=$((i+1)); done; echo made; exec sleep 1000";
    boxes.ok(["start", "dev", "--", "sh", "-c", script]);
    boxes.logged("dev", "made");
    wait_until("no zombies", || {
        let rows = boxes.json(["top", "dev"]);
        rows.as_array().unwrap().iter().all(|row| row["state"] != "Z")
    });
    assert_eq!(boxes.json(["top", "dev"]).as_array().unwrap().len(), 2);
    boxes.ok(["kill", "dev"]);
}

#[test]
fn top_lists_the_processes_inside_and_only_those() {
    let Some(boxes) = Boxes::with_dev() else { return };
    boxes.ok(["start", "dev", "--", "sh", "-c", "sleep 4321 & sleep 1234; true"]);
    let commands = |rows: &serde_json::Value| -> Vec<String> {
        let list = |row: &serde_json::Value| {
            row["command"]
                .as_array()
                .unwrap()
                .iter()
                .map(|w| w.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        rows.as_array().unwrap().iter().map(list).collect()
    };
    wait_until("both sleeps", || {
        commands(&boxes.json(["top", "dev"])).iter().filter(|c| c.starts_with("sleep")).count() == 2
    });
    let rows = boxes.json(["top", "dev"]);
    assert_eq!(rows[0]["pid_inside"], 1);
    assert_eq!(rows[1]["pid_inside"], 2);
    assert_eq!(rows[1]["uid"], 0, "root inside, whoever outside");
    assert_eq!(rows.as_array().unwrap().len(), 4);
    let table = boxes.ok(["top", "dev"]);
    assert!(table.starts_with("PID ") && table.contains("sleep 4321"), "{table}");
    // Without a pid namespace of its own: what descends from it, and not the whole machine.
    boxes.ok(["stop", "-t", "0", "dev"]);
    boxes.ok(["start", "--pid", "host", "dev", "--", "sh", "-c", "sleep 4321 & sleep 1234; true"]);
    wait_until("both sleeps", || {
        commands(&boxes.json(["top", "dev"])).iter().filter(|c| c.starts_with("sleep")).count() == 2
    });
    assert_eq!(boxes.json(["top", "dev"]).as_array().unwrap().len(), 4);
    boxes.ok(["stop", "-t", "1", "dev"]);
    assert!(boxes.fails(["top", "dev"]).contains("dev does not run"));
}

#[test]
fn foreground_runs_are_listed_and_stopped_too() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let mut run = Killed(
        boxes
            .command()
            .args(["-q", "run", "--name", "front", "base", "--", "sleep", "1000"])
            .spawn()
            .unwrap(),
    );
    let mut enter =
        Killed(boxes.command().args(["-q", "exec", "dev", "--", "sleep", "1000"]).spawn().unwrap());
    wait_until("both run", || boxes.ok(["-q", "ps"]) == "dev\nfront\n");
    assert!(boxes.fails(["logs", "dev"]).contains("dev has no log"));
    assert!(boxes.fails(["attach", "front"]).contains("front is not detached"));
    assert_eq!(boxes.ok(["stop", "front", "dev"]), "front\ndev\n");
    assert_eq!((run.code(), enter.code()), (143, 143));
    assert_eq!(boxes.row("dev")["exit_code"], 143);
    boxes.assert_tidy(&["base", "dev"]);
}

#[test]
fn a_unit_for_systemd_is_one_that_systemd_takes() {
    let Some(boxes) = Boxes::with_dev() else { return };
    assert!(boxes.fails(["generate", "systemd", "dev"]).contains("dev has no command of its own"));
    let error = boxes.fails(["generate", "systemd", "base", "--", "true"]);
    assert!(error.contains("base is committed") && error.contains("rootling create base"), "{error}");
    let unit = boxes.ok(["generate", "systemd", "dev", "--", "sh", "-c", "echo \"$HOME\" 100%; sleep 1"]);
    for line in ["Type=exec", "KillMode=mixed", "Restart=on-failure", "WantedBy=multi-user.target"] {
        assert!(unit.lines().any(|known| known == line), "{line} in {unit}");
    }
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    assert!(
        command.ends_with("start --foreground --no-tty -- dev sh -c \"echo \\\"$$HOME\\\" 100%%; sleep 1\""),
        "{command}"
    );
    // What the unit runs, without the one who would run it.
    let ran = boxes.run(["start", "--foreground", "--no-tty", "--", "dev", "sh", "-c", "echo seen; exit 3"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "seen\n"));
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("systemd-analyze is not installed");
    }
    let path = boxes.path("rootling-dev.service");
    fs::write(&path, unit).unwrap();
    let checked =
        crate::environment::ran(Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap());
    assert_eq!(checked.code, 0, "{}", checked.stderr);
}

#[test]
fn a_box_does_not_take_the_name_of_a_fork_that_runs() {
    let Some(boxes) = Boxes::new() else { return };
    boxes.ok(["-q", "run", "-d", "--name", "busy", "base", "--", "sleep", "1000"]);
    for words in [&["create", "base", "busy"][..], &["fork", "base", "busy"]] {
        let error = boxes.fails(words);
        assert!(error.contains("the name busy is taken"), "{error}");
    }
    boxes.ok(["-q", "kill", "busy"]);
}
