//! A part of one tree put into another, as a caller picked it and changes its attributes.
//!
//! Other than [`replicate`](crate::replicate) this goes into what is there (a [`Ground`], that may be the upper directory of a delta), and
//! other than [`transfer`](crate::transfer) the target is nobody's yet: a failure leaves it half made, and the caller throws it away. Directories become
//! one; a directory and anything else under one name is an error, and any other two are replaced. Hard links stay links within one call.
//!
//! The source may change meanwhile, and is not trusted: each step is one name below an open directory, never followed, and what
//! is no regular file is never opened.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use crate::attributes::{Attributes, PERMISSIONS, Xattrs};
use crate::backend::Cost;
use crate::data;
use crate::dir::{Dir, EntryType, Times};
use crate::entry::{Quoted, open_parent};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ground::{Ground, Spot};
use crate::links::Inode;
use crate::merge::{Made, clear_umask, finish_by};
use crate::walk::{self, vanishing};

mod origin;
mod plan;
#[cfg(test)]
mod tests;

pub use origin::Origin;
use origin::Reading;
use plan::{Plan, State, Task};

/// What is done to the attributes of a copy before it is given them.
pub type Change<'a> = &'a (dyn Fn(&mut Attributes, EntryType) + Sync);

/// Something below a directory that is to be copied.
#[derive(Debug, Clone, Copy)]
pub struct Picked<'a> {
    /// Relative to the directory, not empty.
    pub path: &'a Path,
    /// What it was when it was listed.
    pub kind: EntryType,
    /// Is it there only for what is in it? Then, where there is one already, that keeps all but its mode.
    pub on_the_way: bool,
    /// The inode of a file as it must still be once it is copied; anything else is an error of kind [`ErrorKind::Busy`].
    pub expected: Option<&'a FileStat>,
}

/// Puts things into a ground, and keeps the account.
#[derive(Debug)]
pub struct Graft<'a> {
    ground: &'a Ground,
    cost: Mutex<Cost>,
}

/// One call.
struct Run<'a> {
    origin: &'a Origin,
    ground: &'a Ground,
    change: Change<'a>,
    links: Mutex<Links>,
    made: Mutex<Vec<Made>>,
    tally: Tally,
}

#[derive(Default)]
struct Links {
    first: HashMap<Inode, PathBuf>,
    waiting: Vec<(PathBuf, PathBuf)>,
}

#[derive(Default)]
struct Tally {
    directories: AtomicU64,
    cloned: AtomicU64,
    copied: AtomicU64,
    others: AtomicU64,
    bytes_cloned: AtomicU64,
    bytes_copied: AtomicU64,
    /// Why files were copied: the first few.
    reasons: Mutex<Vec<(PathBuf, String)>>,
    /// A file system of the source of which nothing can be cloned: it is not tried file by file. 0 for none.
    hopeless: AtomicU64,
}

const REASONS: usize = 20;

impl<'a> Graft<'a> {
    /// Starts with an empty account.
    pub fn new(ground: &'a Ground) -> Self {
        clear_umask();
        Self { ground, cost: Mutex::default() }
    }

    /// Copies `from`, which is free of links and no directory, to `to`, which is free of links; what is there and no directory is replaced.
    ///
    /// `expected` is as in [`Picked`].
    pub fn entry(
        &self,
        origin: &Origin,
        from: &Path,
        to: &Path,
        expected: Option<&FileStat>,
        change: Change<'_>,
    ) -> Result<()> {
        let run = self.run(origin, change);
        let (above, name) = split(from);
        let (into, target) = split(to);
        let reading = origin.open(above)?;
        let kind = EntryType::of_mode(reading.dir.stat(name)?.st_mode);
        let spot = self.ground.open(into, true)?;
        let picked = Picked { path: from, kind, on_the_way: false, expected };
        run.entry(&reading, name, &picked, &spot, State::Merged { beneath: true }, into, target)?;
        self.note(run);
        Ok(())
    }

    /// Copies an open file to `to`, which is free of links; what is there and no directory is replaced. `modified` is in seconds since 1970.
    pub fn file(
        &self,
        source: &File,
        to: &Path,
        mode: libc::mode_t,
        owner: (u32, u32),
        modified: i64,
    ) -> Result<()> {
        let made = self.new_file(to)?;
        let what = to.display();
        let stat = nix::sys::stat::fstat(source).context(|| format!("fstat(source of {what})"))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let (mut cloned, mut copied) = (0, 0);
        match data::clone(source, &made, size) {
            Ok(()) => cloned = 1,
            Err(errno) if data::is_final(errno) => {
                return Err(Error::call(format!("ioctl(FICLONE, {what})"), errno));
            }
            Err(_) => {
                copied =
                    1 + data::copy(source, &made, &stat).context(|| format!("copy the data of {what}"))?
            }
        }
        give(&made, to, mode, owner, Some(modified))?;
        let mut cost = self.cost.lock().expect("no thread panics while it holds the lock");
        cost.files_cloned += cloned;
        cost.bytes_cloned += cloned * size;
        cost.files_copied += copied.min(1);
        cost.bytes_copied += copied.saturating_sub(1);
        Ok(())
    }

    /// Writes a file to `to`, which is free of links; what is there and no directory is replaced.
    pub fn text(&self, text: &[u8], to: &Path, mode: libc::mode_t, owner: (u32, u32)) -> Result<()> {
        let made = self.new_file(to)?;
        (&made).write_all(text).context(|| format!("write({})", to.display()))?;
        give(&made, to, mode, owner, None)?;
        let mut cost = self.cost.lock().expect("no thread panics while it holds the lock");
        cost.files_copied += 1;
        cost.bytes_copied += text.len() as u64;
        Ok(())
    }

    /// Copies what was `picked` in the directory `from` into the directory `to`, which is there; both are free of links.
    ///
    /// `picked` has directories before what is in them, and one after the other. `to` itself gets the time of `from` and nothing else of
    /// it. What is gone, or something else than it was, is left out. O(entries), on all cores.
    pub fn content(
        &self,
        origin: &Origin,
        from: &Path,
        to: &Path,
        picked: &[Picked<'_>],
        change: Change<'_>,
    ) -> Result<()> {
        let run = self.run(origin, change);
        let plan = Plan::of(from, to, picked);
        let first = plan.tasks(None, State::Merged { beneath: self.ground.beneath().is_some() });
        walk::for_each(first, |task, more| run.task(&plan, &task, more))?;
        run.make_links()?;
        run.finish()?;
        let (source, target) = (origin.root().open_deep(from)?, walk::open_below(self.ground.own(), to)?);
        let modified = Times::of(&source.stat_self()?).modified;
        target.set_times(".", Times { modified, ..Times::of(&target.stat_self()?) })?;
        self.note(run);
        Ok(())
    }

    /// Makes an empty file in the place of whatever is there and no directory.
    fn new_file(&self, to: &Path) -> Result<File> {
        let (into, name) = split(to);
        let spot = self.ground.open(into, true)?;
        clear(self.ground, &spot, name, to)?;
        own(&spot).create_file(name, 0o600)
    }

    fn run<'r>(&'r self, origin: &'r Origin, change: Change<'r>) -> Run<'r> {
        let tally = Tally::default();
        Run { origin, ground: self.ground, change, links: Mutex::default(), made: Mutex::default(), tally }
    }

    fn note(&self, run: Run<'_>) {
        let mut cost = self.cost.lock().expect("no thread panics while it holds the lock");
        let Tally { directories, cloned, copied, others, bytes_cloned, bytes_copied, reasons, .. } =
            run.tally;
        cost.directories += directories.into_inner();
        cost.files_cloned += cloned.into_inner();
        cost.files_copied += copied.into_inner();
        cost.others += others.into_inner();
        cost.bytes_cloned += bytes_cloned.into_inner();
        cost.bytes_copied += bytes_copied.into_inner();
        let mut reasons = reasons.into_inner().expect("no thread panics while it holds the lock");
        reasons.sort();
        cost.copied_because.extend(reasons);
        cost.copied_because.truncate(REASONS);
    }

    /// Returns the account.
    pub fn cost(self) -> Cost {
        self.cost.into_inner().expect("no thread panics while it holds the lock")
    }
}

impl Run<'_> {
    fn task(&self, plan: &Plan<'_>, task: &Task, more: &mut Vec<Task>) -> Result<usize> {
        let (from, to) = plan.paths(task.directory);
        let Some(reading) = vanishing(self.origin.open(&from))? else { return Ok(1) };
        let spot = self.ground.open(&to, task.state == State::Merged { beneath: true })?;
        for &number in &task.entries {
            let picked = &plan.picked[number];
            let name = picked.path.file_name().unwrap_or_default();
            if picked.kind == EntryType::Directory {
                let made = self.make_directory(&reading, name, &spot, task.state, &to.join(name), picked)?;
                more.extend(made.into_iter().flat_map(|state| plan.tasks(Some(number), state)));
            } else {
                // Gone since it was listed: then it is not part of what is copied.
                vanishing(self.entry(&reading, name, picked, &spot, task.state, &to, name))?;
            }
        }
        Ok(task.entries.len() + 1)
    }

    /// Makes a directory of the target, or finds one; `None` if the source's is gone since it was listed.
    fn make_directory(
        &self,
        reading: &Reading,
        name: &OsStr,
        spot: &Spot,
        state: State,
        target: &Path,
        picked: &Picked<'_>,
    ) -> Result<Option<State>> {
        let Some(source) = vanishing(reading.dir.open_dir(name))? else { return Ok(None) };
        let own = own(spot);
        let mut attributes =
            Attributes::of_open(&source, &source.stat_self()?, Xattrs::WithoutOverlay, &source)?;
        (self.change)(&mut attributes, EntryType::Directory);
        let (state, attributes) = if state == State::Fresh {
            own.make_dir(name, 0o700)?;
            (State::Fresh, attributes)
        } else {
            let (inner, is_new) =
                self.ground.settle(spot, name, target).map_err(|error| match error.kind() {
                    ErrorKind::InvalidInput => error.hint(
                        "a directory cannot take its place: name where it leads to, or remove it first",
                    ),
                    _ => error,
                })?;
            if is_new {
                (State::Fresh, attributes)
            } else {
                let made = inner.own.as_ref().expect("what is settled is in the own tree");
                let merged = State::Merged { beneath: inner.beneath.is_some() };
                // One that is there only on the way to what is taken stays what it is, but for its mode.
                let attributes = if picked.on_the_way {
                    let own = Attributes::of_open(made, &made.stat_self()?, Xattrs::WithoutOverlay, made)?;
                    Attributes { mode: attributes.mode, ..own }
                } else {
                    attributes
                };
                (merged, attributes)
            }
        };
        if state == State::Fresh {
            add(&self.tally.directories, 1);
        }
        let mut made = self.made.lock().expect("no thread panics while it holds the lock");
        made.push(Made { path: target.to_owned(), attributes });
        Ok(Some(state))
    }

    #[expect(clippy::too_many_arguments, reason = "a name in one place and a name in another")]
    fn entry(
        &self,
        reading: &Reading,
        name: &OsStr,
        picked: &Picked<'_>,
        spot: &Spot,
        state: State,
        to: &Path,
        target: &OsStr,
    ) -> Result<()> {
        if state != State::Fresh {
            clear(self.ground, spot, target, &to.join(target))?;
        }
        let own = own(spot);
        if picked.kind == EntryType::File {
            return self.file(reading, name, picked.expected, own, to, target);
        }
        let stat = reading.dir.stat(name)?;
        let kind = EntryType::of_mode(stat.st_mode);
        match kind {
            EntryType::File | EntryType::Directory => {
                let message = format!("{} was changed while it was copied", Quoted(&reading.dir, name));
                return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("try again"));
            }
            EntryType::Symlink => own.make_symlink(target, &reading.dir.read_link(name)?)?,
            EntryType::CharDevice if stat.st_rdev == 0 => {
                let message = format!("{} is a whiteout of OverlayFS", Quoted(&reading.dir, name));
                return Err(Error::new(ErrorKind::Unsupported, message).hint("leave it out"));
            }
            _ => own.make_node(target, stat.st_mode & (libc::S_IFMT | 0o600), stat.st_rdev).map_err(
                |error| match error.errno() {
                    Some(Errno::EPERM) => error.hint("making device files needs root: leave it out"),
                    _ => error,
                },
            )?,
        }
        add(&self.tally.others, 1);
        let mut attributes = Attributes::of_entry(&reading.dir, name, &stat, Xattrs::WithoutOverlay)?;
        (self.change)(&mut attributes, kind);
        attributes.apply_to_entry(own, target, &own.stat(target)?)
    }

    fn file(
        &self,
        reading: &Reading,
        name: &OsStr,
        expected: Option<&FileStat>,
        own: &Dir,
        to: &Path,
        target: &OsStr,
    ) -> Result<()> {
        let source = reading.open_file(name)?;
        let what = Quoted(&reading.dir, name);
        let stat = nix::sys::stat::fstat(&source).context(|| format!("fstat({what})"))?;
        if EntryType::of_mode(stat.st_mode) != EntryType::File {
            let message = format!("{what} was changed while it was copied");
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("try again"));
        }
        if stat.st_nlink > 1 && self.waits(&stat, to, target) {
            return Ok(());
        }
        let mut attributes = Attributes::of_open(&source, &stat, Xattrs::WithoutOverlay, &what)?;
        (self.change)(&mut attributes, EntryType::File);
        // Special bits only once the owner is right.
        let made = own.create_file(target, attributes.mode & PERMISSIONS & 0o777)?;
        self.fill(&source, &stat, &made, to, target)?;
        if let Some(expected) = expected {
            let after = nix::sys::stat::fstat(&source).context(|| format!("fstat({what})"))?;
            require_same(expected, &after, &what)?;
        }
        let what = Quoted(own, target);
        let now = nix::sys::stat::fstat(&made).context(|| format!("fstat({what})"))?;
        attributes.apply_to_open(made.as_fd(), &now, &what)
    }

    fn fill(&self, source: &File, stat: &FileStat, target: &File, to: &Path, name: &OsStr) -> Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let path = || to.join(name);
        if self.tally.hopeless.load(Ordering::Relaxed) != stat.st_dev {
            match data::clone(source, target, size) {
                Ok(()) => {
                    add(&self.tally.cloned, 1);
                    add(&self.tally.bytes_cloned, size);
                    return Ok(());
                }
                Err(errno) if data::is_final(errno) => {
                    return Err(Error::call(format!("ioctl(FICLONE, {:?})", path()), errno));
                }
                Err(errno) => self.remember(path(), stat.st_dev, errno),
            }
        }
        let copied = data::copy(source, target, stat).context(|| format!("copy the data of {:?}", path()))?;
        add(&self.tally.copied, 1);
        add(&self.tally.bytes_copied, copied);
        Ok(())
    }

    fn remember(&self, path: PathBuf, device: u64, errno: Errno) {
        if errno == Errno::EXDEV {
            self.tally.hopeless.store(device, Ordering::Relaxed);
        }
        let mut reasons = self.tally.reasons.lock().expect("no thread panics while it holds the lock");
        if reasons.len() < REASONS {
            reasons.push((path, errno.desc().to_lowercase()));
        }
    }

    /// Notes a name of a file that has several; true if an earlier one is copied and this one is to be linked to it.
    fn waits(&self, stat: &FileStat, to: &Path, name: &OsStr) -> bool {
        let mut links = self.links.lock().expect("no thread panics while it holds the lock");
        let path = to.join(name);
        match links.first.get(&(stat.st_dev, stat.st_ino)).cloned() {
            Some(first) => {
                links.waiting.push((first, path));
                true
            }
            None => {
                links.first.insert((stat.st_dev, stat.st_ino), path);
                false
            }
        }
    }

    fn make_links(&self) -> Result<()> {
        let mut links = self.links.lock().expect("no thread panics while it holds the lock");
        for (first, path) in std::mem::take(&mut links.waiting) {
            let (first_dir, first_name) = open_parent(self.ground.own(), &first)?;
            let (dir, name) = open_parent(self.ground.own(), &path)?;
            dir.make_link(name, &first_dir, first_name)?;
            add(&self.tally.others, 1);
        }
        Ok(())
    }

    /// Gives the directories their attributes, the deepest first.
    fn finish(&self) -> Result<()> {
        let made = std::mem::take(&mut *self.made.lock().expect("no thread panics while it holds the lock"));
        finish_by(self.ground.own(), made, |attributes, dir| {
            attributes.apply_to_open(dir, &dir.stat_self()?, dir)
        })?;
        Ok(())
    }
}

/// Makes room for what is no directory.
fn clear(ground: &Ground, spot: &Spot, name: &OsStr, path: &Path) -> Result<()> {
    let found = ground.look(spot, name)?;
    if found.is_some_and(|stat| EntryType::of_mode(stat.st_mode) == EntryType::Directory) {
        let message = format!("/{} is a directory there", path.display());
        return Err(Error::new(ErrorKind::AlreadyExists, message)
            .hint("a file cannot take its place: remove it first, or name another place"));
    }
    let own = own(spot);
    // What is beneath is hidden by what is made, and a whiteout gives way to it.
    match own.stat_if_exists(name)? {
        Some(_) => own.unlink(name),
        None => Ok(()),
    }
}

/// Fails if anything was done to a file since it was looked at.
fn require_same(before: &FileStat, after: &FileStat, what: &Quoted<'_>) -> Result<()> {
    let of = |stat: &FileStat| {
        let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        (stat.st_dev, stat.st_ino, stat.st_size, times)
    };
    if of(before) == of(after) {
        return Ok(());
    }
    let message = format!("{what} was changed while it was read");
    Err(Error::new(ErrorKind::Busy, message).hint("try again when nobody writes to it"))
}

/// Gives a file that was just made its attributes.
fn give(file: &File, to: &Path, mode: libc::mode_t, owner: (u32, u32), modified: Option<i64>) -> Result<()> {
    let what = to.display();
    let now = nix::sys::stat::fstat(file).context(|| format!("fstat({what})"))?;
    let mut times = Times::of(&now);
    if let Some(seconds) = modified {
        times.modified = (seconds, 0);
    }
    let attributes = Attributes { mode, user: owner.0, group: owner.1, times, xattrs: Vec::new() };
    attributes.apply_to_open(file.as_fd(), &now, &what)
}

fn own(spot: &Spot) -> &Dir {
    spot.own.as_ref().expect("what is written to is in the own tree")
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

/// Splits a path into the one it is in and its name.
fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or(OsStr::new(".")))
}
