//! Tests on real file systems: each in a mount namespace of its own, with a fresh loop file.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::environment::{Environment, is_root, skip};
use crate::host::FileSystem;

/// Runs a test with a store on btrfs, XFS and ext4 in turn; says which cannot be had here.
pub(crate) fn on_file_systems(test: impl Fn(&Environment, FileSystem) + Sync) {
    if !is_root() {
        return;
    }
    for sort in [FileSystem::Btrfs, FileSystem::Xfs, FileSystem::Ext4] {
        // A thread of its own: namespaces are a thread's, and libtest may use the thread again.
        std::thread::scope(|scope| {
            if let Err(panic) = scope.spawn(|| on_one(sort, &test)).join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

fn on_one(sort: FileSystem, test: &(impl Fn(&Environment, FileSystem) + Sync)) {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let base = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), base.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let _unmounted = Unmount(base.path());
    let place = base.path().join("fs");
    if let Err(reason) = sort.make(&base.path().join("image"), 1 << 30, &place) {
        return skip(&reason);
    }
    test(&Environment::at(&place), sort);
}

/// The mounts below go along, and loop devices with them.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        // Best effort: it goes with the namespace at the latest.
        umount2(self.0, MntFlags::MNT_DETACH).unwrap_or_default();
    }
}
