//! The only printer: data to standard output, talk to standard error.
//!
//! A reader who closes the pipe is no error. Names out of a root filesystem may hold anything: they are printed with
//! control characters escaped, so that they cannot drive the terminal.

#![expect(clippy::print_stderr, reason = "this is the file that may print")]

mod bars;
mod steps;
mod text;

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use rootling_backends::{Context as _, Cost, Error, ErrorKind, Kind, Result};
use serde::Serialize;

use text::tame;

pub(crate) use bars::{Bars, Stage};
pub(crate) use steps::{RunningStep, Steps};
pub(crate) use text::{
    age, bytes, describe, duration, one_line, plain, plain_text, shortened, table, tamed_text,
};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// One JSON document for programs
    Json,
    /// A graph for graphviz; only of log
    Dot,
    /// A picture of the graph; only of log
    Svg,
}

impl Format {
    /// Is it a drawing, which only a graph has?
    pub(crate) fn draws(self) -> bool {
        matches!(self, Self::Dot | Self::Svg)
    }
}

/// Where everything that is said goes through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints a document: as JSON, or as what `table` makes of it.
    pub(crate) fn data<T: Serialize>(self, value: &T, table: impl FnOnce() -> String) {
        match self.format {
            Format::Json => {
                let mut text = serde_json::to_string_pretty(value).expect("what we print has text for keys");
                text.push('\n');
                write_out(text.as_bytes());
            }
            // Drawings are refused where there is no graph.
            Format::Table | Format::Dot | Format::Svg => write_out(table().as_bytes()),
        }
    }

    /// Prints a list: as JSON, as what `table` makes of it, or, where only little is to be said, as the names, a line each.
    pub(crate) fn list_of<N: Display>(
        self,
        value: &impl Serialize,
        names: impl Iterator<Item = N>,
        table: impl FnOnce() -> String,
    ) {
        self.data(value, || match self.quiet {
            true => names.map(|name| format!("{name}\n")).collect(),
            false => table(),
        });
    }

    /// Prints text that is data in itself (a completion script, an id).
    pub(crate) fn raw(self, bytes: &[u8]) {
        write_out(bytes);
    }

    /// Prints data piece by piece, so that none of it need be in memory at once.
    pub(crate) fn pieces(self, pieces: impl Iterator<Item = Result<Vec<u8>>>) -> Result<()> {
        const AT_ONCE: usize = 64 << 10;
        let mut waiting = Vec::new();
        for piece in pieces {
            match piece {
                Ok(piece) => waiting.extend(piece),
                Err(error) => {
                    write_out(&waiting);
                    return Err(error);
                }
            }
            if waiting.len() >= AT_ONCE {
                write_out(&waiting);
                waiting.clear();
            }
        }
        write_out(&waiting);
        Ok(())
    }

    /// Prints a list as one JSON document, item by item.
    pub(crate) fn list<T: Serialize>(self, items: impl Iterator<Item = Result<T>>) -> Result<()> {
        let mut separator = "[\n  ";
        let shown = items.map(|item| {
            let text = serde_json::to_string_pretty(&item?).expect("what we print has text for keys");
            // Line breaks in texts are escaped: these are the document's own.
            let piece = format!("{separator}{}", text.replace('\n', "\n  ")).into_bytes();
            separator = ",\n  ";
            Ok(piece)
        });
        let mut any = false;
        self.pieces(shown.inspect(|piece| any |= piece.is_ok()))?;
        write_out(if any { b"\n]\n" } else { b"[]\n" });
        Ok(())
    }

    /// Does somebody see at once what is said?
    fn talks_to_a_terminal(self) -> bool {
        io::stderr().is_terminal()
    }

    /// Does somebody watch a table that could be drawn anew?
    pub(crate) fn is_watched(self) -> bool {
        self.format == Format::Table && !self.quiet && io::stdout().is_terminal()
    }

    /// Clears the terminal and prints a table.
    pub(crate) fn redraw(self, table: &str) {
        // ECMA-48: cursor to the upper left corner, then erase to the end (console_codes(4)).
        write_out(format!("\x1b[H\x1b[J{table}").as_bytes());
    }

    /// Passes on what a command said.
    pub(crate) fn stream(self, to: Shows, bytes: &[u8]) {
        match to {
            Shows::Data => write_out(bytes),
            // Best effort: whoever closed standard error does not want it.
            Shows::Talk => io::stderr().lock().write_all(bytes).unwrap_or_default(),
        }
    }

    /// Returns what may be shown of bytes that anybody may have written: on a terminal, control characters are escaped.
    pub(crate) fn tamed(self, to: Shows, bytes: &[u8]) -> Cow<'_, [u8]> {
        let terminal = match to {
            Shows::Data => io::stdout().is_terminal(),
            Shows::Talk => io::stderr().is_terminal(),
        };
        if terminal { Cow::Owned(tame(bytes)) } else { Cow::Borrowed(bytes) }
    }

    /// As [`tamed`](Self::tamed), for whole lines, which stay lines.
    pub(crate) fn tamed_lines(self, to: Shows, bytes: Vec<u8>) -> Vec<u8> {
        let mut lines = Vec::with_capacity(bytes.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            lines.extend_from_slice(&self.tamed(to, text));
            lines.extend_from_slice(&line[text.len()..]);
        }
        lines
    }

    /// Returns standard output, for an archive; a terminal is an error of kind `InvalidInput`.
    pub(crate) fn sink(self) -> Result<Box<dyn Write + Send>> {
        if io::stdout().is_terminal() {
            return Err(Error::new(ErrorKind::InvalidInput, "an archive is nothing for a terminal")
                .hint("say where to: a file, or | COMMAND"));
        }
        Ok(Box::new(io::stdout()))
    }

    /// Returns standard error, for a program whose words are no data here.
    pub(crate) fn talk(self) -> Result<std::process::Stdio> {
        let talk = io::stderr().as_fd().try_clone_to_owned();
        Ok(talk.context(|| "dup(stderr)")?.into())
    }

    /// Says something to the person, unless asked to be quiet.
    pub(crate) fn say(self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// Says which backend made a tree and what it cost.
    pub(crate) fn cost(self, what: &str, backend: Kind, cost: &Cost) {
        self.say(format!("{what} by {backend}: {}", describe(cost)));
        if !matches!(backend, Kind::Reflink | Kind::Btrfs) {
            // Nobody expects these to share data.
            return;
        }
        for (path, reason) in cost.copied_because.iter().take(3) {
            self.say(format!("  copied {}: {reason}", plain(path)));
        }
        let more = cost.copied_because.len().saturating_sub(3);
        if more > 0 {
            self.say(format!("  and {more} more files for such reasons: see `rootling show`"));
        }
    }

    /// Shows that something is going on, on a terminal, once it has taken half a second.
    pub(crate) fn progress(self, what: impl Into<String>) -> Progress {
        if self.quiet || !self.talks_to_a_terminal() {
            return Progress(None);
        }
        let mut what = what.into();
        let (words, heard) = channel::<String>();
        let thread = std::thread::spawn(move || {
            let begin = Instant::now() + Duration::from_millis(500);
            let mut bar = None;
            loop {
                match heard.recv_timeout(Duration::from_millis(100)) {
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {}
                    // The last word counts.
                    Ok(word) => what = heard.try_iter().last().unwrap_or(word),
                }
                if Instant::now() >= begin {
                    let bar = bar.get_or_insert_with(indicatif::ProgressBar::new_spinner);
                    bar.set_message(what.clone());
                    bar.tick();
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        });
        Progress(Some((words, thread)))
    }

    /// Is there somebody who could be asked?
    pub(crate) fn can_ask(self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks the person at the terminal for something that is not shown as it is typed.
    pub(crate) fn ask_secret(self, question: &str) -> Result<Answer> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).context(|| "tcgetattr(stdin)")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).context(|| "tcsetattr(stdin)")?;
        let answer = self.ask(question);
        tcsetattr(&stdin, SetArg::TCSANOW, &before).context(|| "tcsetattr(stdin)")?;
        eprintln!();
        answer
    }

    /// Asks the person at the terminal.
    pub(crate) fn ask(self, question: &str) -> Result<Answer> {
        // Not those of a job that is stopped: the shell's business.
        let ending: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        let before = ending.thread_swap_mask(SigmaskHow::SIG_BLOCK).context(|| "sigprocmask(SIGINT)")?;
        let answer = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC)
            .context(|| "signalfd(SIGINT)")
            .and_then(|signals| answer(question, &signals));
        before.thread_set_mask().context(|| "sigprocmask()")?;
        answer
    }

    /// Draws rows that change, one below the other; `None` where nobody watches standard error.
    pub(crate) fn rows(self, count: usize) -> Option<Rows> {
        if self.quiet || !self.talks_to_a_terminal() {
            return None;
        }
        let screen = indicatif::MultiProgress::new();
        let style = indicatif::ProgressStyle::with_template("{wide_msg}").expect("a fixed template");
        let bars = (0..count)
            .map(|_| screen.add(indicatif::ProgressBar::new_spinner().with_style(style.clone())))
            .collect();
        Some(Rows { screen, bars })
    }

    /// Prints a failure: what was tried, the causes, what to do.
    pub(crate) fn error(self, error: &Error) {
        let mut text = format!("rootling: {}", error.chain().join("\n  because: "));
        if let Some(hint) = error.first_hint().or_else(|| usual_hint(error.kind())) {
            text.push_str(&format!("\n  hint: {hint}"));
        }
        eprintln!("{text}");
    }
}

/// What a person answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This.
    Line(String),
    /// Nothing more will be said.
    End,
    /// A signal came instead.
    Interrupted,
}

fn answer(question: &str, signals: &SignalFd) -> Result<Answer> {
    eprint!("{question}");
    let (stdin, mut line) = (io::stdin(), Vec::new());
    loop {
        let mut files =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled.context(|| "poll(stdin)")?,
        };
        if files[1].any() == Some(true) {
            signals.read_signal().context(|| "read(signalfd)")?;
            eprintln!();
            return Ok(Answer::Interrupted);
        }
        let mut buffer = [0; 1024];
        let length = match nix::unistd::read(&stdin, &mut buffer) {
            Err(Errno::EINTR) => continue,
            read => read.context(|| "read(stdin)")?,
        };
        line.extend_from_slice(&buffer[..length]);
        if length == 0 && line.is_empty() {
            eprintln!();
            return Ok(Answer::End);
        }
        if length == 0 || line.ends_with(b"\n") {
            return Ok(Answer::Line(String::from_utf8_lossy(&line).into_owned()));
        }
    }
}

/// Which of the two descriptors something goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Standard output.
    Data,
    /// Standard error.
    Talk,
}

/// What usually helps, where the place that failed knew nothing better.
fn usual_hint(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NoSpace => "make room: `rootling prune`, `rootling rm`, or a larger file system",
        ErrorKind::ReadOnly => "remount it for writing, or use a store elsewhere: --root PATH",
        ErrorKind::TooManyOpenFiles => "allow more open files: ulimit -n 65536",
        ErrorKind::CrossDevice => "both must be on one file system: use --backend copy, or a store there",
        ErrorKind::PermissionDenied => "`rootling doctor` says what this user may do here",
        ErrorKind::Corrupt => "run `rootling fsck` to see what else is damaged",
        _ => return None,
    })
}

/// A sign of life; dropping it takes it off the screen.
#[derive(Debug)]
pub(crate) struct Progress(Option<(Sender<String>, JoinHandle<()>)>);

impl Progress {
    /// Shows something else from now on.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if let Some((words, _)) = &self.0 {
            // The thread listens until it is dropped.
            drop(words.send(what()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // A spinner that panicked is no reason to fail.
            drop(thread.join());
        }
    }
}

/// Rows on the screen; dropping them takes them off.
#[derive(Debug)]
pub(crate) struct Rows {
    screen: indicatif::MultiProgress,
    bars: Vec<indicatif::ProgressBar>,
}

impl Rows {
    /// Shows a text in a row; what does not fit is cut.
    pub(crate) fn set(&self, row: usize, text: String) {
        self.bars[row].set_message(text);
        self.bars[row].tick();
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // Best effort: what stays on the screen harms nobody.
        self.screen.clear().unwrap_or_default();
    }
}

fn write_out(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => {}
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("rootling: cannot write to standard output: {error}");
            std::process::exit(1);
        }
    }
}
