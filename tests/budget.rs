//! What a start may cost: system calls, which are as many on a busy machine as on an idle one, and the memory of who waits.
//!
//! The binary of the tests is linked dynamically and makes calls for it that a release does not make. What `--version`
//! costs is taken off, so that what is left is what a start does; the command inside (busybox's `true`, some ten calls)
//! is in it. `make bench` counts all calls of a release, beside its peers.
//!
//! A budget is lowered when a start gets cheaper. Who must raise one says in the commit what the calls are for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::environment::{BINARY, Environment, ran, skip};
use crate::guest::{Ids, guest};

/// Calls of `run --net none image -- true` on overlay, as root, with all walls. It was 339.
///
/// Each budget leaves sixteen calls for what machines differ in: which places of /proc and /sys there are to be masked, how
/// large the files of accounts are, whether a lock is free at once.
const RUN_CALLS: u64 = 355;
/// The same as a user who has one id: the two programs that lend further ids are not ours to count. It was 429, with a
/// second execve and its loader.
const RUN_AS_USER_CALLS: u64 = 445;
/// Calls of `exec dev -- true`, where the box runs. It was 223.
const EXEC_CALLS: u64 = 239;
/// Memory that `run` has written to while it waits, in KiB: what is mapped from files is a debug binary's. It was 4340, of which 1992
/// are tables of addresses that the loader fills in (712 of them came with gRPC), and 1084 the stack that reading the command line took in a
/// debug binary.
const WAITING_ANONYMOUS_KIB: u64 = 5 * 1024;

/// A debug build of the standard library asks of each descriptor whether it is open before it closes it.
const COUNTED: &str = "trace=!fcntl";

/// Counts the calls of all processes of one command line; the least of three: a call is repeated where the kernel was disturbed.
fn calls(environment: &Environment, words: &[&str]) -> u64 {
    let report = environment.path("strace");
    let count = || {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-c", "-e", COUNTED, "-o"])
            .arg(&report)
            .arg(BINARY)
            .args(words)
            .stdin(Stdio::null());
        strace.env("ROOTLING_ROOT", environment.store()).env_remove("ROOTLING_FAULT");
        // Set by cargo: the loader would search all its directories.
        strace.env_remove("LD_LIBRARY_PATH");
        let ran = ran(strace.output().expect("strace starts"));
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.stderr);
        total(&fs::read_to_string(&report).expect("strace wrote its report"))
    };
    (0..3).map(|_| count()).min().expect("three of them")
}

/// Reads the last line of `strace -c`: share, seconds, microseconds per call, calls, errors if there are any, `total`.
fn total(report: &str) -> u64 {
    let line = report.lines().rfind(|line| line.trim_end().ends_with("total")).expect("a line of totals");
    let calls = line.split_whitespace().filter(|word| !word.contains('.')).nth(1);
    calls.expect("a column of calls").parse().expect("a number")
}

fn assert_within(what: &str, calls: u64, budget: u64) {
    assert!(calls <= budget, "{what} makes {calls} system calls; its budget is {budget}");
    // A budget far above what is spent would let a regression pass.
    assert!(calls * 5 > budget * 3, "{what} makes only {calls} system calls: lower its budget of {budget}");
}

fn can_count() -> bool {
    let works = Command::new("strace").args(["-f", "-c", "-e", COUNTED, "-o", "/dev/null", "true"]).output();
    match works {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            skip(&format!("strace does not work here: {}", String::from_utf8_lossy(&output.stderr)));
            false
        }
        Err(_) => {
            skip("strace is not installed");
            false
        }
    }
}

/// A store of overlays: what is counted must not depend on what the test's directory lies on.
fn environment() -> Option<Environment> {
    if !can_count() {
        return None;
    }
    let environment = Environment { dir: tempfile::tempdir().expect("a temporary directory") };
    let init = environment.run(["init", "--backend", "overlay"]);
    if init.code != 0 {
        skip(&format!("no overlay store here: {}", init.stderr));
        return None;
    }
    if !environment.import_busybox() {
        return None;
    }
    // As images come: what rootling writes for the box has its place in them.
    let root = environment.path("root");
    write_places(&root);
    environment.ok(["import", &format!("dir:{}", root.display()), "image"]);
    Some(environment)
}

/// Files that a box gets anew; where a tree lacks them they are made, and removed when the box has ended.
fn write_places(root: &Path) {
    for file in ["hosts", "hostname", "resolv.conf"] {
        fs::write(root.join("etc").join(file), "").expect("write");
    }
}

#[test]
fn a_run_stays_within_its_budget_of_system_calls() {
    let Some(environment) = environment() else { return };
    let version = calls(&environment, &["--version"]);
    let run = calls(&environment, &["-q", "run", "--net", "none", "image", "--", "true"]);
    assert_within("run", run - version, RUN_CALLS);
}

#[test]
fn an_exec_into_a_running_box_stays_within_its_budget_of_system_calls() {
    let Some(environment) = environment() else { return };
    let _running = environment.start_dev(&["--net", "none"]);
    let version = calls(&environment, &["--version"]);
    let exec = calls(&environment, &["-q", "exec", "dev", "--", "true"]);
    assert_within("exec", exec - version, EXEC_CALLS);
}

/// Names beside the few that are asked about.
const OTHERS: &str = "200";

#[test]
fn what_is_told_of_one_box_costs_the_same_among_many_names() {
    let Some(environment) = environment() else { return };
    let root = environment.path("root");
    environment.ok(["-q", "import", &format!("dir:{}", root.display()), "far"]);
    environment.ok(["-q", "create", "image", "dev"]);
    environment.ok(["-q", "snapshot", "dev"]);
    let words: [&[&str]; 3] = [&["log", "dev"], &["ls", "dev"], &["show", "dev"]];
    let count = || words.map(|words| calls(&environment, words));
    let few = count();
    environment.ok(["-q", "fork", "--count", OTHERS, "far", "other"]);
    let many = count();
    for ((words, few), many) in words.iter().zip(few).zip(many) {
        // Threads that look for work make some calls of their own; a look at each name would be one call for each.
        assert!(many < few + 100, "{words:?} makes {few} system calls among few names, {many} among many");
    }
}

#[test]
fn a_users_run_stays_within_its_budget_of_system_calls() {
    if !can_count() {
        return;
    }
    let Some(guest) = guest(Ids::None) else { return };
    write_places(&guest.dir.path().join("root"));
    let init =
        guest.script("$R -q init --backend overlay > /dev/null; $R -q import dir:$D/root base > /dev/null");
    if init.code != 0 {
        skip(&format!("no overlay store of a user's here: {}", init.stderr));
        return;
    }
    let count = |words: &str| {
        // strace as root, its command as the guest: programs that set user ids do so only then.
        let strace = format!(
            "unset LD_LIBRARY_PATH; strace -u guest -f -c -e {COUNTED} -o $D/strace $R {words} > /dev/null; cat $D/strace"
        );
        let count = || {
            let ran = guest.script_after(&strace, "true");
            assert_eq!(ran.code, 0, "{words}: {}{}", ran.stdout, ran.stderr);
            total(&ran.stdout)
        };
        (0..3).map(|_| count()).min().expect("three of them")
    };
    let version = count("--version");
    assert_within("run as a user", count("-q run --net none base -- true") - version, RUN_AS_USER_CALLS);
}

/// A `run` that waits for its command, killed with its test.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn who_waits_for_a_command_holds_little_memory() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    let mut command = environment.command();
    command.args(["-q", "run", "--net", "none", "base", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    let mut waiting = Waiting(command.stdout(Stdio::piped()).spawn().expect("the binary starts"));
    let mut line = String::new();
    BufReader::new(waiting.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
    assert_eq!(line, "up\n");
    let status = Path::new("/proc").join(waiting.0.id().to_string()).join("status");
    let status = fs::read_to_string(status).expect("it still waits");
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("the field");
    let kib = value("RssAnon:").trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    assert!(kib <= WAITING_ANONYMOUS_KIB, "{kib} KiB; the budget is {WAITING_ANONYMOUS_KIB}");
}

#[test]
fn totals_are_read_whether_or_not_some_calls_failed() {
    assert_eq!(total("100.00    0.001234           4       239        12 total\n"), 239);
    assert_eq!(total("100.00    0.000000           0        40           total"), 40);
}
