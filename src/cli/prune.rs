//! `prune`: let go what was removed a while ago, what has expired, what no policy keeps, and remove what nothing needs any more.

use std::collections::HashSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::init::parse_size;
use super::keep::{KeepFlags, KeepRemoved};
use super::{Context, output, said, store};
use crate::runner::Cgroup;
use crate::store::{Doomed, Housekeeping, Keep, Name, Outcome, Pruned, Store, VolumeReference, Why};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Boxes whose snapshots are meant by the --keep flags [default: all]
    #[arg(value_name = "BOX")]
    boxes: Vec<String>,

    #[command(flatten)]
    keep: KeepFlags,

    #[command(flatten)]
    keep_removed: KeepRemoved,

    /// Destroy all that was removed now, so that none of it can be brought back
    #[arg(long, visible_alias = "all")]
    removed: bool,

    /// Go on until so much is free on the store's file system: first with what was removed, then with snapshots that nobody asked for
    #[arg(long, value_name = "SIZE", value_parser = said(parse_size))]
    free: Option<u64>,

    /// Say what would go and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was removed.
#[derive(Debug, Serialize)]
struct Everything {
    #[serde(flatten)]
    store: Pruned,
    /// Cgroups that killed callers left.
    cgroups: usize,
    /// The names that were let go.
    let_go: Vec<Row>,
}

/// A name that goes.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    doomed: Doomed,
    /// What keeps the object all the same.
    kept_by: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let plan = Plan { what: housekeeping(&store, arguments)?, free: arguments.free };
    if arguments.dry_run {
        return dry_run(context, &store, &plan);
    }
    carry_out(context, &store, &plan)
}

/// What `policy run` does after its snapshots.
pub(super) fn by_policy(context: &Context, store: &Store, keep: KeepRemoved) -> Result<()> {
    let now = Timestamp::now();
    let what = Housekeeping {
        now,
        zone: TimeZone::system(),
        removed_before: keep.since(now),
        keep: None,
        boxes: Vec::new(),
    };
    carry_out(context, store, &Plan { what, free: None })
}

/// What was asked for.
#[derive(Debug)]
struct Plan {
    what: Housekeeping,
    free: Option<u64>,
}

fn housekeeping(store: &Store, arguments: &Arguments) -> Result<Housekeeping> {
    let keep = arguments.keep.given().then(|| arguments.keep.over(Keep::default()));
    if keep.is_some_and(|keep| !keep.limits()) {
        return Err(Error::new(ErrorKind::InvalidInput, "nothing says how many snapshots are kept")
            .hint("add --keep-last N, or --keep-hourly, --keep-daily, --keep-weekly"));
    }
    if keep.is_none() && !arguments.boxes.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "nothing says what to keep of these boxes")
            .hint("add --keep-last N, or set a policy: rootling policy BOX --keep-last N"));
    }
    let names: Result<Vec<Name>> = arguments
        .boxes
        .iter()
        .map(|text| {
            let node = store::find(store, text)?;
            node.require_box()?;
            Ok(node.name.expect("what is found by a name of a box has one"))
        })
        .collect();
    let now = Timestamp::now();
    Ok(Housekeeping {
        now,
        zone: TimeZone::system(),
        removed_before: if arguments.removed { Timestamp::MAX } else { arguments.keep_removed.since(now) },
        keep,
        boxes: names?,
    })
}

fn carry_out(context: &Context, store: &Store, plan: &Plan) -> Result<()> {
    let progress = context.output.progress("pruning");
    let (let_go, kept, lacks) = if plan.free.is_some() {
        let intended = intend(store, plan)?;
        let let_go = intended.let_go.into_iter().map(|(doomed, _)| doomed).collect();
        (let_go, intended.outcome, intended.lacks)
    } else {
        let let_go = store.doomed(&plan.what)?;
        let kept = store.outcome(&let_go)?;
        (let_go, kept, false)
    };
    let pruned = store.prune(&let_go)?;
    drop(progress);
    let let_go = let_go.into_iter().map(|doomed| row(doomed, &kept)).collect();
    show(context, &Everything { store: pruned, cgroups: Cgroup::sweep(), let_go });
    match plan.free.filter(|_| lacks) {
        Some(wanted) => Err(missed("are", store.free_bytes()?, wanted)),
        None => Ok(()),
    }
}

fn missed(verb: &str, free: u64, wanted: u64) -> Error {
    let message = format!("about {} {verb} free, not {}", output::bytes(free), output::bytes(wanted));
    Error::new(ErrorKind::NoSpace, message)
        .hint("what is left was asked for, labelled or locked: remove some of it (`rootling du`)")
}

/// What a plan comes to.
#[derive(Debug)]
struct Intent {
    /// What goes, in this order, and what each frees after those before it went.
    let_go: Vec<(Doomed, u64)>,
    outcome: Outcome,
    /// What comes free altogether.
    frees: u64,
    /// Is that less than what was asked for?
    lacks: bool,
}

/// Finds out what goes. Where room is wanted, only as much of the expendable as it takes.
fn intend(store: &Store, plan: &Plan) -> Result<Intent> {
    let mut doomed = store.doomed(&plan.what)?;
    let certain = doomed.len();
    if plan.free.is_some() {
        let named = |doomed: &Doomed| (doomed.name.clone(), doomed.removed_at);
        let known: HashSet<_> = doomed.iter().map(named).collect();
        doomed.extend(store.expendable()?.into_iter().filter(|more| !known.contains(&named(more))));
    }
    let free = store.free_bytes()?;
    let lacks = |frees: u64| plan.free.is_some_and(|wanted| free + frees < wanted);
    let sizes = store.sizes(false)?;
    // What comes free by the first so many names.
    let mut frees = Vec::new();
    let outcome = store.outcome_while(&doomed, |gone, goes| {
        let all = sizes.would_free(goes);
        frees.push(all);
        gone < certain || lacks(all)
    })?;
    let each = frees.windows(2).map(|two| two[1].saturating_sub(two[0]));
    let let_go = doomed.into_iter().zip(each).collect();
    let frees = frees.last().copied().unwrap_or_default();
    Ok(Intent { let_go, outcome, frees, lacks: lacks(frees) })
}

fn show(context: &Context, pruned: &Everything) {
    let names = pruned.let_go.iter().map(|row| shown(&row.doomed.name));
    context.output.list_of(pruned, names, || {
        let Everything { store: pruned, cgroups, let_go } = pruned;
        let cgroups = match cgroups {
            0 => String::new(),
            cgroups => format!("removed {cgroups} cgroups of boxes whose caller was killed\n"),
        };
        let blobs = match pruned.blobs {
            0 => String::new(),
            blobs => format!(" {blobs} blobs ({}),", output::bytes(pruned.blob_bytes)),
        };
        let let_go: String = let_go.iter().map(|row| format!("{}\n", line(row))).collect();
        format!(
            "{let_go}removed {} unreferenced objects,{blobs} {} abandoned drafts, {} entries of the trash: {} inodes, {} subvolumes, {} freed\n{cgroups}",
            pruned.objects,
            pruned.drafts,
            pruned.trash,
            pruned.entries,
            pruned.subvolumes,
            output::bytes(pruned.bytes_freed)
        )
    });
}

fn row(doomed: Doomed, outcome: &Outcome) -> Row {
    Row { kept_by: outcome.stays.get(&doomed.id).cloned(), doomed }
}

fn line(row: &Row) -> String {
    let Row { doomed, kept_by } = row;
    let why = match doomed.why {
        Why::Removed => "was removed",
        Why::Expired => "has expired",
        Why::Policy => "no policy keeps it",
        Why::Room => "to make room",
    };
    let stands =
        kept_by.as_ref().map_or_else(String::new, |name| format!("; its tree stays: {name} stands on it"));
    format!("let go {} ({}): {why}{stands}", shown(&doomed.name), doomed.id)
}

/// A name as people give it.
fn shown(name: &Name) -> String {
    VolumeReference::of(name).map_or_else(|| name.to_string(), |volume| format!("volume {volume}"))
}

// ---------------------------------------------------------------- only said

/// What `prune --dry-run` prints.
#[derive(Debug, Serialize)]
struct Intended {
    /// The names that would be let go, in this order.
    let_go: Vec<Would>,
    /// Objects that would be destroyed: those, what only they need, and what nothing needs already.
    objects: usize,
    /// Blobs that would go with them.
    blobs: u64,
    /// Bytes that would come free by it, all taken together.
    would_free_bytes: u64,
}

/// A name that would go.
#[derive(Debug, Serialize)]
struct Would {
    #[serde(flatten)]
    row: Row,
    /// Bytes that would come free by it, after those above it went.
    would_free_bytes: u64,
}

/// Says what would go, one after the other, and what each would free.
fn dry_run(context: &Context, store: &Store, plan: &Plan) -> Result<()> {
    let Intent { let_go, outcome, frees, lacks } = intend(store, plan)?;
    let would = |(doomed, would_free_bytes)| Would { row: row(doomed, &outcome), would_free_bytes };
    let intended = Intended {
        let_go: let_go.into_iter().map(would).collect(),
        objects: outcome.goes.len(),
        blobs: outcome.blobs,
        would_free_bytes: frees + outcome.blob_bytes,
    };
    let names = intended.let_go.iter().map(|would| shown(&would.row.doomed.name));
    context.output.list_of(&intended, names, || {
        let lines = intended.let_go.iter();
        let lines = lines.map(|would| {
            format!("would {}: frees {}\n", line(&would.row), output::bytes(would.would_free_bytes))
        });
        let lines: String = lines.collect();
        let (count, all) = (intended.objects, output::bytes(intended.would_free_bytes));
        let objects = if count == 1 { "object" } else { "objects" };
        let blobs = match intended.blobs {
            0 => String::new(),
            1 => " and 1 blob".to_owned(),
            blobs => format!(" and {blobs} blobs"),
        };
        format!("{lines}would remove {count} {objects}{blobs}: frees {all}\n")
    });
    match plan.free.filter(|_| lacks) {
        Some(wanted) => Err(missed("would be", store.free_bytes()?.saturating_add(frees), wanted)),
        None => Ok(()),
    }
}
