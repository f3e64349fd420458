//! `verify`: are a tree and what it was made from still what was put there?

use rootling_backends::Result;
use serde::Serialize;

use super::{Context, output, store};
use crate::store::{Fate, Supply, Verified};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which: an image, or anything made from one
    #[arg(required = true)]
    references: Vec<String>,

    /// Unpack damaged layers again from their blobs
    #[arg(long)]
    repair: bool,
}

/// Returns 0 where everything is whole, or was repaired, and 1 where something is still damaged.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    let store = context.store()?;
    let mut rows = Vec::new();
    for reference in &arguments.references {
        let node = store::find(&store, reference)?;
        let progress = context.output.progress(format!("verifying {}", node.label()));
        let verified = if arguments.repair {
            store.repair(&node, &store.blobs()?, &Supply::none())
        } else {
            store.verify(&node)
        };
        drop(progress);
        rows.push(Row { name: node.label().to_owned(), verified: verified? });
    }
    context.output.data(&rows, || rows.iter().map(render).collect());
    Ok(i32::from(rows.iter().any(|row| !row.verified.is_whole())))
}

/// What was found of one reference.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    verified: Verified,
}

fn render(Row { name, verified }: &Row) -> String {
    let mut text = String::new();
    let word = |fate: &Fate| match fate {
        Fate::Left => "DAMAGED".to_owned(),
        Fate::Repaired => "repaired".to_owned(),
        Fate::Failed(why) => format!("NOT REPAIRED ({})", output::plain_text(why.as_ref())),
    };
    for (digest, fate) in &verified.damaged_blobs {
        text.push_str(&format!("{}: blob {digest}\n", word(fate)));
    }
    for damage in &verified.damaged {
        let layer = damage.layer.as_ref().map_or_else(String::new, |layer| format!(" (layer {layer})"));
        for path in &damage.paths {
            let path = output::plain_text(path.as_os_str());
            text.push_str(&format!("{}: /{path} in {}{layer}\n", word(&damage.fate), damage.id));
        }
    }
    let unknown = match verified.unknown {
        0 => String::new(),
        unknown => format!(", {unknown} without an index"),
    };
    let state = if verified.is_whole() { "whole" } else { "DAMAGED" };
    text.push_str(&format!(
        "{name}: {} trees verified{unknown}, {} blobs: {state}\n",
        verified.trees, verified.blobs
    ));
    text
}
