//! Walking trees: tasks that make more tasks, on all cores where it pays, and directories opened by path.
//!
//! A waiting task holds a path relative to the root of its tree, never a descriptor: however wide or deep a
//! tree is, only the directories that some thread is in right now are open.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use crate::dir::{Dir, DirEntry, EntryType};
use crate::error::{Context, Error, Result};

/// Entries that are handled before more threads are asked for: starting the pool costs as much as these.
const ALONE: usize = 512;

/// Entries of one directory that are one task.
pub(crate) const CHUNK: usize = 128;

/// A path for one `openat2`: the kernel takes PATH_MAX (4096) bytes with the final NUL.
const PIECE: usize = 4000;

/// Does all `tasks`, and those that `work` adds while it does one; the first failure stops the rest.
///
/// `work` returns how many entries it handled. The order is any; what must come last is the caller's to keep.
pub(crate) fn for_each<T: Send>(
    mut tasks: Vec<T>,
    work: impl Fn(T, &mut Vec<T>) -> Result<usize> + Sync,
) -> Result<()> {
    let mut handled = 0;
    while let Some(task) = tasks.pop() {
        handled += work(task, &mut tasks)?;
        if handled >= ALONE && tasks.len() > 1 && threads() > 1 {
            break;
        }
    }
    if tasks.is_empty() {
        return Ok(());
    }
    let run = Run { work, stopped: AtomicBool::new(false), failure: Mutex::new(None) };
    rayon::scope(|scope| tasks.into_iter().for_each(|task| run.spawn(scope, task)));
    match run.failure.into_inner().expect("no thread panics while it holds the lock") {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

struct Run<F> {
    work: F,
    stopped: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl<F> Run<F> {
    fn spawn<'scope, T>(&'scope self, scope: &rayon::Scope<'scope>, task: T)
    where
        T: Send + 'scope,
        F: Fn(T, &mut Vec<T>) -> Result<usize> + Sync,
    {
        scope.spawn(move |scope| {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let mut more = Vec::new();
            match (self.work)(task, &mut more) {
                Ok(_) => more.into_iter().for_each(|task| self.spawn(scope, task)),
                Err(error) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    let mut failure = self.failure.lock().expect("no thread panics while it holds the lock");
                    failure.get_or_insert(error);
                }
            }
        });
    }
}

/// Opens the directory at `path` below `root`, of any depth, through no symbolic link and into no other mount.
///
/// `EXDEV` says that something is mounted on it; btrfs subvolumes are no mounts.
pub(crate) fn open_below(root: &Dir, path: &Path) -> Result<Dir> {
    open_resolved(root, path, BELOW | ResolveFlag::RESOLVE_NO_XDEV)
}

impl Dir {
    /// Opens the directory at `path` below this one, of any depth, through no symbolic link; an empty path is this one.
    ///
    /// O(length of the path), where a chain of [`open_dir`](Dir::open_dir) keeps each directory on the way open.
    pub fn open_deep(&self, path: &Path) -> Result<Dir> {
        open_resolved(self, path, BELOW)
    }
}

const BELOW: ResolveFlag = ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_SYMLINKS);

fn open_resolved(root: &Dir, path: &Path, resolve: ResolveFlag) -> Result<Dir> {
    let bytes = path.as_os_str().as_bytes();
    let name = || root.path().join(path);
    let mut open: Option<OwnedFd> = None;
    let mut rest = bytes;
    loop {
        let cut = piece(rest);
        let part = if rest.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(&rest[..cut]) };
        let next = match &open {
            None => open_step(root, part, resolve),
            Some(fd) => open_step(fd, part, resolve),
        };
        let next = next.context(|| format!("openat2({root}, {path:?}, O_DIRECTORY, {resolve:?})"))?;
        rest = rest.get(cut + 1..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Dir::from_fd(next, name()));
        }
        open = Some(next);
    }
}

/// Returns how many of the first bytes of a path are whole names and fit into one call.
fn piece(path: &[u8]) -> usize {
    if path.len() <= PIECE {
        return path.len();
    }
    path[..PIECE].iter().rposition(|byte| *byte == b'/').unwrap_or(path.len())
}

fn open_step(at: impl std::os::fd::AsFd, path: &OsStr, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(resolve);
    loop {
        match nix::fcntl::openat2(&at, path, how) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            other => return other,
        }
    }
}

/// Opens a directory as [`open_below`] does; `None` where something is mounted on it, which is not part of the tree.
pub(crate) fn enter(root: &Dir, path: &Path) -> Result<Option<Dir>> {
    match open_below(root, path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.errno() == Some(Errno::EXDEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Turns the failure to find something that was listed a moment ago into `None`: the tree may be in use. A symbolic link where
/// a directory was on the way (`ELOOP`) is such a failure too.
pub(crate) fn vanishing<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the type of an entry, asking the inode where the directory does not say.
pub(crate) fn type_of(dir: &Dir, entry: &DirEntry) -> Result<EntryType> {
    match entry.entry_type {
        Some(kind) => Ok(kind),
        None => dir.stat(&entry.name).map(|stat| EntryType::of_mode(stat.st_mode)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_task_and_its_offspring_is_done_once() {
        let done = AtomicUsize::new(0);
        for_each(vec![11_u32], |depth, more| {
            done.fetch_add(1, Ordering::Relaxed);
            if depth > 0 {
                more.extend([depth - 1, depth - 1]);
            }
            Ok(1)
        })
        .unwrap();
        assert_eq!(done.into_inner(), (1 << 12) - 1);
    }

    #[test]
    fn a_failure_deep_in_the_tree_is_returned() {
        let error = for_each(vec![12_u32], |depth, more| {
            if depth == 0 {
                return Err(Error::new(crate::error::ErrorKind::Corrupt, "at the bottom"));
            }
            more.extend([depth - 1, depth - 1]);
            Ok(1)
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "at the bottom");
    }

    #[test]
    fn a_directory_far_beyond_path_max_opens() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let (mut dir, mut path) = (root.try_clone().unwrap(), PathBuf::new());
        let name = "d".repeat(200);
        for _ in 0..60 {
            dir.make_dir(&name, 0o755).unwrap();
            dir = dir.open_dir(&name).unwrap();
            path.push(&name);
        }
        let found = open_below(&root, &path).unwrap();
        assert_eq!(found.stat_self().unwrap().st_ino, dir.stat_self().unwrap().st_ino);
    }
}
