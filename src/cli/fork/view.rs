//! What a person sees while commands run in many boxes: a table that moves on a terminal, else lines with the box before each.

use std::time::Duration;

use super::super::output::{self, Output, Rows, Shows};
use super::each::Ended;
use crate::runner::log::Stream;
use crate::store::Node;

/// Bytes of a line that are shown at once; longer ones come in parts.
const LONGEST: usize = 16 << 10;

/// Who watches.
#[derive(Debug)]
pub(super) struct View<'a> {
    output: Output,
    boxes: Vec<Seen<'a>>,
    /// The widest name.
    width: usize,
    rows: Option<Rows>,
}

/// What is seen of one box.
#[derive(Debug)]
struct Seen<'a> {
    name: &'a str,
    state: State,
    /// What was said and not ended yet, on standard output and standard error.
    begun: [Vec<u8>; 2],
    last_line: String,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Waits,
    Runs(Duration),
    Ended(Ended),
}

impl<'a> View<'a> {
    pub(super) fn new(output: Output, nodes: &'a [Node]) -> Self {
        let boxes: Vec<Seen<'a>> = nodes
            .iter()
            .map(|node| Seen {
                name: node.label(),
                state: State::Waits,
                begun: Default::default(),
                last_line: String::new(),
            })
            .collect();
        let width = boxes.iter().map(|seen| seen.name.len()).max().unwrap_or(0);
        let view = Self { output, width, rows: output.rows(boxes.len()), boxes };
        (0..view.boxes.len()).for_each(|index| view.draw(index));
        view
    }

    /// Takes what a box said.
    pub(super) fn said(&mut self, index: usize, stream: Stream, bytes: &[u8]) {
        let seen = &mut self.boxes[index];
        let begun = &mut seen.begun[usize::from(stream == Stream::Stderr)];
        begun.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
            lines.push(begun.drain(..=end).collect::<Vec<u8>>());
        }
        if begun.len() > LONGEST {
            lines.push(std::mem::take(begun));
        }
        lines.iter().for_each(|line| self.line(index, line));
    }

    fn line(&mut self, index: usize, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let seen = &mut self.boxes[index];
        if self.rows.is_some() {
            let text = output::tamed_text(line);
            if !text.trim().is_empty() {
                seen.last_line = text;
            }
        } else if !self.output.quiet {
            let mut shown = format!("{:width$} | ", seen.name, width = self.width).into_bytes();
            shown.extend_from_slice(&self.output.tamed(Shows::Talk, line));
            shown.push(b'\n');
            self.output.stream(Shows::Talk, &shown);
        }
    }

    /// Lets the clocks of those that run move on.
    pub(super) fn tick(&mut self, running: impl Iterator<Item = (usize, Duration)>) {
        for (index, elapsed) in running {
            self.boxes[index].state = State::Runs(elapsed);
            self.draw(index);
        }
    }

    pub(super) fn ended(&mut self, index: usize, ended: Ended) {
        for begun in std::mem::take(&mut self.boxes[index].begun).iter().filter(|begun| !begun.is_empty()) {
            self.line(index, begun);
        }
        self.boxes[index].state = State::Ended(ended);
        self.draw(index);
    }

    fn draw(&self, index: usize) {
        let Some(rows) = &self.rows else { return };
        let seen = &self.boxes[index];
        let (state, elapsed) = match seen.state {
            State::Waits => ("waits".to_owned(), None),
            State::Runs(elapsed) => ("runs".to_owned(), Some(elapsed)),
            State::Ended(Ended { status, elapsed }) => (format!("exit {status}"), Some(elapsed)),
        };
        let elapsed = elapsed.map_or_else(String::new, |elapsed| format!("{:.1} s", elapsed.as_secs_f64()));
        let (number, width) = (index + 1, self.width);
        rows.set(
            index,
            format!("{number:>4}  {:width$}  {state:8}  {elapsed:>9}  {}", seen.name, seen.last_line),
        );
    }
}
