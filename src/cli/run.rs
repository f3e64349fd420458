//! `run`: a command in a fork that is thrown away.

use std::ffi::OsString;

use nix::sys::signal::SigSet;
use rootling_backends::{Access, Error, ErrorKind, Kind, Result};

use super::mounts::MountFlags;
use super::start::{self, Flags};
use super::surroundings::Surroundings;
use super::walls::Walls;
use super::{Context, Materialize, said, store};
use crate::reference::Reference;
use crate::store::{Base, Name, Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct RunArguments {
    /// What to fork: a tree, a box as it stands, host:/
    reference: String,

    /// Keep the fork as a box of this name
    #[arg(long, value_name = "NAME", value_parser = said(Name::parse))]
    keep: Option<Name>,

    #[command(flatten)]
    materialize: Materialize,

    #[command(flatten)]
    pub(super) walls: Walls,

    #[command(flatten)]
    surroundings: Surroundings,

    #[command(flatten)]
    mounts: MountFlags,

    /// The command [default: the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn run(context: &Context, arguments: RunArguments) -> Result<i32> {
    let store = context.store()?;
    let reference = Reference::parse(&arguments.reference)?;
    let node = match &reference {
        Reference::Host => {
            context.require_root_for_host()?;
            None
        }
        Reference::Node { .. } => Some(store::find(&store, &arguments.reference)?),
    };
    if let Some(name) = &arguments.keep
        && store.resolve_name(name)?.is_some()
    {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("the name {name} is taken"))
            .hint("choose another name"));
    }
    // Nothing is forked for flags that are wrong.
    let RunArguments { walls, surroundings, mounts, .. } = &arguments;
    let flags = Flags { walls, surroundings, mounts, joinable: false };
    let label = label(&reference, node.as_ref());
    let wanted = start::request(context, &store, flags, arguments.command.clone(), &label)?;
    workers_take_no_signals(&store);
    let progress = context.output.progress(format!("forking {reference}"));
    let base = node.as_ref().map_or(Base::Host, Base::Node);
    let fork = store.ephemeral(base, arguments.materialize.options());
    drop(progress);
    let fork = fork?;
    context.output.cost(&format!("forked {reference}"), fork.backend(), fork.cost());
    let root = fork.open_parent(&store)?;
    let wanted = wanted.mounted(flags, &store, &root)?;
    let mount = fork.mount(&store, Access::ReadWrite, arguments.keep.is_none())?;
    let Some(code) = start::start(context, &wanted, flags, mount, &root, |_| {})? else {
        return Ok(0);
    };
    if let Some(name) = &arguments.keep {
        let kept = store.keep(fork, name)?;
        store::remember(&store, &kept);
        context.output.say(format!("kept as {}", kept.label()));
    }
    Ok(code)
}

fn label(reference: &Reference, node: Option<&Node>) -> String {
    match (reference, node) {
        (Reference::Host, _) | (_, None) => "fork-of-host".to_owned(),
        (_, Some(node)) => node.label().to_owned(),
    }
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
