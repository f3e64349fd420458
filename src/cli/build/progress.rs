//! How a build goes, for whoever looks: a screen that moves, lines, or a line of JSON for each event.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;

use super::super::output::{self, Output, RunningStep, Shows, Steps};
use crate::build::execute::{At, Done, Event};
use crate::build::explain::Explainer;
use crate::build::key::Fields;
use crate::build::plan::{Stage, Work};
use crate::runner::log::Stream;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Progress {
    /// tty on a terminal, else plain
    Auto,
    /// What runs, each step with its clock
    Tty,
    /// A line for everything, with what commands say
    Plain,
    /// A line of JSON for each event
    Json,
    /// Nothing but errors, and the id of what was built
    Quiet,
}

/// Lines of a command that are shown when it fails and was not shown before.
const LAST_LINES: usize = 50;

/// Bytes of a line that are kept.
const LONGEST: usize = 16 << 10;

/// A step, by the number of its stage and its index there.
type Which = (usize, usize);

/// Who looks on.
pub(super) struct View<'a> {
    output: Output,
    stages: &'a [Stage],
    explainer: &'a Explainer,
    explains: bool,
    skips_cached: bool,
    how: How,
    state: Mutex<State>,
}

enum How {
    Screen(Steps),
    Lines,
    Json,
    Nothing,
}

#[derive(Default)]
struct State {
    running: HashMap<Which, Running>,
}

/// A step that runs.
struct Running {
    row: Option<RunningStep>,
    /// What was said and not ended yet, on standard output and standard error.
    begun: [Vec<u8>; 2],
    last: VecDeque<Vec<u8>>,
}

/// What a program is told.
#[derive(Debug, Default, Serialize)]
struct Told<'a> {
    event: &'static str,
    stage: String,
    step: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    instruction: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloned_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Told<'_> {
    fn of(at: At<'_>) -> Self {
        Self { stage: at.stage_name(), step: at.index + 1, ..Self::default() }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(
        output: Output,
        progress: Progress,
        stages: &'a [Stage],
        explainer: &'a Explainer,
        explains: bool,
    ) -> Self {
        let how = match progress {
            Progress::Quiet => How::Nothing,
            Progress::Json => How::Json,
            Progress::Plain => How::Lines,
            _ if output.quiet => How::Nothing,
            Progress::Auto | Progress::Tty => output.steps().map_or(How::Lines, How::Screen),
        };
        Self { output, stages, explainer, explains, skips_cached: false, how, state: Mutex::default() }
    }

    /// Says nothing of steps that were there.
    pub(super) fn without_cached(self) -> Self {
        Self { skips_cached: true, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics who holds it")
    }

    /// Takes what happened.
    pub(super) fn tell(&self, event: Event<'_>) {
        let why = match event {
            Event::Cached(at, fields) => self.explainer.note(at, fields, true),
            Event::Begun(at, fields) => self.explainer.note(at, fields, false),
            _ => String::new(),
        };
        match (&self.how, event) {
            (How::Nothing, Event::Said(at, stream, bytes)) => drop(self.lines(at, stream, bytes)),
            (How::Json, event) => self.tell_program(event, why),
            (_, Event::Cached(..)) if self.skips_cached && !self.explains => {}
            (_, Event::Cached(at, _)) => {
                let how = if self.explains { why.as_str() } else { "cached" };
                self.say(at, &format!("{}: {how}", shown(at)));
            }
            (_, Event::Begun(at, _)) => self.begin(at, &why),
            (_, Event::Said(at, stream, bytes)) => {
                for line in self.lines(at, stream, bytes) {
                    self.said(at, &line);
                }
            }
            (_, Event::Done(at, took, done)) => {
                self.end(at);
                self.say(at, &format!("{}: {}{}", shown(at), output::duration(took), copied(done)));
            }
            (_, Event::Failed(at, took, _)) => self.failed(at, took),
        }
    }

    fn say(&self, at: At<'_>, text: &str) {
        let line = format!("{} {text}", self.head(at));
        match &self.how {
            How::Screen(steps) => steps.say(&line),
            How::Lines => self.output.say(&line),
            How::Json | How::Nothing => {}
        }
    }

    /// Returns `[2/5]`, with the stage before it where there are several.
    fn head(&self, at: At<'_>) -> String {
        let counts = |index: &usize| at.stage.steps[*index].work != Work::Say;
        let number = (0..=at.index).filter(counts).count();
        let count = (0..at.stage.steps.len()).filter(counts).count();
        match self.stages.len() {
            1 => format!("[{number}/{count}]"),
            _ => format!("[{} {number}/{count}]", at.stage_name()),
        }
    }

    fn begin(&self, at: At<'_>, why: &str) {
        let row = match &self.how {
            How::Screen(steps) => {
                Some(steps.begin(format!("{} {}", self.head(at), output::shortened(&shown(at), 60))))
            }
            _ => None,
        };
        if self.explains {
            self.say(at, &format!("{}: {why}", shown(at)));
        } else if matches!(self.how, How::Lines) {
            self.say(at, &shown(at));
        }
        let running = Running { row, begun: Default::default(), last: VecDeque::new() };
        self.state().running.insert(which(at), running);
    }

    /// Takes what was said, and returns the lines that are whole.
    fn lines(&self, at: At<'_>, stream: Stream, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut state = self.state();
        let Some(running) = state.running.get_mut(&which(at)) else { return Vec::new() };
        let begun = &mut running.begun[usize::from(stream == Stream::Stderr)];
        begun.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
            lines.push(begun.drain(..=end).take(end).collect::<Vec<u8>>());
        }
        if begun.len() > LONGEST {
            lines.push(std::mem::take(begun));
        }
        for line in &lines {
            if running.last.len() == LAST_LINES {
                running.last.pop_front();
            }
            running.last.push_back(line.clone());
        }
        lines
    }

    fn said(&self, at: At<'_>, line: &[u8]) {
        match &self.how {
            How::Screen(_) => {
                if let Some(row) =
                    self.state().running.get(&which(at)).and_then(|running| running.row.as_ref())
                {
                    row.said(output::tamed_text(line));
                }
            }
            How::Lines => {
                let mut text = format!("{} | ", self.head(at)).into_bytes();
                text.extend_from_slice(&self.output.tamed(Shows::Talk, line));
                text.push(b'\n');
                self.output.stream(Shows::Talk, &text);
            }
            How::Json | How::Nothing => {}
        }
    }

    /// Takes a step off the screen, and says what it did not end with a line feed.
    fn end(&self, at: At<'_>) -> VecDeque<Vec<u8>> {
        let Some(mut running) = self.state().running.remove(&which(at)) else { return VecDeque::new() };
        for rest in std::mem::take(&mut running.begun) {
            if !rest.is_empty() {
                self.said(at, &rest);
                running.last.push_back(rest);
            }
        }
        running.last
    }

    fn failed(&self, at: At<'_>, took: Duration) {
        let last = self.end(at);
        self.say(at, &format!("{}: FAILED after {}", shown(at), output::duration(took)));
        // Where lines were shown as they came, they have been seen.
        if let How::Screen(steps) = &self.how {
            for line in &last {
                steps.say(&format!("  | {}", output::tamed_text(line)));
            }
        } else if matches!(self.how, How::Nothing) {
            for line in &last {
                let mut text = b"  | ".to_vec();
                text.extend_from_slice(&self.output.tamed(Shows::Talk, line));
                text.push(b'\n');
                self.output.stream(Shows::Talk, &text);
            }
        }
    }

    fn tell_program(&self, event: Event<'_>, why: String) {
        let at = event.at();
        let base = Told::of(at);
        let begun = |event, fields: &Fields| Told {
            event,
            instruction: Some(&at.step().shown),
            line: Some(at.step().lines.0),
            key: Some(fields.key().to_string()),
            because: Some(why.clone()),
            ..Told::of(at)
        };
        let line = match event {
            Event::Cached(_, fields) => begun("cached", fields),
            Event::Begun(_, fields) => begun("begun", fields),
            Event::Said(_, stream, bytes) => Told {
                event: "said",
                stream: Some(if stream == Stream::Stderr { "stderr" } else { "stdout" }),
                text: Some(String::from_utf8_lossy(bytes).into_owned()),
                ..base
            },
            Event::Done(_, took, done) => Told {
                event: "done",
                seconds: Some(took.as_secs_f64()),
                files: Some(done.files),
                cloned_bytes: Some(done.cloned_bytes),
                copied_bytes: Some(done.copied_bytes),
                ..base
            },
            Event::Failed(_, took, error) => Told {
                event: "failed",
                instruction: Some(&at.step().shown),
                line: Some(at.step().lines.0),
                seconds: Some(took.as_secs_f64()),
                error: Some(error.to_string()),
                ..base
            },
        };
        self.output.talk_line(&line);
    }
}

fn which(at: At<'_>) -> Which {
    (at.stage.number, at.index)
}

fn shown(at: At<'_>) -> String {
    output::one_line(&at.step().shown)
}

/// Returns what a copy did, in words.
fn copied(done: &Done) -> String {
    if done.files == 0 {
        return String::new();
    }
    let files = if done.files == 1 { "1 file".to_owned() } else { format!("{} files", done.files) };
    let bytes = match (done.cloned_bytes, done.copied_bytes) {
        (0, copied) => format!("{} copied", output::bytes(copied)),
        (cloned, 0) => format!("{} cloned", output::bytes(cloned)),
        (cloned, copied) => format!("{} cloned, {} copied", output::bytes(cloned), output::bytes(copied)),
    };
    format!(", {files}, {bytes}")
}
