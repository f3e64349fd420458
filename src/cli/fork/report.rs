//! What became of the boxes in which a command was run, and which of them stay.

use std::time::Duration;

use rayon::prelude::*;
use rootling_backends::{DiffOptions, EntryType, Result};
use serde::Serialize;

use super::super::{Context, output, store};
use super::each::{Ended, Ran};
use crate::store::{Node, Sizes, Store};

/// One row of the report.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// From 1.
    index: usize,
    name: &'a str,
    id: &'a str,
    /// Null where it was never started.
    exit_code: Option<i32>,
    elapsed_ns: Option<u64>,
    /// Null, as the next, where it could not be measured.
    changed_files: Option<u64>,
    exclusive_bytes: Option<u64>,
    /// Is the box still there?
    kept: bool,
}

/// Measures all, removes those that failed unless they are to be kept, prints the report and returns the exit code.
pub(super) fn finish(
    context: &Context,
    store: &Store,
    nodes: &[Node],
    ran: &Ran,
    keep_failed: bool,
) -> Result<i32> {
    let progress = context.output.progress("measuring");
    let sizes = store.sizes(false);
    let changed: Vec<Result<u64>> = nodes.par_iter().map(|node| changed_files(store, node)).collect();
    drop(progress);
    // What the commands came to is reported, whatever cannot be measured or removed.
    let sizes = known(context, sizes);
    let changed = changed.into_iter().map(|changed| known(context, changed));
    let rows = nodes.iter().zip(changed).enumerate();
    let mut rows: Vec<Row<'_>> = rows
        .map(|(index, (node, changed))| row((index, node), ran.ended[index], changed, sizes.as_ref()))
        .collect();
    for (row, node) in rows.iter_mut().zip(nodes) {
        row.kept = row.exit_code == Some(0) || (keep_failed && row.exit_code.is_some());
        if !row.kept && known(context, store.remove(node, false)).is_none() {
            row.kept = true;
        }
    }
    if let Some((_, node)) = rows.iter().zip(nodes).find(|(row, _)| row.kept) {
        store::remember(store, node);
    }
    say_what_is_kept(context, &rows, ran.signal);
    let kept = rows.iter().filter(|row| row.kept).map(|row| row.name);
    context.output.list_of(&rows, kept, || table(&rows));
    Ok(match ran.signal {
        Some(signal) => 128 + signal,
        None => i32::from(rows.iter().any(|row| row.exit_code != Some(0))),
    })
}

/// Returns what came of it; what went wrong is said.
fn known<T>(context: &Context, result: Result<T>) -> Option<T> {
    result.inspect_err(|error| context.output.error(error)).ok()
}

fn changed_files(store: &Store, node: &Node) -> Result<u64> {
    let changes = store.changes(node, DiffOptions::default())?;
    Ok(changes.iter().filter(|change| change.entry_type != EntryType::Directory).count() as u64)
}

fn row<'a>(
    (index, node): (usize, &'a Node),
    ended: Option<Ended>,
    changed_files: Option<u64>,
    sizes: Option<&Sizes>,
) -> Row<'a> {
    let nanoseconds = |elapsed: Duration| u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    Row {
        index: index + 1,
        name: node.label(),
        id: node.id.as_str(),
        exit_code: ended.map(|ended| ended.status),
        elapsed_ns: ended.map(|ended| nanoseconds(ended.elapsed)),
        changed_files,
        exclusive_bytes: sizes.and_then(|sizes| sizes.of(&node.id)).map(|size| size.exclusive_bytes),
        kept: false,
    }
}

fn say_what_is_kept(context: &Context, rows: &[Row<'_>], signal: Option<i32>) {
    let names = |kept: bool| -> Vec<&str> {
        rows.iter().filter(|row| row.kept == kept).map(|row| row.name).collect()
    };
    let (kept, removed) = (names(true), names(false));
    if signal.is_some() {
        let kept = if kept.is_empty() { "nothing".to_owned() } else { kept.join(", ") };
        context.output.say(format!("interrupted; kept: {kept}"));
    }
    if !removed.is_empty() {
        let hint = if signal.is_some() { "" } else { " (--keep-failed keeps them)" };
        context.output.say(format!("removed what did not end with 0: {}{hint}", removed.join(", ")));
    }
}

fn table(rows: &[Row<'_>]) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.index.to_string(),
                row.name.to_owned(),
                or_dash(row.exit_code.map(|code| code.to_string())),
                or_dash(row.elapsed_ns.map(|time| output::duration(Duration::from_nanos(time)))),
                row.changed_files.map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
                row.exclusive_bytes.map_or_else(|| "unknown".to_owned(), output::bytes),
                if row.kept { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    output::table(&["INDEX", "BOX", "EXIT", "TIME", "CHANGED", "EXCLUSIVE", "KEPT"], &cells)
}
