//! Building without a Dockerfile: a command in a fork of a tree, whose changes are kept if it succeeds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::Instant;

use rootling_backends::{Error, ErrorKind, Result};

use super::super::run::{Ran, Wish, in_fork};
use super::super::start::Flags;
use super::super::surroundings::Surroundings;
use super::super::{BackendChoice, store};
use super::Ended;
use super::flags::pairs;
use super::maker::{Maker, Target};
use crate::build::context::Place;
use crate::build::execute::{End, Made};
use crate::build::plan::{Ground, Network, Plan, RunStep, Security, Stage, Step, Work};
use crate::image::{Digest, ImageConfig, Platform};
use crate::runner::DEFAULT_PATH;
use crate::runner::log::DEFAULT_LIMIT;
use crate::store::{CreateOptions, Node, StepRecord};

impl Maker<'_> {
    /// Runs a command in a fork of `reference`, as a step like any other: what was done before is not done again.
    pub(super) fn build_by_command(&self, reference: &str, command: &[OsString]) -> Result<Ended> {
        self.refuse_recipe_flags()?;
        self.refuse_flags_of_boxes()?;
        let args = command.iter().map(|word| {
            word.to_str().map(str::to_owned).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, format!("{word:?} is no text"))
                    .hint("an image's history is text: write the command into a file, and run that")
            })
        });
        let args = args.collect::<Result<Vec<String>>>()?;
        let platform = self.arguments.platform.clone().unwrap_or_else(Platform::host);
        let mut images = self.images();
        let node = images.find(reference, &platform)?;
        let plan = self.plan_of(reference, &node, args, platform)?;
        let name = format!("by hand {reference}");
        self.make(Target { plan, main: None, named: &BTreeMap::new(), images: images.found, name })
    }

    /// Opens a shell in a fork of `reference`; leaving it with 0 keeps what was done.
    pub(super) fn build_by_shell(&self, reference: &str) -> Result<Ended> {
        self.refuse_recipe_flags()?;
        self.refuse_step_flags(reference)?;
        if !std::io::stdin().is_terminal() {
            let message = format!(
                "{reference} is no context of a build, and nobody is at a terminal for a shell in it"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint(format!("say what to run: rootling build {reference} -- COMMAND")));
        }
        let (context, arguments, store) = (self.context, self.arguments, self.store);
        let surroundings = Surroundings::default();
        let flags = Flags {
            walls: &arguments.walls,
            surroundings: &surroundings,
            mounts: &arguments.mounts,
            kept: None,
            log_limit: DEFAULT_LIMIT,
            joinable: false,
            autosnap: false,
            trigger: None,
        };
        let platform = arguments.platform.clone().unwrap_or_else(Platform::host);
        let base = self.images().find(reference, &platform)?;
        let options = CreateOptions {
            backend: arguments.backend.and_then(BackendChoice::kind),
            ..CreateOptions::default()
        };
        let shell = vec![OsString::from("/bin/sh")];
        let wish = Wish {
            reference: base.id.as_str(),
            pull: None,
            name: None,
            entrypoint: Some(""),
            command: shell,
            flags,
            options,
            volatile: false,
        };
        let began = Instant::now();
        let Some(Ran { code, fork, claimed, .. }) = in_fork(context, store, wish)? else {
            return Ok(Ended::with(0));
        };
        claimed.unlink(fork.slot());
        if code != 0 {
            context.output.say(format!("the shell ended with {code}: nothing is kept"));
            return Ok(Ended::with(code));
        }
        let plan = self.plan_of(reference, &base, vec!["/bin/sh".to_owned()], platform)?;
        let name = format!("by hand {reference}");
        let step = StepRecord {
            key: Digest::sha256_of(format!("{} by hand in {}", base.id, fork.id()).as_bytes()),
            recipe: Some(name.clone()),
            stage: "0".to_owned(),
            number: 1,
            shown: format!("a shell in {reference}"),
            fields: Vec::new(),
            flags: Default::default(),
            failure: None,
            adopted: true,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let node = store.commit_step(fork, step, base.record.config.clone())?;
        drop(claimed);
        let base = End { identity: None, node: Some(base) };
        let end = End { identity: None, node: Some(node.clone()) };
        let made =
            Made { end, base, line: vec![(0, vec![Some(node)])], cached: 0, done: 1, used_instead: false };
        self.finish(&plan, &made, &name)
    }

    /// Is it a tree of the store that was named, and no context?
    pub(super) fn means_a_tree(&self) -> bool {
        let (arguments, text) = (self.arguments, self.arguments.context.as_str());
        arguments.file.is_none()
            && matches!(Place::parse(text), Ok(Place::Path(path)) if !path.exists())
            && store::find(self.store, text).is_ok()
    }

    /// Returns how what is made on a tree is run: as that is, with the labels that were given.
    fn config_on(&self, node: &Node) -> Result<ImageConfig> {
        let mut config = node.record.config.clone();
        config.labels.extend(pairs(&self.arguments.label, "label")?);
        Ok(config)
    }

    /// Returns the plan of one command on one tree.
    fn plan_of(&self, reference: &str, node: &Node, args: Vec<String>, platform: Platform) -> Result<Plan> {
        let config = self.config_on(node)?;
        let run = run_step(args, &config, self.arguments.walls.net.of_steps());
        Ok(plan(reference, config, run, platform))
    }

    fn refuse_recipe_flags(&self) -> Result<()> {
        let arguments = self.arguments;
        let given = [
            (arguments.file.is_some(), "--file"),
            (arguments.target.is_some(), "--target"),
            (!arguments.build_arg.is_empty(), "--build-arg"),
            (!arguments.build_context.is_empty(), "--build-context"),
            (!arguments.no_cache_filter.is_empty(), "--no-cache-filter"),
            (!arguments.secret.is_empty(), "--secret"),
            (!arguments.ssh.is_empty(), "--ssh"),
            (!arguments.allow.is_empty(), "--allow"),
            (arguments.cache_on_success, "--cache-on-success"),
            (arguments.check, "--check"),
            (arguments.print.is_some(), "--print"),
        ];
        refuse(&given, "for a Dockerfile, and there is none", "leave it out, or the command")
    }

    /// Refuses what means nothing for a shell, which is done each time and kept only if it is left with 0.
    fn refuse_step_flags(&self, reference: &str) -> Result<()> {
        let arguments = self.arguments;
        let given = [
            (!arguments.cache_from.is_empty(), "--cache-from"),
            (arguments.explain, "--explain"),
            (arguments.on_error.is_some(), "--on-error"),
            (arguments.resume, "--resume"),
            (arguments.adopt.is_some(), "--adopt"),
            (arguments.shm_size.is_some(), "--shm-size"),
        ];
        let hint = format!("leave it out, or say what to run: rootling build {reference} -- COMMAND");
        refuse(&given, "for steps, and a shell is none", hint)
    }
}

/// Refuses the first of these flags that was given.
fn refuse(flags: &[(bool, &str)], why: &str, hint: impl Into<std::borrow::Cow<'static, str>>) -> Result<()> {
    match flags.iter().find(|(is_given, _)| *is_given) {
        Some((_, flag)) => Err(Error::new(ErrorKind::InvalidInput, format!("{flag} is {why}")).hint(hint)),
        None => Ok(()),
    }
}

fn plan(reference: &str, config: ImageConfig, run: RunStep, platform: Platform) -> Plan {
    let step = Step {
        lines: (0, 0),
        created_by: format!("RUN {} # rootling", run.args.join(" ")),
        shown: format!("RUN {}", serde_json::to_string(&run.args).expect("a list of text")),
        work: Work::Run(run),
        config: config.clone(),
        is_marked: false,
    };
    let stage = Stage {
        number: 0,
        name: None,
        lines: (0, 0),
        shown: format!("FROM {reference}"),
        ground: Ground::Image(reference.to_owned()),
        platform: platform.clone(),
        needs: Vec::new(),
        steps: vec![step],
        config,
        author: String::new(),
    };
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    Plan { stages: vec![stage], target: 0, platform, epoch, warnings: Vec::new() }
}

fn run_step(args: Vec<String>, config: &ImageConfig, network: Network) -> RunStep {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut env: std::collections::BTreeMap<String, String> = config.env.iter().map(pair).collect();
    env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    let workdir = if config.working_dir.is_empty() { "/" } else { config.working_dir.as_str() };
    RunStep {
        args,
        files: Vec::new(),
        env,
        quiet_env: Default::default(),
        user: config.user.clone(),
        workdir: workdir.to_owned(),
        mounts: Vec::new(),
        network,
        security: Security::Sandbox,
    }
}
