//! Files of a context, a stage or an image for a step: without what is ignored, and writable where that is thrown away.
//!
//! | what | how |
//! |---|---|
//! | a directory | as it is |
//! | one of which some is ignored | an overlay: a layer of whiteouts over it |
//! | a tree | as its backend shows it |
//! | any of them, writable | an overlay: an upper layer in a directory that goes with the step |
//!
//! No file is copied, and of a directory only what is ignored is looked at.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use rootling_backends::marks::make_whiteout;
use rootling_backends::mount::in_own_userns;
use rootling_backends::{Context as _, Dir, Error, ErrorKind, Kind, Mount, Overlay, Result, Times, Upper};

use super::Files;
use super::mounts::LazyScratch;
use crate::runner::{Bind, Restrictions};
use crate::store::Store;

/// How files are to be shown.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) target: &'a Path,
    /// What of them.
    pub(super) source: &'a Path,
    pub(super) writable: bool,
    /// Which mount of the step it is.
    pub(super) number: usize,
}

/// Makes the mount.
pub(super) fn bind(files: Files, wanted: &Wanted<'_>, store: &Store, scratch: &LazyScratch) -> Result<Bind> {
    let below = inside(wanted.source);
    let (path, tree) = match files {
        Files::Directory { path, hidden } => {
            if hidden.iter().any(|hidden| below.starts_with(hidden)) {
                let message = format!("{:?} is left out by the rules of .dockerignore", wanted.source);
                return Err(Error::new(ErrorKind::NotFound, message).hint("take it out of .dockerignore"));
            }
            let hidden: Vec<_> = hidden.into_iter().filter(|hidden| hidden.starts_with(&below)).collect();
            let lowers = match &*hidden {
                [] => vec![path.clone()],
                _ => {
                    let mask = part(scratch, store, &format!("mask-{}", wanted.number))?;
                    mask_all(&path, &hidden, &mask)?;
                    vec![mask, path.clone()]
                }
            };
            (path, lowers)
        }
        Files::Tree(Mount::Bind { source }) => (source.clone(), vec![source]),
        Files::Tree(Mount::Overlay(overlay) | Mount::FuseOverlay(overlay)) => {
            (overlay.lowers.first().cloned().unwrap_or_default(), overlay.lowers)
        }
    };
    let restrictions = Restrictions { read_only: !wanted.writable, ..Restrictions::default() };
    let plain = Bind { restrictions, ..Bind::new(path, wanted.target) };
    let plain = Bind { below: Some(below).filter(|below| !below.as_os_str().is_empty()), ..plain };
    if tree.len() == 1 && !wanted.writable {
        return Ok(plain);
    }
    // Where the store's file system takes no upper layer, memory does.
    if tree.len() == 1 && plain.below.is_none() && store.ephemeral_backend() == Kind::Copy {
        return Ok(Bind { throw_away: true, ..plain });
    }
    let upper = wanted.writable.then(|| {
        let place = part(scratch, store, &format!("layer-{}", wanted.number))?;
        layer(&tree[0], &place)
    });
    let overlay = Overlay {
        lowers: tree,
        upper: upper.transpose()?,
        volatile: wanted.writable,
        userxattr: in_own_userns()?,
    };
    Ok(Bind { tree: Some(Mount::Overlay(overlay)), ..plain })
}

/// As a path in something: `..` leads nowhere at its root.
fn inside(path: &Path) -> PathBuf {
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::ParentDir => drop(inside.pop()),
            _ => {}
        }
    }
    inside
}

fn part(scratch: &LazyScratch, store: &Store, name: &str) -> Result<PathBuf> {
    let place = scratch.path(store)?.join(name);
    DirBuilder::new().mode(0o700).create(&place).context(|| format!("mkdir({place:?})"))?;
    Ok(place)
}

/// Makes an upper layer whose root is as that of what lies beneath.
fn layer(beneath: &Path, place: &Path) -> Result<Upper> {
    let dir = Dir::open(place)?;
    make_like(&Dir::open(beneath)?, &dir, OsStr::new("upper"))?;
    dir.make_dir("work", 0o700)?;
    Ok(Upper { dir: place.join("upper"), work: place.join("work") })
}

/// Makes whiteouts of all that is hidden of a directory, in directories that are as its own.
fn mask_all(path: &Path, hidden: &[PathBuf], mask: &Path) -> Result<()> {
    let (from, to) = (Dir::open(path)?, Dir::open(mask)?);
    copy_look(&from, &to)?;
    for hidden in hidden {
        let (Some(name), Some(above)) = (hidden.file_name(), hidden.parent()) else { continue };
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        for part in above {
            from = from.open_dir(part)?;
            if to.stat_if_exists(part)?.is_none() {
                make_like(&from, &to, part)?;
            }
            to = to.open_dir(part)?;
        }
        make_whiteout(&to, name)?;
    }
    Ok(())
}

fn make_like(original: &Dir, parent: &Dir, name: &OsStr) -> Result<()> {
    parent.make_dir(name, 0o700)?;
    copy_look(original, &parent.open_dir(name)?)
}

/// Owner, mode and times.
fn copy_look(from: &Dir, to: &Dir) -> Result<()> {
    let stat = from.stat_self()?;
    match to.set_owner(".", stat.st_uid, stat.st_gid) {
        // An owner that the user namespace does not have: nobody here, and so is the copy's.
        Err(error) if matches!(error.errno(), Some(nix::errno::Errno::EINVAL | nix::errno::Errno::EPERM)) => {
        }
        other => other?,
    }
    to.set_mode_following_symlinks(".", stat.st_mode & 0o7777)?;
    to.set_times(".", Times::of(&stat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_leads_nowhere_but_inside() {
        for (source, expected) in
            [("", ""), (".", ""), ("/", ""), ("a/./b/", "a/b"), ("/../../etc", "etc"), ("a/../../b", "b")]
        {
            assert_eq!(inside(Path::new(source)), Path::new(expected), "{source}");
        }
    }
}
