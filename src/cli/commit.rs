//! `commit`: seal what changed in a box.

use rootling_backends::Result;

use super::{Context, said, show, store};
use crate::store::Name;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box; it goes on, on top of what is committed
    #[arg(value_name = "BOX")]
    reference: String,

    /// Name of the committed tree
    #[arg(value_parser = said(Name::parse))]
    name: Name,

    /// What it is, in your words
    #[arg(short, long)]
    message: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let progress = context.output.progress(format!("committing {}", node.label()));
    let committed = store.commit(&node, &arguments.name, arguments.message.as_deref());
    drop(progress);
    let committed = committed?;
    let what = format!("committed {} as {}", node.label(), arguments.name);
    context.output.cost(&what, committed.record.backend, &committed.record.cost);
    context.output.data(&show::summary(&store, &committed)?, || format!("{}\n", committed.id));
    Ok(())
}
