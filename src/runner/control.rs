//! Signals to what runs in a box, and its end, seen from outside.
//!
//! A process id is only ever used through a handle whose start time was compared: nobody else is hit. Whoever is not root
//! stands in the user namespace of the box for the moment of the signal, where they are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::ForkResult;
use rootling_backends::{Context, Error, ErrorKind, Result, small_file};

use super::running::Running;
use super::{sys, userns};

impl Running {
    /// Sends a signal to the command; `NotFound` where it has ended.
    ///
    /// Must be called with a single thread.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.send(&self.open()?, signal)
    }

    /// Kills everything in the box at once: its first process, with which the kernel ends all others of its pid namespace.
    ///
    /// Must be called with a single thread. In a box with the host's processes that is the command, and what else is in its
    /// cgroup, where it has one; whoever runs it kills that when the first process has ended.
    pub fn kill_all(&self) -> Result<()> {
        let init = self.init()?;
        self.send(&init, libc::SIGKILL)
    }

    /// Waits until the command has ended; false when `timeout` is over before.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let handle = match self.open() {
            Ok(handle) => handle,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let start = std::time::Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut files = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
            match poll(&mut files, left) {
                Ok(0) if start.elapsed() >= timeout => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(Error::call("poll(command)", errno)),
            }
        }
    }

    /// Opens a handle on the box's first process, which is the command's parent as long as the command lives.
    fn init(&self) -> Result<OwnedFd> {
        let parent = parent_of(self.pid)?;
        // It may end at any moment, and the command with it.
        let handle = sys::pidfd_open(parent).map_err(|_| self.gone())?;
        // The command lives, and has lived all the time: then its parent did too, and is who the handle holds.
        self.open()?;
        if parent_of(self.pid)? != parent {
            return Err(self.gone());
        }
        Ok(handle)
    }

    fn send(&self, handle: &OwnedFd, signal: i32) -> Result<()> {
        let sent = match sys::pidfd_send_signal(handle.as_fd(), signal) {
            Err(Errno::EPERM) if !userns::is_root() => self.send_as_its_root(handle.as_fd(), signal)?,
            sent => sent,
        };
        match sent {
            Err(Errno::ESRCH) => Err(self.gone()),
            sent => sent.context(|| format!("pidfd_send_signal({}, {signal})", self.pid)),
        }
    }

    /// In a process of its own, because a namespace that was entered cannot be left.
    fn send_as_its_root(&self, handle: BorrowedFd<'_>, signal: i32) -> Result<nix::Result<()>> {
        match sys::fork_single_threaded().context(|| "fork()")? {
            ForkResult::Child => {
                let sent = userns::join_userns(self)
                    .map_err(|error| error.errno().unwrap_or(Errno::EPERM))
                    .and_then(|_| sys::pidfd_send_signal(handle, signal));
                sys::exit(sent.map_or_else(|errno| errno as i32, |()| 0))
            }
            ForkResult::Parent { child } => {
                let status = sys::wait_for(child.as_raw()).context(|| format!("waitpid({child})"))?;
                let code = i32::from(sys::shell_status(status));
                Ok(if code == 0 { Ok(()) } else { Err(Errno::from_raw(code)) })
            }
        }
    }
}

/// Field 4 of proc_pid_stat(5).
pub(super) fn parent_of(pid: i32) -> Result<i32> {
    let text = small_file::read_record(format!("/proc/{pid}/stat")).map_err(|error| match error.errno() {
        // It ended between the two calls.
        Some(Errno::ESRCH) => error.with_kind(ErrorKind::NotFound),
        _ => error,
    })?;
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let parent = fields.split(' ').nth(1).and_then(|field| field.parse().ok()).filter(|parent| *parent > 0);
    parent.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("process {pid} has no parent here")))
}
