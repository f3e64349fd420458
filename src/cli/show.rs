//! `show`: all that is known of one tree; and the summary that other commands print of it.

use std::path::PathBuf;

use jiff::Timestamp;
use rayon::prelude::*;
use rootling_backends::{Cost, ErrorKind, Form, Result, Tree};
use serde::Serialize;

use super::{Context, kept, merging, output, policy, store};
use crate::image::ImageConfig;
use crate::store::{
    BoxSettings, Built, Cause, Failure, Held, HeldKind, Image, Merging, MountedTrees, Name, Naming, Node,
    ObjectId, Policy, Sides, State, StepRecord, Store,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which: a name, a snapshot, the beginning of an id, NAME~2, containerd:KEY
    reference: String,
}

/// One row of `ls`.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    name: Option<String>,
    id: String,
    /// `box`, `tree`, `snapshot`, `step` or `held`.
    kind: &'static str,
    backend: &'static str,
    form: Form,
    /// The parent's name, or its id where it has none.
    parent: Option<String>,
    pub(super) created: Timestamp,
    in_use: bool,
    /// Directories of the host.
    mounted: Vec<PathBuf>,
    message: Option<String>,
    /// What containerd holds it as; null where it does not.
    held: Option<Held>,
    /// Of a box in a list: how many snapshots it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snapshot_count: Option<usize>,
}

/// The document of `show`.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    summary: Summary,
    names: Vec<String>,
    path: PathBuf,
    /// Directories that make up the tree, top first.
    layers: Vec<PathBuf>,
    /// The states before it, nearest first.
    history: Vec<String>,
    children: Vec<String>,
    /// The snapshots of a box, oldest first.
    snapshots: Vec<String>,
    /// Where `undo` and `redo` go to, nearest first.
    past: Vec<String>,
    future: Vec<String>,
    cause: Option<Cause>,
    expires: Option<Timestamp>,
    source: Option<String>,
    /// Does nothing remove it?
    locked: bool,
    /// What its owner wrote on it.
    note: Option<String>,
    /// The merge whose conflicts are to be settled.
    merging: Option<Unfinished<'a>>,
    /// The directory of the runtime bundle that it was made for.
    bundle: Option<PathBuf>,
    /// When a box is snapshotted by itself, and which of its snapshots stay.
    policy: Option<Policy>,
    /// How it wants to be run, in the words of the OCI; null where it says nothing.
    config: Option<ImageConfig>,
    /// Which image it is; null where it is none.
    image: Option<Image>,
    /// Which step of a build it is; null where it is none.
    step: Option<&'a StepRecord>,
    /// What it says as the end of a build; null where it is none.
    built: Option<&'a Built>,
    /// What it is started with; null where nothing is kept with it.
    settings: Option<BoxSettings>,
    cost: Cost,
    /// Entries in the index, if there is one.
    indexed: Option<usize>,
}

/// A merge that left conflicts.
#[derive(Debug, Serialize)]
struct Unfinished<'a> {
    message: &'a str,
    before: &'a ObjectId,
    state: &'a ObjectId,
    conflicts: Vec<merging::Item<'a>>,
    /// For people, who read paths in another form.
    #[serde(skip)]
    sides: &'a [Sides],
}

impl<'a> Unfinished<'a> {
    fn of(merging: &'a Merging) -> Self {
        let Merging { message, before, state, conflicts: sides } = merging;
        Self { message, before, state, conflicts: sides.iter().map(merging::Item::of).collect(), sides }
    }
}

impl Summary {
    /// Returns the name, or the id of what has none.
    pub(super) fn label(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.id)
    }

    pub(super) fn is_box(&self) -> bool {
        self.kind == "box"
    }

    pub(super) fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.label().to_owned(),
            self.id.clone(),
            self.kind.to_owned(),
            self.backend.to_owned(),
            self.parent.clone().unwrap_or_else(|| "-".to_owned()),
            output::age(self.created, now),
            match (self.in_use, self.mounted.is_empty()) {
                (true, _) => "yes",
                (false, false) => "mounted",
                (false, true) => "",
            }
            .to_owned(),
        ]
    }

    /// Returns the committer's words as they can be shown in one line.
    pub(super) fn message(&self) -> String {
        match (&self.message, &self.held) {
            (Some(message), _) => output::one_line(message),
            (None, Some(held)) => output::one_line(&says(held)),
            (None, None) => String::new(),
        }
    }
}

/// Says what containerd holds a node as.
pub(super) fn says(held: &Held) -> String {
    let kind = match held.kind {
        HeldKind::Active => " (active)",
        HeldKind::View => " (view)",
        HeldKind::Committed => "",
    };
    format!("containerd:{}{kind}", held.key)
}

/// Returns what is printed of one node. It has a look at the names of the parent: see [`summaries`] for many, [`made`] for one that was just made.
pub(super) fn summary(store: &Store, node: &Node) -> Result<Summary> {
    let parent = node.record.parent.as_ref();
    let name = parent.map(|parent| store.name_of(parent)).transpose()?.flatten();
    let label = |id: &ObjectId| name.as_ref().map_or_else(|| id.to_string(), ToString::to_string);
    summarize(store, node, &MountedTrees::read()?, label)
}

/// Returns what is printed of many nodes; what was removed meanwhile is left out.
pub(super) fn summaries(store: &Store, nodes: &[Node], naming: &Naming<'_>) -> Result<Vec<Summary>> {
    let mounted = MountedTrees::read()?;
    let rows = nodes.par_iter().map(|node| summarize(store, node, &mounted, |id| naming.label(id)));
    rows.filter(|row| !row.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)).collect()
}

fn summarize(
    store: &Store,
    node: &Node,
    mounted: &MountedTrees,
    label: impl Fn(&ObjectId) -> String,
) -> Result<Summary> {
    let outside = node.record.outside.as_ref().map(|path| format!("host:{}", path.display()));
    let held = store.held(node)?;
    Ok(Summary {
        name: node.name.as_ref().map(ToString::to_string),
        id: node.id.to_string(),
        kind: kind(node, held.as_ref()),
        held,
        backend: node.record.backend.name(),
        form: node.record.form,
        parent: node.record.parent.as_ref().map(label).or(outside),
        created: node.record.created,
        in_use: store.is_in_use(node)?,
        mounted: mounted.of(store, node).to_vec(),
        message: node.record.message.clone(),
        snapshot_count: None,
    })
}

/// Says how a step of a build ended, where it did not end well.
pub(super) fn how_it_ended(failure: Option<&Failure>) -> Option<String> {
    failure.map(|failure| match failure {
        Failure::Code(code) => format!("failed with code {code}"),
        Failure::Signal(signal) => format!("killed by signal {signal}"),
        Failure::Reason(reason) => format!("failed: {}", output::one_line(reason)),
    })
}

/// Returns what a node is, in one word.
pub(super) fn kind(node: &Node, held: Option<&Held>) -> &'static str {
    match node.record.state {
        _ if held.is_some() && node.name.is_none() => "held",
        State::Active => "box",
        State::Committed if node.name.as_ref().is_some_and(Name::is_snapshot) => "snapshot",
        State::Committed if node.name.is_none() && node.record.step.is_some() => "step",
        State::Committed => "tree",
    }
}

/// Prints what was just made: its id, or all of it as JSON. The table costs no look at the rest of the store.
pub(super) fn made(context: &Context, store: &Store, node: &Node) -> Result<()> {
    match context.output.format {
        output::Format::Json => context.output.data(&summary(store, node)?, String::new),
        _ => context.output.raw(format!("{}\n", node.id).as_bytes()),
    }
    Ok(())
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let naming = store.naming_as_asked();
    let tree: Tree = store.tree(&node)?;
    let labels = |ids: &[ObjectId]| ids.iter().rev().map(|id| naming.label(id)).collect();
    let children = store.children(&node.id)?;
    let is_committed = node.record.state == State::Committed;
    let shown = Shown {
        summary: summarize(&store, &node, &MountedTrees::read()?, |id| naming.label(id))?,
        names: naming.of(&node.id).iter().map(ToString::to_string).collect(),
        path: tree.fs(),
        layers: tree.layers(),
        history: history(&store, &node)?.iter().map(|id| naming.label(id)).collect(),
        children: children.iter().map(|child| naming.label(&child.id)).collect(),
        snapshots: snapshots(&store, &node)?,
        past: if is_committed { Vec::new() } else { labels(&node.record.life.past) },
        future: if is_committed { Vec::new() } else { labels(&node.record.life.future) },
        cause: is_committed.then_some(node.record.cause),
        expires: node.record.expires,
        source: node.record.source.clone(),
        locked: node.record.marks().locked,
        note: node.record.marks().note.clone(),
        merging: node.record.life.unfinished().filter(|_| !is_committed).map(Unfinished::of),
        bundle: node.record.life.bundle.clone().filter(|_| !is_committed),
        policy: node.record.life.policy.clone().filter(|_| !is_committed),
        config: Some(node.record.config.clone()).filter(|config| !config.is_empty()),
        image: node.record.image.clone(),
        step: node.record.step.as_ref(),
        built: node.record.built.as_ref(),
        settings: Some(node.record.life.settings.clone()).filter(|settings| !settings.is_empty()),
        cost: node.record.cost.clone(),
        indexed: store.index(&node)?.map(|index| index.entries.len()),
    };
    context.output.data(&shown, || render(&shown));
    Ok(())
}

/// The states before a node, nearest first. O(their number).
fn history(store: &Store, node: &Node) -> Result<Vec<ObjectId>> {
    let mut history: Vec<ObjectId> = Vec::new();
    let mut before = store.predecessor(node)?;
    while let Some(state) = before {
        before = store.predecessor(&state)?;
        history.push(state.id);
    }
    Ok(history)
}

fn snapshots(store: &Store, node: &Node) -> Result<Vec<String>> {
    let Some(name) = node.name.as_ref().filter(|_| node.record.state == State::Active) else {
        return Ok(Vec::new());
    };
    let mut snapshots = store.snapshots(name)?;
    snapshots.sort_by_key(|(_, node)| node.record.created);
    Ok(snapshots.iter().map(|(_, node)| node.label().to_owned()).collect())
}

fn render(shown: &Shown<'_>) -> String {
    let summary = &shown.summary;
    let mut lines = vec![
        ("name", if shown.names.is_empty() { "-".to_owned() } else { shown.names.join(", ") }),
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
    let lists = [
        ("history", &shown.history),
        ("children", &shown.children),
        ("snapshots", &shown.snapshots),
        ("undo", &shown.past),
        ("redo", &shown.future),
    ];
    lines.extend(lists.iter().filter(|(_, list)| !list.is_empty()).map(|(key, list)| (*key, some_of(list))));
    lines.extend(shown.cause.and_then(why).map(|why| ("cause", why.to_owned())));
    lines.extend(shown.expires.map(|time| ("expires", time.to_string())));
    let places = summary.mounted.iter().map(|place| ("mounted", place));
    let places = places.chain(shown.bundle.iter().map(|bundle| ("bundle", bundle)));
    lines.extend(places.map(|(key, place)| (key, output::plain(place).into_owned())));
    lines.extend(shown.locked.then(|| ("locked", "yes".to_owned())));
    let texts = [("source", &shown.source), ("message", &summary.message), ("note", &shown.note)];
    lines.extend(texts.iter().filter_map(|(key, text)| Some((*key, output::one_line(text.as_ref()?)))));
    lines.extend(summary.held.iter().flat_map(held_lines));
    lines.extend(shown.step.iter().flat_map(|step| step_lines(step)));
    lines.extend(shown.merging.iter().flat_map(|merging| unfinished(merging, summary.label())));
    lines.extend(shown.policy.iter().flat_map(policy::lines));
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

/// What containerd says of what it holds.
fn held_lines(held: &Held) -> Vec<(&'static str, String)> {
    let mut lines = vec![("held", output::one_line(&says(held)))];
    lines.extend(Some(("made on", output::one_line(&held.parent))).filter(|_| !held.parent.is_empty()));
    lines.extend(
        held.labels.iter().map(|(name, value)| ("label", output::one_line(&format!("{name}={value}")))),
    );
    lines
}

/// What is said of a step of a build.
fn step_lines(step: &StepRecord) -> Vec<(&'static str, String)> {
    let plain = |text: &str| output::plain_text(text.as_ref()).into_owned();
    let recipe = step.recipe.as_ref().map(|recipe| format!(" of {}", plain(recipe))).unwrap_or_default();
    let mut lines = vec![("step", format!("{} in stage {}{recipe}", step.number, plain(&step.stage)))];
    lines.extend(how_it_ended(step.failure.as_ref()).map(|how| ("ended", how)));
    lines.extend(step.adopted.then(|| ("adopted", "its tree was made by hand".to_owned())));
    lines.push(("took", format!("{} ms", step.took_ms)));
    lines.push(("key", step.key.to_string()));
    let fields = step.fields.iter().filter(|(_, value)| !value.is_empty());
    lines.extend(fields.map(|(name, value)| ("field", output::one_line(&format!("{name}: {value}")))));
    lines
}

/// Says what is to be settled, and how that ends.
fn unfinished(merging: &Unfinished<'_>, name: &str) -> Vec<(&'static str, String)> {
    let message = output::one_line(merging.message);
    let ends = format!("{message}: end it with rootling apply --continue {name}, or --abort {name}");
    let conflicts = merging.sides.iter().map(|sides| {
        let path = output::plain(&sides.conflict.path).into_owned();
        let beside = sides.theirs_at.as_ref().map(|path| format!(", see /{}", output::plain(path)));
        ("conflict", format!("/{path}{}", beside.unwrap_or_default()))
    });
    std::iter::once(("merging", ends)).chain(conflicts).collect()
}

/// Joins a list that may be long; JSON has all of it.
fn some_of(list: &[String]) -> String {
    const SHOWN: usize = 20;
    match list.len().checked_sub(SHOWN) {
        None | Some(0) => list.join(", "),
        Some(more) => format!("{} and {more} more", list[..SHOWN].join(", ")),
    }
}

/// Says why a node was committed where nobody asked for it.
pub(super) fn why(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::Asked => None,
        Cause::Fork => Some("something was forked of it"),
        Cause::Safety => Some("kept before it was replaced"),
        Cause::Automatic => Some("kept automatically"),
    }
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
