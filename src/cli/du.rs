//! `du`: what boxes and trees occupy, and what would come free without them.

use std::cmp::Reverse;

use rootling_backends::Result;
use serde::Serialize;

use super::{Context, output, store};
use crate::store::{Node, Size, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which [default: all boxes and trees that have a name]
    references: Vec<String>,

    /// Everything: also snapshots, volumes, and what has no name but is still needed
    #[arg(long, short, conflicts_with = "references")]
    all: bool,

    /// What comes first: the name, or the largest by what would come free, or by what is needed
    #[arg(long, value_name = "COLUMN", default_value = "name")]
    sort: Sort,

    /// Measure all again, also what did not change: XFS tells nobody when it is defragmented
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    Name,
    Exclusive,
    Total,
}

#[derive(Debug, Serialize)]
struct Everything {
    nodes: Vec<Row>,
    /// All nodes of the store together, those not listed included, and each byte once.
    held_bytes: u64,
    /// What is in use on the file system, whoever uses it.
    used_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    id: String,
    #[serde(flatten)]
    size: Size,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let nodes = chosen(&store, arguments)?;
    let progress = context.output.progress("measuring");
    let sizes = store.sizes(arguments.fresh);
    drop(progress);
    let sizes = sizes?;
    let row =
        |node: &Node| Some(Row { name: node.shown(), id: node.id.to_string(), size: sizes.of(&node.id)? });
    let mut rows: Vec<Row> = nodes.iter().filter_map(row).collect();
    match arguments.sort {
        Sort::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::Exclusive => rows.sort_by_key(|row| Reverse(row.size.exclusive_bytes)),
        Sort::Total => rows.sort_by_key(|row| Reverse(row.size.total_bytes)),
    }
    let everything =
        Everything { nodes: rows, held_bytes: sizes.held_bytes(), used_bytes: sizes.used_bytes() };
    context.output.data(&everything, || table(&everything));
    Ok(())
}

fn chosen(store: &Store, arguments: &Arguments) -> Result<Vec<Node>> {
    if !arguments.references.is_empty() {
        return arguments.references.iter().map(|text| store::find(store, text)).collect();
    }
    if !arguments.all {
        return store.nodes();
    }
    let naming = store.naming()?;
    let named = |node: Node| Node { name: naming.first(&node.id), ..node };
    Ok(store.all_nodes()?.into_iter().map(named).collect())
}

fn table(everything: &Everything) -> String {
    let cells = |row: &Row| {
        let size = &row.size;
        let bytes = [size.total_bytes, size.exclusive_bytes, size.shared_bytes].map(output::bytes);
        let mut cells = vec![row.name.clone()];
        cells.extend(bytes);
        cells.push(size.entries.to_string());
        cells
    };
    let rows: Vec<Vec<String>> = everything.nodes.iter().map(cells).collect();
    let table = output::table(&["NAME", "TOTAL", "EXCLUSIVE", "SHARED", "ENTRIES"], &rows);
    let [held, used] = [everything.held_bytes, everything.used_bytes].map(output::bytes);
    format!("{table}the store holds {held}; on its file system {used} are in use\n")
}
