//! A private mount namespace with one small file system of each sort in it.
//!
//! The images of the loop devices lie on a tmpfs that only this namespace sees, and loop devices are detached
//! by the kernel when their mount goes: a killed test run leaves one empty directory and nothing else.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A file system that trees are tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FileSystem {
    Btrfs,
    Xfs,
    Ext4,
    Tmpfs,
}

impl FileSystem {
    pub(crate) const ALL: [Self; 4] = [Self::Btrfs, Self::Xfs, Self::Ext4, Self::Tmpfs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// Can two files share their data here?
    pub(crate) fn clones_files(self) -> bool {
        matches!(self, Self::Btrfs | Self::Xfs)
    }

    /// Formats `image`, a sparse file; tmpfs has none.
    fn format(self, image: &Path) -> Result<(), String> {
        let options: &[&str] = match self {
            Self::Btrfs => &["--quiet"],
            Self::Xfs => &["-q", "-f", "-m", "reflink=1"],
            Self::Ext4 => &["-q", "-F", "-m", "0", "-N", "200000"],
            Self::Tmpfs => return Ok(()),
        };
        command(Command::new(format!("mkfs.{}", self.name())).args(options).arg(image))
    }

    /// Makes a fresh file system of `size` bytes in the sparse file `image` and mounts it at `target`.
    pub(crate) fn make(self, image: &Path, size: u64, target: &Path) -> Result<(), String> {
        std::fs::create_dir_all(target).map_err(|error| format!("mkdir {target:?}: {error}"))?;
        if self == Self::Tmpfs {
            return mount_tmpfs(target, size);
        }
        std::fs::File::create(image)
            .and_then(|file| file.set_len(size))
            .map_err(|error| format!("create {image:?}: {error}"))?;
        self.format(image)?;
        self.mount_image(image, target)
    }

    /// Mounts an image by way of a loop device that goes with the mount.
    pub(crate) fn mount_image(self, image: &Path, target: &Path) -> Result<(), String> {
        // A clone of a mounted XFS carries the same UUID, which XFS refuses to mount twice.
        let options = if self == Self::Xfs { "loop,nouuid" } else { "loop" };
        command(Command::new("mount").args(["-t", self.name(), "-o", options]).arg(image).arg(target))
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn mount_tmpfs(target: &Path, size: u64) -> Result<(), String> {
    let options = format!("size={size},mode=0755");
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|errno| format!("mount(tmpfs, {target:?}): {errno}"))
}

/// Runs a program to its end; what it said on stderr is the error.
pub(crate) fn command(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{:?}: {}: {}", command.get_program(), output.status, said.trim()))
}

/// The private mount namespace's working directory; dropped, it is unmounted and gone.
#[derive(Debug)]
pub(crate) struct Host {
    base: PathBuf,
}

impl Host {
    /// Moves this process, which must still be single-threaded, into a mount namespace of its own.
    pub(crate) fn enter() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root: mounts, devices and owners".to_owned());
        }
        rootling_backends::sys::clear_umask();
        raise_descriptor_limit();
        unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| format!("unshare(CLONE_NEWNS): {errno}"))?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(|errno| format!("mount(\"/\", MS_REC|MS_PRIVATE): {errno}"))?;
        let base = tempfile::Builder::new().prefix("rootling-kit-").tempdir();
        let base = base.map_err(|error| format!("temporary directory: {error}"))?.keep();
        let host = Self { base };
        mount_tmpfs(&host.base, 16 << 30)?;
        Ok(host)
    }

    /// Returns a path below the working directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Makes and mounts one file system and returns where.
    pub(crate) fn file_system(&self, sort: FileSystem, name: &str, size: u64) -> Result<PathBuf, String> {
        let target = self.path(name);
        sort.make(&self.path(&format!("{name}.img")), size, &target)?;
        Ok(target)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Mounts below go along; loop devices follow when the last one lets go.
        let _unmounted = umount2(&self.base, MntFlags::MNT_DETACH);
        drop(std::fs::remove_dir(&self.base));
    }
}

/// Five hundred layers are five hundred descriptors, and tests run side by side.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Best effort: a small limit shows as a failed case that says so.
        let _raised = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65536), hard);
    }
}
