//! Removing a slot with everything in it, whatever a tree's inhabitants left there.
//!
//! First all that is no directory, on all cores; then the directories, the deepest first. What stands in the way is
//! cleared only where it does: immutable and append-only flags, directories without permissions, read-only subvolumes.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};

use crate::backend::Reaped;
use crate::dir::{Dir, EntryType};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::{mount_table, sys, walk};

/// The inode number of every subvolume's root (linux/btrfs_tree.h: BTRFS_FIRST_FREE_OBJECTID).
const SUBVOLUME_ROOT: u64 = 256;

/// Destroys whatever is in the directory `slot`, itself included; one that is gone is fine.
///
/// Refuses to cross into another mounted file system, with an error that names it. O(entries), on all cores.
/// Killed or failed in the middle, it leaves the rest to a second call. Nothing is synced.
pub fn reap(slot: &Path) -> Result<Reaped> {
    let (Some(parent), Some(name)) = (slot.parent(), slot.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{slot:?} is no slot")));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match Dir::open(parent) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Reaped::default()),
        other => {
            let parent = other?;
            Reaper::new(parent).run(name).context(|| format!("reap {slot:?}"))
        }
    }
}

/// Destroys what stands under `name` in `dir`, whatever it is; a name that is gone is fine. As [`reap`] otherwise.
pub fn remove(dir: &Dir, name: &OsStr) -> Result<()> {
    Reaper::new(dir.try_clone()?)
        .everything(name)
        .map(drop)
        .context(|| format!("remove {:?}", dir.path().join(name)))
}

/// Clears what may forbid to change `name` in `dir`: immutable and append-only flags of both, and the directory's mode.
///
/// Best effort: a second attempt tells whether this was what lacked. Returns how many inodes had such flags.
fn unlock(dir: &Dir, name: &OsStr) -> u64 {
    let cleared = u64::from(clear_flags(dir.as_fd())) + u64::from(clear_entry_flags(dir, name));
    nix::sys::stat::fchmod(dir, Mode::S_IRWXU).ok();
    cleared
}

/// Clears the flags of what stands under a name; true if there were some.
pub(crate) fn clear_entry_flags(dir: &Dir, name: &OsStr) -> bool {
    // Only files and directories have flags, and nothing else is safe to open.
    match dir.stat(name).map(|stat| EntryType::of_mode(stat.st_mode)) {
        Ok(EntryType::Directory) => dir.open_dir(name).is_ok_and(|open| clear_flags(open.as_fd())),
        Ok(EntryType::File) => dir.open_file(name).is_ok_and(|open| clear_flags(open.as_fd())),
        _ => false,
    }
}

/// Clears the flags that forbid removal and change; true if there were some.
pub(crate) fn clear_flags(file: std::os::fd::BorrowedFd<'_>) -> bool {
    sys::inode_flags(file)
        .is_ok_and(|flags| flags & FORBIDDING != 0 && sys::set_inode_flags(file, flags & !FORBIDDING).is_ok())
}

/// The inode flags that forbid removal and change.
pub(crate) const FORBIDDING: i32 = sys::FS_IMMUTABLE_FL | sys::FS_APPEND_FL;

/// Destroying a subvolume takes the mounts in it along without a word, so they are looked for before.
fn refuse_mounts(slot: &Path) -> Result<()> {
    let mounts = match mount_table::below(slot) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        mounts => mounts?,
    };
    match mounts.first() {
        None => Ok(()),
        Some(place) => {
            Err(Error::new(ErrorKind::Busy, format!("another file system is mounted at {place:?}"))
                .hint(format!("umount {}", place.display())))
        }
    }
}

/// Paths are relative to the directory that holds the slot: the slot itself is removed like all else.
struct Reaper {
    root: Dir,
    entries: AtomicU64,
    subvolumes: AtomicU64,
    flags_cleared: AtomicU64,
    /// By depth: directories, and the names of directories in them.
    levels: Mutex<Vec<Vec<Emptied>>>,
}

/// A directory with the names of those that are left in it.
type Emptied = (PathBuf, Vec<OsString>);

enum Task {
    /// A directory to be emptied of all but directories.
    Directory(PathBuf),
    /// Some names in one, none of them directories.
    Names(PathBuf, Vec<OsString>),
}

impl Reaper {
    fn new(root: Dir) -> Self {
        Self {
            root,
            entries: AtomicU64::new(0),
            subvolumes: AtomicU64::new(0),
            flags_cleared: AtomicU64::new(0),
            levels: Mutex::default(),
        }
    }

    fn run(self, slot: &OsStr) -> Result<Reaped> {
        if self.untouched(Path::new(slot)) {
            return Ok(Reaped { entries: self.entries.into_inner(), ..Reaped::default() });
        }
        self.everything(slot)
    }

    /// Removes what stands under a name in the root.
    fn everything(self, slot: &OsStr) -> Result<Reaped> {
        match self.root.stat_if_exists(slot)?.map(|stat| EntryType::of_mode(stat.st_mode)) {
            None => return Ok(Reaped::default()),
            Some(EntryType::Directory) => {
                walk::for_each(vec![Task::Directory(slot.into())], |task, more| self.step(task, more))?;
                self.directories()?;
                self.remove(&self.root, slot, true)?;
            }
            Some(_) => self.remove(&self.root, slot, false)?,
        }
        Ok(Reaped {
            entries: self.entries.into_inner(),
            subvolumes: self.subvolumes.into_inner(),
            flags_cleared: self.flags_cleared.into_inner(),
        })
    }

    /// Removes what an overlay leaves that nobody wrote to: an empty upper directory, and in the scratch directory OverlayFS's own, with the
    /// mark of a volatile mount. Most slots are of throw-away forks, and have just that: one call for each instead of ten.
    /// True if nothing is left.
    fn untouched(&self, slot: &Path) -> bool {
        let gone = |removed: Result<()>| {
            self.entries.fetch_add(u64::from(removed.is_ok()), Ordering::Relaxed);
            removed.is_ok()
        };
        let rmdir = |path: &Path| gone(self.root.remove_dir(path));
        let work = slot.join(crate::WORK);
        let [volatile, incompat, inner] =
            ["work/incompat/volatile", "work/incompat", "work"].map(|path| work.join(path));
        // Best effort: what is not as expected is found by the walk that follows.
        let _marked = gone(self.root.unlink(volatile.join("dirty"))) && rmdir(&volatile) && rmdir(&incompat);
        let _scratch = rmdir(&inner) && rmdir(&work);
        rmdir(&slot.join(crate::FS)) && rmdir(slot)
    }

    fn step(&self, task: Task, more: &mut Vec<Task>) -> Result<usize> {
        match task {
            Task::Directory(path) => self.empty(path, more),
            Task::Names(path, names) => {
                let Some(dir) = self.open(&path)? else { return Ok(0) };
                self.remove_names(&dir, &names)
            }
        }
    }

    /// Removes what is in a directory but its directories, which become tasks.
    fn empty(&self, path: PathBuf, more: &mut Vec<Task>) -> Result<usize> {
        let Some(dir) = self.open(&path)? else { return Ok(1) };
        if is_subvolume(&dir)? {
            refuse_mounts(&self.root.path().join(&path))?;
            if self.destroy(&dir, &path)? {
                return Ok(1);
            }
        }
        let (mut names, mut directories) = (Vec::new(), Vec::new());
        for entry in dir.entries_once()? {
            let kind = walk::type_of(&dir, &entry)?;
            if kind == EntryType::Directory { directories.push(entry.name) } else { names.push(entry.name) }
        }
        more.extend(directories.iter().map(|name| Task::Directory(path.join(name))));
        while names.len() > 2 * walk::CHUNK {
            more.push(Task::Names(path.clone(), names.split_off(names.len() - walk::CHUNK)));
        }
        let handled = self.remove_names(&dir, &names)? + 1;
        if !directories.is_empty() {
            self.postpone(path, directories);
        }
        Ok(handled)
    }

    fn postpone(&self, path: PathBuf, directories: Vec<OsString>) {
        let depth = path.components().count();
        let mut levels = self.levels.lock().expect("no thread panics while it holds the lock");
        if levels.len() <= depth {
            levels.resize_with(depth + 1, Vec::new);
        }
        levels[depth].push((path, directories));
    }

    fn remove_names(&self, dir: &Dir, names: &[OsString]) -> Result<usize> {
        names.iter().try_for_each(|name| self.remove(dir, name, false))?;
        Ok(names.len())
    }

    /// Removes the directories, all empty by now but for each other, the deepest first.
    fn directories(&self) -> Result<()> {
        let mut levels =
            std::mem::take(&mut *self.levels.lock().expect("no thread panics while it holds the lock"));
        while let Some(level) = levels.pop() {
            walk::for_each(level, |(path, names), _| {
                let Some(dir) = self.open(&path)? else { return Ok(0) };
                names.iter().try_for_each(|name| self.remove(&dir, name, true))?;
                Ok(names.len())
            })?;
        }
        Ok(())
    }

    /// Opens a directory, giving itself the permission where that is all that lacks; `None` if it is gone.
    fn open(&self, path: &Path) -> Result<Option<Dir>> {
        match walk::open_below(&self.root, path) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) => match error.errno() {
                Some(Errno::ENOENT) => Ok(None),
                Some(Errno::EXDEV) => Err(mounted(&self.root.path().join(path))),
                Some(Errno::EACCES) => {
                    let (parent, name) = crate::entry::open_parent(&self.root, path)?;
                    permit(&parent, name)?;
                    walk::open_below(&self.root, path).map(Some)
                }
                _ => Err(error),
            },
        }
    }

    /// Removes one name; clears what forbids it, once. A name that is gone is fine.
    fn remove(&self, dir: &Dir, name: &OsStr, is_dir: bool) -> Result<()> {
        let attempt = || if is_dir { dir.remove_dir(name) } else { dir.unlink(name) };
        let mut result = attempt();
        if let Err(error) = &result
            && matches!(error.errno(), Some(Errno::EPERM | Errno::EACCES))
        {
            self.flags_cleared.fetch_add(unlock(dir, name), Ordering::Relaxed);
            result = attempt();
        }
        match result {
            Ok(()) => {
                self.entries.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            Err(error) if error.errno() == Some(Errno::EBUSY) => {
                Err(error.hint(format!("unmount what is mounted on {:?}", dir.path().join(name))))
            }
            Err(error) => Err(error),
        }
    }

    /// Destroys a subvolume as a whole; false if that cannot be, and it was made writable to be emptied instead.
    fn destroy(&self, dir: &Dir, path: &Path) -> Result<bool> {
        let (parent, name) = crate::entry::open_parent(&self.root, path)?;
        match sys::destroy_subvolume(parent.as_fd(), name) {
            Ok(()) => {
                self.subvolumes.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
            Err(Errno::ENOENT) => return Ok(true),
            // Subvolumes in it (ENOTEMPTY), no privilege, a mount: what is left is to empty it.
            Err(_) => {}
        }
        if let Ok(flags) = sys::subvolume_flags(dir.as_fd())
            && flags & sys::BTRFS_SUBVOL_RDONLY != 0
        {
            sys::set_subvolume_flags(dir.as_fd(), flags & !sys::BTRFS_SUBVOL_RDONLY)
                .context(|| format!("ioctl({dir}, BTRFS_IOC_SUBVOL_SETFLAGS)"))?;
        }
        Ok(false)
    }
}

fn is_subvolume(dir: &Dir) -> Result<bool> {
    if dir.stat_self()?.st_ino != SUBVOLUME_ROOT {
        return Ok(false);
    }
    let system = fstatfs(dir).context(|| format!("fstatfs({dir})"))?;
    Ok(system.filesystem_type() == BTRFS_SUPER_MAGIC)
}

pub(crate) fn mounted(path: &Path) -> Error {
    Error::new(ErrorKind::Busy, format!("another file system is mounted on {path:?}"))
        .hint(format!("unmount {path:?}"))
}

/// Gives the owner all permissions on a directory, through a descriptor that cannot be a symbolic link.
fn permit(parent: &Dir, name: &OsStr) -> Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::openat(parent, name, flags, Mode::empty())
        .context(|| format!("openat({parent}, {name:?}, O_PATH)"))?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
    nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, path.as_str(), Mode::S_IRWXU, follow)
        .context(|| format!("fchmodat({parent}, {name:?}, 0o700)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_goes_with_flags_odd_modes_and_depth_and_a_second_call_finds_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let slot = temp.path().join("slot");
        std::fs::create_dir(&slot).unwrap();
        let root = Dir::open(&slot).unwrap();
        root.make_dir("closed", 0).unwrap();
        root.make_dir("open", 0o755).unwrap();
        let open = root.open_dir("open").unwrap();
        let file = open.create_file("immutable", 0o600).unwrap();
        open.make_symlink("out", OsStr::new("/")).unwrap();
        let flagged = sys::set_inode_flags(file.as_fd(), sys::FS_IMMUTABLE_FL).is_ok();
        if flagged {
            sys::set_inode_flags(open.as_fd(), sys::FS_APPEND_FL).unwrap();
        }
        let mut dir = root.try_clone().unwrap();
        for _ in 0..1200 {
            dir.make_dir("deep", 0o755).unwrap();
            dir = dir.open_dir("deep").unwrap();
        }

        let reaped = reap(&slot).unwrap();

        assert_eq!(reaped.entries, 1200 + 5);
        assert_eq!(reaped.flags_cleared, if flagged { 2 } else { 0 });
        assert!(!slot.exists());
        assert_eq!(reap(&slot).unwrap(), Reaped::default());
    }
}
