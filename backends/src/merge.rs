//! One plain tree out of one or many: the engine below [`replicate`](crate::replicate) and [`flatten`](crate::flatten).
//!
//! A task is a directory, or some of its entries. Directories are made with mode 0700 and nothing else;
//! hard links follow when all files are there; attributes of directories come last, the deepest first, so that
//! nothing moves their times afterwards and no default ACL or setgid bit colours what is made in them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::time::Instant;

use nix::errno::Errno;

use crate::attributes::{Attributes, Owners, Xattrs};
use crate::backend::Cost;
use crate::dir::{Dir, DirEntry, EntryType};
use crate::entry::{CloneMode, Copier};
use crate::error::{Context, Result};
use crate::marks::{Marks, Opacity, make_whiteout};
use crate::sys;
use crate::walk::{self, vanishing};

/// Trees to merge and where to.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    /// Top first.
    pub(crate) layers: &'a [Dir],
    /// How OverlayFS's marks are spelled; without it, none is honoured.
    pub(crate) marks: Option<Marks>,
    /// Make a layer over this tree, as it looks: what hides something of it still does.
    pub(crate) beneath: Option<&'a Dir>,
    pub(crate) target: &'a Dir,
    pub(crate) clone: CloneMode,
    pub(crate) owners: Owners,
}

/// A directory of the new tree and what it is to be given in the end.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) path: PathBuf,
    pub(crate) attributes: Attributes,
}

enum Task {
    /// A directory that is made, the layers that have it, and what it hides beneath them all.
    Directory(PathBuf, Vec<usize>, Cover),
    /// Some entries of a directory, none of them directories.
    Entries(PathBuf, usize, Vec<(OsString, EntryType)>),
}

/// Does anything from beneath the layers show in a directory?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cover {
    /// Yes.
    None,
    /// No, which it must say itself.
    Own,
    /// No: it lies in one that says so. OverlayFS wants no marks in those, and would list whiteouts there.
    Above,
}

impl Cover {
    fn of(hides: bool) -> Self {
        if hides { Self::Own } else { Self::None }
    }

    /// Returns the same for a directory that is opaque in one of the layers.
    fn with(self, is_opaque: bool) -> Self {
        if self == Self::None { Self::of(is_opaque) } else { self }
    }

    /// Returns what covers a directory in this one.
    fn below(self, hides: bool) -> Self {
        if self == Self::None { Self::of(hides) } else { Self::Above }
    }
}

/// What one directory of the merged tree holds.
#[derive(Default)]
struct Listing {
    directories: Vec<(OsString, Vec<usize>, bool)>,
    others: Vec<(usize, Vec<(OsString, EntryType)>)>,
    /// Names that are deleted in all of it.
    whiteouts: Vec<OsString>,
    /// Nothing from beneath the layers shows in it.
    is_opaque: bool,
}

/// Clears the process's umask, once: modes are given to `openat` and `mkdirat` as they are meant.
pub fn clear_umask() {
    static CLEARED: Once = Once::new();
    CLEARED.call_once(|| {
        sys::clear_umask();
    });
}

impl Merge<'_> {
    /// Returns what it cost, and the inode and path of every directory of the new tree.
    pub(crate) fn run(&self) -> Result<(Cost, Vec<(u64, PathBuf)>)> {
        let started = Instant::now();
        clear_umask();
        drop_default_acl(self.target)?;
        let xattrs = if self.marks.is_some() { Xattrs::WithoutOverlay } else { Xattrs::All };
        let copier = Copier::new(self.clone, xattrs).with_owners(self.owners);
        let made = Mutex::new(Vec::new());
        let first = Task::Directory(PathBuf::new(), (0..self.layers.len()).collect(), Cover::None);
        walk::for_each(vec![first], |task, more| match task {
            Task::Directory(path, layers, cover) => {
                let listing = self.directory(&path, &layers, &copier, &made)?;
                self.mark(&path, &listing, cover)?;
                self.fill(&path, listing, cover, more, &copier)
            }
            Task::Entries(path, layer, entries) => self.entries(&path, layer, &entries, &copier, None),
        })?;
        copier.make_links(self.target)?;
        let made = made.into_inner().expect("no thread panics while it holds the lock");
        copier.count_directories(made.len() - 1);
        let directories = finish(self.target, made)?;
        let mut cost = copier.cost();
        cost.elapsed = started.elapsed();
        Ok((cost, directories))
    }

    /// Lists a directory of the target, and notes what it is to be given in the end.
    fn directory(
        &self,
        path: &Path,
        layers: &[usize],
        copier: &Copier,
        made: &Mutex<Vec<Made>>,
    ) -> Result<Listing> {
        let (attributes, listing) = self.list(path, layers, copier.xattrs())?;
        made.lock()
            .expect("no thread panics while it holds the lock")
            .push(Made { path: path.to_owned(), attributes: attributes.owned(copier.owners()) });
        Ok(listing)
    }

    /// Makes what is in a directory of the target; the directories in it are tasks.
    fn fill(
        &self,
        path: &Path,
        listing: Listing,
        cover: Cover,
        more: &mut Vec<Task>,
        copier: &Copier,
    ) -> Result<usize> {
        let mut handled = 1;
        if listing.directories.is_empty() && listing.others.is_empty() {
            return Ok(handled);
        }
        let to = walk::open_below(self.target, path)?;
        let cover = cover.with(listing.is_opaque);
        for (name, layers, hides) in listing.directories {
            to.make_dir(&name, 0o700)?;
            more.push(Task::Directory(path.join(name), layers, cover.below(hides)));
        }
        for (layer, mut entries) in listing.others {
            while entries.len() > 2 * walk::CHUNK {
                let rest = entries.split_off(entries.len() - walk::CHUNK);
                more.push(Task::Entries(path.to_owned(), layer, rest));
            }
            handled += self.entries(path, layer, &entries, copier, Some(&to))?;
        }
        Ok(handled)
    }

    /// Writes OverlayFS's marks into a directory of the target, if that is to be a layer.
    fn mark(&self, path: &Path, listing: &Listing, cover: Cover) -> Result<()> {
        let (Some(marks), Some(beneath)) = (&self.marks, self.beneath) else { return Ok(()) };
        match cover.with(listing.is_opaque) {
            Cover::None => self.mark_deleted(path, &listing.whiteouts, beneath),
            Cover::Own => marks.make_opaque(&walk::open_below(self.target, path)?),
            Cover::Above => Ok(()),
        }
    }

    /// Makes whiteouts for what there is beneath: OverlayFS would list those that hide nothing.
    fn mark_deleted(&self, path: &Path, names: &[OsString], beneath: &Dir) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let Some(below) = vanishing(walk::enter(beneath, path))?.flatten() else { return Ok(()) };
        let to = walk::open_below(self.target, path)?;
        for name in names {
            if below.stat_if_exists(name)?.is_some() {
                make_whiteout(&to, name)?;
            }
        }
        Ok(())
    }

    fn entries(
        &self,
        path: &Path,
        layer: usize,
        entries: &[(OsString, EntryType)],
        copier: &Copier,
        to: Option<&Dir>,
    ) -> Result<usize> {
        let from = walk::open_below(&self.layers[layer], path)?;
        let opened;
        let to = match to {
            Some(to) => to,
            None => {
                opened = walk::open_below(self.target, path)?;
                &opened
            }
        };
        for (name, kind) in entries {
            copier.copy(&from, to, path, name, *kind)?;
        }
        Ok(entries.len())
    }

    fn list(&self, path: &Path, layers: &[usize], xattrs: Xattrs) -> Result<(Attributes, Listing)> {
        let mut merged = Merged::default();
        let (mut attributes, mut is_opaque) = (None, false);
        for &layer in layers {
            let Some(dir) = walk::enter(&self.layers[layer], path)? else {
                if attributes.is_none() {
                    attributes = Some(directory_attributes(&self.layers[layer], path, xattrs)?);
                }
                continue;
            };
            if attributes.is_none() {
                attributes = Some(Attributes::of_open(&dir, &dir.stat_self()?, xattrs, &dir)?);
            }
            let opacity = self.marks.as_ref().map_or(Ok(Opacity::None), |marks| marks.opacity(&dir))?;
            for entry in dir.entries_once()? {
                self.sort(&mut merged, layer, &dir, entry, opacity)?;
            }
            if opacity == Opacity::Opaque {
                is_opaque = true;
                break;
            }
        }
        let listing = Listing { is_opaque, ..merged.listing() };
        Ok((attributes.expect("a directory is in one layer at least"), listing))
    }

    fn sort(
        &self,
        merged: &mut Merged,
        layer: usize,
        dir: &Dir,
        entry: DirEntry,
        opacity: Opacity,
    ) -> Result<()> {
        let kind = walk::type_of(dir, &entry)?;
        let whiteout = match &self.marks {
            Some(marks) => marks.is_whiteout(dir, &entry.name, kind, opacity)?,
            None => false,
        };
        merged.add(layer, entry.name, kind, whiteout);
        Ok(())
    }
}

/// The names of one directory, as they are found from the top layer down.
#[derive(Default)]
struct Merged {
    names: HashMap<OsString, Name>,
    others: Vec<(usize, Vec<(OsString, EntryType)>)>,
}

enum Name {
    /// Nothing below matters any more.
    Settled,
    /// It is deleted.
    Whiteout,
    /// A directory in these layers; `true` while a lower one may add to it.
    Directory(Vec<usize>, bool),
}

impl Merged {
    fn add(&mut self, layer: usize, name: OsString, kind: EntryType, whiteout: bool) {
        let is_directory = kind == EntryType::Directory && !whiteout;
        match self.names.get_mut(&name) {
            Some(Name::Directory(layers, open)) if *open => {
                if is_directory {
                    layers.push(layer)
                } else {
                    *open = false
                }
            }
            Some(_) => {}
            None if is_directory => {
                self.names.insert(name, Name::Directory(vec![layer], true));
            }
            None => {
                if !whiteout {
                    match self.others.last_mut() {
                        Some((last, entries)) if *last == layer => entries.push((name.clone(), kind)),
                        _ => self.others.push((layer, vec![(name.clone(), kind)])),
                    }
                }
                self.names.insert(name, if whiteout { Name::Whiteout } else { Name::Settled });
            }
        }
    }

    fn listing(self) -> Listing {
        let mut listing = Listing { others: self.others, ..Listing::default() };
        for (name, state) in self.names {
            match state {
                Name::Directory(layers, open) => listing.directories.push((name, layers, !open)),
                Name::Whiteout => listing.whiteouts.push(name),
                Name::Settled => {}
            }
        }
        listing
    }
}

/// Returns the attributes of a directory of a tree. What is mounted on one is not part of the tree, but it hides the directory's own.
pub(crate) fn directory_attributes(tree: &Dir, path: &Path, xattrs: Xattrs) -> Result<Attributes> {
    match walk::enter(tree, path)? {
        Some(dir) => Attributes::of_open(&dir, &dir.stat_self()?, xattrs, &dir),
        None => {
            let (parent, name) = crate::entry::open_parent(tree, path)?;
            Attributes::of_entry(&parent, name, &parent.stat(name)?, xattrs)
        }
    }
}

/// A default ACL that the target's own parent gave it would be inherited by all that is made in it.
fn drop_default_acl(target: &Dir) -> Result<()> {
    use std::os::fd::AsFd;
    match sys::fremovexattr(target.as_fd(), "system.posix_acl_default".as_ref()) {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        other => other.context(|| format!("fremovexattr({target}, \"system.posix_acl_default\")")),
    }
}

/// Gives directories their attributes, the deepest first; returns which inode each of them is.
pub(crate) fn finish(target: &Dir, made: Vec<Made>) -> Result<Vec<(u64, PathBuf)>> {
    finish_by(target, made, |attributes, dir| attributes.apply_to_open(dir, &dir.stat_self()?, dir))
}

/// The same, with the caller's way to give them.
pub(crate) fn finish_by(
    target: &Dir,
    made: Vec<Made>,
    give: impl Fn(&Attributes, &Dir) -> Result<()> + Sync,
) -> Result<Vec<(u64, PathBuf)>> {
    let inodes = Mutex::new(Vec::with_capacity(made.len()));
    let mut levels: Vec<Vec<Made>> = Vec::new();
    for made in made {
        let depth = made.path.components().count();
        if levels.len() <= depth {
            levels.resize_with(depth + 1, Vec::new);
        }
        levels[depth].push(made);
    }
    for level in levels.into_iter().rev() {
        walk::for_each(chunks(level), |chunk: Vec<Made>, _| {
            let mut known = Vec::with_capacity(chunk.len());
            for Made { path, attributes } in chunk {
                let dir = walk::open_below(target, &path)?;
                give(&attributes, &dir)?;
                known.push((dir.stat_self()?.st_ino, path));
            }
            let handled = known.len();
            inodes.lock().expect("no thread panics while it holds the lock").append(&mut known);
            Ok(handled)
        })?;
    }
    Ok(inodes.into_inner().expect("no thread panics while it holds the lock"))
}

fn chunks<T>(mut all: Vec<T>) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    while all.len() > walk::CHUNK {
        chunks.push(all.split_off(all.len() - walk::CHUNK));
    }
    chunks.push(all);
    chunks
}
