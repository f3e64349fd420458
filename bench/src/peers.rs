//! The small tools that people fork trees with: cp and rm, btrfs-progs; and the bare ioctl, which nobody can beat.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Dir, Error, ErrorKind, Result, sys};

use crate::command::{command, output, timed};
use crate::contender::{Contender, View};

/// `cp -a` and `rm -rf`.
#[derive(Debug)]
pub(crate) struct Cp {
    name: &'static str,
    reflink: &'static str,
    source: PathBuf,
    target: PathBuf,
}

impl Cp {
    /// Shares file data, or fails.
    pub(crate) fn cloning(source: PathBuf, target: PathBuf) -> Self {
        Self { name: "cp -a --reflink=always", reflink: "--reflink=always", source, target }
    }

    /// Copies file data.
    pub(crate) fn copying(source: PathBuf, target: PathBuf) -> Self {
        Self { name: "cp -a --reflink=never", reflink: "--reflink=never", source, target }
    }
}

impl Contender for Cp {
    fn name(&self) -> &str {
        self.name
    }

    fn fork(&mut self) -> Result<Duration> {
        timed(command("cp", ["-a", self.reflink, "--"]).arg(&self.source).arg(&self.target))
    }

    fn view(&self) -> Result<View> {
        Ok(View::directory(&self.target))
    }

    fn delete(&mut self) -> Result<Duration> {
        timed(command("rm", ["-rf", "--"]).arg(&self.target))
    }
}

/// `btrfs subvolume snapshot` and `btrfs subvolume delete`.
#[derive(Debug)]
pub(crate) struct BtrfsProgs {
    source: PathBuf,
    target: PathBuf,
}

impl BtrfsProgs {
    pub(crate) fn new(source: PathBuf, target: PathBuf) -> Self {
        Self { source, target }
    }
}

impl Contender for BtrfsProgs {
    fn name(&self) -> &str {
        "btrfs subvolume snapshot"
    }

    fn fork(&mut self) -> Result<Duration> {
        timed(command("btrfs", ["subvolume", "snapshot"]).arg(&self.source).arg(&self.target))
    }

    fn view(&self) -> Result<View> {
        Ok(View::directory(&self.target))
    }

    fn delete(&mut self) -> Result<Duration> {
        timed(command("btrfs", ["subvolume", "delete"]).arg(&self.target))
    }

    fn settle(&mut self) -> Result<()> {
        wait_for_cleaner(&self.target)
    }
}

/// The two ioctls on open directories: no process, no path, no check.
#[derive(Debug)]
pub(crate) struct BareIoctl {
    source: Dir,
    directory: Dir,
    target: PathBuf,
}

impl BareIoctl {
    const NAME: &str = "ioctl";

    /// `directory` exists and is empty.
    pub(crate) fn new(source: &Path, directory: &Path) -> Result<Self> {
        let target = directory.join(Self::NAME);
        Ok(Self { source: Dir::open(source)?, directory: Dir::open(directory)?, target })
    }
}

impl Contender for BareIoctl {
    fn name(&self) -> &str {
        "bare ioctl"
    }

    fn fork(&mut self) -> Result<Duration> {
        let start = Instant::now();
        sys::btrfs_snapshot(self.source.as_fd(), self.directory.as_fd(), OsStr::new(Self::NAME), false)
            .context(|| "ioctl(BTRFS_IOC_SNAP_CREATE_V2)")?;
        Ok(start.elapsed())
    }

    fn view(&self) -> Result<View> {
        Ok(View::directory(&self.target))
    }

    fn delete(&mut self) -> Result<Duration> {
        let start = Instant::now();
        sys::destroy_subvolume(self.directory.as_fd(), OsStr::new(Self::NAME))
            .context(|| "ioctl(BTRFS_IOC_SNAP_DESTROY)")?;
        Ok(start.elapsed())
    }

    fn settle(&mut self) -> Result<()> {
        wait_for_cleaner(&self.target)
    }
}

/// A deleted subvolume is freed by a kernel thread: wait for it, or the next contender shares the disk with it.
///
/// `btrfs subvolume sync` would do, but sleeps for whole seconds.
pub(crate) fn wait_for_cleaner(path: &Path) -> Result<()> {
    let directory = path.parent().expect("a fork lies in a directory");
    // Wakes the thread.
    timed(command("btrfs", ["filesystem", "sync"]).arg(directory))?;
    for _ in 0..1000 {
        if output(command("btrfs", ["subvolume", "list", "-d"]).arg(directory))?.trim().is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Error::new(ErrorKind::Busy, "deleted subvolumes are not freed after 20 seconds"))
}
