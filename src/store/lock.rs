//! Locks that die with their process: flock(2) on files and directories of the store.
//!
//! | lock | on | shared | exclusive |
//! |---|---|---|---|
//! | blobs | `blobs/` | while somebody adds blobs, which no record names yet | the sweep of blobs, which does not wait |
//! | making | `c/<hex>.lock` | - | while an image is made of layers |
//! | download | `blobs/partial/<hex>-<size>`, `blobs/uploads/<id>` | - | while bytes are added to it |
//! | turn | `steps/turns/<name>` | while builds share a cache | while one build has a cache to itself |
//! | holding | `held/` | - | as long as a process serves containerd; nobody waits for it |
//! | builds | `steps/` | while a build runs | while steps of builds are let go, which does not wait |
//! | store | `lock` | while an operation reads or changes the store's own directories | the sweep's marking and renames, `fsck` |
//! | repository | `refs/<repository>/` | - | while it changes |
//! | change | `o/<id>/change` | - | while the object's record or place changes |
//! | names of steps | `steps/<boot id>/` | - | while one of them is made or becomes lasting |
//! | use | `o/<id>/`, `tmp/<id>/` | while the tree is mounted, entered or forked, or an ephemeral fork stands on it | while the tree is sealed in place, removed, or being built |
//!
//! They are taken in this order: turn, making, download, store, then repository, or change and use; that of the blobs at any time, since nobody
//! waits to have it alone, and that of the names of steps, since nobody waits who has it. A process that waits for a lock says who holds it.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};

/// How long an operation waits for another one, unless `ROOTLING_LOCK_TIMEOUT` (seconds) says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Shared with others, or alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

fn timeout() -> Duration {
    let wanted = std::env::var("ROOTLING_LOCK_TIMEOUT").ok().and_then(|text| text.parse().ok());
    wanted.map_or(TIMEOUT, Duration::from_secs)
}

/// Opens the lock file `path` (made where it is missing) and waits for the lock.
///
/// A directory that is gone, because another process was faster, is an error of kind `NotFound` that says so of `what`.
pub(crate) fn lock_file(path: &Path, mode: Mode, what: &str) -> Result<File> {
    let file = open(path).map_err(|error| or_gone(error, what))?;
    wait(&file, mode, what)?;
    Ok(file)
}

/// Opens the file `path` (made where it is missing) and waits for its lock, alone, for as long as its holder works.
///
/// For what takes as long as a network does.
pub(crate) fn wait_for_file(path: &Path, what: &str) -> Result<File> {
    let file = open(path)?;
    wait_until(&file, Mode::Exclusive, what, None)?;
    Ok(file)
}

/// Is an open file the one at `path`? Who waited for its lock may have one that was removed, or got another name, meanwhile.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let inode = |found: &Metadata| (found.dev(), found.ino());
    fs::symlink_metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|then| inode(&now) == inode(&then)))
}

/// Takes the lock of the file `path`, made where it is missing, if nobody else holds it so that it cannot be had.
pub(crate) fn try_lock_file(path: &Path, mode: Mode) -> Result<Option<File>> {
    let file = open(path)?;
    Ok(try_lock(&file, mode)?.then_some(file))
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        // flock(2) works on a descriptor that cannot write: a read-only store can still be read.
        .or_else(|error| File::open(path).map_err(|_| error))
        .context(|| format!("open({path:?}, O_CREAT)"))
}

/// Waits for the use lock of the directory `path`. One that is gone is an error as with [`lock_file`].
pub(crate) fn lock_dir(path: &Path, mode: Mode, what: &str) -> Result<File> {
    let opened = File::open(path).context(|| format!("open({path:?})"));
    let dir = opened.map_err(|error| or_gone(error, what))?;
    wait(&dir, mode, what)?;
    Ok(dir)
}

/// Takes the use lock of the directory `path` if nobody else holds it.
pub(crate) fn try_lock_dir(path: &Path, mode: Mode) -> Result<Option<File>> {
    let dir = File::open(path).context(|| format!("open({path:?})"))?;
    Ok(try_lock(&dir, mode)?.then_some(dir))
}

fn or_gone(error: Error, what: &str) -> Error {
    if error.kind() == ErrorKind::NotFound { gone(what) } else { error }
}

/// Returns the error for an object that another process removed, or put another in the place of, since it was looked up.
pub(crate) fn gone(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} was removed or replaced meanwhile"))
}

fn try_lock(file: &File, mode: Mode) -> Result<bool> {
    let locked = match mode {
        Mode::Shared => file.try_lock_shared(),
        Mode::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::io("flock", error)),
    }
}

fn wait(file: &File, mode: Mode, what: &str) -> Result<()> {
    wait_until(file, mode, what, Some(timeout()))
}

fn wait_until(file: &File, mode: Mode, what: &str, limit: Option<Duration>) -> Result<()> {
    let start = Instant::now();
    let mut told = false;
    while !try_lock(file, mode)? {
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            return Err(busy(file, what));
        }
        if !told && start.elapsed() > Duration::from_millis(500) {
            log::warn!("waiting for {what}, held by {}", holder(file));
            told = true;
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Returns the error for a lock that somebody else holds.
pub(crate) fn busy(file: &File, what: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("{what} is in use by {}", holder(file)))
        .hint("wait for it to end, or stop it")
}

/// Says who holds the lock on `file`: `process 42 (rootling run deb)`.
fn holder(file: &File) -> String {
    let Some(pid) = holding_process(file) else {
        return "a process that cannot be seen from here".to_owned();
    };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    format!("process {pid} ({})", command.join(" ").trim())
}

/// Is there a process that holds the lock on `file`, as far as can be seen from here?
pub(crate) fn is_seen_to_be_held(file: &File) -> bool {
    holding_process(file).is_some()
}

/// Returns the number of the process that holds the lock on `file`, from /proc/locks.
fn holding_process(file: &File) -> Option<String> {
    let (metadata, locks) = (file.metadata().ok()?, fs::read_to_string("/proc/locks").ok()?);
    // `1: FLOCK  ADVISORY  WRITE 1234 08:02:5678 0 EOF` (proc(5)): the sixth word ends in the inode number.
    let inode = format!(":{}", metadata.ino());
    let pid = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "->").collect();
        let ours =
            words.get(1) == Some(&"FLOCK") && words.get(5).is_some_and(|place| place.ends_with(&inode));
        ours.then(|| words[4].to_owned())
    });
    pid.filter(|pid| !pid.starts_with(['0', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_dir(dir.path(), Mode::Exclusive, "the tree").unwrap();
        assert!(try_lock_dir(dir.path(), Mode::Shared).unwrap().is_none());
        let other = File::open(dir.path()).unwrap();
        let message = busy(&other, "box dev").to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(held);
        assert!(try_lock_dir(dir.path(), Mode::Shared).unwrap().is_some());
    }
}
