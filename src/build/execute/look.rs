//! What is known before anything is done: the keys of steps, and which of them are there.

use std::collections::BTreeMap;

use rootling_backends::Result;

use super::{At, Build, End, Failed, identity, reads};
use crate::build::key::{self, Fields};
use crate::build::plan::{Ground, Stage, Step, Work};
use crate::image::Platform;
use crate::store::Node;

/// What is known of a stage before anything is done.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) base: End,
    /// For each step that works on files.
    pub(super) steps: Vec<Option<Found>>,
    pub(super) end: End,
}

/// What is known of a step before anything is done.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) fields: Fields,
    pub(super) node: Option<Node>,
}

impl Looked {
    /// Returns the first step that has to be done; those before it were looked for in vain, or are there.
    pub(super) fn first(&self) -> usize {
        let there = |found: &Option<Found>| found.as_ref().is_some_and(|found| found.node.is_some());
        self.steps.iter().rposition(there).map_or(0, |last| last + 1)
    }
}

/// Computes the keys of a stage as far as they can be known, and looks for its steps.
pub(super) fn look(
    build: &Build<'_>,
    stage: &Stage,
    looked: &BTreeMap<usize, Looked>,
) -> std::result::Result<Looked, Failed> {
    let known = |ground: &Ground, platform: &Platform| match ground {
        Ground::Stage(number) => Ok(looked[number].end.clone()),
        other => build.worker.end(other, platform),
    };
    let base = known(&stage.ground, &stage.platform)?;
    let mut end = base.clone();
    let mut steps = Vec::new();
    for (index, step) in stage.steps.iter().enumerate() {
        if step.work == Work::Say {
            steps.push(None);
            continue;
        }
        let failed = |error| Failed::from(error).at(At { stage, index });
        let sources = reads(&step.work)
            .into_iter()
            .map(|ground| ground.map(|ground| known(ground, build.platform)).transpose());
        let sources = sources.collect::<Result<Vec<_>>>().map_err(failed)?;
        let fields = build.fields(stage, step, &end, &sources, false).map_err(failed)?;
        let node = build.look_up(stage, &fields)?;
        end = match &node {
            Some(node) => build.end_at(node)?,
            // What its key leads to is what it was before: nothing that stands on it can be known yet.
            None if build.no_cache.contains(&stage.number) => {
                End { node: None, identity: Some(format!("{} made anew", fields.key())) }
            }
            None => End { node: None, identity: Some(format!("step {}", fields.key())) },
        };
        steps.push(Some(Found { fields, node }));
    }
    Ok(Looked { base, steps, end })
}

impl Build<'_> {
    /// Returns what a step depends on. `by_content` says that what is taken from trees is known by its content.
    pub(super) fn fields(
        &self,
        stage: &Stage,
        step: &Step,
        over: &End,
        sources: &[Option<End>],
        by_content: bool,
    ) -> Result<Fields> {
        let mut contents = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            let identity = source.as_ref().and_then(|end| end.identity.as_ref()).filter(|_| !by_content);
            contents.push(match identity {
                Some(identity) => identity.clone(),
                None => self.worker.content(step, number, source.as_ref())?,
            });
        }
        let parent = over.identity.as_deref().unwrap_or_default();
        Ok(match &step.work {
            Work::Run(run) => key::of_run(run, parent, &stage.platform, &contents),
            Work::Copy(copy) => {
                key::of_copy(copy, parent, &stage.platform, contents.first().map_or("", String::as_str))
            }
            Work::MakeDir { path, user } => key::of_dir(path, user, parent, &stage.platform),
            Work::Say => unreachable!("it depends on nothing"),
        })
    }

    /// Does a step take files from a stage in which nothing is looked up?
    pub(super) fn takes_anew(&self, step: &Step) -> bool {
        let is_anew =
            |ground: &Ground| matches!(ground, Ground::Stage(number) if self.no_cache.contains(number));
        reads(&step.work).into_iter().flatten().any(is_anew)
    }

    pub(super) fn look_up(&self, stage: &Stage, fields: &Fields) -> Result<Option<Node>> {
        if self.no_cache.contains(&stage.number) { Ok(None) } else { self.store.step(&fields.key()) }
    }

    pub(super) fn end_at(&self, node: &Node) -> Result<End> {
        Ok(End { identity: Some(identity(self.store, node)?), node: Some(node.clone()) })
    }
}
