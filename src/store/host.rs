//! A fork of the machine it runs on: what of `/` stays out, and what such a fork stands on.
//!
//! Where the store shares a btrfs with the root subvolume, a fork is a snapshot of that, emptied of what stays out.
//! Elsewhere the host's root is not ours to seal, so a fork is an overlay over it, and what must stay out is blanked in the
//! fork's own upper directory. (A layer of blanks between the two would lie *in* `/`, and OverlayFS refuses layers that lie in
//! each other; an upper directory may.) Other file systems mounted below `/` stay out by themselves: OverlayFS looks at the
//! one mount it is given.

use std::path::{Component, Path, PathBuf};

use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::marks::Marks;
use rootling_backends::{Context, Dir, EntryType, FS, Result, Times, Tree, mount_table, reap};

use super::{ObjectId, files};

/// Directories of a running system that belong to the running, not to the system.
const VOLATILE: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// The slot, in a fork's own slot, whose tree is a symbolic link to what the fork stands on.
const BASE: &str = "base";

/// Returns the root of the running machine.
pub(crate) fn root() -> &'static Path {
    Path::new("/")
}

/// Makes in `slot` what [`parent_tree`] returns. A second call does nothing.
pub(crate) fn make_base(slot: &Path, outside: &Path) -> Result<()> {
    let base = slot.join(BASE);
    if base.join(FS).is_symlink() {
        return Ok(());
    }
    files::make_dir(&base)?;
    files::link_new(&outside.to_string_lossy(), &base.join(FS))
}

/// Returns the tree that a fork in `slot` of something outside the store is compared with.
pub(crate) fn parent_tree(slot: &Path) -> Tree {
    Tree::full(slot.join(BASE))
}

/// Is this path, relative to the root, one that stays out of a fork of the host?
pub(crate) fn stays_out(path: &Path, store: &Path) -> bool {
    let store = store.strip_prefix("/").unwrap_or(store);
    VOLATILE.iter().any(|name| path.starts_with(name)) || path.starts_with(store)
}

/// Returns the absolute paths that stay out; a store inside a volatile directory is out with that.
fn out(store: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = VOLATILE.iter().map(|name| Path::new("/").join(name)).collect();
    if !paths.iter().any(|path| store.starts_with(path)) {
        paths.push(store.to_owned());
    }
    paths
}

/// Empties in `copy`, a snapshot of `/`, what stays out of it. O(entries there).
pub(crate) fn empty(copy: &Path, store: &Path) -> Result<()> {
    for path in out(store) {
        let (mut dir, mut found) = (Dir::open(copy)?, true);
        for component in path.components().filter(|component| *component != Component::RootDir) {
            match dir.open_dir(component.as_os_str()) {
                Ok(below) => dir = below,
                // Not there, or a link: then nothing of it is in the copy.
                Err(_) => {
                    found = false;
                    break;
                }
            }
        }
        if !found {
            continue;
        }
        let times = Times::of(&dir.stat_self()?);
        for entry in dir.entries()? {
            // Every component up to here is a directory of a copy that nobody else can reach yet.
            let victim = dir.path().join(&entry.name);
            if entry.entry_type == Some(EntryType::Directory) {
                reap::reap(&victim)?;
            } else {
                dir.unlink(&entry.name)?;
            }
        }
        dir.set_times(".", times)?;
    }
    Ok(())
}

/// Blanks in the directory `layer` the volatile directories and the store itself. A few system calls.
pub(crate) fn blank(layer: &Path, store: &Path, userxattr: bool) -> Result<()> {
    files::make_dir(layer)?;
    let top = Dir::open(root())?;
    for path in out(store) {
        let blanked = blank_one(&top, &Dir::open(layer)?, &path, &Marks::new(userxattr));
        blanked.context(|| format!("blank {path:?} in the fork"))?;
    }
    imitate(&top, &Dir::open(layer)?)
}

/// Makes `path` an empty directory in the layer, with its parents as they are on the host.
fn blank_one(top: &Dir, layer: &Dir, path: &Path, marks: &Marks) -> Result<()> {
    let device = top.stat_self()?.st_dev;
    let mut chain: Vec<(Dir, Dir)> = vec![(top.try_clone()?, layer.try_clone()?)];
    for component in path.components().filter(|component| *component != Component::RootDir) {
        let name = component.as_os_str();
        let (host, ours) = chain.last().expect("it begins with one");
        let below = match host.open_dir(name) {
            Ok(below) if below.stat_self()?.st_dev == device => below,
            // Not there, a link, or on another file system: it is not in the fork anyway.
            _ => break,
        };
        if ours.stat_if_exists(name)?.is_none() {
            ours.make_dir(name, 0o700)?;
        }
        let made = ours.open_dir(name)?;
        chain.push((below, made));
    }
    if chain.len() == path.components().count() {
        marks.make_opaque(&chain.last().expect("it begins with one").1)?;
    }
    // The deepest first: making an entry moves its directory's time.
    chain.iter().rev().try_for_each(|(host, ours)| imitate(host, ours))
}

/// Gives `ours` the attributes of `host`.
fn imitate(host: &Dir, ours: &Dir) -> Result<()> {
    let attributes = Attributes::of_open(host, &host.stat_self()?, Xattrs::WithoutOverlay, host)?;
    attributes.apply_to_open(ours, &ours.stat_self()?, ours)
}

/// Is the object in `slot` mounted somewhere in this mount namespace?
pub(crate) fn is_mounted(slot: &Path) -> Result<bool> {
    Ok(!mounted_at(slot)?.is_empty())
}

/// Returns where the tree in `slot` is mounted in this mount namespace.
///
/// A bind mount shows the tree as the mount's root, an overlay (by `mount.rs` in backends) as its source.
pub(crate) fn mounted_at(slot: &Path) -> Result<Vec<PathBuf>> {
    let id = slot.file_name().unwrap_or_default();
    let mark = Path::new(id).join(FS);
    let mounts = mount_table::read()?.into_iter();
    let ours = mounts.filter(|mounted| mounted.root.ends_with(&mark) || mounted.source.ends_with(&mark));
    Ok(ours.map(|mounted| mounted.place).collect())
}

/// Returns the ids of objects, of whatever store, that are mounted at a place.
pub(crate) fn objects_mounted_at(place: &Path) -> Result<Vec<ObjectId>> {
    let here = mount_table::read()?.into_iter().filter(|mounted| mounted.place == place);
    let trees = here.flat_map(|mounted| [mounted.root, mounted.source]);
    let slots = trees.filter(|tree| tree.ends_with(FS)).filter_map(|tree| {
        let slot = tree.parent()?.file_name()?.to_str()?;
        ObjectId::parse(slot).ok()
    });
    Ok(slots.collect())
}
