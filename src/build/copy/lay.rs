//! What `--link` made, laid over a tree: a layer of its own, that nothing of the tree has a say in.
//!
//! Over a delta it is made in the right place at once, because what is there hides what lies beneath. A full tree has to be changed: the
//! layer is made in a scratch directory of the tree and moved to where it belongs, name by name, directories as a whole where there are none.
//!
//! Docker gives a directory that is there the mode 0755 and root for an owner if something is copied into it with `--link`, which takes from
//! `/tmp` its sticky bit and from homes their owners. Here it stays as it is.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::{Context as _, Dir, EntryType, Result, Times, reap, sys};

use super::Copied;

/// Lets `make` make a layer, and lays it over `root`.
pub(super) fn over(
    root: &Dir,
    make: impl FnOnce(Dir) -> Result<(Copied, HashSet<PathBuf>)>,
) -> Result<Copied> {
    let times = Times::of(&root.stat_self()?);
    let mut key = [0; 8];
    sys::random(&mut key).context(|| "getrandom(8)")?;
    let name = format!(".rootling-layer-{:016x}", u64::from_ne_bytes(key));
    root.make_dir(&name, 0o700)?;
    let layer = root.open_dir(&name)?;
    let (copied, implied) = make(layer.try_clone()?)?;
    let is_untouched = layer.entries()?.is_empty();
    lay(&layer, root, Path::new(""), &implied)?;
    root.remove_dir(&name)?;
    if is_untouched {
        root.set_times(".", times)?;
    }
    Ok(copied)
}

/// Moves all that is in `layer`, which is at `path`, into `root`.
fn lay(layer: &Dir, root: &Dir, path: &Path, implied: &HashSet<PathBuf>) -> Result<()> {
    for entry in layer.entries()? {
        let name = entry.name.as_os_str();
        let kind = |dir: &Dir| -> Result<Option<EntryType>> {
            Ok(dir.stat_if_exists(name)?.map(|stat| EntryType::of_mode(stat.st_mode)))
        };
        let both = (kind(layer)?, kind(root)?);
        if both == (Some(EntryType::Directory), Some(EntryType::Directory)) {
            let below = path.join(name);
            let (from, to) = (layer.open_dir(name)?, root.open_dir(name)?);
            let looks = Attributes::of_open(&from, &from.stat_self()?, Xattrs::WithoutOverlay, &from)?;
            lay(&from, &to, &below, implied)?;
            if !implied.contains(&below) {
                looks.apply_to_open(&to, &to.stat_self()?, &to)?;
            }
            layer.remove_dir(name)?;
            continue;
        }
        if both.1.is_some() {
            reap::remove(root, name)?;
        }
        move_to(layer, root, name)?;
    }
    Ok(())
}

fn move_to(from: &Dir, to: &Dir, name: &OsStr) -> Result<()> {
    // A directory's `..` changes: its own times do on XFS.
    let times = Times::of(&from.stat(name)?);
    nix::fcntl::renameat(from, name, to, name)
        .context(|| format!("renameat({from}, {name:?}, {to}, {name:?})"))?;
    to.set_times(name, times)
}

/// Gives directories that were made only for what is in them the look of those that they lie over.
pub(super) fn look_as_beneath(own: &Dir, beneath: &Dir, implied: &HashSet<PathBuf>) -> Result<()> {
    for path in implied {
        let lower = match beneath.open_deep(path) {
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
                continue;
            }
            other => other?,
        };
        let looks = Attributes::of_open(&lower, &lower.stat_self()?, Xattrs::WithoutOverlay, &lower)?;
        let dir = own.open_deep(path)?;
        let now = dir.stat_self()?;
        Attributes { times: Times::of(&now), ..looks }.apply_to_open(&dir, &now, &dir)?;
    }
    Ok(())
}
