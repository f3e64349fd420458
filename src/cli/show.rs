//! `show`: all that is known of one tree; and the summary that other commands print of it.

use std::path::PathBuf;

use jiff::Timestamp;
use rootling_backends::{Cost, Form, Result, Tree};
use serde::Serialize;

use super::{Context, kept, output, store};
use crate::image::ImageConfig;
use crate::store::{BoxSettings, Node, State, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which
    reference: String,
}

/// One row of `ls`.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    name: Option<String>,
    id: String,
    /// `box` or `tree`.
    kind: &'static str,
    backend: &'static str,
    form: Form,
    /// The parent's name, or its id where it has none.
    parent: Option<String>,
    created: Timestamp,
    in_use: bool,
}

/// The document of `show`.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    summary: Summary,
    path: PathBuf,
    /// Directories that make up the tree, top first.
    layers: Vec<PathBuf>,
    /// Parents, nearest first.
    history: Vec<String>,
    children: Vec<String>,
    source: Option<String>,
    message: Option<String>,
    /// How it wants to be run, in the words of the OCI; null where it says nothing.
    config: Option<ImageConfig>,
    /// What it is started with; null where nothing is kept with it.
    settings: Option<BoxSettings>,
    cost: Cost,
    /// Entries in the index, if there is one.
    indexed: Option<usize>,
}

impl Summary {
    /// Returns the name, or the id of what has none.
    pub(super) fn label(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.id)
    }

    pub(super) fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.label().to_owned(),
            self.id.clone(),
            self.kind.to_owned(),
            self.backend.to_owned(),
            self.parent.clone().unwrap_or_else(|| "-".to_owned()),
            output::age(self.created, now),
            if self.in_use { "yes" } else { "" }.to_owned(),
        ]
    }
}

/// Returns what is printed of a node after it was made, and in lists.
pub(super) fn summary(store: &Store, node: &Node) -> Result<Summary> {
    let outside = node.record.outside.as_ref().map(|path| format!("host:{}", path.display()));
    let parent = match &node.record.parent {
        Some(parent) => Some(label_of(store, parent)?),
        None => outside,
    };
    Ok(Summary {
        name: node.name.as_ref().map(ToString::to_string),
        id: node.id.to_string(),
        kind: if node.record.state == State::Active { "box" } else { "tree" },
        backend: node.record.backend.name(),
        form: node.record.form,
        parent,
        created: node.record.created,
        in_use: store.is_in_use(node)?,
    })
}

fn label_of(store: &Store, id: &crate::store::ObjectId) -> Result<String> {
    Ok(store.name_of(id)?.map_or_else(|| id.to_string(), |name| name.to_string()))
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let tree: Tree = store.tree(&node)?;
    let mut history = Vec::new();
    let mut parent = node.record.parent.clone();
    while let Some(id) = parent {
        history.push(label_of(&store, &id)?);
        parent = store.node(&id)?.record.parent;
    }
    let children: Result<Vec<String>> =
        store.children(&node.id)?.iter().map(|child| label_of(&store, &child.id)).collect();
    let shown = Shown {
        summary: summary(&store, &node)?,
        path: tree.fs(),
        layers: tree.layers(),
        history,
        children: children?,
        source: node.record.source.clone(),
        message: node.record.message.clone(),
        config: Some(node.record.config.clone()).filter(|config| !config.is_empty()),
        settings: Some(node.record.life.settings.clone()).filter(|settings| !settings.is_empty()),
        cost: node.record.cost.clone(),
        indexed: store.index(&node)?.map(|index| index.entries.len()),
    };
    context.output.data(&shown, || render(&shown));
    Ok(())
}

fn render(shown: &Shown) -> String {
    let summary = &shown.summary;
    let mut lines = vec![
        ("name", summary.name.clone().unwrap_or_else(|| "-".to_owned())),
        ("id", summary.id.clone()),
        ("kind", summary.kind.to_owned()),
        (
            "backend",
            format!("{} ({})", summary.backend, if summary.form == Form::Full { "full" } else { "delta" }),
        ),
        ("created", summary.created.to_string()),
        ("tree", output::plain(&shown.path).into_owned()),
        ("layers", shown.layers.len().to_string()),
        ("cost", output::describe(&shown.cost)),
    ];
    let lists = [("history", &shown.history), ("children", &shown.children)];
    lines
        .extend(lists.iter().filter(|(_, list)| !list.is_empty()).map(|(key, list)| (*key, list.join(", "))));
    let texts = [("source", &shown.source), ("message", &shown.message)];
    lines.extend(texts.iter().filter_map(|(key, text)| Some((*key, text.as_ref()?.clone()))));
    lines.extend(shown.config.iter().flat_map(settings));
    let kept = shown.settings.iter().flat_map(kept::lines);
    lines.extend(kept.map(|line| ("started", output::plain_text(line.as_ref()).into_owned())));
    lines.extend(shown.indexed.map(|count| ("index", format!("{count} entries"))));
    let clones = shown.summary.backend == "reflink" || shown.summary.backend == "btrfs";
    for (path, reason) in shown.cost.copied_because.iter().filter(|_| clones) {
        lines.push(("copied", format!("{}: {reason}", output::plain(path))));
    }
    lines.iter().map(|(key, value)| format!("{key:<9} {value}\n")).collect()
}

/// What a configuration says, one line each.
fn settings(config: &ImageConfig) -> Vec<(&'static str, String)> {
    let words = |list: &[String]| serde_json::to_string(list).expect("a list of text");
    let texts = [("user", &config.user), ("workdir", &config.working_dir), ("stop by", &config.stop_signal)];
    let lists = [("entry", &config.entrypoint), ("command", &config.cmd)];
    let keys = [("ports", &config.exposed_ports), ("volumes", &config.volumes)];
    let mut lines: Vec<(&str, String)> = Vec::new();
    lines.extend(lists.iter().filter(|(_, list)| !list.is_empty()).map(|(key, list)| (*key, words(list))));
    lines
        .extend(texts.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (*key, (*text).clone())));
    lines.extend(config.env.iter().map(|variable| ("env", variable.clone())));
    lines.extend(config.labels.iter().map(|(name, value)| ("label", format!("{name}={value}"))));
    lines.extend(keys.iter().flat_map(|(key, map)| map.keys().map(|name| (*key, name.clone()))));
    lines.iter().map(|(key, text)| (*key, output::plain_text(text.as_ref()).into_owned())).collect()
}
