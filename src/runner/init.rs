//! The first process of a box: our own code, forked, so that nothing of the tree has to be an init.
//!
//! The kernel drops signals that process 1 has no handler for, and leaves orphans to it; a shell or a server
//! put there does neither right. So process 1 passes every signal on, reaps, and ends as soon as the command
//! has ended; the kernel then kills what is left in the pid namespace. `exec` uses the same loop.

use nix::errno::Errno;

use super::sys;

/// *child*: passes signals on and reaps until `command` ends, then exits with its status.
///
/// All signals must be blocked. Holds no descriptor: a reader of the command's output sees its end.
pub(super) fn look_after(command: libc::pid_t) -> ! {
    // Best effort: descriptors that stay open delay ends of files, nothing else.
    sys::close_from(0).ok();
    loop {
        match sys::wait_for_signal() {
            libc::SIGCHLD => {
                while let Some((process, status)) = sys::reap() {
                    if process == command {
                        sys::exit(sys::shell_status(status).into());
                    }
                }
            }
            signal if signal > 0 => sys::kill(command, signal),
            // Interrupted, by being stopped and continued.
            _ if Errno::last() == Errno::EINTR => {}
            _ => sys::exit(125),
        }
    }
}
