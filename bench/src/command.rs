//! Other programs: run, timed, and quoted when they fail.

use std::ffi::OsStr;
use std::process::{Child, Command, Output, Stdio};
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

/// Runs it to its end, with its output in a file.
pub(crate) fn written_to(command: &mut Command, file: std::fs::File) -> Result<()> {
    command.stdout(file);
    run(command).map(drop)
}

/// Starts all of them, waits for all, and returns how long that took.
pub(crate) fn timed_at_once(commands: &mut [Command]) -> Result<Duration> {
    commands.iter_mut().for_each(|command| {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
    });
    let start = Instant::now();
    let started: Vec<_> = commands.iter_mut().map(spawn).collect();
    // Everybody who started is waited for, whoever failed.
    let ended: Vec<_> = started.into_iter().map(|child| child.and_then(finish)).collect();
    let time = start.elapsed();
    ended.into_iter().try_for_each(|output| output.map(drop))?;
    Ok(time)
}

fn run(command: &mut Command) -> Result<(Duration, Output)> {
    command.stderr(Stdio::piped());
    let start = Instant::now();
    let output = finish(spawn(command)?);
    let time = start.elapsed();
    Ok((time, output?))
}

/// A process and the name of its program.
pub(crate) type Started = (String, Child);

/// Starts it.
pub(crate) fn spawn(command: &mut Command) -> Result<Started> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.spawn() {
        Ok(child) => Ok((name, child)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::NotFound, format!("{name} is not installed")))
        }
        Err(error) => Err(Error::io(format!("execve({name:?})"), error)),
    }
}

/// Waits for its end; one that failed is quoted.
pub(crate) fn finish((name, child): Started) -> Result<Output> {
    let output = child.wait_with_output().context(|| format!("wait({name:?})"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(Error::new(ErrorKind::Io, format!("{name}: {}: {}", output.status, last.trim())))
}
