//! Removes cgroups whose maker was killed before it could.
//!
//! The maker of a cgroup holds a lock (flock(2)) on its anchor directory as long as it lives, and the kernel drops
//! the lock with the process. So a directory without a lock is nobody's, and one in which processes still are
//! cannot be removed: the kernel says EBUSY. A box whose maker was killed dies with it, so the next sweep finds
//! it empty. While we remove we hold the lock ourselves: nobody can take the name before all of it is gone.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rootling_backends::ErrorKind;

use super::directory::{Directory, remove_now};
use super::layout::{DIRECTORY, Layout};
use super::settings::Version;

/// Removes the cgroups of makers that are gone, and returns how many. Costs a directory read for each hierarchy
/// and five calls for each cgroup there is. Best effort: what cannot be removed now is found the next time.
pub(super) fn sweep(layout: &Layout) -> usize {
    let Some((anchor, base)) = layout.anchor_and_base() else { return 0 };
    let others = layout.0.iter().filter(|hierarchy| *hierarchy != anchor && hierarchy.version == Version::V1);
    let others: Vec<PathBuf> = others
        // Where nothing of ours is, nothing needs to be asked about rights.
        .filter(|hierarchy| hierarchy.mount.join(DIRECTORY).exists() || hierarchy.own != hierarchy.mount)
        .filter_map(|hierarchy| hierarchy.base())
        .collect();
    let names: BTreeSet<OsString> = others.iter().chain([&base]).flat_map(|base| names(base)).collect();
    names.iter().filter(|name| remove_dead(&base, anchor.version, &others, name)).count()
}

fn remove_dead(anchor: &Path, version: Version, others: &[PathBuf], name: &OsStr) -> bool {
    let path = anchor.join(DIRECTORY).join(name);
    let claimed = match Directory::open(&path, version) {
        // The anchor was removed and the rest was not: with it made again, the name is ours.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            name.to_str().and_then(|name| Directory::make(anchor, name, version).ok())
        }
        opened => opened.ok(),
    };
    let Some(claimed) = claimed.filter(Directory::lock) else { return false };
    let rest = others.iter().all(|base| remove_now(&base.join(DIRECTORY).join(name)).is_ok());
    rest && remove_now(&claimed.path).is_ok()
}

fn names(base: &Path) -> Vec<OsString> {
    let entries = std::fs::read_dir(base.join(DIRECTORY)).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
        .collect()
}
