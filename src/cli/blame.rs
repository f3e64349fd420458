//! `blame`: which state last changed a path: the step of a build, the layer of an image, the snapshot of a box.
//!
//! The states before a node are compared with each other, the youngest two first, until one changed the path. Each costs what it changed; of
//! the state that all began with it is only asked whether it has the path.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use rootling_backends::{Change, ChangeKind, DiffOptions, Dir, Error, ErrorKind, Result};
use serde::{Serialize, Serializer};

use super::diff::Brief;
use super::ls::Step;
use super::{Context, output, show, store};
use crate::store::{Node, ObjectId, Store};

/// How many links a path may lead over, as with the kernel.
const MOST_LINKS: usize = 40;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Of what: an image, a box as it stands, any state
    reference: String,

    /// Paths in it, /etc/x or etc/x; of a directory, what is in it counts
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Every state that changed it, the youngest first
    #[arg(short, long)]
    all: bool,
}

/// A state that changed a path.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// As it was typed; bytes that are no UTF-8 are replaced.
    path: Cow<'a, str>,
    /// The state, by a name or its id.
    state: String,
    state_id: ObjectId,
    created: Timestamp,
    /// What it did: `begun` for what was there from the beginning.
    what: &'static str,
    /// What it changed there, below a directory too.
    #[serde(serialize_with = "briefly")]
    changed: Vec<Change>,
    message: Option<String>,
    author: Option<String>,
    /// The step of a build that it is.
    step: Option<Step>,
}

/// A path that is looked for.
#[derive(Debug)]
struct Wanted<'a> {
    typed: &'a Path,
    /// Relative to the root.
    path: PathBuf,
    found: Vec<Row<'a>>,
    is_done: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store.last_state(&store::find(&store, &arguments.reference)?)?;
    let root = store.open_root(&node)?;
    let mut wanted: Vec<Wanted<'_>> = arguments.paths.iter().map(|typed| Wanted::new(&root, typed)).collect();
    drop(root);
    let mut at = Some(node);
    while let Some(state) = at.take().filter(|_| wanted.iter().any(|path| !path.is_done)) {
        let before = store.predecessor(&state)?;
        match &before {
            Some(before) => {
                let changes = store.diff(before, &state, DiffOptions::default())?;
                for path in wanted.iter_mut().filter(|path| !path.is_done) {
                    path.look_among(&store, &changes, &state)?;
                    path.is_done = !arguments.all && !path.found.is_empty();
                }
            }
            None => look_in(&store, &state, &mut wanted)?,
        }
        at = before;
    }
    if let Some(missing) = wanted.iter().find(|path| path.found.is_empty()) {
        let message = format!("nothing in the history of {} has {:?}", arguments.reference, missing.typed);
        return Err(Error::new(ErrorKind::NotFound, message)
            .hint("paths are those inside; `rootling log` shows which states there are"));
    }
    let rows: Vec<Row<'_>> = wanted.into_iter().flat_map(|path| path.found).collect();
    context.output.list_of(&rows, rows.iter().map(|row| &row.state), || table(&rows));
    Ok(())
}

impl<'a> Wanted<'a> {
    fn new(root: &Dir, typed: &'a Path) -> Self {
        Self { typed, path: without_links(root, typed), found: Vec::new(), is_done: false }
    }

    fn look_among(&mut self, store: &Store, changes: &[Change], state: &Node) -> Result<()> {
        let there: Vec<Change> = changes.iter().filter(|change| self.is_about(change)).cloned().collect();
        let Some(first) = there.first() else { return Ok(()) };
        // What is deleted above it takes it along; what is changed below it changes it.
        let at_or_above = self.path.starts_with(&first.path);
        let what = match first.kind {
            ChangeKind::Added if at_or_above => "added",
            ChangeKind::Deleted if at_or_above => "deleted",
            _ => "changed",
        };
        self.found.push(row(store, self.typed, state, what, there)?);
        Ok(())
    }

    /// Is it a change there, or below? A deleted directory is one change, and takes along what was in it.
    fn is_about(&self, change: &Change) -> bool {
        let takes_along = change.kind == ChangeKind::Deleted && self.path.starts_with(&change.path);
        change.path.starts_with(&self.path) || takes_along
    }
}

fn briefly<S: Serializer>(changes: &[Change], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(changes.iter().map(Brief::of))
}

/// Returns where a path leads by the links on its way, as they are now; the last part is not followed. What is not there is as it was typed.
fn without_links(root: &Dir, typed: &Path) -> PathBuf {
    let mut left: VecDeque<OsString> = parts(typed).collect();
    let (mut path, mut followed) = (PathBuf::new(), 0);
    while let Some(part) = left.pop_front() {
        if part == ".." {
            path.pop();
            continue;
        }
        let is_on_the_way = !left.is_empty() && followed < MOST_LINKS;
        let link = is_on_the_way.then(|| root.open_deep(&path).and_then(|dir| dir.read_link(&part)).ok());
        let Some(target) = link.flatten().map(PathBuf::from) else {
            path.push(part);
            continue;
        };
        followed += 1;
        if target.is_absolute() {
            path.clear();
        }
        let parts: Vec<OsString> = parts(&target).collect();
        parts.into_iter().rev().for_each(|part| left.push_front(part));
    }
    path
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// Looks for what is left in the state that all began with.
fn look_in(store: &Store, state: &Node, wanted: &mut [Wanted<'_>]) -> Result<()> {
    let root = store.open_root(state)?;
    for path in wanted.iter_mut().filter(|path| !path.is_done) {
        let is_there = path.path.as_os_str().is_empty()
            || root.open_beneath(&path.path, OFlag::O_PATH | OFlag::O_NOFOLLOW).is_ok();
        if is_there {
            path.found.push(row(store, path.typed, state, "begun", Vec::new())?);
        }
    }
    Ok(())
}

fn row<'a>(
    store: &Store,
    path: &'a Path,
    state: &Node,
    what: &'static str,
    changed: Vec<Change>,
) -> Result<Row<'a>> {
    let record = &state.record;
    Ok(Row {
        path: path.to_string_lossy(),
        state: store.name_of(&state.id)?.map_or_else(|| state.id.to_string(), |name| name.to_string()),
        state_id: state.id.clone(),
        created: record.created,
        what,
        changed,
        message: record
            .message
            .clone()
            .or_else(|| record.source.as_ref().map(|source| format!("imported from {source}"))),
        author: record.author.clone(),
        step: record.step.as_ref().map(Step::of),
    })
}

fn table(rows: &[Row<'_>]) -> String {
    let now = Timestamp::now();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let message = row.message.as_deref().map_or_else(String::new, output::one_line);
            let ended = row.step.as_ref().and_then(|step| show::how_it_ended(step.failure.as_ref()));
            vec![
                output::plain_text(row.path.as_ref().as_ref()).into_owned(),
                row.what.to_owned(),
                row.state.clone(),
                output::age(row.created, now),
                ended.map_or(message.clone(), |how| format!("{message} ({how})")),
            ]
        })
        .collect();
    output::table(&["PATH", "WHAT", "STATE", "AGE", "MESSAGE"], &cells)
}
