//! The parent's side: what is opened before the clone, the clone, and what the child says afterwards.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rootling_backends::{Access, Context, Error, ErrorKind, Result, small_file};

use super::child::Child;
use super::plan::{Command, Op, Plan};
use super::report::{Channel, Kind, Listener, Reports};
use super::running::Running;
use super::spec::{IdMap, Net, Userns};
use super::sys::{self, Cloned};
use super::{command, init, net, tty};

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What a shell would show: the command's status, 128+n for signal n, 126 or 127 where `refused` says why.
    pub status: u8,
    /// Why the command could not be executed, though everything around it worked.
    pub refused: Option<Error>,
    /// What was left out, in words.
    pub notes: Vec<String>,
}

/// Runs a plan to the end of its command; `started` hears of it once the command runs.
///
/// Must be called with no other thread that takes signals: those sent to this process are passed on to the
/// command. Costs one clone and, with the child, about 200 system calls. An error means that the command never
/// ran and that nothing is left: no process, mount, directory or namespace. If this process is killed, so is
/// everything in the box.
pub fn run(plan: &Plan, started: impl FnOnce(&Running)) -> Result<Outcome> {
    let root = plan.root.open(if plan.read_only { Access::ReadOnly } else { Access::ReadWrite })?;
    let facts = Facts::read()?;
    let signals = Signals::block()?;
    let size = if plan.command.tty { tty::size() } else { None };
    let channel = Channel::new()?;
    let network = net::Ready::new(&plan.net)?;
    let waits = plan.userns == Userns::Host && matches!(plan.net, Net::Private(_));
    let namespaces = u64::from(plan.namespaces.bits().cast_unsigned());
    match sys::clone3(namespaces).context(|| "clone3(new namespaces)")? {
        Cloned::Child => {
            let report = channel.into_child();
            if waits && !matches!(sys::receive(report.as_fd(), &mut [0], true), Ok(1)) {
                sys::exit(125);
            }
            let bounding = if plan.userns == Userns::Host { facts.bounding } else { u64::MAX };
            let mut child = Child::new(report.as_fd(), root.as_fd(), bounding, plan.command.user.uid);
            child.size = size;
            child.set_up(&plan.ops);
            let terminal = child.terminal.take();
            fork_command(&plan.command, &report, terminal, facts.ignored)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(root);
            let listener = channel.into_parent();
            let mut guest = Guest { pid, pidfd, ended: false };
            if let Userns::Private { uid_map, gid_map } = &plan.userns {
                write_maps(pid, uid_map, gid_map)?;
            }
            let _connected = network.connect(pid)?;
            if waits || plan.userns != Userns::Host {
                listener.go()?;
            }
            finish(&mut guest, &listener, &signals, &|index| step_name(plan, index), &plan.command, started)
        }
    }
}

/// *child*: makes the command's process and looks after it.
pub(super) fn fork_command(
    command: &Command,
    report: &OwnedFd,
    terminal: Option<BorrowedFd<'_>>,
    ignored: u64,
) -> ! {
    match sys::fork() {
        Ok(0) => command::start(command, report.as_fd(), terminal, ignored),
        Ok(process) => init::look_after(process),
        Err(errno) => command::fail(report.as_fd(), 0, errno),
    }
}

/// Listens until the command runs, then stands between it and the caller until it ends.
pub(super) fn finish(
    guest: &mut Guest,
    listener: &Listener,
    signals: &Signals,
    step_name: &dyn Fn(u32) -> String,
    command: &Command,
    started: impl FnOnce(&Running),
) -> Result<Outcome> {
    let reports = listener.read()?;
    if let Some(message) = reports.first(Kind::Step) {
        let errno = Errno::from_raw(message.errno);
        return Err(explain(Error::call(step_name(message.index), errno), errno));
    }
    if let Some(message) = reports.first(Kind::Start) {
        let step = command::STEPS.get(message.index as usize).copied().unwrap_or("start the command");
        let what = format!("{step} ({:?}, user {})", command.cwd, command.user.uid);
        return Err(Error::call(what, Errno::from_raw(message.errno)));
    }
    let refused = reports.first(Kind::Refused).map(|message| refusal(command, message.errno));
    if refused.is_none() {
        let Some(process) = reports.command else {
            return Err(Error::new(ErrorKind::Io, "the box ended before its command started"));
        };
        // The command may have ended already; then there is nothing to tell about.
        if let Ok(running) = Running::of(process) {
            started(&running);
        }
    }
    let notes = notes(&reports, step_name);
    tty::relay(guest.pidfd.as_fd(), &signals.fd, reports.master)?;
    Ok(Outcome { status: guest.wait()?, refused, notes })
}

fn step_name(plan: &Plan, index: u32) -> String {
    plan.ops.get(index as usize).map_or_else(|| "set up the box".to_owned(), Op::to_string)
}

fn notes(reports: &Reports, step_name: &dyn Fn(u32) -> String) -> Vec<String> {
    let notes = reports.messages.iter().filter(|message| message.kind == Kind::Note as u32);
    notes
        .map(|message| {
            format!("left out: {} ({})", step_name(message.index), Errno::from_raw(message.errno).desc())
        })
        .collect()
}

fn explain(error: Error, errno: Errno) -> Error {
    match errno {
        Errno::EROFS => error.hint("run it writable once, or make the directory in the tree"),
        Errno::ENOTDIR | Errno::ELOOP => {
            error.hint("make it a directory in the tree: links are not followed")
        }
        _ => error,
    }
}

fn refusal(command: &Command, errno: i32) -> Error {
    let program = command.args.strings().first().map(|text| text.to_string_lossy().into_owned());
    let program = program.unwrap_or_default();
    match Errno::from_raw(errno) {
        Errno::ENOENT => {
            let error = Error::call(format!("find {program:?}"), Errno::ENOENT);
            error.hint("is it installed in the tree, and in its PATH?")
        }
        errno => Error::call(format!("execute {program:?}"), errno),
    }
}

/// Fills the maps of the child's user namespace.
fn write_maps(pid: libc::pid_t, uid_map: &[IdMap], gid_map: &[IdMap]) -> Result<()> {
    for (file, map) in [("uid_map", uid_map), ("gid_map", gid_map)] {
        let lines: String =
            map.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect();
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, &lines).context(|| format!("write({path}, {lines:?})"))?;
    }
    Ok(())
}

/// What is read of this process before the clone, because the child cannot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Capabilities that can ever be had.
    pub(super) bounding: u64,
    /// Signals that are ignored, by bit number signal-1.
    pub(super) ignored: u64,
}

impl Facts {
    pub(super) fn read() -> Result<Self> {
        let path = "/proc/self/status";
        let status = small_file::read_proc(path)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Ok(Self { bounding: field("CapBnd:").unwrap_or(u64::MAX), ignored: field("SigIgn:").unwrap_or(0) })
    }
}

/// All signals blocked and readable; unblocked when dropped.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Before the clone: a signal that comes between clone and readiness waits instead of being lost.
    pub(super) fn block() -> Result<Self> {
        let all = SigSet::all();
        let before = all.thread_swap_mask(SigmaskHow::SIG_SETMASK).context(|| "sigprocmask(all)")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        match SignalFd::with_flags(&all, flags).context(|| "signalfd(all)") {
            Ok(fd) => Ok(Self { fd, before }),
            Err(error) => {
                // Best effort: the mask was valid a moment ago.
                before.thread_set_mask().ok();
                Err(error)
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Best effort: the mask was valid when we came.
        self.before.thread_set_mask().ok();
    }
}

/// The box's first process; killed, and with it all the others, when dropped early.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) pid: libc::pid_t,
    pub(super) pidfd: OwnedFd,
    pub(super) ended: bool,
}

impl Guest {
    fn wait(&mut self) -> Result<u8> {
        let status = sys::wait_for(self.pid).context(|| format!("waitpid({})", self.pid))?;
        self.ended = true;
        Ok(sys::shell_status(status))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.ended {
            // Best effort: it may have ended by itself.
            sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL).ok();
            drop(self.wait());
        }
    }
}
