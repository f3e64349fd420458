//! Snapshots that nobody asks for: before what a policy names, and after each command of a shell that was entered so.

use std::ffi::OsString;

use rootling_backends::Result;

use super::Context;
use crate::runner::Process;
use crate::store::{Cause, Description, Node, SnapshotOptions, Store, Trigger};

mod channel;
mod shell;

pub(super) use channel::Channel;

/// Makes the command a shell that asks for a snapshot after each of its commands.
pub(super) fn prepare(process: &mut Process) -> Result<()> {
    shell::prepare(process)
}

/// Makes an automatic snapshot.
fn automatic(store: &Store, node: &Node, message: &str) -> Result<Node> {
    let description =
        Description { message: Some(message.to_owned()), cause: Cause::Automatic, ..Description::default() };
    store.snapshot(node, &SnapshotOptions { description, ..SnapshotOptions::default() })
}

/// Snapshots a box, unless nothing has changed in it since its last state. `message` says what made it.
pub(super) fn snapshot(context: &Context, store: &Store, node: &Node, message: &str) -> Result<()> {
    if !store.differs(node)? {
        return Ok(());
    }
    let made = automatic(store, node, message)?;
    context.output.say(format!("kept {} before {message}", made.label()));
    Ok(())
}

/// Makes the snapshot that the policy of a box wants before a command. What runs then is `words`.
pub(super) fn before(
    context: &Context,
    store: &Store,
    node: &Node,
    trigger: Trigger,
    words: &[OsString],
) -> Result<()> {
    let wanted = node.record.life.policy.as_ref().is_some_and(|policy| policy.every.contains(&trigger));
    if !wanted {
        return Ok(());
    }
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    snapshot(context, store, node, format!("{trigger} {}", words.join(" ")).trim_end())
}
