//! `fork`: a tree or a box as it stands, once or many times, and a command in each of the forks.

use std::ffi::OsString;
use std::num::NonZeroUsize;

use rootling_backends::{Cost, Error, ErrorKind, Result};

use super::create::{self, IdentityChoice};
use super::home::HomeFlag;
use super::start::Settings;
use super::{Context, Materialize, live, said, show, store};
use crate::reference::Reference;
use crate::store::{Base, CreateOptions, Name, Node, Store};

mod each;
mod report;
mod view;

pub(super) use each::words as settings;

#[derive(Debug, clap::Args)]
pub(super) struct ForkArguments {
    /// What is forked: a tree, or a box as it stands now
    reference: String,

    /// Name of the fork; with --count, what the names begin with [default: the name of what is forked, with a number]
    #[arg(value_parser = said(Name::parse))]
    name: Option<Name>,

    /// Make so many, all of one state: NAME-1, NAME-2 and so on; names that are taken are left out
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: Option<u32>,

    /// Run a line of shell in each (/bin/sh -c), and report how it ended, how long it took and what it changed; a command
    /// without a shell goes after `--`
    ///
    /// ROOTLING_INDEX (from 1), ROOTLING_COUNT and ROOTLING_BOX tell the commands apart. What each says is kept: see
    /// `rootling logs`. The exit code is 0 if all ended with 0, else 1.
    #[arg(long, value_name = "LINE", group = "run")]
    each: Option<String>,

    /// Run so many at the same time [default: the number of processors]
    #[arg(short, long, value_name = "NUMBER", requires = "run")]
    jobs: Option<NonZeroUsize>,

    /// Keep also the forks whose command failed
    #[arg(long, requires = "run")]
    keep_failed: bool,

    /// Whether the forks stay the machine that they are made of [default: new with --count, else keep]
    ///
    /// A new one gets a machine id, a host name and a random seed of its own, and no ssh host keys: `ssh-keygen -A`, which
    /// distributions run before sshd starts, makes them.
    #[arg(long, value_enum)]
    identity: Option<IdentityChoice>,

    #[command(flatten)]
    materialize: Materialize,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// Command to run in each, without a shell
    #[arg(last = true, value_name = "COMMAND", group = "run")]
    command: Vec<OsString>,
}

impl ForkArguments {
    /// Does it run commands?
    pub(super) fn runs(&self) -> bool {
        self.each.is_some() || !self.command.is_empty()
    }

    /// Returns what is run in each fork.
    fn command(&self) -> Option<Vec<OsString>> {
        match &self.each {
            Some(line) => Some(vec!["/bin/sh".into(), "-c".into(), line.into()]),
            None => Some(self.command.clone()).filter(|command| !command.is_empty()),
        }
    }

    fn options(&self) -> CreateOptions {
        let usual = if self.count.is_some() { IdentityChoice::New } else { IdentityChoice::Keep };
        let identity = self.identity.unwrap_or(usual).identity();
        CreateOptions { identity, ..self.materialize.options() }
    }
}

pub(super) fn fork(context: &Context, arguments: &ForkArguments) -> Result<i32> {
    let store = context.store()?;
    let command = arguments.command();
    refuse_flags_without_use(context, arguments)?;
    if let (None, None) = (arguments.count, &command) {
        return fork_once(context, &store, arguments).map(|()| 0);
    }
    if command.is_some() {
        each::take_signals_later();
    }
    let progress = context.output.progress(format!("forking {}", arguments.reference));
    let nodes = fork_all(context, &store, arguments);
    drop(progress);
    let nodes = nodes?;
    say_cost(context, &arguments.reference, &nodes);
    let Some(command) = command else {
        store::remember(&store, &nodes[0]);
        let made: Result<Vec<_>> = nodes.iter().map(|node| show::summary(&store, node)).collect();
        let names = || nodes.iter().map(|node| format!("{}\n", node.label())).collect();
        context.output.data(&made?, names);
        return Ok(0);
    };
    let jobs = arguments.jobs.or_else(|| std::thread::available_parallelism().ok());
    let ran = each::run(context, &store, &nodes, &command, jobs.map_or(1, NonZeroUsize::get))?;
    report::finish(context, &store, &nodes, &ran, arguments.keep_failed)
}

/// What is meant for commands needs one.
fn refuse_flags_without_use(context: &Context, arguments: &ForkArguments) -> Result<()> {
    let settings = &context.settings;
    if !arguments.runs() && !settings.is_empty() {
        let flag = settings[0].to_string_lossy();
        let flag = flag.split('=').next().unwrap_or_default();
        let message = format!("{flag} is of a command that runs in the fork, and none was given");
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("say which: --each 'LINE OF SHELL', or -- COMMAND at the end"));
    }
    if arguments.settings.walls.dry_run {
        return Err(Error::new(ErrorKind::InvalidInput, "--dry-run is of a single command")
            .hint(format!("rootling exec --dry-run {} COMMAND", arguments.reference)));
    }
    Ok(())
}

fn fork_once(context: &Context, store: &Store, arguments: &ForkArguments) -> Result<()> {
    let make = |name: &Name| {
        let home = HomeFlag::default();
        let base = base(store, &arguments.reference)?;
        create::make(context, store, &arguments.reference, base, name, arguments.options(), home)
    };
    if let Some(name) = &arguments.name {
        return make(name);
    }
    // Somebody else may take the number that was free: then the next one.
    loop {
        match make(&free_name(store, &arguments.reference)?) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
}

/// Returns what is forked; `None` for the running machine.
fn base(store: &Store, reference: &str) -> Result<Option<Node>> {
    if Reference::is_host(reference) { Ok(None) } else { store::find(store, reference).map(Some) }
}

fn fork_all(context: &Context, store: &Store, arguments: &ForkArguments) -> Result<Vec<Node>> {
    let node = base(store, &arguments.reference)?;
    if node.is_none() {
        context.require_root_for_host()?;
    }
    let base = node.as_ref().map_or(Base::Host, Base::Node);
    let stem = stem(store, arguments)?;
    loop {
        let names = match (arguments.count, &arguments.name) {
            (Some(count), _) => free_names(store, &stem, count as usize)?,
            (None, Some(name)) => live::require_free(store, name).map(|()| vec![name.clone()])?,
            (None, None) => vec![free_name(store, &arguments.reference)?],
        };
        match store.create_all(base, &names, &arguments.options()) {
            // Somebody else took a number that was free.
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists
                    && (arguments.count.is_some() || arguments.name.is_none()) => {}
            made => {
                let made = made?;
                create::warn_of_host(context, &made[0]);
                return Ok(made);
            }
        }
    }
}

/// What the names of forks begin with.
fn stem(store: &Store, arguments: &ForkArguments) -> Result<String> {
    match &arguments.name {
        Some(name) => Ok(name.to_string()),
        None => usual_stem(store, &arguments.reference),
    }
}

/// Returns a name for one fork that nobody has named: the stem with a number. Looks up a few names, however many are taken.
pub(super) fn free_name(store: &Store, reference: &str) -> Result<Name> {
    let stem = usual_stem(store, reference)?;
    let name = |number: u64| Name::parse(&format!("{stem}-{number}"));
    let is_free = |number: u64| live::is_taken(store, &name(number)?).map(|taken| !taken);
    let (mut taken, mut free) = (1, 2);
    while !is_free(free)? {
        (taken, free) = (free, free * 2);
    }
    while free - taken > 1 {
        let middle = taken.midpoint(free);
        if is_free(middle)? { free = middle } else { taken = middle }
    }
    name(free)
}

fn usual_stem(store: &Store, reference: &str) -> Result<String> {
    Ok(match Reference::parse(reference)? {
        Reference::Host => "host".to_owned(),
        Reference::Node { .. } => store::find(store, reference)?.label().replace('@', "-"),
    })
}

/// Returns names that nothing has: the stem with the first numbers that are free.
fn free_names(store: &Store, stem: &str, count: usize) -> Result<Vec<Name>> {
    let (names, running) = (store.names()?, live::names_of_forks(store)?);
    let is_free = |name: &Name| !names.contains_key(name) && !running.contains(name);
    let candidates = (1_u32..).map(|number| Name::parse(&format!("{stem}-{number}")));
    candidates.filter(|name| name.as_ref().map_or(true, is_free)).take(count).collect()
}

/// Says what all of them cost together.
fn say_cost(context: &Context, reference: &str, nodes: &[Node]) {
    let mut total = Cost::default();
    for Cost {
        snapshots,
        directories,
        files_cloned,
        files_copied,
        others,
        bytes_cloned,
        bytes_copied,
        copied_because,
        elapsed,
    } in nodes.iter().map(|node| &node.record.cost)
    {
        total.snapshots += snapshots;
        total.directories += directories;
        total.files_cloned += files_cloned;
        total.files_copied += files_copied;
        total.others += others;
        total.bytes_cloned += bytes_cloned;
        total.bytes_copied += bytes_copied;
        total.elapsed += *elapsed;
        if total.copied_because.is_empty() {
            total.copied_because.clone_from(copied_because);
        }
    }
    let names = match nodes {
        [one] => one.label().to_owned(),
        [first, .., last] => format!("{} ... {} ({} boxes)", first.label(), last.label(), nodes.len()),
        [] => return,
    };
    context.output.cost(&format!("forked {reference} as {names}"), nodes[0].record.backend, &total);
}
