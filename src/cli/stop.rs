//! `stop`, `kill` and `wait`: ends of what runs.

use std::time::Duration;

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::live::{self, Ended, Found};
use super::{Context, said};
use crate::process::signal;
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct StopArguments {
    /// Boxes, or forks that run
    #[arg(required = true, value_name = "BOX")]
    names: Vec<String>,

    /// Seconds to wait before everything in it is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u64,

    /// Signal that asks it to end [default: its own, else TERM]
    #[arg(short, long, value_name = "SIGNAL", value_parser = said(signal))]
    signal: Option<i32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct KillArguments {
    /// Boxes, or forks that run
    #[arg(required = true, value_name = "BOX")]
    names: Vec<String>,

    /// Signal to send to the command
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = said(signal))]
    signal: i32,
}

#[derive(Debug, clap::Args)]
pub(super) struct WaitArguments {
    /// Boxes, or forks that run
    #[arg(required = true, value_name = "BOX")]
    names: Vec<String>,
}

/// How long whoever runs it may take to clean up.
const CLEANING: Duration = Duration::from_secs(20);

pub(super) fn stop(context: &Context, arguments: &StopArguments) -> Result<()> {
    let store = context.store()?;
    each(context, &store, &arguments.names, |found| {
        let Some(note) = &found.note else { return Ok(()) };
        let end = found.open()?;
        if !note.running.is_alive() {
            // Asked for and so already, but for what is being cleaned up.
            return cleaned(found, &end);
        }
        let wanted = match (arguments.signal, note.stop_signal.as_str()) {
            (Some(signal), _) => signal,
            (None, "") => libc::SIGTERM,
            (None, own) => signal(own).map_err(|error| error.context(format!("stop {}", found.label)))?,
        };
        gone_is_fine(note.running.signal(wanted))?;
        if !note.running.wait(Duration::from_secs(arguments.time))? {
            gone_is_fine(note.running.kill_all())?;
        }
        cleaned(found, &end)
    })
}

pub(super) fn kill(context: &Context, arguments: &KillArguments) -> Result<()> {
    let store = context.store()?;
    each(context, &store, &arguments.names, |found| {
        let running = &found.alive()?.running;
        if arguments.signal != libc::SIGKILL {
            return running.signal(arguments.signal);
        }
        let end = found.open()?;
        // All of it at once: the command alone could not be killed in a way that its children would not notice.
        gone_is_fine(running.kill_all())?;
        cleaned(found, &end)
    })
}

/// How one of them ended.
#[derive(Debug, Serialize)]
struct Waited {
    name: String,
    exit_code: u8,
    ended: Option<jiff::Timestamp>,
}

pub(super) fn wait(context: &Context, arguments: &WaitArguments) -> Result<()> {
    let store = context.store()?;
    // All are found before any is waited for: a fork that ends meanwhile cannot be found any more.
    let opened: Result<Vec<_>> = arguments
        .names
        .iter()
        .map(|name| live::find(&store, name).and_then(|found| Ok((found.open()?, found.label))))
        .collect();
    let mut ends = Vec::new();
    for (file, name) in opened? {
        let ended = live::wait_for_end(&file)?;
        if ended.is_none() {
            log::warn!("{name} was killed together with whoever ran it: nobody saw how it ended");
        }
        let Ended { time, status } = match ended {
            Some(ended) => Ended { time: ended.time, status: ended.status },
            None => {
                ends.push(Waited { name, exit_code: 137, ended: None });
                continue;
            }
        };
        ends.push(Waited { name, exit_code: status, ended: Some(time) });
    }
    context.output.data(&ends, || ends.iter().map(|end| format!("{}\n", end.exit_code)).collect());
    Ok(())
}

/// Does something with each; one that fails does not keep the others from it.
fn each(
    context: &Context,
    store: &Store,
    names: &[String],
    mut act: impl FnMut(&Found) -> Result<()>,
) -> Result<()> {
    let mut failed = None;
    for name in names {
        let acted = live::find(store, name).and_then(|found| {
            act(&found)?;
            Ok(found)
        });
        match acted {
            Ok(found) => context.output.raw(format!("{}\n", found.label).as_bytes()),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    context.output.error(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn gone_is_fine(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn cleaned(found: &Found, end: &std::fs::File) -> Result<()> {
    if live::has_ended_within(end, CLEANING)? {
        return Ok(());
    }
    let message = format!("{} has ended, but whoever runs it does not", found.label);
    Err(Error::new(ErrorKind::Busy, message).hint("look at that process: rootling ps -a, ps -ef"))
}
