//! The text of a Dockerfile, taken apart: instructions with the place of each.
//!
//! ```text
//! bytes ─ lines, directives ─> lines of instructions ─ words, flags, heredoc ─> instruction ─> Dockerfile
//! ```
//!
//! The rules are BuildKit's, to the letter where they decide what a file means. Nothing is expanded, and no image, file
//! or argument is looked at: what a file says is the same wherever it is read.

mod ast;
mod directives;
mod dump;
mod duration;
mod flags;
mod heredoc;
mod instruction;
mod lines;
pub mod mount;
mod parser;
mod problem;
#[cfg(test)]
mod properties;
mod words;

pub use ast::{
    AddFlags, Command, CommandLine, CopyFlags, Directives, Dockerfile, Flag, Healthcheck, Heredoc,
    Instruction, Position, Transfer,
};
pub use dump::{to_json, to_text};
pub use duration::duration;
pub use parser::{parse, parse_trigger, problems};
pub use problem::Problem;
