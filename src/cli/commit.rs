//! `commit`: seal what changed in a box.

use rootling_backends::Result;

use super::{Context, live, said, show, store};
use crate::store::{Description, Name};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box; it goes on, on top of what is committed
    #[arg(value_name = "BOX")]
    reference: String,

    /// Name of the committed tree
    #[arg(value_parser = said(Name::parse))]
    name: Name,

    /// What it is, in your words
    #[arg(short, long, visible_alias = "comment")]
    message: Option<String>,

    /// Who made it, with an address
    #[arg(short, long)]
    author: Option<String>,

    /// Say how it is run, in a Dockerfile's words: 'CMD ["/bin/app"]', 'ENV A=b', 'USER app'
    #[arg(long, value_name = "CHANGE")]
    change: Vec<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    live::require_free(&store, &arguments.name)?;
    let node = store::find(&store, &arguments.reference)?;
    let mut config = node.record.config.clone();
    for change in &arguments.change {
        config.change(change)?;
    }
    let description = Description {
        message: arguments.message.clone(),
        author: arguments.author.clone(),
        config: Some(config),
        ..Description::default()
    };
    let progress = context.output.progress(format!("committing {}", node.label()));
    let committed = store.commit(&node, &arguments.name, &description);
    drop(progress);
    let committed = committed?;
    let what = format!("committed {} as {}", node.label(), arguments.name);
    context.output.cost(&what, committed.record.backend, &committed.record.cost);
    show::made(context, &store, &committed)
}
