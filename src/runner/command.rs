//! From a set-up process to the command: the last steps before `execve`, the same for `run` and `exec`.
//!
//! *child* code like [`child`](super::child).

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag};

use super::plan::Command;
use super::report::{self, Kind};
use super::seccomp::Filter;
use super::sys;
use super::user::User;

type Result<T> = nix::Result<T>;

/// What the failing step was doing, by number.
pub(super) const STEPS: [&str; 9] = [
    "fork the command",
    "start a session",
    "take the terminal",
    "set user and groups",
    "change to the working directory",
    "close descriptors",
    "die with the caller",
    "set a limit",
    INSTALL,
];

/// The step that a kernel may lack.
pub(super) const INSTALL: &str = "install the seccomp filter";

/// *child*: reports a failed step of [`STEPS`] and ends.
pub(super) fn fail(report: BorrowedFd<'_>, step: usize, errno: Errno) -> ! {
    report::send(report, Kind::Start, step, errno as i32, None);
    sys::exit(125)
}

/// *child*: becomes the command.
pub(super) fn start(
    command: &Command,
    report: BorrowedFd<'_>,
    terminal: Option<BorrowedFd<'_>>,
    ignored: u64,
) -> ! {
    let must = |step: usize, result: Result<()>| {
        if let Err(errno) = result {
            fail(report, step, errno);
        }
    };
    must(1, nix::unistd::setsid().map(drop));
    if let Some(terminal) = terminal {
        must(2, take(terminal));
    }
    if !command.is_that_user {
        // The change of user may make it traceable (fs.suid_dumpable), and it still is our program.
        must(3, become_user(&command.user).and_then(|()| sys::prctl(libc::PR_SET_DUMPABLE, 0)));
    }
    // After the identity, whose change would clear it. In a run the pid namespace sees to it; in an exec nothing
    // else does.
    must(6, super::child::die_with_parent(report));
    must(4, change_dir(&command.cwd));
    // The report moves to 3, everything above goes for good, and execve takes 3 with it.
    let report = match sys::keep_only(report) {
        Ok(report) => report,
        Err(errno) => fail(report, 5, errno),
    };
    for limit in &command.ulimits {
        if let Err(errno) = sys::set_limit(limit.resource, limit.soft, limit.hard) {
            fail(report, 7, errno);
        }
    }
    for signal in (1..=64).filter(|signal| ignored & (1 << (signal - 1)) != 0) {
        sys::default_signal(signal);
    }
    report::send(report, Kind::Ready, 0, 0, None);
    sys::set_signal_mask(0);
    let errno = execute(command, report);
    report::send(report, Kind::Refused, 0, errno as i32, None);
    sys::exit(if errno == Errno::ENOENT { 127 } else { 126 })
}

/// *child*: has the kernel ask the command's filter from here on.
pub(super) fn install_seccomp(command: &Command) -> Result<()> {
    match &command.seccomp {
        Some(filter) => sys::install_seccomp(filter.instructions(), filter.flags()),
        None => Ok(()),
    }
}

/// *child*: the same for process 1, where our own list is in force: whoever gets hold of it (`sys_ptrace` is one of the
/// capabilities that can be added) gets no further than the command. A profile of the user's need not allow what
/// process 1 does; where the filter came early, it is there already.
pub(super) fn filter_init(command: &Command) {
    if command.seccomp_last && command.seccomp.as_ref().is_some_and(Filter::is_ours) {
        // Best effort: the command, which does the same, tells of a failure.
        install_seccomp(command).ok();
    }
}

fn become_user(user: &User) -> Result<()> {
    sys::set_identity(user.uid, user.gid, Some(&user.groups)).or_else(|errno| match errno {
        // setgroups is denied where a single id is mapped; there is no group to leave then.
        Errno::EPERM if user.groups.is_empty() => sys::set_identity(user.uid, user.gid, None),
        errno => Err(errno),
    })
}

fn take(terminal: BorrowedFd<'_>) -> Result<()> {
    sys::set_controlling_terminal(terminal)?;
    (0..3).try_for_each(|number| sys::duplicate_as(terminal, number))
}

/// A directory behind `/proc/self/fd` could be the host's, as long as one of ours is open (CVE-2024-21626).
fn change_dir(path: &CStr) -> Result<()> {
    // Where the init is, after its pivot as after joining a box.
    if path == c"/" {
        return Ok(());
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let directory = sys::leave(nix::fcntl::openat2(AT_FDCWD, path, how)?);
    nix::unistd::fchdir(directory)?;
    let mut name = [0; 4096];
    // getcwd(2): a directory outside the root starts with "(unreachable)".
    match (sys::current_dir(&mut name), name[0]) {
        (Ok(_), b'/') | (Err(Errno::ERANGE), _) => Ok(()),
        (Ok(_), _) => Err(Errno::EXDEV),
        (Err(errno), _) => Err(errno),
    }
}

/// Tries each path as a shell does: the first that exists decides, unless it may not be executed.
/// Returns `ENOENT` only where none exists.
///
/// The filter is installed in front of the first `execve`, so that it need not allow anything else of ours. Only
/// where that one is refused, and `PATH` goes on, are further paths looked at through the filter.
fn execute(command: &Command, report: BorrowedFd<'_>) -> Errno {
    let mut found = Errno::ENOENT;
    let mut unfiltered = command.seccomp_last;
    for path in &command.candidates {
        match refuse_own_program(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            Err(Errno::EACCES) => {
                found = Errno::EACCES;
                continue;
            }
            Err(errno) => return errno,
            Ok(()) => {}
        }
        if std::mem::take(&mut unfiltered)
            && let Err(errno) = install_seccomp(command)
        {
            fail(report, 8, errno);
        }
        match sys::execve(path, &command.args, &command.env) {
            // It was there a moment ago: its interpreter is what is missing.
            Errno::ENOENT | Errno::ENOTDIR => return Errno::ENOEXEC,
            Errno::EACCES => found = Errno::EACCES,
            errno => return errno,
        }
    }
    found
}

/// Refuses `/proc/self/exe` and scripts that name it as their interpreter: until `execve` that link is the
/// host's own program, and running it inside would hand it to the box (CVE-2019-5736).
fn refuse_own_program(path: &CStr) -> Result<()> {
    let mut name = [0; LINE];
    let mut script = read_interpreter(path, &mut name)?;
    // As deep as the kernel goes with interpreters of interpreters.
    for _ in 0..5 {
        let Some(interpreter) = script else { return Ok(()) };
        let mut next = [0; LINE];
        match read_interpreter(interpreter, &mut next) {
            Err(Errno::ELOOP) => return Err(Errno::ELOOP),
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        name = next;
        script = terminated(&name);
    }
    Ok(())
}

/// What the kernel reads of a script (BINPRM_BUF_SIZE), and a NUL.
const LINE: usize = 257;

/// Reads the interpreter of a script into `name`; `None` for what is no script, or may be executed and not read.
fn read_interpreter<'a>(path: &CStr, name: &'a mut [u8; LINE]) -> Result<Option<&'a CStr>> {
    let mut head = [0; LINE];
    let file = match open_no_magic(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY) {
        Err(errno @ (Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => return Err(errno),
        Err(_) => return open_no_magic(path, OFlag::O_PATH).map(|_| None),
        Ok(file) => file,
    };
    let Ok(read) = nix::unistd::read(file, &mut head[..LINE - 1]) else { return Ok(None) };
    let Some(line) = head[..read].strip_prefix(b"#!") else { return Ok(None) };
    let line = line.trim_ascii_start();
    let length = line.iter().position(|byte| b" \t\n\0".contains(byte)).unwrap_or(line.len());
    name[..length].copy_from_slice(&line[..length]);
    Ok(terminated(name))
}

fn terminated(name: &[u8; LINE]) -> Option<&CStr> {
    CStr::from_bytes_until_nul(name).ok().filter(|name| !name.is_empty())
}

/// What is opened here goes with `execve`.
fn open_no_magic(path: &CStr, flags: OFlag) -> Result<BorrowedFd<'static>> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    nix::fcntl::openat2(AT_FDCWD, path, how).map(sys::leave)
}
