//! `ls`: list boxes and trees, the snapshots of a box, the steps of builds, or everything.

mod builds;

pub(super) use builds::Step;

use jiff::Timestamp;
use rootling_backends::Result;

use super::show::{self, Summary};
use super::{Context, output, store};
use crate::store::{Name, Naming, Node, Role, State, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Boxes whose snapshots are listed, oldest first
    #[arg(value_name = "BOX", conflicts_with_all = ["boxes", "trees", "all"])]
    references: Vec<String>,

    /// Also snapshots, what has no name, and what containerd holds
    #[arg(short, long)]
    all: bool,

    /// Only boxes
    #[arg(long, conflicts_with = "trees")]
    boxes: bool,

    /// Only what is committed
    #[arg(long)]
    trees: bool,

    /// The steps of builds, in the order of their builds; those that failed, too
    #[arg(long, conflicts_with_all = ["references", "boxes", "trees", "all"])]
    builds: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    if arguments.builds {
        return builds::list(context, &store);
    }
    let naming = if arguments.references.is_empty() { store.naming()? } else { store.naming_as_asked() };
    let mut nodes = if arguments.all {
        everything(&store, &naming)?
    } else if arguments.references.is_empty() {
        store.nodes()?
    } else {
        snapshots(&store, &arguments.references)?
    };
    nodes.retain(|node| {
        let is_box = node.record.state == State::Active;
        !(arguments.boxes && !is_box || arguments.trees && is_box)
    });
    let mut rows = show::summaries(&store, &nodes, &naming)?;
    let only_named = !arguments.all && arguments.references.is_empty();
    if only_named {
        count_snapshots(&store, &mut rows)?;
    }
    context.output.list_of(&rows, rows.iter().map(Summary::label), || table(&rows, only_named));
    Ok(())
}

fn table(rows: &[Summary], only_named: bool) -> String {
    let now = Timestamp::now();
    let count = |row: &Summary| row.snapshot_count.map_or_else(String::new, |count| count.to_string());
    let last = |row: &Summary| if only_named { count(row) } else { row.message() };
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| row.cells(now).into_iter().chain([last(row)]).collect()).collect();
    let title = if only_named { "SNAPSHOTS" } else { "MESSAGE" };
    output::table(&["NAME", "ID", "KIND", "BACKEND", "PARENT", "AGE", "IN USE", title], &cells)
}

/// All root file systems: one for each name, then, oldest first, those without one.
fn everything(store: &Store, naming: &Naming<'_>) -> Result<Vec<Node>> {
    let mut named = Vec::new();
    let mut unnamed = Vec::new();
    for node in store.all_nodes()?.into_iter().filter(|node| node.record.role == Role::Root) {
        match naming.of(&node.id).as_slice() {
            [] => unnamed.push(node),
            names => named.extend(names.iter().map(|name| Node { name: Some(name.clone()), ..node.clone() })),
        }
    }
    named.sort_by(|a, b| a.name.cmp(&b.name));
    unnamed.sort_by_key(|node| node.record.created);
    Ok(named.into_iter().chain(unnamed).collect())
}

fn snapshots(store: &Store, references: &[String]) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for text in references {
        // A box that is gone may have left its snapshots.
        let mut found = match Name::parse(text) {
            Ok(name) => store.snapshots(&name)?,
            Err(_) => Vec::new(),
        };
        if found.is_empty() {
            // What was written may be another way to say which box.
            let name = store::find(store, text)?.name.filter(|name| name.as_str() != text);
            found = name.map(|name| store.snapshots(&name)).transpose()?.unwrap_or_default();
        }
        let mut snapshots: Vec<Node> = found.into_iter().map(|(_, node)| node).collect();
        snapshots.sort_by_key(|node| node.record.created);
        nodes.extend(snapshots);
    }
    Ok(nodes)
}

fn count_snapshots(store: &Store, rows: &mut [Summary]) -> Result<()> {
    let counts = store.snapshot_counts()?;
    for row in rows.iter_mut().filter(|row| row.is_box()) {
        row.snapshot_count = Some(counts.get(row.label()).copied().unwrap_or(0));
    }
    Ok(())
}
