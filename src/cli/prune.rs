//! `prune`: let go what was removed a while ago, what has expired, what no policy keeps, and remove what nothing needs any more.

use std::collections::HashSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::init::parse_size;
use super::keep::{KeepBuilds, KeepFlags, KeepRemoved};
use super::{Context, output, said, store};
use crate::runner::Cgroup;
use crate::store::{Builds, Doomed, Housekeeping, Keep, Name, Outcome, Pruned, Store, VolumeReference, Why};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Boxes whose snapshots are meant by the --keep flags [default: all]
    #[arg(value_name = "BOX")]
    boxes: Vec<String>,

    #[command(flatten)]
    keep: KeepFlags,

    #[command(flatten)]
    keep_removed: KeepRemoved,

    #[command(flatten)]
    keep_builds: KeepBuilds,

    /// Let go the steps of builds that no image and no box stands on, or all of them, whenever they were used
    #[arg(long, value_enum, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "unneeded")]
    builds: Option<WhichBuilds>,

    /// Destroy all that was removed now, so that none of it can be brought back
    #[arg(long, visible_alias = "all")]
    removed: bool,

    /// Go on until so much is free on the store's file system: first with what was removed, then with steps of builds, then with snapshots that nobody asked for
    #[arg(long, value_name = "SIZE", value_parser = said(parse_size))]
    free: Option<u64>,

    /// Say what would go and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Which steps of builds are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WhichBuilds {
    /// Those that no image and no box stands on
    Unneeded,
    /// All; images and boxes keep what they stand on, and the next build begins anew
    All,
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
pub(super) fn by_policy(
    context: &Context,
    store: &Store,
    keep: KeepRemoved,
    keep_builds: KeepBuilds,
) -> Result<()> {
    let now = Timestamp::now();
    let what = Housekeeping {
        now,
        zone: TimeZone::system(),
        removed_before: keep.since(now),
        builds: Builds::UnusedSince(keep_builds.since(now)),
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
    let unused_since = arguments.keep_builds.since(now);
    Ok(Housekeeping {
        now,
        zone: TimeZone::system(),
        removed_before: if arguments.removed { Timestamp::MAX } else { arguments.keep_removed.since(now) },
        builds: match arguments.builds {
            None => Builds::UnusedSince(unused_since),
            Some(WhichBuilds::Unneeded) => Builds::Unneeded(unused_since),
            Some(WhichBuilds::All) => Builds::All,
        },
        keep,
        boxes: names?,
    })
}

fn carry_out(context: &Context, store: &Store, plan: &Plan) -> Result<()> {
    let progress = context.output.progress("pruning");
    let (let_go, kept, lacks) = if plan.free.is_some() {
        let intended = intend(store, plan)?;
        let let_go = intended.let_go.into_iter().flat_map(|group| group.doomed).collect();
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
    /// What goes, in this order.
    let_go: Vec<Group>,
    outcome: Outcome,
    /// What comes free altogether.
    frees: u64,
    /// Is that less than what was asked for?
    lacks: bool,
}

/// Names that are let go together.
#[derive(Debug)]
struct Group {
    /// One, or steps of builds, which are many.
    doomed: Vec<Doomed>,
    /// What comes free by it, after those before it went.
    frees: u64,
}

/// Puts steps of builds together that were used on the same day; those that go for certain all together.
fn groups(doomed: &[Doomed], are_certain: bool) -> Vec<&[Doomed]> {
    let day = |doomed: &Doomed| doomed.used.map(|used| used.as_second() / (24 * 60 * 60));
    let are_steps = |a: &Doomed, b: &Doomed| a.name.is_step() && b.name.is_step();
    doomed.chunk_by(|a, b| are_steps(a, b) && (are_certain || day(a) == day(b))).collect()
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
    let mut groups_of = groups(&doomed[..certain], true);
    let certain_groups = groups_of.len();
    groups_of.extend(groups(&doomed[certain..], false));
    let mut frees = Vec::new();
    let outcome = store.outcome_while(&groups_of, |gone, goes| {
        let all = sizes.would_free(goes);
        frees.push(all);
        gone < certain_groups || lacks(all)
    })?;
    let each = frees.windows(2).map(|two| two[1].saturating_sub(two[0]));
    let groups = groups_of.into_iter().zip(each);
    let let_go = groups.map(|(doomed, frees)| Group { doomed: doomed.to_vec(), frees }).collect();
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
        let let_go: String = lines(let_go.iter());
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
        Why::Unused => "no build used it for a while",
        Why::Cache => "nothing stands on it",
    };
    let stands =
        kept_by.as_ref().map_or_else(String::new, |name| format!("; its tree stays: {name} stands on it"));
    format!("let go {} ({}): {why}{stands}", shown(&doomed.name), doomed.id)
}

/// Says what goes, steps of builds in one line.
fn lines<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let (steps, rows): (Vec<&Row>, Vec<&Row>) = rows.partition(|row| row.doomed.name.is_step());
    let mut text: String = rows.into_iter().map(|row| format!("{}\n", line(row))).collect();
    if !steps.is_empty() {
        text.push_str(&format!("let go {}\n", count_of_steps(steps.len())));
    }
    text
}

fn count_of_steps(count: usize) -> String {
    if count == 1 { "1 step of builds".to_owned() } else { format!("{count} steps of builds") }
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
    /// Bytes that would come free by the steps of builds among them.
    steps_would_free_bytes: u64,
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
    /// Bytes that would come free by it, after those above it went; null for the step of a build, which goes together with others.
    would_free_bytes: Option<u64>,
}

/// Says what would go, one after the other, and what each would free.
fn dry_run(context: &Context, store: &Store, plan: &Plan) -> Result<()> {
    let Intent { let_go, outcome, frees, lacks } = intend(store, plan)?;
    let is_steps = |group: &&Group| group.doomed.iter().any(|doomed| doomed.name.is_step());
    let steps_would_free_bytes = let_go.iter().filter(is_steps).map(|group| group.frees).sum();
    let would = |group: Group| {
        let frees = Some(group.frees).filter(|_| !is_steps(&&group));
        let rows = group.doomed.into_iter();
        rows.map(|doomed| Would { row: row(doomed, &outcome), would_free_bytes: frees }).collect::<Vec<_>>()
    };
    let intended = Intended {
        let_go: let_go.into_iter().flat_map(would).collect(),
        steps_would_free_bytes,
        objects: outcome.goes.len(),
        blobs: outcome.blobs,
        would_free_bytes: frees + outcome.blob_bytes,
    };
    let names = intended.let_go.iter().map(|would| shown(&would.row.doomed.name));
    context.output.list_of(&intended, names, || {
        let lines = intended.let_go.iter().filter_map(|would| {
            let frees = output::bytes(would.would_free_bytes?);
            Some(format!("would {}: frees {frees}\n", line(&would.row)))
        });
        let mut lines: String = lines.collect();
        let steps = intended.let_go.iter().filter(|would| would.row.doomed.name.is_step()).count();
        if steps > 0 {
            let frees = output::bytes(intended.steps_would_free_bytes);
            lines.push_str(&format!("would let go {}: frees {frees}\n", count_of_steps(steps)));
        }
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
