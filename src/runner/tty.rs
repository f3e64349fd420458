//! Between the caller's terminal and the box's: raw mode, sizes, signals and a copy loop.
//!
//! The box never gets the caller's terminal itself when it gets one: whoever holds a terminal can type into it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;
use nix::sys::signal::{Signal, raise};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rootling_backends::{Context, Error, Result};

use super::sys;

/// Is this a session at a terminal: are standard input and output both one?
pub(super) fn wanted() -> bool {
    use std::io::IsTerminal;
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the caller's terminal; `None` where there is none.
pub(super) fn size() -> Option<Winsize> {
    sys::window_size(io::stdin().as_fd()).or_else(|_| sys::window_size(io::stdout().as_fd())).ok()
}

/// The caller's terminal in raw mode; put back when dropped.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` where standard input is no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Best effort: the terminal may have gone.
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before).ok();
    }
}

/// Stands between the caller and the box until the box's first process ends.
pub(super) fn relay(guest: BorrowedFd<'_>, signals: &SignalFd, master: Option<OwnedFd>) -> Result<()> {
    let mut relay = Relay {
        guest,
        signals,
        raw: master.as_ref().and_then(|_| Raw::enter()),
        input_open: master.is_some(),
        master,
        deserted: false,
        typed: VecDeque::new(),
        buffer: vec![0; 32 * 1024],
    };
    if let Some(master) = &relay.master {
        let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(master, nix::fcntl::FcntlArg::F_SETFL(flags))
            .context(|| "fcntl(terminal, O_NONBLOCK)")?;
    }
    relay.until_end()
}

struct Relay<'a> {
    guest: BorrowedFd<'a>,
    signals: &'a SignalFd,
    raw: Option<Raw>,
    /// The box's terminal. It stays open to the end: closing it would hang up on a command that only closed its own side.
    master: Option<OwnedFd>,
    /// Has nobody inside the terminal open? It is looked at again from time to time: somebody may open it anew.
    deserted: bool,
    input_open: bool,
    /// What was typed and does not fit into the terminal yet.
    typed: VecDeque<u8>,
    buffer: Vec<u8>,
}

/// What one poll found.
#[derive(Default)]
struct Ready {
    signal: bool,
    ended: bool,
    output: bool,
    room: bool,
    input: bool,
}

impl Relay<'_> {
    fn until_end(&mut self) -> Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.output {
                self.copy_output()?;
            }
            if ready.input {
                self.read_input();
            }
            if ready.room || ready.input {
                self.write_typed();
            }
            if ready.signal {
                self.take_signals()?;
            }
            if ready.ended {
                // What the box wrote last is still in the terminal.
                while self.master.is_some() && self.copy_output()? {}
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> Result<Ready> {
        let stdin = io::stdin();
        let deserted = std::mem::take(&mut self.deserted);
        let mut files = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.guest, PollFlags::POLLIN),
        ];
        if let Some(master) = self.master.as_ref().filter(|_| !deserted) {
            let room = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            files.push(PollFd::new(master.as_fd(), PollFlags::POLLIN | room));
            if self.input_open && self.typed.is_empty() {
                files.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        // A deserted terminal is always "ready": asking for it would spin.
        let timeout = if deserted { PollTimeout::from(100_u8) } else { PollTimeout::NONE };
        match poll(&mut files, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::call("poll(box)", errno)),
        }
        let found = |index: usize| files.get(index).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let master = found(2);
        Ok(Ready {
            signal: !found(0).is_empty(),
            ended: !found(1).is_empty(),
            output: master.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR),
            room: master.contains(PollFlags::POLLOUT),
            input: !found(3).is_empty(),
        })
    }

    /// Copies what is there; false when there is nothing.
    fn copy_output(&mut self) -> Result<bool> {
        let Some(master) = &self.master else { return Ok(false) };
        match nix::unistd::read(master, &mut self.buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            // EIO: nobody inside has the terminal open.
            Ok(0) | Err(_) => {
                self.deserted = true;
                Ok(false)
            }
            Ok(length) => write_out(&self.buffer[..length]).map(|()| true),
        }
    }

    fn read_input(&mut self) {
        match nix::unistd::read(io::stdin(), &mut self.buffer) {
            Ok(0) => {
                self.input_open = false;
                // Control-D: the end of a file, in a terminal's words.
                self.typed.push_back(4);
            }
            Ok(length) => self.typed.extend(&self.buffer[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.input_open = false,
        }
    }

    fn write_typed(&mut self) {
        let Some(master) = &self.master else { return };
        while !self.typed.is_empty() {
            match nix::unistd::write(master, self.typed.as_slices().0) {
                Ok(written) => drop(self.typed.drain(..written)),
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                // The box closed its terminal: there is nobody to type to.
                Err(_) => return self.typed.clear(),
            }
        }
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
            match signal {
                libc::SIGWINCH => self.resize(),
                // A broken pipe shows in the write, a child's end in its handle; urgent data is nobody's.
                libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.stop(),
                // Best effort: it may have ended, and the next poll says so.
                _ => {
                    sys::pidfd_send_signal(self.guest, signal).ok();
                }
            }
        }
        Ok(())
    }

    fn resize(&self) {
        if let (Some(master), Some(size)) = (&self.master, size()) {
            // Best effort: a wrong size is a nuisance, not a failure.
            sys::set_window_size(master.as_fd(), &size).ok();
        }
    }

    /// Stops as a job of the caller's shell does, with its terminal in order.
    fn stop(&mut self) {
        let was_raw = self.raw.take().is_some();
        // Best effort: SIGSTOP to oneself is always allowed.
        raise(Signal::SIGSTOP).ok();
        if was_raw {
            self.raw = Raw::enter();
        }
        self.resize();
    }
}

/// To descriptor 1 itself: the bytes are the box's, no buffer of ours may keep some back.
fn write_out(mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(io::stdout(), bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let stdout = io::stdout();
                let mut files = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
                poll(&mut files, PollTimeout::NONE).context(|| "poll(standard output)")?;
            }
            // The reader has gone: what the box writes is thrown away, and it goes on.
            Err(Errno::EPIPE) => return Ok(()),
            Err(errno) => return Err(Error::call("write(standard output)", errno)),
        }
    }
    Ok(())
}
