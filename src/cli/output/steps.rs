//! Steps of a build on a terminal: those that are done scroll by, those that run stand below, each with its clock and its last line.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Format, Output};

/// How often clocks move.
const TICK: Duration = Duration::from_millis(100);

/// The lower part of the screen; dropping it takes that off.
#[derive(Debug)]
pub(crate) struct Steps {
    screen: MultiProgress,
}

/// A step that runs; dropping it takes it off the screen.
#[derive(Debug)]
pub(crate) struct RunningStep {
    head: ProgressBar,
}

impl Output {
    /// Returns the screen, if somebody looks and wants to.
    pub(crate) fn steps(self) -> Option<Steps> {
        let watched = !self.quiet && self.format != Format::Json && self.talks_to_a_terminal();
        watched.then(|| Steps { screen: MultiProgress::new() })
    }
}

impl Steps {
    /// Says a line, above those that run.
    pub(crate) fn say(&self, line: &str) {
        // Best effort: a terminal that is gone shows nothing.
        self.screen.println(line).unwrap_or_default();
    }

    /// Shows a step that runs.
    pub(crate) fn begin(&self, text: String) -> RunningStep {
        let style =
            ProgressStyle::with_template("{prefix} {elapsed:>4} {wide_msg}").expect("a fixed template");
        let head = self.screen.add(ProgressBar::new_spinner().with_style(style).with_prefix(text));
        head.enable_steady_tick(TICK);
        RunningStep { head }
    }
}

impl RunningStep {
    /// Shows what was said last.
    pub(crate) fn said(&self, line: String) {
        self.head.set_message(line);
    }
}

impl Drop for RunningStep {
    fn drop(&mut self) {
        self.head.finish_and_clear();
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.screen.clear().unwrap_or_default();
    }
}
