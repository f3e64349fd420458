//! Stages as a graph of steps: each is looked up, or done.
//!
//! Two passes. The first computes keys, as far as they can be known before anything is done, and looks for the last step of each stage
//! that is there: what comes before it is not asked for. The second does the rest, each stage in a thread of its own, which waits where it
//! needs another. A key is chained to that of the step before; what is taken from another stage is looked up by the key of that stage,
//! and where that is not found by the content that is taken, so a stage that comes out the same changes nothing after it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rootling_backends::{Error, Result};

use super::key::Fields;
use super::plan::{From, Ground, MountKind, Stage, Step, Work};
use crate::image::{Digest, Platform};
use crate::runner::log::Stream;
use crate::store::{Ephemeral, Failure, Node, Store};

mod course;
mod look;

use course::Course;

/// What is to be made.
pub struct Build<'a> {
    /// Where.
    pub store: &'a Store,
    /// The stages that are needed, in the order of the file.
    pub stages: &'a [Stage],
    /// Which of them, by its number in the file.
    pub target: usize,
    /// What is built for: what files are only taken from is asked for it.
    pub platform: &'a Platform,
    /// Who does single steps.
    pub worker: &'a dyn Worker,
    /// Stages in which no step is looked up, by number.
    pub no_cache: BTreeSet<usize>,
    /// How many steps are done at once.
    pub jobs: usize,
    /// What the store remembers of it is called.
    pub recipe: String,
    /// Is what a step that failed left kept, to be entered?
    pub keeps_failed: bool,
    /// What is done instead of one of the steps.
    pub instead: Option<Instead>,
    /// Is told how it goes, by several threads.
    pub report: &'a (dyn Fn(Event<'_>) + Sync),
}

impl std::fmt::Debug for Build<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Build").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

/// What is done instead of a step.
#[derive(Debug, Clone)]
pub struct Instead {
    /// The key of the step.
    pub key: Digest,
    /// The tree that it leaves, or begins with.
    pub node: Node,
    /// Is it done again in that tree? Else the tree is taken for its result.
    pub resumes: bool,
}

/// Who does single steps.
pub trait Worker: Sync {
    /// Returns what something outside of the stages is; it may be fetched.
    fn end(&self, ground: &Ground, platform: &Platform) -> Result<End>;

    /// Returns the digest of what a step reads of one of its sources: the `number`th of [`reads`]; `end` is what that is.
    fn content(&self, step: &Step, number: usize, end: Option<&End>) -> Result<String>;

    /// Does a step in a fork of `over`. `sources` are those of [`reads`], then those of [`begins_with`].
    fn perform(
        &self,
        at: At<'_>,
        over: Option<&Node>,
        sources: &[Option<End>],
        said: &(dyn Fn(Stream, &[u8]) + Sync),
    ) -> Result<Outcome>;

    /// Returns what a command needs to find itself where that of a step was, as flags of the command line.
    fn flags(&self, step: &Step) -> BTreeMap<String, Vec<String>>;

    /// Asks what is being done to end: another step has failed.
    fn stop(&self);
}

/// What came of a step.
#[derive(Debug)]
pub enum Outcome {
    /// A tree.
    Made(Ephemeral, Done),
    /// Nothing had to be done: what it stands on is as it should be.
    Nothing,
    /// Its command failed, and this is what it left.
    Failed(Ephemeral, Failure),
}

/// What a step did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Files that were copied, in one way or the other.
    pub files: u64,
    /// Bytes of them that share their place with what they were copied from.
    pub cloned_bytes: u64,
    /// Bytes of them that were written.
    pub copied_bytes: u64,
}

/// A step of a build.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// Which of its steps, from 0.
    pub index: usize,
}

impl<'a> At<'a> {
    /// Returns the step.
    pub fn step(&self) -> &'a Step {
        &self.stage.steps[self.index]
    }

    /// Returns what the stage is called: its name, or its number.
    pub fn stage_name(&self) -> String {
        self.stage.name.clone().unwrap_or_else(|| self.stage.number.to_string())
    }

    /// Returns the number of the stage and the index of the step.
    fn numbers(&self) -> (usize, usize) {
        (self.stage.number, self.index)
    }

    /// Returns what an error calls it: its lines, if it is in a file, and its instruction.
    fn named(&self) -> String {
        let (first, last) = self.step().lines;
        if first == 0 {
            return self.step().shown.clone();
        }
        let lines = if first == last { format!("line {first}") } else { format!("lines {first} to {last}") };
        format!("{lines}: {}", self.step().shown)
    }
}

/// How it goes.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A step was there.
    Cached(At<'a>, &'a Fields),
    /// A step is not there, and begins.
    Begun(At<'a>, &'a Fields),
    /// It said something.
    Said(At<'a>, Stream, &'a [u8]),
    /// It is done.
    Done(At<'a>, Duration, &'a Done),
    /// It failed.
    Failed(At<'a>, Duration, &'a Error),
}

impl<'a> Event<'a> {
    /// Returns the step that it is about.
    pub fn at(&self) -> At<'a> {
        match self {
            Self::Cached(at, _)
            | Self::Begun(at, _)
            | Self::Said(at, ..)
            | Self::Done(at, ..)
            | Self::Failed(at, ..) => *at,
        }
    }
}

/// The end of a stage, or of what it stands on.
#[derive(Debug, Clone)]
pub struct End {
    /// Its tree; `None` for an empty one, and for a context.
    pub node: Option<Node>,
    /// What it is called in keys; `None` for what is known by its content alone.
    pub identity: Option<String>,
}

impl End {
    /// Returns an empty tree.
    pub fn scratch() -> Self {
        Self { node: None, identity: Some("scratch".to_owned()) }
    }
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The end of the target.
    pub end: End,
    /// What the lowest stage stands on.
    pub base: End,
    /// The stages that the target stands on, the lowest first, with the node of each step: `None` for those that only say something.
    pub line: Vec<(usize, Vec<Option<Node>>)>,
    /// Steps that were there.
    pub cached: usize,
    /// Steps that were done.
    pub done: usize,
    /// Was something done [`Instead`] of a step?
    pub used_instead: bool,
}

/// Why nothing was made.
#[derive(Debug)]
pub struct Failed {
    /// The cause.
    pub error: Error,
    /// The number of the stage and the index of the step that failed.
    pub step: Option<(usize, usize)>,
    /// What it left, if that was kept.
    pub left: Option<Box<Node>>,
}

impl Failed {
    /// Says which step it was, if that is not said.
    fn at(self, at: At<'_>) -> Self {
        match self.step {
            Some(_) => self,
            None => Self { error: self.error.context(at.named()), step: Some(at.numbers()), left: self.left },
        }
    }
}

impl std::convert::From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, step: None, left: None }
    }
}

/// What a step reads beside the tree that it stands on: for each, what that is; `None` for the context of the build.
pub fn reads(work: &Work) -> Vec<Option<&Ground>> {
    match work {
        Work::Copy(copy) if copy.sources.is_empty() => Vec::new(),
        Work::Copy(copy) => vec![match &copy.from {
            From::MainContext => None,
            From::Ground(ground) => Some(ground),
        }],
        Work::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, .. } => Some(from.as_ref()),
                _ => None,
            })
            .collect(),
        Work::Say | Work::MakeDir { .. } => Vec::new(),
    }
}

/// What a step needs and is not part of its key: what cache mounts begin as.
pub fn begins_with(work: &Work) -> impl Iterator<Item = &Ground> {
    let mounts = if let Work::Run(run) = work { run.mounts.as_slice() } else { &[] };
    mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Cache { from, .. } => from.as_ref(),
        _ => None,
    })
}

/// Returns what a node is called in keys: the step that made its tree, the layers that it is, or itself.
pub fn identity(store: &Store, node: &Node) -> Result<String> {
    if let Some(step) = &node.record.step {
        return Ok(format!("step {}", step.key));
    }
    if let Some(layer) = store.layer_of(node)? {
        return Ok(format!("layers {}", layer.chain_id));
    }
    match &node.record.tree {
        Some(owner) => identity(store, &store.node(owner)?),
        None => Ok(format!("node {}", node.id)),
    }
}

/// Makes it. What was done is durable on return, also where a step failed; a kill leaves the steps that were done.
pub fn execute(build: &Build<'_>) -> std::result::Result<Made, Failed> {
    let _running = build.store.begin_build()?;
    let made = Course::begin(build).and_then(|course| course.run());
    let settled = build.store.settle_steps();
    match (made, settled) {
        (Ok(_), Err(error)) => Err(error.into()),
        (made, _) => made,
    }
}
