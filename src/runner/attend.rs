//! Who stands by a box that nobody looks at: writes down what it says and lets visitors in.
//!
//! One loop, no threads. The box is never held up by the log; by a visitor it is for five seconds at the most, after
//! which one who does not read is shown out. Without a terminal the box's standard output and standard error are pipes, and
//! its standard input is empty; with one, what visitors type goes to it and its size follows the visitor who said one last.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::stat::Mode;
use rootling_backends::{Context, Error, Result};

use super::door::{self, CHUNK, Door, Kind, Received};
use super::log::{Log, Stream};
use super::{sys, tty};

/// Bytes that wait for a visitor before the box is.
const WAITING: usize = 256 << 10;

/// How long a visitor may read nothing while bytes wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes the caller's place beside a box.
#[derive(Debug)]
pub struct Attendant {
    log: Log,
    door: Option<Door>,
}

impl Attendant {
    /// Keeps the log in `slot`, a directory of the caller's, and lets visitors in there if `visited`.
    ///
    /// Visitors make sense only for a command with a terminal.
    pub fn new(slot: &Path, log: Log, visited: bool) -> Result<Self> {
        Ok(Self { log, door: visited.then(|| Door::open(slot)).transpose()? })
    }
}

/// Both ends of the standard files of a command without a terminal.
#[derive(Debug)]
pub(super) struct Streams {
    /// What the command gets as 0, 1 and 2.
    pub(super) theirs: [OwnedFd; 3],
    /// What it says there.
    pub(super) ours: [(OwnedFd, Stream); 2],
}

impl Streams {
    pub(super) fn open() -> Result<Self> {
        let null = nix::fcntl::open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .context(|| "open(/dev/null)")?;
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)");
        let ((out, out_theirs), (err, err_theirs)) = (pipe()?, pipe()?);
        Ok(Self {
            theirs: [null, out_theirs, err_theirs],
            ours: [(out, Stream::Stdout), (err, Stream::Stderr)],
        })
    }
}

/// Stands by until the box's first process has ended and all that it said is written down.
pub(super) fn attend(
    attendant: Attendant,
    guest: BorrowedFd<'_>,
    signals: &SignalFd,
    master: Option<OwnedFd>,
    streams: Option<[(OwnedFd, Stream); 2]>,
) -> Result<()> {
    let has_terminal = master.is_some();
    let sources: Vec<Source> = master
        .map(|file| (file, Stream::Stdout))
        .into_iter()
        .chain(streams.into_iter().flatten())
        .map(|(file, stream)| Source { file, stream, quiet: false, ended: false })
        .collect();
    for source in &sources {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&source.file, FcntlArg::F_SETFL(flags)).context(|| "fcntl(box, O_NONBLOCK)")?;
    }
    let mut room = Room {
        attendant,
        guest,
        signals,
        sources,
        has_terminal,
        visitors: Vec::new(),
        typed: VecDeque::new(),
    };
    room.until_end()
}

/// Something that the box says.
#[derive(Debug)]
struct Source {
    file: OwnedFd,
    stream: Stream,
    /// Nobody inside has the terminal open; it is looked at again from time to time.
    quiet: bool,
    /// The pipe has ended.
    ended: bool,
}

#[derive(Debug)]
struct Visitor {
    socket: OwnedFd,
    /// Messages that wait to be sent.
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// When the first of them began to wait.
    since: Option<Instant>,
    gone: bool,
}

impl Visitor {
    /// Sends what it takes.
    fn send(&mut self) {
        while let Some(message) = self.queue.front() {
            match door::send(self.socket.as_fd(), message) {
                Ok(()) => {
                    self.queued -= message.len();
                    self.queue.pop_front();
                    self.since = None;
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => {
                    self.since.get_or_insert_with(Instant::now);
                    return;
                }
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    fn show(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            let message = door::message(Kind::Output, chunk);
            self.queued += message.len();
            self.queue.push_back(message);
        }
        self.send();
    }

    fn is_stuck(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > PATIENCE)
    }
}

struct Room<'a> {
    attendant: Attendant,
    guest: BorrowedFd<'a>,
    signals: &'a SignalFd,
    sources: Vec<Source>,
    has_terminal: bool,
    visitors: Vec<Visitor>,
    /// What was typed and does not fit into the terminal yet.
    typed: VecDeque<u8>,
}

impl Room<'_> {
    fn until_end(&mut self) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let ended = self.wait()?;
            self.take_signals()?;
            if self.visitors.iter().all(|visitor| visitor.queued < WAITING) {
                self.listen(&mut buffer);
            }
            self.attend_door();
            self.attend_visitors();
            self.type_in();
            if ended {
                while self.listen(&mut buffer) {}
                self.attendant.log.flush();
                self.see_off();
                return Ok(());
            }
        }
    }

    /// Waits for anything; true once the box has ended.
    fn wait(&mut self) -> Result<bool> {
        let mut files = vec![
            PollFd::new(self.guest, PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        let full = self.visitors.iter().any(|visitor| visitor.queued >= WAITING);
        let mut timeout = if full { PollTimeout::from(500_u16) } else { PollTimeout::NONE };
        for source in self.sources.iter_mut().filter(|source| !source.ended) {
            if std::mem::take(&mut source.quiet) {
                // A deserted terminal is always "ready": asking for it would spin.
                timeout = PollTimeout::from(100_u16);
                continue;
            }
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, !full);
            flags.set(PollFlags::POLLOUT, self.has_terminal && !self.typed.is_empty());
            files.push(PollFd::new(source.file.as_fd(), flags));
        }
        if let Some(door) = &self.attendant.door {
            files.push(PollFd::new(door.as_fd(), PollFlags::POLLIN));
        }
        for visitor in &self.visitors {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, self.typed.is_empty());
            flags.set(PollFlags::POLLOUT, !visitor.queue.is_empty());
            files.push(PollFd::new(visitor.socket.as_fd(), flags));
        }
        match poll(&mut files, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::call("poll(box)", errno)),
        }
        Ok(files[0].revents().is_some_and(|found| !found.is_empty()))
    }

    /// Takes a little of what each source has; false where none has anything.
    fn listen(&mut self, buffer: &mut [u8]) -> bool {
        let mut heard = false;
        for source in self.sources.iter_mut().filter(|source| !source.ended) {
            match nix::unistd::read(&source.file, buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Ok(0) => source.ended = true,
                // EIO: nobody inside has the terminal open.
                Err(_) if self.has_terminal => source.quiet = true,
                Err(_) => source.ended = true,
                Ok(length) => {
                    heard = true;
                    self.attendant.log.take(source.stream, &buffer[..length]);
                    for visitor in &mut self.visitors {
                        visitor.show(&buffer[..length]);
                    }
                }
            }
        }
        heard
    }

    fn take_signals(&self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
            match signal {
                // There is no terminal of ours that could stop us or change.
                libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT => {}
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => {}
                // Best effort: it may have ended, and the next poll says so.
                _ => {
                    sys::pidfd_send_signal(self.guest, signal).ok();
                }
            }
        }
        Ok(())
    }

    fn attend_door(&mut self) {
        let Some(door) = &self.attendant.door else { return };
        while let Some(socket) = door.accept() {
            self.visitors.push(Visitor {
                socket,
                queue: VecDeque::new(),
                queued: 0,
                since: None,
                gone: false,
            });
        }
    }

    fn attend_visitors(&mut self) {
        let mut buffer = [0; CHUNK + 1];
        for visitor in &mut self.visitors {
            visitor.send();
            // What is typed waits in the visitor's socket until there is room in the terminal.
            while self.typed.len() < CHUNK {
                match door::receive(visitor.socket.as_fd(), &mut buffer) {
                    Received::Nothing => break,
                    Received::Gone => {
                        visitor.gone = true;
                        break;
                    }
                    Received::Message(Kind::Input, bytes) => self.typed.extend(bytes),
                    Received::Message(Kind::End, _) => {
                        let terminal = self.sources.first().map(|source| source.file.as_fd());
                        self.typed.extend(terminal.and_then(tty::end_of_file).into_iter().flatten());
                    }
                    Received::Message(Kind::Size, content) => {
                        if let (Some(size), Some(terminal)) = (door::size_of(content), self.sources.first()) {
                            // Best effort: a wrong size is a nuisance, not a failure.
                            sys::set_window_size(terminal.file.as_fd(), &size).ok();
                        }
                    }
                    Received::Message(Kind::Output, _) => {}
                }
            }
        }
        self.visitors.retain(|visitor| !visitor.gone && !visitor.is_stuck());
    }

    fn type_in(&mut self) {
        let Some(terminal) = self.sources.first().filter(|_| self.has_terminal) else { return };
        tty::type_in(&terminal.file, &mut self.typed);
    }

    /// Gives visitors a moment to read the end.
    fn see_off(&mut self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            self.visitors.iter_mut().for_each(Visitor::send);
            self.visitors.retain(|visitor| !visitor.gone && !visitor.queue.is_empty());
            if self.visitors.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
