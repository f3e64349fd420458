//! A source becomes the list of what is taken of it: parents first, names sorted.
//!
//! Directories are read wave by wave, each as far from the source as the one before plus one; a wave is read on all cores where that
//! pays. Sockets are left out: no image has them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use rayon::prelude::*;
use rootling_backends::{Dir, DirEntry, EntryType, Error, ErrorKind, Result};

use super::find::is_absent;
use super::{Context, Source};
use crate::build::ignore::{Level, Patterns};

/// Entries that are listed before other threads are asked for.
const ALONE: usize = 1024;

/// What of a source is taken, besides what the context leaves out.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// `--exclude`: paths relative to the source. Of what is no directory, or was meant by a pattern, its own name counts.
    pub exclude: Patterns,
    /// `--parents`: only what these mean, relative to the source, and the directories on the way.
    pub include: Option<Patterns>,
}

/// Something that is taken.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path relative to the source; empty for the source itself.
    pub path: PathBuf,
    /// Its inode as it was listed; the source's is that behind a link, all others are not followed.
    pub stat: FileStat,
}

impl Entry {
    /// Returns its type.
    pub fn kind(&self) -> EntryType {
        EntryType::of_mode(self.stat.st_mode)
    }
}

/// What three sorts of patterns say of one directory.
#[derive(Clone)]
struct Levels {
    ignored: Level,
    exclude: Level,
    include: Option<Level>,
}

/// A directory that is to be read.
struct Task {
    /// Relative to the source.
    path: PathBuf,
    levels: Levels,
}

/// One entry of a directory that was read.
struct Child {
    name: OsString,
    stat: FileStat,
    /// Is it taken itself, or only if something in it is?
    is_taken: bool,
    /// Which of the directories read it is.
    directory: Option<usize>,
}

/// One directory of the list that is being written down.
struct Open {
    directory: usize,
    next: usize,
    path: PathBuf,
}

impl Context {
    /// Lists what is taken of a source, itself first; nothing, where it is a socket.
    ///
    /// Directories come before what is in them, names in the order of their bytes. A directory that is not taken itself is listed where
    /// something in it is. What goes away meanwhile is not listed. Costs one system call for each entry, and two or three for each directory.
    pub fn list(&self, source: &Source, selection: &Selection) -> Result<Vec<Entry>> {
        let itself = Entry { path: PathBuf::new(), stat: source.stat };
        if !source.is_dir() {
            let is_wanted = itself.kind() != EntryType::Socket && selection.include.is_none();
            return Ok(if is_wanted { vec![itself] } else { Vec::new() });
        }
        let levels = Levels {
            ignored: self.level(&source.real),
            exclude: selection.exclude.root(),
            include: selection.include.as_ref().map(Patterns::root),
        };
        let directories = self.read_all(source, selection, levels)?;
        let mut entries = vec![itself];
        flatten(&directories, &mut entries);
        Ok(entries)
    }

    /// Reads a directory and all below; the first is the source's.
    fn read_all(&self, source: &Source, selection: &Selection, levels: Levels) -> Result<Vec<Vec<Child>>> {
        let mut directories = Vec::new();
        let mut wave = vec![Task { path: PathBuf::new(), levels }];
        let mut listed = 0;
        while !wave.is_empty() {
            let read = |task: &Task| self.read_one(source, selection, task);
            let results: Vec<(Vec<Child>, Vec<Task>)> = if listed > ALONE && wave.len() > 1 {
                wave.par_iter().map(read).collect::<Result<_>>()?
            } else {
                wave.iter().map(read).collect::<Result<_>>()?
            };
            let mut next = Vec::new();
            let first_of_next = directories.len() + results.len();
            for (mut children, tasks) in results {
                listed += children.len();
                let numbers = first_of_next + next.len()..;
                children.iter_mut().filter(|child| child.directory.is_some()).zip(numbers).for_each(
                    |(child, number)| {
                        child.directory = Some(number);
                    },
                );
                next.extend(tasks);
                directories.push(children);
            }
            wave = next;
        }
        Ok(directories)
    }

    /// Reads one directory: what is taken of it, and the directories in it that are to be read, in the same order.
    fn read_one(
        &self,
        source: &Source,
        selection: &Selection,
        task: &Task,
    ) -> Result<(Vec<Child>, Vec<Task>)> {
        let path = source.real.join(&task.path);
        let dir = match self.root.open_deep(&path) {
            Err(error) if is_absent(&error) => return Ok((Vec::new(), Vec::new())),
            other => other.map_err(|error| self.explain(error, &path))?,
        };
        let mut names = dir.entries_once()?;
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let (mut children, mut tasks) = (Vec::with_capacity(names.len()), Vec::new());
        for entry in names {
            if let Some((child, task)) = self.look(&dir, entry, selection, task)? {
                children.push(child);
                tasks.extend(task);
            }
        }
        Ok((children, tasks))
    }

    fn look(
        &self,
        dir: &Dir,
        entry: DirEntry,
        selection: &Selection,
        task: &Task,
    ) -> Result<Option<(Child, Option<Task>)>> {
        let (levels, name) = (&task.levels, entry.name.as_bytes());
        let is_out =
            self.ignored().judge(&levels.ignored, name) || selection.exclude.judge(&levels.exclude, name);
        let is_in = match (&selection.include, &levels.include) {
            (Some(patterns), Some(level)) => patterns.judge(level, name),
            _ => true,
        };
        let is_taken = is_in && !is_out;
        let may_be_directory = entry.entry_type.is_none_or(|kind| kind == EntryType::Directory);
        if !is_taken && !may_be_directory || entry.entry_type == Some(EntryType::Socket) {
            return Ok(None);
        }
        let below = may_be_directory.then(|| levels.enter(self, selection, name));
        if !is_taken && below.as_ref().is_none_or(|below| !below.may_be_taken(self, selection)) {
            return Ok(None);
        }
        let Some(stat) = dir.stat_if_exists(&entry.name)? else { return Ok(None) };
        let kind = EntryType::of_mode(stat.st_mode);
        let is_directory = kind == EntryType::Directory;
        if kind == EntryType::Socket || !is_taken && !is_directory {
            return Ok(None);
        }
        let task =
            below.filter(|_| is_directory).map(|levels| Task { path: task.path.join(&entry.name), levels });
        // The number is written when it is known.
        let directory = task.as_ref().map(|_| 0);
        Ok(Some((Child { name: entry.name, stat, is_taken, directory }, task)))
    }

    fn explain(&self, error: Error, path: &Path) -> Error {
        let is_denied = error.kind() == ErrorKind::PermissionDenied;
        let error = error.context(format!("read directory {path:?} of {}", self.label));
        if is_denied { error.hint("leave it out by a line in .dockerignore") } else { error }
    }
}

impl Levels {
    fn enter(&self, context: &Context, selection: &Selection, name: &[u8]) -> Self {
        Self {
            ignored: context.ignored().enter(&self.ignored, name),
            exclude: selection.exclude.enter(&self.exclude, name),
            include: match (&selection.include, &self.include) {
                (Some(patterns), Some(level)) => Some(patterns.enter(level, name)),
                _ => None,
            },
        }
    }

    /// May anything in the directory be taken?
    fn may_be_taken(&self, context: &Context, selection: &Selection) -> bool {
        let may_stay =
            |patterns: &Patterns, level: &Level| !patterns.means(level) || patterns.may_differ_below(level);
        may_stay(context.ignored(), &self.ignored)
            && may_stay(&selection.exclude, &self.exclude)
            && match (&selection.include, &self.include) {
                (Some(patterns), Some(level)) => patterns.means(level) || patterns.may_differ_below(level),
                _ => true,
            }
    }
}

/// Writes down what is taken, in order: a directory that is not taken itself when the first of what is in it is.
fn flatten(directories: &[Vec<Child>], entries: &mut Vec<Entry>) {
    let mut way = vec![Open { directory: 0, next: 0, path: PathBuf::new() }];
    // Directories on the way that are not written down yet: the last of `way`, so many.
    let mut waiting: Vec<Entry> = Vec::new();
    while let Some(open) = way.last_mut() {
        let Some(child) = directories[open.directory].get(open.next) else {
            way.pop();
            waiting.pop();
            continue;
        };
        open.next += 1;
        let path = open.path.join(OsStr::from_bytes(child.name.as_bytes()));
        let entry = Entry { path: path.clone(), stat: child.stat };
        if child.is_taken {
            entries.append(&mut waiting);
            entries.push(entry);
        } else {
            waiting.push(entry);
        }
        if let Some(directory) = child.directory {
            way.push(Open { directory, next: 0, path });
        }
    }
}
