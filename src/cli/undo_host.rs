//! `undo host:/`: what was last applied to the machine is brought back.

use rootling_backends::Result;
use serde::Serialize;

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The machine: host:/
    #[arg(value_parser = ["host:/"])]
    _reference: String,

    /// Also what somebody has changed since; what they wrote is kept
    #[arg(long)]
    force: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    undo(context, arguments.force)
}

/// What was done.
#[derive(Debug, Serialize)]
struct Undone {
    /// The node that holds what the machine is now, at the paths that were changed.
    name: String,
    /// The node that holds what was taken away for that.
    kept: String,
    /// How many paths changed.
    paths: usize,
}

/// Brings back what `try host:/` replaced. `force`: also what somebody has changed since.
pub(super) fn undo(context: &Context, force: bool) -> Result<()> {
    context.require_root_for_host()?;
    let store = context.store()?;
    let progress = context.output.progress("bringing back what was there");
    let undone = store.undo_host(force);
    drop(progress);
    let undone = undone?;
    let (name, kept) = (undone.node.label().to_owned(), undone.kept.label().to_owned());
    context.output.say(format!("host:/ is at {} paths as in {name}; what was there is {kept}", undone.paths));
    let shown = Undone { name, kept, paths: undone.paths };
    context.output.data(&shown, || format!("{}\n", shown.name));
    Ok(())
}
