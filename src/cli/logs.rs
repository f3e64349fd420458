//! `logs`: what something said that was left running.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use rootling_backends::{Error, ErrorKind, Result};

use super::output::Shows;
use super::{Context, live, said};
use crate::runner::log::{Line, Reader, Stream};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box, or a fork that runs
    name: String,

    /// Go on with what it says, until it ends
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,

    /// Begin at a time, or so long ago: 2026-01-02T03:04:05Z, 90s, 10m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = said(since))]
    since: Option<Timestamp>,

    /// Show when each line was said
    #[arg(short, long)]
    timestamps: bool,
}

/// How often a log that is followed is looked at.
const PERIOD: Duration = Duration::from_millis(100);

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let found = live::find(&store, &arguments.name)?;
    let Some(mut reader) = Reader::open(&found.slot)? else {
        let message = format!("{} has no log", found.label);
        return Err(Error::new(ErrorKind::NotFound, message)
            .hint("a log is kept of what is left running: rootling start, or -d"));
    };
    let mut shown = Shown { context, timestamps: arguments.timestamps, begun: [true, true] };
    let wanted = |line: &Line| arguments.since.is_none_or(|since| line.time >= since);
    // Before the lines: what is written after this was still running.
    let mut alive = is_alive(&found);
    let mut last = Tail::default();
    reader.read(&mut |line| match arguments.tail {
        _ if !wanted(&line) => {}
        None => shown.show(&line),
        Some(tail) => last.push(line, tail),
    })?;
    last.lines.iter().for_each(|line| shown.show(line));
    while arguments.follow && alive {
        std::thread::sleep(PERIOD);
        alive = is_alive(&found);
        reader.read(&mut |line| {
            if wanted(&line) {
                shown.show(&line);
            }
        })?;
    }
    Ok(())
}

/// The last lines; the parts of a long one are one.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<Line>,
    /// How many of them are whole, or the last part of one.
    ends: usize,
}

impl Tail {
    fn push(&mut self, line: Line, most: usize) {
        self.ends += usize::from(line.full);
        self.lines.push_back(line);
        while self.ends + usize::from(self.lines.back().is_some_and(|line| !line.full)) > most {
            let Some(first) = self.lines.pop_front() else { return };
            self.ends -= usize::from(first.full);
        }
    }
}

/// Does somebody still run it? The note's lock tells, which goes after the last line was written.
fn is_alive(found: &live::Found) -> bool {
    found.open().is_ok_and(|file| !live::has_ended_within(&file, Duration::ZERO).unwrap_or(true))
}

struct Shown<'a> {
    context: &'a Context,
    timestamps: bool,
    /// Does the next thing shown begin a line? Of standard output and standard error.
    begun: [bool; 2],
}

impl Shown<'_> {
    fn show(&mut self, line: &Line) {
        let output = self.context.output;
        let to = match line.stream {
            Stream::Stdout => Shows::Data,
            Stream::Stderr => Shows::Talk,
            Stream::Note => return output.say(String::from_utf8_lossy(&line.content)),
        };
        let begins = &mut self.begun[usize::from(to == Shows::Talk)];
        let mut bytes = Vec::new();
        if self.timestamps && *begins {
            bytes.extend(format!("{:.9} ", line.time).into_bytes());
        }
        *begins = line.full;
        // Whoever asked for a terminal gets what was meant for one.
        if line.tty {
            bytes.extend(&line.content)
        } else {
            bytes.extend(output.tamed(to, &line.content).iter())
        }
        if line.full {
            bytes.push(b'\n');
        }
        output.stream(to, &bytes);
    }
}

fn since(text: &str) -> Result<Timestamp> {
    let ago = || {
        let number: i64 = text.get(..text.len().checked_sub(1)?)?.parse().ok()?;
        let unit = match text.chars().next_back()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return None,
        };
        let seconds = jiff::SignedDuration::from_secs(number.checked_mul(unit)?);
        Timestamp::now().checked_sub(seconds).ok()
    };
    ago().or_else(|| text.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is no time"))
            .hint("write 2026-01-02T03:04:05Z, or how long ago: 90s, 10m, 2h, 1d")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(since("2026-01-02T03:04:05Z").unwrap().to_string(), "2026-01-02T03:04:05Z");
        let then = since("60m").unwrap();
        let hour = Timestamp::now().duration_since(then).as_secs();
        assert!((3600..3660).contains(&hour), "{hour}");
        for bad in ["", "x", "10", "10y", "yesterday", "ä"] {
            assert!(since(bad).is_err(), "{bad:?}");
        }
    }
}
