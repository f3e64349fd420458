//! podman's storage drivers: `podman create` is its fork of an image, `podman rm` its deletion, `podman diff` its change search.
//!
//! Each driver has a storage of its own on the file system that is measured; the image is the same archive that the others unpacked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Result};

use crate::command::{command, output, timed};
use crate::contender::{Contender, Found, View};
use crate::trees::Archive;

/// What podman calls the tree and its fork: apart, because `podman diff` takes a name for an image's first.
const IMAGE: &str = "localhost/bench-tree";
const BOX: &str = "bench-fork";

/// One driver with its storage.
#[derive(Debug)]
pub(crate) struct Podman {
    name: String,
    driver: &'static str,
    directory: PathBuf,
    /// Apart from the rest: podman takes no path of more than 50 characters for it.
    run: PathBuf,
}

/// How many storages this process made so far.
static STORAGES: AtomicUsize = AtomicUsize::new(0);

impl Podman {
    /// Makes the storage in the empty `directory` and imports the archive.
    pub(crate) fn new(driver: &'static str, directory: PathBuf, archive: &Archive) -> Result<Self> {
        let podman = Self::empty(driver, directory);
        timed(podman.command(["import", "--quiet"]).arg(&archive.path).arg(IMAGE))?;
        Ok(podman)
    }

    /// Returns a storage without images in the empty `directory`.
    pub(crate) fn empty(driver: &'static str, directory: PathBuf) -> Self {
        let number = STORAGES.fetch_add(1, Ordering::Relaxed);
        let run = PathBuf::from(format!("/run/rootling-bench.{}.{number}", std::process::id()));
        Self { name: Self::name_of(driver), driver, directory, run }
    }

    /// Returns what tables call it.
    pub(crate) fn name_of(driver: &str) -> String {
        format!("podman {driver}")
    }

    /// Returns podman with this storage, and these words.
    pub(crate) fn command(&self, words: impl IntoIterator<Item = &'static str>) -> Command {
        let mut command = self.program("podman");
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=none"]);
        command.args(["--log-level=error", "--runtime=runc"]).args(words);
        command
    }

    /// Returns buildah with this storage, and these words.
    pub(crate) fn buildah_command(&self, words: impl IntoIterator<Item = &'static str>) -> Command {
        let mut command = self.program("buildah");
        command.arg("--log-level=error").args(words);
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = command(name, [] as [&str; 0]);
        let option = |name: &str, path: &Path| {
            let mut word = OsString::from(name);
            word.push(path);
            word
        };
        command.env("TMPDIR", &self.directory);
        command.arg(option("--root=", &self.directory.join("root")));
        command.arg(option("--runroot=", &self.run));
        command.args(["--storage-driver", self.driver]);
        command
    }

    /// Returns `podman run --rm`, without limits that a machine may not raise; `more` are flags.
    pub(crate) fn run_command(&self, more: &[&str], inside: &[&str]) -> Command {
        let mut command =
            self.command(["run", "--rm", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]);
        command.arg("--cgroupns=private").args(more).arg(IMAGE).args(inside);
        command
    }

    /// Returns `podman exec` into the container of this name.
    pub(crate) fn exec_command(&self, name: &str, inside: &[&str]) -> Command {
        let mut command = self.command(["exec"]);
        command.arg(name).args(inside);
        command
    }

    /// Returns what ends and deletes the container of this name.
    pub(crate) fn remove_command(&self, name: &str) -> Command {
        let mut command = self.command(["rm", "--force", "--time=0"]);
        command.arg(name);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Best effort: podman mounts its run directory on itself, in this process's namespace only.
        drop(timed(command("umount", ["--recursive", "--lazy", "--quiet"]).arg(&self.run)));
        drop(std::fs::remove_dir_all(&self.run));
    }
}

impl Contender for Podman {
    fn name(&self) -> &str {
        &self.name
    }

    fn fork(&mut self) -> Result<Duration> {
        timed(&mut self.command(["create", "--name", BOX, "--net=host", IMAGE, "/bin/true"]))
    }

    fn view(&self) -> Result<View> {
        Ok(View::directory(output(&mut self.command(["mount", BOX]))?.trim()))
    }

    fn changes(&mut self) -> Result<Option<(Duration, Found)>> {
        timed(&mut self.command(["umount", BOX]))?;
        let start = Instant::now();
        let text = output(&mut self.command(["diff", BOX])).context(|| "podman diff")?;
        let time = start.elapsed();
        let change = |line: &str| {
            let (letter, path) = line.split_once(" /")?;
            Some((letter.chars().next()?, PathBuf::from(path)))
        };
        Ok(Some((time, text.lines().filter_map(change).collect())))
    }

    fn delete(&mut self) -> Result<Duration> {
        timed(&mut self.command(["rm", "--force", BOX]))
    }
}
