//! Cgroups: what a box may use, what it has used, and all its processes at once.
//!
//! | module | what it is for |
//! |---|---|
//! | `limits` | what may be asked for, as data, and its words |
//! | `settings` | limits as files and texts of the kernel |
//! | `oci` | limits as other runtimes read them |
//! | `layout` | which hierarchies there are, and where we may make cgroups |
//! | `make` | directories and limits of a new one |
//! | `enable` | version 2: handing controllers down |
//! | `directory` | one cgroup directory |
//! | `sweep` | cgroups whose maker was killed |
//! | `pause` | processes that stand still for a moment, with or without a cgroup of their own |
//! | `stats` | what was used |
//! | `systemd` | a cgroup of one's own for a user's session |
//! | `ability` | what of it works here |
//!
//! ```text
//! BASE/                      top of the hierarchy for root, what systemd delegated for a user
//! `-- rootling/              there while something is in it
//!     |-- NAME-PID/          a box: limits, its processes. PID is that of its maker, who holds a lock on it
//!     `-- self-PID/          us, where we were alone in BASE and had to step aside
//! ```
//!
//! **Invariants.** A box without limits has no cgroup and costs no call here. Processes are only in leaves. What is
//! asked for and not enforced is an error that names the flag. Dropping a [`Cgroup`] that was made removes it;
//! after SIGKILL the next one that is made does.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

mod ability;
mod directory;
mod enable;
mod layout;
mod limits;
mod make;
mod oci;
mod pause;
mod settings;
mod stats;
mod sweep;
mod systemd;

pub use ability::ability;
pub use limits::{
    IoKind, IoRate, Limits, UNLIMITED, parse_cpus, parse_list, parse_pids, parse_rate, parse_size,
    parse_size_or_unlimited,
};
pub use oci::{BlockIo, Cpu, Memory, Pids, Resources, Throttle};
pub use pause::Stopped;
pub use stats::Stats;
pub use systemd::delegate;

use directory::{Directory, PATIENCE};
use layout::Layout;
use settings::Version;

/// Where a cgroup is: enough to find it again from another process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its directory in the hierarchy of version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unified: Option<PathBuf>,
    /// Its directories in hierarchies of version 1, by controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub controllers: BTreeMap<String, PathBuf>,
}

/// A cgroup of a box.
#[derive(Debug)]
pub struct Cgroup {
    /// The anchor first; it is in every cgroup, and locked by its maker.
    directories: Vec<Directory>,
    place: Place,
    made: bool,
}

impl Cgroup {
    /// Makes a cgroup with limits, whose name begins with `stem`. Call it before the clone.
    ///
    /// Two that are made with one stem are two cgroups. A limit that the machine cannot enforce is an error
    /// which names the flag and the reason, of kind `Unsupported`, `PermissionDenied` or `Busy` (processes are where none
    /// may be), or `InvalidInput` for a device or processor that is not there; on every error nothing is left.
    /// Costs about 80 system calls for the first limit, and three more for each other cgroup of ours. It is removed when dropped, with
    /// the processes that are still in it; if this process is killed, the next call here removes it.
    pub fn make(stem: &str, limits: &Limits) -> Result<Self> {
        make::make(stem, limits)
    }

    /// Opens one that exists, without owning it: dropping it does nothing. `NotFound` where it is gone.
    pub fn open(place: &Place) -> Result<Self> {
        let unified = place.unified.iter().map(|path| (path, Version::V2));
        let others = place.controllers.values().map(|path| (path, Version::V1));
        let mut directories: Vec<Directory> = Vec::new();
        for (path, version) in unified.chain(others) {
            if !directories.iter().any(|known| known.path == *path) {
                directories.push(Directory::open(path, version).context(|| "open the cgroup of the box")?);
            }
        }
        if directories.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "the box has no cgroup"));
        }
        // The freezer is what every cgroup without version 2 has.
        let frozen = place.controllers.get("freezer");
        directories.sort_by_key(|known| (known.version == Version::V1, Some(&known.path) != frozen));
        Ok(Self { directories, place: place.clone(), made: false })
    }

    /// Removes cgroups that killed processes have left, and returns how many. Cheap where there are none.
    pub fn sweep() -> usize {
        Layout::read().map_or(0, |layout| sweep::sweep(&layout))
    }

    /// Returns where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the descriptor for `CLONE_INTO_CGROUP`; `None` where version 2 is not there.
    pub fn directory_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified().map(|directory| directory.file.as_fd())
    }

    /// Returns whether a process that was cloned into it has to be added by [`Self::add`] as well.
    pub fn needs_add(&self) -> bool {
        self.directories.iter().any(|directory| directory.version == Version::V1)
    }

    /// Moves a process in, with what it forks from then on: into the hierarchies of version 1, and into that of
    /// version 2 where it was not `cloned_into` it. It must not run anything of the box before.
    pub fn add(&self, pid: i32, cloned_into: bool) -> Result<()> {
        for directory in &self.directories {
            if !(cloned_into && directory.version == Version::V2) {
                directory
                    .write("cgroup.procs", &pid.to_string())
                    .context(|| format!("put process {pid} into the cgroup of the box"))?;
            }
        }
        Ok(())
    }

    /// Returns the processes in it, as this pid namespace numbers them.
    pub fn processes(&self) -> Result<Vec<i32>> {
        self.anchor().processes()
    }

    /// Kills all processes in it, also those that fork meanwhile, and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        // Since Linux 5.14; it reaches what is below, and what is frozen.
        let killed = self.unified().map(|directory| directory.write("cgroup.kill", "1"));
        let by_kernel = matches!(killed, Some(Ok(())));
        let start = Instant::now();
        loop {
            let processes = self.processes()?;
            if processes.is_empty() {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                let message = format!("{} processes in {:?} do not end", processes.len(), self.anchor().path);
                return Err(Error::new(ErrorKind::Busy, message));
            }
            if !by_kernel {
                self.kill_each(&processes);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Frozen, none of them can fork or end, so that no id is somebody else's when the signal is sent.
    fn kill_each(&self, seen: &[i32]) {
        let frozen = self.freeze().is_ok();
        let processes = if frozen { self.processes().unwrap_or_default() } else { seen.to_owned() };
        for process in processes {
            // Best effort: it may have ended by itself.
            super::sys::kill(process, libc::SIGKILL);
        }
        if frozen {
            // Best effort: the loop around looks whether they are gone.
            drop(self.thaw());
        }
    }

    /// Stops all processes in it, and returns when all have stopped; [`Self::thaw`] lets them go on.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets frozen processes go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let directory = self.anchor();
        let start = Instant::now();
        loop {
            let done = match directory.version {
                Version::V2 => {
                    directory.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
                    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
                    directory.read("cgroup.events")?.lines().any(|line| line == wanted)
                }
                // A process that was just about to fork is missed: version 1 wants it said again.
                Version::V1 => {
                    let wanted = if frozen { "FROZEN" } else { "THAWED" };
                    directory.write("freezer.state", wanted).map_err(|error| match error.kind() {
                        ErrorKind::NotFound => error
                            .with_kind(ErrorKind::Unsupported)
                            .hint("mount cgroup version 2, or the freezer of version 1"),
                        _ => error,
                    })?;
                    directory.read("freezer.state")?.trim() == wanted
                }
            };
            if done {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                if frozen {
                    // Best effort: the error says that they were not all frozen.
                    drop(self.thaw());
                }
                let message = format!("the processes in {:?} cannot be stopped", directory.path);
                return Err(Error::new(ErrorKind::Busy, message));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reads what it has used.
    pub fn stats(&self) -> Result<Stats> {
        let v1 = |name: &str| {
            let path = self.place.controllers.get(name)?;
            self.directories.iter().find(|directory| directory.path == *path)
        };
        stats::read(self.unified(), &v1, self.processes()?.len())
    }

    /// Removes it, with all processes that are still in it. A second call does nothing.
    pub fn remove(mut self) -> Result<()> {
        self.remove_all()
    }

    // ------------------------------------------------------------ parts

    fn anchor(&self) -> &Directory {
        self.directories.first().expect("a cgroup is made or opened with its anchor")
    }

    fn unified(&self) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.version == Version::V2)
    }

    fn remove_all(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.made) {
            return Ok(());
        }
        self.kill()?;
        // The anchor last: as long as it is there and locked, nobody takes the others for dead.
        for directory in self.directories.iter().rev() {
            directory.remove()?;
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Best effort: what is left is found by the next sweep.
        if let Err(error) = self.remove_all() {
            log::warn!("a cgroup is left: {error:?}");
        }
    }
}
