//! One directory of a cgroup hierarchy, held open: its files are read and written by descriptor.
//!
//! The kernel makes a directory's files, so there is nothing here to create but directories, and `rmdir` removes
//! one with all of them, unless a process or a child is in it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::layout::DIRECTORY;
use super::settings::Version;

/// How long the kernel may take to notice that a cgroup is empty, or to freeze it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// An open cgroup.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) version: Version,
    pub(super) file: File,
}

impl Directory {
    /// Opens one that exists; `NotFound` where it is gone.
    pub(super) fn open(path: &Path, version: Version) -> Result<Self> {
        let file = File::open(path).context(|| format!("open({path:?}, O_DIRECTORY)"))?;
        Ok(Self { path: path.to_owned(), version, file })
    }

    /// Makes `base/rootling/name`; `AlreadyExists` where it is taken.
    ///
    /// The directory in the middle comes and goes with the first and the last cgroup in it.
    pub(super) fn make(base: &Path, name: &str, version: Version) -> Result<Self> {
        let middle = base.join(DIRECTORY);
        let path = middle.join(name);
        let start = Instant::now();
        loop {
            match nix::unistd::mkdir(&middle, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Error::call(format!("mkdir({middle:?})"), errno)),
            }
            match nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o755)) {
                Ok(()) => {
                    return Self::open(&path, version).inspect_err(|error| {
                        // A sweep that found it without a lock has removed it: what is there now is another's.
                        if error.kind() != ErrorKind::NotFound {
                            // Best effort: the error at hand says more.
                            rmdir(&path).ok();
                        }
                    });
                }
                // Somebody else's was the last and took the one in the middle along.
                Err(Errno::ENOENT | Errno::ENODEV) if start.elapsed() < PATIENCE => {}
                Err(errno) => return Err(Error::call(format!("mkdir({path:?})"), errno)),
            }
        }
    }

    /// Takes the lock of the one who owns it, until this is dropped; `false` where somebody else has it, or where
    /// the name leads to another directory by now.
    pub(super) fn lock(&self) -> bool {
        let same = || match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
            _ => false,
        };
        self.file.try_lock().is_ok() && same()
    }

    /// Reads a file of it.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        let call = || format!("read({:?})", self.path.join(name));
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(self.file.as_fd(), name, flags, Mode::empty()).context(call)?;
        let mut text = String::with_capacity(512);
        File::from(file).read_to_string(&mut text).context(call)?;
        Ok(text)
    }

    /// Reads a file that holds one number; `None` where there is no such file or it says `max`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.read(name).ok()?.trim().parse().ok()
    }

    /// Writes a file of it, in one call as the kernel wants it.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let call = || format!("write({:?}, {text:?})", self.path.join(name));
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(self.file.as_fd(), name, flags, Mode::empty()).context(call)?;
        File::from(file).write_all(text.as_bytes()).context(call)
    }

    /// Writes the first of several files that exists; `NotFound` where none does.
    pub(super) fn write_first(&self, files: &[(&str, String)]) -> Result<()> {
        for (name, text) in files {
            match self.write(name, text) {
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                written => return written,
            }
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        Err(Error::new(ErrorKind::NotFound, format!("{:?} has no {}", self.path, names.join(" and no "))))
    }

    /// Returns the processes in it and below.
    pub(super) fn processes(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        for path in tree(&self.path) {
            let file = path.join("cgroup.procs");
            match std::fs::read_to_string(&file) {
                Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                // It went while we looked, or is a threaded one, whose processes its parent lists.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
                    ) => {}
                Err(error) => return Err(Error::io(format!("read({file:?})"), error)),
            }
        }
        Ok(found)
    }

    /// Removes it and what is below, waiting while the last process is on its way out.
    pub(super) fn remove(&self) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match remove_now(&self.path) {
                Err(error) if error.errno() == Some(Errno::EBUSY) && start.elapsed() < PATIENCE => {}
                done => return done,
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Removes a cgroup and those below it, if no process is in them, and the directory above when it was the last.
pub(super) fn remove_now(path: &Path) -> Result<()> {
    for directory in tree(path) {
        match rmdir(&directory) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Error::call(format!("rmdir({directory:?})"), errno)),
        }
    }
    if let Some(middle) = path.parent().filter(|parent| parent.ends_with(DIRECTORY)) {
        // Refused while there are others.
        rmdir(middle).ok();
    }
    Ok(())
}

fn rmdir(path: &Path) -> nix::Result<()> {
    nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, path, nix::unistd::UnlinkatFlags::RemoveDir)
}

/// A cgroup and all below it, the deepest first.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = below
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
        next += 1;
    }
    found.reverse();
    found
}
