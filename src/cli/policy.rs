//! `policy`: when a box is snapshotted by itself, and which of its snapshots stay.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::keep::{KeepBuilds, KeepFlags, KeepRemoved};
use super::{Context, autosnap, prune, said, store};
use crate::store::{Node, Policy, State, Store, Trigger};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The box
    #[arg(value_name = "BOX", required = true)]
    reference: Option<String>,

    /// When to snapshot it: enter, exec (before each), @hourly, @daily, @weekly (by `policy run`); never
    #[arg(long, value_name = "WHEN", value_delimiter = ',', value_parser = said(when))]
    every: Vec<When>,

    #[command(flatten)]
    keep: KeepFlags,

    /// Take the policy off: nothing is made and nothing goes by itself
    #[arg(long, conflicts_with_all = ["every", "keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_labelled"])]
    clear: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the snapshots that are due, and remove what no policy keeps: for cron and timers
    Run {
        #[command(flatten)]
        removed: KeepRemoved,

        #[command(flatten)]
        builds: KeepBuilds,
    },
}

/// A trigger, or none of them.
#[derive(Debug, Clone, Copy)]
enum When {
    Never,
    Every(Trigger),
}

fn when(text: &str) -> Result<When> {
    if text == "never" { Ok(When::Never) } else { Trigger::parse(text).map(When::Every) }
}

/// What is printed of a box's policy.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    policy: Option<&'a Policy>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    if let Some(Command::Run { removed, builds }) = &arguments.command {
        return run_due(context, &store, *removed, *builds);
    }
    let reference = arguments.reference.as_deref().expect("clap asks for it");
    let mut node = store::find(&store, reference)?;
    node.require_box()?;
    let changes = arguments.clear || !arguments.every.is_empty() || arguments.keep.given();
    if changes {
        node = store.change_record(&node, |record| {
            let policy = record.life.policy.take();
            record.life.policy = (!arguments.clear).then(|| changed(policy.unwrap_or_default(), arguments));
            Ok(())
        })?;
    }
    let policy = node.record.life.policy.as_ref();
    context.output.data(&Shown { name: node.label(), policy }, || match policy {
        Some(policy) => lines(policy).iter().map(|(key, text)| format!("{key:<9} {text}\n")).collect(),
        None if changes => String::new(),
        None => "no policy: nothing is made and nothing goes by itself\n".to_owned(),
    });
    Ok(())
}

fn changed(policy: Policy, arguments: &Arguments) -> Policy {
    let mut every = if arguments.every.is_empty() { policy.every } else { BTreeSet::new() };
    every.extend(arguments.every.iter().filter_map(|when| match when {
        When::Never => None,
        When::Every(trigger) => Some(*trigger),
    }));
    Policy { every, keep: arguments.keep.over(policy.keep) }
}

/// Returns a policy as words, one line each.
pub(super) fn lines(policy: &Policy) -> Vec<(&'static str, String)> {
    let every: Vec<String> = policy.every.iter().map(ToString::to_string).collect();
    let every = if every.is_empty() { "never".to_owned() } else { every.join(", ") };
    let keep = policy.keep;
    let counts =
        [("last", keep.last), ("hourly", keep.hourly), ("daily", keep.daily), ("weekly", keep.weekly)];
    let mut kept: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    if kept.is_empty() {
        kept.push("everything".to_owned());
    } else if keep.labelled {
        kept.push("labelled".to_owned());
    }
    vec![("every", every), ("keep", kept.join(", "))]
}

/// Makes what is due in all boxes; one that cannot be snapshotted does not keep the others from it.
fn run_due(context: &Context, store: &Store, removed: KeepRemoved, builds: KeepBuilds) -> Result<()> {
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let mut failed = Vec::new();
    for node in store.nodes()?.into_iter().filter(|node| node.record.state == State::Active) {
        match snapshot_if_due(context, store, &node, now, &zone) {
            Ok(()) => {}
            Err(error) => {
                context.output.error(&error);
                failed.push(node.label().to_owned());
            }
        }
    }
    prune::by_policy(context, store, removed, builds)?;
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("could not snapshot {}", failed.join(", "));
    Err(Error::new(ErrorKind::FailedPrecondition, message).hint("the reasons are above"))
}

fn snapshot_if_due(
    context: &Context,
    store: &Store,
    node: &Node,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<()> {
    let (Some(policy), Some(name)) = (&node.record.life.policy, &node.name) else { return Ok(()) };
    let last = store.snapshots(name)?.iter().map(|(_, snapshot)| snapshot.record.created).max();
    let Some(trigger) = policy.every.iter().find(|trigger| trigger.is_due(last, now, zone)) else {
        return Ok(());
    };
    autosnap::snapshot(context, store, node, &trigger.to_string())
}
