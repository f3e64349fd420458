//! The outside of `enter --autosnap`: two pipes into the box, and a thread that makes a snapshot when a shell inside asks for one.
//!
//! Whatever else runs in the box can use the pipes, too. All that comes out of it is the text of a message, cut to a length and without
//! control characters, and a snapshot, ten in a second at the most and none where nothing has changed. All that goes in is a number
//! that came out, and why a snapshot failed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use rootling_backends::{Context as _, Result};

use super::{automatic, shell};
use crate::runner::{Bind, Owners, PIPES, Restrictions};
use crate::store::{Node, ObjectId, Store};

/// Bytes of a message; a shell sends 900 characters.
const MESSAGE: usize = 4000;

/// Bytes that are kept of a line that does not end.
const LINE: usize = 8192;

/// The least time between two snapshots.
const PAUSE: Duration = Duration::from_millis(100);

/// The pipes of a box and who listens to them, as long as it is kept.
#[derive(Debug)]
pub(in crate::cli) struct Channel {
    directory: PathBuf,
    stop: Option<UnixStream>,
    listener: Option<JoinHandle<()>>,
}

impl Channel {
    /// Makes the pipes in the object's directory and starts to listen. The caller runs the box, and nobody else does.
    pub(in crate::cli) fn open(store: &Store, node: &Node) -> Result<Self> {
        let directory = store.slot(node).join("autosnap");
        if let Err(error) = fs::remove_dir_all(&directory)
            && error.kind() != IoKind::NotFound
        {
            return Err(error).context(|| format!("rm({directory:?}), left by a run that was killed"));
        }
        fs::DirBuilder::new().mode(0o755).create(&directory).context(|| format!("mkdir({directory:?})"))?;
        let mut channel = Self { directory, stop: None, listener: None };
        for (name, text) in shell::FILES {
            let path = channel.directory.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .context(|| format!("write({path:?})"))?;
        }
        let (ask, answer) = (channel.pipe("ask")?, channel.pipe("answer")?);
        let (stop, stopped) = UnixStream::pair().context(|| "socketpair()")?;
        // The thread has a store of its own, and waits with all signals blocked: they are for who runs the box.
        let listener = Listener {
            store: Store::open(store.root())?,
            id: node.id.clone(),
            ask,
            answer,
            unread: Vec::new(),
            since: Timestamp::now(),
            last: None,
        };
        let thread = std::thread::Builder::new().name("autosnap".to_owned()).spawn(move || {
            SigSet::all().thread_block().unwrap_or_default();
            listener.listen(&stopped);
        });
        channel.listener = Some(thread.context(|| "start a thread")?);
        channel.stop = Some(stop);
        Ok(channel)
    }

    /// Makes a pipe that anybody in the box may write and read, and holds both ends: nobody ever waits for the other one.
    fn pipe(&self, name: &str) -> Result<File> {
        let path = self.directory.join(name);
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o666))
            .context(|| format!("mkfifo({path:?})"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .context(|| format!("chmod({path:?})"))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        options.open(&path).context(|| format!("open({path:?})"))
    }

    /// Returns how the box sees the pipes.
    pub(in crate::cli) fn bind(&self) -> Bind {
        Bind {
            restrictions: Restrictions { read_only: true, no_suid: true, no_devices: true, no_exec: true },
            recursive: false,
            owners: Owners::Unmapped,
            ..Bind::new(&self.directory, PIPES)
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(listener) = self.listener.take() {
            // A listener that panicked is no reason to fail: the box has ended.
            drop(listener.join());
        }
        // Best effort: what is left is found and removed by the next run.
        fs::remove_dir_all(&self.directory).unwrap_or_default();
    }
}

/// Who listens.
#[derive(Debug)]
struct Listener {
    store: Store,
    id: ObjectId,
    ask: File,
    answer: File,
    unread: Vec<u8>,
    /// What was changed after this is not in a snapshot yet.
    since: Timestamp,
    last: Option<Instant>,
}

impl Listener {
    fn listen(mut self, stopped: &UnixStream) {
        loop {
            let mut files = [
                PollFd::new(self.ask.as_fd(), PollFlags::POLLIN),
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut files, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
            if files[1].revents().is_some_and(|found| !found.is_empty()) {
                return;
            }
            let mut bytes = [0; 4096];
            match self.ask.read(&mut bytes) {
                Ok(count) => self.unread.extend(&bytes[..count]),
                Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::Interrupted) => {}
                Err(_) => return,
            }
            while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                self.asked(&line[..end]);
            }
            if self.unread.len() > LINE {
                self.unread.clear();
            }
        }
    }

    /// Answers one line.
    fn asked(&mut self, line: &[u8]) {
        let Some((number, text)) = parsed(line) else { return };
        let begin = Timestamp::now();
        // The shell's first prompt: what was done until now belongs to no command.
        let failed = if number == 0 { None } else { self.snapshot(&text).err() };
        if failed.is_none() {
            self.since = begin;
            wait_for_later_stamps(begin);
        }
        let reason = failed.map_or_else(String::new, |error| format!(" no snapshot: {}", said(&error)));
        // Best effort: nobody reads a pipe that is full.
        self.answer.write_all(format!("{number}{reason}\n").as_bytes()).unwrap_or_default();
    }

    fn snapshot(&mut self, message: &str) -> Result<()> {
        if let Some(left) = self.last.and_then(|last| PAUSE.checked_sub(last.elapsed())) {
            sleep(left);
        }
        // By its id: it may have been renamed since it was entered.
        let node = Node { name: self.store.name_of(&self.id)?, ..self.store.node(&self.id)? };
        if self.store.differs_since(&node, self.since)? {
            automatic(&self.store, &node, message)?;
            self.last = Some(Instant::now());
        }
        Ok(())
    }
}

/// Waits until what is changed from now on gets a later time than `moment`: files are stamped by a clock that runs up to one tick
/// behind (clock_gettime(2), `CLOCK_REALTIME_COARSE`).
fn wait_for_later_stamps(moment: Timestamp) {
    let stamp = || {
        let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).ok()?;
        Timestamp::new(now.tv_sec(), i32::try_from(now.tv_nsec()).ok()?).ok()
    };
    // Not for ever: somebody may set the clock back.
    for _ in 0..20 {
        if stamp().is_none_or(|stamp| stamp > moment) {
            return;
        }
        sleep(Duration::from_millis(1));
    }
}

/// Reads `NUMBER TEXT`; what is not that is not of one of our shells.
fn parsed(line: &[u8]) -> Option<(u32, String)> {
    let text = String::from_utf8_lossy(line);
    let (number, text) = text.split_once(' ')?;
    let mut harmless = String::new();
    for c in text.trim().chars() {
        if harmless.len() + 10 > MESSAGE {
            break;
        }
        if c.is_control() { harmless.extend(c.escape_default()) } else { harmless.push(c) }
    }
    if harmless.is_empty() {
        harmless.push_str("a command that the shell does not keep");
    }
    Some((number.parse().ok()?, harmless))
}

/// An error in one short line.
fn said(error: &rootling_backends::Error) -> String {
    let text = error.chain().join(": ");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_of_a_box_is_a_number_and_harmless_text() {
        let read = |line: &[u8]| parsed(line);
        assert_eq!(read(b"3 ls -la"), Some((3, "ls -la".to_owned())));
        assert_eq!(read(b"3 \x1b]0;x\x07\xff"), Some((3, "\\u{1b}]0;x\\u{7}\u{fffd}".to_owned())));
        assert_eq!(read(b"4 "), Some((4, "a command that the shell does not keep".to_owned())));
        for bad in [&b""[..], b"x y", b"-1 x", b"99999999999 x", b"7"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        let long = [b"1 ".as_slice(), &[b'x'; 10_000]].concat();
        assert!(parsed(&long).unwrap().1.len() <= MESSAGE);
    }
}
