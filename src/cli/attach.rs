//! `attach`: one's own terminal beside a box that runs detached.

use rootling_backends::{Error, ErrorKind, Result};

use super::{Context, live, said};
use crate::runner::{self, DetachKeys, Visit};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box, or a fork, started with -d and -t
    name: String,

    /// Keys that end the visit and leave it running; empty for none. What runs in front has none: it ends with its caller
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = said(DetachKeys::parse))]
    detach_keys: DetachKeys,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    let store = context.store()?;
    let found = live::find(&store, &arguments.name)?;
    let note = found.alive()?;
    let label = &found.label;
    if !note.detached {
        let message = format!("{label} is not detached: its caller has its terminal");
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint(format!("join it with another command: rootling exec {label} COMMAND")));
    }
    if !note.terminal {
        let message = format!("{label} has no terminal");
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint(format!("see what it says: rootling logs -f {label}; or start it with -t")));
    }
    let end = found.open()?;
    let visit = runner::attach(&found.slot, &arguments.detach_keys).map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.context(format!("attach {label}")).hint("it is just ending"),
        _ => error.context(format!("attach {label}")),
    })?;
    match visit {
        Visit::Detached => {
            context.output.say(format!("\nleft {label} running"));
            Ok(0)
        }
        Visit::Signal(signal) => Ok(128 + signal),
        Visit::Ended if !live::has_ended_within(&end, std::time::Duration::from_secs(10))? => {
            let message = format!("{label} goes on, but we did not read what it shows");
            Err(Error::new(ErrorKind::Busy, message).hint(format!("again: rootling attach {label}")))
        }
        Visit::Ended => Ok(live::wait_for_end(&end)?.map_or(137, |ended| i32::from(ended.status))),
    }
}
