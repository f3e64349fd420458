//! `cp`: files into a box, out of a box or tree, or from one to another, by docker's rules.
//!
//! A tree is hostile: every path in it is resolved as if it were the root, and what is copied out is made name by name below the place
//! that the user named (see [`transfer`]). A box that runs is reached through what it has mounted, by descriptor, because OverlayFS does
//! not survive changes behind a mount; one that does not is mounted for the time, and nobody can start it meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;
use rootling_backends::transfer::{self, Options};
use rootling_backends::{
    Access, Context as _, Cost, Dir, EntryType, Error, ErrorKind, FS, Result, sys as kernel,
};
use serde::Serialize;

use super::enter::refuse_second_mount;
use super::live::{self, Claim, Claimed, Note};
use super::{Context, store};
use crate::reference::Reference;
use crate::runner::{Entered, Userns};
use crate::store::{HomeMode, Node, State, Store, VolumeReference};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep owners by number, set-user-id bits, extended attributes and hard links; without, copies in a box are its root's, and copies
    /// outside yours
    #[arg(short, long)]
    archive: bool,

    /// Copy what SOURCE leads to, where that is a symbolic link
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// What: a path, or BOX:/PATH; of a directory whose path ends in /. the content
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,

    /// Where to: a path, or BOX:/PATH; a directory that exists gets what is copied under its own name
    target: String,
}

/// One of the two: a path on the host, or in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said<'a> {
    /// The tree; `None` is the host.
    tree: Option<&'a str>,
    path: &'a str,
}

impl<'a> Said<'a> {
    /// A path that begins with `/` or `.` is the host's, whatever is in it, as docker has it.
    fn parse(text: &'a str) -> Result<Self> {
        if !text.starts_with(['/', '.'])
            && let Some((tree, path)) = text.split_once(":/")
        {
            // The slash belongs to the path.
            let path = &text[text.len() - path.len() - 1..];
            return match Reference::parse_path(text)? {
                Some((Reference::Host, _)) => Ok(Self { tree: None, path }),
                _ => Ok(Self { tree: Some(tree), path }),
            };
        }
        Ok(Self { tree: None, path: text })
    }

    fn is_slashed(&self) -> bool {
        self.path.ends_with('/')
    }

    /// Is it what is in a directory, and not that itself?
    fn is_content(&self) -> bool {
        self.path.ends_with("/.") || self.path == "." || Path::new(self.path).file_name().is_none()
    }
}

impl Arguments {
    /// Returns the box that must be joined to reach it, as far as that can be said before the store is open.
    pub(super) fn box_name(&self) -> Option<&str> {
        let texts = self.sources.iter().chain([&self.target]);
        texts.map(String::as_str).find_map(|text| Said::parse(text).ok()?.tree)
    }
}

/// What was copied.
#[derive(Debug, Serialize)]
struct Copied {
    directories: u64,
    files: u64,
    others: u64,
    bytes: u64,
}

/// A root, opened, and what must be kept as long as it is used.
#[derive(Debug)]
struct Side {
    root: Dir,
    path: PathBuf,
    /// The users of a box whose tree is seen with its own numbers.
    mapped: Option<Userns>,
    _used: Option<File>,
    _claimed: Option<Claimed>,
}

impl Side {
    fn new(root: Dir, path: impl Into<PathBuf>) -> Self {
        Self { root, path: path.into(), mapped: None, _used: None, _claimed: None }
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let to = Said::parse(&arguments.target)?;
    let from: Vec<Said<'_>> =
        arguments.sources.iter().map(|text| Said::parse(text)).collect::<Result<_>>()?;
    if to.tree.is_none() && from.iter().all(|said| said.tree.is_none()) {
        let message = "neither SOURCE nor TARGET is in a box";
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("write BOX:/PATH for one of them"));
    }
    let store = context.store()?;
    let target = open(context, &store, &to, true)?;
    let progress = context.output.progress(format!("copying to {}", arguments.target));
    let several = from.len() > 1;
    let mut total = Cost::default();
    for said in &from {
        let cost = one(context, arguments, &store, said, &to, &target, several)?;
        total.directories += cost.directories;
        total.files_cloned += cost.files_cloned + cost.files_copied;
        total.others += cost.others;
        total.bytes_cloned += cost.bytes_cloned + cost.bytes_copied;
    }
    drop(progress);
    let copied = Copied {
        directories: total.directories,
        files: total.files_cloned,
        others: total.others,
        bytes: total.bytes_cloned,
    };
    context.output.data(&copied, String::new);
    Ok(())
}

fn one(
    context: &Context,
    arguments: &Arguments,
    store: &Store,
    said: &Said<'_>,
    to: &Said<'_>,
    target: &Side,
    several: bool,
) -> Result<Cost> {
    let intent = || format!("copy {} to {}", shown(said), shown(to));
    // From a box to itself: it is open already, and mounted once.
    let opened;
    let source = if said.tree.is_some() && said.tree == to.tree {
        opened = Side { mapped: target.mapped.clone(), ..Side::new(target.root.try_clone()?, said.path) };
        &opened
    } else {
        opened = open(context, store, said, false).context(intent)?;
        &opened
    };
    let found =
        locate(&source.root, &source.path, arguments.follow_link || said.is_slashed()).context(intent)?;
    let Some(stat) = found.stat else {
        let message = format!("there is no {}", shown(said));
        return Err(Error::new(ErrorKind::NotFound, message)).context(intent);
    };
    let is_dir = EntryType::of_mode(stat.st_mode) == EntryType::Directory;
    if said.is_slashed() && !is_dir {
        let message = format!("{} is no directory", shown(said));
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave the slash at its end out"))
            .context(intent);
    }
    let owner = |uid, gid| {
        let (uid, gid) =
            source.mapped.as_ref().and_then(|users| users.inside(uid, gid)).unwrap_or((uid, gid));
        target.mapped.as_ref().and_then(|users| users.outside(uid, gid)).unwrap_or((uid, gid))
    };
    let is_root = context.entered == Entered::Root;
    let options =
        Options { archive: arguments.archive, devices: arguments.archive && is_root, owner: &owner };
    let copy = || place(&found, said, is_dir, to, target, several, options);
    // What is made in a tree whose owners are mapped must be made by one of those.
    match target.mapped.as_ref().and_then(|users| users.outside(0, 0)) {
        Some((uid, gid)) => {
            let made = kernel::with_fs_ids(uid, gid, copy).context(|| "capset(effective)").context(intent)?;
            made.context(intent)
        }
        None => copy().context(intent),
    }
}

fn shown(said: &Said<'_>) -> String {
    said.tree.map_or_else(|| said.path.to_owned(), |tree| format!("{tree}:{}", said.path))
}

/// A name in an open directory, which may not be there.
#[derive(Debug)]
struct Found {
    dir: Dir,
    name: OsString,
    stat: Option<FileStat>,
}

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// Links on the way are followed within the root, a last one where `follow` says so.
fn locate(root: &Dir, path: &Path, follow: bool) -> Result<Found> {
    let mut path = path.to_owned();
    // As many as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        // The name of `/x/.` is `x` to Path, and `..` has none.
        let Some(name) = path.file_name().filter(|_| !path.as_os_str().as_encoded_bytes().ends_with(b"/."))
        else {
            let dir = Dir::from_fd(root.open_in_root(&path, READ)?, root.path().join(tail(&path)));
            let stat = Some(dir.stat_self()?);
            return Ok(Found { dir, name: ".".into(), stat });
        };
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = Dir::from_fd(root.open_in_root(above, READ)?, root.path().join(tail(above)));
        let stat = dir.stat_if_exists(name)?;
        let is_link = stat.is_some_and(|stat| EntryType::of_mode(stat.st_mode) == EntryType::Symlink);
        if !is_link || !follow {
            return Ok(Found { name: name.to_owned(), dir, stat });
        }
        path = above.join(dir.read_link(name)?);
    }
    let message = format!("{} leads to links that lead nowhere", path.display());
    Err(Error::new(ErrorKind::InvalidInput, message))
}

fn tail(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Copies to where docker would: into a directory that exists, else as the name that was given.
fn place(
    found: &Found,
    said: &Said<'_>,
    is_dir: bool,
    to: &Said<'_>,
    target: &Side,
    several: bool,
    options: Options<'_>,
) -> Result<Cost> {
    let from = &found.dir;
    // The user's own word is followed to a directory; what is in that is not.
    match target.root.open_in_root(&target.path, READ) {
        Ok(into) => {
            let into = Dir::from_fd(into, target.root.path().join(tail(&target.path)));
            if is_dir && said.is_content() {
                return transfer::transfer_content(&from.open_dir(&found.name)?, &into, options);
            }
            let name = Path::new(said.path).file_name().unwrap_or(&found.name);
            return transfer::transfer(from, &found.name, &into, name, options);
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => {}
        // A file, or a link that leads nowhere or to one: it is replaced.
        Err(error) if error.errno() == Some(nix::errno::Errno::ENOTDIR) => {}
        Err(error) => return Err(error),
    }
    if several || (to.is_slashed() && !is_dir) {
        let message = format!("{} is no directory", shown(to));
        return Err(Error::new(ErrorKind::NotFound, message).hint("make it first, or name one"));
    }
    let trimmed = target.path.components().collect::<PathBuf>();
    let there = locate(&target.root, &trimmed, false)?;
    transfer::transfer(from, &found.name, &there.dir, &there.name, options)
}

// ---------------------------------------------------------------- the two sides

fn open(context: &Context, store: &Store, said: &Said<'_>, writes: bool) -> Result<Side> {
    let Some(reference) = said.tree else {
        let path = std::path::absolute(said.path).context(|| format!("make {:?} absolute", said.path))?;
        // What `absolute` takes away says something here.
        let path = if said.is_content() { path.join(".") } else { path };
        return Ok(Side::new(Dir::open("/")?, path));
    };
    let found = live::find(store, reference)?;
    if let Some(note) = found.note.as_ref().filter(|note| note.running.is_alive()) {
        return of_running(context, &found.label, note, said);
    }
    if !found.is_box {
        found.alive()?;
    }
    let node = store::find(store, reference)?;
    // What containerd has mounted is looked at as it lies.
    let is_ours = node.record.state == State::Active && store.held(&node)?.is_none();
    if !is_ours && !writes {
        return Ok(Side::new(named(store.open_root(&node)?, node.label())?, said.path));
    }
    if let Some(side) = in_home(store, &node, said)? {
        return Ok(side);
    }
    let (node, used) = store.open_box(&node)?;
    let used = Some(used);
    if !writes {
        return Ok(Side {
            _used: used,
            ..Side::new(named(store.open_root(&node)?, node.label())?, said.path)
        });
    }
    let claimed = match live::claim(&store.slot(&node))? {
        Claim::Ours(claimed) => Some(claimed),
        Claim::Runs(note) => return of_running(context, node.label(), &note, said),
    };
    refuse_second_mount(store, &node)?;
    let (mount, _) = store.mount(&node)?;
    let root = Dir::from_fd(mount.open(Access::ReadWrite)?, format!("{}:/", node.label()));
    Ok(Side { _used: used, _claimed: claimed, ..Side::new(root, said.path) })
}

/// Gives a root the name that messages call it by.
fn named(root: Dir, label: &str) -> Result<Dir> {
    Ok(Dir::from_fd(kernel::duplicate(&root).context(|| format!("dup({root})"))?, format!("{label}:/")))
}

/// What a box that runs has mounted, as its processes see it.
fn of_running(context: &Context, label: &str, note: &Note, said: &Said<'_>) -> Result<Side> {
    let running = &note.running;
    let path = format!("/proc/{}/root", running.pid);
    let root = nix::fcntl::open(Path::new(&path), READ | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty());
    let root = root.context(|| format!("open({path:?})")).context(|| format!("look into {label}"))?;
    // The path was the box's if the box still runs.
    if !running.is_alive() {
        let message = format!("{label} has just ended");
        return Err(Error::new(ErrorKind::Busy, message).hint("try again"));
    }
    // Of an ordinary user all numbers are those of the one user namespace that this program is in.
    let is_mapped = context.entered == Entered::Root && running.userns.maps_tree();
    let mapped = is_mapped.then(|| running.userns.clone());
    Ok(Side { mapped, ..Side::new(Dir::from_fd(root, format!("{label}:/")), said.path) })
}

/// The home of a box that does not run is not in its tree.
fn in_home(store: &Store, node: &Node, said: &Said<'_>) -> Result<Option<Side>> {
    let Some(home) = &node.record.life.settings.home else { return Ok(None) };
    let Ok(below) = Path::new(said.path).strip_prefix(&home.path) else { return Ok(None) };
    let root = match (home.mode, &home.volume) {
        (HomeMode::Private | HomeMode::Snapshot, Some(name)) => {
            match store.volume(&VolumeReference { name: name.clone(), label: None }) {
                Ok(volume) => Dir::open(store.slot(&volume).join(FS))?,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let message = format!("the home of {} is made when it first starts", node.label());
                    return Err(Error::new(ErrorKind::FailedPrecondition, message)
                        .hint(format!("start it: rootling enter {}", node.label())));
                }
                Err(error) => return Err(error),
            }
        }
        (HomeMode::Share, _) => Dir::open(&home.path)?,
        _ => {
            let message = format!("the home of {} can be seen only while it runs", node.label());
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint(format!("start it: rootling enter {}", node.label())));
        }
    };
    let mut path = Path::new("/").join(below);
    if said.is_content() {
        path.push(OsStr::new("."));
    }
    Ok(Some(Side::new(root, path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_box_and_what_on_the_host_is_told_apart_as_docker_does() {
        for (text, tree, path) in [
            ("dev:/etc/x", Some("dev"), "/etc/x"),
            ("rust:1.89:/x/", Some("rust:1.89"), "/x/"),
            ("dev@clean:/", Some("dev@clean"), "/"),
            ("/tmp/a:/b", None, "/tmp/a:/b"),
            ("./dev:/x", None, "./dev:/x"),
            ("host:/etc", None, "/etc"),
            ("file", None, "file"),
            ("dev:x", None, "dev:x"),
        ] {
            assert_eq!(Said::parse(text).unwrap(), Said { tree, path }, "{text}");
        }
        assert!(Said::parse("no such:/x").is_err());
        let is_content = |path| Said { tree: None, path }.is_content();
        assert!(is_content("/a/.") && is_content(".") && is_content("/") && is_content(".."));
        assert!(!is_content("/a/") && !is_content("a"));
    }
}
