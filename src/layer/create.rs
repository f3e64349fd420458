//! Makes a layer: what changed in a tree, or all of it, as an archive that depends on the tree and on nothing else.
//!
//! The same tree gives the same bytes, whatever made it, on whatever file system, with however many threads: names are sorted, nothing is
//! taken from clocks, directory orders, inode numbers or names of users.
//!
//! | what | how it is written |
//! |---|---|
//! | order | as the names in the archive sort by their bytes (directories end in `/`): parents come before what they hold |
//! | parents | each directory above an entry has one of its own: the layer can be unpacked alone, and times are kept |
//! | deletion | an empty file `.wh.NAME` before the other entries of its directory; never an opaque directory |
//! | replaced by another type | the new entry alone: it replaces what was there |
//! | hard links | of the names of an inode in the layer, the first is the file and the others are links to it; never to what is in another layer |
//! | holes | zeros: the image specification advises against sparse entries |
//! | sockets, device 0:0 | left out and noted; a whiteout where something else was |
//! | times | modification times with all digits, not after [`CreateOptions::epoch`]; those of whiteouts are 0 |
//! | extended attributes | those of the inode, not of the machine or its file system: see `create/inode.rs` |

mod data;
mod inode;
mod plan;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::sys::stat::FileStat;
use rootling_backends::{Change, Context, Dir, EntryType, Result, compare};

use self::plan::{Plan, Step};
use super::apply::Skipped;
use super::header::BLOCK;
use super::member::{Content, Member};
use super::pack::{Packed, Packing, Stream, packed};
use super::write::headers;

/// How to make a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    /// How it is compressed.
    pub packing: Packing,
    /// The latest modification time to write, in seconds since 1970: later ones become this (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
    /// Leave the fractions of modification times out.
    pub whole_seconds: bool,
    /// How many threads compress. The layer does not depend on it.
    pub threads: NonZero<usize>,
}

impl Default for CreateOptions {
    /// gzip on all cores, times as they are.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Self { packing: Packing::default(), epoch: None, whole_seconds: false, threads }
    }
}

/// A layer that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The blob: digests, sizes, media type, recipe.
    pub packed: Packed,
    /// Entries in the archive: whiteouts and parents too.
    pub entries: u64,
    /// What was left out: the first hundred.
    pub notes: Vec<Skipped>,
    /// How much was left out.
    pub notes_count: u64,
}

/// Returns all of a tree as added, for a layer that stands on nothing. O(entries), on all cores.
pub fn whole_tree(root: &Dir) -> Result<Vec<Change>> {
    compare::added_recursively(root, Path::new(""))
}

/// Writes the layer that turns the tree before `changes` into the one at `root`.
///
/// `changes` are those of [`compare::diff_trees`] of the two, and of whatever else says the same, in any order; times count only if they were asked
/// for. No changes are an empty archive. The tree should not change meanwhile: an entry that is gone and a file that changes its
/// size while it is read are errors that name them. A name that begins with `.wh.` is one too, because it would mean a deletion.
/// Nothing is followed, and nothing mounted in the tree is part of it.
///
/// O(changes, their parents, and the bytes of what changed): an attribute that changed brings the content along, as always with layers. The
/// sink is written from another thread, in one pass; after an error it holds a part of the layer.
pub fn create(
    changes: &[Change],
    root: &Dir,
    options: &CreateOptions,
    sink: &mut (dyn Write + Send),
) -> Result<Created> {
    let intent = || format!("make a layer of {:?}", root.path());
    let plan = Plan::build(changes, root).context(intent)?;
    let mut notes = Notes::default();
    let (entries, packed) = packed(options.packing, options.threads, sink, |stream| {
        let mut writer = Writer::new(root, options, stream, &mut notes);
        plan.skipped.iter().for_each(|(path, reason)| writer.notes.add(path, *reason));
        plan.steps.iter().try_for_each(|step| {
            writer.step(step).context(|| format!("put {:?} into the layer", step.path()))
        })?;
        writer.end()
    })
    .context(intent)?;
    Ok(Created { packed, entries, notes: notes.first, notes_count: notes.count })
}

const NOTES_SHOWN: usize = 100;

/// What was left out.
#[derive(Debug, Default)]
struct Notes {
    first: Vec<Skipped>,
    count: u64,
}

impl Notes {
    fn add(&mut self, path: &Path, reason: impl Into<String>) {
        self.count += 1;
        if self.first.len() < NOTES_SHOWN {
            let path = path.as_os_str().as_bytes().to_vec();
            self.first.push(Skipped { path, reason: reason.into() });
        }
    }
}

struct Writer<'a> {
    root: &'a Dir,
    options: &'a CreateOptions,
    stream: &'a mut Stream,
    notes: &'a mut Notes,
    /// The directory that the last entry was in: the next one often is too.
    parent: Option<(PathBuf, Rc<Dir>)>,
    /// The inodes with several names that are in the archive, each as its first name.
    linked: HashMap<Inode, Member>,
    entries: u64,
}

impl<'a> Writer<'a> {
    fn new(root: &'a Dir, options: &'a CreateOptions, stream: &'a mut Stream, notes: &'a mut Notes) -> Self {
        Self { root, options, stream, notes, parent: None, linked: HashMap::new(), entries: 0 }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Whiteout(path) => self.header(&plan::whiteout(path)),
            Step::Entry(path) => {
                let dir = self.parent(path.parent().unwrap_or(Path::new("")))?;
                self.entry(&dir, path)
            }
        }
    }

    fn parent(&mut self, path: &Path) -> Result<Rc<Dir>> {
        if let Some((_, dir)) = self.parent.as_ref().filter(|(open, _)| open == path) {
            return Ok(Rc::clone(dir));
        }
        let dir = Rc::new(self.root.open_deep(path)?);
        self.parent = Some((path.to_owned(), Rc::clone(&dir)));
        Ok(dir)
    }

    fn entry(&mut self, dir: &Dir, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let stat = dir.stat(name)?;
        let kind = EntryType::of_mode(stat.st_mode);
        if let Some(first) = self.linked.get(&inode_of(&stat)).filter(|_| has_several_names(&stat)) {
            let content = Content::HardLink { target: first.path.clone() };
            let path = path.as_os_str().as_bytes().to_vec();
            return self.header(&Member { path, content, ..first.clone() });
        }
        if kind == EntryType::File {
            return self.file(dir, name, path);
        }
        let mut member = inode::member(dir, name, &stat)?;
        self.dress(&mut member, path);
        self.header(&member)?;
        self.remember(&stat, member);
        Ok(())
    }

    /// Everything of a file is read through one descriptor: it is one inode whatever happens to its name.
    fn file(&mut self, dir: &Dir, name: &OsStr, path: &Path) -> Result<()> {
        let file = dir.open_file(name)?;
        let (mut member, stat) = inode::file_member(&file, dir, name)?;
        self.dress(&mut member, path);
        self.header(&member)?;
        data::write(&file, &stat, self.stream)?;
        self.stream.zeros(member.size().next_multiple_of(BLOCK as u64) - member.size())?;
        self.remember(&stat, member);
        Ok(())
    }

    /// Gives a member its path and what the options make of its time and attributes.
    fn dress(&mut self, member: &mut Member, path: &Path) {
        member.path = path.as_os_str().as_bytes().to_vec();
        member.mtime = self.options.clamp(member.mtime);
        for reason in inode::keep_portable(&mut member.xattrs) {
            self.notes.add(path, reason);
        }
    }

    fn remember(&mut self, stat: &FileStat, member: Member) {
        if has_several_names(stat) {
            self.linked.insert(inode_of(stat), member);
        }
    }

    fn header(&mut self, member: &Member) -> Result<()> {
        self.entries += 1;
        self.stream.write(&headers(member))
    }

    /// Two blocks of zeros end an archive.
    fn end(self) -> Result<u64> {
        self.stream.zeros(2 * BLOCK as u64)?;
        Ok(self.entries)
    }
}

impl CreateOptions {
    fn clamp(&self, (seconds, nanoseconds): (i64, u32)) -> (i64, u32) {
        match self.epoch {
            Some(epoch) if seconds >= epoch => (epoch, 0),
            _ if self.whole_seconds => (seconds, 0),
            _ => (seconds, nanoseconds),
        }
    }
}

/// A device, a number on it, and when the inode was changed last: numbers alone come twice in a tree of several layers or subvolumes, and
/// OverlayFS shows what lies in two subvolumes of one btrfs as one device's (kernel source, fs/overlayfs/inode.c: `ovl_map_dev_ino`).
type Inode = (u64, u64, i64, i64);

fn inode_of(stat: &FileStat) -> Inode {
    (stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec)
}

/// Has an inode further names? Those of a directory are its children's `..`.
fn has_several_names(stat: &FileStat) -> bool {
    stat.st_nlink > 1 && EntryType::of_mode(stat.st_mode) != EntryType::Directory
}
