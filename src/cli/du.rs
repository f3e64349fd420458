//! `du`: what trees occupy.

use rayon::prelude::*;
use rootling_backends::{Result, Usage};
use serde::Serialize;

use super::{Context, output, store};
use crate::store::{Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which [default: all that have a name]
    references: Vec<String>,

    /// Also what would come free with each
    #[arg(long)]
    exclusive: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    usage: Usage,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let progress = context.output.progress("measuring");
    let nodes = if arguments.references.is_empty() {
        store.nodes()?
    } else {
        let found: Result<Vec<Node>> =
            arguments.references.iter().map(|text| store::find(&store, text)).collect();
        found?
    };
    let measured: Result<Vec<Row>> =
        nodes.par_iter().map(|node| measure(&store, node, arguments.exclusive)).collect();
    drop(progress);
    let rows = measured?;
    context.output.data(&rows, || {
        let mut heading = vec!["NAME", "ENTRIES", "SIZE", "ON DISK"];
        heading.extend(arguments.exclusive.then_some("EXCLUSIVE"));
        let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, arguments.exclusive)).collect();
        output::table(&heading, &cells)
    });
    Ok(())
}

fn measure(store: &Store, node: &Node, exclusive: bool) -> Result<Row> {
    let usage = store.backend(node.record.backend)?.usage(&store.tree(node)?)?;
    let usage = if exclusive { usage } else { Usage { exclusive_bytes: None, ..usage } };
    Ok(Row { name: node.label().to_owned(), usage })
}

fn cells(row: &Row, exclusive: bool) -> Vec<String> {
    let usage = &row.usage;
    let sizes = [usage.apparent_bytes, usage.disk_bytes].map(output::bytes);
    let mut cells = vec![row.name.clone(), usage.entries.to_string()];
    cells.extend(sizes);
    if exclusive {
        cells.push(usage.exclusive_bytes.map_or_else(|| "unknown".to_owned(), output::bytes));
    }
    cells
}
