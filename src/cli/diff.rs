//! `diff`: what differs in a box, or between two trees.

use rootling_backends::{Change, DiffOptions, EntryType, Result};

use super::{Context, output, store};
use crate::reference::Reference;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A box (against what it was forked from), or A..B
    reference: String,

    /// The second tree, as another way to write A..B
    other: Option<String>,

    /// Count changed modification times as changes
    #[arg(long)]
    times: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let options = DiffOptions { times: arguments.times };
    let progress = context.output.progress(format!("comparing {}", arguments.reference));
    let changes = match (Reference::parse_range(&arguments.reference)?, &arguments.other) {
        ((old, Some(new)), _) => store.diff(
            &store::find(&store, &old.to_string())?,
            &store::find(&store, &new.to_string())?,
            options,
        ),
        ((old, None), Some(new)) => {
            store.diff(&store::find(&store, &old.to_string())?, &store::find(&store, new)?, options)
        }
        ((only, None), None) => store.changes(&store::find(&store, &only.to_string())?, options),
    };
    drop(progress);
    let changes = changes?;
    context.output.data(&changes, || render(&changes));
    Ok(())
}

/// Prints changes as `docker diff` does: a letter and a path; here with what it is that changed.
pub(super) fn render(changes: &[Change]) -> String {
    changes
        .iter()
        .map(|change| {
            let slash = if change.entry_type == EntryType::Directory { "/" } else { "" };
            let path = output::plain(&change.path);
            let aspects = aspects(change);
            let path = if path.is_empty() { "/".to_owned() } else { format!("/{path}{slash}") };
            format!("{} {path}{aspects}\n", change.kind.letter())
        })
        .collect()
}

fn aspects(change: &Change) -> String {
    let of = &change.aspects;
    let named = [
        (of.kind, "type"),
        (of.content, "content"),
        (of.mode, "mode"),
        (of.owner, "owner"),
        (of.xattrs, "xattrs"),
        (of.links, "links"),
        (of.times, "times"),
    ];
    let names: Vec<&str> = named.iter().filter(|(differs, _)| *differs).map(|(_, name)| *name).collect();
    // That a changed file's content changed is what one expects; only the unusual is said.
    if names.is_empty() || names == ["content"] { String::new() } else { format!("  ({})", names.join(", ")) }
}
