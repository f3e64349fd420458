//! Between the caller's terminal and the box's: raw mode, sizes, signals and a copy loop.
//!
//! The box never gets the caller's terminal itself when it gets one: whoever holds a terminal can type into it.
//! Nothing here waits but in `poll`, so that a signal is taken also while nobody reads what the box shows.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;
use nix::sys::signal::{Signal, raise};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
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

/// The size of a terminal that nobody looks at yet: that of the first ones.
pub(super) const USUAL_SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// Does our terminal belong to another job of the shell's right now?
pub(super) fn in_background() -> bool {
    // Fails where it is no terminal, or not the one of our session: then no shell shares it out.
    nix::unistd::tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground != nix::unistd::getpgrp())
}

/// What the terminal was before, for a panic: the release build then ends without dropping anything.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // Best effort: the terminal may have gone. All signals are blocked, so that this works in the background too.
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before).ok();
    }
}

/// The caller's terminal in raw mode; put back when dropped, and by a panic.
#[derive(Debug)]
pub(super) struct Raw(());

impl Raw {
    /// `None` where standard input is no terminal. Signals must be blocked. In the background this stops, as any program that
    /// wants the terminal does, until the shell brings us to the front.
    pub(super) fn enter() -> Option<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        while in_background() {
            raise(Signal::SIGSTOP).ok()?;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Stops as a job of the caller's shell does, with its terminal in order.
pub(super) fn stop(raw: &mut Option<Raw>) {
    let was_raw = raw.take().is_some();
    // Best effort: SIGSTOP to oneself is always allowed.
    raise(Signal::SIGSTOP).ok();
    if was_raw {
        *raw = Raw::enter();
    }
}

/// Makes the terminal raw again after somebody stopped and continued us: the shell has put it back meanwhile.
pub(super) fn enter_again(raw: &mut Option<Raw>) {
    if raw.is_some()
        && let Ok(mut now) = tcgetattr(io::stdin())
    {
        cfmakeraw(&mut now);
        // Best effort: the terminal may have gone.
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &now).ok();
    }
}

/// What to type into a terminal so that its reader sees the end of a file: nothing where it does not edit lines.
///
/// Twice: the first ends the line that was begun, and the second finds an empty one (termios(3), VEOF).
pub(super) fn end_of_file(master: BorrowedFd<'_>) -> Option<[u8; 2]> {
    // tty_ioctl(4): asked of a master, Linux answers for the other end.
    let settings = tcgetattr(master).ok()?;
    let eof = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
    settings.local_flags.contains(LocalFlags::ICANON).then_some([eof; 2])
}

/// Types as much as the terminal takes.
pub(super) fn type_in(master: &OwnedFd, typed: &mut VecDeque<u8>) {
    while !typed.is_empty() {
        match nix::unistd::write(master, typed.as_slices().0) {
            Ok(written) => drop(typed.drain(..written)),
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            // The box closed its terminal: there is nobody to type to.
            Err(_) => return typed.clear(),
        }
    }
}

/// What is to be shown on standard output and was not yet.
#[derive(Debug, Default)]
pub(super) struct Shown {
    bytes: VecDeque<u8>,
}

impl Shown {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Writes what goes without waiting, to descriptor 1 itself: the bytes are the box's, no buffer of ours may keep some back.
    pub(super) fn write(&mut self) -> Result<()> {
        while !self.bytes.is_empty() && has_room() {
            let bytes = self.bytes.as_slices().0;
            // pipe(7): of no more than PIPE_BUF a pipe with room takes all.
            match nix::unistd::write(io::stdout(), &bytes[..bytes.len().min(libc::PIPE_BUF)]) {
                Ok(written) => drop(self.bytes.drain(..written)),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                // The reader has gone: what the box writes is thrown away, and it goes on.
                Err(Errno::EPIPE | Errno::EIO) => self.bytes.clear(),
                Err(errno) => return Err(Error::call("write(standard output)", errno)),
            }
        }
        Ok(())
    }
}

fn has_room() -> bool {
    let stdout = io::stdout();
    let mut files = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    // An error shows in the write.
    poll(&mut files, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
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
        ended: false,
        typed: VecDeque::new(),
        shown: Shown::default(),
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
    /// Has the box ended? What it wrote last is still in the terminal then.
    ended: bool,
    input_open: bool,
    /// What was typed and does not fit into the terminal yet.
    typed: VecDeque<u8>,
    shown: Shown,
    buffer: Vec<u8>,
}

/// What one poll found.
#[derive(Default)]
struct Ready {
    signal: bool,
    output: bool,
    input: bool,
}

impl Relay<'_> {
    fn until_end(&mut self) -> Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.signal && self.take_signals()? {
                return Ok(());
            }
            self.shown.write()?;
            if ready.output || self.ended {
                while self.shown.is_empty() && self.copy_output() {
                    self.shown.write()?;
                }
            }
            if ready.input {
                self.read_input();
            }
            if let Some(master) = &self.master {
                type_in(master, &mut self.typed);
            }
            if self.ended && self.shown.is_empty() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> Result<Ready> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let deserted = std::mem::take(&mut self.deserted);
        let none = PollFlags::empty();
        let mut files = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let place = |files: &mut Vec<PollFd<'_>>| files.len() - 1;
        let (mut guest, mut master, mut input) = (None, None, None);
        if !self.ended {
            files.push(PollFd::new(self.guest, PollFlags::POLLIN));
            guest = Some(place(&mut files));
        }
        if !self.shown.is_empty() {
            files.push(PollFd::new(stdout.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(terminal) = self.master.as_ref().filter(|_| !deserted && !self.ended) {
            let room = if self.typed.is_empty() { none } else { PollFlags::POLLOUT };
            let output = if self.shown.is_empty() { PollFlags::POLLIN } else { none };
            // POLLHUP comes unasked for: not while there is no place for what was said before it.
            if self.shown.is_empty() {
                files.push(PollFd::new(terminal.as_fd(), output | room));
                master = Some(place(&mut files));
            }
            if self.input_open && self.typed.is_empty() {
                files.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
                input = Some(place(&mut files));
            }
        }
        // A deserted terminal is always "ready": asking for it would spin.
        let timeout = if deserted { PollTimeout::from(100_u8) } else { PollTimeout::NONE };
        match poll(&mut files, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::call("poll(box)", errno)),
        }
        let found = |index: Option<usize>| {
            index.and_then(|index| files.get(index)).and_then(PollFd::revents).unwrap_or(none)
        };
        self.ended |= !found(guest).is_empty();
        let output = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        Ok(Ready {
            signal: !found(Some(0)).is_empty(),
            output: found(master).intersects(output),
            input: !found(input).is_empty(),
        })
    }

    /// Takes what is there; false when there is nothing.
    fn copy_output(&mut self) -> bool {
        let Some(master) = &self.master else { return false };
        match nix::unistd::read(master, &mut self.buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            // EIO: nobody inside has the terminal open.
            Ok(0) | Err(_) => {
                self.deserted = true;
                false
            }
            Ok(length) => {
                self.shown.add(&self.buffer[..length]);
                true
            }
        }
    }

    fn read_input(&mut self) {
        match nix::unistd::read(io::stdin(), &mut self.buffer) {
            Ok(0) => {
                self.input_open = false;
                let end = self.master.as_ref().and_then(|master| end_of_file(master.as_fd()));
                self.typed.extend(end.into_iter().flatten());
            }
            Ok(length) => self.typed.extend(&self.buffer[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The kernel says so instead of SIGTTIN, which is blocked.
            Err(Errno::EIO) if in_background() => self.stop(),
            Err(_) => self.input_open = false,
        }
    }

    /// Passes signals on; true where one came that should end a caller who has nothing left but what nobody reads.
    fn take_signals(&mut self) -> Result<bool> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
            match signal {
                libc::SIGWINCH => self.resize(),
                // A broken pipe shows in the write, a child's end in its handle; urgent data is nobody's.
                libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.stop(),
                libc::SIGCONT if self.raw.is_some() => {
                    enter_again(&mut self.raw);
                    self.resize();
                }
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT if self.ended => return Ok(true),
                // Best effort: it may have ended, and the next poll says so.
                _ => {
                    sys::pidfd_send_signal(self.guest, signal).ok();
                }
            }
        }
        Ok(false)
    }

    fn resize(&self) {
        if let (Some(master), Some(size)) = (&self.master, size()) {
            // Best effort: a wrong size is a nuisance, not a failure.
            sys::set_window_size(master.as_fd(), &size).ok();
        }
    }

    fn stop(&mut self) {
        stop(&mut self.raw);
        self.resize();
    }
}
