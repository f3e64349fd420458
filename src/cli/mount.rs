//! `mount` and `umount`: show a tree at a directory of the host, a given one or a place of its own.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use rootling_backends::{Access, Context as _, Error, ErrorKind, Form, Result, private, sys};
use serde::Serialize;

use super::live::{self, Claim};
use super::{Context, output, store};
use crate::runner::Entered;
use crate::store::{Node, State, Store, process_rooted_in};

/// Where trees are mounted that nobody said a directory for: `<id>/` for each. Gone with the next boot, as mounts are, and closed to all
/// users but root.
const OWN_PLACES: &str = "/run/rootling/mounts";

/// What users of the host who reach a mount can not do with it: what is set-user-id or a device in a tree is for boxes (CVE-2023-0386).
pub(super) const WALLS: u64 = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;

/// How a person finds out.
const WHERE: &str = "`rootling ls` shows what is, in the column IN USE";

#[derive(Debug, clap::Args)]
pub(super) struct MountArguments {
    /// Which; a box is mounted for reading and writing, a committed tree for reading
    reference: String,

    /// Where: an existing directory [default: a place of its own, which is printed]
    directory: Option<PathBuf>,

    /// Mount a box for reading only
    #[arg(long)]
    read_only: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UmountArguments {
    /// What is mounted, or where
    #[arg(value_name = "REFERENCE|DIRECTORY")]
    reference: PathBuf,
}

/// What is printed of a mount at a place of its own.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    path: &'a Path,
    name: Option<&'a str>,
    id: &'a str,
    read_only: bool,
}

pub(super) fn mount(context: &Context, arguments: &MountArguments) -> Result<()> {
    require_visible_mounts(context, "mount")?;
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let Some(directory) = &arguments.directory else {
        return mount_at_own_place(context, &store, &node, arguments.read_only);
    };
    refuse_covering(&store, &node, directory)?;
    let (node, _used) = in_use(&store, &node)?;
    let access = show(&store, &node, directory, arguments.read_only, WALLS)?;
    let how = if access == Access::ReadOnly { "for reading" } else { "for reading and writing" };
    context.output.say(format!("mounted {} at {} {how}", node.label(), output::plain(directory)));
    Ok(())
}

/// Refuses a directory where a tree is mounted already: it would be covered, and be there again once this one is unmounted.
fn refuse_covering(store: &Store, node: &Node, directory: &Path) -> Result<()> {
    match directory.canonicalize() {
        Ok(place) if store.shows_at(&place)? => {
            let error = Error::new(ErrorKind::Busy, format!("a tree of this store is mounted at {place:?}"));
            let hint = format!("rootling umount {}", place.display());
            Err(error.hint(hint).context(format!("mount {}", node.label())))
        }
        // What is wrong with it shows when it is opened.
        _ => Ok(()),
    }
}

/// Prints where it is mounted, and nothing else: a second call finds it mounted.
fn mount_at_own_place(context: &Context, store: &Store, node: &Node, read_only: bool) -> Result<()> {
    let (node, _used) = in_use(store, node)?;
    private::make_dirs(Path::new(OWN_PLACES))?;
    // One at a time looks and mounts.
    let places = File::open(OWN_PLACES).context(|| format!("open({OWN_PLACES:?})"))?;
    places.lock().context(|| format!("flock({OWN_PLACES:?})"))?;
    let place = Path::new(OWN_PLACES).join(node.id.as_str());
    let read_only = read_only || node.record.state == State::Committed;
    if store.mounted_at(&node)?.contains(&place) {
        require_access(&node, &place, read_only)?;
    } else {
        private::make_dirs(&place)?;
        show(store, &node, &place, read_only, WALLS).inspect_err(|_| {
            // Best effort: an empty directory is no harm.
            fs::remove_dir(&place).unwrap_or_default();
        })?;
    }
    let name = node.name.as_ref().map(crate::store::Name::as_str);
    let shown = Shown { path: &place, name, id: node.id.as_str(), read_only };
    match context.output.format {
        output::Format::Json => context.output.data(&shown, String::new),
        _ => context.output.raw(&[place.as_os_str().as_bytes(), b"\n"].concat()),
    }
    Ok(())
}

/// Refuses what is mounted for another use than was asked for now.
fn require_access(node: &Node, place: &Path, read_only: bool) -> Result<()> {
    let flags = statvfs(place).context(|| format!("statvfs({place:?})"))?.flags();
    if flags.contains(FsFlags::ST_RDONLY) == read_only {
        return Ok(());
    }
    let how = if read_only { "for writing, too" } else { "for reading only" };
    let message = format!("{} is mounted at {place:?} {how}", node.label());
    Err(Error::new(ErrorKind::Busy, message).hint(format!("rootling umount {}", node.label())))
}

/// Returns the node as it is now, and for a box a lock that says it is in use.
fn in_use(store: &Store, node: &Node) -> Result<(Node, Option<File>)> {
    if node.record.state == State::Committed {
        return Ok((node.clone(), None));
    }
    let (node, used) = store.open_box(node)?;
    Ok((node, Some(used)))
}

/// Mounts a tree at a directory, with these `MOUNT_ATTR_*` besides; the caller holds a box's use lock.
pub(super) fn show(
    store: &Store,
    node: &Node,
    directory: &Path,
    read_only: bool,
    walls: u64,
) -> Result<Access> {
    let intent = || format!("mount {} at {directory:?}", node.label());
    let (mount, mut access) = store.mount(node)?;
    if read_only {
        access = Access::ReadOnly;
    }
    // Kept until the mount is there: whoever starts the box meanwhile waits.
    let _claimed = if node.record.state == State::Active && node.record.form == Form::Delta {
        require_free(store, node)?;
        match live::claim(&store.slot(node))? {
            Claim::Ours(claimed) => Some(claimed),
            Claim::Runs(_) => return Err(runs(node)),
        }
    } else {
        None
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let target = nix::fcntl::openat(AT_FDCWD, directory, flags, Mode::empty())
        .context(|| format!("open({directory:?}, O_DIRECTORY)"))
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.hint(format!("make it first: mkdir -p {}", directory.display())),
            _ => error,
        })
        .context(intent)?;
    let mount = mount.open(access).context(intent)?;
    sys::mount_setattr(mount.as_fd(), walls, 0, true)
        .context(|| "mount_setattr(nosuid, nodev)")
        .context(intent)?;
    sys::move_mount(mount.as_fd(), target.as_fd())
        .context(|| format!("move_mount({directory:?})"))
        .context(intent)?;
    Ok(access)
}

/// An ordinary user's mounts lie in a mount namespace that ends with this command: nobody else would ever see them.
pub(super) fn require_visible_mounts(context: &Context, command: &str) -> Result<()> {
    if context.entered == Entered::Root {
        return Ok(());
    }
    let message = format!("{command} is only for root: your mounts would be seen by this command alone");
    Err(Error::new(ErrorKind::PermissionDenied, message)
        .hint("look at the tree from inside: rootling exec BOX COMMAND, or rootling run TREE COMMAND"))
}

fn runs(node: &Node) -> Error {
    let name = node.label();
    Error::new(ErrorKind::Busy, format!("{name} runs, and its overlay can be mounted once only"))
        .hint(format!("look at it from inside: rootling exec {name} COMMAND"))
}

/// OverlayFS does not survive two mounts of one upper directory (kernel documentation, "undefined behavior").
fn require_free(store: &Store, node: &Node) -> Result<()> {
    if node.record.form == Form::Full {
        return Ok(());
    }
    match store.mounted_at(node)?.first() {
        None => Ok(()),
        Some(place) => {
            Err(Error::new(ErrorKind::Busy, format!("{} is mounted at {place:?} already", node.label()))
                .hint(format!("use it there, or rootling umount {}", place.display())))
        }
    }
}

pub(super) fn umount(context: &Context, arguments: &UmountArguments) -> Result<()> {
    require_visible_mounts(context, "umount")?;
    let store = context.store()?;
    let place = place_of(&store, &arguments.reference)?;
    if is_overlay(&place)? {
        refuse_while_used(&place)?;
    }
    unmount(&place)?;
    context.output.say(format!("unmounted {}", output::plain(&place)));
    Ok(())
}

/// Unmounts a tree; its place goes with it where that is its own.
pub(super) fn unmount(place: &Path) -> Result<()> {
    umount2(place, MntFlags::UMOUNT_NOFOLLOW).context(|| format!("umount2({place:?})")).map_err(|error| {
        if error.kind() == ErrorKind::Busy {
            error.hint("end what uses it: fuser -vm shows what")
        } else {
            error
        }
    })?;
    if place.parent() == Some(Path::new(OWN_PLACES)) {
        // Best effort: an empty directory is no harm.
        fs::remove_dir(place).unwrap_or_default();
    }
    Ok(())
}

/// Returns where that is mounted which was named: a directory that a tree is mounted at, else a tree.
fn place_of(store: &Store, named: &Path) -> Result<PathBuf> {
    let place = named.canonicalize().context(|| format!("realpath({named:?})"));
    if let Ok(place) = &place
        && store.shows_at(place)?
    {
        return Ok(place.clone());
    }
    let text = named.to_str().filter(|text| !text.starts_with(['/', '.']));
    let node = match (text.map(|text| store::find(store, text)), place) {
        (Some(Ok(node)), _) => node,
        (_, Ok(_)) => {
            let message = format!("{named:?} is not a mount of a tree of this store");
            let error = Error::new(ErrorKind::InvalidInput, message);
            return Err(error.hint("umount(8) unmounts everything else"));
        }
        (Some(Err(error)), _) => return Err(error),
        (None, Err(error)) => return Err(error.hint(WHERE).context(format!("unmount {named:?}"))),
    };
    let places = store.mounted_at(&node)?;
    let is_own = |place: &&PathBuf| place.parent() == Some(Path::new(OWN_PLACES));
    match (places.as_slice(), places.iter().find(is_own)) {
        ([], _) => {
            let message = format!("{} is not mounted", node.label());
            Err(Error::new(ErrorKind::FailedPrecondition, message).hint(WHERE))
        }
        (_, Some(place)) | ([place], None) => Ok(place.clone()),
        (several, None) => {
            let places: Vec<_> = several.iter().map(|place| output::plain(place)).collect();
            let message = format!("{} is mounted at {}", node.label(), places.join(", "));
            Err(Error::new(ErrorKind::InvalidInput, message).hint("say which: rootling umount DIRECTORY"))
        }
    }
}

fn is_overlay(place: &Path) -> Result<bool> {
    let found = statfs(place).context(|| format!("statfs({place:?})"))?;
    Ok(found.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

/// Refuses a mount that somebody runs in, in a mount namespace of its own: there it would stay, and be written to, while the store takes
/// the tree for unused.
pub(super) fn refuse_while_used(place: &Path) -> Result<()> {
    match process_rooted_in(place)? {
        None => Ok(()),
        Some(process) => {
            let message = format!("process {process} runs in {place:?}, by another runtime");
            Err(Error::new(ErrorKind::Busy, message)
                .hint("end it there first: runc delete, crun delete, podman rm"))
        }
    }
}
