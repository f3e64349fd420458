//! `volume`: make, list, show, snapshot, fork, restore and remove volumes.

use std::path::PathBuf;

use jiff::Timestamp;
use rootling_backends::{Error, ErrorKind, FS, Result};
use serde::Serialize;

use super::keep::KeepRemoved;
use super::places::PackFlags;
use super::{Context, export, output, said, undelete};
use crate::reference::Place;
use crate::store::{Node, RemoveVolume, Store, VolumeName, VolumeReference};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make an empty volume
    Create {
        /// Its name
        #[arg(value_parser = said(VolumeName::parse))]
        name: VolumeName,
    },
    /// List volumes and their snapshots
    #[command(visible_alias = "list")]
    Ls {
        /// Only the caches of builds
        #[arg(long)]
        caches: bool,
    },
    /// Show all that is known of a volume or a snapshot
    #[command(visible_alias = "inspect")]
    Show {
        /// Which: NAME or NAME@SNAPSHOT
        #[arg(value_parser = said(VolumeReference::parse))]
        reference: VolumeReference,
    },
    /// Keep the present state of a volume, also while it is used
    Snapshot {
        /// The volume
        #[arg(value_parser = said(VolumeName::parse))]
        name: VolumeName,

        /// Name of the snapshot [default: the next number]
        #[arg(value_name = "SNAPSHOT")]
        label: Option<String>,
    },
    /// Make a volume of a snapshot, or of another as it stands now
    Fork {
        /// Which: NAME or NAME@SNAPSHOT
        #[arg(value_parser = said(VolumeReference::parse))]
        reference: VolumeReference,

        /// Name of the new volume
        #[arg(value_parser = said(VolumeName::parse))]
        name: VolumeName,
    },
    /// Give a volume the content of a snapshot; what it holds now becomes a snapshot first
    Restore {
        /// The volume
        #[arg(value_parser = said(VolumeName::parse))]
        name: VolumeName,

        /// The snapshot, with or without NAME@
        #[arg(value_name = "SNAPSHOT")]
        label: String,
    },
    /// Remove volumes and snapshots, which can be brought back for a while; the snapshots of a volume stay, and can be forked
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// Which: NAME or NAME@SNAPSHOT
        #[arg(required = true, value_parser = said(VolumeReference::parse))]
        references: Vec<VolumeReference>,

        /// Remove the snapshots of a volume, too
        #[arg(long)]
        snapshots: bool,

        /// Remove it also if boxes are started with it
        #[arg(short, long)]
        force: bool,

        /// Destroy it now, so that it cannot be brought back
        #[arg(long)]
        now: bool,

        #[command(flatten)]
        keep: KeepRemoved,
    },
    /// Keep volumes and snapshots from being removed, by whatever
    Lock {
        /// Which: NAME or NAME@SNAPSHOT
        #[arg(required = true, value_parser = said(VolumeReference::parse))]
        references: Vec<VolumeReference>,
    },
    /// Let volumes and snapshots be removed again
    Unlock {
        /// Which: NAME or NAME@SNAPSHOT
        #[arg(required = true, value_parser = said(VolumeReference::parse))]
        references: Vec<VolumeReference>,
    },
    /// Export what is in a volume or a snapshot, also while it is used
    Export {
        /// Which: NAME or NAME@SNAPSHOT
        #[arg(value_parser = said(VolumeReference::parse))]
        reference: VolumeReference,

        /// Where to: tar:FILE, tar:- for standard output, dir:PATH (not there yet, or empty)
        #[arg(value_parser = said(Place::parse_outside), default_value = "tar:-")]
        destination: Place,

        #[command(flatten)]
        pack: PackFlags,
    },
    /// Remove the volumes that nobody uses and no box is started with, and that are not locked; their snapshots stay
    Prune {
        /// Also the caches of builds
        #[arg(long)]
        caches: bool,

        /// Print what would be removed, and do not do it
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring back a volume or a snapshot that was removed; `rootling undelete` lists what there is
    Undelete {
        /// Which: NAME or NAME@SNAPSHOT, of which the last removal is meant, or an id of the list
        reference: String,

        /// Bring it back under another name
        #[arg(long = "as", value_name = "NEW", value_parser = said(VolumeReference::parse))]
        as_name: Option<VolumeReference>,
    },
}

/// A volume or a snapshot, as it is printed.
#[derive(Debug, Serialize)]
struct Summary {
    /// `NAME` or `NAME@SNAPSHOT`.
    name: String,
    id: String,
    /// `volume`, `cache` (the volume of a build's cache) or `snapshot`.
    kind: &'static str,
    backend: &'static str,
    created: Timestamp,
    in_use: bool,
    /// Does nothing remove it?
    locked: bool,
}

/// The document of `volume show`.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    summary: Summary,
    path: PathBuf,
    snapshots: Vec<String>,
    cost: rootling_backends::Cost,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<()> {
    let store = context.store()?;
    match command {
        Command::Create { name } => made(context, &store, name, &store.create_volume(name, None)?),
        Command::Ls { caches } => ls(context, &store, *caches),
        Command::Lock { references } => lock(context, &store, references, true),
        Command::Unlock { references } => lock(context, &store, references, false),
        Command::Export { reference, destination, pack } => {
            export(context, &store, reference, destination, *pack)
        }
        Command::Show { reference } => show(context, &store, reference),
        Command::Snapshot { name, label } => {
            let progress = context.output.progress(format!("keeping volume {name}"));
            let taken = store.snapshot_volume(name, label.as_deref());
            drop(progress);
            let (label, node) = taken?;
            let reference = VolumeReference { name: name.clone(), label: Some(label) };
            context.output.cost(&format!("kept {reference}"), node.record.backend, &node.record.cost);
            context.output.data(&summary(&store, &reference, &node)?, || format!("{reference}\n"));
            Ok(())
        }
        Command::Fork { reference, name } => {
            let progress = context.output.progress(format!("forking volume {reference}"));
            let forked = store.fork_volume(reference, name);
            drop(progress);
            let node = forked?;
            context.output.cost(
                &format!("forked {reference} as {name}"),
                node.record.backend,
                &node.record.cost,
            );
            made(context, &store, name, &node)
        }
        Command::Restore { name, label } => restore(context, &store, name, label),
        Command::Rm { references, snapshots, force, now, keep } => {
            let how = Removal { snapshots: *snapshots, force: *force, now: *now, keep: *keep };
            rm(context, &store, references, how)
        }
        Command::Prune { caches, dry_run } => prune(context, &store, *caches, *dry_run),
        Command::Undelete { reference, as_name } => {
            undelete::volume(context, &store, reference, as_name.as_ref())
        }
    }
}

fn made(context: &Context, store: &Store, name: &VolumeName, node: &Node) -> Result<()> {
    let reference = VolumeReference { name: name.clone(), label: None };
    context.output.data(&summary(store, &reference, node)?, || format!("{name}\n"));
    Ok(())
}

fn summary(store: &Store, reference: &VolumeReference, node: &Node) -> Result<Summary> {
    Ok(Summary {
        name: reference.to_string(),
        id: node.id.to_string(),
        kind: match reference.label {
            Some(_) => "snapshot",
            None if reference.name.is_cache() => "cache",
            None => "volume",
        },
        backend: node.record.backend.name(),
        created: node.record.created,
        in_use: reference.label.is_none() && store.is_in_use(node)?,
        locked: node.record.marks().locked,
    })
}

fn ls(context: &Context, store: &Store, caches: bool) -> Result<()> {
    let mut volumes = store.volumes()?;
    volumes.retain(|(reference, _)| !caches || reference.name.is_cache());
    let rows: Result<Vec<Summary>> =
        volumes.iter().map(|(reference, node)| summary(store, reference, node)).collect();
    let rows = rows?;
    context.output.list_of(&rows, rows.iter().map(|row| &row.name), || {
        let now = Timestamp::now();
        let cells = |row: &Summary| {
            let used = if row.in_use { "yes" } else { "" };
            [&row.name, &row.id, row.kind, row.backend, &output::age(row.created, now), used]
                .map(str::to_owned)
                .to_vec()
        };
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        output::table(&["NAME", "ID", "KIND", "BACKEND", "AGE", "IN USE"], &cells)
    });
    Ok(())
}

fn show(context: &Context, store: &Store, reference: &VolumeReference) -> Result<()> {
    let node = store.volume(reference)?;
    let snapshots = store.volume_snapshots(&reference.name)?.into_iter().map(|(label, _)| label);
    let shown = Shown {
        summary: summary(store, reference, &node)?,
        path: store.slot(&node).join(FS),
        snapshots: snapshots.collect(),
        cost: node.record.cost.clone(),
    };
    context.output.data(&shown, || {
        let lines = [
            ("name", shown.summary.name.clone()),
            ("id", shown.summary.id.clone()),
            ("kind", shown.summary.kind.to_owned()),
            ("backend", shown.summary.backend.to_owned()),
            ("created", shown.summary.created.to_string()),
            ("in use", if shown.summary.in_use { "yes" } else { "no" }.to_owned()),
            ("locked", if shown.summary.locked { "yes" } else { "no" }.to_owned()),
            ("tree", output::plain(&shown.path).into_owned()),
            (
                "snapshots",
                if shown.snapshots.is_empty() { "-".to_owned() } else { shown.snapshots.join(", ") },
            ),
            ("cost", output::describe(&shown.cost)),
        ];
        lines.iter().map(|(key, value)| format!("{key:<9} {value}\n")).collect()
    });
    Ok(())
}

fn restore(context: &Context, store: &Store, name: &VolumeName, label: &str) -> Result<()> {
    let label = match VolumeReference::parse(label) {
        Ok(VolumeReference { name: other, label: Some(label) }) if other == *name => label,
        Ok(VolumeReference { label: Some(_), .. }) => {
            let message = format!("{label} is no snapshot of {name}");
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint(format!("to have its content under another name: rootling volume fork {label} NAME")));
        }
        _ => label.to_owned(),
    };
    let progress = context.output.progress(format!("restoring volume {name}"));
    let kept = store.restore_volume(name, &label);
    drop(progress);
    let kept = kept?;
    context.output.say(format!("restored {name} to {name}@{label}; what it held is {name}@{kept}"));
    Ok(())
}

fn lock(context: &Context, store: &Store, references: &[VolumeReference], locked: bool) -> Result<()> {
    let mut done = Vec::new();
    for reference in references {
        let node = store.volume(reference)?;
        let node = if locked { store.lock(&node) } else { store.mark(&node, |marks| marks.locked = false) }?;
        context.output.say(format!("{} {reference}", if locked { "locked" } else { "unlocked" }));
        done.push(summary(store, reference, &node)?);
    }
    if context.output.format == output::Format::Json {
        context.output.data(&done, String::new);
    }
    Ok(())
}

fn export(
    context: &Context,
    store: &Store,
    reference: &VolumeReference,
    place: &Place,
    pack: PackFlags,
) -> Result<()> {
    let node = store.volume(reference)?;
    if export::send_tree(context, store, &node, place, pack)? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("{reference} is a volume, and no image"))
        .hint("say tar:FILE, tar:- or dir:PATH"))
}

fn prune(context: &Context, store: &Store, caches: bool, dry_run: bool) -> Result<()> {
    let mut gone = Vec::new();
    for (name, node) in store.unneeded_volumes(caches)? {
        let reference = VolumeReference { name, label: None };
        let row = summary(store, &reference, &node)?;
        // One that a box was started with since is not forced away.
        match if dry_run { Ok(()) } else { store.remove_volume(&reference, RemoveVolume::default()) } {
            Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::FailedPrecondition) => {}
            removed => removed.map(|()| gone.push(row))?,
        }
    }
    if dry_run {
        context.output.say("nothing was removed; these would be:");
    }
    context.output.data(&gone, || gone.iter().map(|row| format!("{}\n", row.name)).collect());
    Ok(())
}

/// How volumes are removed.
#[derive(Debug, Clone, Copy)]
struct Removal {
    snapshots: bool,
    force: bool,
    now: bool,
    keep: KeepRemoved,
}

fn rm(context: &Context, store: &Store, references: &[VolumeReference], how: Removal) -> Result<()> {
    for reference in references {
        store.volume(reference)?;
    }
    let remove = |reference: &VolumeReference| -> Result<()> {
        store.remove_volume(reference, RemoveVolume { for_good: how.now, force: how.force })?;
        context.output.say(if how.now {
            format!("removed {reference}")
        } else {
            format!(
                "removed {reference}: within {}, rootling volume undelete {reference} brings it back",
                how.keep
            )
        });
        Ok(())
    };
    for reference in references {
        remove(reference)?;
        if reference.label.is_some() {
            continue;
        }
        let left = store.volume_snapshots(&reference.name)?;
        for (label, _) in &left {
            let snapshot = VolumeReference { label: Some(label.clone()), ..reference.clone() };
            if how.snapshots {
                remove(&snapshot)?;
            } else {
                context
                    .output
                    .say(format!("kept {snapshot}: rootling volume fork {snapshot} {}", reference.name));
            }
        }
    }
    Ok(())
}
