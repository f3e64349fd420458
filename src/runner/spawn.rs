//! The parent's side: what is opened before the clone, the clone, and what the child says afterwards.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid};
use rootling_backends::{Access, Context, Error, ErrorKind, MappedOwner, Result, small_file};

use super::attend::{self, Attendant, Streams};
use super::cgroup::{Cgroup, Limits};
use super::child::{Child, Fd};
use super::plan::{Command, Op, Plan, sys_flags};
use super::report::{self, Channel, Kind, Listener, Message, Reports};
use super::running::Running;
use super::spec::{IdMap, Ulimit, Userns};
use super::stubs::Stubs;
use super::sys::{self, Cloned};
use super::user::User;
use super::{caps, command, init, join, net, sources, tty};

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
/// ran and that nothing is left: no process, mount, directory, cgroup or namespace. If this process is killed, so is
/// everything in the box; a cgroup that is left then is removed when the next one is made.
pub fn run(plan: &Plan, started: impl FnOnce(&Running)) -> Result<Outcome> {
    run_with(plan, None, started)
}

/// As [`run`], with somebody else beside the box than the caller and its terminal: what the command says goes to `attendant`,
/// and it reads nothing, or what visitors type.
///
/// `Tty::Auto` is for callers who stay: the plan should say `On` or `Off`.
pub fn run_detached(plan: &Plan, attendant: Attendant, started: impl FnOnce(&Running)) -> Result<Outcome> {
    run_with(plan, Some(attendant), started)
}

fn run_with(plan: &Plan, attendant: Option<Attendant>, started: impl FnOnce(&Running)) -> Result<Outcome> {
    let piped = attendant.is_some() && !plan.command.tty;
    let streams = if piped { Some(Streams::open()?) } else { None };
    let (theirs, ours) = streams.map(|streams| (streams.theirs, streams.ours)).unzip();
    pass_on(given(theirs.as_ref()), &plan.userns, &plan.command.user)?;
    let root = if plan.userns.maps_tree() { None } else { Some(plan.root.open(access(plan))?) };
    let sources = sources::open(plan)?;
    let mut late: Vec<Option<Fd>> = vec![None; sources.len()];
    let doors = join::open(&plan.joins)?;
    let network = net::Ready::new(plan.net.as_ref())?;
    // Before the guest, so that it is removed after the guest has ended.
    let cgroup = make_cgroup(plan)?;
    let facts = Facts::read()?;
    let signals = Signals::block()?;
    let usual = || attendant.is_some().then_some(tty::USUAL_SIZE);
    let size = if plan.command.tty { tty::size().or_else(usual) } else { None };
    let channel = Channel::new()?;
    let namespaces = u64::from(plan.namespaces.bits().cast_unsigned());
    let scout = !doors.is_empty();
    if let Some(offsets) = &plan.clocks {
        shift_clocks(offsets)?;
    }
    let cloned = clone_into(if scout { 0 } else { namespaces }, cgroup.as_ref());
    let (cloned, within) = cloned.map_err(|errno| cannot_clone(plan, errno))?;
    match cloned {
        Cloned::Child => {
            facts.arguments.replace(c"init");
            let report = channel.into_child();
            if scout {
                join::go_through(&doors, namespaces, report.as_fd());
            }
            if let Err(errno) = take_standard_files(given(theirs.as_ref())) {
                report::send(report.as_fd(), Kind::Step, 0, errno as i32, None);
                sys::exit(125);
            }
            let bounding = if plan.userns == Userns::Host { facts.bounding } else { caps::FRESH };
            let root = root.as_ref().map(AsFd::as_fd);
            let mut child = Child::new(report.as_fd(), root, bounding, &plan.command);
            child.size = size;
            child.sources = &sources;
            child.late = &mut late;
            child.set_up(&plan.ops);
            let terminal = child.terminal.take();
            fork_command(&plan.command, &report, terminal, facts.ignored)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(root);
            let listener = channel.into_parent();
            let mut guest = Guest::new(pid, pidfd);
            if scout {
                guest = follow(guest, &listener, plan)?;
            }
            if plan.ops.first() == Some(&Op::Wait) {
                limit(&guest, &plan.limits, cgroup.as_ref(), within)?;
                prepare(&mut guest, plan, &sources, network, &listener)?;
            }
            // Only the box may hold them now: their end is its end.
            drop((sources, theirs));
            let step_name = |index: u32| step_name(plan, index);
            let place = cgroup.as_ref().map(|cgroup| cgroup.place().clone());
            let attend = |guest: BorrowedFd<'_>, master| match attendant {
                None => tty::relay(guest, &signals.fd, master),
                Some(attendant) => attend::attend(attendant, guest, &signals.fd, master, ours),
            };
            let mut made = Vec::new();
            let outcome =
                finish(&mut guest, &listener, &step_name, &plan.command, &mut made, attend, |process| {
                    // Without a boot id nothing could be found again.
                    if let Ok(running) = Running::of(process, plan, place) {
                        started(&running);
                    }
                });
            // Nothing may run in the box any more when its mount points go.
            drop(guest);
            Stubs::of(plan, made).remove();
            outcome
        }
    }
}

/// What the box gets as its three standard files: these, or else the caller's.
fn given(files: Option<&[OwnedFd; 3]>) -> [BorrowedFd<'_>; 3] {
    match files {
        Some(files) => files.each_ref().map(AsFd::as_fd),
        None => sys::standard_files(),
    }
}

/// Makes the cgroup, where limits need one.
fn make_cgroup(plan: &Plan) -> Result<Option<Cgroup>> {
    if !plan.limits.need_cgroup() {
        return Ok(None);
    }
    Cgroup::make(&plan.cgroup, &plan.limits).map(Some).map_err(|error| match error.kind() {
        // The same box with other users would be no help.
        ErrorKind::Unsupported => error.with_kind(ErrorKind::FailedPrecondition),
        _ => error,
    })
}

/// Clones into a cgroup where the kernel does that (Linux 5.7, and rights on both ends); otherwise the child has to be
/// added. Returns whether it is in.
pub(super) fn clone_into(namespaces: u64, cgroup: Option<&Cgroup>) -> nix::Result<(Cloned, bool)> {
    let directory = cgroup.and_then(Cgroup::directory_fd);
    if directory.is_some()
        && let Ok(cloned) = sys::clone3(namespaces, directory)
    {
        return Ok((cloned, true));
    }
    sys::clone3(namespaces, None).map(|cloned| (cloned, false))
}

/// Puts the waiting child where its limits hold.
pub(super) fn limit(guest: &Guest, limits: &Limits, cgroup: Option<&Cgroup>, within: bool) -> Result<()> {
    if let Some(cgroup) = cgroup {
        cgroup.add(guest.pid, within)?;
    }
    let Some(score) = limits.oom_score_adj else { return Ok(()) };
    let path = format!("/proc/{}/oom_score_adj", guest.pid);
    let written = fs::write(&path, score.to_string()).context(|| format!("write({path}, {score})"));
    written.context(|| "--oom-score-adj cannot be set").map_err(|error| match error.errno() {
        Some(Errno::EACCES) => {
            error.hint("to go below the caller's own takes CAP_SYS_RESOURCE: give a higher one")
        }
        _ => error,
    })
}

/// Lets children of this process have clocks of their own. That is for the caller to do: the offsets are written to a file of a
/// process, and the files of a child in its own user namespace belong to nobody there (time_namespaces(7)).
fn shift_clocks(offsets: &str) -> Result<()> {
    let path = "/proc/self/timens_offsets";
    sys::unshare(sys_flags::NEWTIME.bits()).context(|| "unshare(CLONE_NEWTIME)")?;
    fs::write(path, offsets).context(|| format!("write({path}, {offsets:?})")).map_err(|error| {
        match error.errno() {
            Some(Errno::ERANGE) => error.hint("a clock may not be set before 0 or centuries ahead"),
            _ => error,
        }
    })
}

/// A new user namespace is refused in a chroot (`EPERM`) and by kernels without them (`EINVAL`): those are
/// of kind `Unsupported`, because the same box without one may work.
fn cannot_clone(plan: &Plan, errno: Errno) -> Error {
    let error = Error::call("clone3(new namespaces)", errno);
    let users = matches!(plan.userns, Userns::Private { .. });
    match errno {
        Errno::EPERM | Errno::EINVAL if users => error.with_kind(ErrorKind::Unsupported),
        // A limit that somebody may have used up on purpose is no reason to go without.
        Errno::ENOSPC if users => error.with_kind(ErrorKind::FailedPrecondition).hint(
            "end some boxes, or raise the limit: sysctl user.max_user_namespaces; --userns host goes without",
        ),
        _ => error,
    }
}

fn access(plan: &Plan) -> Access {
    if plan.read_only { Access::ReadOnly } else { Access::ReadWrite }
}

/// Waits for the scout to hand over to the init.
fn follow(mut scout: Guest, listener: &Listener, plan: &Plan) -> Result<Guest> {
    let here = listener.read_here()?;
    scout.wait()?;
    match here {
        Ok(pid) => {
            let pidfd = sys::pidfd_open(pid).context(|| format!("pidfd_open({pid})"))?;
            Ok(Guest::new(pid, pidfd))
        }
        Err(Some(message)) if message.kind == Kind::Join as u32 => {
            let errno = Errno::from_raw(message.errno);
            Err(match plan.joins.get(message.index as usize) {
                Some(joined) => Error::call(joined.to_string(), errno),
                None => Error::call("clone3(new namespaces, beside those joined)", errno),
            })
        }
        Err(_) => Err(Error::new(ErrorKind::Io, "the box ended before its first step")),
    }
}

/// Does what only the caller can while the child waits, then lets it go on.
fn prepare(
    guest: &mut Guest,
    plan: &Plan,
    sources: &[OwnedFd],
    network: net::Ready<'_>,
    listener: &Listener,
) -> Result<()> {
    if let Userns::Private { uid_map, gid_map, .. } = &plan.userns {
        write_maps(guest.pid, uid_map, gid_map)?;
    }
    guest.network = network.connect(guest.pid)?;
    for limit in &plan.security.ulimits {
        raise_limit(guest.pid, limit)?;
    }
    if !plan.userns.maps_tree() {
        return listener.go(None);
    }
    let (tree, late) = map_owners(guest, plan, sources)?;
    listener.go(Some(tree.as_fd()))?;
    late.iter().try_for_each(|mount| listener.go(Some(mount.as_fd())))
}

/// Makes the tree, and what else was opened for the box, show the owners that the box's users know; returns the tree, and those
/// sources that could be made only now.
fn map_owners(guest: &Guest, plan: &Plan, sources: &[OwnedFd]) -> Result<(OwnedFd, Vec<OwnedFd>)> {
    let path = format!("/proc/{}/ns/user", guest.pid);
    let userns = fs::File::open(&path).context(|| format!("open({path})"))?;
    let (uid, gid) = plan.userns.outside(0, 0).unwrap_or((0, 0));
    let owner = MappedOwner { userns: userns.as_fd(), uid, gid };
    // First: where it cannot be, the box may be tried again with the host's users.
    let root = plan.root.open_mapped(access(plan), &owner)?;
    Ok((root, sources::map(plan, sources, &owner)?))
}

/// A hard limit that the child, root of nothing but its own namespace, could not raise. What is lowered is lowered last.
fn raise_limit(pid: libc::pid_t, limit: &Ulimit) -> Result<()> {
    let Ulimit { resource, hard, .. } = *limit;
    let call = || format!("prlimit({pid}, RLIMIT {resource}, {hard})");
    let (soft, now) = sys::limit(pid, resource, None).context(call)?;
    if hard <= now {
        return Ok(());
    }
    sys::limit(pid, resource, Some((soft, hard))).map(drop).context(call).map_err(|error| {
        let error = error.context(format!("raise a limit from {now} to {hard}"));
        error.hint("that takes CAP_SYS_RESOURCE: ask for no more than the hard limit that `ulimit -H` shows")
    })
}

/// Looks at the three files that are passed on.
///
/// A directory is refused: from it a path leads to all of the host, as with any that is left open (CVE-2024-21626). A pipe is given to
/// the command's user, who may open it again under `/dev/stdout` and the like.
pub(super) fn pass_on(files: [BorrowedFd<'_>; 3], userns: &Userns, user: &User) -> Result<()> {
    for (file, name) in files.into_iter().zip(["input", "output", "error"]) {
        // A closed descriptor is none to pass on.
        let Ok(stat) = fstat(file) else { continue };
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                let message =
                    format!("standard {name} is a directory, from which the box could reach all others");
                return Err(
                    Error::new(ErrorKind::InvalidInput, message).hint("redirect it, as with </dev/null")
                );
            }
            libc::S_IFIFO => share_pipe(file, userns, user)?,
            _ => {}
        }
    }
    Ok(())
}

/// One without a name, whose owner nobody else cares for.
fn share_pipe(file: BorrowedFd<'_>, userns: &Userns, user: &User) -> Result<()> {
    // PIPEFS_MAGIC (linux/magic.h).
    const PIPEFS: libc::__fsword_t = 0x5049_5045;
    // Only root has users for a box who could not open it anyway.
    let owner = userns.outside(user.uid, user.gid).filter(|_| userns.maps_tree());
    let Some((uid, gid)) = owner else { return Ok(()) };
    // Best effort: a pipe that cannot be looked at stays as it is.
    if nix::sys::statfs::fstatfs(file).is_ok_and(|stat| stat.filesystem_type().0 == PIPEFS) {
        nix::unistd::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .context(|| format!("fchown(pipe, {uid}, {gid})"))?;
    }
    Ok(())
}

/// *child*: makes these the three that every process in the box starts with.
fn take_standard_files(files: [BorrowedFd<'_>; 3]) -> nix::Result<()> {
    for (number, file) in (0..).zip(files) {
        if std::os::fd::AsRawFd::as_raw_fd(&file) != number {
            sys::duplicate_as(file, number)?;
        }
    }
    Ok(())
}

/// *child*: makes the command's process and looks after it.
pub(super) fn fork_command(
    command: &Command,
    report: &OwnedFd,
    terminal: Option<BorrowedFd<'_>>,
    ignored: u64,
) -> ! {
    init::take_in_orphans();
    match sys::fork() {
        Ok(0) => command::start(command, report.as_fd(), terminal, ignored),
        Ok(process) => {
            command::filter_init(command);
            init::look_after(process)
        }
        Err(errno) => command::fail(report.as_fd(), 0, errno),
    }
}

/// Listens until the command runs, then stands between it and the caller until it ends.
pub(super) fn finish(
    guest: &mut Guest,
    listener: &Listener,
    step_name: &dyn Fn(u32) -> String,
    command: &Command,
    made: &mut Vec<(Message, OwnedFd)>,
    attend: impl FnOnce(BorrowedFd<'_>, Option<OwnedFd>) -> Result<()>,
    started: impl FnOnce(libc::pid_t),
) -> Result<Outcome> {
    let mut reports = listener.read()?;
    made.append(&mut reports.made);
    if let Some(message) = reports.first(Kind::Step) {
        let errno = Errno::from_raw(message.errno);
        let step = step_name(message.index);
        let mounts =
            ["mount ", "bind ", "attach ", "show ", "make "].iter().any(|verb| step.starts_with(verb));
        // Never a kind that would let the box be tried again with other users: what a step meets, a box may have put there.
        let error = match Error::call(step, errno) {
            error if error.kind() == ErrorKind::Unsupported => error.with_kind(ErrorKind::FailedPrecondition),
            error => error,
        };
        return Err(if mounts { explain(error, errno) } else { error });
    }
    if let Some(message) = reports.first(Kind::Start) {
        let step = command::STEPS.get(message.index as usize).copied().unwrap_or("start the command");
        let what = format!("{step} ({:?}, user {})", command.cwd, command.user.uid);
        let errno = Errno::from_raw(message.errno);
        let error = Error::call(what, errno);
        return Err(match errno {
            // seccomp(2): neither the call nor the operation are in a kernel without filters.
            Errno::ENOSYS | Errno::EINVAL if step == command::INSTALL => {
                error.hint("this kernel has no filters: --security-opt seccomp=unconfined does without")
            }
            _ => error,
        });
    }
    let refused = reports.first(Kind::Refused).map(|message| refusal(command, message.errno));
    if refused.is_none() {
        let Some(process) = reports.command else {
            return Err(Error::new(ErrorKind::Io, "the box ended before its command started"));
        };
        started(process);
    }
    let notes = notes(&reports, step_name);
    attend(guest.pidfd.as_fd(), reports.master)?;
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
        Errno::EXDEV => {
            error.hint("a link in the tree leads below /proc, /sys or /dev: nothing is mounted there")
        }
        Errno::EEXIST => {
            error.hint("there is a link in the tree that leads nowhere: remove it, or make what it names")
        }
        Errno::EISDIR => error.hint("a file cannot be shown over a directory: name a path below it"),
        Errno::EINVAL | Errno::ENOTDIR | Errno::ELOOP => {
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
        let written = fs::write(&path, &lines).context(|| format!("write({path}, {lines:?})"));
        // Root of a namespace that lacks these ids itself may not map them.
        written.map_err(|error| match error.errno() {
            Some(Errno::EPERM) => error.with_kind(ErrorKind::Unsupported),
            _ => error,
        })?;
    }
    Ok(())
}

/// Returns the capabilities that processes of this one can ever have.
pub fn bounding_set() -> Result<u64> {
    Ok(Facts::read()?.bounding)
}

/// What is read of this process before the clone, because the child cannot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Capabilities that can ever be had.
    pub(super) bounding: u64,
    /// Signals that are ignored, by bit number signal-1.
    pub(super) ignored: u64,
    /// Where the arguments are.
    pub(super) arguments: sys::Arguments,
}

impl Facts {
    pub(super) fn read() -> Result<Self> {
        let path = "/proc/self/status";
        let status = small_file::read_record(path)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Ok(Self {
            bounding: field("CapBnd:").unwrap_or(u64::MAX >> 1),
            ignored: field("SigIgn:").unwrap_or(0),
            arguments: sys::Arguments::find(),
        })
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
    ended: bool,
    /// What connects it; goes after it, so that rules and addresses are given back when nobody uses them any more.
    network: Option<net::Connected>,
}

impl Guest {
    pub(super) fn new(pid: libc::pid_t, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: false, network: None }
    }

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
