//! Boxes on the real kernel. Each test runs `tests/runner/box.rs`, a program around the runner, because a run
//! acts on the whole process; the runner's own child makes only system calls after `clone3`, so that a caller
//! with threads would be safe too.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use rootling::runner::{
    Device, FileAt, IdMap, Namespaces, Plan, Process, Restrictions, Security, Spec, Tmpfs, Tty, User, Userns,
};
use rootling_backends::Mount;

const TOOLS: [&str; 18] = [
    "sh", "ls", "cat", "true", "sleep", "mount", "hostname", "id", "grep", "ps", "kill", "stty", "tty", "wc",
    "readlink", "touch", "dd", "env",
];

/// A tree of busybox, and room beside it for files of the test.
struct Fixture {
    dir: tempfile::TempDir,
    spec: Spec,
}

/// Makes the tree, or says why the test cannot run here.
fn fixture(command: &[&str]) -> Option<Fixture> {
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.exists());
    let why = match &busybox {
        None => "busybox-static is not installed",
        Some(_) if !Uid::effective().is_root() => "needs root",
        Some(_) => "",
    };
    if !why.is_empty() {
        assert!(std::env::var_os("ROOTLING_REQUIRE").is_none(), "required, but {why}");
        skipped(why);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy(busybox.unwrap(), root.join("bin/busybox")).unwrap();
    for tool in TOOLS {
        symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    let spec = Spec {
        root: Mount::Bind { source: root },
        read_only: false,
        process: process(command),
        hostname: "inside".into(),
        namespaces: Namespaces::PRIVATE,
        userns: Userns::Host,
        limits: rootling::runner::cgroup::Limits::default(),
        security: Security::default(),
        devices: vec![],
        sysctls: vec![],
        tmpfs: vec![],
        binds: vec![],
        make_dirs: vec![],
        shm_bytes: None,
        files: vec![],
    };
    Some(Fixture { dir, spec })
}

#[expect(clippy::print_stderr, reason = "a test that does not run says why")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

fn process(command: &[&str]) -> Process {
    Process {
        args: command.iter().map(Into::into).collect(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        user: User::ROOT,
        tty: Tty::Off,
    }
}

pub(crate) fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples/box");
    assert!(path.exists(), "{path:?} is missing: run `cargo build --example box`");
    path
}

impl Fixture {
    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn command(&self) -> Command {
        let spec = self.dir.path().join("spec.json");
        std::fs::write(&spec, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        let mut command = Command::new(program());
        command.arg("run").arg(spec).arg(self.dir.path().join("started"));
        command
    }

    fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Starts it and waits until its command runs.
    fn start(&self, command: &mut Command) -> Killed {
        let child = Killed(command.spawn().unwrap());
        wait_until(|| self.dir.path().join("started").exists());
        child
    }

    fn exec(&self, process: &Process) -> Output {
        let path = self.dir.path().join("process.json");
        std::fs::write(&path, serde_json::to_vec(process).unwrap()).unwrap();
        Command::new(program()).arg("exec").arg(self.dir.path().join("started")).arg(path).output().unwrap()
    }
}

/// A process that does not outlive a failed test.
struct Killed(Child);

impl std::ops::Deref for Killed {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Killed {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Does nothing to a process that was waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a shell script in a fresh box: status, standard output, standard error.
fn shell(script: &str) -> Option<(i32, String, String)> {
    let output = fixture(&["sh", "-c", script])?.run();
    Some(parts(&output))
}

fn parts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_run_ends_as_its_command_did() {
    for (command, status) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["nowhere"], 127),
        (&["/nowhere/at/all"], 127),
        (&["/etc"], 126),
        (&["/script"], 126),
        (&["/plain"], 126),
        (&["/proc/self/exe"], 126),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -15 $$"], 143),
    ] {
        let Some(fixture) = fixture(command) else { return };
        let script = fixture.root().join("script");
        std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(fixture.root().join("plain"), "").unwrap();
        let output = fixture.run();
        assert_eq!(output.status.code(), Some(status), "{command:?}: {output:?}");
    }
}

#[test]
fn our_own_failures_are_125_and_name_step_and_object() {
    let Some(mut fixture) = fixture(&["true"]) else { return };
    fixture.spec.process.cwd = "/missing".into();
    let (status, _, error) = parts(&fixture.run());
    assert_eq!(status, 125);
    assert!(error.contains("working directory") && error.contains("/missing"), "{error}");
}

#[test]
fn a_working_directory_through_a_descriptor_is_refused() {
    for number in 3..20 {
        let Some(mut fixture) = fixture(&["true"]) else { return };
        fixture.spec.process.cwd = format!("/proc/self/fd/{number}").into();
        assert_eq!(fixture.run().status.code(), Some(125), "descriptor {number}");
    }
}

#[test]
fn signals_reach_the_command() {
    let script = "trap 'echo got term; exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let Some(fixture) = fixture(&["sh", "-c", script]) else { return };
    let mut child = fixture.start(fixture.command().stdout(Stdio::piped()));
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 3]).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "got term\n");
}

#[test]
fn orphans_are_reaped_and_do_not_delay_the_end() {
    let script =
        "for i in 1 2 3 4 5; do (true &) ; done; (sleep 100 &); sleep 0.3; ps | grep -c '\\[true\\]'";
    let start = Instant::now();
    let Some((_, output, _)) = shell(script) else { return };
    assert_eq!(output.trim(), "0");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn only_three_descriptors_go_in() {
    let Some(fixture) = fixture(&["sh", "-c", "ls /proc/$$/fd; true"]) else { return };
    // Opened without close-on-exec by the shell in between.
    let command = fixture.command();
    let arguments: Vec<&Path> = command.get_args().map(Path::new).collect();
    let mut outer = Command::new("/bin/sh");
    outer.args(["-c", "exec 7</ 9</etc; exec \"$0\" \"$@\""]).arg(program()).args(arguments);
    assert_eq!(parts(&outer.output().unwrap()).1.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
}

#[test]
fn privileges_are_the_default_set_and_cannot_grow() {
    let Some((_, status, _)) = shell("cat /proc/self/status; umask") else { return };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(field("CapAmb:"), "0000000000000000");
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        let set = u64::from_str_radix(&field(set), 16).unwrap();
        assert_eq!(set & !rootling::runner::DEFAULT_CAPABILITIES, 0);
        assert_ne!(set & 1, 0, "chown is missing");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!((field("SigBlk:"), field("SigIgn:")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!(status.lines().last(), Some("0022"));
}

#[test]
fn another_user_has_no_capabilities() {
    let Some(mut fixture) = fixture(&["sh", "-c", "id; grep CapEff /proc/self/status"]) else { return };
    fixture.spec.process.user = User { uid: 1000, gid: 1001, groups: vec![29] };
    let (_, output, _) = parts(&fixture.run());
    assert_eq!(output, "uid=1000 gid=1001 groups=29\nCapEff:\t0000000000000000\n");
}

#[test]
fn the_machines_knobs_are_hidden_or_read_only() {
    let script = "cat /proc/kallsyms /proc/timer_list /proc/keys | wc -c; ls /sys/firmware | wc -l
        for knob in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /sys/x; do
            (echo x > $knob) 2>/dev/null && echo wrote $knob; done
        mount -t proc proc /tmp 2>/dev/null && echo mounted; hostname other 2>/dev/null && echo renamed; hostname";
    let before = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let Some((_, output, _)) = shell(script) else { return };
    assert_eq!(output, "0\n0\ninside\n");
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn dev_has_the_usual_names_and_they_work() {
    let script = "ls /dev | tr '\\n' ' ' 2>/dev/null || ls /dev; echo lost > /dev/null; dd if=/dev/zero bs=3 count=1 2>/dev/null | wc -c";
    let Some(fixture) = fixture(&["sh", "-c", script]) else { return };
    symlink("busybox", fixture.root().join("bin/tr")).unwrap();
    let (_, output, _) = parts(&fixture.run());
    assert_eq!(
        output,
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3\n"
    );
}

#[test]
fn nothing_of_the_host_is_mounted_inside() {
    let Some(fixture) = fixture(&["cat", "/proc/self/mountinfo"]) else { return };
    let (_, output, _) = parts(&fixture.run());
    let points: Vec<&str> = output.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(points[0], "/");
    for point in &points[1..] {
        let ours = ["/proc", "/sys", "/dev"].iter().any(|prefix| point.starts_with(prefix));
        assert!(ours, "{point} in {output}");
    }
    assert_eq!(points.iter().filter(|point| **point == "/").count(), 1, "the old root is still there");
}

#[test]
fn generated_files_show_and_never_reach_the_tree() {
    let script = "cat /etc/resolv.conf /etc/missing /etc/nowhere; for f in /etc/resolv.conf /etc/missing; do echo more >> $f; done";
    let Some(mut fixture) = fixture(&["sh", "-c", script]) else { return };
    let tree = fixture.root();
    std::fs::write(tree.join("etc/real"), "of the tree\n").unwrap();
    symlink("../../etc/real", tree.join("etc/resolv.conf")).unwrap();
    symlink("../run/nothing/here", tree.join("etc/nowhere")).unwrap();
    fixture.spec.files = ["/etc/resolv.conf", "/etc/missing", "/etc/nowhere"]
        .map(|target| FileAt::new(target, "generated\n"))
        .to_vec();
    let (status, output, error) = parts(&fixture.run());
    assert_eq!((status, output.as_str()), (0, "generated\n".repeat(3).as_str()), "{error}");
    assert_eq!(std::fs::read_to_string(tree.join("etc/real")).unwrap(), "of the tree\n");
    assert!(!tree.join("etc/missing").exists());
    assert_eq!(tree.join("etc/nowhere").read_link().unwrap().as_os_str(), "../run/nothing/here");
    assert!(!tree.join("run").exists());
}

#[test]
fn a_generated_file_without_a_place_in_a_read_only_tree_is_left_out() {
    let Some(mut fixture) = fixture(&["sh", "-c", "cat /etc/there; ls /etc/missing"]) else { return };
    std::fs::write(fixture.root().join("etc/there"), "").unwrap();
    fixture.spec.read_only = true;
    fixture.spec.files =
        ["/etc/there", "/etc/missing"].map(|target| FileAt::new(target, "generated\n")).to_vec();
    let (status, output, error) = parts(&fixture.run());
    assert_eq!((status, output.as_str()), (1, "generated\n"), "{error}");
    assert!(error.contains("left out") && error.contains("/etc/missing"), "{error}");
}

#[test]
fn a_read_only_tree_stays_as_it_is() {
    let Some(mut fixture) =
        fixture(&["sh", "-c", "touch /x 2>/dev/null && echo wrote; touch /tmp/x && echo ok"])
    else {
        return;
    };
    fixture.spec.read_only = true;
    fixture.spec.tmpfs = vec![Tmpfs::new("/tmp", 0o1777)];
    assert_eq!(parts(&fixture.run()).1, "ok\n");
    std::fs::remove_dir(fixture.root().join("sys")).unwrap();
    let (status, _, error) = parts(&fixture.run());
    assert_eq!(status, 125);
    assert!(error.contains("/sys"), "{error}");
}

#[test]
fn links_in_a_hostile_tree_lead_nowhere() {
    for name in ["dev", "proc", "sys"] {
        let Some(fixture) = fixture(&["true"]) else { return };
        let outside = fixture.dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(fixture.root().join("outside")).unwrap();
        std::fs::remove_dir(fixture.root().join(name)).unwrap();
        for target in [outside.as_path(), Path::new("../outside"), Path::new("outside")] {
            let link = fixture.root().join(name);
            symlink(target, &link).unwrap();
            let (status, _, error) = parts(&fixture.run());
            assert_eq!(status, 125, "{name} -> {target:?}");
            assert!(error.contains(&format!("/{name}")), "{error}");
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
            std::fs::remove_file(link).unwrap();
        }
    }
}

#[test]
fn runs_leave_their_caller_no_descriptor_child_mount_or_namespace() {
    let Some(mut fixture) = fixture(&["true"]) else { return };
    let write = |fixture: &Fixture, name: &str| {
        let path = fixture.dir.path().join(name);
        std::fs::write(&path, serde_json::to_vec(&fixture.spec).unwrap()).unwrap();
        path
    };
    let mut specs = vec![write(&fixture, "good")];
    let good = fixture.spec.clone();
    type Change = fn(&mut Spec);
    let changes: [(&str, Change); 7] = [
        ("no-command", |spec| spec.process.args = vec!["nowhere".into()]),
        ("no-cwd", |spec| spec.process.cwd = "/missing".into()),
        ("no-tree", |spec| spec.root = Mount::Bind { source: "/missing".into() }),
        ("no-device", |spec| {
            spec.devices = vec![Device { source: "/dev/missing".into(), target: "/dev/missing".into() }];
        }),
        ("no-map", |spec| {
            let map = vec![IdMap { inside: 0, outside: u32::MAX, count: 1 }];
            spec.userns = Userns::Private { uid_map: map.clone(), gid_map: map, idmapped_tree: true };
        }),
        ("users", |spec| {
            let map = vec![IdMap { inside: 0, outside: 1 << 30, count: 65536 }];
            spec.userns = Userns::Private { uid_map: map.clone(), gid_map: map, idmapped_tree: true };
        }),
        ("terminal", |spec| spec.process.tty = Tty::On),
    ];
    for (name, change) in changes {
        fixture.spec = good.clone();
        change(&mut fixture.spec);
        specs.push(write(&fixture, name));
    }
    let output =
        Command::new(program()).arg("many").arg("5").args(specs).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_killed_runner_takes_its_box_along() {
    let Some(fixture) = fixture(&["sh", "-c", "sleep 1000 & sleep 1000"]) else { return };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut child = fixture.start(&mut fixture.command());
    let running: rootling::runner::Running =
        serde_json::from_slice(&std::fs::read(fixture.dir.path().join("started")).unwrap()).unwrap();
    assert!(running.is_alive());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(|| !running.is_alive());
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tree = fixture.root();
    let leaks = |text: &str| text.lines().filter(|line| line.contains(tree.to_str().unwrap())).count();
    assert_eq!((leaks(&mounts), leaks(&after)), (0, 0));
}

#[test]
fn exec_joins_the_box_with_the_same_limits() {
    let Some(fixture) = fixture(&["sh", "-c", "echo here > /tmp/mark; exec sleep 1000"]) else { return };
    let mut child = fixture.start(&mut fixture.command());
    wait_until(|| fixture.root().join("tmp/mark").exists());
    let script = "hostname; cat /tmp/mark; ls /proc/self/fd | wc -l; grep -E 'CapInh|NoNew' /proc/self/status
        ps | grep -c 'slee[p] 1000'; exit 9";
    let output = parts(&fixture.exec(&process(&["sh", "-c", script])));
    assert_eq!(
        (output.0, output.1.as_str()),
        (9, "inside\nhere\n4\nCapInh:\t0000000000000000\nNoNewPrivs:\t1\n1\n")
    );
    assert_eq!(fixture.exec(&process(&["nowhere"])).status.code(), Some(127));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(fixture.exec(&process(&["true"])).status.code(), Some(125), "it has ended");
}

#[test]
fn a_killed_exec_takes_its_command_along() {
    let Some(fixture) = fixture(&["sleep", "1000"]) else { return };
    let _box = fixture.start(&mut fixture.command());
    let path = fixture.dir.path().join("process.json");
    let endless = process(&["sh", "-c", "echo up > /tmp/up; exec sleep 4321"]);
    std::fs::write(&path, serde_json::to_vec(&endless).unwrap()).unwrap();
    let mut command = Command::new(program());
    command.arg("exec").arg(fixture.dir.path().join("started")).arg(path);
    let mut entered = Killed(command.spawn().unwrap());
    wait_until(|| fixture.root().join("tmp/up").exists());
    entered.kill().unwrap();
    entered.wait().unwrap();
    let left = || parts(&fixture.exec(&process(&["sh", "-c", "ps | grep -c 'slee[p] 4321'"]))).1;
    wait_until(|| left() == "0\n");
}

/// Runs a box at a terminal of 33 rows and 77 columns.
struct Session {
    child: Killed,
    master: std::fs::File,
    seen: String,
}

impl Session {
    fn start(fixture: &Fixture) -> Self {
        let size = Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.as_fd().try_clone_to_owned().unwrap());
        let child = Killed(fixture.command().stdin(end()).stdout(end()).stderr(end()).spawn().unwrap());
        Self { child, master: pty.master.into(), seen: String::new() }
    }

    fn expect(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.seen.contains(text) {
            let length = self.master.read(&mut buffer).unwrap_or(0);
            assert_ne!(length, 0, "{text:?} never came, only {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        self.seen.clear();
    }
}

#[test]
fn a_session_has_its_own_terminal() {
    let script = "tty; stty size; trap 'echo interrupted' INT; echo ready; until read line; do :; done; echo line=$line; exit 5";
    let Some(mut fixture) = fixture(&["sh", "-c", script]) else { return };
    fixture.spec.process.tty = Tty::Auto;
    let mut session = Session::start(&fixture);
    session.expect("/dev/pts/0\r\n33 77\r\nready\r\n");
    session.master.write_all(b"\x03").unwrap();
    session.expect("interrupted");
    session.master.write_all(b"hello\r").unwrap();
    session.expect("line=hello");
    assert_eq!(session.child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_terminal_passes_every_byte() {
    let Some(mut fixture) = fixture(&["sh", "-c", "stty raw -echo; echo up; dd bs=1 count=256 2>/dev/null"])
    else {
        return;
    };
    fixture.spec.process.tty = Tty::On;
    let mut child = fixture.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    output.read_exact(&mut [0; 3]).unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    input.write_all(&bytes).unwrap();
    let mut seen = Vec::new();
    output.read_to_end(&mut seen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(seen, bytes);
}

#[test]
fn the_same_spec_gives_the_same_plan() {
    let Some(fixture) = fixture(&["true"]) else { return };
    let plan = || serde_json::to_string(&Plan::build(&fixture.spec).unwrap()).unwrap();
    assert_eq!(plan(), plan());
    let value: serde_json::Value = serde_json::from_str(&plan()).unwrap();
    assert_eq!(value["command"]["candidates"][0], "/bin/true");
    let ops: Vec<&str> =
        value["ops"].as_array().unwrap().iter().map(|op| op["op"].as_str().unwrap()).collect();
    assert_eq!(ops[..4], ["die-with-parent", "umask", "slave-propagation", "attach-root"]);
    assert_eq!(ops[ops.len() - 2..], ["drop-capabilities", "no-new-privileges"]);
    let text = Plan::build(&fixture.spec).unwrap().to_string();
    assert!(text.contains("mount proc nosuid nodev noexec on /proc"), "{text}");
}

#[test]
fn a_spec_that_cannot_work_is_refused() {
    let Some(fixture) = fixture(&["true"]) else { return };
    let refused = |change: fn(&mut Spec)| {
        let mut spec = fixture.spec.clone();
        change(&mut spec);
        Plan::build(&spec).is_err()
    };
    assert!(refused(|spec| spec.process.args.clear()));
    assert!(refused(|spec| spec.process.cwd = "etc".into()));
    assert!(refused(|spec| spec.hostname = "a b".into()));
    assert!(refused(|spec| spec.tmpfs = vec![Tmpfs::new("/proc/self", 0)]));
    assert!(refused(
        |spec| spec.userns = Userns::Private { uid_map: vec![], gid_map: vec![], idmapped_tree: false }
    ));
}

#[test]
fn a_private_user_namespace_hides_the_hosts_root() {
    use rootling::runner::IdMap;
    let Some(mut fixture) = fixture(&["sh", "-c", "id; cat /proc/self/uid_map; touch /mine && echo made"])
    else {
        return;
    };
    let map = vec![IdMap { inside: 0, outside: 300_000, count: 1000 }];
    fixture.spec.userns = Userns::Private { uid_map: map.clone(), gid_map: map, idmapped_tree: false };
    nix::unistd::chown(&fixture.root(), Some(Uid::from_raw(300_000)), None).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(fixture.dir.path(), mode).unwrap();
    let (status, output, error) = parts(&fixture.run());
    assert_eq!((status, output.lines().last()), (0, Some("made")), "{output} {error}");
    let meta = std::fs::metadata(fixture.root().join("mine")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 300_000);
}

#[test]
fn a_terminal_that_was_closed_inside_does_not_hang_up_and_may_be_opened_again() {
    let script = "exec 0<&- 1>&- 2>&-; sleep 0.5; exec > /dev/tty; echo again; exit 7";
    let Some(mut fixture) = fixture(&["sh", "-c", script]) else { return };
    fixture.spec.process.tty = Tty::On;
    let (status, output, _) = parts(&fixture.run());
    assert_eq!((status, output.as_str()), (7, "again\r\n"));
}

/// The tree's own directories, with when something was last made in them.
fn times(tree: &Path) -> Vec<(String, std::time::SystemTime)> {
    let mut times: Vec<_> = ["", "etc", "bin"]
        .into_iter()
        .map(|name| (name.to_owned(), std::fs::metadata(tree.join(name)).unwrap().modified().unwrap()))
        .collect();
    times.sort();
    times
}

#[test]
fn mount_points_leave_nothing_not_even_a_time() {
    let Some(mut fixture) =
        fixture(&["sh", "-c", "cat /etc/deep/er/secret; ls -d /proc/1 /dev/null /sys/kernel /m/n"])
    else {
        return;
    };
    let tree = fixture.root();
    for name in ["proc", "sys", "dev"] {
        std::fs::remove_dir(tree.join(name)).unwrap();
    }
    fixture.spec.files = vec![FileAt::new("/etc/deep/er/secret", "hush\n")];
    fixture.spec.tmpfs = vec![Tmpfs::new("/m/n", 0o755)];
    let before = times(&tree);
    let (status, output, error) = parts(&fixture.run());
    assert_eq!((status, output.as_str()), (0, "hush\n/dev/null\n/m/n\n/proc/1\n/sys/kernel\n"), "{error}");
    let mut left: Vec<_> = std::fs::read_dir(&tree)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["bin", "etc", "tmp"]);
    assert!(!tree.join("etc/deep").exists());
    assert_eq!(times(&tree), before);
}

#[test]
fn what_a_command_makes_in_a_mount_points_directory_stays_with_its_time() {
    let Some(mut fixture) = fixture(&["sh", "-c", "touch /etc/mine; touch -d '2001-02-03 04:05:06' /etc"])
    else {
        return;
    };
    let tree = fixture.root();
    std::fs::remove_file(tree.join("bin/touch")).unwrap();
    symlink("busybox", tree.join("bin/touch")).unwrap();
    fixture.spec.files = vec![FileAt::new("/etc/secret", "hush\n")];
    let (status, _, error) = parts(&fixture.run());
    assert_eq!(status, 0, "{error}");
    assert!(tree.join("etc/mine").exists() && !tree.join("etc/secret").exists());
    let modified = std::fs::metadata(tree.join("etc")).unwrap().modified().unwrap();
    let seconds = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((981_000_000..981_300_000).contains(&seconds), "{seconds}");
}

#[test]
fn generated_files_have_owners_modes_and_walls() {
    let script = "ls -ln /run/s | cut -c1-40; echo x > /run/s && echo wrote; /dev/pipes/run a; ls -A /dev | grep gener";
    let Some(mut fixture) = fixture(&["sh", "-c", script]) else { return };
    symlink("busybox", fixture.root().join("bin/cut")).unwrap();
    let read_only = Restrictions { read_only: true, ..Restrictions::default() };
    fixture.spec.files = vec![
        FileAt {
            mode: 0o440,
            owner: (12, 34),
            restrictions: Restrictions { no_exec: true, ..read_only },
            optional: false,
            ..FileAt::new("/run/s", b"\0\xff".to_vec())
        },
        FileAt {
            mode: 0o755,
            restrictions: read_only,
            ..FileAt::new("/dev/pipes/run", "#!/bin/sh\necho ran $0 $1\n")
        },
    ];
    let (_, output, error) = parts(&fixture.run());
    let lines: Vec<_> = output.lines().collect();
    assert!(
        lines[0].starts_with("-r--r-----") && lines[0].contains(" 12 ") && lines[0].contains(" 34 "),
        "{output}"
    );
    assert_eq!(lines[1..], ["ran /dev/pipes/run a"], "{error}");
    assert!(error.contains("Read-only file system"), "{error}");
    assert!(!fixture.root().join("run").exists());
}

#[test]
fn a_file_that_has_no_place_and_must_have_one_is_an_error() {
    let Some(mut fixture) = fixture(&["true"]) else { return };
    std::fs::write(fixture.root().join("file"), "").unwrap();
    fixture.spec.files = vec![FileAt { optional: false, ..FileAt::new("/file/secret", "hush\n") }];
    let (status, _, error) = parts(&fixture.run());
    assert_eq!(status, 125);
    assert!(error.contains("/file/secret"), "{error}");
}

#[test]
fn shared_memory_has_the_size_that_was_asked_for() {
    let Some(mut fixture) = fixture(&[
        "sh",
        "-c",
        "dd if=/dev/zero of=/dev/shm/x bs=1k count=65 2>&1 | grep -c space; ls -ld /dev/shm",
    ]) else {
        return;
    };
    fixture.spec.shm_bytes = Some(64 << 10);
    let (_, output, error) = parts(&fixture.run());
    assert!(output.starts_with("1\ndrwxrwxrwt"), "{output}{error}");
}
