//! The process of a step, from outside: started, heard, ended when the build is to end.

use std::io::{ErrorKind as IoErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::message::Answer;
use super::program::{NAME, SEALED};
use super::{Ended, Sink, Stop, Template};
use crate::runner::log::Stream;
use crate::runner::{self, Spec, Userns};

/// How long a command that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// How soon it is seen that a second signal came, or that the time is over.
const TICK: u16 = 50;

/// Runs a spec in a process of its own.
pub(super) fn run(template: &Template, spec: &Spec, sink: &Sink<'_>) -> Result<Ended> {
    if template.stop.is_asked() {
        return Ok(Ended::stopped());
    }
    let (mut ours, theirs) = UnixStream::pair().context(|| "socketpair(AF_UNIX, SOCK_STREAM)")?;
    let mut one = start(template, spec, theirs)?;
    // One that ended at once is told by what it does not answer.
    let told = ours.write_all(&serde_json::to_vec(spec).expect("a spec is plain data"));
    told.and_then(|()| ours.shutdown(Shutdown::Write)).or_else(|error| match error.kind() {
        IoErrorKind::BrokenPipe | IoErrorKind::NotConnected | IoErrorKind::ConnectionReset => Ok(()),
        _ => Err(Error::io("write(what to run)", error)),
    })?;
    one.answer = Some(ours.into());
    let stopped = one.hear(&template.stop, sink)?;
    let status = one.child.wait().context(|| "waitpid(a step)")?;
    match serde_json::from_slice(&one.said) {
        Ok(Answer::Ended { status, refused, notes }) => Ok(Ended {
            status,
            refused: refused.map(super::message::Said::into_error),
            notes,
            took: Duration::ZERO,
            stopped,
        }),
        Ok(Answer::Failed(_)) | Err(_) if stopped => Ok(Ended::stopped()),
        Ok(Answer::Failed(said)) => Err(said.into_error()),
        Err(_) => {
            let message = format!("the process that runs the step ended without an answer: {status}");
            Err(Error::new(ErrorKind::Io, message))
        }
    }
}

impl Ended {
    /// As one that a SIGTERM ended.
    fn stopped() -> Self {
        let status = 128 + Signal::SIGTERM as u8;
        Self { status, refused: None, notes: Vec::new(), took: Duration::ZERO, stopped: true }
    }
}

fn start(template: &Template, spec: &Spec, theirs: UnixStream) -> Result<One> {
    let mut program = Command::new(&template.program);
    let inherited = runner::inherits(&mut program, theirs.into());
    program.arg0(NAME).arg(inherited.to_string());
    if spec.userns == Userns::Host {
        program.arg(SEALED);
    }
    // What we were given by variables is nobody's business there; programs of the network are looked for.
    program.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What is typed at the terminal is for the build to pass on.
    program.process_group(0);
    runner::dies_with_caller(&mut program);
    let mut child =
        program.spawn().map_err(|error| Error::io(format!("execute {:?}", template.program), error))?;
    let out = child.stdout.take().map(OwnedFd::from);
    let err = child.stderr.take().map(OwnedFd::from);
    Ok(One { child, out, err, answer: None, said: Vec::new() })
}

/// One that runs.
#[derive(Debug)]
struct One {
    child: Child,
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    answer: Option<OwnedFd>,
    said: Vec<u8>,
}

impl One {
    /// Hears it until it ends; returns whether it was asked to.
    fn hear(&mut self, stop: &Stop, sink: &Sink<'_>) -> Result<bool> {
        let mut kill_at: Option<Instant> = None;
        let mut buffer = vec![0; 32 << 10];
        while self.answer.is_some() {
            let timeout = if kill_at.is_some() { PollTimeout::from(TICK) } else { PollTimeout::NONE };
            let files = [self.out.as_ref(), self.err.as_ref(), self.answer.as_ref()];
            let stopping = kill_at.is_none().then(|| stop.as_fd());
            let ready = ready(files, stopping, timeout)?;
            self.take(ready, &mut buffer, sink)?;
            if kill_at.is_none() && stop.is_asked() {
                kill_at = Some(Instant::now() + GRACE);
                self.send(Signal::SIGTERM);
            }
            if kill_at.is_some_and(|then| stop.times() > 1 || Instant::now() >= then) {
                self.send(Signal::SIGKILL);
            }
        }
        // It has ended, and with it all that could still write; a helper of the network may be a moment behind it.
        while self.out.is_some() || self.err.is_some() {
            let ready = ready([self.out.as_ref(), self.err.as_ref(), None], None, PollTimeout::ZERO)?;
            if ready == [false; 3] {
                break;
            }
            self.take(ready, &mut buffer, sink)?;
        }
        Ok(kill_at.is_some())
    }

    /// Reads what is ready; what has come to its end is closed.
    fn take(&mut self, ready: [bool; 3], buffer: &mut [u8], sink: &Sink<'_>) -> Result<()> {
        let [out, err, answer] = ready;
        if out && let Some(bytes) = read(&mut self.out, buffer)? {
            sink(Stream::Stdout, bytes);
        }
        if err && let Some(bytes) = read(&mut self.err, buffer)? {
            sink(Stream::Stderr, bytes);
        }
        if answer && let Some(bytes) = read(&mut self.answer, buffer)? {
            self.said.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("the kernel numbers processes as int");
        // Best effort: it is not reaped yet, so that the number is still its own.
        kill(Pid::from_raw(pid), signal).unwrap_or_default();
    }
}

/// What is left when something fails here is killed, and with it its box.
impl Drop for One {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.send(Signal::SIGKILL);
            drop(self.child.wait());
        }
    }
}

/// Which of them can be read.
fn ready(
    files: [Option<&OwnedFd>; 3],
    stop: Option<BorrowedFd<'_>>,
    timeout: PollTimeout,
) -> Result<[bool; 3]> {
    let open = files.iter().flatten().map(|file| file.as_fd()).chain(stop);
    let mut polled: Vec<PollFd<'_>> = open.map(|file| PollFd::new(file, PollFlags::POLLIN)).collect();
    match poll(&mut polled, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok([false; 3]),
        Err(errno) => return Err(Error::call("poll(a step)", errno)),
    }
    let mut found = polled.iter().map(|file| file.revents().is_some_and(|events| !events.is_empty()));
    Ok(files.map(|file| file.is_some() && found.next().unwrap_or(false)))
}

/// Reads once; `None` at the end, which closes it.
fn read<'a>(file: &mut Option<OwnedFd>, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
    let Some(open) = file else { return Ok(None) };
    match nix::unistd::read(&*open, buffer) {
        // A socket whose other end was closed before it had read everything.
        Ok(0) | Err(Errno::ECONNRESET) => {
            *file = None;
            Ok(None)
        }
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(Errno::EINTR | Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(Error::call("read(a step)", errno)),
    }
}
