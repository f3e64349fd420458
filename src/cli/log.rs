//! `log`: the states that something went through, and who was made from what.
//!
//! | file | what it is for |
//! |---|---|
//! | `log.rs` | which states, and what is said of each |
//! | `graph` | rows and lanes |
//! | `dot` `svg` | other pictures |

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rootling_backends::{ErrorKind, Result};
use serde::Serialize;

use super::ls::Step;
use super::{Context, output, show, store};
use crate::store::{Cause, Held, Name, Naming, Node, ObjectId, Role, State, Store};

mod dot;
mod graph;
mod svg;

/// How many forks of a state are named, and how many states are passed to find the name of one.
const FORKS: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Whose states, from the present back [default: everything in the store, drawn]
    #[arg(value_name = "REFERENCE")]
    references: Vec<String>,

    /// Draw who was made from what
    #[arg(long)]
    graph: bool,

    /// Also everything that was made from these states
    #[arg(short, long)]
    all: bool,

    /// Also steps of builds that nothing with a name stands on
    #[arg(long)]
    builds: bool,

    /// Only so many states, the newest
    #[arg(short = 'n', long, value_name = "COUNT")]
    max_count: Option<usize>,
}

/// One state.
#[derive(Debug, Serialize)]
struct Entry {
    id: ObjectId,
    names: Vec<Name>,
    /// `box`, `tree`, `snapshot` or `step`.
    kind: &'static str,
    backend: &'static str,
    created: Timestamp,
    /// The state that came before.
    predecessor: Option<ObjectId>,
    message: Option<String>,
    /// Which step of a build it is.
    step: Option<Step>,
    /// Where an import came from, or what of the host it stands on.
    source: Option<String>,
    /// Why it was committed; null for a box.
    cause: Option<Cause>,
    expires: Option<Timestamp>,
    /// Does nothing remove it?
    locked: bool,
    /// What its owner wrote on it.
    note: Option<String>,
    /// What was written to make it, where that is what it adds.
    added_bytes: Option<u64>,
    /// Some of what was made from it and is not in the list.
    forks: Vec<String>,
    /// What is said of it in a row.
    #[serde(skip)]
    what: String,
    /// Where in the list the state before it is.
    #[serde(skip)]
    before: Option<usize>,
}

impl Entry {
    fn is_box(&self) -> bool {
        self.kind == "box"
    }

    /// Its names, or its id.
    fn title(&self) -> String {
        if self.names.is_empty() { self.id.to_string() } else { self.named() }
    }

    fn named(&self) -> String {
        self.names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let (nodes, naming) = chosen(&store, arguments)?;
    let whole = arguments.references.is_empty() || arguments.all;
    let mut entries = entries(&store, nodes, &naming, !whole)?;
    let before: Vec<Option<usize>> = entries.iter().map(|entry| entry.before).collect();
    let made: Vec<Timestamp> = entries.iter().map(|entry| entry.created).collect();
    let places = graph::layout(&before, &made);
    let now = Timestamp::now();
    let age = |entry: &Entry| output::age(entry.created, now);
    match context.output.format {
        output::Format::Dot => context.output.raw(dot::draw(&entries, age).as_bytes()),
        output::Format::Svg => context.output.raw(svg::draw(&entries, &places, age).as_bytes()),
        output::Format::Table if context.output.quiet => {
            let labels = places.iter().map(|place| format!("{}\n", label(&entries[place.state])));
            context.output.raw(labels.collect::<String>().as_bytes());
        }
        output::Format::Table => {
            let drawn = arguments.graph || whole;
            context.output.raw(table(&entries, &places, drawn, age).as_bytes());
        }
        output::Format::Json => {
            // In the order of the rows.
            let mut slots: Vec<Option<Entry>> = entries.drain(..).map(Some).collect();
            let sorted: Vec<Entry> = places.iter().filter_map(|place| slots[place.state].take()).collect();
            context.output.data(&sorted, String::new);
        }
    }
    Ok(())
}

fn label(entry: &Entry) -> &str {
    entry.names.first().map_or(entry.id.as_str(), Name::as_str)
}

// ---------------------------------------------------------------- which

fn chosen<'a>(store: &'a Store, arguments: &Arguments) -> Result<(Vec<Node>, Naming<'a>)> {
    let found: Result<Vec<Node>> = arguments.references.iter().map(|text| store::find(store, text)).collect();
    let found = found?;
    let is_about_all = found.is_empty() || arguments.all;
    let naming = if is_about_all { store.naming()? } else { store.naming_as_asked() };
    let mut nodes = if is_about_all {
        let mut nodes = store.all_nodes()?;
        nodes.retain(|node| node.record.role == Role::Root);
        if !arguments.builds {
            leave_out_unneeded_steps(&found, &mut nodes);
        }
        if !found.is_empty() {
            keep_trees_of(&found, &mut nodes);
        }
        nodes
    } else {
        states_of(store, found, arguments.max_count)?
    };
    if let Some(count) = arguments.max_count.filter(|count| *count < nodes.len()) {
        nodes.sort_by_key(|node| std::cmp::Reverse(node.record.created));
        nodes.truncate(count);
    }
    Ok((nodes, naming))
}

/// Follows each back to where it began, or `limit` states far; what two have in common is there once.
fn states_of(store: &Store, heads: Vec<Node>, limit: Option<usize>) -> Result<Vec<Node>> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut seen = HashSet::new();
    for head in heads {
        let (mut node, mut passed) = (Some(head), 0);
        while let Some(state) = node.take().filter(|_| limit.is_none_or(|limit| passed < limit)) {
            if !seen.insert(state.id.clone()) {
                break;
            }
            node = match state.record.predecessor().map(|before| store.node(before)).transpose() {
                // It went while we looked, or a removal forced it: the story begins here.
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                before => before?,
            };
            nodes.push(state);
            passed += 1;
        }
    }
    Ok(nodes)
}

/// Keeps the states that have the same beginning as one of `found`.
fn keep_trees_of(found: &[Node], nodes: &mut Vec<Node>) {
    let index = index_of(nodes);
    let before: Vec<Option<usize>> = nodes.iter().map(|node| before(node, &index)).collect();
    let wanted: HashSet<&ObjectId> = found.iter().map(|node| &node.id).collect();
    let made = vec![0; nodes.len()];
    // A tree ends with the state that has none before it.
    let (mut kept, mut tree) = (vec![false; nodes.len()], Vec::new());
    for place in graph::layout(&before, &made) {
        tree.push(place.state);
        if place.is_first {
            let is_wanted = tree.iter().any(|state| wanted.contains(&nodes[*state].id));
            tree.drain(..).for_each(|state| kept[state] = is_wanted);
        }
    }
    let mut kept = kept.into_iter();
    nodes.retain(|_| kept.next().unwrap_or(false));
}

/// Leaves out the steps of builds that nothing else came from, and that were not asked for.
fn leave_out_unneeded_steps(found: &[Node], nodes: &mut Vec<Node>) {
    let index = index_of(nodes);
    let mut is_needed = vec![false; nodes.len()];
    let asked = found.iter().filter_map(|node| index.get(&node.id).copied());
    let others = (0..nodes.len()).filter(|node| nodes[*node].record.step.is_none());
    for state in others.chain(asked) {
        let mut at = Some(state);
        while let Some(state) = at.filter(|state| !is_needed[*state]) {
            is_needed[state] = true;
            at = before(&nodes[state], &index);
        }
    }
    let mut is_needed = is_needed.into_iter();
    nodes.retain(|_| is_needed.next().unwrap_or(false));
}

fn index_of(nodes: &[Node]) -> HashMap<ObjectId, usize> {
    nodes.iter().enumerate().map(|(index, node)| (node.id.clone(), index)).collect()
}

fn before(node: &Node, index: &HashMap<ObjectId, usize>) -> Option<usize> {
    node.record.predecessor().and_then(|before| index.get(before).copied())
}

// ---------------------------------------------------------------- what is said of each

fn entries(store: &Store, nodes: Vec<Node>, naming: &Naming<'_>, with_forks: bool) -> Result<Vec<Entry>> {
    let index = index_of(&nodes);
    // A box whose states are listed is no fork of them: what hangs there was undone, or given up.
    let listed: HashSet<String> =
        nodes.iter().filter_map(|node| naming.first(&node.id)).map(|name| name.to_string()).collect();
    let mut entries = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut forks = if with_forks { forks(store, &node.id, naming, &index)? } else { Vec::new() };
        forks.retain(|fork| !listed.contains(fork));
        let held = store.held(&node)?;
        entries.push(entry(&node, naming, &index, forks, held.as_ref()));
    }
    Ok(entries)
}

fn entry(
    node: &Node,
    naming: &Naming<'_>,
    index: &HashMap<ObjectId, usize>,
    forks: Vec<String>,
    held: Option<&Held>,
) -> Entry {
    let record = &node.record;
    let node = &Node { name: naming.first(&node.id), ..node.clone() };
    let outside = record.outside.as_ref().map(|path| format!("host:{}", path.display()));
    Entry {
        what: what(node, naming, &forks, held),
        before: before(node, index),
        id: node.id.clone(),
        names: naming.of(&node.id),
        kind: show::kind(node, held),
        backend: record.backend.name(),
        created: record.created,
        predecessor: record.predecessor().cloned(),
        message: record.message.clone(),
        step: record.step.as_ref().map(Step::of),
        source: record.source.clone().or(outside),
        cause: (record.state == State::Committed).then_some(record.cause),
        expires: record.expires,
        locked: record.marks().locked,
        note: record.marks().note.clone(),
        added_bytes: added_bytes(node),
        forks,
    }
}

/// What an import wrote, or what was copied to seal a box that ran. Of what was sealed as it lay, only `du` knows.
fn added_bytes(node: &Node) -> Option<u64> {
    let record = &node.record;
    let written = record.cost.bytes_copied + record.cost.bytes_cloned;
    let is_import = record.source.is_some();
    let is_delta =
        record.state == State::Committed && record.form == rootling_backends::Form::Delta && written > 0;
    (is_import || is_delta).then_some(written)
}

fn what(node: &Node, naming: &Naming<'_>, forks: &[String], held: Option<&Held>) -> String {
    let record = &node.record;
    let mut parts = Vec::new();
    if let Some(message) = &record.message {
        parts.push(output::one_line(message));
        let step = record.step.as_ref();
        parts.extend(step.and_then(|step| show::how_it_ended(step.failure.as_ref())));
        parts.extend(step.filter(|step| step.adopted).map(|_| "made by hand".to_owned()));
    } else if let Some(built) = &record.built {
        let recipe = built.recipe.as_ref().map(|recipe| format!(" from {}", output::one_line(recipe)));
        parts.push(format!("built{}", recipe.unwrap_or_default()));
    } else if let Some(source) = &record.source {
        parts.push(format!("imported from {}", output::one_line(source)));
    } else if let Some(held) = held {
        parts.push(output::one_line(&show::says(held)));
    } else if let Some(path) = &record.outside {
        parts.push(format!("forked from host:{}", output::plain(path)));
    } else if record.state == State::Committed {
        parts.extend(show::why(record.cause).map(str::to_owned));
    } else {
        let origin = record.predecessor().filter(|before| !is_own_state(node, before, naming));
        parts.extend(origin.map(|origin| format!("forked from {}", naming.label(origin))));
    }
    parts.extend(record.marks().note.as_ref().map(|note| format!("note: {}", output::one_line(note))));
    parts.extend(record.marks().locked.then(|| "locked".to_owned()));
    parts.extend(record.expires.map(|time| format!("expires {}", time.strftime("%Y-%m-%d %H:%M"))));
    if !forks.is_empty() {
        let more = if forks.len() > FORKS { " and more" } else { "" };
        let some: Vec<&str> = forks.iter().take(FORKS).map(String::as_str).collect();
        parts.push(format!("(forks: {}{more})", some.join(", ")));
    }
    parts.join("  ")
}

/// Is what came before a box one of its own snapshots?
fn is_own_state(node: &Node, before: &ObjectId, naming: &Naming<'_>) -> bool {
    let names = naming.of(before);
    names.iter().filter_map(Name::of_snapshot).any(|(owner, _)| Some(owner) == node.name)
}

/// Names some of what was made from a state and is not listed. Looks at few, however many there are.
fn forks(
    store: &Store,
    id: &ObjectId,
    naming: &Naming<'_>,
    listed: &HashMap<ObjectId, usize>,
) -> Result<Vec<String>> {
    let mut forks = Vec::new();
    for child in store.some_child_ids(id, FORKS * 4)? {
        if !listed.contains_key(&child) {
            forks.extend(box_above(store, child, naming)?);
        }
    }
    forks.sort();
    forks.dedup();
    forks.truncate(FORKS + 1);
    Ok(forks)
}

/// Returns the name of the box or tree that a state belongs to: its own, or that of one made from it.
fn box_above(store: &Store, id: ObjectId, naming: &Naming<'_>) -> Result<Option<String>> {
    let mut id = id;
    for _ in 0..FORKS * 4 {
        if let Some(name) = naming.first(&id) {
            let owner = name.of_snapshot().map(|(owner, _)| owner);
            return Ok(Some(owner.unwrap_or(name).to_string()));
        }
        match store.some_child_ids(&id, 1)?.pop() {
            Some(child) => id = child,
            None => break,
        }
    }
    Ok(None)
}

// ---------------------------------------------------------------- the table

fn table(entries: &[Entry], places: &[graph::Place], drawn: bool, age: impl Fn(&Entry) -> String) -> String {
    let mut rows = Vec::new();
    for (row, place) in places.iter().enumerate() {
        let entry = &entries[place.state];
        let (left, below) = graph::draw(*place, if entry.is_box() { '@' } else { '*' });
        let size = entry.added_bytes.map_or_else(String::new, output::bytes);
        let cells = [entry.id.to_string(), entry.named(), age(entry), size, entry.what.clone()];
        if !drawn {
            rows.push(cells.to_vec());
            continue;
        }
        rows.push(std::iter::once(left).chain(cells).collect());
        rows.extend(below.map(|below| vec![below]));
        if place.is_first {
            // Something comes before it that is not shown; or the next row belongs to another tree.
            let is_cut = entry.predecessor.is_some();
            rows.extend(is_cut.then(|| vec!["~".to_owned()]));
            rows.extend((!is_cut && row + 1 < places.len()).then(|| vec![String::new()]));
        }
    }
    let heading = ["", "ID", "NAME", "AGE", "SIZE", "WHAT"];
    output::table(if drawn { &heading } else { &heading[1..] }, &rows)
}
