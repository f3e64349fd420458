//! Namespaces that exist: opened by the caller, joined by a process that is gone afterwards.
//!
//! Joining cannot be undone, a user namespace least of all, so the caller does not do it. It clones a *scout* without new
//! namespaces; the scout joins, clones the init as its own sibling, so that the init is the caller's child as ever, and ends.
//! New namespaces then belong to the user namespace that was joined, and the init is in the pid namespace that was.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::plan::Joined;
use super::report::{self, Kind};
use super::spec::Join;
use super::sys;

/// A handle on what is joined, and which kinds of it.
#[derive(Debug)]
pub(super) struct Door {
    file: OwnedFd,
    kinds: i32,
}

/// Opens what is joined; a box that has ended is an error of kind `NotFound`.
pub(super) fn open(joins: &[Joined]) -> Result<Vec<Door>> {
    joins
        .iter()
        .map(|joined| {
            let file = match &joined.of {
                Join::Box(running) => running.open()?,
                Join::Path(path) => {
                    let file = File::open(path).context(|| format!("open({path:?})"));
                    let hint = |error: Error| match error.kind() {
                        ErrorKind::NotFound => {
                            error.hint("`ip netns list` and /proc/PID/ns name what there is")
                        }
                        _ => error,
                    };
                    file.map_err(hint)?.into()
                }
            };
            Ok(Door { file, kinds: joined.kinds.bits() })
        })
        .collect()
}

/// *child*: in the scout: goes through all doors and returns in the init; the scout ends here.
///
/// Behind a door there may be somebody who can trace what comes in, and both still hold the host: so they cannot be traced from
/// before the first door on. The init's copy of the memory keeps that.
pub(super) fn go_through(doors: &[Door], namespaces: u64, report: BorrowedFd<'_>) {
    if let Err(errno) = sys::prctl(libc::PR_SET_DUMPABLE, 0) {
        report::send(report, Kind::Join, doors.len(), errno as i32, None);
        sys::exit(125);
    }
    for (index, door) in doors.iter().enumerate() {
        if let Err(errno) = sys::setns(door.file.as_fd(), door.kinds) {
            report::send(report, Kind::Join, index, errno as i32, None);
            sys::exit(125);
        }
    }
    match sys::clone_sibling(namespaces) {
        Ok(true) => report::send(report, Kind::Here, 0, 0, None),
        Ok(false) => sys::exit(0),
        Err(errno) => {
            report::send(report, Kind::Join, doors.len(), errno as i32, None);
            sys::exit(125)
        }
    }
}
