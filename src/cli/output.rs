//! The only printer: data to standard output, talk to standard error.
//!
//! A reader who closes the pipe is no error. Names out of a root filesystem may hold anything: they are printed with
//! control characters escaped, so that they cannot drive the terminal.

#![expect(clippy::print_stderr, reason = "this is the file that may print")]

mod bars;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use rootling_backends::{Context as _, Cost, Error, ErrorKind, Kind, Result};
use serde::Serialize;

pub(crate) use bars::{Bars, Stage};

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
        let what = what.into();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(Duration::from_millis(500)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = indicatif::ProgressBar::new_spinner().with_message(what);
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                bar.tick();
            }
            bar.finish_and_clear();
        });
        Progress(Some((stop, thread)))
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
        let mut text = format!("rootling: {error}");
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(&format!("\n  because: {cause}"));
            source = cause.source();
        }
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

/// Returns a line that anybody may have written as text that can be shown.
pub(crate) fn tamed_text(line: &[u8]) -> String {
    String::from_utf8_lossy(&tame(line)).replace('\t', " ")
}

/// Escapes control characters but the tab, and what is no UTF-8.
fn tame(bytes: &[u8]) -> Vec<u8> {
    let mut tamed = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() && c != '\t' { tamed.extend(c.escape_default()) } else { tamed.push(c) }
        }
        tamed.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    tamed.into_bytes()
}

/// Cuts a text that is longer than a column, with a sign that it was cut.
pub(crate) fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

/// Returns how long ago something was, for people.
pub(crate) fn age(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
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
pub(crate) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

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

/// Says what a materialization cost, in one line.
pub(crate) fn describe(cost: &Cost) -> String {
    let mut parts = Vec::new();
    if cost.files_cloned > 0 {
        let files = counted(cost.files_cloned, "file", "files");
        parts.push(format!("{files} cloned ({})", bytes(cost.bytes_cloned)));
    }
    if cost.files_copied > 0 {
        let files = counted(cost.files_copied, "file", "files");
        parts.push(format!("{files} copied ({})", bytes(cost.bytes_copied)));
    }
    if cost.snapshots > 0 {
        parts.push(counted(cost.snapshots, "snapshot", "snapshots"));
    }
    if cost.directories > 0 {
        parts.push(counted(cost.directories, "directory", "directories"));
    }
    if cost.others > 0 {
        parts.push(counted(cost.others, "link or device", "links and devices"));
    }
    if parts.is_empty() {
        parts.push("nothing copied".to_owned());
    }
    format!("{}, {}", parts.join(", "), duration(cost.elapsed))
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Returns a size for people: `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Returns a duration for people: `3.2 ms`.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1000.0),
    }
}

/// Returns a path as it can be shown: control characters and bytes that are not UTF-8 escaped.
pub(crate) fn plain(path: &Path) -> Cow<'_, str> {
    plain_text(path.as_os_str())
}

/// Returns a person's text as it can be shown in a row: its first line, escaped, with a sign where there is more.
pub(crate) fn one_line(text: &str) -> String {
    let mut lines = text.trim_end().lines();
    let first = plain_text(lines.next().unwrap_or_default().as_ref()).into_owned();
    if lines.next().is_some() { format!("{first} …") } else { first }
}

/// Returns text as it can be shown.
pub(crate) fn plain_text(text: &OsStr) -> Cow<'_, str> {
    match text.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Cow::Borrowed(text),
        _ => Cow::Owned(text.as_bytes().escape_ascii().to_string()),
    }
}

/// Returns rows as aligned columns under a heading.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()) + 2);
            line.push_str(cell);
            line.push_str(&fill);
        }
        format!("{}\n", line.trim_end())
    };
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(line(&heading)).chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(plain(Path::new("a/ü")), "a/ü");
        assert_eq!(plain(Path::new("a\x1b[2J\n")), "a\\x1b[2J\\n");
        assert_eq!(plain(Path::new(OsStr::from_bytes(b"\xff"))), "\\xff");
    }

    #[test]
    fn what_a_box_said_cannot_drive_the_terminal() {
        assert_eq!(
            tame("ü\t\u{1b}]52;c;x\u{7}\r\u{9b}2J".as_bytes()),
            "ü\t\\u{1b}]52;c;x\\u{7}\\r\\u{9b}2J".as_bytes()
        );
        assert_eq!(tame(b"a\xff\x9b"), b"a\\xff\\x9b");
    }

    #[test]
    fn columns_line_up_and_do_not_trail() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME  N\na     1\nlong\n");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!((bytes(0), bytes(1023), bytes(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
    }
}
