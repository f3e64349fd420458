//! `undo host:/`: what was last applied to the machine is brought back.

use rootling_backends::Result;
use serde::Serialize;

use super::Context;

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

/// Brings back what `try host:/` replaced, so many times. `force`: also what somebody has changed since.
pub(super) fn undo(context: &Context, force: bool, steps: usize) -> Result<()> {
    context.require_root_for_host()?;
    let store = context.store()?;
    (1..steps).try_for_each(|_| store.undo_host(force).map(drop))?;
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
