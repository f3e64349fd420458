//! Ending with whoever started this program, where they asked for that.
//!
//! The kernel forgets the signal of prctl(2) `PR_SET_PDEATHSIG` whenever a process changes its credentials, which starting a box
//! does. So it is read when the program begins and set again once the box runs.

use nix::sys::prctl;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, getppid};

/// Who started this program and wants it to end with them.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pid: Pid,
    signal: Signal,
}

impl Caller {
    /// Returns who asked; call it before anything changes credentials.
    pub fn who_asked() -> Option<Self> {
        let signal = prctl::get_pdeathsig().ok().flatten()?;
        Some(Self { pid: getppid(), signal })
    }

    /// Has the kernel send the signal when they end; sends it now if they have.
    pub fn remember(self) {
        // Best effort: neither can fail with a signal that the kernel named itself.
        prctl::set_pdeathsig(self.signal).unwrap_or_default();
        if getppid() != self.pid {
            raise(self.signal).unwrap_or_default();
        }
    }
}
