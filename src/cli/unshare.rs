//! `unshare`: a shell where an ordinary user is root, and where the owners in their trees are who they are.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rootling_backends::{Error, ErrorKind, Result};

use super::Context;
use crate::runner::Entered;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The command [default: your shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Returns only where the command cannot be started.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    if context.entered == Entered::Root {
        let message = "you are root already: there is no user namespace to enter";
        return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("run the command without it"));
    }
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh".into());
    let (program, rest) =
        arguments.command.split_first().map_or((&shell, &[][..]), |(first, rest)| (first, rest));
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(context.umask));
    let error = Command::new(program).args(rest).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    context.output.error(&Error::io(format!("execute {program:?}"), error));
    Ok(code)
}
