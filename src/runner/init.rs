//! The first process of a box: our own code, forked, so that nothing of the tree has to be an init.
//!
//! The kernel drops signals that process 1 has no handler for, and leaves orphans to it; a shell or a server
//! put there does neither right. So process 1 passes every signal on, reaps, and ends as soon as the command
//! has ended; the kernel then kills what is left in the pid namespace. `exec` uses the same loop.
//!
//! Where the box has no pid namespace of its own, nobody would kill what is left, and its ids would be lent to others while it
//! lives on. There the loop takes in orphans as process 1 would (PR_SET_CHILD_SUBREAPER), and kills them at the end. The end
//! includes that of the caller, which therefore comes as a signal that can be taken.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{getpid, getppid};

use super::sys;

/// Tells of the caller's death: the last of the real-time signals, which hardly anybody sends.
const CALLER_DIED: libc::c_int = 64;

/// *child*: makes this process the one that orphans of the box come to, before there can be any.
pub(super) fn take_in_orphans() {
    if getpid().as_raw() != 1 {
        // Best effort: kernels before 3.4 have no such thing.
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).ok();
    }
}

/// *child*: passes signals on and reaps until `command` ends, then exits with its status.
///
/// All signals must be blocked. Holds no descriptor of the caller's: a reader of the command's output sees its end.
pub(super) fn look_after(command: libc::pid_t) -> ! {
    let shared = getpid().as_raw() != 1;
    let children = if shared { open_children() } else { None };
    // Best effort: descriptors that stay open delay ends of files, nothing else.
    sys::close_from(u32::from(children.is_some())).ok();
    let caller = getppid();
    if children.is_some() {
        // Best effort: the command at least is killed with this process.
        sys::prctl(libc::PR_SET_PDEATHSIG, CALLER_DIED as libc::c_ulong).ok();
    }
    loop {
        match sys::wait_for_signal() {
            libc::SIGCHLD => {
                while let Some((process, status)) = sys::reap() {
                    if process == command {
                        kill_children(children);
                        sys::exit(sys::shell_status(status).into());
                    }
                }
            }
            // A caller in another pid namespace is number 0 before and after.
            CALLER_DIED if children.is_some() && (caller.as_raw() == 0 || getppid() != caller) => {
                kill_children(children);
                sys::exit(128 + libc::SIGKILL)
            }
            signal if signal > 0 => sys::kill(command, signal),
            // Interrupted, by being stopped and continued.
            _ if Errno::last() == Errno::EINTR => {}
            _ => sys::exit(125),
        }
    }
}

/// The list of this process's children (proc_pid_task(5)), as descriptor 0; `None` without CONFIG_PROC_CHILDREN, and where
/// `/proc` is that of a namespace which this process is not in: an `exec`, whose orphans go to the box's own process 1.
fn open_children() -> Option<BorrowedFd<'static>> {
    let open = |path| nix::fcntl::openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    let file: OwnedFd = open(c"/proc/thread-self/children").ok()?;
    sys::duplicate_as(file.as_fd(), 0).ok()?;
    let [zero, ..] = sys::standard_files();
    Some(zero)
}

/// Kills all children, and theirs as they come to us. A child keeps its number until it is reaped here.
fn kill_children(children: Option<BorrowedFd<'static>>) {
    let Some(children) = children else { return };
    let mut text = [0; 4096];
    loop {
        let length = nix::sys::uio::pread(children, &mut text, 0).unwrap_or(0);
        // The last number may have been cut off; there is a space behind each whole one.
        let whole = text[..length].iter().rposition(|byte| *byte == b' ').unwrap_or(0);
        let mut first = 0;
        for number in text[..whole].split(|byte| *byte == b' ') {
            let process = number.iter().fold(0, |sum, digit| sum * 10 + libc::pid_t::from(digit - b'0'));
            if process > 0 {
                sys::kill(process, libc::SIGKILL);
                first = process;
            }
        }
        if first == 0 {
            return;
        }
        // Best effort: what cannot be waited for has been.
        sys::wait_for(first).ok();
        while sys::reap().is_some() {}
    }
}
