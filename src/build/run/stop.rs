//! What ends a build before its time: a signal, or a step that failed beside others.
//!
//! Whoever runs a command waits for this besides; what is running is asked to end, and killed when it takes too long or when a second
//! signal comes.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use rootling_backends::{Context as _, Result};

/// Signals that end a build.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Is the build to end? Shared by all that runs in it.
#[derive(Debug)]
pub struct Stop {
    /// Readable from the first time on: never read.
    event: EventFd,
    times: AtomicU32,
    signal: AtomicI32,
}

impl Stop {
    /// Returns one that nobody has asked yet.
    pub fn new() -> Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let event = event.context(|| "eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)")?;
        Ok(Arc::new(Self { event, times: AtomicU32::new(0), signal: AtomicI32::new(0) }))
    }

    /// Returns one that SIGINT, SIGTERM, SIGHUP and SIGQUIT ask from here on, instead of ending the process.
    ///
    /// To be called before any other thread is made, which could take them.
    pub fn on_signals() -> Result<Arc<Self>> {
        let stop = Self::new()?;
        let ending: SigSet = ENDING.into_iter().collect();
        ending.thread_block().context(|| "sigprocmask(SIGINT, SIGTERM, ...)")?;
        let asked = Arc::clone(&stop);
        std::thread::spawn(move || {
            while let Ok(signal) = ending.wait() {
                asked.signal.store(signal as i32, Ordering::SeqCst);
                asked.ask();
            }
        });
        Ok(stop)
    }

    /// Asks what runs to end, and lets nothing more begin; asked a second time, it is killed.
    pub fn ask(&self) {
        self.times.fetch_add(1, Ordering::SeqCst);
        // It can only fail when it was asked 2^64 times.
        self.event.write(1).unwrap_or_default();
    }

    /// Was it asked?
    pub fn is_asked(&self) -> bool {
        self.times() > 0
    }

    /// Returns the last signal that asked.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    pub(super) fn times(&self) -> u32 {
        self.times.load(Ordering::SeqCst)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
