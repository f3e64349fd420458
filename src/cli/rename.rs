//! `rename`: another name for a box, a tree or a snapshot.

use rootling_backends::Result;

use super::{Context, live, said, show, store};
use crate::store::Name;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What: a box, with which its snapshots go, a tree, or a snapshot
    #[arg(value_name = "OLD")]
    reference: String,

    /// Its new name; of a snapshot BOX@LABEL
    #[arg(value_name = "NEW", value_parser = said(Name::parse_with_label))]
    name: Name,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    live::require_free(&store, &arguments.name)?;
    let renamed = store.rename(&node, &arguments.name)?;
    store::remember(&store, &renamed);
    context.output.say(format!("renamed {} to {}", node.label(), arguments.name));
    if context.output.format == super::output::Format::Json {
        context.output.data(&show::summary(&store, &renamed)?, String::new);
    }
    Ok(())
}
