//! Limits on the real kernel: on this machine, and in a virtual one with version 2, with version 1 alone, and with
//! users to whom systemd hands a cgroup.
//!
//! What is checked stands in `tests/runner/limits.rs`, a program that runs into limits; here are the surroundings.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{BINARY, is_root, skip};
use crate::machine::Machine;

fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("we run");
    let path = tests.ancestors().nth(2).expect("target/debug/deps").join("examples/limits");
    assert!(path.exists(), "{path:?} is missing: run `cargo build --example limits`");
    path
}

/// All checks passed: none failed, and as many ran as the program has.
fn assert_passed(text: &str, skipped: &[&str]) {
    let lines = |word: &str| text.lines().filter(|line| line.starts_with(word)).collect::<Vec<_>>();
    assert_eq!(lines("FAILED"), [""; 0], "{text}");
    let names: Vec<&str> = lines("skip ").iter().filter_map(|line| line.split([' ', ':']).nth(1)).collect();
    let unexpected: Vec<&&str> = names.iter().filter(|name| !skipped.contains(name)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?} did not run: {text}");
    let done = lines("done ");
    let done = done.first().and_then(|line| line.strip_prefix("done ")?.parse::<usize>().ok());
    assert_eq!(done, Some(lines("ok ").len() + names.len()), "{text}");
    assert_ne!(done, Some(0));
}

/// The part of a machine's output under a heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let marker = format!("## {heading}\n");
    let (_, rest) = text.split_once(&marker).unwrap_or_else(|| panic!("no section {heading}:\n{text}"));
    rest.split("## ").next().unwrap_or(rest)
}

#[test]
fn limits_hold_on_this_machine() {
    if !is_root() {
        return;
    }
    let controllers = ["memory", "pids", "cpu", "cpuset"];
    let there = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let writable = nix::unistd::access("/sys/fs/cgroup", nix::unistd::AccessFlags::W_OK).is_ok();
    if !writable || controllers.iter().any(|name| !there.lines().any(|line| line.starts_with(name))) {
        return skip("this machine lets nobody make cgroups");
    }
    let output = Command::new(program()).arg("check").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // No disk of this machine is anybody's to write to; the virtual one has its own.
    assert_passed(
        &text,
        &[
            "a_disk_is_as_fast_as_it_may_be",
            "a_process_stays_on_its_processors",
            "processes_are_in_leaves_alone",
        ],
    );
}

#[test]
fn limits_hold_on_version_2_for_root_and_users() {
    let Some(mut machine) = Machine::new() else { return };
    machine.program(&program(), "limits");
    machine.program(Path::new(BINARY), "rootling");
    machine.module("drivers/block/brd.ko");
    machine.file("fake/busctl", BUSCTL);
    machine.file("boxes", BOXES);
    machine.script(VERSION_2);
    let text = machine.run();

    assert_passed(section(&text, "root"), &[]);
    assert_passed(section(&text, "user"), &["a_disk_is_as_fast_as_it_may_be"]);
    assert!(section(&text, "user").contains("\nok processes_are_in_leaves_alone"));

    for heading in ["boxes of root", "boxes of a user"] {
        let boxes = section(&text, heading);
        // Cloned into the cgroup, which is then the root of all that the box sees, with its limits, read-only.
        assert!(boxes.contains("\nseen 0::/ 16777216 7 50000 100000\n"), "{boxes}");
        assert!(boxes.contains("\nmemory 137\n"), "{boxes}");
        assert!(boxes.contains("can't fork"), "{boxes}");
        assert!(boxes.contains("\nlocked\n"), "{boxes}");
        // CVE-2023-25809: what the user may write outside shows inside, and only the mount keeps them from it.
        assert!(boxes.contains("\nopen /sys/fs/cgroup/"), "void, it does not work without walls: {boxes}");
        assert_eq!(boxes.lines().filter(|line| *line == "closed done").count(), 3, "{boxes}");
        assert!(!boxes.contains("\nclosed /"), "{boxes}");
        // One that joined is in the same cgroup, counts, and is counted.
        assert!(boxes.contains("\njoined 0::/\n"), "{boxes}");
        assert!(boxes.contains("2 / 20"), "{boxes}");
    }

    let alone = section(&text, "alone");
    assert!(alone.contains(r#"made {"unified":"/sys/fs/cgroup/alone/rootling/box-made-"#), "{alone}");
    let crowded = section(&text, "crowded");
    assert!(crowded.contains("refused Busy: --pids-limit needs the controller pids"), "{crowded}");
    assert!(crowded.contains("1 other processes are in \"/sys/fs/cgroup/crowded\""), "{crowded}");
    assert!(crowded.contains("systemd-run --scope -p Delegate=yes"), "{crowded}");

    let part = section(&text, "part");
    assert!(part.contains("refused Unsupported: --memory needs the controller memory"), "{part}");
    assert!(part.contains("Delegate=cpu cpuset io memory pids"), "{part}");

    let without = section(&text, "without systemd");
    assert!(without.contains("refused ") && without.contains("was not handed to you"), "{without}");
    assert!(without.contains("loginctl enable-linger"), "{without}");
    let asked = section(&text, "systemd");
    assert!(asked.contains(r#"made {"unified":"/sys/fs/cgroup/user/rootling/box-made-"#), "{asked}");
    assert!(asked.contains("StartTransientUnit ssa(sv)a(sa(sv)) rootling-"), "{asked}");
    assert!(asked.contains("Delegate b true"), "{asked}");
    let refused = section(&text, "systemd refuses");
    assert!(refused.contains("busctl said \"Call failed: Access denied\""), "{refused}");

    let read_only = section(&text, "read-only");
    assert!(read_only.contains("refused PermissionDenied: --pids-limit needs a cgroup"), "{read_only}");
    assert!(read_only.contains("is read-only"), "{read_only}");
    let none = section(&text, "none");
    assert!(none.contains("refused Unsupported: --pids-limit needs the cgroup controller pids"), "{none}");
    assert!(section(&text, "left").trim().is_empty(), "{text}");
}

#[test]
fn limits_hold_on_version_1_alone() {
    let Some(mut machine) = Machine::new() else { return };
    machine.program(&program(), "limits");
    machine.module("drivers/block/brd.ko");
    machine.script(VERSION_1);
    let text = machine.run();
    assert_passed(section(&text, "root"), &["processes_are_in_leaves_alone"]);
    let user = section(&text, "user");
    assert!(user.contains("belongs to the cgroup version 1 of the host's root"), "{user}");
    assert!(section(&text, "left").trim().is_empty(), "{text}");
}

/// Asks a process of root's to move the caller, as systemd would; refuses where there is a file.
const BUSCTL: &str = r#"#!/bin/sh
if [ -e /fake/refuse ]; then echo "Call failed: Access denied" >&2; exit 1; fi
echo "$*" > /fake/ask
"#;

/// A tree is run with limits; then a box runs, a command joins it, and both are counted.
const BOXES: &str = r###"
R="/rootling -q"
$R init > /dev/null
$R import dir:/tree base
$R run --memory 16m --pids-limit 7 --cpus 0.5 base -- sh -c 'cd /sys/fs/cgroup
  echo seen $(cat /proc/self/cgroup memory.max pids.max cpu.max)
  echo max 2>/dev/null > pids.max || echo locked
  for i in 1 2 3 4 5 6 7 8; do sleep 1 & done'
$R run --memory 16m base -- dd if=/dev/zero of=/dev/null bs=64M count=1
echo memory $?
write='for file in $(find /sys/fs/cgroup -name cgroup.procs); do (: >> $file) 2>/dev/null && echo $0 $file; done; echo $0 done'
$R run --net host --cgroupns host --privileged base -- sh -c "$write" open
$R run --net host base -- sh -c "$write" closed
$R run --net host --cgroupns host base -- sh -c "$write" closed
$R run --net none --pids-limit 50 base -- sh -c "$write" closed
$R create base dev
$R exec --pids-limit 20 dev -- sleep 1000 &
runs=$!
for i in $(seq 100); do $R stats --no-stream dev 2>/dev/null && break; sleep 0.1; done
$R exec dev -- sh -c 'echo joined $(cat /proc/self/cgroup)'
kill $runs; wait $runs
"###;

const VERSION_2: &str = r###"
mount -t cgroup2 none /sys/fs/cgroup
cd /sys/fs/cgroup
echo "## root"
LIMITS_DISK=/dev/ram0 /limits check

echo "+cpu +cpuset +memory +pids +io" > cgroup.subtree_control
delegate() { chown 1000:1000 $1 $1/cgroup.procs $1/cgroup.subtree_control; }
mkdir user; delegate user; mkdir user/session; delegate user/session
within() { sh -c "echo \$\$ > /sys/fs/cgroup/$1/cgroup.procs; exec \"\$@\"" "$@"; }
echo "## user"
within user/session /limits as 1000 /limits check

mkdir -p /tree/bin; cp /bin/busybox /tree/bin; for tool in sh cat dd sleep echo find; do ln -s busybox /tree/bin/$tool; done
mkdir /store /user-store; mount -t tmpfs none /store; mount -t tmpfs -o uid=1000 none /user-store
echo "## boxes of root"
ROOTLING_ROOT=/store sh /boxes
echo "## boxes of a user"
ROOTLING_ROOT=/user-store within user/session /limits as 1000 /bin/sh /boxes

echo "## alone"
mkdir alone; delegate alone
within alone /limits as 1000 /limits make '{"pids":50}'
echo "## crowded"
mkdir crowded; delegate crowded
within crowded sleep 1000 &
sleep 0.2
within crowded /limits as 1000 /limits make '{"pids":50}'
kill %1

echo "## part"
mkdir part; echo "+pids" > part/cgroup.subtree_control
mkdir part/user; delegate part/user; mkdir part/user/session; delegate part/user/session
within part/user/session /limits as 1000 /limits make '{"pids":50,"memory_bytes":10000000}'

echo "## without systemd"
mkdir login
within login /limits as 1000 /limits delegate '{"pids":50}'
echo "## systemd"
mkfifo /fake/ask; chmod 777 /fake /fake/ask
(line=$(timeout 30 head -n 1 /fake/ask); echo "$line"
 pid=$(echo "$line" | sed 's/.* PIDs au 1 \([0-9]*\) .*/\1/')
 mkdir user/app.scope; delegate user/app.scope; echo $pid > user/app.scope/cgroup.procs) &
asked=$!
PATH=/fake:$PATH within login /limits as 1000 /limits delegate '{"pids":50}'
wait $asked
echo "## systemd refuses"
touch /fake/refuse
PATH=/fake:$PATH within login /limits as 1000 /limits delegate '{"pids":50}'

echo "## left"
find . -path '*rootling/box-*' -type d
echo "## read-only"
mount -o remount,ro /sys/fs/cgroup
/limits make '{"pids":50}'
cd /
echo "## none"
umount -l /sys/fs/cgroup
/limits make '{"pids":50}'
"###;

const VERSION_1: &str = r###"
mount -t tmpfs none /sys/fs/cgroup
for name in cpu,cpuacct cpuset memory pids blkio freezer; do
  mkdir /sys/fs/cgroup/$name; mount -t cgroup -o $name none /sys/fs/cgroup/$name
done
echo "## root"
LIMITS_DISK=/dev/ram0 /limits check
echo "## user"
/limits as 1000 /limits make '{"pids":50}'
echo "## left"
find /sys/fs/cgroup -path '*rootling*' -type d
"###;
