//! How a running box is found again: a process id alone may be somebody else's by now.

use std::os::fd::OwnedFd;

use rootling_backends::fence::boot_id;
use rootling_backends::{Error, ErrorKind, Result, small_file};
use serde::{Deserialize, Serialize};

use super::cgroup::{Limits, Place};
use super::plan::Plan;
use super::spec::{Join, Security, Userns};
use super::sys;

/// The start time of no process.
const NEVER: u64 = u64::MAX;

/// A process, named so that no other process ever has the same name, and the walls around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The box's command, as its caller sees it.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time_ticks: u64,
    /// Which boot that was.
    pub boot_id: String,
    /// What holds for each command in the box.
    pub security: Security,
    /// The box's user namespace.
    pub userns: Userns,
    /// What the box may use at most.
    #[serde(default)]
    pub limits: Limits,
    /// The box's cgroup, where its limits needed one.
    #[serde(default)]
    pub cgroup: Option<Place>,
}

impl Running {
    /// Describes a process of a box by the plan of that: one that runs now, or ran a moment ago; then nobody ever finds it alive.
    pub(super) fn of(pid: i32, plan: &Plan, cgroup: Option<Place>) -> Result<Self> {
        Ok(Self {
            pid,
            start_time_ticks: start_time(pid).unwrap_or(NEVER),
            boot_id: boot_id()?,
            security: plan.security.clone(),
            userns: plan.userns.clone(),
            limits: plan.limits.clone(),
            cgroup,
        })
    }

    /// Returns what a user and a group of the box are for the caller, where the box has ids of its own.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        self.userns.outside(uid, gid)
    }

    /// Returns what a user of the caller's is inside; `None` for one who is nobody there.
    pub fn inside(&self, uid: u32) -> Option<u32> {
        match &self.userns {
            Userns::Private { uid_map, .. } => uid_map.iter().find_map(|range| {
                let offset = uid.checked_sub(range.outside).filter(|offset| *offset < range.count)?;
                range.inside.checked_add(offset)
            }),
            Userns::Join(Join::Box(running)) => running.inside(uid),
            Userns::Host | Userns::Join(Join::Path(_)) => Some(uid),
        }
    }

    /// Is it still running?
    pub fn is_alive(&self) -> bool {
        self.open().is_ok()
    }

    /// Opens a handle on it; `NotFound` where it has ended, also if its id is in use again.
    pub(super) fn open(&self) -> Result<OwnedFd> {
        if boot_id()? != self.boot_id {
            return Err(self.gone());
        }
        // The handle first, the time after: what the handle holds cannot be replaced under us.
        let handle = sys::pidfd_open(self.pid).map_err(|_| self.gone())?;
        match start_time(self.pid) {
            Ok(time) if time == self.start_time_ticks => Ok(handle),
            _ => Err(self.gone()),
        }
    }

    pub(super) fn gone(&self) -> Error {
        Error::new(ErrorKind::NotFound, format!("process {} of the box has ended", self.pid))
    }
}

/// Field 22 of proc_pid_stat(5); the second is a name in parentheses that may hold anything. A zombie has ended.
fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = small_file::read_record(&path)?;
    let mut fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let state = fields.next().unwrap_or("Z");
    let time = fields.nth(18).and_then(|field| field.parse().ok());
    match time {
        Some(time) if !matches!(state, "Z" | "X") => Ok(time),
        _ => Err(Error::new(ErrorKind::NotFound, format!("process {pid} has ended"))),
    }
}
