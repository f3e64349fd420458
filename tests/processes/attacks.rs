//! Attacks on who looks after what runs; the first two are also shown to work with the wall removed.

use super::*;

/// CVE-2022-1227: a look at a box from outside ran a program of the box.
#[test]
fn cve_2022_1227_no_program_of_the_box_is_run_to_list_its_processes() {
    let Some(boxes) = Boxes::new() else { return };
    // Written beside first: the tree's tools are links to one program, which must stay.
    fs::write(boxes.path("hostile"), "#!/bin/sh\necho ran > /ran\n").unwrap();
    fs::set_permissions(boxes.path("hostile"), PermissionsExt::from_mode(0o755)).unwrap();
    let tree = boxes.path("tree");
    for name in ["ps", "top", "cat", "ls"] {
        let tool = tree.join("bin").join(name);
        fs::remove_file(&tool).unwrap_or_default();
        fs::copy(boxes.path("hostile"), &tool).unwrap();
    }
    boxes.ok(["import", &format!("dir:{}", tree.display()), "hostile"]);
    boxes.ok(["create", "hostile", "bad"]);
    boxes.ok(["start", "bad", "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    boxes.logged("bad", "ready");
    for command in [&["top", "bad"][..], &["ps", "-a"], &["--format", "json", "top", "bad"], &["show", "bad"]]
    {
        boxes.ok(command);
    }
    let has_run = || boxes.run(["exec", "bad", "--", "grep", "ran", "/ran"]).code == 0;
    assert!(!has_run());
    boxes.ok(["exec", "bad", "--", "ps"]);
    assert!(has_run(), "void: the program does not say that it ran");
    boxes.ok(["kill", "bad"]);
}

/// The id of a process that has ended is given to another one, which must not be hit.
#[test]
fn a_process_that_got_the_id_of_a_box_is_not_taken_for_it() {
    let Some(boxes) = Boxes::with_dev() else { return };
    if !std::path::Path::new("/proc/sys/kernel/ns_last_pid").exists() {
        return skip("the kernel cannot be told which process id comes next (CONFIG_CHECKPOINT_RESTORE)");
    }
    // In a pid namespace of the test's own, where ids are few and its own to give.
    let script = "
        pid() { $R --format json ps -a | tr -d ' ,' | sed -n 's/^\"pid\"://p' | head -1; }
        ids() { sed 's/.*\"pid\":\\([0-9]*\\),.*/\\1/' $ROOTLING_ROOT/o/*/running.json; }
        $R -q start dev -- sleep 1000 > /dev/null; p=$(pid)
        supervisor=$(cut -d' ' -f4 /proc/$(cut -d' ' -f4 /proc/$p/stat)/stat)
        kill -9 $supervisor; while [ -e /proc/$p ]; do sleep 0.01; done
        test \"$(ids)\" = $p
        for try in $(seq 200); do echo $((p - 1)) > /proc/sys/kernel/ns_last_pid; sleep 1000 & v=$!; [ $v = $p ] && break; kill $v; done
        test $v = $p || { echo void: the id did not come again; exit 9; }
        for command in 'kill dev' 'kill -s TERM dev' 'stop -t 0 dev' 'top dev' 'attach dev'; do
            $R $command > /dev/null 2> $D/said && code=0 || code=$?; echo \"$command: $code $(grep -c 'does not run' $D/said)\"; done
        test -e /proc/$v && echo unharmed
        $R -q exec dev -- sh -c 'echo a run of its own'
        # The wall removed: the note says when the other one started.
        $R -q start dev -- sleep 1000 > /dev/null; p=$(pid); supervisor=$(cut -d' ' -f4 /proc/$(cut -d' ' -f4 /proc/$p/stat)/stat)
        kill -9 $supervisor; while [ -e /proc/$p ]; do sleep 0.01; done
        started=$(sed 's/.*) //' /proc/$v/stat | cut -d' ' -f20)
        sed -i \"s/\\\"pid\\\":$p,\\\"start_time_ticks\\\":[0-9]*/\\\"pid\\\":$v,\\\"start_time_ticks\\\":$started/\" $ROOTLING_ROOT/o/*/running.json
        $R kill -s TERM dev > /dev/null; sleep 0.1; kill -0 $v 2> /dev/null || echo hit";
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", script])
        .env("R", BINARY)
        .env("D", boxes.path(""))
        .env("ROOTLING_NET", "host")
        .env("ROOTLING_ROOT", boxes.store())
        .stdin(Stdio::null());
    let ran = ran(command.output().unwrap());
    assert_eq!(
        ran.stdout,
        "kill dev: 1 1\nkill -s TERM dev: 1 1\nstop -t 0 dev: 0 0\ntop dev: 1 1\nattach dev: 1 1\n\
         unharmed\na run of its own\nhit\n",
        "{}",
        ran.stderr
    );
}

/// Who is in a box, and even root there, cannot reach what its supervisor holds: the log, the note, the visitors' door.
#[test]
fn a_box_cannot_reach_its_log_its_note_or_its_visitors() {
    let Some(boxes) = Boxes::with_dev() else { return };
    boxes.ok(["start", "-t", "dev", "--", "sh", "-c", "echo said; exec sleep 1000"]);
    boxes.logged("dev", "said");
    let slot = boxes.slot("dev");
    let script = "ls -l /proc/*/fd 2>/dev/null; cat /proc/self/mountinfo /proc/net/unix";
    let seen = boxes.ok(["exec", "dev", "--", "sh", "-c", script]);
    let id = boxes.row("dev")["id"].as_str().unwrap().to_owned();
    for secret in ["running.json", "attach/socket", "log.1"] {
        assert!(!seen.lines().any(|line| line.contains(&id) && line.contains(secret)), "{secret} in {seen}");
    }
    // The door and the log are for the one who started the box alone.
    assert_eq!(fs::metadata(slot.join("attach")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(slot.join("log")).unwrap().mode() & 0o777, 0o600);
    boxes.ok(["kill", "dev"]);
}
