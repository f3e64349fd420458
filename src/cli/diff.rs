//! `diff`: what differs between two states.
//!
//! | file | what it is for |
//! |---|---|
//! | `ends` | which two states, which paths |
//! | `side` | what stands at a path of one of them |
//! | `text` `patch` | lines that differ; `--content` |
//! | `stat` | `--stat`, and the summary in one line |
//! | `package_list` | `--packages` |
//! | `json` | the documents |

use std::path::PathBuf;

use rootling_backends::{Change, ChangeKind, DiffOptions, EntryType, Error, ErrorKind, Result, compare};

use super::Context;
use super::output::{self, Format, Output, Shows};
use crate::store::Store;

mod ends;
mod json;
mod package_list;
mod patch;
mod side;
mod stat;
mod text;

pub(super) use ends::Sides;
use ends::{Ends, Paths};
pub(super) use json::Brief;
pub(super) use stat::Summary;

/// Each line begins with A (added), C (changed) or D (deleted), and ends with what is different where that is not the content. A deleted
/// directory is one line.
///
/// A box alone is compared with the state before it: its last snapshot, or what it was made from. `A..B` compares any two states, of whatever
/// boxes; `A..` ends with the box that A is a state of, as it stands, and `..B` begins with what the box of B was made from.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A box or tree (against the state before it), A..B, A.. or ..B
    reference: String,

    /// The second tree, as another way to write A..B; then paths to look at, /etc or etc
    #[arg(value_name = "TREE|PATH")]
    words: Vec<String>,

    /// Paths to look at, whether there is something or not
    #[arg(last = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Show lines or bytes of each file, and a summary: files added, modified and deleted, packages, bytes that were added or have changed
    #[arg(long, group = "view")]
    stat: bool,

    /// Show letters as git does: A, M (modified), D, T (another type)
    #[arg(long, group = "view")]
    name_status: bool,

    /// Show a patch of the texts: what is no text, or larger than 8 MiB, is only said to differ
    ///
    /// Owners, extended attributes, directories and devices are told in lines that begin with #. On a terminal, control characters are shown
    /// escaped.
    #[arg(short = 'p', long, visible_alias = "patch", group = "view")]
    content: bool,

    /// Show the packages of dpkg, apk, pacman and rpm that differ
    #[arg(long, group = "view")]
    packages: bool,

    /// Show a patch with so many equal lines around each change [default: 3]
    #[arg(short = 'U', long, value_name = "LINES", conflicts_with_all = ["stat", "name_status", "packages"])]
    unified: Option<u32>,

    /// The same as --format json
    #[arg(long)]
    json: bool,

    /// Exit with 1 if something differs, and with 2 if that cannot be told
    #[arg(long)]
    exit_code: bool,

    /// Count changed modification times as changes
    #[arg(long, conflicts_with = "packages")]
    times: bool,
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Letters,
    NameStatus,
    Stat,
    Content,
    Packages,
}

impl Arguments {
    /// Is it the exit code that says whether something differs?
    pub(super) fn tells_by_exit_code(&self) -> bool {
        self.exit_code
    }

    /// Returns how many equal lines a patch has around each change.
    fn unified(&self) -> u32 {
        self.unified.unwrap_or(3)
    }

    fn view(&self) -> View {
        match self {
            Self { stat: true, .. } => View::Stat,
            Self { name_status: true, .. } => View::NameStatus,
            Self { content: true, .. } | Self { unified: Some(_), .. } => View::Content,
            Self { packages: true, .. } => View::Packages,
            _ => View::Letters,
        }
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    let store = context.store()?;
    let format = if arguments.json { Format::Json } else { context.output.format };
    let output = Output { format, ..context.output };
    let (ends, words) = ends::read(&store, &arguments.reference, &arguments.words)?;
    let paths = Paths::read(words, &arguments.paths, || ends.open(&store))?;
    let view = arguments.view();
    if view == View::Packages && !paths.is_all() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "--packages compares all packages, and paths are given",
        )
        .hint("leave one of them out"));
    }
    let differs = if view == View::Packages {
        package_list::print(output, &ends.open(&store)?)?
    } else {
        let progress = output.progress(format!("comparing {}", arguments.reference));
        let changes = ends.changes(&store, DiffOptions { times: arguments.times });
        drop(progress);
        let mut changes = changes?;
        changes.retain(|change| paths.concern(change));
        print(output, &store, &ends, &changes, &paths, arguments)?;
        !changes.is_empty()
    };
    Ok(i32::from(arguments.exit_code && differs))
}

fn print(
    output: Output,
    store: &Store,
    ends: &Ends,
    changes: &[Change],
    paths: &Paths,
    arguments: &Arguments,
) -> Result<()> {
    let view = arguments.view();
    let is_json = output.format == Format::Json;
    if !is_json && output.quiet {
        output
            .raw(changes.iter().map(|change| format!("{}\n", shown(change))).collect::<String>().as_bytes());
        return Ok(());
    }
    if !is_json && matches!(view, View::Letters | View::NameStatus) {
        let text = if view == View::Letters { render(changes) } else { name_status(changes) };
        output.raw(text.as_bytes());
        return Ok(());
    }
    let sides = ends.open(store)?;
    let expanded = match view {
        View::Stat | View::Content => {
            let mut all = expanded(&sides, changes)?;
            all.retain(|change| paths.contain(&change.path));
            all
        }
        _ => changes.to_vec(),
    };
    match (is_json, view) {
        (true, _) => {
            output.list(expanded.iter().map(|change| json::item(&sides, change, view, arguments.unified())))
        }
        (false, View::Content) => output.pieces(expanded.iter().map(|change| {
            let part = patch::part(&sides, change, arguments.unified())?;
            Ok(output.tamed_lines(Shows::Data, part))
        })),
        _ => {
            let mut text = stat::table(&sides, &expanded)?;
            if !changes.is_empty() {
                text.push_str(&format!(" {}\n", summary_of(&sides, &expanded, paths.is_all())?));
            }
            output.raw(text.as_bytes());
            Ok(())
        }
    }
}

fn summary_of(sides: &Sides, expanded: &[Change], packages: bool) -> Result<Summary> {
    let summary = Summary::of(sides, expanded)?;
    Ok(if packages { summary.with_packages(sides) } else { summary })
}

/// Returns the changes with what was in directories that are gone: what the views tell that count or show files.
pub(super) fn expanded(sides: &Sides, changes: &[Change]) -> Result<Vec<Change>> {
    let mut all = changes.to_vec();
    let gone = changes.iter().filter(|change| change.kind == ChangeKind::Deleted || change.aspects.kind);
    for change in gone {
        let was = sides.old.inode(&change.path)?.map(|inode| inode.entry_type);
        if was == Some(EntryType::Directory) {
            let below = compare::added_recursively(&sides.old.0, &change.path)?.into_iter();
            let below = below.filter(|entry| entry.path != change.path);
            all.extend(below.map(|entry| Change { kind: ChangeKind::Deleted, ..entry }));
        }
    }
    compare::sort(&mut all);
    Ok(all)
}

/// Prints changes as `docker diff` does: a letter and a path; here with what it is that changed.
pub(super) fn render(changes: &[Change]) -> String {
    changes
        .iter()
        .map(|change| format!("{} {}{}\n", change.kind.letter(), shown(change), aspects(change)))
        .collect()
}

/// Prints the first changes, and how many more there are; `see` ends that line.
pub(super) fn beginning(changes: &[Change], see: &str) -> String {
    const SHOWN: usize = 20;
    let more = changes.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!("and {more} more{see}\n") } else { String::new() };
    render(&changes[..changes.len() - more]) + &rest
}

/// Returns the path as it can be shown, a directory with a slash at its end.
fn shown(change: &Change) -> String {
    let slash = if change.entry_type == EntryType::Directory { "/" } else { "" };
    let path = output::plain(&change.path);
    if path.is_empty() { "/".to_owned() } else { format!("/{path}{slash}") }
}

fn name_status(changes: &[Change]) -> String {
    let letter = |change: &Change| match change.kind {
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
        ChangeKind::Modified if change.aspects.kind => 'T',
        ChangeKind::Modified => 'M',
    };
    let path = |change: &Change| match shown(change).trim_start_matches('/') {
        "" => "./".to_owned(),
        path => path.to_owned(),
    };
    changes.iter().map(|change| format!("{}\t{}\n", letter(change), path(change))).collect()
}

fn aspects(change: &Change) -> String {
    let names = aspect_names(change);
    // That a changed file's content changed is what one expects; only the unusual is said.
    if names.is_empty() || names == ["content"] { String::new() } else { format!("  ({})", names.join(", ")) }
}

fn aspect_names(change: &Change) -> Vec<&'static str> {
    let of = &change.aspects;
    let named = [
        (of.kind, "type"),
        (of.content, "content"),
        (of.mode, "mode"),
        (of.owner, "owner"),
        (of.xattrs, "xattrs"),
        (of.links, "links"),
        (of.times, "times"),
    ];
    named.iter().filter(|(differs, _)| *differs).map(|(_, name)| *name).collect()
}

/// What an entry is called.
fn word(kind: EntryType) -> &'static str {
    match kind {
        EntryType::File => "file",
        EntryType::Directory => "directory",
        EntryType::Symlink => "symlink",
        EntryType::CharDevice => "char-device",
        EntryType::BlockDevice => "block-device",
        EntryType::Fifo => "fifo",
        EntryType::Socket => "socket",
    }
}
