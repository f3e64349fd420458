//! `run`: a command in a fork that is thrown away.

use std::ffi::OsString;

use nix::sys::signal::SigSet;
use rootling_backends::{Access, Kind, Result};

use super::detach::DetachFlags;
use super::live;
use super::start::{self, Place, Settings};
use super::{Context, Materialize, said, store};
use crate::process;
use crate::reference::Reference;
use crate::store::{Base, Name, Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct RunArguments {
    /// What to fork: a tree, a box as it stands, host:/
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

    #[command(flatten)]
    pub(super) detach: DetachFlags,

    #[command(flatten)]
    materialize: Materialize,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// The command [default: the tree's own, else the user's shell]
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
    for name in arguments.keep.iter().chain(&arguments.name) {
        live::require_free(&store, name)?;
    }
    // Nothing is forked for flags that are wrong.
    // What is found by nobody is joined by nobody.
    let joinable = arguments.name.is_some() || arguments.detach.detach;
    let flags = arguments.settings.flags(arguments.detach.log.limit(), joinable);
    let config = node.as_ref().map(|node| node.record.config.clone()).unwrap_or_default();
    let args = process::arguments(&config, arguments.entrypoint.as_deref(), arguments.command);
    let host = arguments.name.as_ref().map_or_else(|| label(&reference, node.as_ref()), ToString::to_string);
    let wanted = start::request(context, &store, flags, args, &config, &host)?;
    workers_take_no_signals(&store);
    let progress = context.output.progress(format!("forking {reference}"));
    let base = node.as_ref().map_or(Base::Host, Base::Node);
    let fork = store.ephemeral(base, arguments.materialize.options());
    drop(progress);
    let fork = fork?;
    context.output.cost(&format!("forked {reference}"), fork.backend(), fork.cost());
    let root = fork.open_parent(&store)?;
    let wanted = wanted.mounted(flags, &store, &root)?;
    let mut claimed = live::claim_fork(&store, &fork, arguments.name.as_ref())?;
    let id = fork.id().to_string();
    let place = Place {
        mount: fork.mount(&store, Access::ReadWrite, arguments.keep.is_none())?,
        root: &root,
        slot: fork.slot(),
        name: arguments.name.as_ref(),
        label: arguments.name.as_ref().map_or(id.as_str(), Name::as_str),
        id: &id,
    };
    let Some(code) = start::start(context, &wanted, flags, &place, &mut claimed)? else {
        return Ok(0);
    };
    drop(place);
    if let Some(name) = &arguments.keep {
        let kept = store.keep(fork, name)?;
        store::remember(&store, &kept);
        context.output.say(format!("kept as {}", kept.label()));
    } else {
        // Before the note is let go: whoever waits for the end finds nothing left.
        claimed.unlink(fork.slot());
        drop(fork);
    }
    drop(claimed);
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
