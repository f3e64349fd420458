//! `rm`: remove boxes and trees.

use rootling_backends::Result;

use super::{Context, store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which; all are removed or, at the first that cannot be, the rest is left
    #[arg(required = true)]
    references: Vec<String>,

    /// Remove the name of a tree that others were made from; what they need of it stays
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let nodes: Result<Vec<_>> = arguments.references.iter().map(|text| store::find(&store, text)).collect();
    for node in nodes? {
        let progress = context.output.progress(format!("removing {}", node.label()));
        let removed = store.remove(&node, arguments.force);
        drop(progress);
        removed?;
        context.output.say(format!("removed {}", node.label()));
    }
    Ok(())
}
