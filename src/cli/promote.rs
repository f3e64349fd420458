//! `promote`: a box takes the name of another.

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::{Context, live, show, store};
use crate::store::Name;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box that wins
    reference: String,

    /// The name that it takes, with or without `as` before it; what has the name becomes a snapshot of it
    #[arg(required = true, num_args = 1..=2, value_name = "[as] NAME")]
    name: Vec<String>,
}

/// What is printed: the box, and what its name stood for.
#[derive(Debug, Serialize)]
struct Promoted {
    #[serde(flatten)]
    summary: show::Summary,
    /// The snapshot of what had the name; null where nothing had it.
    before: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let name = match arguments.name.as_slice() {
        [name] => name,
        [word, name] if word == "as" => name,
        _ => {
            let message = format!("{:?} is not a name", arguments.name.join(" "));
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint(format!("rootling promote {} as NAME", arguments.reference)));
        }
    };
    let name = Name::parse(name)?;
    let store = context.store()?;
    let winner = store::find(&store, &arguments.reference)?;
    live::require_no_fork(&store, &name)?;
    let from = winner.label().to_owned();
    let promoted = store.promote(&winner, &name)?;
    store::remember(&store, &promoted.node);
    let before = promoted.before.map(|before| before.label().to_owned());
    context.output.say(match &before {
        Some(before) => format!(
            "promoted {from} to {name}; what {name} was is {before}: rootling undo {name} brings it back"
        ),
        None => format!("promoted {from} to {name}"),
    });
    let shown = Promoted { summary: show::summary(&store, &promoted.node)?, before };
    context.output.data(&shown, || format!("{}\n", promoted.node.id));
    Ok(())
}
