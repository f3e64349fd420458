//! `undelete`: bring back what was removed, or list it.

use jiff::{SignedDuration, Timestamp};
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::keep::KeepRemoved;
use super::{Context, live, output, said, show};
use crate::near;
use crate::store::{Name, Node, Removed, Store, VolumeReference};

/// How long a removal counts as just done.
const MOMENT: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What: a name, of which the last removal is meant, or an id of the list [default: list what there is]
    reference: Option<String>,

    /// Bring it back under another name
    #[arg(long = "as", value_name = "NEW", requires = "reference", value_parser = said(Name::parse_with_label))]
    as_name: Option<Name>,

    #[command(flatten)]
    keep: KeepRemoved,
}

/// A row of the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    id: String,
    /// `box`, `tree`, `snapshot`; or `volume`, also for a snapshot of one, which another command brings back.
    kind: &'static str,
    removed: Timestamp,
    expires: Timestamp,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let Some(reference) = &arguments.reference else { return list(context, &store, arguments.keep) };
    let removed = find(&store, reference, |name| (!name.is_volume()).then(|| name.to_string()))?;
    let target = arguments.as_name.as_ref().unwrap_or(&removed.name);
    live::require_no_fork(&store, target)?;
    let names = store.undelete(&removed, arguments.as_name.as_ref())?;
    context.output.data(&names, || format!("{}\n", names.last().expect("it has come back under a name")));
    Ok(())
}

/// Brings back a volume or a snapshot of one.
pub(super) fn volume(
    context: &Context,
    store: &Store,
    reference: &str,
    to: Option<&VolumeReference>,
) -> Result<()> {
    let shown = |name: &Name| VolumeReference::of(name).map(|reference| reference.to_string());
    let removed = find(store, reference, shown)?;
    let to = to.map(VolumeReference::node_name).transpose()?;
    let names = store.undelete(&removed, to.as_ref())?;
    let names: Vec<String> = names.iter().filter_map(shown).collect();
    context.output.data(&names, || format!("{}\n", names.join("\n")));
    Ok(())
}

/// Finds the last removal of a name, as `shown` writes it, or the one of an id.
fn find(store: &Store, text: &str, shown: impl Fn(&Name) -> Option<String>) -> Result<Removed> {
    let all: Vec<(String, Removed)> =
        store.removed()?.into_iter().filter_map(|removed| Some((shown(&removed.name)?, removed))).collect();
    let fits = |(name, removed): &&(String, Removed)| name == text || removed.id.as_str() == text;
    if let Some((_, removed)) = all.iter().rev().find(fits) {
        return Ok(removed.clone());
    }
    let hint = match near::near(text, all.iter().map(|(name, _)| name.as_str())).as_slice() {
        [] => "`rootling undelete` lists what was removed".to_owned(),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Err(Error::new(ErrorKind::NotFound, format!("no {text} was removed that is still there")).hint(hint))
}

/// Returns what a removed name leads to; of what went meanwhile nothing is known but that it was a tree.
fn kind(store: &Store, removed: &Removed) -> &'static str {
    let node = store.node(&removed.id).map(|node| Node { name: Some(removed.name.clone()), ..node });
    node.map_or("tree", |node| show::kind(&node, None))
}

pub(super) fn list(context: &Context, store: &Store, keep: KeepRemoved) -> Result<()> {
    let rows: Vec<Row> = store
        .removed()?
        .into_iter()
        .map(|removed| {
            let volume = VolumeReference::of(&removed.name);
            Row {
                kind: if volume.is_some() { "volume" } else { kind(store, &removed) },
                name: volume.map_or_else(|| removed.name.to_string(), |volume| volume.to_string()),
                id: removed.id.to_string(),
                removed: removed.at,
                expires: keep.until(removed.at),
            }
        })
        .collect();
    context.output.list_of(&rows, rows.iter().map(|row| &row.name), || {
        let now = Timestamp::now();
        let cells = |row: &Row| {
            // What was removed a moment ago has all its time.
            let left = output::age(now, row.expires.saturating_add(MOMENT).unwrap_or(row.expires));
            let left =
                if row.expires <= now { "with the next prune".to_owned() } else { format!("in {left}") };
            vec![row.name.clone(), row.id.clone(), row.kind.to_owned(), output::age(row.removed, now), left]
        };
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        output::table(&["NAME", "ID", "KIND", "REMOVED", "EXPIRES"], &cells)
    });
    Ok(())
}
