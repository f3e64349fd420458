//! A program of the system that writes an archive, or makes a tree: started, listened to, ended.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::Bind;
use super::stream::{Progress, Tell};

/// Lines of what it said that are kept for an error.
const LINES: usize = 12;

/// Bytes of one such line.
const LINE_BYTES: u64 = 400;

/// How long a program that is asked to end may tidy up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the error for a program that is not there.
pub(crate) fn missing(name: &str, package: &str) -> Error {
    let message = format!("this needs the program {name}, which is not installed");
    Error::new(ErrorKind::FailedPrecondition, message)
        .hint(format!("install it: on Debian it is in the package {package}"))
}

/// A program that runs. Dropped, it is asked to end, and made to if it does not.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    listener: Option<JoinHandle<()>>,
    said: VecDeque<String>,
}

impl Program {
    /// Starts the program called `name`; `package` is what has to be installed where it is missing. Its standard output is to be taken.
    pub(crate) fn start(name: &str, command: &mut Command, package: &str, bind: Bind) -> Result<Self> {
        log::debug!("start {command:?}");
        let (stderr, said) = io::pipe().context(|| "pipe()")?;
        // It ends with this thread, however that ends. To tidy up then it must be able to speak to nobody: a pipe that it could read
        // itself does not kill it.
        bind(command, stderr.try_clone().context(|| "dup(pipe)")?.into());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
        let child = command.spawn().context(|| format!("execute {command:?}")).map_err(|error| {
            if error.kind() == ErrorKind::NotFound { missing(name, package) } else { error }
        })?;
        // Ours to write to it goes, or it would have no end.
        command.stderr(Stdio::null());
        let (sender, lines) = channel();
        let listener = std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while (&mut stderr).take(LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                // Nobody listens any more: what it says is read all the same, or it would block.
                drop(sender.send(text));
                line.clear();
            }
        });
        Ok(Self { name: name.to_owned(), child, lines, listener: Some(listener), said: VecDeque::new() })
    }

    /// Returns what it writes.
    pub(crate) fn output(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it is taken once")
    }

    /// Hears what it said meanwhile.
    pub(crate) fn hear(&mut self, tell: Tell<'_>) {
        while let Ok(line) = self.lines.try_recv() {
            self.note(line, tell);
        }
    }

    fn note(&mut self, line: String, tell: Tell<'_>) {
        if line.is_empty() {
            return;
        }
        tell(Progress::Says(&line));
        if self.said.len() == LINES {
            self.said.pop_front();
        }
        self.said.push_back(line);
    }

    /// Waits for its end, and returns its exit code; a signal is an error with what it said last.
    pub(crate) fn wait(mut self, tell: Tell<'_>) -> Result<Ended> {
        drop(self.child.stdout.take());
        while let Ok(line) = self.lines.recv() {
            self.note(line, tell);
        }
        let status = self.child.wait().context(|| format!("wait for {}", self.name))?;
        let said = self.said.iter().cloned().collect();
        Ok(Ended { name: self.name.clone(), status, said })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Asked first: what it mounted and wrote beside, only it can tidy up.
            let process = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
            let asked = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM);
            let end = Instant::now() + if asked.is_ok() { PATIENCE } else { Duration::ZERO };
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // Best effort: it may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        // A process that it left behind may hold the pipe: nobody waits for that.
        drop(self.listener.take());
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    name: String,
    status: std::process::ExitStatus,
    /// The last lines that it said.
    pub(crate) said: Vec<String>,
}

impl Ended {
    /// Did it end with one of these codes?
    pub(crate) fn is(&self, codes: &[i32]) -> bool {
        self.status.code().is_some_and(|code| codes.contains(&code))
    }

    /// Returns its failure as an error.
    pub(crate) fn failure(&self) -> Error {
        let said = if self.said.is_empty() { "it said nothing".to_owned() } else { self.said.join("\n    ") };
        Error::new(ErrorKind::Io, format!("{} failed ({}): {said}", self.name, self.status))
    }
}
