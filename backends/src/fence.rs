//! The ctime fence: what changed in a plain directory since it was forked, by one stat of each inode.
//!
//! ctime can only be set by the kernel, to the present. So once a tree is made, a *marker* file is made beside it, and its ctime is
//! the fence: later, whatever has a ctime at or after it is a *candidate* and is really compared with the parent; all
//! else is as it was. A directory behind the fence is listed on both sides. Renaming a directory does not touch what is in it:
//! so the slot's file `dirs` remembers which inode each directory was, and a directory that is another one is compared whole.
//!
//! The fence is not trusted, and everything is compared, where the clock was set back, where `dirs` is missing, damaged or of
//! another fence, and on tmpfs, where writing through a memory map leaves no trace in ctime. What nobody can see: a
//! clock set back and forth again between two looks.
//!
//! The file `dirs`; integers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `rtldirs` and NUL |
//! | 4 | version, 1 |
//! | 8 + 8 | the fence: seconds (signed) and nanoseconds since 1970; must be the record's |
//! | 8 | number of directories |
//! | for each: 8 | inode number |
//! | 4 | length of the path |
//! | n | path relative to the tree's root, any bytes but NUL; empty for the root |
//! | 8 | FNV-1a (64 bit) of everything before |

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::FileStat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::backend::Baseline;
use crate::change::{Aspects, Change, DiffOptions};
use crate::compare::{self, Compare, Directories, compare_stats};
use crate::dir::{Dir, DirEntry, EntryType};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::{small_file, sys, walk};

/// The name of the file in the slot.
pub const DIRS: &str = "dirs";
const MARKER: &str = "fence";
const MAGIC: &[u8; 8] = b"rtldirs\0";
const VERSION: u32 = 1;
/// NTP slews the clock by at most this much between two looks; a step is more.
const SLEW_NS: i64 = 1_000_000_000;

/// A moment before which nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    ctime: (i64, i64),
    boot_id: String,
    clock_offset_ns: i64,
}

impl Fence {
    /// Makes and removes the marker in `slot`: what changes on its file system from now on is behind the fence.
    pub fn mark(slot: &Dir) -> Result<Self> {
        let file = slot.create_file(MARKER, 0o600).or_else(|error| match error.kind() {
            // Left by a crash.
            ErrorKind::AlreadyExists => slot.unlink(MARKER).and_then(|()| slot.create_file(MARKER, 0o600)),
            _ => Err(error),
        })?;
        let stat = nix::sys::stat::fstat(&file).context(|| format!("fstat({slot}, {MARKER:?})"))?;
        slot.unlink(MARKER)?;
        Ok(Self { ctime: ctime(&stat), boot_id: boot_id()?, clock_offset_ns: clock_offset_ns()? })
    }

    /// Makes the fence behind everything done so far to `tree`: waits until the file system's clock has moved on.
    pub fn mark_after(slot: &Dir, tree: &Dir) -> Result<Self> {
        let last = ctime(&tree.stat_self()?);
        let mut fence = Self::mark(slot)?;
        // One tick is 1 to 10 ms. An equal time would only make more candidates: give up soon.
        for _ in 0..12 {
            if fence.ctime > last {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            fence = Self::mark(slot)?;
        }
        Ok(fence)
    }

    /// Returns what the record keeps.
    pub fn baseline(self) -> Baseline {
        Baseline::Fence { ctime: self.ctime, boot_id: self.boot_id, clock_offset_ns: self.clock_offset_ns }
    }

    /// Did the clock only go forward since the fence?
    fn is_trustworthy(&self) -> Result<bool> {
        if self.boot_id == boot_id()? {
            return Ok(clock_offset_ns()? >= self.clock_offset_ns - SLEW_NS);
        }
        let now = sys::clock(libc::CLOCK_REALTIME).context(|| "clock_gettime(CLOCK_REALTIME)")?;
        Ok(now >= self.ctime)
    }
}

fn ctime(stat: &FileStat) -> (i64, i64) {
    (stat.st_ctime, stat.st_ctime_nsec)
}

/// Returns what the kernel calls the time since the machine last started.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    Ok(small_file::read_record(PATH)?.trim().to_owned())
}

fn clock_offset_ns() -> Result<i64> {
    let read = |id| {
        sys::clock(id)
            .map(|(seconds, nanoseconds)| seconds.saturating_mul(1_000_000_000) + nanoseconds)
            .context(|| format!("clock_gettime({id})"))
    };
    Ok(read(libc::CLOCK_REALTIME)? - read(libc::CLOCK_BOOTTIME)?)
}

/// Can ctime be believed on this file system? Not on tmpfs: it does not see writes through memory maps.
pub fn is_supported(tree: &Dir) -> Result<bool> {
    let system = fstatfs(tree).context(|| format!("fstatfs({tree})"))?;
    Ok(system.filesystem_type() != TMPFS_MAGIC)
}

/// Puts a fence behind the finished, quiet `tree` in `slot`, of which these are the [`directories`].
pub fn set(slot: &Dir, tree: &Dir, directories: &[(u64, PathBuf)]) -> Result<Baseline> {
    if !is_supported(tree)? {
        return Ok(Baseline::None);
    }
    let fence = Fence::mark_after(slot, tree)?;
    write_directories(slot, &fence, directories)?;
    Ok(fence.baseline())
}

/// Returns which directory stands where in a tree.
pub fn directories(tree: &Dir) -> Result<Vec<(u64, PathBuf)>> {
    let found = Directories::default();
    walk::for_each(vec![PathBuf::new()], |path, more: &mut Vec<PathBuf>| {
        let Some(dir) = walk::enter(tree, &path)? else { return Ok(1) };
        found.push(&dir, &path)?;
        let entries = dir.entries()?;
        for entry in &entries {
            if walk::type_of(&dir, entry)? == EntryType::Directory {
                more.push(path.join(&entry.name));
            }
        }
        Ok(entries.len())
    })?;
    Ok(found.into_inner())
}

/// Writes the slot's file `dirs`, replacing an older one in one step. Not synced: a damaged one costs a full comparison.
pub fn write_directories(slot: &Dir, fence: &Fence, directories: &[(u64, PathBuf)]) -> Result<()> {
    const NEW: &str = "dirs.new";
    let bytes = encode(fence.ctime, directories);
    if slot.stat_if_exists(NEW)?.is_some() {
        slot.unlink(NEW)?;
    }
    let mut file = slot.create_file(NEW, 0o600)?;
    file.write_all(&bytes).context(|| format!("write({slot}, {NEW:?}, {} bytes)", bytes.len()))?;
    nix::fcntl::renameat(slot, NEW, slot, DIRS).context(|| format!("renameat({slot}, {NEW:?}, {DIRS:?})"))
}

fn encode(ctime: (i64, i64), directories: &[(u64, PathBuf)]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(ctime.0.to_le_bytes());
    bytes.extend(ctime.1.to_le_bytes());
    bytes.extend((directories.len() as u64).to_le_bytes());
    for (inode, path) in directories {
        let path = path.as_os_str().as_bytes();
        bytes.extend(inode.to_le_bytes());
        bytes.extend(u32::try_from(path.len()).expect("a path below 4 GiB").to_le_bytes());
        bytes.extend(path);
    }
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

/// FNV-1a: against torn and damaged files, not against forgers.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns the directories of a `dirs` file that belongs to the fence; `None` for anything else.
fn decode(bytes: &[u8], ctime: (i64, i64)) -> Option<HashMap<PathBuf, u64>> {
    let (body, sum) = bytes.split_last_chunk::<8>()?;
    if checksum(body) != u64::from_le_bytes(*sum) {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?;
    let word = |rest: &mut &[u8]| {
        let (word, tail) = rest.split_first_chunk::<8>()?;
        *rest = tail;
        Some(u64::from_le_bytes(*word))
    };
    let of = (word(&mut rest)?.cast_signed(), word(&mut rest)?.cast_signed());
    let count = word(&mut rest)?;
    if of != ctime {
        return None;
    }
    let mut directories = HashMap::new();
    for _ in 0..count {
        let inode = word(&mut rest)?;
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (path, tail) = tail.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        rest = tail;
        directories.insert(PathBuf::from(OsStr::from_bytes(path)), inode);
    }
    rest.is_empty().then_some(directories)
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The changes, sorted by path, parents first.
    pub changes: Vec<Change>,
    /// Which directory stood where when it was looked at.
    pub directories: Vec<(u64, PathBuf)>,
}

/// Returns what differs in `tree`, which lies in `slot`, against `parent`: exact, whatever the baseline.
///
/// With a fence that can be trusted O(inodes of the tree) stats and O(changes) comparisons, else a full comparison.
pub fn search(
    slot: &Dir,
    tree: &Dir,
    parent: &Dir,
    baseline: &Baseline,
    options: DiffOptions,
) -> Result<Found> {
    let mut compare = Compare::new(parent, tree, options);
    compare.directories = Some(Directories::default());
    compare.root()?;
    let context = || format!("search {:?} for changes", tree.path());
    match known(slot, tree, baseline)? {
        Some((ctime, directories)) => {
            let search = Search { compare: &compare, ctime, directories };
            let first = vec![Task::Fenced(PathBuf::new())];
            walk::for_each(first, |task, more| search.step(task, more)).context(context)?;
        }
        None => {
            let first = vec![compare::Task::Both(PathBuf::new())];
            walk::for_each(first, |task, more| compare.step(task, more)).context(context)?;
        }
    }
    let directories = compare.directories.take().map(Directories::into_inner).unwrap_or_default();
    Ok(Found { changes: compare.finish().context(context)?, directories })
}

type Known = ((i64, i64), HashMap<PathBuf, u64>);

/// Returns the fence and its directories if both can be believed.
fn known(slot: &Dir, tree: &Dir, baseline: &Baseline) -> Result<Option<Known>> {
    let Baseline::Fence { ctime, boot_id, clock_offset_ns } = baseline else { return Ok(None) };
    let fence = Fence { ctime: *ctime, boot_id: boot_id.clone(), clock_offset_ns: *clock_offset_ns };
    if !fence.is_trustworthy()? || !is_supported(tree)? {
        return Ok(None);
    }
    let file = match slot.open_file(DIRS) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let bytes = read(file).context(|| format!("read({slot}, {DIRS:?})"))?;
    Ok(decode(&bytes, fence.ctime).map(|directories| (fence.ctime, directories)))
}

fn read(mut file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.size()).unwrap_or(0));
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes)
}

enum Task {
    /// A directory that both have, the same as then: only what is behind the fence matters.
    Fenced(PathBuf),
    /// A directory that must be looked at whole.
    Whole(compare::Task),
}

struct Search<'a> {
    compare: &'a Compare<'a>,
    ctime: (i64, i64),
    directories: HashMap<PathBuf, u64>,
}

impl Search<'_> {
    fn step(&self, task: Task, more: &mut Vec<Task>) -> Result<usize> {
        match task {
            Task::Whole(task) => self.whole(task, more),
            Task::Fenced(path) => {
                let Some(dir) = walk::enter(self.compare.new, &path)? else {
                    return self.whole(compare::Task::Both(path), more);
                };
                let stat = dir.stat_self()?;
                if self.directories.get(&path) != Some(&stat.st_ino) {
                    return self.whole(compare::Task::Both(path), more);
                }
                self.compare.saw(&dir, &path)?;
                self.fenced(&dir, &path, ctime(&stat) >= self.ctime, more)
            }
        }
    }

    fn whole(&self, task: compare::Task, more: &mut Vec<Task>) -> Result<usize> {
        let mut tasks = Vec::new();
        let handled = self.compare.step(task, &mut tasks)?;
        more.extend(tasks.into_iter().map(Task::Whole));
        Ok(handled)
    }

    fn fenced(&self, new: &Dir, path: &Path, behind: bool, more: &mut Vec<Task>) -> Result<usize> {
        let mut old = Old { tree: self.compare.old, path, dir: None };
        let mut names: HashMap<_, DirEntry> = HashMap::new();
        if behind {
            names.extend(old.open()?.entries()?.into_iter().map(|entry| (entry.name.clone(), entry)));
        }
        let entries = new.entries()?;
        for entry in &entries {
            let Some(stat) = new.stat_if_exists(&entry.name)? else { continue };
            let known = names.remove(&entry.name).is_some();
            self.entry(new, &mut old, &entry.name, &stat, known, more)?;
        }
        for (name, entry) in names {
            let kind = walk::type_of(old.open()?, &entry)?;
            self.compare.deleted(path.join(name), kind);
        }
        Ok(entries.len() + 1)
    }

    fn entry(
        &self,
        new: &Dir,
        old: &mut Old<'_>,
        name: &OsStr,
        stat: &FileStat,
        look: bool,
        more: &mut Vec<Task>,
    ) -> Result<()> {
        let path = old.path.join(name);
        let is_directory = EntryType::of_mode(stat.st_mode) == EntryType::Directory;
        let same = !is_directory || self.directories.get(&path) == Some(&stat.st_ino);
        let candidate = ctime(stat) >= self.ctime || !same;
        if !candidate && !look {
            if is_directory {
                more.push(Task::Fenced(path));
            }
            return Ok(());
        }
        let Some(old_stat) = old.open()?.stat_if_exists(name)? else {
            let mut tasks = Vec::new();
            self.compare.added(path, EntryType::of_mode(stat.st_mode), &mut tasks);
            more.extend(tasks.into_iter().map(Task::Whole));
            return Ok(());
        };
        // In a directory that changed, names may have been exchanged: not all file systems touch a renamed inode.
        let aspects = if candidate || looks_different(&old_stat, stat) {
            self.compare.note_links(&old_stat, stat);
            compare_stats((old.open()?, name), &old_stat, (new, name), stat, self.compare.options)?
        } else {
            Aspects::default()
        };
        if is_directory && same && !aspects.kind {
            more.push(Task::Fenced(path.clone()));
            self.compare.modified(path, EntryType::Directory, aspects);
        } else {
            let mut tasks = Vec::new();
            self.compare.descend(path, stat, aspects, &mut tasks);
            more.extend(tasks.into_iter().map(Task::Whole));
        }
        Ok(())
    }
}

fn looks_different(old: &FileStat, new: &FileStat) -> bool {
    let looks =
        |stat: &FileStat| (stat.st_mode, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_nlink);
    let is_directory = EntryType::of_mode(new.st_mode) == EntryType::Directory;
    if is_directory { old.st_mode != new.st_mode } else { looks(old) != looks(new) }
}

/// The parent's directory at the same path, opened when it is needed.
struct Old<'a> {
    tree: &'a Dir,
    path: &'a Path,
    dir: Option<Dir>,
}

impl Old<'_> {
    fn open(&mut self) -> Result<&Dir> {
        if self.dir.is_none() {
            self.dir = Some(walk::open_below(self.tree, self.path)?);
        }
        self.dir.as_ref().ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{:?} is gone", self.path)))
    }
}
