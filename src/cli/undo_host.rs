//! `undo host:/`: what was last applied to the machine is brought back.

use std::num::NonZeroUsize;

use rootling_backends::Result;
use serde::Serialize;

use super::Context;
use crate::store::Store;

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
///
/// Each time is said when it is done: a later one may fail.
pub(super) fn undo(context: &Context, force: bool, steps: NonZeroUsize) -> Result<()> {
    context.require_root_for_host()?;
    let store = context.store()?;
    let mut shown = step(context, &store, force)?;
    for _ in 1..steps.get() {
        shown = step(context, &store, force)?;
    }
    context.output.data(&shown, || format!("{}\n", shown.name));
    Ok(())
}

fn step(context: &Context, store: &Store, force: bool) -> Result<Undone> {
    let progress = context.output.progress("bringing back what was there");
    let undone = store.undo_host(force);
    drop(progress);
    let undone = undone?;
    let (name, kept) = (undone.node.label().to_owned(), undone.kept.label().to_owned());
    context.output.say(format!("host:/ is at {} paths as in {name}; what was there is {kept}", undone.paths));
    Ok(Undone { name, kept, paths: undone.paths })
}
