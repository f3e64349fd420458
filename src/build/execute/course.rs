//! What is done: each stage in a thread of its own, each step looked up again by what it really stands on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use rootling_backends::{Error, ErrorKind, Result};

use super::look::{Looked, look};
use super::{At, Build, Done, End, Event, Failed, Instead, Made, Outcome, begins_with, reads};
use crate::build::key::Fields;
use crate::build::once::Once;
use crate::build::plan::{Ground, Stage, Step, Work};
use crate::image::{Digest, ImageConfig, Platform};
use crate::store::{Failure, Node, StepRecord};

/// A build on its way.
pub(super) struct Course<'a> {
    build: &'a Build<'a>,
    looked: BTreeMap<usize, Looked>,
    slots: BTreeMap<usize, Slot>,
    /// What steps left that were done, by their keys.
    did: Once<Option<Node>>,
    free: Mutex<usize>,
    freed: Condvar,
    stopped: AtomicBool,
    failure: Mutex<Option<Failed>>,
    counts: Mutex<(usize, usize)>,
    used_instead: AtomicBool,
}

/// Where those wait who need a stage.
#[derive(Debug, Default)]
struct Slot {
    ended: Mutex<Option<Option<Ended>>>,
    changed: Condvar,
}

/// A stage that was made.
#[derive(Debug, Clone)]
struct Ended {
    end: End,
    base: End,
    nodes: Vec<Option<Node>>,
}

impl<'a> Course<'a> {
    /// Looks at what is there.
    pub(super) fn begin(build: &'a Build<'a>) -> std::result::Result<Self, Failed> {
        let mut looked = BTreeMap::new();
        for stage in build.stages {
            let found = look(build, stage, &looked)?;
            looked.insert(stage.number, found);
        }
        Ok(Self {
            build,
            looked,
            slots: build.stages.iter().map(|stage| (stage.number, Slot::default())).collect(),
            did: Once::default(),
            free: Mutex::new(build.jobs.max(1)),
            freed: Condvar::new(),
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
            counts: Mutex::default(),
            used_instead: AtomicBool::new(false),
        })
    }

    /// Does what is left to do.
    pub(super) fn run(&self) -> std::result::Result<Made, Failed> {
        let wanted = self.wanted();
        std::thread::scope(|scope| {
            for stage in self.build.stages.iter().filter(|stage| wanted.contains(&stage.number)) {
                scope.spawn(|| self.work(stage));
            }
        });
        if let Some(failure) = self.failure.lock().expect("nobody panics who holds it").take() {
            return Err(failure);
        }
        let (mut line, mut at) = (Vec::new(), self.build.target);
        let ended = |number: usize| {
            let slot = self.slots[&number].ended.lock().expect("nobody panics who holds it").clone();
            slot.flatten().unwrap_or_else(|| self.found(number))
        };
        let end = ended(at).end;
        let base = loop {
            let stage = ended(at);
            line.push((at, stage.nodes));
            match self.stage(at).ground {
                Ground::Stage(below) => at = below,
                _ => break stage.base,
            }
        };
        line.reverse();
        let (cached, done) = *self.counts.lock().expect("nobody panics who holds it");
        let used_instead = self.used_instead.load(Ordering::Relaxed);
        Ok(Made { end, base, line, cached, done, used_instead })
    }

    fn stage(&self, number: usize) -> &'a Stage {
        let stage = self.build.stages.iter().find(|stage| stage.number == number);
        stage.expect("a plan has all the stages that it names")
    }

    /// Returns a stage of which nothing had to be asked.
    fn found(&self, number: usize) -> Ended {
        let looked = &self.looked[&number];
        let nodes = looked.steps.iter().map(|found| found.as_ref().and_then(|found| found.node.clone()));
        Ended { end: looked.end.clone(), base: looked.base.clone(), nodes: nodes.collect() }
    }

    /// Returns the stages that the target needs, as far as something of them is left to do, and the target.
    fn wanted(&self) -> BTreeSet<usize> {
        let (mut wanted, mut next) = (BTreeSet::new(), vec![self.build.target]);
        while let Some(number) = next.pop() {
            if !wanted.insert(number) {
                continue;
            }
            let (stage, looked) = (self.stage(number), &self.looked[&number]);
            let first = looked.first();
            let stands_on = Some(&stage.ground).filter(|_| first == 0);
            let to_do = stage.steps[first..].iter().map(|step| &step.work);
            let read = to_do.flat_map(|work| reads(work).into_iter().flatten().chain(begins_with(work)));
            next.extend(read.chain(stands_on).filter_map(|ground| match ground {
                Ground::Stage(number) => Some(*number),
                _ => None,
            }));
        }
        wanted
    }

    /// Makes a stage, and lets those go on who wait for it.
    fn work(&self, stage: &Stage) {
        let ended = match self.make(stage) {
            Ok(ended) => Some(ended),
            Err(failed) => {
                self.fail(|| failed);
                None
            }
        };
        let slot = &self.slots[&stage.number];
        *slot.ended.lock().expect("nobody panics who holds it") = Some(ended);
        slot.changed.notify_all();
    }

    /// Ends the build. What others say once one has failed is that they were stopped.
    fn fail(&self, why: impl FnOnce() -> Failed) {
        if !self.stopped.swap(true, Ordering::Relaxed) {
            *self.failure.lock().expect("nobody panics who holds it") = Some(why());
            self.build.worker.stop();
        }
    }

    /// Ends the build for a step that failed, and tells of it.
    fn fail_at(&self, at: At<'_>, began: Instant, failed: Failed) -> Failed {
        self.fail(|| {
            (self.build.report)(Event::Failed(at, began.elapsed(), &failed.error));
            failed.at(at)
        });
        stopped().into()
    }

    /// Waits for a stage.
    fn wait_for(&self, number: usize) -> Result<End> {
        let slot = &self.slots[&number];
        let mut ended = slot.ended.lock().expect("nobody panics who holds it");
        loop {
            match &*ended {
                Some(Some(ended)) => return Ok(ended.end.clone()),
                Some(None) => return Err(stopped()),
                None => ended = slot.changed.wait(ended).expect("nobody panics who holds it"),
            }
        }
    }

    fn end_of(&self, ground: &Ground, platform: &Platform) -> Result<End> {
        match ground {
            Ground::Stage(number) => self.wait_for(*number),
            other => self.build.worker.end(other, platform),
        }
    }

    fn make(&self, stage: &Stage) -> std::result::Result<Ended, Failed> {
        let looked = &self.looked[&stage.number];
        let first = looked.first();
        let mut ended = self.found(stage.number);
        let reported = looked.steps[..first].iter().enumerate();
        for (index, found) in reported.filter_map(|(index, found)| Some((index, found.as_ref()?))) {
            self.was_there(At { stage, index }, &found.fields);
        }
        ended.end = match first.checked_sub(1).and_then(|last| ended.nodes[last].as_ref()) {
            Some(node) => self.build.end_at(node)?,
            None => self.end_of(&stage.ground, &stage.platform)?,
        };
        for index in first..stage.steps.len() {
            let at = At { stage, index };
            if at.step().work == Work::Say {
                continue;
            }
            if self.stopped.load(Ordering::Relaxed) {
                return Err(stopped().into());
            }
            let began = Instant::now();
            let node = self.step(at, &ended.end).map_err(|failed| self.fail_at(at, began, failed))?;
            if let Some(node) = &node {
                ended.end = self.build.end_at(node)?;
            }
            ended.nodes[index] = node;
        }
        Ok(ended)
    }

    fn was_there(&self, at: At<'_>, fields: &Fields) {
        self.counts.lock().expect("nobody panics who holds it").0 += 1;
        (self.build.report)(Event::Cached(at, fields));
    }

    /// Finds a step, or does it; returns `None` where it had nothing to do on an empty tree.
    fn step(&self, at: At<'_>, over: &End) -> std::result::Result<Option<Node>, Failed> {
        let (build, step) = (self.build, at.step());
        let sources = reads(&step.work).into_iter();
        let sources =
            sources.map(|ground| ground.map(|ground| self.end_of(ground, build.platform)).transpose());
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let begins = begins_with(&step.work).map(|ground| self.end_of(ground, build.platform).map(Some));
        let begins = begins.collect::<Result<Vec<_>>>()?;
        let fields = build.fields(at.stage, step, over, &sources, false)?;
        let takes_anew = build.takes_anew(step);
        if !takes_anew && let Some(node) = build.look_up(at.stage, &fields)? {
            self.was_there(at, &fields);
            return Ok(Some(node));
        }
        let from_trees = sources.iter().flatten().any(|end| end.identity.is_some());
        let by_content =
            from_trees.then(|| build.fields(at.stage, step, over, &sources, true)).transpose()?;
        let alias = |key: &Digest, node: &Node| {
            let is_anew = takes_anew || build.no_cache.contains(&at.stage.number);
            if is_anew { build.store.renew_alias(key, node) } else { build.store.note_alias(key, node) }
        };
        if let Some(by_content) = &by_content
            && let Some(node) = build.look_up(at.stage, by_content)?
        {
            alias(&fields.key(), &node)?;
            self.was_there(at, &fields);
            return Ok(Some(node));
        }
        // The key of a stage that is made anew is what it was, and leads to what it was: only its content tells what stands on it.
        let (fields, other) = match by_content {
            Some(by_content) if takes_anew => (by_content, Some(fields)),
            by_content => (fields, by_content),
        };
        // What stages have in common is done by one of them, whether or not steps are looked up.
        let mut is_first = false;
        let all = [sources, begins].concat();
        let left = self.did.get(&fields.key().to_string(), || {
            is_first = true;
            self.take_turn(at, over, &all, &fields)
        })?;
        if !is_first {
            self.was_there(at, &fields);
        }
        if let (Some(node), Some(other)) = (&*left, &other) {
            alias(&other.key(), node)?;
        }
        Ok(Option::clone(&left))
    }

    /// Does a step when it may be done, and tells of it.
    fn take_turn(
        &self,
        at: At<'_>,
        over: &End,
        sources: &[Option<End>],
        fields: &Fields,
    ) -> std::result::Result<Option<Node>, Failed> {
        let _place = self.take_place();
        if self.stopped.load(Ordering::Relaxed) {
            return Err(stopped().into());
        }
        (self.build.report)(Event::Begun(at, fields));
        let began = Instant::now();
        // Who waits for the same step is not to try it again.
        let performed = self.perform(at, over, sources, fields);
        let (node, done) = performed.map_err(|failed| self.fail_at(at, began, failed))?;
        self.counts.lock().expect("nobody panics who holds it").1 += 1;
        (self.build.report)(Event::Done(at, began.elapsed(), &done));
        Ok(node)
    }

    fn perform(
        &self,
        at: At<'_>,
        over: &End,
        sources: &[Option<End>],
        fields: &Fields,
    ) -> std::result::Result<(Option<Node>, Done), Failed> {
        let (build, step) = (self.build, at.step());
        let began = Instant::now();
        let record = |key: Digest, failure: Option<Failure>| StepRecord {
            key,
            recipe: Some(build.recipe.clone()),
            stage: at.stage_name(),
            number: u32::try_from(at.index + 1).unwrap_or(u32::MAX),
            shown: step.shown.clone(),
            fields: fields.pairs().to_vec(),
            flags: build.worker.flags(step),
            failure,
            adopted: false,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let (key, config) = (fields.key(), step.config.clone());
        let instead = build.instead.as_ref().filter(|instead| instead.key == key);
        self.used_instead.fetch_or(instead.is_some(), Ordering::Relaxed);
        if let Some(Instead { node, resumes: false, .. }) = instead {
            let node = build.store.adopt_step(node, over.node.as_ref(), record(key, None), config)?;
            return Ok((Some(node), Done::default()));
        }
        let begins = instead.map(|instead| &instead.node).or(over.node.as_ref());
        let said = |stream, bytes: &[u8]| (build.report)(Event::Said(at, stream, bytes));
        match build.worker.perform(at, begins, sources, &said)? {
            Outcome::Nothing => {
                if let Some(node) = &over.node {
                    build.store.note_alias(&key, node)?;
                }
                Ok((over.node.clone(), Done::default()))
            }
            Outcome::Made(fork, done) => {
                let node = match instead {
                    None if build.no_cache.contains(&at.stage.number) => {
                        build.store.commit_step_anew(fork, record(key, None), config)?
                    }
                    None => build.store.commit_step(fork, record(key, None), config)?,
                    // What the failure left is between it and what it stands on: as one step it is what it was made of.
                    Some(_) => {
                        let aside = Digest::sha256_of(format!("{key} in {}", fork.id()).as_bytes());
                        let node = build.store.commit_step(fork, record(aside, None), config.clone())?;
                        build.store.adopt_step(&node, over.node.as_ref(), record(key, None), config)?
                    }
                };
                Ok((Some(node), done))
            }
            Outcome::Failed(fork, failure) => {
                let error = failed(at, &failure);
                if !build.keeps_failed {
                    return Err(Failed { error, step: Some(at.numbers()), left: None });
                }
                let left = build.store.commit_failed(fork, record(key, Some(failure)), as_run(step))?;
                Err(Failed { error, step: Some(at.numbers()), left: Some(Box::new(left)) })
            }
        }
    }

    /// Waits until one step more may be done.
    fn take_place(&self) -> Place<'_> {
        let mut free = self.free.lock().expect("nobody panics who holds it");
        while *free == 0 {
            free = self.freed.wait(free).expect("nobody panics who holds it");
        }
        *free -= 1;
        Place(&self.free, &self.freed)
    }
}

/// One of the steps that may be done at once.
struct Place<'a>(&'a Mutex<usize>, &'a Condvar);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.lock().expect("nobody panics who holds it") += 1;
        self.1.notify_one();
    }
}

/// Returns how a command is run that is to see what the step saw, with its arguments.
fn as_run(step: &Step) -> ImageConfig {
    let mut config = step.config.clone();
    if let Work::Run(run) = &step.work {
        config.env = run.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    }
    config
}

fn stopped() -> Error {
    Error::new(ErrorKind::Busy, "another step has failed")
}

fn failed(at: At<'_>, failure: &Failure) -> Error {
    let how = match failure {
        Failure::Code(code) => format!("exit code {code}"),
        Failure::Signal(signal) => format!("signal {signal}"),
        Failure::Reason(reason) => reason.clone(),
    };
    Error::new(ErrorKind::FailedPrecondition, format!("{}: {how}", at.named()))
}
