//! The program of a build step: not a command, and nothing that anybody types.

use crate::build::run;
use crate::runner::Caller;

/// Runs a step, if that is what this process was started for; returns its exit code then.
pub(super) fn run(caller: Option<Caller>) -> Option<i32> {
    run::program(std::env::args_os(), caller)
}
