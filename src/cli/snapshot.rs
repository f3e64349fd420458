//! `snapshot`: keep the present state of a box.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rootling_backends::{Error, ErrorKind, Kind, Result};

use super::live::{self, Note};
use super::{Context, keep, said, show, store};
use crate::runner::Pauser;
use crate::store::{Description, Label, Node, SnapshotOptions, Store, VolumeName};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box; it goes on, on top of what is kept
    #[arg(value_name = "BOX")]
    pub(super) reference: String,

    /// What the snapshot is called: BOX@LABEL [default: the next number]
    #[arg(value_parser = said(Label::parse))]
    label: Option<Label>,

    /// What it is, in your words
    #[arg(short, long)]
    message: Option<String>,

    /// Keep the volumes of the box together with it, all of one moment
    #[arg(long)]
    with_volumes: bool,

    /// Whether what runs in the box stands still for the moment: auto does where one moment cannot be had otherwise
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "yes",
        value_name = "WHEN"
    )]
    pause: Pause,

    /// Let it be removed after a time: 90s, 30m, 12h, 7d, 2w
    #[arg(long, value_name = "TIME", value_parser = said(keep::span))]
    expire: Option<SignedDuration>,

    /// Where nothing has changed, name the state that is there already, or leave it at that
    #[arg(long)]
    reuse: bool,
}

/// Whether a running box stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Pause {
    /// Where its backend cannot show one moment of it, and it can be stopped
    Auto,
    /// Or fail
    Yes,
    /// Never
    No,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let found = live::of_node(&store, &node)?;
    let note = found.note.filter(|note| note.running.is_alive());
    let expires = arguments.expire.map(|after| Timestamp::now().checked_add(after)).transpose();
    let expires =
        expires.map_err(|error| Error::new(ErrorKind::InvalidInput, format!("--expire: {error}")))?;
    let message = arguments.message.clone();
    let options = SnapshotOptions {
        label: arguments.label.clone(),
        description: Description { message, expires, ..Description::default() },
        reuse: arguments.reuse,
        with_volumes: if arguments.with_volumes {
            volumes(&store, &node, note.as_ref())?
        } else {
            BTreeSet::new()
        },
    };
    // Before anything starts a thread: it is a process of its own.
    let mut pauser = pauser(arguments.pause, &store, &node, note.as_ref(), !options.with_volumes.is_empty())?;
    let progress = context.output.progress(format!("keeping {}", node.label()));
    let taken = store.snapshot_still(&node, &options, &mut || match &mut pauser {
        None => Ok(Box::new(())),
        Some(pauser) => still(pauser, arguments.pause),
    });
    drop(progress);
    let taken = taken?;
    store::remember(&store, &node);
    say(context, &node, &taken);
    context.output.data(&show::summary(&store, &taken)?, || format!("{}\n", taken.id));
    Ok(())
}

fn say(context: &Context, node: &Node, taken: &Node) {
    let (of, name) = (node.label(), taken.label());
    if [&node.record.parent, &node.record.follows].iter().any(|known| known.as_ref() == Some(&taken.id)) {
        context.output.say(format!("{of} has not changed: {name} is the state that it is in"));
    } else {
        context.output.cost(&format!("kept {of} as {name}"), taken.record.backend, &taken.record.cost);
    }
}

/// Starts who stops the box, if that is wanted and anything runs in it.
fn pauser(
    pause: Pause,
    store: &Store,
    node: &Node,
    note: Option<&Note>,
    with_volumes: bool,
) -> Result<Option<Pauser>> {
    let is_one_moment = node.record.backend == Kind::Btrfs && !with_volumes;
    match note {
        Some(note) if pause == Pause::Yes || (pause == Pause::Auto && !is_one_moment) => {
            Pauser::new(&note.running, &store.slot(node)).map(Some)
        }
        _ => Ok(None),
    }
}

fn still(pauser: &mut Pauser, pause: Pause) -> Result<Box<dyn std::any::Any>> {
    match pauser.pause() {
        Ok(paused) => Ok(Box::new(paused)),
        Err(error) if pause == Pause::Yes => {
            Err(error.hint("without it, files that change together may show two moments: --pause=no"))
        }
        Err(error) => {
            log::warn!(
                "the box goes on meanwhile, so that files that change together may show two moments: {error}"
            );
            Ok(Box::new(()))
        }
    }
}

/// Returns the volumes of a box that there are: those that it is started with, and those that are mounted in it now.
fn volumes(store: &Store, node: &Node, note: Option<&Note>) -> Result<BTreeSet<VolumeName>> {
    let settings = &node.record.life.settings;
    let mounted = note.map(|note| note.running.mounted_objects()).transpose()?.unwrap_or_default();
    let is_used =
        |name: &VolumeName, volume: &Node| settings.need(name) || mounted.contains(volume.id.as_str());
    let used = store
        .volumes()?
        .into_iter()
        .filter(|(reference, volume)| reference.label.is_none() && is_used(&reference.name, volume));
    Ok(used.map(|(reference, _)| reference.name).collect())
}
