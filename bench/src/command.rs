//! Other programs: run, timed, and quoted when they fail.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};

/// Returns a command without input.
pub(crate) fn command(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end and returns how long that took, from before the fork to after the wait.
pub(crate) fn timed(command: &mut Command) -> Result<Duration> {
    command.stdout(Stdio::null());
    run(command).map(|(time, _)| time)
}

/// Runs it to its end and returns what it wrote.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stdout(Stdio::piped());
    run(command).map(|(_, output)| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(command: &mut Command) -> Result<(Duration, Output)> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stderr(Stdio::piped());
    let start = Instant::now();
    let spawned = command.spawn();
    let child = spawned.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{name} is not installed")),
        _ => Error::io(format!("execve({name:?})"), error),
    })?;
    let output = child.wait_with_output().context(|| format!("wait({name:?})"))?;
    let time = start.elapsed();
    if output.status.success() {
        return Ok((time, output));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(Error::new(ErrorKind::Io, format!("{name}: {}: {}", output.status, last.trim())))
}
