//! A command in each of many boxes, so many at the same time.
//!
//! Each runs as `rootling exec`, a process of its own: what runs a box acts on its whole process (signals, namespaces, cgroups).
//! This process only looks on: it takes what they say, for the boxes' logs and the person, and passes signals on.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rootling_backends::{Context as _, Error, Result};

use super::super::{Context, run as throw_away};
use super::view::View;
use crate::runner;
use crate::runner::log::{DEFAULT_LIMIT, Log, Stream};
use crate::store::{Node, Store};

/// How often clocks on the screen move, and how soon an end is seen that closes no pipe.
const TICK: u16 = 100;

/// How long those that were asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// Signals that end the whole.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// How one of them ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// As a shell shows it.
    pub(super) status: i32,
    pub(super) elapsed: Duration,
}

/// How all of them ended.
#[derive(Debug)]
pub(super) struct Ran {
    /// In the order of the boxes; `None` for those that were never started.
    pub(super) ended: Vec<Option<Ended>>,
    /// The signal that ended the whole.
    pub(super) signal: Option<i32>,
}

/// Has signals wait for [`run`]: from here on boxes are made that somebody has to tell of.
pub(super) fn take_signals_later() {
    // Before any thread is made that could take them.
    throw_away::start_quiet_workers();
    ending().thread_block().unwrap_or_default();
}

fn ending() -> SigSet {
    ENDING.into_iter().collect()
}

/// Runs the command in all of them.
///
/// A signal asks those that run to end and starts no more; after ten seconds, or with a second signal, they are killed.
pub(super) fn run(
    context: &Context,
    store: &Store,
    nodes: &[Node],
    command: &[OsString],
    jobs: usize,
) -> Result<Ran> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let mut herd = Herd {
        view: View::new(context.output, nodes),
        signals: SignalFd::with_flags(&ending(), flags).context(|| "signalfd(SIGINT, SIGTERM, ...)")?,
        running: Vec::new(),
        ran: Ran { ended: vec![None; nodes.len()], signal: None },
        kill_at: None,
    };
    let mut waiting: VecDeque<usize> = (0..nodes.len()).collect();
    loop {
        while herd.running.len() < jobs && herd.ran.signal.is_none() {
            let Some(index) = waiting.pop_front() else { break };
            match start(context, store, &nodes[index], (index, nodes.len()), command) {
                Ok(one) => herd.running.push(one),
                Err(error) => herd.failed_to_start(index, &error),
            }
        }
        if herd.running.is_empty() {
            return Ok(herd.ran);
        }
        herd.wait()?;
        herd.take_signals()?;
        herd.reap()?;
    }
}

/// One that runs.
#[derive(Debug)]
struct Running {
    index: usize,
    child: Child,
    started: Instant,
    pipes: Vec<(OwnedFd, Stream)>,
    log: Log,
}

/// Starts our own program for one box.
fn start(
    context: &Context,
    store: &Store,
    node: &Node,
    (index, count): (usize, usize),
    command: &[OsString],
) -> Result<Running> {
    let log = Log::open(&store.slot(node), DEFAULT_LIMIT, false)?;
    let mut program = Command::new("/proc/self/exe");
    program.args(["--quiet", "--root"]).arg(context.store_path()?).arg("exec").args(&context.settings);
    let number = index + 1;
    for variable in [
        format!("ROOTLING_INDEX={number}"),
        format!("ROOTLING_COUNT={count}"),
        format!("ROOTLING_BOX={}", node.label()),
    ] {
        program.arg("--env").arg(variable);
    }
    program.args([node.label(), "--"]).args(command);
    if let Some((name, value)) = context.as_entered() {
        program.env(name, value);
    }
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What is typed at the terminal is for us to pass on.
    program.process_group(0);
    runner::ends_with_caller(&mut program);
    let started = Instant::now();
    let mut child = program.spawn().map_err(|error| Error::io("execute \"/proc/self/exe\"", error))?;
    let out = child.stdout.take().map(|pipe| (OwnedFd::from(pipe), Stream::Stdout));
    let err = child.stderr.take().map(|pipe| (OwnedFd::from(pipe), Stream::Stderr));
    Ok(Running { index, child, started, pipes: out.into_iter().chain(err).collect(), log })
}

/// All that run, and who watches.
#[derive(Debug)]
struct Herd<'a> {
    view: View<'a>,
    signals: SignalFd,
    running: Vec<Running>,
    ran: Ran,
    /// When those that were asked to end are killed.
    kill_at: Option<Instant>,
}

impl Herd<'_> {
    fn failed_to_start(&mut self, index: usize, error: &Error) {
        self.view.said(index, Stream::Stderr, format!("rootling: {error}\n").as_bytes());
        self.ended(index, Ended { status: 125, elapsed: Duration::ZERO });
    }

    fn ended(&mut self, index: usize, ended: Ended) {
        self.view.ended(index, ended);
        self.ran.ended[index] = Some(ended);
    }

    /// Waits until somebody says something, and takes it.
    fn wait(&mut self) -> Result<()> {
        let mut files: Vec<PollFd<'_>> = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let pipes = self.running.iter().flat_map(|one| &one.pipes);
        files.extend(pipes.map(|(pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut files, PollTimeout::from(TICK)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::call("poll(boxes)", errno)),
        }
        let ready: Vec<bool> =
            files[1..].iter().map(|file| file.revents().is_some_and(|found| !found.is_empty())).collect();
        let mut ready = ready.into_iter();
        for one in &mut self.running {
            let view = &mut self.view;
            one.pipes.retain(|(pipe, stream)| {
                !ready.next().unwrap_or(false) || listen(pipe, *stream, one.index, &mut one.log, view)
            });
        }
        self.view.tick(self.running.iter().map(|one| (one.index, one.started.elapsed())));
        Ok(())
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            let second = self.ran.signal.replace(i32::try_from(info.ssi_signo).unwrap_or(0)).is_some();
            self.kill_at = Some(if second { Instant::now() } else { Instant::now() + GRACE });
            self.send(Signal::SIGTERM);
        }
        if self.kill_at.is_some_and(|then| Instant::now() >= then) {
            self.send(Signal::SIGKILL);
        }
        Ok(())
    }

    fn send(&self, signal: Signal) {
        for one in &self.running {
            let pid = i32::try_from(one.child.id()).expect("the kernel numbers processes as int");
            // Best effort: it is not reaped yet, so that the number is still its own.
            kill(Pid::from_raw(pid), signal).unwrap_or_default();
        }
    }

    /// Takes leave of those that have ended.
    fn reap(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.running.len() {
            let status = self.running[at].child.try_wait().context(|| "waitpid(rootling exec)")?;
            let Some(status) = status else {
                at += 1;
                continue;
            };
            let mut one = self.running.swap_remove(at);
            for (pipe, stream) in &one.pipes {
                while is_ready(pipe) && listen(pipe, *stream, one.index, &mut one.log, &mut self.view) {}
            }
            one.log.flush();
            let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            self.ended(one.index, Ended { status, elapsed: one.started.elapsed() });
        }
        Ok(())
    }
}

fn is_ready(pipe: &OwnedFd) -> bool {
    let mut files = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut files, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Takes some of what was said; false at the end.
fn listen(pipe: &OwnedFd, stream: Stream, index: usize, log: &mut Log, view: &mut View<'_>) -> bool {
    let mut buffer = [0; 16 << 10];
    match nix::unistd::read(pipe, &mut buffer) {
        Ok(0) => false,
        Ok(length) => {
            log.take(stream, &buffer[..length]);
            view.said(index, stream, &buffer[..length]);
            true
        }
        Err(errno) => errno == Errno::EINTR,
    }
}

/// Returns the flags of [`Settings`](super::Settings) as they were typed, so that `exec` can be given what `fork` was.
pub(in crate::cli) fn words(matches: &clap::ArgMatches) -> Vec<OsString> {
    use clap::{ArgAction, Args};
    let known = super::Settings::augment_args(clap::Command::new("settings"));
    let mut words = Vec::new();
    for argument in known.get_arguments() {
        let id = argument.get_id().as_str();
        if matches.value_source(id) != Some(clap::parser::ValueSource::CommandLine) {
            continue;
        }
        let flag = format!("--{}", argument.get_long().expect("each of these flags has a long name"));
        if !matches!(argument.get_action(), ArgAction::Set | ArgAction::Append) {
            words.push(flag.into());
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            words.push([OsStr::new(&flag), value].join(OsStr::new("=")));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::{Args, CommandFactory};

    use super::*;

    #[test]
    fn flags_are_passed_on_as_they_were_typed() {
        let line = "rootling fork dev w -n 2 -e A=b --env C -T --memory 1g --memory-swap -1 -p 80:80 -v /a:/b:ro \
            --clock-offset monotonic=1,boottime=2 --each true";
        let matches = crate::cli::Arguments::command().get_matches_from(line.split(' '));
        let words = words(matches.subcommand().unwrap().1);
        let mut words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
        words.sort();
        let expected = "--clock-offset=boottime=2 --clock-offset=monotonic=1 --env=A=b --env=C --memory-swap=-1 \
            --memory=1g --no-tty --publish=80:80 --volume=/a:/b:ro";
        assert_eq!(words.join(" "), expected);
        for argument in super::super::Settings::augment_args(clap::Command::new("x")).get_arguments() {
            assert!(argument.get_long().is_some(), "{argument:?} could not be passed on");
        }
    }
}
