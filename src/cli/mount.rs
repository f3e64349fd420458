//! `mount` and `umount`: show a tree at a directory of the host.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use rootling_backends::{Access, Context as _, Error, ErrorKind, Form, Result, sys};

use super::live::{self, Claim};
use super::{Context, output, store};
use crate::runner::Entered;
use crate::store::{Node, State, Store};

#[derive(Debug, clap::Args)]
pub(super) struct MountArguments {
    /// Which; a box is mounted for reading and writing, a committed tree for reading
    reference: String,

    /// Where: an existing directory
    directory: PathBuf,

    /// Mount a box for reading only
    #[arg(long)]
    read_only: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UmountArguments {
    /// Where it is mounted
    directory: PathBuf,
}

pub(super) fn mount(context: &Context, arguments: &MountArguments) -> Result<()> {
    require_visible_mounts(context, "mount")?;
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let intent = || format!("mount {} at {:?}", node.label(), arguments.directory);
    let (node, _used) = if node.record.state == State::Active {
        let (node, used) = store.open_box(&node)?;
        (node, Some(used))
    } else {
        (node.clone(), None)
    };
    let (mount, mut access) = store.mount(&node)?;
    if arguments.read_only {
        access = Access::ReadOnly;
    }
    // Kept until the mount is there: whoever starts the box meanwhile waits.
    let _claimed = if node.record.state == State::Active && node.record.form == Form::Delta {
        require_free(&store, &node)?;
        match live::claim(&store.slot(&node))? {
            Claim::Ours(claimed) => Some(claimed),
            Claim::Runs(_) => return Err(runs(&node)),
        }
    } else {
        None
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let target = nix::fcntl::openat(AT_FDCWD, &arguments.directory, flags, Mode::empty())
        .context(|| format!("open({:?}, O_DIRECTORY)", arguments.directory))
        .context(intent)?;
    let mount = mount.open(access).context(intent)?;
    // Every user of the host can reach it: what is set-user-id or a device in a tree is for boxes (CVE-2023-0386).
    let walls = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
    sys::mount_setattr(mount.as_fd(), walls, 0, true)
        .context(|| "mount_setattr(nosuid, nodev)")
        .context(intent)?;
    sys::move_mount(mount.as_fd(), target.as_fd())
        .context(|| format!("move_mount({:?})", arguments.directory))
        .context(intent)?;
    let how = if access == Access::ReadOnly { "for reading" } else { "for reading and writing" };
    context.output.say(format!("mounted {} at {} {how}", node.label(), output::plain(&arguments.directory)));
    Ok(())
}

/// An ordinary user's mounts lie in a mount namespace that ends with this command: nobody else would ever see them.
fn require_visible_mounts(context: &Context, command: &str) -> Result<()> {
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
    let directory = &arguments.directory;
    let place = directory.canonicalize().context(|| format!("realpath({directory:?})"))?;
    if !store.shows_at(&place)? {
        let message = format!("{directory:?} is not a mount of a tree of this store");
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("umount(8) unmounts everything else"));
    }
    umount2(&place, MntFlags::UMOUNT_NOFOLLOW).context(|| format!("umount2({place:?})")).map_err(
        |error| {
            if error.kind() == ErrorKind::Busy {
                error.hint("end what uses it: fuser -vm shows what")
            } else {
                error
            }
        },
    )?;
    context.output.say(format!("unmounted {}", output::plain(directory)));
    Ok(())
}
