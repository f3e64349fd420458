//! A tree that is written to where it lies: a full one as it is, a delta as an upper directory that nobody has mounted.
//!
//! A mounted overlay is a file system of its own, so nothing can be cloned into it (`FICLONE` and `EXDEV`, ioctl_ficlone(2)). Whoever writes
//! into the upper directory instead sees what the mount would show by looking at two trees: its own, over the one beneath.
//!
//! **What must hold.** The delta is not mounted meanwhile: OverlayFS does not survive changes behind a mount.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{FileStat, Mode};
use nix::unistd::{Gid, Uid};

use crate::attributes::{Attributes, Xattrs};
use crate::dir::{Dir, EntryType, Times};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::marks::{Marks, Opacity};
use crate::merge::clear_umask;
use crate::walk::{self, vanishing};

/// Symbolic links that are followed on one way (path_resolution(7)).
const LINKS: usize = 40;

/// The tree.
#[derive(Debug)]
pub struct Ground {
    own: Dir,
    beneath: Option<Dir>,
    /// `None`: a full tree has no marks, and a device 0:0 in it is one.
    marks: Option<Marks>,
}

/// Where a path of a tree leads, all links followed.
#[derive(Debug, Clone)]
pub struct Led {
    /// Relative to the root, free of links and of `..`; what is missing may be any part of its end.
    pub path: PathBuf,
    /// What is there; `None` for nothing.
    pub stat: Option<FileStat>,
}

impl Led {
    /// Returns the type of what is there.
    pub fn entry_type(&self) -> Option<EntryType> {
        self.stat.map(|stat| EntryType::of_mode(stat.st_mode))
    }

    /// Is there a directory?
    pub fn is_directory(&self) -> bool {
        self.entry_type() == Some(EntryType::Directory)
    }
}

/// A directory that was made, or found.
#[derive(Debug)]
pub struct MadeDirs {
    /// The directory.
    pub dir: Dir,
    /// Which had to be made, from the top down, with those that it is in.
    pub new: Vec<PathBuf>,
}

/// A directory of the tree as it looks.
#[derive(Debug)]
pub(crate) struct Spot {
    pub(crate) own: Option<Dir>,
    pub(crate) beneath: Option<Dir>,
    opacity: Opacity,
}

enum Step {
    Directory(Spot),
    Other(FileStat),
    Missing,
}

impl Ground {
    /// A full tree.
    pub fn full(root: Dir) -> Self {
        Self { own: root, beneath: None, marks: None }
    }

    /// A delta: its upper directory, and the tree beneath it as it looks. `userxattr`: how its marks are spelled.
    pub fn delta(upper: Dir, beneath: Dir, userxattr: bool) -> Self {
        Self { own: upper, beneath: Some(beneath), marks: Some(Marks::new(userxattr)) }
    }

    /// The same delta as if there were nothing beneath: what is made in it lies over whatever that is, and follows nothing of it.
    pub fn alone(&self) -> Result<Self> {
        Ok(Self { own: self.own.try_clone()?, beneath: None, marks: self.marks.clone() })
    }

    /// Returns the directory that is written to.
    pub fn own(&self) -> &Dir {
        &self.own
    }

    /// Returns the tree beneath a delta.
    pub fn beneath(&self) -> Option<&Dir> {
        self.beneath.as_ref()
    }

    fn root(&self) -> Result<Spot> {
        let beneath = self.beneath.as_ref().map(Dir::try_clone).transpose()?;
        self.spot(Some(self.own.try_clone()?), beneath)
    }

    fn spot(&self, own: Option<Dir>, beneath: Option<Dir>) -> Result<Spot> {
        let opacity = match (&self.marks, &own) {
            (Some(marks), Some(own)) => marks.opacity(own)?,
            _ => Opacity::None,
        };
        let beneath = beneath.filter(|_| opacity != Opacity::Opaque);
        Ok(Spot { own, beneath, opacity })
    }

    /// Opens a directory by its path, free of links; `beneath` says whether anything from beneath shows in it.
    pub(crate) fn open(&self, path: &Path, beneath: bool) -> Result<Spot> {
        let own = vanishing(walk::open_below(&self.own, path))?;
        let lower = match self.beneath.as_ref().filter(|_| beneath) {
            Some(root) => vanishing(walk::open_below(root, path))?,
            None => None,
        };
        self.spot(own, lower)
    }

    /// Returns what stands under a name of a directory.
    pub(crate) fn look(&self, spot: &Spot, name: &OsStr) -> Result<Option<FileStat>> {
        match self.look_in_own(spot, name)? {
            Own::Entry(stat) => Ok(Some(stat)),
            Own::Whiteout => Ok(None),
            Own::Nothing => spot.beneath.as_ref().map_or(Ok(None), |dir| dir.stat_if_exists(name)),
        }
    }

    fn look_in_own(&self, spot: &Spot, name: &OsStr) -> Result<Own> {
        let Some(own) = &spot.own else { return Ok(Own::Nothing) };
        let Some(stat) = own.stat_if_exists(name)? else { return Ok(Own::Nothing) };
        let Some(marks) = &self.marks else { return Ok(Own::Entry(stat)) };
        let is_whiteout = marks.is_whiteout(own, name, EntryType::of_mode(stat.st_mode), spot.opacity)?;
        Ok(if is_whiteout { Own::Whiteout } else { Own::Entry(stat) })
    }

    /// Enters the directory that stands under a name.
    fn enter(&self, spot: &Spot, name: &OsStr) -> Result<Spot> {
        let directory = |dir: &Dir| vanishing(dir.open_dir(name));
        match self.look_in_own(spot, name)? {
            Own::Entry(_) => {
                let own = spot.own.as_ref().map(|own| own.open_dir(name)).transpose()?;
                let beneath = spot.beneath.as_ref().map_or(Ok(None), directory)?;
                self.spot(own, beneath)
            }
            Own::Whiteout => self.spot(None, None),
            Own::Nothing => self.spot(None, spot.beneath.as_ref().map_or(Ok(None), directory)?),
        }
    }

    /// Finds out where `path` leads: links are followed as a process whose root the tree is would, to what is not there too.
    ///
    /// O(names on the way).
    pub fn lead(&self, path: &Path) -> Result<Led> {
        let mut way: Vec<(OsString, Step)> = Vec::new();
        let root = self.root()?;
        let mut pending = parts(path);
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == ".." {
                way.pop();
                continue;
            }
            let here = match way.last() {
                None => &root,
                Some((_, Step::Directory(spot))) => spot,
                Some((_, Step::Missing)) => {
                    way.push((part, Step::Missing));
                    continue;
                }
                Some((_, Step::Other(_))) => return Err(not_a_directory(&joined(&way))),
            };
            let step = match self.look(here, &part)? {
                None => Step::Missing,
                Some(stat) => match EntryType::of_mode(stat.st_mode) {
                    EntryType::Directory => Step::Directory(self.enter(here, &part)?),
                    EntryType::Symlink => {
                        links += 1;
                        if links > LINKS {
                            let message = format!("/{} leads through too many links", path.display());
                            return Err(Error::new(ErrorKind::InvalidInput, message));
                        }
                        let target = PathBuf::from(read_link(here, &part)?);
                        if target.is_absolute() {
                            way.clear();
                        }
                        pending.extend(parts(&target));
                        continue;
                    }
                    _ => Step::Other(stat),
                },
            };
            way.push((part, step));
        }
        let stat = match way.last() {
            None => Some(self.own.stat_self()?),
            Some((_, Step::Directory(spot))) => Some(spot.stat()?),
            Some((_, Step::Other(stat))) => Some(*stat),
            Some((_, Step::Missing)) => None,
        };
        Ok(Led { path: joined(&way), stat })
    }

    /// Makes `path`, which is free of links, a directory of the own tree, with those it is in; missing ones get the mode 0755
    /// and this owner, those from beneath are taken over as they are.
    pub fn make_dirs(&self, path: &Path, owner: (u32, u32)) -> Result<MadeDirs> {
        clear_umask();
        let mut spot = self.root()?;
        let (mut new, mut at) = (Vec::new(), PathBuf::new());
        for part in path.iter() {
            at.push(part);
            let is_new;
            (spot, is_new) = self.settle(&spot, part, &at)?;
            if is_new {
                let own = spot.own.as_ref().expect("it was just made");
                give_owner(own, owner)?;
                new.push(at.clone());
            }
        }
        let dir = spot.own.expect("all that is settled is in the own tree");
        Ok(MadeDirs { dir, new })
    }

    /// Makes a name a directory of the own tree, if it is one or nothing; returns it, and whether it is new.
    pub(crate) fn settle(&self, spot: &Spot, name: &OsStr, path: &Path) -> Result<(Spot, bool)> {
        let own = spot.own.as_ref().expect("a directory is settled after the one it is in");
        let is_directory = |stat: &FileStat| EntryType::of_mode(stat.st_mode) == EntryType::Directory;
        let found = self.look_in_own(spot, name)?;
        match &found {
            Own::Entry(stat) if is_directory(stat) => return Ok((self.enter(spot, name)?, false)),
            Own::Entry(_) => return Err(not_a_directory(path)),
            Own::Whiteout => own.unlink(name)?,
            Own::Nothing => {}
        }
        let lower = match &spot.beneath {
            Some(beneath) if matches!(found, Own::Nothing) => beneath.stat_if_exists(name)?,
            _ => None,
        };
        match lower {
            Some(stat) if is_directory(&stat) => {
                let beneath = spot.beneath.as_ref().expect("it was found there").open_dir(name)?;
                // Seen from above nothing is new in the directory it is in, so that one keeps its times, as when OverlayFS copies up.
                let times = Times::of(&own.stat_self()?);
                own.make_dir(name, 0o700)?;
                own.set_times(".", times)?;
                let made = own.open_dir(name)?;
                let attributes = Attributes::of_open(&beneath, &stat, Xattrs::WithoutOverlay, &beneath)?;
                attributes.apply_to_open(&made, &made.stat_self()?, &made)?;
                Ok((self.spot(Some(made), Some(beneath))?, false))
            }
            Some(_) => Err(not_a_directory(path)),
            None => {
                own.make_dir(name, 0o755)?;
                let made = own.open_dir(name)?;
                if let (Own::Whiteout, Some(marks)) = (&found, &self.marks) {
                    marks.make_opaque(&made)?;
                }
                Ok((self.spot(Some(made), None)?, true))
            }
        }
    }
}

/// What stands under a name in the own tree.
enum Own {
    Entry(FileStat),
    Whiteout,
    Nothing,
}

impl Spot {
    fn stat(&self) -> Result<FileStat> {
        self.own.as_ref().or(self.beneath.as_ref()).expect("a directory is in one of the two").stat_self()
    }
}

fn read_link(spot: &Spot, name: &OsStr) -> Result<OsString> {
    if let Some(own) = &spot.own
        && own.stat_if_exists(name)?.is_some()
    {
        return own.read_link(name);
    }
    spot.beneath.as_ref().expect("the link was found in one of the two").read_link(name)
}

/// Returns the names of a path, the first last.
fn parts(path: &Path) -> Vec<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn joined(way: &[(OsString, Step)]) -> PathBuf {
    way.iter().map(|(name, _)| name.as_os_str()).collect()
}

fn not_a_directory(path: &Path) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("/{} is there and is no directory", path.display()))
}

fn give_owner(dir: &Dir, (user, group): (u32, u32)) -> Result<()> {
    let stat = dir.stat_self()?;
    if (stat.st_uid, stat.st_gid) != (user, group) {
        nix::unistd::fchown(dir, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
            .context(|| format!("fchown({dir}, {user}, {group})"))?;
    }
    // A default ACL, or the group's set-group-id bit, has coloured it.
    if stat.st_mode & 0o7777 != 0o755 {
        nix::sys::stat::fchmod(dir.as_fd(), Mode::from_bits_truncate(0o755))
            .context(|| format!("fchmod({dir}, 0755)"))?;
    }
    Ok(())
}
