//! `build`: an image from a Dockerfile, each step a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde::Serialize;

use super::mounts::MountFlags;
use super::output::Format;
use super::places::{self, PackFlags};
use super::pull::When;
use super::run::start_quiet_workers;
use super::users::{self, Chosen};
use super::walls::Walls;
use super::{BackendChoice, Context, said, store};
use crate::build;
use crate::build::context::{Loading, NamedContext, Place};
use crate::build::execute::{Build, Failed, Instead, Made, begins_with, execute, reads};
use crate::build::explain::Explainer;
use crate::build::plan::{CopyStep, Ground, Network, Plan, PlanOptions, Stage, Step, Work};
use crate::build::result::{self, Destination, ImageOptions, Layers, Output, annotation};
use crate::build::run::{Allow, Given, SecretFlag, SshFlag, Stop, Template, Users, parse_secret, parse_ssh};
use crate::build::syntax::{self, Dockerfile};
use crate::build::work::{Files, Named, Workshop};
use crate::image::{Digest, Platform};
use crate::runner::{self, Entered};
use crate::sources::{Fetch, Means};
use crate::store::{Name, Node, Store};
use crate::transfer::making;

mod by_hand;
mod images;
mod lint;
mod outputs;
mod progress;
mod recipe;

use images::Images;
use lint::Lint;
use progress::{Progress, View};
use recipe::Recipe;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(
        help = "Where files come from: a directory, a tar archive, - for standard input, a git repository, a URL; or a tree to run COMMAND in"
    )]
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: String,

    /// Run this in a fork of a tree instead, and keep what it changed if it exits with 0 [default: a shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// The Dockerfile, - for standard input [default: Dockerfile or Containerfile of the context]
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// What the image is called
    #[arg(short, long, value_name = "NAME[:TAG]", value_parser = said(tag))]
    tag: Vec<Name>,

    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Value of an ARG; without a value ours is passed on
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// A further place that files and images come from: NAME=DIRECTORY, NAME=oci-layout://DIRECTORY, NAME=docker-image://IMAGE, NAME=git repository or URL
    #[arg(long, value_name = "NAME=PLACE", value_parser = said(NamedContext::parse))]
    build_context: Vec<NamedContext>,

    /// A file or variable that RUN --mount=type=secret sees, and nobody else: id=ID,src=FILE or id=ID,env=NAME
    #[arg(long, value_name = "id=ID,...", value_parser = said(parse_secret))]
    secret: Vec<SecretFlag>,

    /// An ssh agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long, value_name = "ID[=SOCKET]", value_parser = said(parse_ssh))]
    ssh: Vec<SshFlag>,

    /// Allow what goes beyond the walls: security.insecure, network.host
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    allow: Vec<Entitlement>,

    /// Do every step, also where the same was done before
    #[arg(long)]
    no_cache: bool,

    /// Do every step of a stage
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,

    /// When to pull base images: missing, always, never [default: missing; always without a value]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pull: Option<When>,

    /// What it is to run on [default: this machine]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    platform: Option<Platform>,

    /// A label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// An annotation of the manifest
    #[arg(long, value_name = "NAME=VALUE", value_parser = said(annotation))]
    annotation: Vec<(String, String)>,

    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,

    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,

    #[arg(
        help = "Where the result goes: DIRECTORY, -, type=local|tar|oci|docker,dest=PATH, type=image,name=NAME,push=true, type=registry,name=NAME"
    )]
    #[arg(short, long, value_name = "OUTPUT", value_parser = said(Output::parse))]
    output: Vec<Output>,

    /// Send the image to the registry of its name
    #[arg(long, requires = "tag")]
    push: bool,

    /// Which steps become layers of the image: steps, one (also those of the base), base+1, marked (steps behind `# rootling: layer`)
    #[arg(long, value_enum, value_name = "WHICH", conflicts_with = "squash", default_value = "steps")]
    layers: LayersChoice,

    /// Make one layer of what was built: --layers base+1
    #[arg(long)]
    squash: bool,

    /// How the build is shown
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    progress: Progress,

    /// Say of each step whether it was there, and what differed first where it was not
    #[arg(long)]
    explain: bool,

    /// Look for what is allowed and unwise in the Dockerfile, and build nothing
    #[arg(long)]
    check: bool,

    /// Print what was read of the Dockerfile, and build nothing
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "check")]
    print: Option<Form>,

    /// How many steps are done at once [default: as many as there are processors]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// What happens when a step fails: keep what it left, to be entered as @fail; open a shell in it; or leave nothing
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    on_error: OnError,

    /// Do the step that failed last again in what it left
    #[arg(long, conflicts_with = "adopt")]
    resume: bool,

    /// Take a tree for the result of the step that failed last: a box that was made of @fail and repaired
    #[arg(long, value_name = "REF")]
    adopt: Option<String>,

    /// Keep what a step writes to its cache mounts only if it succeeds
    #[arg(long)]
    cache_on_success: bool,

    /// Bytes of /dev/shm: 64m
    #[arg(long, value_name = "SIZE", value_parser = said(crate::runner::cgroup::parse_size))]
    shm_size: Option<u64>,

    /// Backend that makes the trees [default: the store's for what is thrown away]
    #[arg(long, value_enum)]
    backend: Option<BackendChoice>,

    #[command(flatten)]
    pub(super) walls: Walls,

    #[command(flatten)]
    mounts: MountFlags,
}

/// What was read of a Dockerfile, as text or as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// An instruction a line
    Ast,
    /// With flags, arguments, heredocs and lines
    Json,
}

/// Which steps become layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LayersChoice {
    /// Each that changed files
    Steps,
    /// One, also of what the base has
    One,
    /// One, on those of the base
    #[value(name = "base+1")]
    BaseAndOne,
    /// Those behind a comment `# rootling: layer`, and the last
    Marked,
}

/// What happens when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    /// What it left can be entered as @fail
    Keep,
    /// The same, and a shell is opened in it
    Shell,
    /// What it left is thrown away
    Fail,
}

/// What steps may ask for beyond the walls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entitlement {
    Insecure,
    HostNetwork,
}

impl std::str::FromStr for Entitlement {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "security.insecure" => Ok(Self::Insecure),
            "network.host" => Ok(Self::HostNetwork),
            _ => Err("write security.insecure or network.host".to_owned()),
        }
    }
}

/// Reads the name of an image: without a tag it is `latest`.
fn tag(text: &str) -> Result<Name> {
    let reference = crate::image::ImageReference::parse(text)?;
    if reference.digest().is_some() {
        let message = format!("{text:?} says what the image is to be");
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave out the digest"));
    }
    Name::parse(&reference.default_name())
}

/// Reads `NAME=VALUE`.
fn pairs(texts: &[String], what: &str) -> Result<BTreeMap<String, String>> {
    let split = |text: &String| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is no {what}")).hint("write NAME=VALUE")
        })
    };
    texts.iter().map(split).collect()
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    outputs::check(&arguments.output)?;
    arguments.walls.check()?;
    let store = context.store()?;
    let make_client = places::anonymous(context);
    let (fetch, scratch) = (Fetch::new(&make_client), store.root().join("tmp"));
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let means = Means {
        fetch: &fetch,
        scratch: &scratch,
        bind: runner::ends_with_caller,
        source_date_epoch: epoch.as_deref(),
        tell: &|_| {},
    };
    let given = Given::read(&arguments.secret, &arguments.ssh, |name| std::env::var_os(name))?;
    let header = git_header(&given);
    let loading = Loading::new(&store, &means, header.as_deref());
    let maker = Maker { context, arguments, store: &store, loading: &loading, given: &given };
    if !arguments.command.is_empty() {
        return maker.build_by_command(&arguments.context, &arguments.command);
    }
    if maker.means_a_tree() {
        return maker.build_by_shell(&arguments.context);
    }
    let recipe = Recipe::load(&Place::parse(&arguments.context)?, arguments.file.as_deref(), &loading)?;
    let file =
        syntax::parse(&recipe.text).map_err(|error| error.context(format!("read {}", recipe.shown)))?;
    if let Some(form) = arguments.print {
        return Ok(print(context, &file, form));
    }
    let lint = Lint { context, store: &store, recipe: &recipe, file: &file };
    if arguments.check {
        return lint.print();
    }
    lint.demand()?;
    maker.build(recipe, &file)
}

/// Returns what git shows servers of http, as BuildKit has it: the secret `GIT_AUTH_HEADER`, or `GIT_AUTH_TOKEN` as a password.
fn git_header(given: &Given) -> Option<String> {
    let text = |id| given.secret(id).and_then(|secret| std::str::from_utf8(secret).ok()).map(str::trim);
    if let Some(header) = text("GIT_AUTH_HEADER") {
        return Some(format!("Authorization: {header}"));
    }
    let token = text("GIT_AUTH_TOKEN")?;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
    Some(format!("Authorization: basic {basic}"))
}

/// Prints what was read.
fn print(context: &Context, file: &Dockerfile, form: Form) -> i32 {
    match form {
        Form::Ast => context.output.raw(syntax::to_text(file).as_bytes()),
        Form::Json => {
            let text = serde_json::to_string_pretty(&syntax::to_json(file)).expect("it has text for keys");
            context.output.raw(format!("{text}\n").as_bytes());
        }
    }
    0
}

/// Who makes an image.
struct Maker<'a> {
    context: &'a Context,
    arguments: &'a Arguments,
    store: &'a Store,
    loading: &'a Loading<'a>,
    given: &'a Given,
}

/// What is to be made.
struct Target<'a> {
    plan: Plan,
    main: Option<&'a Files>,
    named: &'a BTreeMap<String, Named>,
    images: BTreeMap<(String, String), Node>,
    /// What the recipe is called.
    name: String,
}

impl Maker<'_> {
    /// Builds what a Dockerfile says.
    fn build(&self, recipe: Recipe, file: &Dockerfile) -> Result<i32> {
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
    fn make(&self, target: Target<'_>) -> Result<i32> {
        let (context, arguments, store) = (self.context, self.arguments, self.store);
        let Target { plan, main, named, images, name } = target;
        let explainer = Explainer::new(store, &name)?;
        start_quiet_workers();
        let stop = Stop::on_signals()?;
        let chosen = users::choose(context, store, &arguments.walls, false)?;
        let template = self.template(&chosen, stop)?;
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
        let build = Build {
            store,
            stages: &plan.stages,
            target: plan.target,
            platform: &plan.platform,
            worker: &shop,
            no_cache: self.no_cache(&plan)?,
            jobs: self.jobs(),
            recipe: name.clone(),
            keeps_failed: arguments.on_error != OnError::Fail,
            instead: self.instead()?,
            report: &|event| view.tell(event),
        };
        let made = execute(&build);
        drop(view);
        save_notes(store, &explainer, main.into_iter().chain(named.values().filter_map(Named::files)));
        match made {
            Ok(made) => self.finish(&plan, &made, &name),
            Err(failed) => self.failed(failed, &template.stop),
        }
    }

    /// Returns what finds images.
    fn images(&self) -> Images<'_> {
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
            network: Network::Default,
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
                Error::new(ErrorKind::NotFound, format!("no stage {name:?} is needed for this build"))
            })?;
            numbers.insert(stage.number);
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

    fn template(&self, chosen: &Chosen, stop: Arc<Stop>) -> Result<Template> {
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

    /// Makes what was built an image, and sends it where it is to go.
    fn finish(&self, plan: &Plan, made: &Made, recipe: &str) -> Result<i32> {
        let (context, arguments, store) = (self.context, self.arguments, self.store);
        let mut annotations: BTreeMap<String, String> = arguments.annotation.iter().cloned().collect();
        annotations.extend(arguments.output.iter().flat_map(|output| output.annotations.clone()));
        let layers = match (arguments.squash, arguments.layers) {
            (true, _) | (_, LayersChoice::BaseAndOne) => Layers::BaseAndOne,
            (_, LayersChoice::Steps) => Layers::Steps,
            (_, LayersChoice::One) => Layers::One,
            (_, LayersChoice::Marked) => Layers::Marked,
        };
        let options = ImageOptions { layers, annotations, recipe: Some(recipe.to_owned()) };
        let image = result::image(store, plan, &made.line, made.base.node.as_ref(), &options)?;
        let mut names = arguments.tag.clone();
        for output in &arguments.output {
            if let Destination::Image { names: more, .. } = &output.destination {
                names.extend(more.iter().map(|name| tag(name)).collect::<Result<Vec<_>>>()?);
            }
        }
        let node = store.publish_built(image.top.as_ref(), &names, image.config, image.built)?;
        store::remember(store, &node);
        self.write_files(&node, &names)?;
        if (arguments.resume || arguments.adopt.is_some()) && !made.used_instead {
            context.output.say("the step that failed last was not to be done in this build: nothing was taken of it");
        }
        let known = if made.done == 0 { "all of it was there".to_owned() } else { steps(made) };
        match names.first() {
            Some(name) => context.output.say(format!("built {name}: {known}")),
            None => context.output.say(format!("built {}: {known}", node.id)),
        }
        outputs::send_all(context, store, &node, &arguments.output, self.loading)?;
        if arguments.push {
            let names: Vec<String> = arguments.tag.iter().map(Name::to_string).collect();
            outputs::push_all(context, store, &node, &names, &PackFlags::usual()?)?;
        }
        if !arguments.output.iter().any(Output::is_stdout) {
            self.print(&node, &names, made);
        }
        Ok(0)
    }

    fn print(&self, node: &Node, names: &[Name], made: &Made) {
        let output = self.context.output;
        if output.format == Format::Json {
            output.line(&Row {
                event: "built",
                id: node.id.as_str(),
                names: names.iter().map(Name::as_str).collect(),
                cached: made.cached,
                done: made.done,
            });
        } else {
            output.raw(format!("{}\n", node.id).as_bytes());
        }
    }

    /// Writes what `--iidfile` and `--metadata-file` ask for; for digests the layers have to be made.
    fn write_files(&self, node: &Node, names: &[Name]) -> Result<()> {
        let arguments = self.arguments;
        if arguments.iidfile.is_none() && arguments.metadata_file.is_none() {
            return Ok(());
        }
        let blobs = self.store.blobs()?;
        let line = self.store.line_of(node)?;
        let made = making::make(&blobs, &line, &PackFlags::usual()?, &|_| {})?;
        if let Some(path) = &arguments.iidfile {
            let id = Digest::sha256_of(&made.config).to_string();
            std::fs::write(path, id).context(|| format!("write({path:?})"))?;
        }
        if let Some(path) = &arguments.metadata_file {
            let names: Vec<String> = names.iter().map(Name::to_string).collect();
            let said = result::metadata(&made, &names);
            let text = serde_json::to_string_pretty(&said).expect("it has text for keys");
            std::fs::write(path, format!("{text}\n")).context(|| format!("write({path:?})"))?;
        }
        Ok(())
    }

    fn failed(&self, failed: Failed, stop: &Stop) -> Result<i32> {
        if let Some(signal) = stop.signal() {
            self.context.output.say("rootling: the build was ended; what was done of it is there");
            return Ok(128 + signal);
        }
        let error = failed.error.context("build");
        let Some(left) = failed.left else { return Err(error) };
        let error = error.hint(format!("enter it: rootling enter @fail ({})", left.id));
        if self.arguments.on_error == OnError::Shell {
            self.context.output.error(&error);
            return self.shell();
        }
        Err(error)
    }

    /// Opens a shell in what a step left.
    fn shell(&self) -> Result<i32> {
        let mut program = std::process::Command::new("/proc/self/exe");
        program.arg("--root").arg(self.context.store_path()?).args(["enter", "@fail"]);
        if let Some((name, value)) = self.context.as_entered() {
            program.env(name, value);
        }
        let status = program.status().context(|| "execute \"/proc/self/exe\"")?;
        Ok(if status.success() { 1 } else { status.code().unwrap_or(1) })
    }
}

/// What is printed of an image that was built.
#[derive(Debug, Serialize)]
struct Row<'a> {
    event: &'static str,
    id: &'a str,
    names: Vec<&'a str>,
    cached: usize,
    done: usize,
}

fn steps(made: &Made) -> String {
    let done = if made.done == 1 { "1 step".to_owned() } else { format!("{} steps", made.done) };
    match made.cached {
        0 => done,
        1 => format!("{done}, 1 was there"),
        cached => format!("{done}, {cached} were there"),
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
fn save_notes<'a>(store: &Store, explainer: &Explainer, files: impl Iterator<Item = &'a Files>) {
    let saved = files.map(|files| files.hashes.save()).chain(std::iter::once_with(|| explainer.save(store)));
    if let Err(error) = saved.collect::<Result<Vec<()>>>() {
        log::warn!("the next build will read more than it had to: {error}");
    }
}
