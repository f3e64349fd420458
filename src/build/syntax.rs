//! The text of a Dockerfile, taken apart: instructions with the place of each.

mod ast;
pub mod mount;

pub use ast::{
    AddFlags, Command, CommandLine, CopyFlags, Directives, Dockerfile, Flag, Healthcheck, Heredoc,
    Instruction, Position, Transfer,
};
