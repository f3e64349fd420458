//! Who makes an image: everything that a build needs, from the flags; then the build.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rootling_backends::{Error, ErrorKind, Result};

use super::super::mounts::Mounts;
use super::super::pull::When;
use super::super::run::start_quiet_workers;
use super::super::users::{self, Chosen};
use super::super::{BackendChoice, Context, store};
use super::Ended;
use super::flags::{Arguments, Entitlement, OnError, pairs};
use super::images::Images;
use super::progress::View;
use super::recipe::Recipe;
use crate::build;
use crate::build::context::{Loading, Place};
use crate::build::execute::{Build, Instead, begins_with, execute, reads};
use crate::build::explain::Explainer;
use crate::build::plan::{CopyStep, Ground, Plan, PlanOptions, Stage, Step, Work};
use crate::build::run::{Allow, Given, Stop, Template, Users};
use crate::build::syntax::Dockerfile;
use crate::build::work::{Files, Named, Workshop};
use crate::image::Platform;
use crate::runner::Entered;
use crate::store::{Node, Store};

/// Who makes an image.
pub(super) struct Maker<'a> {
    pub(super) context: &'a Context,
    pub(super) arguments: &'a Arguments,
    pub(super) store: &'a Store,
    pub(super) loading: &'a Loading<'a>,
    pub(super) given: &'a Given,
    /// Is nothing said where nothing has to be done?
    pub(super) quietly: bool,
}

/// What is to be made.
pub(super) struct Target<'a> {
    pub(super) plan: Plan,
    pub(super) main: Option<&'a Files>,
    pub(super) named: &'a BTreeMap<String, Named>,
    pub(super) images: BTreeMap<(String, String), Node>,
    /// What the recipe is called.
    pub(super) name: String,
}

impl Maker<'_> {
    /// Builds what a Dockerfile says.
    pub(super) fn build(&self, recipe: Recipe, file: &Dockerfile) -> Result<Ended> {
        let (context, store) = (self.context, self.store);
        let named = self.named_contexts()?;
        let trees = named.iter().filter_map(|(name, named)| match named {
            Named::Node(node) => Some((name.clone(), (**node).clone())),
            Named::Files(_) => None,
        });
        let trees = trees.collect();
        let mut images = Images { contexts: &trees, ..self.images() };
        let mut plan = build::plan::plan(file, &self.plan_options(&named)?, &mut images)?;
        for warning in &plan.warnings {
            let hint = warning.hint.as_deref().map_or_else(String::new, |hint| format!(": {hint}"));
            context.output.say(format!("rootling: {}{hint}", warning.message));
        }
        stand_on_files(&mut plan, &named);
        self.find_images(&plan, &mut images)?;
        let main = files(store, recipe.context)?;
        let stage = self.arguments.target.as_deref().unwrap_or_default();
        let name = format!("{} {stage}", recipe.name);
        self.make(Target { plan, main: Some(&main), named: &named, images: images.found, name })
    }

    /// Does what is planned, and what is to be done with it in the end.
    pub(super) fn make(&self, target: Target<'_>) -> Result<Ended> {
        let (context, arguments, store) = (self.context, self.arguments, self.store);
        let Target { plan, main, named, images, name } = target;
        for image in &arguments.cache_from {
            self.take_steps_of(image);
        }
        let explainer = Explainer::new(store, &name)?;
        start_quiet_workers();
        let stop = Stop::on_signals()?;
        let chosen = users::choose(context, store, &arguments.walls, false)?;
        let mounts = arguments.mounts.open(store, None, false)?;
        let template = self.template(&chosen, &mounts, stop)?;
        let shop = Workshop {
            store,
            main,
            contexts: named,
            images: &images,
            template: &template,
            loading: self.loading,
            keeps_caches_on_success: arguments.cache_on_success,
            backend: arguments.backend.and_then(BackendChoice::kind),
            explainer: &explainer,
            contents: Mutex::default(),
        };
        let view = View::new(context.output, arguments.progress, &plan.stages, &explainer, arguments.explain);
        let view = if self.quietly { view.without_cached() } else { view };
        let build = Build {
            store,
            stages: &plan.stages,
            target: plan.target,
            platform: &plan.platform,
            worker: &shop,
            no_cache: self.no_cache(&plan)?,
            jobs: self.jobs(),
            recipe: name.clone(),
            keeps_failed: arguments.on_error.map_or(main.is_some(), |what| what != OnError::Fail),
            instead: self.instead()?,
            report: &|event| view.tell(event),
        };
        let made = execute(&build);
        drop(view);
        save_notes(
            store,
            (&explainer, &plan.stages),
            main.into_iter().chain(named.values().filter_map(Named::files)),
        );
        match made {
            Ok(made) => self.finish(&plan, &made, &name),
            Err(failed) => self.failed(failed, &template.stop),
        }
    }

    /// Refuses what is settled for a box and means nothing for the steps of a build.
    pub(super) fn refuse_flags_of_boxes(&self) -> Result<()> {
        match self.arguments.walls.given_for_box() {
            Some(flag) => {
                let message = format!("{flag} is for boxes, and the steps of a build are none");
                Err(Error::new(ErrorKind::InvalidInput, message).hint(format!("leave out {flag}")))
            }
            None => Ok(()),
        }
    }

    /// Returns what finds images.
    pub(super) fn images(&self) -> Images<'_> {
        static NONE: BTreeMap<String, Node> = BTreeMap::new();
        let when = self.arguments.pull.unwrap_or(When::Missing);
        Images { context: self.context, store: self.store, when, contexts: &NONE, found: BTreeMap::new() }
    }

    /// Gets the contexts that were named: files, and images as trees of the store.
    fn named_contexts(&self) -> Result<BTreeMap<String, Named>> {
        let (arguments, store) = (self.arguments, self.store);
        let mut images = self.images();
        let platform = arguments.platform.clone().unwrap_or_else(Platform::host);
        let mut named = BTreeMap::new();
        for given in &arguments.build_context {
            let what = match &given.place {
                Place::Image(name) => Named::Node(Box::new(images.find(name, &platform)?)),
                Place::Layout(directory) => {
                    Named::Node(Box::new(images.find(&format!("oci:{directory}"), &platform)?))
                }
                place => Named::Files(Box::new(files(store, place.load_named(&given.name, self.loading)?)?)),
            };
            if named.insert(given.name.clone(), what).is_some() {
                let message = format!("the context {} is named twice", given.name);
                return Err(
                    Error::new(ErrorKind::InvalidInput, message).hint("leave out one --build-context")
                );
            }
        }
        Ok(named)
    }

    fn plan_options(&self, named: &BTreeMap<String, Named>) -> Result<PlanOptions> {
        let arguments = self.arguments;
        let mut args = BTreeMap::new();
        for text in &arguments.build_arg {
            match text.split_once('=') {
                Some(("", _)) => {
                    let message = format!("{text:?} is no build argument");
                    return Err(Error::new(ErrorKind::InvalidInput, message).hint("write NAME=VALUE"));
                }
                Some((name, value)) => drop(args.insert(name.to_owned(), value.to_owned())),
                // As in docker: one that we have not is not given.
                None => args.extend(std::env::var(text).ok().map(|value| (text.clone(), value))),
            }
        }
        if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
            args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
        }
        Ok(PlanOptions {
            target: arguments.target.clone(),
            args,
            platform: arguments.platform.clone(),
            build_platform: None,
            contexts: named.keys().cloned().collect(),
            labels: pairs(&arguments.label, "label")?,
            network: arguments.walls.net.of_steps(),
        })
    }

    /// Finds the images that files are taken from; those that stages stand on were found for the plan.
    fn find_images(&self, plan: &Plan, images: &mut Images<'_>) -> Result<()> {
        for stage in &plan.stages {
            if let Ground::Image(name) = &stage.ground {
                images.find(name, &stage.platform)?;
            }
            for step in &stage.steps {
                let read = reads(&step.work).into_iter().flatten().chain(begins_with(&step.work));
                for ground in read {
                    if let Ground::Image(name) = ground {
                        images.find(name, &plan.platform)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn no_cache(&self, plan: &Plan) -> Result<BTreeSet<usize>> {
        if self.arguments.no_cache {
            return Ok(plan.stages.iter().map(|stage| stage.number).collect());
        }
        let mut numbers = BTreeSet::new();
        for name in &self.arguments.no_cache_filter {
            let is_it = |stage: &&Stage| {
                stage.name.as_deref() == Some(&name.to_lowercase()) || stage.number.to_string() == *name
            };
            let stage = plan.stages.iter().find(is_it).ok_or_else(|| {
                let called = |stage: &Stage| stage.name.clone().unwrap_or_else(|| stage.number.to_string());
                let stages: Vec<String> = plan.stages.iter().map(called).collect();
                Error::new(ErrorKind::NotFound, format!("no stage {name:?} is needed for this build"))
                    .hint(format!("these are: {}", stages.join(", ")))
            })?;
            numbers.insert(stage.number);
        }
        for stage in &plan.stages {
            if matches!(stage.ground, Ground::Stage(number) if numbers.contains(&number)) {
                numbers.insert(stage.number);
            }
        }
        Ok(numbers)
    }

    fn jobs(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.arguments.jobs.map_or_else(processors, NonZeroUsize::get)
    }

    /// Returns what is done instead of the step that failed last.
    fn instead(&self) -> Result<Option<Instead>> {
        let (arguments, store) = (self.arguments, self.store);
        if !arguments.resume && arguments.adopt.is_none() {
            return Ok(None);
        }
        let failed = store.failure(0)?;
        let Some(step) = &failed.record.step else { return Ok(None) };
        let key = step.key.clone();
        let node = match &arguments.adopt {
            Some(text) => store::find(store, text)?,
            None => failed,
        };
        Ok(Some(Instead { key, node, resumes: arguments.resume }))
    }

    fn template(&self, chosen: &Chosen, mounts: &Mounts, stop: Arc<Stop>) -> Result<Template> {
        let (context, arguments) = (self.context, self.arguments);
        let walls = &arguments.walls;
        let (net, dns) = walls.net.settle(context, self.store)?;
        let mut users = Users::new(chosen.userns.clone(), chosen.optional);
        if let Entered::Single { reason, fix } = &context.entered {
            users = users.only_root(reason.clone(), fix.clone());
        }
        Ok(Template {
            program: PathBuf::from("/proc/self/exe"),
            users,
            security: walls.security(false)?,
            limits: walls.limits.limits()?,
            devices: walls.devices()?,
            hosts: arguments.mounts.hosts(&net)?,
            hostname: walls.hostname.clone(),
            sysctls: walls.sysctls()?,
            binds: mounts.binds.clone(),
            tmpfs: mounts.tmpfs.clone(),
            net,
            dns,
            shm_size: arguments.shm_size,
            allow: Allow {
                insecure: arguments.allow.contains(&Entitlement::Insecure),
                host_network: arguments.allow.contains(&Entitlement::HostNetwork),
            },
            given: self.given.clone(),
            stop,
        })
    }
}

fn files(store: &Store, context: crate::build::context::Context) -> Result<Files> {
    Ok(Files { hashes: store.file_hashes(context.root())?, context })
}

/// Lets stages that stand on files of a context begin with a copy of them.
fn stand_on_files(plan: &mut Plan, named: &BTreeMap<String, Named>) {
    for stage in &mut plan.stages {
        let Ground::Context(name) = &stage.ground else { continue };
        if !matches!(named.get(name), Some(Named::Files(_))) {
            continue;
        }
        let ground = std::mem::replace(&mut stage.ground, Ground::Scratch);
        let copy = CopyStep::of_all(build::plan::From::Ground(ground));
        let config = stage.steps.first().map_or(&stage.config, |first| &first.config).clone();
        let step = Step {
            lines: stage.lines,
            shown: stage.shown.clone(),
            created_by: String::new(),
            work: Work::Copy(copy),
            config,
            is_marked: false,
        };
        stage.steps.insert(0, step);
    }
}

/// Keeps what was learned for the next build; that this fails is no failure of the build.
fn save_notes<'a>(
    store: &Store,
    (explainer, stages): (&Explainer, &[Stage]),
    files: impl Iterator<Item = &'a Files>,
) {
    let steps = std::iter::once_with(|| explainer.save(store, stages));
    let saved = files.map(|files| files.hashes.save()).chain(steps);
    if let Err(error) = saved.collect::<Result<Vec<()>>>() {
        log::warn!("the next build will read more than it had to: {error}");
    }
}
