//! Stages as a graph of steps: each is looked up, or done.
//!
//! Two passes. The first computes keys, as far as they can be known before anything is done, and looks for the last step of each stage
//! that is there: what comes before it is not asked for. The second does the rest, each stage in a thread of its own, which waits where it
//! needs another. A key is chained to that of the step before; what is taken from another stage is looked up by the key of that stage,
//! and where that is not found by the content that is taken, so a stage that comes out the same changes nothing after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rootling_backends::{Context as _, Error, ErrorKind, Kind, Result};

use super::key::{self, Fields};
use super::plan::{From, Ground, MountKind, Stage, Step, Work};
use super::work::{Done, Worker};
use crate::image::Digest;
use crate::store::{Failure, Node, StepRecord, Store};

/// What is to be made.
#[derive(Debug)]
pub struct Build<'a> {
    /// Where.
    pub store: &'a Store,
    /// The stages that are needed, in the order of the file.
    pub stages: &'a [Stage],
    /// Which of them, by its number in the file.
    pub target: usize,
    /// Who does single steps.
    pub worker: &'a Worker<'a>,
    /// The backend that makes the trees; `None` is the store's for what is thrown away.
    pub backend: Option<Kind>,
    /// Stages in which no step is looked up.
    pub no_cache: BTreeSet<usize>,
    /// How many steps are done at once.
    pub jobs: usize,
    /// What the store remembers of it is called.
    pub recipe: String,
    /// Is what a step that failed left kept, to be entered?
    pub keeps_failed: bool,
    /// What is done instead of the first step that is not there.
    pub instead: Option<Instead>,
    /// Is told how it goes, by several threads.
    pub report: &'a (dyn Fn(Event<'_>) + Sync),
}

/// What may be done instead of the first step that is not there.
#[derive(Debug, Clone)]
pub enum Instead {
    /// It is done again in what its failure left.
    Resume(Node),
    /// This is taken for its result.
    Adopt(Node),
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

    /// Returns what the stage is called.
    pub fn stage_name(&self) -> String {
        self.stage.name.clone().unwrap_or_else(|| self.stage.number.to_string())
    }
}

/// How it goes.
#[derive(Debug)]
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

/// Where a command said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// The end of a stage, or of what it stands on.
#[derive(Debug, Clone)]
pub struct End {
    /// Its tree; `None` for an empty one.
    pub node: Option<Node>,
    /// What it is called in keys.
    pub identity: String,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The end of the target.
    pub end: End,
    /// The nodes of its steps, with those of the stages it stands on, the lowest first: `None` for steps that only say something.
    pub line: Vec<(usize, usize, Option<Node>)>,
    /// What the lowest of these stages stands on.
    pub base: Option<Node>,
    /// Steps that were there.
    pub cached: usize,
    /// Steps that were done.
    pub done: usize,
}

/// Why nothing was made.
#[derive(Debug)]
pub struct Failed {
    /// The cause.
    pub error: Error,
    /// The step that failed, and what it left, if that was kept.
    pub step: Option<(usize, usize)>,
    /// What it left.
    pub left: Option<Node>,
}

impl std::convert::From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, step: None, left: None }
    }
}
