//! `apply`, `revert`, `rebase`: changes of one line of states taken over to another, three ways and by file.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rootling_backends::{ChangeKind, Error, ErrorKind, Result};
use serde::Serialize;

use super::{Context, output, store};
use crate::reference::{self, Reference, Which};
use crate::store::{Conflict, Merged, Moved, Node, Range, Sides, Store};

/// How a merge that left conflicts ends.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Ending {
    /// The conflicts in this box are settled: keep the result as a snapshot
    #[arg(long = "continue", value_name = "BOX")]
    settled: Option<String>,

    /// Take this box back to what it was before
    #[arg(long, value_name = "BOX")]
    abort: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct TakeArguments {
    /// What to take: A..B, or one state, for what it changed against the one before it
    #[arg(value_name = "A..B|NODE", required_unless_present_any = ["settled", "abort"], conflicts_with_all = ["settled", "abort"])]
    range: Option<String>,

    /// The box that takes it [revert's default: the box whose snapshots are named]
    #[arg(long, value_name = "BOX", conflicts_with_all = ["settled", "abort"])]
    to: Option<String>,

    /// What the new snapshot is, in your words
    #[arg(short, long, conflicts_with = "abort")]
    message: Option<String>,

    #[command(flatten)]
    ending: Ending,

    /// Take only what is at these paths and below
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RebaseArguments {
    /// The box
    #[arg(value_name = "BOX", required_unless_present_any = ["settled", "abort"], conflicts_with_all = ["settled", "abort"])]
    reference: Option<String>,

    /// What it shall stand on
    #[arg(long, value_name = "NODE", required_unless_present_any = ["settled", "abort"], conflicts_with_all = ["settled", "abort"])]
    onto: Option<String>,

    /// What the new snapshot is, in your words
    #[arg(short, long, conflicts_with = "abort")]
    message: Option<String>,

    #[command(flatten)]
    ending: Ending,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The box.
    name: String,
    id: String,
    /// The snapshot that it is in now.
    state: Option<String>,
    /// What it was before.
    before: Option<String>,
    /// How many changes were taken over.
    taken: usize,
    /// What is to be settled.
    conflicts: Vec<Item<'a>>,
}

/// A conflict; bytes of paths that are no UTF-8 are replaced.
#[derive(Debug, Serialize)]
pub(super) struct Item<'a> {
    path: Cow<'a, str>,
    /// The path as it is, where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    ours: ChangeKind,
    theirs: ChangeKind,
    /// Where their side lies; null where they deleted it.
    theirs_at: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    theirs_at_bytes: Option<&'a [u8]>,
}

impl<'a> Item<'a> {
    pub(super) fn of(sides: &'a Sides) -> Self {
        let bytes = |path: &'a Path| path.to_str().is_none().then(|| path.as_os_str().as_bytes());
        let Sides { conflict: Conflict { path, ours, theirs }, theirs_at } = sides;
        Self {
            path: path.to_string_lossy(),
            path_bytes: bytes(path),
            ours: *ours,
            theirs: *theirs,
            theirs_at: theirs_at.as_deref().map(Path::to_string_lossy),
            theirs_at_bytes: theirs_at.as_deref().and_then(bytes),
        }
    }
}

pub(super) fn apply(context: &Context, arguments: &TakeArguments) -> Result<i32> {
    take(context, arguments, "apply", |range| range)
}

pub(super) fn revert(context: &Context, arguments: &TakeArguments) -> Result<i32> {
    take(context, arguments, "revert", |Range { from, to }| Range { from: to, to: from })
}

fn take(
    context: &Context,
    arguments: &TakeArguments,
    verb: &str,
    direction: impl FnOnce(Range) -> Range,
) -> Result<i32> {
    let store = context.store()?;
    let Some(text) = &arguments.range else {
        return end(context, &store, &arguments.ending, arguments.message.as_deref());
    };
    let range = range(&store, text)?;
    let node = match (&arguments.to, owner(text, verb)) {
        (Some(name), _) => store::find(&store, name)?,
        (None, Some(owner)) => store::find(&store, &owner)?,
        (None, None) => {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{verb} {text}: to which box?"))
                .hint(format!("say it: rootling {verb} {text} --to BOX")));
        }
    };
    let message = arguments.message.clone().unwrap_or_else(|| match &range.to.record.message {
        Some(message) if !text.contains("..") => format!("{verb} {text}: {message}"),
        _ => format!("{verb} {text}"),
    });
    let progress = context.output.progress(message.clone());
    let merged = store.apply(&node, &direction(range), &arguments.paths, &message);
    drop(progress);
    let theirs = if verb == "revert" { "the revert" } else { text };
    let words = Words { verb, ours: node.label(), theirs };
    Ok(report(context, &store, &node, &merged?, &words))
}

/// What a merge and its sides are called.
struct Words<'a> {
    verb: &'a str,
    /// What keeps its own where both changed something.
    ours: &'a str,
    /// What is taken over.
    theirs: &'a str,
}

/// Returns the box whose snapshots a revert speaks of.
fn owner(text: &str, verb: &str) -> Option<String> {
    let last = text.rsplit("..").next().filter(|_| verb == "revert")?;
    match Reference::parse(last).ok()? {
        Reference::Node { which: Which::Named(name), .. } => {
            Some(name.of_snapshot().map_or(name.to_string(), |(owner, _)| owner.to_string()))
        }
        _ => None,
    }
}

fn range(store: &Store, text: &str) -> Result<Range> {
    let found = |reference: Reference| store::find(store, &reference.to_string());
    match Reference::parse_range(text)? {
        reference::Range::Between { from: Some(from), to: Some(to) } => {
            Ok(Range { from: found(from)?, to: found(to)? })
        }
        reference::Range::Between { .. } => {
            Err(Error::new(ErrorKind::InvalidInput, format!("{text} leaves an end open"))
                .hint("say from which state to which: A..B"))
        }
        reference::Range::One(only) => {
            let to = found(only)?;
            let before = store.predecessor(&to)?.ok_or_else(|| {
                let message = format!("{} has no state before it that it could have changed", to.label());
                Error::new(ErrorKind::InvalidInput, message).hint("say from where on: A..B")
            })?;
            let from = Node { name: store.name_of(&before.id)?, ..before };
            Ok(Range { from, to })
        }
    }
}

pub(super) fn rebase(context: &Context, arguments: &RebaseArguments) -> Result<i32> {
    let store = context.store()?;
    let (Some(name), Some(onto)) = (&arguments.reference, &arguments.onto) else {
        return end(context, &store, &arguments.ending, arguments.message.as_deref());
    };
    let node = store::find(&store, name)?;
    let message = arguments.message.clone().unwrap_or_else(|| format!("rebase onto {onto}"));
    let target = store::find(&store, onto)?;
    let progress = context.output.progress(format!("rebasing {}", node.label()));
    let merged = store.rebase(&node, &target, &message);
    drop(progress);
    let words = Words { verb: "rebase", ours: onto, theirs: node.label() };
    Ok(report(context, &store, &node, &merged?, &words))
}

/// Says what was done; 1 where something is left to be settled.
fn report(context: &Context, store: &Store, node: &Node, merged: &Merged, words: &Words<'_>) -> i32 {
    let name = node.label();
    let Merged { moved, taken, conflicts } = merged;
    match moved {
        Some(Moved { state, before, .. }) => {
            store::remember(store, node);
            let changes = if *taken == 1 { "1 change".to_owned() } else { format!("{taken} changes") };
            let to_settle = match conflicts.len() {
                0 => String::new(),
                1 => ", 1 conflict".to_owned(),
                count => format!(", {count} conflicts"),
            };
            context.output.say(format!(
                "{name} is now as {}: {changes} taken over{to_settle}; before that it was {}",
                state.label(),
                before.label()
            ));
        }
        None => context.output.say(format!("{name} stays as it is: there is nothing to take over")),
    }
    if !conflicts.is_empty() {
        context.output.say(format!(
            "merge each with the file beside it, remove that, and say `rootling {verb} --continue {name}`; or give it up: \
             `rootling {verb} --abort {name}`",
            verb = words.verb
        ));
    }
    let label = |node: &Node| node.label().to_owned();
    let report = Report {
        name: name.to_owned(),
        id: moved.as_ref().map_or(&node.id, |moved| &moved.node.id).to_string(),
        state: moved.as_ref().map(|moved| label(&moved.state)),
        before: moved.as_ref().map(|moved| label(&moved.before)),
        taken: *taken,
        conflicts: conflicts.iter().map(Item::of).collect(),
    };
    context.output.data(&report, || conflicts.iter().map(|sides| line(sides, words)).collect());
    i32::from(!conflicts.is_empty())
}

fn line(sides: &Sides, words: &Words<'_>) -> String {
    let did = |kind: ChangeKind| match kind {
        ChangeKind::Added => "added",
        ChangeKind::Modified => "changed",
        ChangeKind::Deleted => "deleted",
    };
    let (conflict, Words { ours, theirs, .. }) = (&sides.conflict, words);
    let kept = (conflict.ours != ChangeKind::Deleted).then(|| format!("{ours}'s is there"));
    let beside = sides.theirs_at.as_ref().map(|path| format!("{theirs}'s is /{}", output::plain(path)));
    let lies: Vec<String> = kept.into_iter().chain(beside).collect();
    format!(
        "conflict /{}: {} in {ours}, {} in {theirs}; {}\n",
        output::plain(&conflict.path),
        did(conflict.ours),
        did(conflict.theirs),
        lies.join(", ")
    )
}

fn end(context: &Context, store: &Store, ending: &Ending, message: Option<&str>) -> Result<i32> {
    if let Some(name) = &ending.settled {
        let node = store::find(store, name)?;
        let made = store.continue_merge(&node, message)?;
        context.output.say(format!("{} is now as {}", node.label(), made.label()));
        context.output.data(&super::show::summary(store, &made)?, || format!("{}\n", made.id));
    }
    if let Some(name) = &ending.abort {
        let node = store::find(store, name)?;
        let moved = store.abort_merge(&node)?;
        context.output.say(format!("{} is as before: {}", node.label(), moved.state.label()));
        context.output.data(&super::show::summary(store, &moved.node)?, || format!("{}\n", moved.node.id));
    }
    Ok(0)
}
