//! `-d`: leaving something running, and `start`, which always does.

use std::ffi::OsString;

use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde::Serialize;

use super::enter;
use super::start::Settings;
use super::{Context, said};
use crate::runner::log;

/// How something is left running.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DetachFlags {
    /// Leave it running and return when it has started; `logs`, `attach` and `stop` find it
    #[arg(short, long)]
    pub(super) detach: bool,

    #[command(flatten)]
    pub(super) log: LogFlags,
}

/// How its log is kept.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LogFlags {
    /// Size at which the log of what is left running is begun anew; the one before is kept [default: 10M]
    #[arg(long, value_name = "SIZE", value_parser = said(size))]
    log_size: Option<u64>,
}

impl LogFlags {
    /// Returns the size of one log file, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.log_size.unwrap_or(log::DEFAULT_LIMIT)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct StartArguments {
    /// The box
    pub(super) name: String,

    /// Stay until it ends, and show what it says: for service managers, see `generate systemd`
    #[arg(long, conflicts_with = "log_size")]
    pub(super) foreground: bool,

    /// Program to run before the arguments, instead of the box's own: a path, or a JSON list
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    #[command(flatten)]
    log: LogFlags,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// The command [default: the box's own]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What is said of what was left running.
#[derive(Debug, Serialize)]
struct Started<'a> {
    name: &'a str,
    id: &'a str,
}

pub(super) fn start(context: &Context, arguments: StartArguments) -> Result<i32> {
    let flags = arguments.settings.flags(arguments.log.limit(), true);
    let what = enter::What::Own { entrypoint: arguments.entrypoint, args: arguments.command };
    enter::run_in_box(context, &arguments.name, flags, what)
}

impl Context {
    /// Says what runs now and lets the caller go.
    pub(super) fn announce(&self, name: &str, id: &str) -> Result<()> {
        let Some(announcer) = self.announcer.take() else { return Ok(()) };
        self.output.data(&Started { name, id }, || format!("{name}\n"));
        announcer.announce().context(|| format!("leave {name} running"))
    }

    /// Is something to be left running, of which nobody has heard yet?
    pub(super) fn detaches(&self) -> bool {
        self.announcer.borrow().is_some()
    }
}

/// At least what one line of the largest size needs to be worth a file.
fn size(text: &str) -> Result<u64> {
    let size = super::init::parse_size(text)?;
    if size >= 4096 {
        return Ok(size);
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is too small for a log"))
        .hint("the smallest is 4K"))
}
