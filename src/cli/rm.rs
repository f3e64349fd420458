//! `rm`: remove boxes, trees and snapshots, so that they can be brought back or for good.

use rootling_backends::Result;

use super::keep::KeepRemoved;
use super::{Context, store, undelete};
use crate::store::{Name, Node, Role};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which; all are removed or, at the first that cannot be, the rest is left
    #[arg(required_unless_present = "list")]
    references: Vec<String>,

    /// Destroy it now, so that it cannot be brought back
    #[arg(long)]
    now: bool,

    /// Remove the name of a tree that is in use, or with --now that others were made from; what they need of it stays
    #[arg(short, long)]
    force: bool,

    /// List what was removed and can be brought back
    #[arg(long, conflicts_with_all = ["references", "now", "force"])]
    list: bool,

    #[command(flatten)]
    keep: KeepRemoved,
}

impl Arguments {
    /// Is only what was removed to be listed?
    pub(super) fn lists(&self) -> bool {
        self.list
    }

    /// Returns what is to be removed.
    pub(super) fn references(&self) -> &[String] {
        &self.references
    }

    /// Returns the same of these alone.
    pub(super) fn only(&self, references: Vec<String>) -> Self {
        Self { references, ..*self }
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    if arguments.list {
        return undelete::list(context, &store, arguments.keep);
    }
    let nodes: Result<Vec<_>> = arguments.references.iter().map(|text| store::find(&store, text)).collect();
    for node in nodes? {
        let along = along(&store, &node)?;
        let progress = context.output.progress(format!("removing {}", node.label()));
        let removed = if arguments.now {
            store.remove(&node, arguments.force)
        } else {
            store.retire(&node, arguments.force)
        };
        drop(progress);
        removed?;
        let what = format!("removed {}{along}", node.label());
        context.output.say(if arguments.now {
            what
        } else {
            format!("{what}: within {}, rootling undelete {} brings it back", arguments.keep, node.label())
        });
    }
    Ok(())
}

/// Says what goes with a node.
fn along(store: &crate::store::Store, node: &Node) -> Result<String> {
    let along = store.taken_along(node)?;
    let count = along.iter().filter(|node| node.name.as_ref().is_some_and(Name::is_snapshot)).count();
    let snapshots = match count {
        0 => String::new(),
        1 => "its snapshot".to_owned(),
        count => format!("its {count} snapshots"),
    };
    let home = if along.iter().any(|node| node.record.role == Role::Volume) { "its home" } else { "" };
    Ok(match (snapshots.as_str(), home) {
        ("", "") => String::new(),
        ("", one) | (one, "") => format!(" and {one}"),
        (one, other) => format!(", {one} and {other}"),
    })
}
