//! Stands in for the parser until it is there.

use rootling_backends::{Error, ErrorKind, Result};

use crate::build::syntax::Instruction;

pub(super) fn parse_instruction(text: &str) -> Result<Instruction> {
    Err(Error::new(ErrorKind::Unsupported, text.to_owned()))
}
