//! `fork` many times over: one state, machines of their own, a command in each, and the report.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rootling::store::{Base, CreateOptions, Name, Store};
use serde_json::{Value, json};

use crate::environment::{self, BINARY, Environment, names, ran};
use crate::grounds::on_file_systems;
use crate::guest::{Ids, guest};
use crate::host::FileSystem;
use crate::lab::eventually;

const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef\n";

/// A store with `dev`, a box of busybox that is a machine.
fn with_dev(environment: &Environment) -> bool {
    let etc = environment.path("root/etc");
    fs::create_dir_all(etc.join("ssh")).unwrap();
    fs::write(etc.join("machine-id"), MACHINE_ID).unwrap();
    fs::write(etc.join("hostname"), "dev\n").unwrap();
    fs::write(etc.join("ssh/ssh_host_ed25519_key"), "secret\n").unwrap();
    fs::write(etc.join("ssh/ssh_config"), "kept\n").unwrap();
    environment::with_dev(environment)
}

fn in_box(environment: &Environment, name: &str, line: &str) -> String {
    environment.ok(["exec", name, "--", "sh", "-c", line])
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn many_forks_stand_on_one_state_and_are_machines_of_their_own() {
    on_file_systems(|environment, sort| {
        if !with_dev(environment) {
            return;
        }
        in_box(environment, "dev", "echo before > /state");
        let made = environment.json(["fork", "dev", "w", "--count", "3"]);
        assert_eq!(made.as_array().unwrap().len(), 3, "{sort}");
        in_box(environment, "dev", "echo after > /state");
        let parents: BTreeSet<&str> =
            made.as_array().unwrap().iter().map(|made| made["parent"].as_str().unwrap()).collect();
        assert_eq!(parents.len(), 1, "{sort}: frozen once: {made}");
        let look = "cat /state; hostname; cat /etc/hostname /etc/machine-id; ls /etc/ssh; stat -c %a /etc/machine-id";
        let mut ids = BTreeSet::from([MACHINE_ID.trim().to_owned()]);
        for name in ["w-1", "w-2", "w-3"] {
            let seen = in_box(environment, name, look);
            let lines: Vec<&str> = seen.lines().collect();
            assert_eq!(
                [&lines[..3], &lines[4..]].concat(),
                ["before", name, name, "ssh_config", "644"],
                "{sort}"
            );
            assert!(ids.insert(lines[3].to_owned()), "{sort}: {name} has the id of another: {}", lines[3]);
        }
        assert_eq!(in_box(environment, "dev", "cat /etc/machine-id"), MACHINE_ID, "{sort}");
        // Of one fork the machine is kept, unless one asks for another.
        environment.ok(["fork", "dev", "same"]);
        environment.ok(["fork", "dev", "other", "--identity", "new"]);
        environment.ok(["create", "base", "made", "--identity", "new"]);
        assert_eq!(environment.ok(["diff", "same"]), "", "{sort}");
        let changed = "C /etc/hostname\nC /etc/machine-id\nD /etc/ssh/ssh_host_ed25519_key\n";
        assert_eq!(environment.ok(["diff", "other"]), changed, "{sort}");
        assert_eq!(environment.ok(["diff", "made"]), changed, "{sort}");
        environment.ok(["fork", "dev", "k", "--count", "1", "--identity", "keep"]);
        assert_eq!(in_box(environment, "k-1", "cat /etc/machine-id"), MACHINE_ID, "{sort}");
        environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn names_that_are_taken_are_left_out_and_a_failure_leaves_nothing() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    assert_eq!(environment.ok(["fork", "dev", "--count", "2"]), "dev-1\ndev-2\n");
    environment.ok(["rm", "dev-1"]);
    assert_eq!(environment.ok(["fork", "dev", "--count", "2"]), "dev-1\ndev-3\n");
    let before = names(&environment);
    let store = Store::open(&environment.store()).unwrap();
    let node = store.named(&Name::parse("dev").unwrap()).unwrap().unwrap();
    let wanted = ["x", "y", "x"].map(|name| Name::parse(name).unwrap());
    let error = store.create_all(Base::Node(&node), &wanted, &CreateOptions::default()).unwrap_err();
    assert_eq!(error.kind(), rootling_backends::ErrorKind::AlreadyExists, "{error:?}");
    assert_eq!(names(&environment), before);
    environment.ok(["rm", "dev-1", "dev-2", "dev-3", "dev", "base"]);
    environment.assert_tidy(&[]);
}

#[test]
fn a_command_runs_in_each_and_is_reported() {
    on_file_systems(|environment, sort| {
        if !with_dev(environment) {
            return;
        }
        let line = "echo $WORD $ROOTLING_INDEX of $ROOTLING_COUNT in $ROOTLING_BOX; head -c 300000 /dev/urandom > /big
            mkdir /dir; rm /etc/passwd; sync; exit $((ROOTLING_INDEX == 2 ? 7 : 0))";
        let each = ["--identity", "keep", "--count", "3", "-e", "WORD=this is", "--each", line];
        let mut command = environment.command();
        let ran = ran(command.args(["--format", "json", "fork", "dev", "w"]).args(each).output().unwrap());
        assert_eq!(ran.code, 1, "{sort}: {}", ran.stderr);
        for said in [
            "w-1 | this is 1 of 3 in w-1\n",
            "w-3 | this is 3 of 3 in w-3\n",
            "removed what did not end with 0: w-2",
        ] {
            assert!(ran.stderr.contains(said), "{sort}: {}", ran.stderr);
        }
        let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
        for (index, row) in rows.as_array().unwrap().iter().enumerate() {
            let (number, failed) = (index + 1, index == 1);
            assert_eq!(
                (&row["index"], &row["name"], &row["exit_code"], &row["changed_files"], &row["kept"]),
                (
                    &json!(number),
                    &json!(format!("w-{number}")),
                    &json!(if failed { 7 } else { 0 }),
                    &json!(2),
                    &json!(!failed)
                ),
                "{sort}: {rows}"
            );
            assert!(row["elapsed_ns"].as_u64().unwrap() > 100_000, "{sort}: {rows}");
            // An overlay counts its own layer; others tell what they can.
            match row["exclusive_bytes"].as_u64() {
                Some(bytes) => assert!((300_000..2_000_000).contains(&bytes), "{sort}: {rows}"),
                None => assert_ne!(sort, FileSystem::Ext4, "{rows}"),
            }
        }
        assert_eq!(names(environment), "dev\nw-1\nw-3\n", "{sort}");
        assert!(environment.ok(["logs", "w-3"]).contains("this is 3 of 3"), "{sort}");
        // Without a shell, and what failed stays.
        let table = environment.run([
            "fork",
            "dev",
            "k",
            "-n",
            "2",
            "--keep-failed",
            "--",
            "sh",
            "-c",
            "exit $0",
            "5",
        ]);
        assert_eq!(
            (table.code, table.stdout.lines().count()),
            (1, 3),
            "{sort}: {}{}",
            table.stdout,
            table.stderr
        );
        assert!(table.stdout.starts_with("INDEX  BOX  EXIT  TIME "), "{sort}: {}", table.stdout);
        assert_eq!(names(environment), "dev\nk-1\nk-2\nw-1\nw-3\n", "{sort}");
        // One fork, by its name.
        assert_eq!(environment.ok(["-q", "fork", "dev", "one", "--each", "true"]), "one\n", "{sort}");
        environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn so_many_run_at_the_same_time_as_asked_for() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    fs::create_dir(environment.path("meet")).unwrap();
    let volume = format!("{}:/meet", environment.path("meet").display());
    let alone =
        "mkdir /meet/lock || exit 9; sleep 0.02; rmdir /meet/lock; echo $ROOTLING_INDEX >> /meet/order";
    environment.ok(["fork", "dev", "-n", "4", "-j", "1", "-v", &volume, "--each", alone]);
    assert_eq!(fs::read_to_string(environment.path("meet/order")).unwrap(), "1\n2\n3\n4\n");
    // Nobody leaves before all have come.
    let together = "touch /meet/$ROOTLING_INDEX; for i in $(seq 500); do
            test $(ls /meet | grep -c '^[0-9]$') = 6 && exit 0; sleep 0.02; done; exit 9";
    environment.ok(["fork", "dev", "t", "-n", "6", "--jobs=6", "-v", &volume, "--each", together]);
    assert!(!environment.path("meet/lock").exists());
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let environment = Environment::new();
    environment.import_base();
    for (arguments, words) in [
        (&["fork", "base", "w", "-e", "A=b"][..], "--env is of a command"),
        (&["fork", "base", "w", "--keep-failed"], "--each"),
        (&["fork", "base", "w", "-j", "2"], "--each"),
        (&["fork", "base", "w", "--each", "true", "--", "true"], "cannot be used"),
        (&["fork", "base", "w", "--each", "true", "--dry-run"], "--dry-run is of a single command"),
        (&["fork", "base", "w", "--count", "0"], "0 is not in"),
    ] {
        let said = environment.fails(arguments);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(environment.ok(["-q", "ls"]), "base\n");
    // What cannot even start is told in its row.
    let ran = environment.run(["fork", "base", "w", "--each", "true"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("w | rootling: "), "{}", ran.stderr);
}

#[test]
fn the_winner_takes_the_name_and_what_it_stood_for_is_a_snapshot() {
    on_file_systems(|environment, sort| {
        if !with_dev(environment) {
            return;
        }
        in_box(environment, "dev", "echo old > /state");
        environment.ok(["fork", "dev", "w", "--count", "2", "--each", "echo $ROOTLING_INDEX > /state"]);
        in_box(environment, "dev", "echo meanwhile > /other");
        let promoted = environment.json(["promote", "w-2", "as", "dev"]);
        assert_eq!((&promoted["name"], &promoted["before"]), (&json!("dev"), &json!("dev@1")), "{sort}");
        assert_eq!(names(environment), "dev\nw-1\n", "{sort}");
        assert_eq!(in_box(environment, "dev", "cat /state; ls /other || true"), "2\n", "{sort}");
        assert_eq!(
            environment.ok(["run", "dev@1", "--", "cat", "/state", "/other"]),
            "old\nmeanwhile\n",
            "{sort}"
        );
        // The past of the name goes on: its last state is what was replaced.
        let store = Store::open(&environment.store()).unwrap();
        let named = |name: &str| store.named(&Name::parse_with_label(name).unwrap()).unwrap().unwrap();
        assert_eq!(named("dev").record.life.past.last(), Some(&named("dev@1").id), "{sort}");
        environment.ok(["undo", "dev"]);
        assert_eq!(in_box(environment, "dev", "cat /state /other"), "old\nmeanwhile\n", "{sort}");
        environment.ok(["redo", "dev"]);
        assert_eq!(in_box(environment, "dev", "cat /state; ls /other || true"), "2\n", "{sort}");
        // To a name that nothing has, in the short form.
        environment.ok(["promote", "w-1", "best"]);
        assert_eq!(names(environment), "best\ndev\n", "{sort}");
        assert_eq!(in_box(environment, "best", "cat /state"), "1\n", "{sort}");
        for (arguments, words) in [
            (&["promote", "best", "best"][..], "best is called that already"),
            (&["promote", "best", "as", "base"], "the name base is taken"),
            (&["promote", "base", "x"], "base is committed"),
            (&["promote", "best", "to", "x"], "is not a name"),
            (&["promote", "nothing", "x"], "there is no nothing"),
        ] {
            let said = environment.fails(arguments);
            assert!(said.contains(words), "{sort}: {arguments:?}: {said}");
        }
        environment.ok(["start", "dev", "--", "sleep", "1000"]);
        for arguments in [["promote", "dev", "best"], ["promote", "best", "dev"]] {
            let said = environment.fails(arguments);
            assert!(said.contains("in use"), "{sort}: {said}");
        }
        environment.ok(["stop", "-t", "0", "dev"]);
        environment.ok(["fsck", "--verify"]);
        environment.ok(["rm", "dev", "best"]);
    });
}

/// Starts forks of which the first ends at once and the others wait; returns when all have said so.
fn start_three(environment: &Environment) -> (Child, BufReader<std::process::ChildStderr>) {
    let line = "echo up; test $ROOTLING_INDEX = 1 || sleep 1000";
    let mut command = environment.command();
    command.args(["--format", "json", "fork", "dev", "w", "-n", "4", "-j", "3", "--each", line]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut up = 0;
    while up < 4 {
        let mut text = String::new();
        assert_ne!(said.read_line(&mut text).unwrap(), 0, "it ended early");
        up += usize::from(text.ends_with("| up\n"));
    }
    (child, said)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn an_interrupt_ends_all_and_says_what_is_kept() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    let (child, mut said) = start_three(&environment);
    kill(pid_of(&child), Signal::SIGINT).unwrap();
    let ran = ran(child.wait_with_output().unwrap());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert_eq!(ran.code, 130, "{rest}");
    assert!(rest.contains("interrupted; kept: w-1\n"), "{rest}");
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    let codes: Vec<&Value> = rows.as_array().unwrap().iter().map(|row| &row["exit_code"]).collect();
    assert_eq!(codes, [&json!(0), &json!(143), &json!(143), &json!(143)], "{rows}");
    assert_eq!(environment.ok(["-q", "ps"]), "");
    assert_eq!(names(&environment), "dev\nw-1\n");
}

#[test]
fn nothing_runs_on_when_the_one_who_looks_on_is_killed() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    let (mut child, _said) = start_three(&environment);
    let running: BTreeSet<String> = environment.ok(["-q", "ps"]).lines().map(str::to_owned).collect();
    assert_eq!(running, set(["w-2", "w-3", "w-4"]));
    kill(pid_of(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    eventually("all have ended", || environment.ok(["-q", "ps"]).is_empty());
    assert_eq!(names(&environment), "dev\nw-1\nw-2\nw-3\nw-4\n", "they are boxes like any others");
    environment.ok(["fsck"]);
}

#[test]
fn an_ordinary_user_forks_and_runs_as_well() {
    for ids in [Ids::Range, Ids::None] {
        let Some(guest) = guest(ids) else { return };
        let stdout = guest.ok(
            "$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
            $R -q fork dev w --count 3 --each 'id -u > /who; test $ROOTLING_INDEX != 2' || test $? = 1
            $R -q exec w-3 cat /who; $R -q ps; $R -q ls --boxes",
        );
        assert_eq!(stdout, "w-1\nw-3\n0\ndev\nw-1\nw-3\n", "{ids:?}");
    }
}

/// A person at a terminal sees a table that moves, and the report at the end.
#[test]
fn a_table_moves_on_a_terminal() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    let command = format!("{BINARY} fork dev w -n 2 --each 'echo a line of $ROOTLING_BOX; sleep 0.3'");
    let mut script = std::process::Command::new("script");
    script
        .args(["-qec", &command, "/dev/null"])
        .env("ROOTLING_ROOT", environment.store())
        .env("ROOTLING_NET", "host");
    let ran = ran(script.stdin(Stdio::null()).output().expect("script(1) is there"));
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    for seen in ["1  w-1  runs", "a line of w-2", "INDEX  BOX"] {
        assert!(ran.stdout.contains(seen), "{seen}: {:?}", ran.stdout);
    }
    assert!(!ran.stdout.contains("w-1 | "), "{:?}", ran.stdout);
}

#[test]
fn names_that_runs_have_are_left_out_too() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    environment.ok(["run", "-d", "--name", "dev-2", "dev", "--", "sleep", "1000"]);
    environment.ok(["fork", "dev"]);
    assert_eq!(environment.ok(["fork", "dev", "-n", "2"]), "dev-1\ndev-4\n");
    environment.ok(["-q", "try", "--on-exit", "keep", "dev", "--", "touch", "/x"]);
    assert_eq!(names(&environment), "dev\ndev-1\ndev-3\ndev-4\ndev-5\n");
    assert!(environment.fails(["fork", "dev", "dev-2"]).contains("the name dev-2 is taken"));
    assert!(
        environment.fails(["fork", "dev", "dev-2", "--each", "true"]).contains("the name dev-2 is taken")
    );
    environment.ok(["stop", "-t", "0", "dev-2"]);
}

#[test]
fn what_cannot_be_removed_is_told_and_the_report_comes_all_the_same() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    let meet = environment.path("meet");
    fs::create_dir(&meet).unwrap();
    let volume = format!("{}:/meet", meet.display());
    let line =
        "touch /meet/$ROOTLING_INDEX; until test -e /meet/go; do sleep 0.01; done; exit $ROOTLING_INDEX";
    let mut command = environment.command();
    command
        .args(["--format", "json", "fork", "dev", "w", "-n", "2", "-j", "2", "-v", &volume, "--each", line]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("both run", || meet.join("1").exists() && meet.join("2").exists());
    environment.ok(["lock", "w-1"]);
    fs::write(meet.join("go"), "").unwrap();
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for said in ["w-1 is locked", "removed what did not end with 0: w-2 ("] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    let rows: Vec<(&Value, &Value)> =
        rows.as_array().unwrap().iter().map(|row| (&row["exit_code"], &row["kept"])).collect();
    assert_eq!(rows, [(&json!(1), &json!(true)), (&json!(2), &json!(false))]);
    assert_eq!(names(&environment), "dev\nw-1\n");
}
