//! Another command in a box that is running.
//!
//! One process joins the box's namespaces by a handle on its command, and a child of it becomes the new
//! command: a pid namespace takes in only children. The first is outside the pid namespace, so nobody in the
//! box can see it; the second keeps to the same last steps as `run`. The environment is the spec's, never ours.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use rootling_backends::{Context, Result};

use super::cgroup::Cgroup;
use super::child::{become_root, die_with_parent, no_new_privileges, open_terminal};
use super::command::install_seccomp;
use super::plan::{Command, sys_flags};
use super::report::{self, Channel, Kind};
use super::running::Running;
use super::spawn::{Facts, Guest, Outcome, Signals, clone_into, finish, fork_command, limit, pass_on};
use super::spec::Process;
use super::sys::{self, Cloned};
use super::{caps, landlock, tty};

const STEPS: [&str; 10] = [
    "wait for the caller",
    "die with the caller",
    "join the namespaces of the box",
    "become root of the box",
    "open a terminal in the box",
    "join a new session keyring",
    "install the seccomp filter",
    "drop capabilities",
    "set no_new_privs",
    "shut out all files but those of the box",
];

/// Runs a command in a running box, to its end; `NotFound` where the box has ended.
///
/// The caller needs to be root, or the user whose user namespace the box is in.
pub fn exec(target: &Running, process: &Process) -> Result<Outcome> {
    let command = Command::build(process, &target.security)?;
    let handle = target.open()?;
    pass_on(sys::standard_files(), &target.userns, &process.user)?;
    let namespaces = foreign_namespaces(target.pid)?;
    let own_userns = namespaces.contains(CloneFlags::CLONE_NEWUSER);
    let facts = Facts::read()?;
    let signals = Signals::block()?;
    let size = if command.tty { tty::size() } else { None };
    // Opened here, where the host's cgroups can be seen.
    let cgroup = target.cgroup.as_ref().map(Cgroup::open).transpose()?;
    let limited = !target.limits.is_empty();
    let channel = Channel::new()?;
    let (cloned, within) = clone_into(0, cgroup.as_ref()).context(|| "clone3()")?;
    match cloned {
        Cloned::Child => {
            facts.arguments.replace(c"exec");
            let report = channel.into_child();
            let bounding = if own_userns { caps::FRESH } else { facts.bounding };
            let mut terminal = None;
            for step in 0..STEPS.len() {
                let done = match step {
                    0 if limited => wait(report.as_fd()),
                    1 => die_with_parent(report.as_fd()),
                    2 => join(handle.as_fd(), namespaces),
                    3 if own_userns => become_box_root(),
                    4 if command.tty => open_dev()
                        .and_then(|dev| {
                            open_terminal(report.as_fd(), dev.as_fd(), command.user.uid, size.as_ref())
                        })
                        .map(|peer| terminal = Some(peer)),
                    5 => keyring(),
                    6 if !command.seccomp_last => install_seccomp(&command),
                    7 => caps::drop_all_but(target.security.capabilities, bounding),
                    8 if target.security.no_new_privileges => no_new_privileges(),
                    9 if target.security.landlock => {
                        open_root().and_then(|root| landlock::shut_out(root.as_fd()))
                    }
                    _ => Ok(()),
                };
                if let Err(errno) = done {
                    report::send(report.as_fd(), Kind::Step, step, errno as i32, None);
                    sys::exit(125);
                }
            }
            nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
            fork_command(&command, &report, terminal, facts.ignored)
        }
        Cloned::Parent { pid, pidfd } => {
            let listener = channel.into_parent();
            let mut guest = Guest::new(pid, pidfd);
            if limited {
                limit(&guest, &target.limits, cgroup.as_ref(), within)?;
                listener.go(None)?;
            }
            let name = |index: u32| STEPS.get(index as usize).copied().unwrap_or("enter the box").to_owned();
            let attend = |guest: BorrowedFd<'_>, master| tty::relay(guest, &signals.fd, master);
            finish(&mut guest, &listener, &name, &command, &mut Vec::new(), attend, |_| {})
        }
    }
}

/// Returns the kinds of namespaces in which the process is and we are not.
///
/// setns(2) refuses the user namespace one is in already, and a network of the host's to all but the host's root.
fn foreign_namespaces(pid: i32) -> Result<CloneFlags> {
    const KINDS: [(&str, CloneFlags); 8] = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("net", CloneFlags::CLONE_NEWNET),
        ("time", sys_flags::NEWTIME),
    ];
    let id = |path: String| match std::fs::metadata(&path) {
        // A kernel without that kind has one of it for all.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((0, 0)),
        meta => meta.map(|meta| (meta.dev(), meta.ino())).context(|| format!("stat({path})")),
    };
    let mut foreign = CloneFlags::empty();
    for (name, flag) in KINDS {
        foreign.set(flag, id(format!("/proc/self/ns/{name}"))? != id(format!("/proc/{pid}/ns/{name}"))?);
    }
    Ok(foreign)
}

/// The end of the stream means that the caller has given up, and has its own reason.
fn wait(report: BorrowedFd<'_>) -> nix::Result<()> {
    match sys::receive(report, &mut [0], true)? {
        0 => sys::exit(125),
        _ => Ok(()),
    }
}

fn join(handle: BorrowedFd<'_>, namespaces: CloneFlags) -> nix::Result<()> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    sys::setns(handle, namespaces.bits())
}

fn become_box_root() -> nix::Result<()> {
    let joined = become_root();
    // Changing identity made the kernel forget the request; the parent cannot have gone unnoticed for long,
    // because the report socket fails then.
    joined.and_then(|()| sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong))
}

fn open_dev() -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(AT_FDCWD, c"/dev", flags, Mode::empty())
}

/// Where joining its mount namespace has put this process.
fn open_root() -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(AT_FDCWD, c"/", flags, Mode::empty())
}

fn keyring() -> nix::Result<()> {
    match sys::new_session_keyring() {
        Err(Errno::ENOSYS) => Ok(()),
        other => other,
    }
}
