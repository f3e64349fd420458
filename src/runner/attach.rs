//! A visit to a box that runs detached: the caller's terminal beside those of others.
//!
//! What is typed goes to the box, but for the keys that end the visit. Signals are the caller's own: they end the visit, not
//! the box.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::door::{self, CHUNK, Kind, Received};
use super::spawn::Signals;
use super::tty::{self, Raw, Shown};

/// Keys that end a visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Reads keys as docker writes them: single characters or `ctrl-X`, joined by commas; none for none.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |key: &str| {
            Error::new(ErrorKind::InvalidInput, format!("{key:?} is no key"))
                .hint("write characters or ctrl-X joined by commas, as ctrl-p,ctrl-q")
        };
        let key = |key: &str| match (key.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
            (Some([byte @ (b'a'..=b'z' | b'@'..=b'_')]), _) => Ok(byte & 0x1f),
            (None, [byte]) => Ok(*byte),
            _ => Err(bad(key)),
        };
        if text.is_empty() {
            Ok(Self(Vec::new()))
        } else {
            text.split(',').map(key).collect::<Result<_>>().map(Self)
        }
    }
}

/// Looks for keys in what is typed; what could be their beginning is held back.
#[derive(Debug)]
struct Watch<'a> {
    keys: &'a [u8],
    seen: usize,
}

impl Watch<'_> {
    /// Returns what is for the box, and whether the keys have been typed.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            while self.seen > 0 && self.keys[self.seen] != *byte {
                // Not the keys after all: the first of them goes on, and the rest may be a beginning still.
                passed.push(self.keys[0]);
                let held = self.seen - 1;
                self.seen = (0..=held)
                    .rev()
                    .find(|length| self.keys[..*length] == self.keys[1 + held - length..=held])
                    .unwrap_or(0);
                passed.extend(&self.keys[1..1 + held - self.seen]);
            }
            if self.keys.first().is_some_and(|_| self.keys[self.seen] == *byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// By the keys: the box goes on.
    Detached,
    /// The box has ended, or its supervisor has shown us out because we did not read.
    Ended,
    /// By a signal to us: the box goes on.
    Signal(i32),
}

/// Visits what runs in `slot` until it ends or the keys are typed; `NotFound` where nobody listens.
///
/// The terminal is put back whatever happens, but for `SIGKILL`. If standard input is none, its end is the end of the box's input.
pub fn attach(slot: &Path, keys: &DetachKeys) -> Result<Visit> {
    let socket = door::connect(slot)?;
    let signals = Signals::block()?;
    let raw = Raw::enter();
    // What comes out of a pipe is data, not keys.
    let keys = if raw.is_some() { keys.0.as_slice() } else { &[] };
    let mut visit = Visiting {
        socket,
        signals: &signals.fd,
        raw,
        watch: Watch { keys, seen: 0 },
        typed: Vec::new(),
        input_open: true,
        shown: Shown::default(),
    };
    visit.tell_size();
    visit.until_end()
}

struct Visiting<'a> {
    socket: OwnedFd,
    signals: &'a SignalFd,
    raw: Option<Raw>,
    watch: Watch<'a>,
    /// Messages that the box's supervisor has no room for yet.
    typed: Vec<Vec<u8>>,
    input_open: bool,
    shown: Shown,
}

impl Visiting<'_> {
    fn until_end(&mut self) -> Result<Visit> {
        let mut buffer = [0; CHUNK + 1];
        loop {
            let input = self.wait()?;
            if let Some(signal) = self.take_signals()? {
                return Ok(Visit::Signal(signal));
            }
            if input && self.typed.is_empty() && self.read_input(&mut buffer) {
                self.send();
                return Ok(Visit::Detached);
            }
            self.send();
            self.shown.write()?;
            while self.shown.is_empty() {
                match door::receive(self.socket.as_fd(), &mut buffer) {
                    Received::Nothing => break,
                    Received::Gone => return Ok(Visit::Ended),
                    Received::Message(Kind::Output, bytes) => self.shown.add(bytes),
                    Received::Message(..) => {}
                }
                self.shown.write()?;
            }
        }
    }

    /// Waits for anything; true where something was typed.
    fn wait(&mut self) -> Result<bool> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut socket = PollFlags::empty();
        socket.set(PollFlags::POLLIN, self.shown.is_empty());
        socket.set(PollFlags::POLLOUT, !self.typed.is_empty());
        let reads = self.input_open && self.typed.is_empty();
        let mut files = vec![
            PollFd::new(stdin.as_fd(), if reads { PollFlags::POLLIN } else { PollFlags::empty() }),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), socket),
        ];
        if !self.shown.is_empty() {
            files.push(PollFd::new(stdout.as_fd(), PollFlags::POLLOUT));
        }
        if !reads {
            files.remove(0);
        }
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::call("poll(visit)", errno)),
        }
        Ok(reads && files[0].revents().is_some_and(|found| !found.is_empty()))
    }

    /// Reads what was typed; true once the keys are among it.
    fn read_input(&mut self, buffer: &mut [u8]) -> bool {
        match nix::unistd::read(io::stdin(), &mut buffer[..CHUNK]) {
            Ok(0) => {
                self.input_open = false;
                let held = &self.watch.keys[..self.watch.seen];
                self.typed.push(door::message(Kind::Input, held));
                self.typed.push(door::message(Kind::End, &[]));
            }
            Ok(length) => {
                let (bytes, leave) = self.watch.pass(&buffer[..length]);
                self.typed.extend(bytes.chunks(CHUNK).map(|chunk| door::message(Kind::Input, chunk)));
                return leave;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::EIO) if tty::in_background() => self.stop(),
            Err(_) => self.input_open = false,
        }
        false
    }

    fn send(&mut self) {
        while let Some(message) = self.typed.first() {
            match door::send(self.socket.as_fd(), message) {
                Ok(()) => drop(self.typed.remove(0)),
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => return,
                // It has ended; receiving says so.
                Err(_) => self.typed.clear(),
            }
        }
    }

    fn tell_size(&mut self) {
        if let Some(size) = tty::size() {
            self.typed.push(door::size_message(&size));
            self.send();
        }
    }

    /// Returns the signal that ends the visit, if one came.
    fn take_signals(&mut self) -> Result<Option<i32>> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            match i32::try_from(info.ssi_signo).unwrap_or_default() {
                libc::SIGWINCH => self.tell_size(),
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.stop(),
                libc::SIGCONT => {
                    tty::enter_again(&mut self.raw);
                    self.tell_size();
                }
                signal @ (libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT) => {
                    return Ok(Some(signal));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn stop(&mut self) {
        tty::stop(&mut self.raw);
        self.tell_size();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        let keys = |text: &str| DetachKeys::parse(text).map(|keys| keys.0);
        assert_eq!(keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(keys("a,ctrl-@,ctrl-[").unwrap(), [b'a', 0, 27]);
        assert_eq!(keys("").unwrap(), b"");
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-pq"] {
            assert!(keys(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_end_a_visit_wherever_reads_cut_them_and_all_else_goes_through() {
        let run = |keys: &[u8], pieces: &[&[u8]]| {
            let mut watch = Watch { keys, seen: 0 };
            let mut passed = Vec::new();
            for piece in pieces {
                let (bytes, ended) = watch.pass(piece);
                passed.extend(bytes);
                if ended {
                    return (passed, true);
                }
            }
            (passed, false)
        };
        assert_eq!(run(b"pq", &[b"abpqz"]), (b"ab".to_vec(), true));
        assert_eq!(run(b"pq", &[b"ab", b"p", b"q"]), (b"ab".to_vec(), true));
        assert_eq!(run(b"pq", &[b"p", b"x", b"pp", b"q"]), (b"pxp".to_vec(), true));
        assert_eq!(run(b"aab", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(run(b"aab", &[b"aac"]), (b"aac".to_vec(), false));
        assert_eq!(run(b"abac", &[b"ababac"]), (b"ab".to_vec(), true));
        assert_eq!(run(b"", &[b"anything"]), (b"anything".to_vec(), false));
    }
}
