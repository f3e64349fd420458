//! `restore`, `undo`, `redo`: a box becomes what another state of it is.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use jiff::Timestamp;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::{Context, output, store, undo_host};
use crate::reference::{Reference, Which};
use crate::store::{Moved, Node, RestoreOptions, Store};

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArguments {
    /// The snapshot, BOX@LABEL; or the box, with --to
    reference: String,

    /// The state: any tree, snapshot or other box
    #[arg(long, value_name = "NODE")]
    to: Option<String>,

    /// The volumes that were kept together with the state, too
    #[arg(long)]
    with_volumes: bool,

    /// Restore only what is at these paths and below; what is not there in the state is removed
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct StepArguments {
    /// The box; `undo` also takes host:/, for what `try` applied there
    #[arg(value_name = "BOX", default_value = "-")]
    reference: String,

    /// By how many states
    #[arg(short = 'n', long, value_name = "N", default_value = "1")]
    steps: NonZeroUsize,
}

#[derive(Debug, clap::Args)]
pub(super) struct UndoArguments {
    #[command(flatten)]
    step: StepArguments,

    /// For host:/, bring back also what somebody has changed there since; what they wrote is kept
    #[arg(long)]
    force: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    /// The box.
    name: String,
    id: String,
    /// The name of the state that it is in now, or its id.
    state: String,
    state_id: String,
    /// What it was before: the name of that state.
    before: String,
    before_id: String,
    /// Was that snapshotted for this?
    kept: bool,
    /// What was restored; empty for all of it.
    paths: Vec<PathBuf>,
}

pub(super) fn restore(context: &Context, arguments: &RestoreArguments) -> Result<()> {
    let store = context.store()?;
    let (node, to) = box_and_state(&store, arguments)?;
    let options = RestoreOptions { paths: arguments.paths.clone(), with_volumes: arguments.with_volumes };
    let progress = context.output.progress(format!("restoring {}", node.label()));
    let moved = store.restore(&node, &to, &options);
    drop(progress);
    let moved = moved?;
    // As it was asked for: it may have several names, and the state of another box has none.
    let (name, state) = (node.label(), described(to.label(), &moved.state));
    let what = match arguments.paths.len() {
        0 => format!("{name} is now as {state}"),
        1 => format!("{} of {name} is now as in {state}", output::plain(&arguments.paths[0])),
        count => format!("{count} paths of {name} are now as in {state}"),
    };
    report(context, &store, &moved, what, &arguments.paths);
    let left: Vec<&str> = to.record.volumes.iter().map(|kept| kept.volume.as_str()).collect();
    if !left.is_empty() && !arguments.with_volumes && arguments.paths.is_empty() {
        let left = left.join(", ");
        context.output.say(format!("volumes stay as they are ({left}): --with-volumes restores them, too"));
    }
    Ok(())
}

pub(super) fn undo(context: &Context, arguments: &UndoArguments) -> Result<()> {
    if Reference::parse(&arguments.step.reference)? == Reference::Host {
        return undo_host::undo(context, arguments.force, arguments.step.steps);
    }
    if arguments.force {
        let message = format!("--force is for host:/, and {} is a box", arguments.step.reference);
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("leave it out: nobody else changes a box, and what it is now is kept"));
    }
    step(context, &arguments.step, "redo goes back", Store::undo)
}

pub(super) fn redo(context: &Context, arguments: &StepArguments) -> Result<()> {
    step(context, arguments, "undo goes back", Store::redo)
}

fn step(
    context: &Context,
    arguments: &StepArguments,
    back: &str,
    go: impl FnOnce(&Store, &Node, usize) -> Result<Moved>,
) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let progress = context.output.progress(format!("restoring {}", node.label()));
    let moved = go(&store, &node, arguments.steps.get());
    drop(progress);
    let moved = moved?;
    let what = format!("{} is now as {}; {back}", node.label(), described(moved.state.label(), &moved.state));
    report(context, &store, &moved, what, &[]);
    Ok(())
}

/// Finds out which box is meant, and which state.
fn box_and_state(store: &Store, arguments: &RestoreArguments) -> Result<(Node, Node)> {
    let text = &arguments.reference;
    if let Some(to) = &arguments.to {
        return Ok((store::find(store, text)?, store::find(store, to)?));
    }
    let owner = match Reference::parse(text)? {
        Reference::Node { which: Which::Named(name), back } => match name.of_snapshot() {
            Some((owner, _)) => Some(owner.to_string()),
            None => (back > 0).then(|| name.to_string()),
        },
        Reference::Node { which: Which::Last, back } => (back > 0).then(|| "-".to_owned()),
        Reference::Host | Reference::Node { which: Which::Failed { .. } | Which::Held { .. }, .. } => None,
    };
    let Some(owner) = owner else {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{text} does not say to which state"))
            .hint(format!("say it: rootling restore {text}@LABEL, or rootling restore {text} --to NODE")));
    };
    let state = store::find(store, text)?;
    match store::find(store, &owner) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(error.hint(format!("make a box of the snapshot: rootling create {text} {owner}")))
        }
        node => Ok((node?, state)),
    }
}

/// A state, as it is told to a person: what it is called, how old it is, what was said of it.
pub(super) fn described(label: &str, state: &Node) -> String {
    let age = output::age(state.record.created, Timestamp::now());
    match &state.record.message {
        Some(message) => {
            let message = output::plain_text(message.as_ref()).into_owned();
            format!("{label} ({age} ago, {:?})", output::shortened(&message, 60))
        }
        None => format!("{label} ({age} ago)"),
    }
}

fn report(context: &Context, store: &Store, moved: &Moved, what: String, paths: &[PathBuf]) {
    let Moved { node, state, before, is_kept } = moved;
    store::remember(store, node);
    if *is_kept {
        context.output.say(format!("{what}; what was there is {}", before.label()));
    } else {
        context.output.say(what);
    }
    let report = Report {
        name: node.label().to_owned(),
        id: node.id.to_string(),
        state: state.label().to_owned(),
        state_id: state.id.to_string(),
        before: before.label().to_owned(),
        before_id: before.id.to_string(),
        kept: *is_kept,
        paths: paths.to_owned(),
    };
    context.output.data(&report, || match context.output.quiet {
        true => format!("{}\n", report.state),
        false => String::new(),
    });
}
