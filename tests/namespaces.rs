//! Whose namespaces a box has: its own, the caller's, another's; and what follows for ids, clocks, devices and limits.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::environment::{Environment, Ran};

const KINDS: [&str; 8] = ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user", "time"];

fn environment() -> Option<Environment> {
    let environment = Environment::new();
    environment.import_busybox().then_some(environment)
}

impl Environment {
    /// Runs a script in a fork of `base` with flags.
    pub(crate) fn inside(&self, flags: &[&str], script: &str) -> Ran {
        self.run([&["-q", "run"], flags, &["base", "--", "sh", "-c", script]].concat())
    }

    fn inside_ok(&self, flags: &[&str], script: &str) -> String {
        let ran = self.inside(flags, script);
        assert_eq!(ran.code, 0, "{flags:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// The kinds of namespaces that are not the caller's.
    fn own_kinds(&self, flags: &[&str]) -> Vec<&'static str> {
        let links = self.inside_ok(
            flags,
            "cd /proc/self/ns; for kind in mnt pid ipc uts cgroup net user time; do readlink $kind; done",
        );
        let links: Vec<&str> = links.lines().collect();
        assert_eq!(links.len(), KINDS.len(), "{links:?}");
        let differs = |kind: &str, link: &str| {
            fs::read_link(format!("/proc/self/ns/{kind}")).expect("every kind is there").as_os_str() != link
        };
        KINDS
            .into_iter()
            .zip(links)
            .filter(|(kind, link)| differs(kind, link))
            .map(|(kind, _)| kind)
            .collect()
    }

    /// Makes a box `dev` in which something runs.
    pub(crate) fn start_dev(&self, flags: &[&str]) -> Sleeper {
        self.ok(["create", "base", "dev"]);
        self.start_made(flags)
    }

    /// Lets something run in the box `dev`.
    fn start_made(&self, flags: &[&str]) -> Sleeper {
        let script = "mkdir /ready; exec sleep 1000";
        let mut command = self.command();
        command.args([&["-q", "exec"], flags, &["dev", "--", "sh", "-c", script]].concat());
        let child = Sleeper(command.stdout(Stdio::null()).spawn().expect("the binary starts"));
        // Looked for from outside: a command to look inside would itself be the one that starts the box.
        let ready = PathBuf::from(self.json(["show", "dev"])["path"].as_str().expect("a path")).join("ready");
        let start = Instant::now();
        while !ready.exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "dev never ran");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }
}

/// A box that ends with its test.
pub(crate) struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn everything_is_the_boxs_own_unless_a_flag_says_otherwise() {
    let Some(environment) = environment() else { return };
    let all = ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"];
    assert_eq!(environment.own_kinds(&["--net", "none"]), all);
    for (flag, kind) in [
        ("--pid", "pid"),
        ("--ipc", "ipc"),
        ("--uts", "uts"),
        ("--cgroupns", "cgroup"),
        ("--net", "net"),
        ("--userns", "user"),
    ] {
        let net = if flag == "--net" { &[][..] } else { &["--net", "none"][..] };
        let own = environment.own_kinds(&[net, &[flag, "host"]].concat());
        let expected: Vec<&str> = all.into_iter().filter(|other| *other != kind).collect();
        assert_eq!(own, expected, "{flag} host");
    }
}

#[test]
fn root_inside_is_nobody_outside_and_files_lie_on_disk_with_their_own_ids() {
    let Some(environment) = environment() else { return };
    environment.ok(["create", "base", "dev"]);
    let script = "touch /root-made; touch /me-made; chown me:me /me-made; cat /proc/self/uid_map; stat -c %u:%g /me-made /bin/busybox";
    let output = environment.ok(["-q", "exec", "dev", "--", "sh", "-c", script]);
    let mut lines = output.lines();
    let map: Vec<u64> =
        lines.next().unwrap().split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!((map[0], map[2]), (0, 65536));
    assert!(map[1] >= 0x7000_0000, "{map:?}");
    assert_eq!(lines.collect::<Vec<_>>(), ["1000:1000", "0:0"]);
    let shown = environment.json(["show", "dev"]);
    let path = shown["path"].as_str().unwrap().to_owned();
    let owner =
        |name: &str| fs::metadata(format!("{path}/{name}")).map(|meta| (meta.uid(), meta.gid())).unwrap();
    assert_eq!((owner("root-made"), owner("me-made")), ((0, 0), (1000, 1000)));
}

#[test]
fn two_boxes_have_no_id_in_common() {
    let Some(environment) = environment() else { return };
    let _dev = environment.start_dev(&[]);
    let map = |output: String| output.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let dev = map(environment.ok(["exec", "dev", "--", "cat", "/proc/self/uid_map"]));
    for _ in 0..3 {
        let other = map(environment.inside_ok(&[], "cat /proc/self/uid_map"));
        assert!(dev.abs_diff(other) >= 65536, "{dev} and {other}");
    }
}

#[test]
fn a_box_joins_the_namespaces_of_another() {
    let Some(environment) = environment() else { return };
    let _dev = environment.start_dev(&["--net", "none"]);
    let link =
        |kind: &str| environment.ok(["exec", "dev", "--", "readlink", &format!("/proc/self/ns/{kind}")]);
    for (flag, kind) in [
        ("--pid", "pid"),
        ("--ipc", "ipc"),
        ("--uts", "uts"),
        ("--cgroupns", "cgroup"),
        ("--net", "net"),
        ("--userns", "user"),
    ] {
        for whose in ["box:dev", "container:dev"] {
            let joined = environment.inside_ok(&[flag, whose], &format!("readlink /proc/self/ns/{kind}"));
            assert_eq!(joined, link(kind), "{flag} {whose}");
        }
    }
    // With its command the box ends, and its pid namespace takes along who joined it, sooner or later.
    let seen = environment.inside(&["--pid", "box:dev"], "ps; kill $(pidof sleep) && echo killed");
    assert!(matches!(seen.code, 0 | 137), "{seen:?}");
    assert!(seen.stdout.contains("sleep 1000") && seen.stdout.ends_with("killed\n"), "{seen:?}");
    let error = environment.fails(["run", "base", "--pid", "box:base", "--", "true"]);
    assert!(error.contains("base does not run") && error.contains("hint"), "{error}");
}

#[test]
fn a_box_joins_a_named_network() {
    let Some(environment) = environment() else { return };
    let script = "mount -t tmpfs none $D/root/tmp; touch $D/root/tmp/net
        unshare --net=$D/root/tmp/net true
        readlink /proc/self/ns/net
        nsenter --net=$D/root/tmp/net readlink /proc/self/ns/net
        $R -q run --net ns:$D/root/tmp/net base -- readlink /proc/self/ns/net
        umount $D/root/tmp/net";
    let output = environment.script_ok(script);
    let [ours, named, joined] = output.lines().collect::<Vec<_>>()[..] else { panic!("{output}") };
    assert_eq!(named, joined);
    assert_ne!(ours, named);
    let error = environment.fails(["run", "--net", "ns:/nowhere", "base", "--", "true"]);
    assert!(error.contains("/nowhere"), "{error}");
}

#[test]
fn clocks_are_shifted_inside_and_nowhere_else() {
    let Some(environment) = environment() else { return };
    let uptime = |text: &str| text.split(['.', ' ']).next().unwrap().parse::<u64>().unwrap();
    let before = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let inside = uptime(
        &environment.inside_ok(&["--clock-offset", "boottime=86400,monotonic=1.5"], "cat /proc/uptime"),
    );
    let after = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    assert!((before + 86400..=after + 86400).contains(&inside), "{before} {inside} {after}");
    let error = environment.fails(["run", "--clock-offset", "boottime=-999999999", "base", "--", "true"]);
    assert!(error.contains("timens_offsets") && error.contains("hint"), "{error}");
}

#[test]
fn a_command_in_a_shifted_box_sees_the_same_clocks() {
    let Some(environment) = environment() else { return };
    let _dev = environment.start_dev(&["--clock-offset", "boottime=86400"]);
    let link = |pid: &str| environment.ok(["exec", "dev", "--", "readlink", &format!("/proc/{pid}/ns/time")]);
    assert_ne!(link("self").trim(), fs::read_link("/proc/self/ns/time").unwrap().to_str().unwrap());
    let error = environment.fails(["exec", "--clock-offset", "boottime=1", "dev", "--", "true"]);
    assert!(error.contains("dev runs already: --clock-offset"), "{error}");
}

#[test]
fn devices_are_only_those_listed() {
    let Some(environment) = environment() else { return };
    // A null device under another name stands for any device.
    let script = "mount -t tmpfs none $D/root/tmp; mknod $D/root/tmp/other c 1 3; chmod 600 $D/root/tmp/other
        mknod $D/root/dev/made c 1 3; chmod 666 $D/root/dev/made; $R -q import dir:$D/root again >&2
        $R -q run --device $D/root/tmp/other:/dev/sub/other base -- sh -c 'stat -c %t:%T:%u /dev/sub/other; : > /dev/sub/other && echo opened'
        mknod $D/root/tmp/tree c 1 3";
    assert_eq!(environment.script_ok(script), "1:3:0\nopened\n");
    let error = environment.fails(["run", "--device", "/etc/passwd:/dev/x", "base", "--", "true"]);
    assert!(error.contains("/etc/passwd") && error.contains("no device"), "{error}");
    let error = environment.fails(["run", "--device", "/dev/null:/etc/x", "base", "--", "true"]);
    assert!(error.contains("/etc/x"), "{error}");
    // A node that the tree came with is dead, and a new one too, even for the host's root.
    let script = "mknod /n c 1 3 && ! echo x 2>/dev/null > /n && echo dead";
    assert_eq!(environment.inside_ok(&["--userns", "host"], script), "dead\n");
    let script = "mknod /n c 1 3 && echo x > /n && echo works";
    assert_eq!(environment.inside_ok(&["--userns", "host", "--privileged"], script), "works\n");
}

#[test]
fn limits_and_kernel_parameters_hold_inside_and_in_what_joins() {
    let Some(environment) = environment() else { return };
    let flags = [
        "--net",
        "none",
        "--ulimit",
        "nofile=64:128",
        "--sysctl",
        "kernel.shmmax=4096",
        "--sysctl",
        "net.ipv4.ip_default_ttl=7",
    ];
    let script = "ulimit -n; ulimit -Hn; cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_default_ttl";
    assert_eq!(environment.inside_ok(&flags, script), "64\n128\n4096\n7\n");
    let _dev = environment.start_dev(&["--ulimit", "nofile=99"]);
    assert_eq!(environment.ok(["exec", "dev", "--", "sh", "-c", "ulimit -n"]), "99\n");
    for (flag, value) in [
        ("--sysctl", "kernel.core_pattern=x"),
        ("--sysctl", "net.ipv4.ip_default_ttl=7"),
        ("--ulimit", "files=1"),
    ] {
        let error = environment.fails(["run", "--net", "host", flag, value, "base", "--", "true"]);
        assert!(error.contains("hint"), "{error}");
    }
}

#[test]
fn capabilities_are_those_asked_for_in_a_run_and_in_what_joins() {
    let Some(environment) = environment() else { return };
    let effective = |flags: &[&str]| {
        let line = environment.inside_ok(flags, "grep CapEff /proc/self/status");
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    assert_eq!(effective(&[]), rootling::runner::DEFAULT_CAPABILITIES);
    assert_eq!(effective(&["--cap-drop", "all"]), 0);
    assert_eq!(effective(&["--cap-drop", "all", "--cap-add", "CAP_KILL"]), 1 << 5);
    assert_eq!(effective(&["--privileged"]).count_ones(), 41);
    let _dev = environment.start_dev(&["--cap-drop", "all", "--security-opt", "no-new-privileges=false"]);
    let output =
        environment.ok(["exec", "dev", "--", "grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"]);
    assert_eq!(output, "CapEff:\t0000000000000000\nNoNewPrivs:\t0\n");
}

#[test]
fn what_is_masked_can_be_shown_again() {
    let Some(environment) = environment() else { return };
    assert_eq!(environment.inside_ok(&[], "cat /proc/timer_list | wc -c"), "0\n");
    assert_eq!(
        environment.inside_ok(&["--security-opt", "mask=/proc/version"], "wc -c < /proc/version"),
        "0\n"
    );
    let shown = environment.inside_ok(
        &["--security-opt", "unmask=all"],
        "test -w /proc/sys/kernel/shmmax && wc -c < /proc/version",
    );
    assert_ne!(shown, "0\n");
    let error = environment.fails(["run", "--security-opt", "mask=/etc/passwd", "base", "--", "true"]);
    assert!(error.contains("/etc/passwd"), "{error}");
    let error = environment.fails(["run", "--security-opt", "nonsense", "base", "--", "true"]);
    assert!(error.contains("nonsense") && error.contains("hint"), "{error}");
}

#[test]
fn nobody_inside_reads_how_the_box_was_started() {
    let Some(environment) = environment() else { return };
    let output = environment.inside_ok(
        &["-e", "TOKEN=hush"],
        "tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/environ 2>/dev/null | wc -c",
    );
    assert!(output.starts_with("init "), "{output:?}");
    assert!(!output.contains("hush") && output.trim_end().ends_with('0'), "{output:?}");
}

#[test]
fn pipes_can_be_opened_again_by_whoever_runs_inside() {
    let Some(environment) = environment() else { return };
    for user in ["root", "me"] {
        let ran = environment.inside(&["-u", user], "echo out > /dev/stdout; echo err > /dev/stderr");
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("out\n", "err\n", 0), "{user}");
    }
}

#[test]
fn what_leads_outside_is_shut_by_landlock_where_no_other_wall_is_left() {
    let Some(environment) = environment() else { return };
    let canary = environment.path("canary");
    fs::write(&canary, "of the host\n").unwrap();
    // With the host's processes and users, and a capability too many, /proc leads to the host's root.
    let flags = ["--pid", "host", "--userns", "host", "--cap-add", "sys_ptrace"];
    let pid = std::process::id();
    let script = format!("cat /proc/{pid}/root{}", canary.display());
    let open = environment.inside(&[&flags[..], &["--security-opt", "landlock=off"]].concat(), &script);
    assert_eq!(open.stdout, "of the host\n", "the control is void: {}", open.stderr);
    let shut = environment.inside(&[&flags[..], &["--security-opt", "landlock=on"]].concat(), &script);
    assert_ne!(shut.code, 0);
    assert_eq!(shut.stdout, "");
}

#[test]
fn landlock_is_not_noticed_by_those_inside() {
    let Some(environment) = environment() else { return };
    let script = "mkdir /a /b; echo x > /a/f; mv /a/f /b/g; ln /b/g /a/h; cat /a/h; echo out > /dev/stdout; : > /dev/null
        (sleep 9 & kill $!; wait $!; echo $?); cat /proc/1/status | grep -c Pid:; echo y > /dev/shm/y && cat /dev/shm/y";
    for landlock in ["on", "off"] {
        let output = environment.inside_ok(&["--security-opt", &format!("landlock={landlock}")], script);
        assert_eq!(output, "x\nout\n143\n3\ny\n", "{landlock}");
    }
}

#[test]
fn what_was_settled_is_refused_and_not_ignored() {
    let Some(environment) = environment() else { return };
    let _dev = environment.start_dev(&[]);
    for flags in [&["--net", "none"][..], &["--userns", "host"], &["--net", "host"]] {
        let words = [&["exec"], flags, &["dev", "--", "true"]].concat();
        let error = environment.fails(words);
        assert!(error.contains(&format!("dev runs already: {} is settled", flags[0])), "{error}");
    }
    let error = environment.fails(["run", "--hostname", "x", "--uts", "host", "base", "--", "true"]);
    assert!(error.contains("--hostname") && error.contains("hint"), "{error}");
    let error = environment.fails(["run", "--sysctl", "kernel.msgmax=abc", "base", "--", "true"]);
    assert!(error.contains("kernel/msgmax") && !error.contains("directory"), "{error}");
}

#[test]
fn a_running_overlay_is_not_mounted_a_second_time() {
    let Some(environment) = environment() else { return };
    environment.ok(["create", "--backend", "overlay", "base", "dev"]);
    let _dev = environment.start_made(&[]);
    let place = environment.path("m");
    fs::create_dir(&place).unwrap();
    let place = place.to_string_lossy().into_owned();
    for flags in [&[][..], &["--read-only"]] {
        let error = environment.fails([&["mount"], flags, &["dev", &place]].concat());
        assert!(error.contains("dev runs") && error.contains("rootling exec dev"), "{error}");
    }
}

#[test]
fn ids_stay_lent_as_long_as_anybody_uses_them() {
    let Some(environment) = environment() else { return };
    let dev = environment.start_dev(&[]);
    let map = environment.ok(["exec", "dev", "--", "cat", "/proc/self/uid_map"]);
    let first: u32 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
    let block = fs::File::open(format!("/run/rootling/ids/{}", (first - 0x7000_0000) / 65536)).unwrap();
    let is_free = || block.try_lock().is_ok_and(|()| block.unlock().is_ok());
    assert!(!is_free());
    environment
        .ok(["-q", "run", "-d", "--name", "guest", "--userns", "box:dev", "base", "--", "sleep", "1000"]);
    drop(dev);
    assert_eq!(environment.ok(["exec", "guest", "--", "cat", "/proc/self/uid_map"]), map);
    assert!(!is_free(), "the ids of a box that runs would be lent to another");
    environment.ok(["-q", "kill", "guest"]);
    let start = Instant::now();
    while !is_free() {
        assert!(start.elapsed() < Duration::from_secs(10), "the ids are never free again");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whoever joins is our program with the host's files still open, among processes that may be allowed to trace.
#[test]
fn what_joins_a_box_is_traced_by_nobody_in_it() {
    let Some(environment) = environment() else { return };
    let hunt = "sleep 1000 & while :; do for p in /proc/[0-9]*; do
            test $p = /proc/1 || ! readlink $p/root > /dev/null || case $(tr '\\0' ' ' < $p/cmdline) in
                init*) echo $p >> /caught;;
                sleep*) echo $p > /control;;
            esac; done 2> /dev/null; done";
    environment.ok([
        "-q",
        "run",
        "-d",
        "--name",
        "a",
        "--cap-add",
        "sys_ptrace",
        "base",
        "--",
        "sh",
        "-c",
        hunt,
    ]);
    let start = Instant::now();
    while environment.run(["exec", "a", "--", "test", "-e", "/control"]).code != 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "the control is void: nothing can be traced");
    }
    for _ in 0..25 {
        environment.inside_ok(&["--pid", "box:a", "--ulimit", "nofile=64"], "true");
    }
    let caught = environment.run(["exec", "a", "--", "cat", "/caught"]);
    assert_ne!(caught.code, 0, "traced: {}", caught.stdout);
    environment.ok(["-q", "kill", "a"]);
}
