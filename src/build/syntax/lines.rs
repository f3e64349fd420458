//! Lines of a file, and the longer ones that they make together.
//!
//! An instruction is one line, of as many lines of the file as end with the escape character. Every character of it
//! remembers where it stands in the file.

use std::borrow::Cow;

use super::ast::Position;
use super::problem::Fault;

/// The longest line of a file, in bytes without its end: BuildKit's.
const LONGEST: usize = 65_535;

/// The lines of a file, one by one.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    /// The number of the last line that was read, from 1.
    pub(super) number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: text, number: 0 }
    }

    /// Returns the next line, with its end.
    pub(super) fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let (line, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.number += 1;
        Some(line)
    }
}

/// Returns a line of the file as text.
///
/// # Errors
///
/// It is too long, or not UTF-8; what is wrong in a comment harms nobody.
pub(super) fn decode(line: &[u8]) -> Result<Cow<'_, str>, Fault> {
    if line.strip_suffix(b"\n").unwrap_or(line).len() > LONGEST {
        return Err(Fault::new(0, format!("the line is longer than {LONGEST} bytes"))
            .hint("end parts of it with the escape character, or keep the text in a file"));
    }
    match String::from_utf8_lossy(line) {
        Cow::Owned(text) if !is_comment(&text) => {
            let good = text.find(char::REPLACEMENT_CHARACTER).unwrap_or_default();
            Err(Fault::new(good, "the line is not UTF-8".to_owned())
                .hint("save the file with the encoding UTF-8"))
        }
        text => Ok(text),
    }
}

/// Is it a comment, when it is not inside a heredoc?
pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Returns a line without the carriage return and line feed that end it.
pub(super) fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Returns a line without the escape character that ends it, and whether there was one.
///
/// Blanks may follow it. Two of them in a row at the end are no continuation; neither are three.
pub(super) fn continued(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(start) if !start.ends_with(escape) => (start, true),
        _ => (line, false),
    }
}

/// The line of an instruction.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Its text.
    pub(super) text: String,
    /// Where parts of it come from: where each begins in the text, and in the file.
    parts: Vec<(usize, Position)>,
    /// The numbers of empty lines within it.
    pub(super) empty: Vec<usize>,
}

impl Line {
    /// Appends `text`, which stands at `position`.
    pub(super) fn push(&mut self, text: &str, position: Position) {
        self.parts.push((self.text.len(), position));
        self.text.push_str(text);
    }

    /// Returns where the character at `offset` stands in the file.
    pub(super) fn position(&self, offset: usize) -> Position {
        let part = self.parts.iter().rev().find(|(begin, _)| *begin <= offset);
        let Some((begin, position)) = part else { return Position { line: 1, column: 1 } };
        let characters = self.text.get(*begin..offset).unwrap_or_default().chars().count();
        Position { column: position.column + characters, ..*position }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_character_at_the_end_continues() {
        let cases = [
            ("a \\", "a ", true),
            ("a\\ \t", "a", true),
            ("\\", "", true),
            (" \\", " ", true),
            ("a", "a", false),
            ("a\\\\", "a\\\\", false),
            ("a\\\\\\", "a\\\\\\", false),
            ("a\\b", "a\\b", false),
            ("a\\\r", "a\\\r", false),
        ];
        for (line, rest, is_continued) in cases {
            assert_eq!(continued(line, '\\'), (rest, is_continued), "{line:?}");
        }
        assert_eq!(continued("a\\", '`'), ("a\\", false));
        assert_eq!(continued("a`", '`'), ("a", true));
    }

    #[test]
    fn lines_are_as_long_as_buildkit_lets_them() {
        let mut line = vec![b'a'; LONGEST];
        decode(&line).unwrap();
        line.push(b'\n');
        decode(&line).unwrap();
        line.insert(0, b'a');
        decode(&line).unwrap_err();
    }

    #[test]
    fn only_comments_may_be_of_another_encoding() {
        decode(b" # caf\xe9").unwrap();
        assert_eq!(decode(b"RUN caf\xe9").unwrap_err().at, 7);
    }

    #[test]
    fn every_character_knows_its_place() {
        let mut line = Line::default();
        line.push("RUN é ", Position { line: 3, column: 5 });
        line.push("  b", Position { line: 5, column: 1 });
        assert_eq!(line.position(0), Position { line: 3, column: 5 });
        assert_eq!(line.position(6), Position { line: 3, column: 10 });
        assert_eq!(line.position(7), Position { line: 5, column: 1 });
        assert_eq!(line.position(9), Position { line: 5, column: 3 });
        assert_eq!(line.position(10), Position { line: 5, column: 4 });
    }
}
