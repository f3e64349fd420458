//! The stages that are needed, one after the other, each with the steps that its instructions are.

use std::collections::{BTreeMap, BTreeSet};

use rootling_backends::{Error, ErrorKind, Result};

use super::arguments::Globals;
use super::outline::{Outline, Part, at, shown};
use super::scene::{Scene, triggers};
use super::step::{Ground, Stage, Step, Work};
use super::{Base, Bases, PlanOptions, copy, paths, run};
use crate::build::syntax::{self, Command, Instruction};
use crate::image::{ImageReference, Platform};
use crate::near::near;

/// The comment that ends a layer at the instruction behind it.
const MARK: &str = "rootling: layer";

/// Plans stages of a file.
pub(super) struct Planner<'a> {
    pub(super) outline: Outline<'a>,
    pub(super) options: &'a PlanOptions,
    pub(super) globals: &'a Globals,
    pub(super) proxies: BTreeMap<String, String>,
    /// What is built for.
    pub(super) platform: Platform,
    pub(super) escape: char,
}

/// How a stage begins.
struct Beginning {
    ground: Ground,
    /// What an image or a context says of itself.
    base: Base,
    /// What it is made for; of a stage on a stage, that one's holds.
    platform: Platform,
    /// What the base left to be done first.
    triggers: Vec<Instruction>,
    /// The stages that it needs.
    needs: BTreeSet<usize>,
}

impl Planner<'_> {
    /// Returns the stages that `target` needs, and that stage itself, in the order of the file.
    pub(super) fn stages(&self, target: usize, bases: &mut dyn Bases) -> Result<Vec<Stage>> {
        let mut beginnings: BTreeMap<usize, Beginning> = BTreeMap::new();
        let mut needed = BTreeSet::from([target]);
        // A stage needs only those before it, so that all that need one are known when it is reached.
        for number in (0..=target).rev() {
            if !needed.contains(&number) {
                continue;
            }
            let part = &self.outline.stages()[number];
            let beginning = self.begin(part, bases).map_err(|error| at(part.from, error))?;
            let beginning = self.with_needs(beginning, part)?;
            needed.extend(&beginning.needs);
            beginnings.insert(number, beginning);
        }
        let mut ends: BTreeMap<usize, Scene> = BTreeMap::new();
        let mut stages = Vec::new();
        for (number, beginning) in beginnings {
            let (stage, end) = self.stage(&self.outline.stages()[number], beginning, &ends)?;
            ends.insert(number, end);
            stages.push(stage);
        }
        Ok(stages)
    }

    fn begin(&self, part: &Part<'_>, bases: &mut dyn Bases) -> Result<Beginning> {
        let ground = self.outline.ground_of(part.number);
        let wanted = part.platform.clone().unwrap_or_else(|| self.platform.clone());
        let base = match &ground {
            Ground::Scratch | Ground::Stage(_) => Base::default(),
            Ground::Image(image) => {
                bases.image(image, &wanted).map_err(|error| self.meant_stage(error, part, image))?
            }
            Ground::Context(name) => bases.context(name, &wanted)?,
        };
        let triggers = match ground {
            Ground::Stage(stage) => left_by(&self.outline.stages()[stage]),
            _ if self.is_replaced(part, &ground) => Vec::new(),
            _ => parsed(&triggers(&base.config, part)?)?,
        };
        // Where nobody says what for, it is whatever the base is for.
        let is_said = part.platform.is_some() || self.options.platform.is_some();
        let platform = base.platform.clone().filter(|_| !is_said).unwrap_or(wanted);
        Ok(Beginning { ground, base, platform, triggers, needs: BTreeSet::new() })
    }

    fn with_needs(&self, beginning: Beginning, part: &Part<'_>) -> Result<Beginning> {
        let mut needs = BTreeSet::new();
        if let Ground::Stage(stage) = beginning.ground {
            needs.insert(stage);
        }
        let own = if self.is_replaced(part, &beginning.ground) { &[] } else { part.instructions };
        for instruction in beginning.triggers.iter().chain(own) {
            needs.extend(self.outline.needs(instruction, part.number)?);
        }
        Ok(Beginning { needs, ..beginning })
    }

    /// Does a context stand in the stage's place? Then nothing that the stage says is done.
    fn is_replaced(&self, part: &Part<'_>, ground: &Ground) -> bool {
        matches!(ground, Ground::Context(context) if part.name.as_ref() == Some(context))
    }

    /// An image that is not there may be a stage that was meant.
    fn meant_stage(&self, error: Error, part: &Part<'_>, image: &str) -> Error {
        if error.kind() != ErrorKind::NotFound && ImageReference::parse(image).is_ok() {
            return error;
        }
        let later = self.outline.stages()[part.number + 1..].iter();
        let mut later = later.filter(|stage| stage.name.as_deref() == Some(&image.to_ascii_lowercase()));
        if let Some(stage) = later.next() {
            let line = stage.from.position.line;
            return error.hint(format!("move stage {image}, from line {line} on, above this one"));
        }
        match near(image, self.outline.names()).first() {
            Some(name) => error.hint(format!("did you mean the stage {name}?")),
            None => error,
        }
    }

    fn stage(
        &self,
        part: &Part<'_>,
        beginning: Beginning,
        ends: &BTreeMap<usize, Scene>,
    ) -> Result<(Stage, Scene)> {
        let is_replaced = self.is_replaced(part, &beginning.ground);
        let mut scene = match beginning.ground {
            Ground::Stage(stage) => ends[&stage].continued(),
            _ => Scene::on(beginning.base, beginning.platform),
        };
        let mut steps = Vec::new();
        let lines = (part.from.position.line, part.from.last_line);
        for trigger in &beginning.triggers {
            let step = self.step(&mut scene, trigger, part.number);
            let mut step =
                step.map_err(|error| at(part.from, at(trigger, error).context("do what the base left")))?;
            step.shown.insert_str(0, "ONBUILD ");
            steps.push(Step { lines, ..step });
        }
        let own = if is_replaced { &[] } else { part.instructions };
        for instruction in own {
            let step = self.step(&mut scene, instruction, part.number);
            steps.push(step.map_err(|error| at(instruction, error))?);
        }
        let stage = Stage {
            number: part.number,
            name: part.name.clone(),
            lines,
            shown: shown(part.from, usize::MAX),
            ground: beginning.ground,
            platform: scene.platform.clone(),
            needs: beginning.needs.into_iter().collect(),
            steps,
            config: scene.config.clone(),
            author: scene.author.clone(),
        };
        Ok((stage, scene))
    }

    /// Does one instruction of stage `number`: the scene is what holds after it.
    fn step(&self, scene: &mut Scene, instruction: &Instruction, number: usize) -> Result<Step> {
        let (work, created_by) = self.work(scene, instruction, number)?;
        let is_marked = instruction.comments.iter().any(|comment| comment.trim() == MARK);
        Ok(Step {
            lines: (instruction.position.line, instruction.last_line),
            shown: shown(instruction, usize::MAX),
            created_by,
            work,
            config: scene.config.clone(),
            is_marked,
        })
    }

    fn work(&self, scene: &mut Scene, instruction: &Instruction, number: usize) -> Result<(Work, String)> {
        let escape = self.escape;
        let place = (&self.outline, number, escape);
        let said = match &instruction.command {
            Command::From { .. } => unreachable!("FROM begins a stage, and no trigger is one"),
            Command::Run { .. } => {
                let (mut step, history) =
                    run::run(instruction, scene, &self.outline, number, self.options, escape)?;
                let is_free = |name: &String| !step.env.contains_key(name);
                step.quiet_env = self.proxies.clone().into_iter().filter(|(name, _)| is_free(name)).collect();
                return Ok((Work::Run(step), history));
            }
            Command::Copy { transfer, flags } => {
                let (step, history) = copy::copy(transfer, flags, &instruction.heredocs, scene, place)?;
                return Ok((Work::Copy(step), history));
            }
            Command::Add { transfer, flags } => {
                let (step, history) = copy::add(transfer, flags, &instruction.heredocs, scene, escape)?;
                return Ok((Work::Copy(step), history));
            }
            Command::Workdir(path) => return self.workdir(scene, path),
            Command::Arg(list) => scene.declare(list, self.options, self.globals, escape)?,
            Command::Env(pairs) => scene.set_variables(pairs, escape)?,
            Command::Label(pairs) => scene.set_labels(pairs, escape)?,
            Command::Cmd(line) => scene.set_cmd(line),
            Command::Entrypoint(line) => scene.set_entrypoint(line),
            Command::Healthcheck(check) => scene.set_healthcheck(check, &instruction.flags)?,
            Command::Expose(list) => scene.expose(list, escape)?,
            Command::Volume(list) => scene.add_volumes(list, escape)?,
            Command::User(text) => scene.set_user(text, escape)?,
            Command::Shell(list) => scene.set_shell(list),
            Command::Stopsignal(text) => scene.set_stop_signal(text, escape)?,
            Command::Maintainer(text) => scene.set_maintainer(text),
            Command::Onbuild(text, _) => {
                scene.leave(text);
                String::new()
            }
        };
        Ok((Work::Say, said))
    }

    /// `WORKDIR`: the directory is made, for the user who is to work there.
    fn workdir(&self, scene: &mut Scene, path: &str) -> Result<(Work, String)> {
        let path = scene.words(self.escape).word(path)?;
        // An absolute one is kept as it was typed: that is what others see in the image.
        let said = if path.starts_with('/') { path } else { paths::absolute(&scene.workdir(), &path) };
        let history = format!("WORKDIR {said}");
        scene.config.working_dir = said;
        let work = match scene.workdir() {
            root if root == "/" => Work::Say,
            path => Work::MakeDir { path, user: scene.config.user.clone() },
        };
        Ok((work, history))
    }
}

/// Returns what a stage leaves to be done in those that stand on it.
fn left_by(part: &Part<'_>) -> Vec<Instruction> {
    let inner = part.instructions.iter().filter_map(|instruction| match &instruction.command {
        Command::Onbuild(_, inner) => Some(Instruction::clone(inner)),
        _ => None,
    });
    inner.collect()
}

/// Reads what an image leaves to be done.
fn parsed(texts: &[String]) -> Result<Vec<Instruction>> {
    let parsed = texts.iter().map(|text| {
        let instruction = syntax::parse_trigger(text)?;
        match instruction.command {
            Command::From { .. } | Command::Onbuild(..) | Command::Maintainer(_) => {
                let message = format!("a base cannot leave {text:?} to be done");
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
            _ => Ok(instruction),
        }
    });
    parsed.collect()
}
