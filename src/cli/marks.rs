//! `lock`, `unlock` and `note`: what people put on nodes.

use rootling_backends::Result;
use serde::Serialize;

use super::{Context, output, store};
use crate::store::{Marks, Node};

#[derive(Debug, clap::Args)]
pub(super) struct LockArguments {
    /// Which: boxes, trees, snapshots
    #[arg(required = true)]
    references: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct NoteArguments {
    /// On which: a box, a tree, a snapshot
    reference: String,

    /// What to write on it [default: print what is written on it]
    #[arg(conflicts_with = "clear")]
    text: Option<String>,

    /// Take the note off
    #[arg(long)]
    clear: bool,
}

/// What is on a node.
#[derive(Debug, Serialize)]
struct Marked<'a> {
    name: &'a str,
    id: &'a str,
    locked: bool,
    note: Option<&'a str>,
}

fn marked(node: &Node) -> Marked<'_> {
    let Marks { locked, note } = node.record.marks();
    Marked { name: node.label(), id: node.id.as_str(), locked: *locked, note: note.as_deref() }
}

pub(super) fn lock(context: &Context, arguments: &LockArguments, locked: bool) -> Result<()> {
    let store = context.store()?;
    let nodes: Result<Vec<Node>> =
        arguments.references.iter().map(|text| store::find(&store, text)).collect();
    let mut done = Vec::new();
    for node in nodes? {
        let node = if locked { store.lock(&node) } else { store.mark(&node, |marks| marks.locked = false) }?;
        context.output.say(format!("{} {}", if locked { "locked" } else { "unlocked" }, node.label()));
        done.push(node);
    }
    if context.output.format == output::Format::Json {
        context.output.data(&done.iter().map(marked).collect::<Vec<_>>(), String::new);
    }
    Ok(())
}

pub(super) fn note(context: &Context, arguments: &NoteArguments) -> Result<()> {
    let store = context.store()?;
    let mut node = store::find(&store, &arguments.reference)?;
    let text = arguments.text.clone().filter(|text| !text.is_empty());
    let shows = arguments.text.is_none() && !arguments.clear;
    if !shows {
        node = store.mark(&node, |marks| marks.note = text)?;
    }
    let note = node.record.marks().note.as_deref();
    context.output.data(&marked(&node), || match note.filter(|_| shows) {
        Some(note) => note.lines().map(|line| format!("{}\n", output::plain_text(line.as_ref()))).collect(),
        None => String::new(),
    });
    Ok(())
}
