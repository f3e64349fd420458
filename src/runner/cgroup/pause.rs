//! Processes of a box stand still for a moment, and go on whatever happens to us.
//!
//! A box with limits has a cgroup, which is frozen. The processes of any other are moved to one that is made for the moment, and
//! back again; where each came from is written down before it is moved. So whoever finds what was written down can undo all of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rootling_backends::{Context, Error, ErrorKind, Result, mount_table, small_file};
use serde::{Deserialize, Serialize};

use super::directory::{Directory, PATIENCE, remove_now};
use super::layout::{Hierarchy, Layout};
use super::settings::Version;
use super::{Cgroup, Place};

/// What was stopped, and how to let it go on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stopped {
    /// The box's own cgroup, where it has one.
    own: Option<Place>,
    /// The one that was made.
    made: Option<Made>,
}

/// A cgroup that was made for the moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Made {
    path: PathBuf,
    version: Version,
    /// Where each process came from.
    homes: BTreeMap<i32, PathBuf>,
    /// Where all others go: those that were born meanwhile.
    home: PathBuf,
}

impl Stopped {
    /// Plans to stop a box, whose first process this is. Nothing is done yet.
    ///
    /// `Unsupported` where there is no freezer, or none that we may use.
    pub fn plan(own: Option<&Place>, first: i32, name: &str) -> Result<Self> {
        if let Some(own) = own {
            return Ok(Self { own: Some(own.clone()), made: None });
        }
        let layout = Layout::read()?;
        let freezes = |hierarchy: &Hierarchy| {
            hierarchy.version == Version::V2 || hierarchy.controllers.iter().any(|name| name == "freezer")
        };
        let found = layout.anchor_and_base().filter(|(hierarchy, _)| freezes(hierarchy));
        let Some((hierarchy, base)) = found else {
            return Err(Error::new(ErrorKind::Unsupported, "there is no cgroup that may be frozen").hint(
                "run it as root, or give the box a limit when it starts: it gets a cgroup of its own then",
            ));
        };
        let home = home(first, hierarchy)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("process {first} has ended")))?;
        let directory = Directory::make(&base, name, hierarchy.version)?;
        let made = Made { path: directory.path, version: hierarchy.version, homes: BTreeMap::new(), home };
        Ok(Self { own: None, made: Some(made) })
    }

    /// Stops all processes that `list` names, until it names no new one. Before one is moved, `note` is told where it came from.
    pub fn stop(
        &mut self,
        list: impl Fn() -> Result<Vec<i32>>,
        note: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        note(self)?;
        if let Some(own) = &self.own {
            return Cgroup::open(own)?.freeze();
        }
        let cgroup = self.cgroup()?;
        // What is moved into it stands still at once, so that what is left to move only gets fewer.
        cgroup.freeze()?;
        let start = Instant::now();
        loop {
            let inside = cgroup.processes()?;
            let outside: Vec<i32> = list()?.into_iter().filter(|pid| !inside.contains(pid)).collect();
            if outside.is_empty() {
                // Once more, and wait until all of them have stopped.
                return cgroup.freeze();
            }
            if start.elapsed() > PATIENCE {
                let message = "the box makes processes faster than they can be stopped";
                return Err(Error::new(ErrorKind::Busy, message));
            }
            self.learn(&outside)?;
            note(self)?;
            for pid in outside {
                match cgroup.anchor().write("cgroup.procs", &pid.to_string()) {
                    // It has ended.
                    Err(error) if error.errno() == Some(nix::errno::Errno::ESRCH) => {}
                    moved => moved.context(|| format!("stop process {pid} of the box"))?,
                }
            }
        }
    }

    /// Lets all of it go on, where it was. A second call finds nothing to do.
    pub fn go_on(&self) -> Result<()> {
        if let Some(own) = &self.own {
            return match Cgroup::open(own).and_then(|cgroup| cgroup.thaw()) {
                // The box has ended, and its cgroup with it.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                done => done,
            };
        }
        let Some(made) = &self.made else { return Ok(()) };
        let cgroup = match self.cgroup() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            cgroup => cgroup?,
        };
        cgroup.thaw()?;
        let start = Instant::now();
        loop {
            let left = cgroup.processes()?;
            for pid in &left {
                let home = made.homes.get(pid).unwrap_or(&made.home);
                // Best effort: it may have ended, or its home may be gone; the loop looks again.
                let moved = Directory::open(home, made.version)
                    .and_then(|home| home.write("cgroup.procs", &pid.to_string()));
                if let Err(error) = moved {
                    log::debug!("{error:?}");
                }
            }
            match remove_now(&made.path) {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    }

    fn cgroup(&self) -> Result<Cgroup> {
        let made = self.made.as_ref().expect("it is one or the other");
        let directory = Directory::open(&made.path, made.version)?;
        // Not made by us in the sense of `Cgroup`: those are removed with all that is in them.
        Ok(Cgroup { directories: vec![directory], place: Place::default(), made: false })
    }

    /// Finds out where processes are.
    fn learn(&mut self, pids: &[i32]) -> Result<()> {
        let layout = Layout::read()?;
        let made = self.made.as_mut().expect("only then processes are moved");
        let hierarchy = layout.0.iter().find(|hierarchy| made.path.starts_with(&hierarchy.mount));
        let Some(hierarchy) = hierarchy else { return Ok(()) };
        let homes = pids.iter().filter_map(|pid| Some((*pid, home(*pid, hierarchy)?)));
        made.homes.extend(homes);
        Ok(())
    }
}

/// Returns the cgroup of a process in a hierarchy; `None` where it has ended.
fn home(pid: i32, hierarchy: &Hierarchy) -> Option<PathBuf> {
    let own = small_file::read_record(Path::new("/proc").join(pid.to_string()).join("cgroup")).ok()?;
    let layout = Layout::of(&mount_table::read().ok()?, &own);
    layout.0.into_iter().find(|other| other.mount == hierarchy.mount).map(|other| other.own)
}
