//! `ls`: list boxes and trees.

use jiff::Timestamp;
use rootling_backends::Result;

use super::{Context, output, show};
use crate::store::State;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only boxes
    #[arg(long, conflicts_with = "trees")]
    boxes: bool,

    /// Only committed trees
    #[arg(long)]
    trees: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let mut rows = Vec::new();
    for node in store.nodes()? {
        let is_box = node.record.state == State::Active;
        if (arguments.boxes && !is_box) || (arguments.trees && is_box) {
            continue;
        }
        rows.push(show::summary(&store, &node)?);
    }
    if context.output.quiet {
        let names: String = rows.iter().map(|row| format!("{}\n", row.label())).collect();
        context.output.raw(names.as_bytes());
        return Ok(());
    }
    context.output.data(&rows, || {
        let now = Timestamp::now();
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(now)).collect();
        output::table(&["NAME", "ID", "KIND", "BACKEND", "PARENT", "AGE", "IN USE"], &cells)
    });
    Ok(())
}
