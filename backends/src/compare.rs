//! What differs: between two entries, and between two whole trees.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::FileStat;

use crate::attributes::{PERMISSIONS, is_overlay_xattr};
use crate::change::{Aspects, Change, ChangeKind, DiffOptions};
use crate::data;
use crate::dir::{Dir, DirEntry, EntryType};
use crate::error::{Context, Result};
use crate::{links, walk};

/// Compares two entries: type, content, mode, owner, extended attributes but OverlayFS's own, on request times.
///
/// Of two directories, what is in them does not count, and of two files not which other names they have. Reads the bytes of files of equal size.
pub fn compare_entries(old: (&Dir, &OsStr), new: (&Dir, &OsStr), options: DiffOptions) -> Result<Aspects> {
    let stats = (old.0.stat(old.1)?, new.0.stat(new.1)?);
    compare_stats(old, &stats.0, new, &stats.1, options)
}

/// Compares two entries whose inodes are known.
pub(crate) fn compare_stats(
    old: (&Dir, &OsStr),
    old_stat: &FileStat,
    new: (&Dir, &OsStr),
    new_stat: &FileStat,
    options: DiffOptions,
) -> Result<Aspects> {
    if (old_stat.st_dev, old_stat.st_ino) == (new_stat.st_dev, new_stat.st_ino) {
        return Ok(Aspects::default());
    }
    let kind = EntryType::of_mode(new_stat.st_mode);
    if kind != EntryType::of_mode(old_stat.st_mode) {
        return Ok(Aspects { kind: true, ..Aspects::default() });
    }
    let modified = |stat: &FileStat| (stat.st_mtime, stat.st_mtime_nsec);
    Ok(Aspects {
        kind: false,
        content: content_differs(kind, old, old_stat, new, new_stat)?,
        mode: kind != EntryType::Symlink && (old_stat.st_mode ^ new_stat.st_mode) & PERMISSIONS != 0,
        owner: (old_stat.st_uid, old_stat.st_gid) != (new_stat.st_uid, new_stat.st_gid),
        xattrs: xattrs(old)? != xattrs(new)?,
        links: false,
        times: options.times && modified(old_stat) != modified(new_stat),
    })
}

fn content_differs(
    kind: EntryType,
    old: (&Dir, &OsStr),
    old_stat: &FileStat,
    new: (&Dir, &OsStr),
    new_stat: &FileStat,
) -> Result<bool> {
    match kind {
        EntryType::File if old_stat.st_size != new_stat.st_size => Ok(true),
        EntryType::File if new_stat.st_size == 0 => Ok(false),
        EntryType::File => {
            let files = (old.0.open_file(old.1)?, new.0.open_file(new.1)?);
            data::equal(&files.0, &files.1)
                .map(|equal| !equal)
                .context(|| format!("pread({}, {:?} and {}, {:?})", old.0, old.1, new.0, new.1))
        }
        EntryType::Symlink => Ok(old.0.read_link(old.1)? != new.0.read_link(new.1)?),
        EntryType::CharDevice | EntryType::BlockDevice => Ok(old_stat.st_rdev != new_stat.st_rdev),
        EntryType::Directory | EntryType::Fifo | EntryType::Socket => Ok(false),
    }
}

fn xattrs((dir, name): (&Dir, &OsStr)) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut found = dir.xattrs(name)?;
    found.retain(|(attribute, _)| !is_overlay_xattr(attribute));
    Ok(found)
}

/// Returns all that differs in `new` against `old`, sorted by path, parents first.
///
/// O(entries of both), on all cores, and reads all files of equal size: the fallback where nothing is known, and the
/// judge of everything quicker.
pub fn diff_trees(old: &Dir, new: &Dir, options: DiffOptions) -> Result<Vec<Change>> {
    compare_all(old, new, options)
        .and_then(|compare| compare.finish())
        .context(|| format!("compare {:?} with {:?}", old.path(), new.path()))
}

/// Returns all that differs below two directories of two trees, unsorted and without links, and whether files with several names
/// are among what was compared.
pub(crate) fn diff_parts(old: &Dir, new: &Dir, options: DiffOptions) -> Result<(Vec<Change>, bool)> {
    let compare = compare_all(old, new, options)
        .context(|| format!("compare {:?} with {:?}", old.path(), new.path()))?;
    Ok((compare.changes.into_inner(), compare.linked.into_inner()))
}

fn compare_all<'a>(old: &'a Dir, new: &'a Dir, options: DiffOptions) -> Result<Compare<'a>> {
    let compare = Compare::new(old, new, options);
    compare.root()?;
    walk::for_each(vec![Task::Both(PathBuf::new())], |task, more| compare.step(task, more))?;
    Ok(compare)
}

/// Returns the entry at `path` of a tree as added, and everything below it, unsorted.
pub fn added_recursively(tree: &Dir, path: &Path) -> Result<Vec<Change>> {
    let (parent, name) = crate::entry::open_parent(tree, path)?;
    let kind = EntryType::of_mode(parent.stat(name)?.st_mode);
    let compare = Compare::new(tree, tree, DiffOptions::default());
    let mut tasks = Vec::new();
    compare.added(path.to_owned(), kind, &mut tasks);
    walk::for_each(tasks, |task, more| compare.step(task, more))?;
    Ok(compare.changes.into_inner())
}

/// Sorts by the bytes of the paths: a directory comes before what is in it.
pub fn sort(changes: &mut [Change]) {
    changes.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
}

/// Changes found so far, by any thread.
#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<Vec<Change>>);

impl Changes {
    pub(crate) fn push(&self, path: PathBuf, kind: ChangeKind, entry_type: EntryType, aspects: Aspects) {
        let change = Change { path, kind, entry_type, aspects };
        self.0.lock().expect("no thread panics while it holds the lock").push(change);
    }

    fn into_inner(self) -> Vec<Change> {
        self.0.into_inner().expect("no thread panics while it holds the lock")
    }
}

/// A part of a comparison.
#[derive(Debug)]
pub(crate) enum Task {
    /// A directory that both trees have.
    Both(PathBuf),
    /// A directory that only the new tree has.
    Added(PathBuf),
}

/// Two trees and what differs.
#[derive(Debug)]
pub(crate) struct Compare<'a> {
    pub(crate) old: &'a Dir,
    pub(crate) new: &'a Dir,
    pub(crate) options: DiffOptions,
    pub(crate) changes: Changes,
    /// Where to note the directories of the new tree that were looked at, if anybody wants to know.
    pub(crate) directories: Option<Directories>,
    /// Has something that was compared several names?
    linked: AtomicBool,
}

/// Which directory stood where.
#[derive(Debug, Default)]
pub(crate) struct Directories(Mutex<Vec<(u64, PathBuf)>>);

impl Directories {
    pub(crate) fn push(&self, dir: &Dir, path: &Path) -> Result<()> {
        let inode = dir.stat_self()?.st_ino;
        self.0.lock().expect("no thread panics while it holds the lock").push((inode, path.to_owned()));
        Ok(())
    }

    pub(crate) fn into_inner(self) -> Vec<(u64, PathBuf)> {
        self.0.into_inner().expect("no thread panics while it holds the lock")
    }
}

impl<'a> Compare<'a> {
    pub(crate) fn new(old: &'a Dir, new: &'a Dir, options: DiffOptions) -> Self {
        let (changes, linked) = (Changes::default(), AtomicBool::new(false));
        Self { old, new, options, changes, directories: None, linked }
    }
}

impl Compare<'_> {
    /// Returns the changes, sorted, and what differs in links: that takes a walk of both trees, if there may be any.
    pub(crate) fn finish(self) -> Result<Vec<Change>> {
        let mut changes = self.changes.into_inner();
        let mut linked = self.linked.into_inner();
        // A directory that moved took names with it, and touched none of the inodes.
        for change in &changes {
            if linked {
                break;
            }
            linked = links::are_lost(self.old, change)? || links::is_gained(self.new, change)?;
        }
        if linked {
            links::compare(self.old, self.new, |_| true, &mut changes)?;
        }
        sort(&mut changes);
        Ok(changes)
    }

    /// Notes whether one of two inodes that were compared has several names.
    pub(crate) fn note_links(&self, old: &FileStat, new: &FileStat) {
        if links::has_several(old) || links::has_several(new) {
            self.linked.store(true, Ordering::Relaxed);
        }
    }

    /// Notes a directory of the new tree.
    pub(crate) fn saw(&self, dir: &Dir, path: &Path) -> Result<()> {
        self.directories.as_ref().map_or(Ok(()), |directories| directories.push(dir, path))
    }

    /// Compares the attributes of the roots.
    pub(crate) fn root(&self) -> Result<()> {
        let dot = OsStr::new(".");
        let aspects = compare_entries((self.old, dot), (self.new, dot), self.options)?;
        self.modified(PathBuf::new(), EntryType::Directory, aspects);
        Ok(())
    }

    pub(crate) fn modified(&self, path: PathBuf, kind: EntryType, aspects: Aspects) {
        if !aspects.is_empty() {
            self.changes.push(path, ChangeKind::Modified, kind, aspects);
        }
    }

    pub(crate) fn deleted(&self, path: PathBuf, kind: EntryType) {
        self.changes.push(path, ChangeKind::Deleted, kind, Aspects::default());
    }

    /// Notes an entry that only the new tree has; a directory's content is a task.
    pub(crate) fn added(&self, path: PathBuf, kind: EntryType, more: &mut Vec<Task>) {
        if kind == EntryType::Directory {
            more.push(Task::Added(path.clone()));
        }
        self.changes.push(path, ChangeKind::Added, kind, Aspects::default());
    }

    pub(crate) fn step(&self, task: Task, more: &mut Vec<Task>) -> Result<usize> {
        match task {
            Task::Added(path) => {
                let Some(dir) = walk::enter(self.new, &path)? else { return Ok(1) };
                self.saw(&dir, &path)?;
                let entries = dir.entries()?;
                for entry in &entries {
                    self.added(path.join(&entry.name), walk::type_of(&dir, entry)?, more);
                }
                Ok(entries.len() + 1)
            }
            Task::Both(path) => self.both(&path, more),
        }
    }

    fn both(&self, path: &Path, more: &mut Vec<Task>) -> Result<usize> {
        let sides = (walk::enter(self.old, path)?, walk::enter(self.new, path)?);
        if let Some(dir) = &sides.1 {
            self.saw(dir, path)?;
        }
        let mut old_entries: HashMap<OsString, DirEntry> =
            list(sides.0.as_ref())?.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let new_entries = list(sides.1.as_ref())?;
        let handled = old_entries.len() + new_entries.len() + 1;
        for entry in new_entries {
            let dir = sides.1.as_ref().expect("it has an entry");
            let path = path.join(&entry.name);
            match (old_entries.remove(&entry.name), &sides.0) {
                (Some(_), Some(old)) => self.pair(old, dir, &entry.name, path, more)?,
                _ => self.added(path, walk::type_of(dir, &entry)?, more),
            }
        }
        for (name, entry) in old_entries {
            let dir = sides.0.as_ref().expect("it has an entry");
            self.deleted(path.join(&name), walk::type_of(dir, &entry)?);
        }
        Ok(handled)
    }

    fn pair(&self, old: &Dir, new: &Dir, name: &OsStr, path: PathBuf, more: &mut Vec<Task>) -> Result<()> {
        let (old_stat, new_stat) = (old.stat(name)?, new.stat(name)?);
        self.note_links(&old_stat, &new_stat);
        let aspects = compare_stats((old, name), &old_stat, (new, name), &new_stat, self.options)?;
        self.descend(path, &new_stat, aspects, more);
        Ok(())
    }

    /// Notes what differs at a name that both have, and adds the task for what is below.
    pub(crate) fn descend(&self, path: PathBuf, new: &FileStat, aspects: Aspects, more: &mut Vec<Task>) {
        let kind = EntryType::of_mode(new.st_mode);
        if kind == EntryType::Directory {
            more.push(if aspects.kind { Task::Added(path.clone()) } else { Task::Both(path.clone()) });
        }
        self.modified(path, kind, aspects);
    }
}

/// Lists a directory; one that something is mounted on counts as empty.
pub(crate) fn list(dir: Option<&Dir>) -> Result<Vec<DirEntry>> {
    dir.map_or(Ok(Vec::new()), Dir::entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::Times;
    use std::io::Write;

    fn write(dir: &Dir, name: &str, text: &str) {
        dir.create_file(name, 0o644).unwrap().write_all(text.as_bytes()).unwrap();
        dir.set_times(name, Times { accessed: (1, 0), modified: (1, 0) }).unwrap();
    }

    fn show(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|change| format!("{} {}", change.kind.letter(), change.path.display())).collect()
    }

    #[test]
    fn each_kind_of_difference_is_found_once_and_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let [old, new] = ["old", "new"].map(|name| {
            root.make_dir(name, 0o755).unwrap();
            root.open_dir(name).unwrap()
        });
        for dir in [&old, &new] {
            dir.make_dir("a", 0o755).unwrap();
            write(&dir.open_dir("a").unwrap(), "same", "x");
            write(dir, "a-file", "same size");
            write(dir, "mode", "m");
            dir.make_symlink("link", OsStr::new(if dir.path() == old.path() { "here" } else { "gone" }))
                .unwrap();
        }
        old.make_dir("deleted", 0o755).unwrap();
        old.open_dir("deleted").unwrap().make_dir("below", 0o755).unwrap();
        new.make_dir("added", 0o755).unwrap();
        write(&new.open_dir("added").unwrap(), "below", "");
        new.unlink("a-file").unwrap();
        write(&new, "a-file", "size same");
        new.set_mode_following_symlinks("mode", 0o600).unwrap();
        write(&old, "turned", "");
        new.make_dir("turned", 0o755).unwrap();
        write(&new.open_dir("turned").unwrap(), "below", "");

        let changes = diff_trees(&old, &new, DiffOptions::default()).unwrap();

        let expected = [
            "C a-file",
            "A added",
            "A added/below",
            "D deleted",
            "C link",
            "C mode",
            "C turned",
            "A turned/below",
        ];
        assert_eq!(show(&changes), expected);
        assert_eq!(changes[0].aspects, Aspects { content: true, ..Aspects::default() });
        assert_eq!(changes[5].aspects, Aspects { mode: true, ..Aspects::default() });
        assert_eq!(changes[6].aspects, Aspects { kind: true, ..Aspects::default() });
        root.set_times("old", Times { accessed: (1, 0), modified: (1, 0) }).unwrap();
        let with_times = diff_trees(&old, &new, DiffOptions { times: true }).unwrap();
        assert!(with_times.iter().any(|change| change.path.as_os_str().is_empty() && change.aspects.times));
    }
}
