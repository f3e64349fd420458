//! `run`: a command in a fork that is thrown away.

use std::ffi::OsString;

use nix::sys::signal::SigSet;
use rootling_backends::{Access, Kind, Result};

use super::detach::DetachFlags;
use super::live::{self, Claimed};
use super::pull::PullWhen;
use super::start::{self, Flags, Place, Settings};
use super::{Context, Materialize, said, store};
use crate::process;
use crate::reference::Reference;
use crate::store::{Base, CreateOptions, Ephemeral, Name, Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct RunArguments {
    /// What to fork: an image, a tree, a box as it stands, host:/; docker://NAME is pulled if it is not there
    reference: String,

    /// Keep the fork as a box of this name
    #[arg(long, value_name = "NAME", value_parser = said(Name::parse))]
    keep: Option<Name>,

    /// Call it so while it runs
    #[arg(long, value_name = "NAME", value_parser = said(Name::parse))]
    name: Option<Name>,

    /// Program to run before the arguments, instead of the tree's own: a path, or a JSON list
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// Exit with this where it was not the command that failed: for `bisect`, to which 125 is the command's own
    #[arg(long, value_name = "CODE", default_value = "125", hide = true)]
    pub(super) failure_code: u8,

    #[command(flatten)]
    pub(super) detach: DetachFlags,

    #[command(flatten)]
    materialize: Materialize,

    #[command(flatten)]
    pull: PullWhen,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// The command [default: the tree's own, else the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn run(context: &Context, arguments: RunArguments) -> Result<i32> {
    let store = context.store()?;
    for name in arguments.keep.iter().chain(&arguments.name) {
        live::require_free(&store, name)?;
    }
    // What is found by nobody is joined by nobody.
    let joinable = arguments.name.is_some() || arguments.detach.detach;
    let wish = Wish {
        reference: &arguments.reference,
        pull: Some(&arguments.pull),
        name: arguments.name.as_ref(),
        entrypoint: arguments.entrypoint.as_deref(),
        command: arguments.command,
        flags: arguments.settings.flags(arguments.detach.log.limit(), joinable),
        options: arguments.materialize.options(),
        volatile: arguments.keep.is_none(),
    };
    let Some(ran) = in_fork(context, &store, wish)? else { return Ok(0) };
    let Some(name) = &arguments.keep else { return Ok(ran.throw_away()) };
    let Ran { code, fork, claimed, .. } = ran;
    let kept = store.keep(fork, name)?;
    store::remember(&store, &kept);
    context.output.say(format!("kept as {}", kept.label()));
    drop(claimed);
    Ok(code)
}

/// What is to be run in a fork.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) reference: &'a str,
    /// Whether it may have to be pulled.
    pub(super) pull: Option<&'a PullWhen>,
    /// What it is called while it runs.
    pub(super) name: Option<&'a Name>,
    /// Instead of the tree's own.
    pub(super) entrypoint: Option<&'a str>,
    pub(super) command: Vec<OsString>,
    pub(super) flags: Flags<'a>,
    pub(super) options: CreateOptions,
    /// Is it thrown away for certain?
    pub(super) volatile: bool,
}

/// A fork in which something was run.
#[derive(Debug)]
pub(super) struct Ran {
    /// The command's exit code.
    pub(super) code: i32,
    pub(super) fork: Ephemeral,
    pub(super) claimed: Claimed,
    /// What was forked; `None` for the host.
    pub(super) node: Option<Node>,
    /// The command as it was run.
    pub(super) command: String,
}

impl Ran {
    /// Drops the fork; returns the exit code.
    pub(super) fn throw_away(self) -> i32 {
        let Self { code, fork, claimed, .. } = self;
        // Before the note is let go: whoever waits for the end finds nothing left.
        claimed.unlink(fork.slot());
        drop(fork);
        drop(claimed);
        code
    }
}

/// Runs something in a fork; `None` where it was only printed.
pub(super) fn in_fork(context: &Context, store: &Store, wish: Wish<'_>) -> Result<Option<Ran>> {
    let Wish { flags, name, .. } = wish;
    let reference = wish.reference;
    let node = if Reference::is_host(reference) {
        context.require_root_for_host()?;
        None
    } else {
        Some(match wish.pull {
            Some(pull) => pull.find(context, store, reference)?,
            None => store::find(store, reference)?,
        })
    };
    // Nothing is forked for flags that are wrong.
    let config = node.as_ref().map(|node| node.record.config.clone()).unwrap_or_default();
    let args = process::arguments(&config, wish.entrypoint, wish.command);
    let command = args.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let host = name.map_or_else(|| label(node.as_ref()), ToString::to_string);
    let wanted = start::request(context, store, flags, args, &config, &host)?;
    workers_take_no_signals(store);
    let progress = context.output.progress(format!("forking {reference}"));
    let fork = store.ephemeral(node.as_ref().map_or(Base::Host, Base::Node), wish.options);
    drop(progress);
    let fork = fork?;
    context.output.cost(&format!("forked {reference}"), fork.backend(), fork.cost());
    let root = fork.open_parent(store)?;
    let wanted = wanted.mounted(flags, store, &root)?;
    let mut claimed = live::claim_fork(store, &fork, name)?;
    let id = fork.id().to_string();
    let place = Place {
        mount: fork.mount(store, Access::ReadWrite, wish.volatile)?,
        root: &root,
        slot: fork.slot(),
        name,
        label: name.map_or(id.as_str(), Name::as_str),
        id: &id,
    };
    let code = start::start(context, &wanted, flags, &place, &mut claimed)?;
    drop(place);
    Ok(code.map(|code| Ran { code, fork, claimed, node, command }))
}

fn label(node: Option<&Node>) -> String {
    node.map_or_else(|| "fork-of-host".to_owned(), |node| node.label().to_owned())
}

/// Threads that walk trees must leave signals to the one that runs the command.
///
/// Started here only where a fork will walk one: starting them costs 0.3 ms.
fn workers_take_no_signals(store: &Store) {
    if matches!(store.ephemeral_backend(), Kind::Reflink | Kind::Copy) {
        start_quiet_workers();
    }
}

/// Starts the threads that walk trees, where they do not run yet.
pub(super) fn start_quiet_workers() {
    let quiet = rayon::ThreadPoolBuilder::new().start_handler(|_| {
        // A thread that may not block signals still walks trees.
        SigSet::all().thread_block().unwrap_or_default();
    });
    // There is a pool already: then somebody else configured it.
    drop(quiet.build_global());
}
