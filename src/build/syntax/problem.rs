//! What is wrong with a file, and where.

use std::fmt;

use rootling_backends::{Error, ErrorKind};

use super::ast::Position;

/// How many problems are told at once.
const MOST: usize = 10;

/// Something wrong in the line of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where in the line.
    pub(super) at: usize,
    message: String,
    hint: Option<String>,
}

impl Fault {
    pub(super) fn new(at: usize, message: String) -> Self {
        Self { at, message, hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Takes over what another part says of the text at `at`.
    pub(super) fn of(at: usize, error: &Error) -> Self {
        Self { at, message: error.to_string(), hint: error.first_hint().map(str::to_owned) }
    }

    pub(super) fn at(self, at: usize) -> Self {
        Self { at, ..self }
    }

    pub(super) fn problem(self, position: Position, keyword: &str) -> Problem {
        Problem { position, keyword: keyword.to_uppercase(), message: self.message, hint: self.hint }
    }
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub position: Position,
    /// The instruction, in capitals; empty where it is none.
    pub keyword: String,
    /// What is wrong: a fragment of a sentence, in lower case.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        write!(f, "line {line}, column {column}: ")?;
        if !self.keyword.is_empty() {
            write!(f, "{}: ", self.keyword)?;
        }
        f.write_str(&self.message)
    }
}

/// Makes one error of all that is wrong: one line for each, and the hint of the first.
pub(super) fn error(problems: &[Problem]) -> Error {
    let mut lines: Vec<String> = problems.iter().take(MOST).map(Problem::to_string).collect();
    if problems.len() > MOST {
        lines.push(format!("and {} more", problems.len() - MOST));
    }
    let error = Error::new(ErrorKind::InvalidInput, lines.join("\n"));
    match problems.first().and_then(|problem| problem.hint.clone()) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
