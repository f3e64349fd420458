//! System calls that a box must not have. Each is made by a program in an otherwise empty tree, first without the filter,
//! where the kernel does it or has a reason of its own not to, then with the default one.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rootling::runner::{
    Limits, Namespaces, Process, Running, Seccomp, SeccompFilter, Security, Spec, Tty, User, Userns,
};
use rootling_backends::Mount;
use tempfile::TempDir;

use super::calls::{Door, Program, Value};
use crate::environment::{Environment, is_root, skip};

const SYS_BOOT: u64 = 1 << 22;
const SYS_ADMIN: u64 = 1 << 21;

/// A tree with one program in it.
struct Tree {
    dir: TempDir,
    spec: Spec,
}

impl Tree {
    fn with(program: &Program, security: Security) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for name in ["proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        install(program, &root.join("probe"));
        let spec = Spec {
            root: Mount::Bind { source: root },
            read_only: false,
            process: command("/probe"),
            hostname: "inside".into(),
            namespaces: Namespaces::PRIVATE,
            userns: Userns::Host,
            security,
            devices: vec![],
            sysctls: vec![],
            limits: Limits::default(),
            tmpfs: vec![],
            binds: vec![],
            make_dirs: vec![],
            shm_bytes: None,
            files: vec![],
        };
        Self { dir, spec }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        std::fs::write(self.path("spec.json"), serde_json::to_vec(&self.spec).unwrap()).unwrap();
        let mut command = Command::new(crate::runner::program());
        command.arg("run").arg(self.path("spec.json")).arg(self.path("started")).stdin(Stdio::null());
        command
    }
}

fn install(program: &Program, path: &Path) {
    std::fs::write(path, program.file()).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, executable).unwrap();
}

fn command(program: &str) -> Process {
    Process { args: vec![program.into()], env: vec![], cwd: "/".into(), user: User::ROOT, tty: Tty::Off }
}

/// What the calls of a program return in a box with these walls.
fn results(program: &Program, security: Security) -> Vec<i64> {
    let output = Tree::with(program, security).command().output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    program.results(&output.stdout)
}

/// The usual walls, and capabilities beside the usual.
fn walls(capabilities: u64) -> Security {
    let usual = Security::default();
    Security { capabilities: usual.capabilities | capabilities, ..usual }
}

/// The same without a filter.
fn without_filter(capabilities: u64) -> Security {
    Security { seccomp: Seccomp::Unconfined, ..walls(capabilities) }
}

fn error(errno: Errno) -> i64 {
    -i64::from(errno as i32)
}

/// Asserts that the last call of a program gets to the kernel without a filter, which answers with one of `open` (or
/// succeeds, where there is none), and is refused with `closed` by the default one.
fn assert_refused(program: &Program, capabilities: u64, open: Option<Errno>, closed: Errno) {
    let reached = *results(program, without_filter(capabilities)).last().unwrap();
    match open {
        None => assert!(reached >= 0, "without the wall it fails: {:?}", Errno::from_raw(-reached as i32)),
        Some(errno) => assert_eq!(reached, error(errno), "without the wall"),
    }
    let refused = *results(program, walls(capabilities)).last().unwrap();
    assert_eq!(refused, error(closed), "with the wall");
}

fn one(number: i64, arguments: &[Value]) -> Program {
    Program::x86_64().call(number, arguments)
}

const NEWNS: i32 = 0x2_0000;
const NEWUSER: i32 = 0x1000_0000;
const NEWNET: i32 = 0x4000_0000;

#[test]
fn class_nested_user_namespace() {
    if !is_root() {
        return;
    }
    assert_refused(&one(libc::SYS_unshare, &[NEWUSER.into()]), 0, None, Errno::EPERM);
    assert_refused(&one(libc::SYS_unshare, &[(NEWUSER | NEWNET).into()]), 0, None, Errno::EPERM);
    // Two flags that clone does not take together, so that the program stays one.
    let clone = one(libc::SYS_clone, &[(NEWUSER | libc::CLONE_FS).into(), 0.into()]);
    assert_refused(&clone, 0, Some(Errno::EINVAL), Errno::EPERM);
    assert_refused(&one(libc::SYS_clone3, &[0.into(), 0.into()]), 0, Some(Errno::EINVAL), Errno::ENOSYS);
    assert_refused(&one(libc::SYS_setns, &[(-1).into(), 0.into()]), 0, Some(Errno::EBADF), Errno::EPERM);
}

/// The file system context overflow: root of a namespace of one's own, then `fsopen`.
#[test]
fn cve_2022_0185_fsopen_in_a_nested_user_namespace() {
    if !is_root() {
        return;
    }
    let attack = one(libc::SYS_unshare, &[(NEWUSER | NEWNS).into()])
        .call(libc::SYS_fsopen, &[b"tmpfs\0".into(), 0.into()]);
    assert_refused(&attack, 0, None, Errno::EPERM);
}

/// A control group's release agent: the same, then a mount.
#[test]
fn cve_2022_0492_mount_in_a_nested_user_namespace() {
    if !is_root() {
        return;
    }
    let mount = [b"none\0".into(), b"/proc\0".into(), b"tmpfs\0".into(), 0.into(), 0.into()];
    let attack = one(libc::SYS_unshare, &[(NEWUSER | NEWNS).into()]).call(libc::SYS_mount, &mount);
    assert_refused(&attack, 0, None, Errno::EPERM);
    // Not by the kernel's own check of capabilities: that comes after the strings are read.
    assert_refused(
        &one(libc::SYS_mount, &[1.into(), 1.into(), 1.into()]),
        0,
        Some(Errno::EFAULT),
        Errno::EPERM,
    );
}

#[test]
fn cve_2017_5226_tiocsti_types_into_a_terminal() {
    if !is_root() {
        return;
    }
    // With a capability whose holder the kernel lets type into any terminal, so that only the filter is in the way.
    let type_into = |request: u64| {
        one(libc::SYS_open, &[b"/dev/ptmx\0".into(), libc::O_RDWR.into()])
            .call(libc::SYS_ioctl, &[Value::Result(0), request.into(), b"x".into()])
    };
    assert_refused(&type_into(0x5412), SYS_ADMIN, None, Errno::EPERM);
}

#[test]
fn cve_2019_7303_tiocsti_with_a_bit_that_the_kernel_cuts_off() {
    if !is_root() {
        return;
    }
    for request in [0x1_0000_5412_u64, 0xdead_beef_0000_5412] {
        let attack = one(libc::SYS_open, &[b"/dev/ptmx\0".into(), libc::O_RDWR.into()])
            .call(libc::SYS_ioctl, &[Value::Result(0), request.into(), b"x".into()]);
        assert_refused(&attack, SYS_ADMIN, None, Errno::EPERM);
    }
}

#[test]
fn class_tioclinux_and_line_disciplines() {
    if !is_root() {
        return;
    }
    let ask = |request: i32, argument: Value| {
        one(libc::SYS_open, &[b"/dev/ptmx\0".into(), libc::O_RDWR.into()])
            .call(libc::SYS_ioctl, &[Value::Result(0), request.into(), argument])
    };
    // A pseudo-terminal is no console.
    assert_refused(&ask(0x541c, b"\x02".into()), 0, Some(Errno::ENOTTY), Errno::EPERM);
    // N_TTY, which it has already.
    assert_refused(&ask(0x5423, b"\0\0\0\0".into()), 0, None, Errno::EPERM);
}

#[test]
fn cve_2026_31431_af_alg_and_other_families() {
    if !is_root() {
        return;
    }
    // No type has this number, which the kernel finds out before it looks for the family: it need not be compiled in.
    const NO_TYPE: i32 = 15;
    for family in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_RDS, libc::AF_TIPC, libc::AF_CAN, libc::AF_X25] {
        let attack = one(libc::SYS_socket, &[family.into(), NO_TYPE.into(), 0.into()]);
        assert_refused(&attack, 0, Some(Errno::EINVAL), Errno::EAFNOSUPPORT);
        let upper = u64::try_from(family).unwrap() | 1 << 32;
        let attack = one(libc::SYS_socket, &[upper.into(), NO_TYPE.into(), 0.into()]);
        assert_refused(&attack, 0, Some(Errno::EINVAL), Errno::EAFNOSUPPORT);
    }
    // Those that everybody needs are left alone.
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
        let program = one(libc::SYS_socket, &[family.into(), libc::SOCK_RAW.into(), 0.into()]);
        let usual = results(&program, walls(0));
        assert_eq!(usual, results(&program, without_filter(0)), "family {family}");
    }
}

#[test]
fn class_kernel_keyring() {
    if !is_root() {
        return;
    }
    let session = -3;
    let key: [Value; 5] = [b"user\0".into(), b"rootling\0".into(), b"x".into(), 1.into(), session.into()];
    assert_refused(&one(libc::SYS_add_key, &key), 0, None, Errno::ENOSYS);
    let request: [Value; 4] = [b"user\0".into(), b"rootling\0".into(), 0.into(), 0.into()];
    assert_refused(
        &one(libc::SYS_add_key, &key).call(libc::SYS_request_key, &request),
        0,
        None,
        Errno::ENOSYS,
    );
    // KEYCTL_GET_KEYRING_ID
    assert_refused(&one(libc::SYS_keyctl, &[0.into(), session.into(), 0.into()]), 0, None, Errno::ENOSYS);
}

#[test]
fn class_weakening_personality() {
    if !is_root() {
        return;
    }
    for flag in [libc::ADDR_NO_RANDOMIZE, libc::READ_IMPLIES_EXEC, libc::MMAP_PAGE_ZERO] {
        assert_refused(&one(libc::SYS_personality, &[flag.into()]), 0, None, Errno::EPERM);
        let upper = u64::try_from(flag).unwrap() | 1 << 32;
        assert_refused(&one(libc::SYS_personality, &[upper.into()]), 0, None, Errno::EPERM);
    }
    assert_eq!(results(&one(libc::SYS_personality, &[0xffff_ffff_u64.into()]), walls(0)), [0]);
}

/// Ways into the kernel that have given root again and again.
#[test]
fn class_risky_kernel_interfaces() {
    if !is_root() {
        return;
    }
    let parameters = [0; 120];
    // By the sysctl of kernels that have it, it may be off for everybody.
    let off =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|text| text.trim() == "2");
    let open = if off { Some(Errno::EPERM) } else { None };
    assert_refused(&one(libc::SYS_io_uring_setup, &[8.into(), (&parameters).into()]), 0, open, Errno::EPERM);
    // UFFD_USER_MODE_ONLY, which the kernel gives to everybody.
    assert_refused(&one(libc::SYS_userfaultfd, &[1.into()]), 0, None, Errno::EPERM);
    let flags = u64::MAX;
    let perf: [Value; 5] = [(&parameters).into(), 0.into(), (-1).into(), (-1).into(), flags.into()];
    assert_refused(&one(libc::SYS_perf_event_open, &perf), 0, Some(Errno::EINVAL), Errno::EPERM);
    assert_refused(
        &one(libc::SYS_vmsplice, &[(-1).into(), 0.into(), 0.into(), 0.into()]),
        0,
        Some(Errno::EBADF),
        Errno::EPERM,
    );
    assert_refused(
        &one(libc::SYS_pidfd_getfd, &[(-1).into(), 0.into(), 0.into()]),
        0,
        Some(Errno::EBADF),
        Errno::EPERM,
    );
    // Never, whatever the capabilities: a kernel has at most 16 segments.
    let kexec = one(libc::SYS_kexec_load, &[0.into(), 1000.into(), 0.into(), 0.into()]);
    let built = results(&kexec, without_filter(SYS_BOOT)) != [error(Errno::ENOSYS)];
    let open = if built { Errno::EINVAL } else { Errno::ENOSYS };
    assert_refused(&kexec, SYS_BOOT, Some(open), Errno::EPERM);
}

/// What the kernel refuses as well, for want of a capability: the control has it.
#[test]
fn class_calls_that_a_capability_opens() {
    if !is_root() {
        return;
    }
    let all = Security { capabilities: u64::MAX, seccomp: Seccomp::Unconfined, ..Security::default() };
    let calls: [(i64, Vec<Value>, Errno); 5] = [
        (libc::SYS_open_by_handle_at, vec![(-1).into(), 1.into(), 0.into()], Errno::EFAULT),
        (libc::SYS_bpf, vec![0.into(), 1.into(), 100_000.into()], Errno::E2BIG),
        (libc::SYS_umount2, vec![b"/\0".into(), i32::MAX.into()], Errno::EINVAL),
        (libc::SYS_quotactl, vec![0.into(), 1.into(), 0.into(), 0.into()], Errno::EFAULT),
        (libc::SYS_syslog, vec![100.into(), 0.into(), 0.into()], Errno::EINVAL),
    ];
    for (number, arguments, open) in calls {
        let program = one(number, &arguments);
        let reached = results(&program, all.clone())[0];
        // Not every kernel is built with quotas or with a log.
        assert!([error(open), error(Errno::ENOSYS)].contains(&reached), "call {number}: {reached}");
        assert_eq!(results(&program, walls(0))[0], error(Errno::EPERM), "call {number}");
    }
}

#[test]
fn class_numbers_that_no_filter_knows() {
    if !is_root() {
        return;
    }
    let program = Program::x86_64()
        .call(1000, &[])
        .call(0x4000_0000 | libc::SYS_getpid, &[])
        .call(0x4000_0000 | 520, &[])
        .call(-1, &[])
        .call(libc::SYS_getpid, &[]);
    let results = results(&program, walls(0));
    assert_eq!(results[..4], [error(Errno::ENOSYS); 4]);
    assert!(results[4] > 1, "{results:?}");
}

/// Does this kernel run i386 programs?
fn runs_i386() -> bool {
    let program = Program::i386().call(20, &[]);
    let output = Tree::with(&program, without_filter(0)).command().output().unwrap();
    if output.status.code() != Some(0) {
        skip("the kernel runs no i386 programs");
    }
    output.status.code() == Some(0)
}

#[test]
fn i386_programs_run() {
    if !is_root() || !runs_i386() {
        return;
    }
    // getpid, brk, socket(AF_UNIX, SOCK_STREAM): none is a number that means the same to x86_64.
    let program =
        Program::i386().call(20, &[]).call(45, &[0.into()]).call(359, &[1.into(), 1.into(), 0.into()]);
    let results = results(&program, walls(0));
    assert!(results.iter().all(|result| !(-4095..=0).contains(result)), "{results:?}");
}

/// The other door of 64-bit programs, which a filter of 64-bit numbers alone leaves open.
#[test]
fn class_i386_calls_of_64_bit_programs() {
    if !is_root() || !runs_i386() {
        return;
    }
    let by_door = |number, arguments: &[Value]| Program::x86_64().call_by(Door::I386, number, arguments);
    assert_refused(&by_door(310, &[NEWUSER.into()]), 0, None, Errno::EPERM);
    assert_refused(&by_door(136, &[libc::ADDR_NO_RANDOMIZE.into()]), 0, None, Errno::EPERM);
    assert_refused(&by_door(288, &[0.into(), (-3).into(), 0.into()]), 0, None, Errno::ENOSYS);
    let alg: [Value; 3] = [libc::AF_ALG.into(), 15.into(), 0.into()];
    assert_refused(&by_door(359, &alg), 0, Some(Errno::EINVAL), Errno::EAFNOSUPPORT);
    let tiocsti = Program::x86_64()
        .call_by(Door::I386, 5, &[b"/dev/ptmx\0".into(), libc::O_RDWR.into()])
        .call_by(Door::I386, 54, &[Value::Result(0), 0x5412.into(), b"x".into()]);
    assert_refused(&tiocsti, SYS_ADMIN, None, Errno::EPERM);
}

/// `socketcall` has its arguments in memory, where a filter cannot see the family.
#[test]
fn cve_2026_31431_af_alg_through_socketcall() {
    if !is_root() || !runs_i386() {
        return;
    }
    let arguments: Vec<u8> = [libc::AF_ALG, 15, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
    let attack = Program::x86_64().call_by(Door::I386, 102, &[1.into(), Value::Bytes(arguments)]);
    assert_refused(&attack, 0, Some(Errno::EINVAL), Errno::ENOSYS);
    // Whoever wants i386 programs to have their sockets gets this with them, and it is said so.
    let i386 = Security { seccomp: Seccomp::I386, ..walls(0) };
    assert_eq!(results(&attack, i386), [error(Errno::EINVAL)]);
}

#[test]
fn the_filter_holds_where_execve_may_give_privileges() {
    if !is_root() {
        return;
    }
    let program = one(libc::SYS_unshare, &[NEWUSER.into()]);
    for uid in [0, 1000] {
        for (seccomp, expected) in [(Seccomp::Unconfined, 0), (Seccomp::Default, error(Errno::EPERM))] {
            let security = Security { no_new_privileges: false, seccomp, ..walls(0) };
            let mut tree = Tree::with(&program, security);
            tree.spec.process.user = User { uid, gid: uid, groups: vec![] };
            let output = tree.command().output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert_eq!(program.results(&output.stdout), [expected], "as user {uid}");
        }
    }
}

#[test]
fn an_ordinary_user_has_the_same_filter() {
    if !is_root() {
        return;
    }
    let program = one(libc::SYS_unshare, &[NEWUSER.into()]);
    for (seccomp, expected) in [(Seccomp::Unconfined, 0), (Seccomp::Default, error(Errno::EPERM))] {
        // No name has this id, and no range of ids: root inside is this user and there is nobody else.
        let id = 64_999;
        let tree = Tree::with(&program, Security { seccomp, ..walls(0) });
        let start = tree.command();
        let own = Command::new("chown").args(["-R", &id.to_string()]).arg(tree.dir.path()).status().unwrap();
        assert!(own.success());
        // The program may stand where only root may go.
        std::fs::copy(start.get_program(), tree.path("box")).unwrap();
        let mut command = Command::new(tree.path("box"));
        command.arg("rootless").arg(tree.path("spec.json")).uid(id).gid(id).env_clear();
        let output = command.current_dir(tree.dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(125) && said.contains("unshare") {
            skip(&format!("no user namespaces for ordinary users: {said}"));
            return;
        }
        assert_eq!(program.results(&output.stdout), [expected], "{output:?}");
    }
}

#[test]
fn exec_gets_the_filter_of_the_box() {
    if !is_root() {
        return;
    }
    let program = one(libc::SYS_unshare, &[NEWUSER.into()]);
    for no_new_privileges in [true, false] {
        let tree = Tree::with(&one(libc::SYS_pause, &[]), Security { no_new_privileges, ..walls(0) });
        install(&program, &tree.path("root/second"));
        let mut box_ = tree.command().spawn().unwrap();
        let start = Instant::now();
        while !tree.path("started").exists() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::fs::write(tree.path("second.json"), serde_json::to_vec(&command("/second")).unwrap()).unwrap();
        let running: Running = serde_json::from_slice(&std::fs::read(tree.path("started")).unwrap()).unwrap();
        let init = status_of(running.pid, "PPid").parse().unwrap();
        let filtered = [running.pid, init].map(wait_for_filter);
        let mut exec = Command::new(crate::runner::program());
        let output = exec.arg("exec").arg(tree.path("started")).arg(tree.path("second.json")).output();
        box_.kill().unwrap();
        box_.wait().unwrap();
        let output = output.unwrap();
        assert_eq!(program.results(&output.stdout), [error(Errno::EPERM)], "{output:?}");
        assert_eq!(filtered, [true, true], "the command, and process 1");
    }
}

/// A line of `/proc/PID/status`.
fn status_of(pid: i32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// Does a process get a filter soon? It is told about just before.
fn wait_for_filter(pid: i32) -> bool {
    let start = Instant::now();
    // SECCOMP_MODE_FILTER
    while status_of(pid, "Seccomp") != "2" {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[test]
fn a_profile_of_the_users_decides() {
    if !is_root() {
        return;
    }
    let profile = |text: &str| {
        let seccomp = Seccomp::Profile { name: "mine.json".into(), text: text.into() };
        Security { seccomp, ..walls(0) }
    };
    let program = one(libc::SYS_getppid, &[]).call(libc::SYS_getpid, &[]);
    let deny = profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getppid", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 84}]}"#,
    );
    assert_eq!(results(&program, without_filter(0)), [1, 2]);
    assert_eq!(results(&program, deny), [-84, 2]);
    // One that allows next to nothing: what the runner does itself before execve is not filtered.
    let strict = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "syscalls": [{"names": ["execve", "write", "exit"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(results(&program, strict), [-1, -1]);
    // One that kills.
    let kill = profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    let output = Tree::with(&program, kill).command().output().unwrap();
    assert_eq!(output.status.code(), Some(128 + libc::SIGSYS), "{output:?}");
}

#[test]
fn the_command_line_takes_a_profile_and_shows_it() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let root = environment.path("root");
    std::fs::create_dir(&root).unwrap();
    let program = one(libc::SYS_getppid, &[]);
    install(&program, &root.join("probe"));
    environment.ok(["import", &format!("dir:{}", root.display()), "probe"]);
    let profile = environment.path("profile.json");
    let run = |option: &str, rest: &[&str]| {
        let option = option.replace("FILE", &profile.display().to_string());
        let mut command = environment.command();
        let output =
            command.args(["run", "--security-opt", &option]).args(rest).args(["probe", "/probe"]).output();
        output.unwrap()
    };
    std::fs::write(
        &profile,
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errno": "EILSEQ"}]}"#,
    )
    .unwrap();
    assert_eq!(program.results(&run("seccomp=unconfined", &[]).stdout), [1]);
    assert_eq!(program.results(&run("seccomp=FILE", &[]).stdout), [error(Errno::EILSEQ)]);
    std::fs::write(
        &profile,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read", "action": "NO"}]}"#,
    )
    .unwrap();
    let wrong = run("seccomp=FILE", &[]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(125), "{said}");
    assert!(
        said.contains("profile.json\"\n  because: syscalls[0] (read)\n  because: \"NO\" is no action"),
        "{said}"
    );
    assert!(!said.contains("forked"), "nothing is made before the profile is understood: {said}");
    let shown = environment.json(["run", "--dry-run", "probe", "/probe"]);
    let filter = &shown["command"]["seccomp"];
    assert_eq!(filter["name"], "default");
    assert_eq!(filter["default"], "ENOSYS");
    let group = |name: &str| {
        let groups = filter["groups"].as_array().unwrap();
        groups.iter().find(|group| group["name"] == name).cloned().unwrap()
    };
    assert_eq!(group("mounts")["action"], "EPERM");
    assert_eq!(group("chroot")["action"], "allow", "the box keeps sys_chroot");
    let text = environment.ok(["run", "--dry-run", "probe", "/probe"]);
    let lines: Vec<&str> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
    let place = |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap();
    assert!(place("install seccomp filter") > place("set no_new_privs"), "{text}");
    assert!(place("install seccomp filter") < place("execute"), "{text}");
}

/// `cargo test --release --test tests -- --ignored --nocapture making_and_installing`
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it is run to be read")]
fn making_and_installing_the_filter_takes() {
    let capabilities = Security::default().capabilities;
    let make = || SeccompFilter::build(&Seccomp::Default, capabilities).unwrap().unwrap();
    let start = Instant::now();
    let filter = make();
    let first = start.elapsed();
    let mut makes: Vec<Duration> = (0..500)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(make());
            start.elapsed()
        })
        .collect();
    makes.sort();
    // A filter is for one thread, if nobody asks for more, and ends with it.
    let install = || std::thread::scope(|scope| scope.spawn(|| install_here(&filter)).join().unwrap());
    let mut installs: Vec<Duration> = (0..100).map(|_| install()).collect();
    installs.sort();
    eprintln!("{filter}: made in {first:?} at first, {:?} then, installed in {:?}", makes[250], installs[50]);
}

#[expect(unsafe_code, reason = "no crate installs a filter for one thread")]
fn install_here(filter: &SeccompFilter) -> Duration {
    let program = filter.instructions();
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_ptr().cast_mut() };
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let start = Instant::now();
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its instructions outlive the call.
    assert_eq!(unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) }, 0);
    start.elapsed()
}
