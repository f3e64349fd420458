//! The tools that keep states without being engines: btrfs-progs, snapper, LXC.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Result};

use super::keeper::{self, Keeper, Named, Stage};
use crate::command::{command, output, timed};
use crate::fixture::FileSystem;
use crate::peers::wait_for_cleaner;

pub(super) const BTRFS: &str = "btrfs-progs";
pub(super) const SNAPPER: &str = "snapper";
pub(super) const LXC: &str = "lxc-copy -s";

/// Makes `work`, a subvolume with the tree.
fn subvolume(stage: &Stage<'_>, directory: &Path) -> Result<PathBuf> {
    let work = directory.join("work");
    timed(command("btrfs", ["subvolume", "create"]).arg(&work))?;
    stage.archive.unpack(&work)?;
    Ok(work)
}

/// `btrfs subvolume snapshot`; the difference is what `btrfs send` would send, without the data.
#[derive(Debug)]
pub(super) struct BtrfsProgs {
    directory: PathBuf,
    work: PathBuf,
    states: usize,
}

impl BtrfsProgs {
    pub(super) fn boxed(stage: &Stage<'_>) -> Result<Box<dyn Keeper>> {
        let directory = stage.subdirectory("btrfs-progs")?;
        let work = subvolume(stage, &directory)?;
        let keeper = Self { directory, work, states: 0 };
        keeper.take(&keeper.state(0))?;
        Ok(Box::new(keeper))
    }

    fn state(&self, number: usize) -> PathBuf {
        self.directory.join(format!("state-{number}"))
    }

    fn take(&self, target: &Path) -> Result<Duration> {
        timed(command("btrfs", ["subvolume", "snapshot", "-r"]).arg(&self.work).arg(target))
    }

    fn delete(&self, path: &Path) -> Result<Duration> {
        timed(command("btrfs", ["subvolume", "delete"]).arg(path))
    }
}

impl Keeper for BtrfsProgs {
    fn name(&self) -> &str {
        BTRFS
    }

    fn edit(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        keeper::append(&self.work, files, line)
    }

    /// It takes a snapshot to send.
    fn diff(&mut self) -> Result<Option<(Duration, Named)>> {
        let (last, present) = (self.state(self.states), self.directory.join("present"));
        let start = Instant::now();
        self.take(&present)?;
        let stream = self.directory.join("stream");
        let mut send = command("btrfs", ["send", "-q", "--no-data", "-p"]);
        timed(send.arg(&last).arg(&present).arg("-f").arg(&stream))?;
        let text = output(command("btrfs", ["receive", "--dump", "-f"]).arg(&stream))?;
        let time = start.elapsed();
        std::fs::remove_file(&stream).context(|| format!("unlink({stream:?})"))?;
        self.delete(&present)?;
        // `update_extent   ./present/etc/passwd   offset=0 len=1024`
        let written =
            text.lines().filter_map(|line| line.strip_prefix("update_extent")?.split_whitespace().next());
        let paths = written.filter_map(|path| path.strip_prefix("./present/"));
        Ok(Some((time, paths.map(PathBuf::from).collect())))
    }

    fn snapshot(&mut self) -> Result<Option<Duration>> {
        self.states += 1;
        self.take(&self.state(self.states)).map(Some)
    }

    fn fork(&mut self) -> Result<Option<Duration>> {
        let (state, fork) = (self.state(self.states), self.directory.join("fork"));
        timed(command("btrfs", ["subvolume", "snapshot"]).arg(state).arg(fork)).map(Some)
    }

    fn drop_fork(&mut self) -> Result<()> {
        self.delete(&self.directory.join("fork"))?;
        wait_for_cleaner(&self.directory)
    }

    fn restore(&mut self) -> Result<Option<Duration>> {
        let start = Instant::now();
        self.delete(&self.work)?;
        let state = self.state(self.states);
        timed(command("btrfs", ["subvolume", "snapshot"]).arg(state).arg(&self.work))?;
        Ok(Some(start.elapsed()))
    }

    fn check(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        keeper::check_ends(&self.work, files, line)
    }

    fn forget(&mut self) -> Result<()> {
        wait_for_cleaner(&self.directory)
    }
}

/// snapper without its daemon; its configuration lies in a tmpfs of this mount namespace.
#[derive(Debug)]
pub(super) struct Snapper {
    work: PathBuf,
    last: String,
}

const CONFIGURATION: &str = "bench";

impl Snapper {
    pub(super) fn boxed(stage: &Stage<'_>) -> Result<Box<dyn Keeper>> {
        let directory = stage.subdirectory("snapper")?;
        let work = subvolume(stage, &directory)?;
        for (place, sub) in [("/etc/snapper", "configs"), ("/etc/default", "")] {
            timed(command("mount", ["-t", "tmpfs", "bench-snapper"]).arg(place))
                .map_err(|error| error.context("snapper is not installed"))?;
            std::fs::create_dir_all(Path::new(place).join(sub)).context(|| "mkdir")?;
        }
        std::fs::write("/etc/default/snapper", "SNAPPER_CONFIGS=\"\"\n")
            .context(|| "write(\"/etc/default/snapper\")")?;
        let mut keeper = Self { work, last: String::new() };
        timed(keeper.command(&["create-config"]).arg(&keeper.work))?;
        keeper.last = output(&mut keeper.command(&["create", "--print-number"]))?.trim().to_owned();
        Ok(Box::new(keeper))
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = command("snapper", ["--no-dbus", "--config", CONFIGURATION]);
        command.args(words);
        command
    }
}

impl Drop for Snapper {
    fn drop(&mut self) {
        for place in ["/etc/snapper", "/etc/default"] {
            // Best effort: they go with the namespace.
            drop(timed(&mut command("umount", [place])));
        }
    }
}

impl Keeper for Snapper {
    fn name(&self) -> &str {
        SNAPPER
    }

    fn edit(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        keeper::append(&self.work, files, line)
    }

    fn diff(&mut self) -> Result<Option<(Duration, Named)>> {
        let range = format!("{}..0", self.last);
        let start = Instant::now();
        let text = output(&mut self.command(&["status", &range]))?;
        let time = start.elapsed();
        // `c..... /srv/work/etc/passwd`
        let changed = text.lines().filter(|line| line.starts_with('c'));
        let paths =
            changed.filter_map(|line| Path::new(line.split_once(' ')?.1).strip_prefix(&self.work).ok());
        Ok(Some((time, paths.map(PathBuf::from).collect())))
    }

    fn snapshot(&mut self) -> Result<Option<Duration>> {
        let start = Instant::now();
        self.last = output(&mut self.command(&["create", "--print-number"]))?.trim().to_owned();
        Ok(Some(start.elapsed()))
    }

    fn fork(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }

    fn drop_fork(&mut self) -> Result<()> {
        Ok(())
    }

    fn restore(&mut self) -> Result<Option<Duration>> {
        let range = format!("{}..0", self.last);
        timed(&mut self.command(&["undochange", &range])).map(Some)
    }

    fn check(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        keeper::check_ends(&self.work, files, line)
    }
}

/// LXC's copy of a container that shares its disk: a btrfs snapshot, or an overlay elsewhere. It has no states to go back to.
#[derive(Debug)]
pub(super) struct Lxc {
    directory: PathBuf,
    root: PathBuf,
    storage: &'static str,
}

impl Lxc {
    pub(super) fn boxed(stage: &Stage<'_>) -> Result<Box<dyn Keeper>> {
        let directory = stage.subdirectory("lxc")?;
        let container = directory.join("base");
        std::fs::create_dir(&container).context(|| format!("mkdir({container:?})"))?;
        let root = container.join("rootfs");
        let (storage, prefix) = match stage.fixture.kind() {
            FileSystem::Btrfs => {
                timed(command("btrfs", ["subvolume", "create"]).arg(&root))?;
                ("btrfs", "btrfs")
            }
            _ => {
                std::fs::create_dir(&root).context(|| format!("mkdir({root:?})"))?;
                ("overlay", "dir")
            }
        };
        stage.archive.unpack(&root)?;
        let text = format!("lxc.uts.name = base\nlxc.rootfs.path = {prefix}:{}\n", root.display());
        std::fs::write(container.join("config"), text).context(|| format!("write {container:?}/config"))?;
        Ok(Box::new(Self { directory, root, storage }))
    }
}

impl Keeper for Lxc {
    fn name(&self) -> &str {
        LXC
    }

    fn edit(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        keeper::append(&self.root, files, line)
    }

    fn diff(&mut self) -> Result<Option<(Duration, Named)>> {
        Ok(None)
    }

    fn snapshot(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }

    fn fork(&mut self) -> Result<Option<Duration>> {
        let mut copy = command("lxc-copy", ["--name=base", "--newname=fork", "--snapshot"]);
        copy.arg("-P").arg(&self.directory).args(["-B", self.storage]);
        timed(&mut copy).map(Some)
    }

    fn drop_fork(&mut self) -> Result<()> {
        timed(command("lxc-destroy", ["--name=fork", "-P"]).arg(&self.directory)).map(drop)
    }
}
