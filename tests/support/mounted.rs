//! A tree shown at a path for as long as a test writes in it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rootling_backends::{Access, Dir, Mount, sys};

/// An attached mount; dropped, it is unmounted.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Attaches `mount` at `at`, which is made for it.
    pub(crate) fn attach(mount: &Mount, access: Access, at: PathBuf) -> rootling_backends::Result<Self> {
        std::fs::create_dir_all(&at).expect("scratch directories can be made");
        let detached = mount.open(access)?;
        let target = Dir::open(&at)?;
        sys::move_mount(detached.as_fd(), target.as_fd()).expect("a detached mount can be attached");
        Ok(Self { at })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.at);
        drop(std::fs::remove_dir(&self.at));
    }
}

/// Unmounts, waiting for children that another thread just forked: they hold our descriptors until they execute their program.
pub(crate) fn unmount(at: &Path) {
    for _ in 0..200 {
        match umount2(at, MntFlags::empty()) {
            Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    // Best effort: it stayed busy, and goes with the namespace at the latest.
    let _unmounted = umount2(at, MntFlags::MNT_DETACH);
}
