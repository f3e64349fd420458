//! `build-run`: a Dockerfile that is a program. It is built on the first call, and what it ends with is run on each.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use rootling_backends::{Error, ErrorKind, Result};

use super::command::Command;
use super::{Context, build, run};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The Dockerfile, mostly one that begins with `#!/usr/bin/env -S rootling build-run`; its directory is the context
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The command [default: the image's own]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Builds it, and runs it in a fork that is thrown away; returns the command's exit code.
///
/// Nothing is said where all was built before. The arguments come behind the entrypoint, as with `run`.
pub(super) fn run(context: &Context, arguments: Arguments) -> Result<i32> {
    let file = &arguments.file;
    if !file.is_file() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no file {file:?}"))
            .hint("name a Dockerfile: rootling build-run FILE"));
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let words =
        ["rootling".into(), "build".into(), "--file".into(), file.into(), directory.as_os_str().into()];
    let Command::Build(recipe) = parsed(words.into_iter().collect())? else {
        unreachable!("build was typed")
    };
    let ended = build::quietly(context, &recipe)?;
    let Some(built) = ended.node else { return Ok(ended.code) };
    let mut words: Vec<OsString> = vec!["rootling".into(), "run".into(), built.id.as_str().into()];
    words.push("--".into());
    words.extend(arguments.arguments);
    let Command::Run(command) = parsed(words)? else { unreachable!("run was typed") };
    run::run(&context.quiet(), command)
}

/// Reads a command line of our own.
fn parsed(words: Vec<OsString>) -> Result<Command> {
    let read = super::Arguments::try_parse_from(words);
    let arguments = read.map_err(|error| Error::new(ErrorKind::InvalidInput, error.to_string()))?;
    Ok(arguments.command)
}
