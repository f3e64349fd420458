//! System calls for namespaces, terminals and identities: the only unsafe file of the root crate.
//!
//! Everything marked *child* is called between `clone3` and `execve`, in a copy of a process that may have had
//! other threads: such a function allocates nothing, takes no lock and never goes through a C library wrapper
//! that does (glibc's `setresuid` signals all threads it believes to exist; its `fork` takes malloc's locks).

#![expect(unsafe_code, reason = "this file is the fence around it")]

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::pty::Winsize;

type Result<T> = nix::Result<T>;

fn check(returned: libc::c_long) -> Result<libc::c_long> {
    Errno::result(returned)
}

fn own(raw: libc::c_long) -> OwnedFd {
    let raw = RawFd::try_from(raw).expect("the kernel returns descriptors as int");
    // SAFETY: the kernel just returned this descriptor to us, and nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Takes a descriptor that just arrived in a message.
pub(super) fn own_received(raw: RawFd) -> OwnedFd {
    own(raw.into())
}

fn pid(raw: libc::c_long) -> libc::pid_t {
    libc::pid_t::try_from(raw).expect("the kernel returns process ids as int")
}

// ---------------------------------------------------------------- this program

/// Has the command asked to end (SIGTERM) when the thread that starts it ends, however that ends.
pub fn ends_with_caller(command: &mut std::process::Command) {
    signal_when_caller_ends(command, libc::SIGTERM);
}

/// As [`ends_with_caller`]; the command also keeps the file open, whatever number it has, and so do those that it starts.
pub fn ends_with_caller_keeping(command: &mut std::process::Command, file: OwnedFd) {
    ends_with_caller(command);
    inherits(command, file);
}

/// Has the command killed when the thread that starts it ends, however that ends.
pub fn dies_with_caller(command: &mut std::process::Command) {
    signal_when_caller_ends(command, libc::SIGKILL);
}

fn signal_when_caller_ends(command: &mut std::process::Command, signal: c_int) {
    use std::os::unix::process::CommandExt;
    let caller = nix::unistd::getpid().as_raw();
    let bind = move || {
        // SAFETY: prctl with these arguments touches no memory.
        check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) })?;
        // The caller may have ended before the kernel was told.
        // SAFETY: getppid takes nothing and touches no memory.
        let parent = unsafe { libc::syscall(libc::SYS_getppid) };
        if parent == libc::c_long::from(caller) { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates nor locks.
    unsafe { command.pre_exec(bind) };
}

/// Has the command inherit a file, under the number that is returned: only this one does, whatever else is started meanwhile.
pub fn inherits(command: &mut std::process::Command, file: OwnedFd) -> c_int {
    use std::os::unix::process::CommandExt;
    let number = file.as_raw_fd();
    let keep = move || {
        // SAFETY: fcntl with these arguments touches no memory; the closure owns the file, which is open in the child as well.
        check(unsafe { libc::syscall(libc::SYS_fcntl, file.as_raw_fd(), libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call: it neither allocates nor locks.
    unsafe { command.pre_exec(keep) };
    number
}

/// Takes the file that [`inherits`] left under a number; nobody inherits it from here. Not to be called twice with one number.
pub fn take_inherited(number: c_int) -> nix::Result<OwnedFd> {
    // SAFETY: fcntl with these arguments touches no memory.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, as was just seen, and by contract nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Does what Rust's runtime would have done before `main` and a program cannot do without.
///
/// Descriptors 0 to 2 that are closed become `/dev/null`: the next file opened would be taken for one of them. A broken pipe is an
/// error of `write` and no signal. The heap grows in larger steps than the C library's.
pub fn begin() {
    let mut standard = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the three structs outlive the call.
    let polled = unsafe { libc::poll(standard.as_mut_ptr(), 3, 0) };
    for file in standard.iter().filter(|file| polled > 0 && file.revents & libc::POLLNVAL != 0) {
        // SAFETY: the path is a C string. The lowest free number is this one, as the numbers below were seen to.
        let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        assert_eq!(opened, file.fd, "a standard descriptor is closed and cannot be replaced");
    }
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    #[cfg(target_env = "gnu")]
    {
        const MEBIBYTE: c_int = 1 << 20;
        // SAFETY: changes a number that malloc reads; no other thread is there yet.
        unsafe { libc::mallopt(libc::M_TOP_PAD, MEBIBYTE) };
    }
}

// ---------------------------------------------------------------- processes

/// struct clone_args (linux/sched.h), with `set_tid` of Linux 5.5 and `cgroup` of 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which of the two processes a clone returned in.
#[derive(Debug)]
pub(super) enum Cloned {
    /// The new one: only functions marked *child* from here to `execve`.
    Child,
    /// The old one.
    Parent {
        /// The new process, as we see it.
        pid: libc::pid_t,
        /// A handle on it that no later process can take over.
        pidfd: OwnedFd,
    },
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child in new namespaces, `CLONE_NEW*` in `namespaces`, with default signal handlers, in the cgroup of
/// version 2 behind `cgroup` or in the caller's.
pub(super) fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let mut pidfd: c_int = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let arguments = CloneArgs {
        flags: namespaces | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | into,
        cgroup: cgroup.map_or(0, |cgroup| u64::from(cgroup.as_raw_fd().cast_unsigned())),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::try_from(libc::SIGCHLD).expect("signals are positive"),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and with no stack this is a fork: the child has its own copy of all memory and
    // keeps to *child* functions. The struct and `pidfd` outlive the call.
    let returned =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) })?;
    Ok(match returned {
        0 => Cloned::Child,
        child => Cloned::Parent { pid: pid(child), pidfd: own(pidfd.into()) },
    })
}

/// *child*: makes another child of this process's parent, in new namespaces; true in the new process.
pub(super) fn clone_sibling(namespaces: u64) -> Result<bool> {
    let arguments = CloneArgs { flags: namespaces | CLONE_PARENT, ..CloneArgs::default() };
    // SAFETY: as in `clone3`; the signal at its end is the one that this process sends.
    let returned =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) })?;
    Ok(returned == 0)
}

/// *child*: forks without the C library's handlers and locks; 0 in the new process.
pub(super) fn fork() -> Result<libc::pid_t> {
    // SAFETY: flags of SIGCHLD alone and null for the rest make clone(2) a fork on every architecture.
    check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }).map(pid)
}

/// Forks a process that has one thread: both may allocate afterwards.
pub(super) fn fork_single_threaded() -> Result<nix::unistd::ForkResult> {
    // SAFETY: the caller is documented to run with a single thread, so no lock is held by another.
    unsafe { nix::unistd::fork() }
}

/// *child*: ends the process without exit handlers.
pub(super) fn exit(status: c_int) -> ! {
    // SAFETY: _exit touches no memory and does not return.
    unsafe { libc::_exit(status) }
}

/// Opens a handle on a process.
pub(super) fn pidfd_open(process: libc::pid_t) -> Result<OwnedFd> {
    // SAFETY: both arguments are integers.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) }).map(own)
}

/// Opens the namespace that a user namespace lies in: `#define NS_GET_PARENT _IO(NSIO, 0x2)`, `#define NSIO 0xb7` (linux/nsfs.h).
pub(super) fn parent_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    // SAFETY: the request takes no argument.
    let opened = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    check(opened.into()).map(own)
}

/// Sends a signal to the process behind a handle.
pub(super) fn pidfd_send_signal(process: BorrowedFd<'_>, signal: c_int) -> Result<()> {
    let none: *const c_void = std::ptr::null();
    // SAFETY: a null siginfo is allowed; the rest are integers.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) })
        .map(drop)
}

/// *child*: sends a signal to a process of this pid namespace.
pub(super) fn kill(process: libc::pid_t, signal: c_int) {
    // SAFETY: kill touches no memory. Best effort: the process may be gone already.
    unsafe { libc::kill(process, signal) };
}

/// *child*: takes one signal that is blocked; `SIGKILL` and `SIGSTOP` are never taken.
pub(super) fn wait_for_signal() -> c_int {
    let all = u64::MAX;
    let none: *const c_void = std::ptr::null();
    // SAFETY: the mask is the kernel's eight bytes and outlives the call; info and timeout may be null.
    let signal =
        unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const all, none, none, size_of::<u64>()) };
    c_int::try_from(signal).unwrap_or(-1)
}

/// *child*: blocks every signal, or none.
pub(super) fn set_signal_mask(mask: u64) {
    let none: *const c_void = std::ptr::null();
    // SAFETY: the mask is the kernel's eight bytes and outlives the call; the old one is not asked for.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, none, size_of::<u64>())
    };
}

/// *child*: gives one signal its default action, also those that the C library keeps for itself.
pub(super) fn default_signal(signal: c_int) {
    // struct kernel_sigaction is at most four words on every architecture; all zero is SIG_DFL.
    let action = [0_u64; 4];
    let none: *const c_void = std::ptr::null();
    // SAFETY: SIG_DFL runs no code of ours; the action outlives the call, the old one is not asked for.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, size_of::<u64>()) };
}

/// *child*: reaps one ended child: its id and wait status, or `None` where none has ended.
pub(super) fn reap() -> Option<(libc::pid_t, c_int)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let process = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (process > 0).then_some((process, status))
}

/// Waits for one child; its wait status.
pub(super) fn wait_for(process: libc::pid_t) -> Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        match check(unsafe { libc::waitpid(process, &raw mut status, 0) }.into()) {
            Err(Errno::EINTR) => {}
            other => return other.map(|_| status),
        }
    }
}

/// The exit status a shell would show for a wait status: 128+n for signal n.
pub(super) fn shell_status(status: c_int) -> u8 {
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// *child*: `prctl` with integers only.
pub(super) fn prctl(option: c_int, value: c_ulong) -> Result<()> {
    // SAFETY: the options used here take integers, no pointers.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, value, 0, 0, 0) }).map(drop)
}

/// Where the arguments of this process lie in its memory, as `ps` shows them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arguments {
    start: *mut u8,
    length: usize,
}

impl Arguments {
    /// Finds them: the kernel puts all arguments behind the first, each with its NUL (execve(2), proc_pid_cmdline(5)).
    pub(super) fn find() -> Self {
        unsafe extern "C" {
            static program_invocation_name: *mut c_char;
        }
        // SAFETY: the C library set it before `main`, and nobody changes it.
        let start = unsafe { program_invocation_name }.cast();
        let length = std::env::args_os().map(|text| text.len() + 1).sum();
        Self { start, length }
    }

    /// *child*: replaces them by `name`, so that nobody inside reads how the box was started.
    pub(super) fn replace(self, name: &CStr) {
        let name = name.to_bytes();
        if self.start.is_null() || self.length <= name.len() {
            return;
        }
        // SAFETY: the child's own copy of the strings that it was started with: writable, of this length, and read by nobody
        // between here and `execve`.
        let text = unsafe { std::slice::from_raw_parts_mut(self.start, self.length) };
        text.fill(0);
        text[..name.len()].copy_from_slice(name);
    }
}

/// *child*: joins the namespace behind a descriptor, or those of a process behind a handle.
pub(super) fn setns(file: BorrowedFd<'_>, kinds: c_int) -> Result<()> {
    // SAFETY: both arguments are integers.
    check(unsafe { libc::syscall(libc::SYS_setns, file.as_raw_fd(), kinds) }).map(drop)
}

/// *child*: gives this process new namespaces.
pub(super) fn unshare(kinds: c_int) -> Result<()> {
    // SAFETY: the argument is an integer; no memory is shared with another thread of the child.
    check(unsafe { libc::syscall(libc::SYS_unshare, kinds) }).map(drop)
}

/// *child*: sets a limit of this process.
pub(super) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    limit(0, resource, Some((soft, hard))).map(drop)
}

/// Sets a limit of a process, where one is given, and returns what it was: soft and hard.
pub(super) fn limit(process: libc::pid_t, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new = new.map(|(soft, hard)| libc::rlimit64 { rlim_cur: soft, rlim_max: hard });
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel reads one struct, or none, and writes another; both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, process, resource, new, &raw mut old) })?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// *child*: closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) -> Result<()> {
    // SAFETY: the caller is about to exec or lives without descriptors: no owner will use or close them again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// *child*: moves `file` to descriptor 3, close-on-exec, and closes everything above.
pub(super) fn keep_only(file: BorrowedFd<'_>) -> Result<BorrowedFd<'static>> {
    if file.as_raw_fd() != 3 {
        // SAFETY: whoever owned 3 is a local of a function that never returns, so it will not be closed again.
        check(unsafe { libc::dup3(file.as_raw_fd(), 3, libc::O_CLOEXEC) }.into())?;
    }
    close_from(4)?;
    // SAFETY: 3 is open, and stays so until this process executes something or ends.
    Ok(unsafe { BorrowedFd::borrow_raw(3) })
}

/// *child*: leaves a descriptor open until [`close_from`] closes all at once: one call instead of seventy.
pub(super) fn leave(file: OwnedFd) -> BorrowedFd<'static> {
    let raw = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: nobody owns it any more, so it stays open until the child is done with all of them.
    unsafe { BorrowedFd::borrow_raw(raw) }
}

/// *child*: makes `file` descriptor number `number` as well, not close-on-exec.
pub(super) fn duplicate_as(file: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: 0, 1 and 2 have no owner in Rust.
    check(unsafe { libc::dup2(file.as_raw_fd(), number) }.into()).map(drop)
}

/// *child*: joins a new session keyring, so that the caller's keys stay outside.
pub(super) fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    let none: *const c_char = std::ptr::null();
    // SAFETY: a null name means an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, none) }).map(drop)
}

/// The three descriptors that a program starts with, open or not.
pub(super) fn standard_files() -> [BorrowedFd<'static>; 3] {
    // SAFETY: nothing in this program closes them, and a call on one that was never open fails with EBADF.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

// ---------------------------------------------------------------- Landlock

/// struct landlock_ruleset_attr (linux/landlock.h).
#[repr(C)]
struct LandlockRuleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// struct landlock_path_beneath_attr (linux/landlock.h).
#[repr(C, packed)]
struct LandlockPathBeneath {
    allowed_access: u64,
    parent_fd: c_int,
}

/// *child*: the version of the interface.
pub(super) fn landlock_abi() -> Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: c_int = 1;
    let none: *const c_void = std::ptr::null();
    // SAFETY: with this flag the kernel reads no struct.
    let abi = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, LANDLOCK_CREATE_RULESET_VERSION)
    })?;
    Ok(u32::try_from(abi).unwrap_or_default())
}

/// *child*: makes a ruleset that handles these accesses to files, and with scopes, which need version 6.
pub(super) fn landlock_ruleset(access: u64, scoped: u64) -> Result<BorrowedFd<'static>> {
    let ruleset = LandlockRuleset { handled_access_fs: access, handled_access_net: 0, scoped };
    // Older versions have a shorter struct, and take a longer one only if the rest is zero.
    let size = if scoped == 0 { size_of::<u64>() } else { size_of::<LandlockRuleset>() };
    // SAFETY: the kernel reads `size` bytes of a struct that outlives the call.
    check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size, 0) })
        .map(|raw| leave(own(raw)))
}

/// *child*: allows these accesses to everything below a directory.
pub(super) fn landlock_allow_below(
    ruleset: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    access: u64,
) -> Result<()> {
    const LANDLOCK_RULE_PATH_BENEATH: c_int = 1;
    let rule = LandlockPathBeneath { allowed_access: access, parent_fd: directory.as_raw_fd() };
    let kind = LANDLOCK_RULE_PATH_BENEATH;
    // SAFETY: the kernel reads one struct that outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), kind, &raw const rule, 0)
    })
    .map(drop)
}

/// *child*: puts this process and its children under a ruleset, for good.
pub(super) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: both arguments are integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

// ---------------------------------------------------------------- identities

/// *child*: sets real, effective and saved user and group and the supplementary groups of this thread.
pub(super) fn set_identity(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<()> {
    if let Some(groups) = groups {
        // SAFETY: the kernel reads `len` ids out of a slice that outlives the call.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: all arguments are integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: all arguments are integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// *child*: has the kernel ask `filter` before every system call from here on; nothing takes that back. Needs
/// `no_new_privs` or `CAP_SYS_ADMIN` (seccomp(2)); `flags` are `SECCOMP_FILTER_FLAG_*`.
pub(super) fn install_seccomp(filter: &[libc::sock_filter], flags: c_ulong) -> Result<()> {
    let Ok(len) = libc::c_ushort::try_from(filter.len()) else { return Err(Errno::EINVAL) };
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel reads the struct and `len` instructions; both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) }).map(drop)
}

// ---------------------------------------------------------------- exec

/// Strings as `execve` wants them: pointers, then null.
#[derive(Debug)]
pub(super) struct StringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    /// Keeps the strings and their addresses.
    pub(super) fn new(strings: Vec<CString>) -> Self {
        // Moving a CString does not move its bytes, so the addresses stay right.
        let pointers = strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Self { strings, pointers }
    }

    /// The strings.
    pub(super) fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// *child*: replaces the program; returns only on failure.
pub(super) fn execve(path: &CStr, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: both arrays end in null and every string in them lives as long as its array.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    Errno::last()
}

/// Replaces the program by an open file; returns only on failure.
pub(super) fn execve_file(file: BorrowedFd<'_>, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: both arrays end in null and every string in them lives as long as its array; the path is an empty C string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// *child*: the current directory, as bytes without NUL.
pub(super) fn current_dir(buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into a buffer that outlives the call.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(usize::try_from(length).expect("success is not negative").saturating_sub(1))
}

// ---------------------------------------------------------------- terminals

/// *child*: unlocks a pty and opens its other end, by descriptor and not by path.
pub(super) fn pty_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    // #define TIOCSPTLCK _IOW('T', 0x31, int)  (asm-generic/ioctls.h)
    let unlocked: c_int = 0;
    // SAFETY: the kernel reads one int that outlives the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }.into())?;
    // #define TIOCGPTPEER _IO('T', 0x41)  (asm-generic/ioctls.h)
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into()).map(own)
}

/// *child*: makes a terminal the controlling one of this session.
pub(super) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the argument is an integer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Returns a terminal's size.
pub(super) fn window_size(terminal: BorrowedFd<'_>) -> Result<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one struct winsize that outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }.into())?;
    Ok(size)
}

/// Sets a terminal's size; its foreground processes get `SIGWINCH`.
pub(super) fn set_window_size(terminal: BorrowedFd<'_>, size: &Winsize) -> Result<()> {
    // SAFETY: the kernel reads one struct winsize that outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(size)) }.into())
        .map(drop)
}

// ---------------------------------------------------------------- messages between the two

/// A cmsghdr with one descriptor behind it, as CMSG_SPACE(sizeof(int)) lays it out.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    file: c_int,
}

impl Control {
    fn empty() -> Self {
        // SAFETY: cmsghdr is integers only: zero is a value of it.
        let header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        Self { header, file: -1 }
    }
}

/// *child*: sends a message, with a descriptor where one is given.
pub(super) fn send(socket: BorrowedFd<'_>, message: &[u8], file: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut control = Control::empty();
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<c_int>()) as _;
    let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: msghdr is integers and pointers: zero is a value of it.
    let mut envelope: libc::msghdr = unsafe { std::mem::zeroed() };
    envelope.msg_iov = &raw mut part;
    envelope.msg_iovlen = 1;
    if let Some(file) = file {
        control.file = file.as_raw_fd();
        envelope.msg_control = (&raw mut control).cast();
        envelope.msg_controllen = size_of::<Control>() as _;
    }
    // SAFETY: the envelope points to a buffer and a control block that outlive the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const envelope, libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(drop)
}

/// *child*: waits for a message and the descriptor that may come with it; 0 bytes when the other end is closed.
pub(super) fn receive_file(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut control = Control::empty();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is integers and pointers: zero is a value of it.
    let mut envelope: libc::msghdr = unsafe { std::mem::zeroed() };
    envelope.msg_iov = &raw mut part;
    envelope.msg_iovlen = 1;
    envelope.msg_control = (&raw mut control).cast();
    envelope.msg_controllen = size_of::<Control>() as _;
    // SAFETY: the envelope points to a buffer and a control block that outlive the call.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut envelope, libc::MSG_CMSG_CLOEXEC) };
    let length =
        Errno::result(read).map(|length| usize::try_from(length).expect("success is not negative"))?;
    let came =
        control.header.cmsg_type == libc::SCM_RIGHTS && envelope.msg_controllen > 0 && control.file >= 0;
    Ok((length, came.then(|| own(control.file.into()))))
}

/// *child*: what waits in the socket: `Ok(0)` when the other end is closed, `EAGAIN` when nothing does.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], block: bool) -> Result<usize> {
    let flags = if block { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the kernel writes at most `len` bytes into a buffer that outlives the call.
    let read = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    Errno::result(read).map(|length| usize::try_from(length).expect("success is not negative"))
}

// ---------------------------------------------------------------- network

/// *child*: brings the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: all arguments are integers.
    let socket = leave(own(check(unsafe { libc::socket(libc::AF_INET, kind, 0) }.into())?));
    let mut request = interface("lo")?;
    // Its other flags are the kernel's own: they need not be asked for.
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).expect("IFF_UP is 1");
    interface_ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Brings an interface of the socket's network namespace up.
pub(super) fn interface_up(socket: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut request = interface(name)?;
    // #define SIOCGIFFLAGS 0x8913, SIOCSIFFLAGS 0x8914  (linux/sockios.h); write and read ifr_flags
    interface_ioctl(socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel just wrote a short there.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::c_short::try_from(libc::IFF_UP).expect("IFF_UP is 1");
    interface_ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Returns an interface's IPv4 address; `ENODEV` where there is no such interface, `EADDRNOTAVAIL` where it has none.
pub(super) fn interface_address(socket: BorrowedFd<'_>, name: &str) -> Result<Ipv4Addr> {
    let mut request = interface(name)?;
    // SIOCGIFADDR answers for the family that is asked for.
    request.ifr_ifru.ifru_addr = ipv4(Ipv4Addr::UNSPECIFIED);
    // #define SIOCGIFADDR 0x8915  (linux/sockios.h); writes ifr_addr
    interface_ioctl(socket, libc::SIOCGIFADDR, &mut request)?;
    // SAFETY: the kernel just wrote an address, of the family that the socket has: sockaddr_in (netdevice(7)).
    let bytes = unsafe { request.ifr_ifru.ifru_addr }.sa_data;
    let [_, _, a, b, c, d, ..] = bytes.map(c_char::cast_unsigned);
    Ok(Ipv4Addr::new(a, b, c, d))
}

/// Returns the size of packets that an interface takes, in bytes.
pub(super) fn interface_mtu(socket: BorrowedFd<'_>, name: &str) -> Result<u32> {
    let mut request = interface(name)?;
    // #define SIOCGIFMTU 0x8921  (linux/sockios.h); writes ifr_mtu
    interface_ioctl(socket, libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: the kernel just wrote an int there.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// Gives an interface of the socket's network namespace an IPv4 address.
pub(super) fn set_interface_address(
    socket: BorrowedFd<'_>,
    name: &str,
    address: Ipv4Addr,
    prefix: u8,
) -> Result<()> {
    let mut request = interface(name)?;
    request.ifr_ifru.ifru_addr = ipv4(address);
    // #define SIOCSIFADDR 0x8916, SIOCSIFNETMASK 0x891c  (linux/sockios.h); read ifr_addr and ifr_netmask
    interface_ioctl(socket, libc::SIOCSIFADDR, &mut request)?;
    let bits = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    request.ifr_ifru.ifru_netmask = ipv4(Ipv4Addr::from_bits(bits));
    interface_ioctl(socket, libc::SIOCSIFNETMASK, &mut request)
}

/// struct rtentry (linux/route.h).
#[repr(C)]
struct RouteEntry {
    pad1: c_ulong,
    destination: libc::sockaddr,
    gateway: libc::sockaddr,
    mask: libc::sockaddr,
    flags: u16,
    pad2: i16,
    pad3: c_ulong,
    pad4: *const c_void,
    metric: i16,
    device: *const c_char,
    mtu: c_ulong,
    window: c_ulong,
    irtt: u16,
}

/// Leads everything that has no other way to a gateway, in the socket's network namespace.
pub(super) fn add_default_route(socket: BorrowedFd<'_>, gateway: Ipv4Addr) -> Result<()> {
    let any = ipv4(Ipv4Addr::UNSPECIFIED);
    let flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let route = RouteEntry {
        pad1: 0,
        destination: any,
        gateway: ipv4(gateway),
        mask: any,
        flags,
        pad2: 0,
        pad3: 0,
        pad4: std::ptr::null(),
        metric: 0,
        device: std::ptr::null(),
        mtu: 0,
        window: 0,
        irtt: 0,
    };
    // #define SIOCADDRT 0x890B  (linux/sockios.h); reads struct rtentry
    // SAFETY: the kernel reads one rtentry that outlives the call; a null device name is allowed.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) }.into()).map(drop)
}

/// *child*: a request about an interface, with all else zero.
fn interface(name: &str) -> Result<libc::ifreq> {
    // SAFETY: ifreq is plain bytes: zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // IFNAMSIZ counts the final zero.
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENODEV);
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    Ok(request)
}

/// *child*: one of the requests that take a struct ifreq.
fn interface_ioctl(socket: BorrowedFd<'_>, number: c_ulong, request: &mut libc::ifreq) -> Result<()> {
    // SAFETY: every request used here reads or writes within one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), number as _, std::ptr::from_mut(request)) }.into())
        .map(drop)
}

/// An IPv4 address as the kernel wants it: struct sockaddr_in (ip(7)) in a struct sockaddr, both of 16 bytes.
fn ipv4(address: Ipv4Addr) -> libc::sockaddr {
    let mut data: [c_char; 14] = [0; 14];
    // The port comes first.
    for (slot, byte) in data[2..].iter_mut().zip(address.octets()) {
        *slot = byte.cast_signed();
    }
    libc::sockaddr { sa_family: u16::try_from(libc::AF_INET).expect("AF_INET is 2"), sa_data: data }
}

// ---------------------------------------------------------------- programs of others

/// Lets `act` run in the command's process between fork and exec; it must make system calls only.
pub(super) fn before_exec(
    command: &mut std::process::Command,
    act: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the callers' closures are documented to make system calls only: they neither allocate nor lock.
    unsafe { command.pre_exec(act) };
}
