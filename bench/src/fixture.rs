//! Loop file systems in a private mount namespace: nothing is seen outside, and nothing stays.
//!
//! The bench starts itself again below `unshare --mount`: when it ends, in whatever way, the namespace goes with its mounts, and the
//! loop devices (made with autoclear by mount(8)) with those. What is left after a kill is one scratch directory.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::command::{command, output, timed};

/// Size of each file system: the file is sparse.
const SIZE: u64 = 20 << 30;

/// Runs this program again with the same words in a mount namespace of its own.
pub(crate) fn run_again_in_private_namespace() -> Result<ExitCode> {
    let program = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(program);
    unshare.args(std::env::args_os().skip(1)).arg("--inside");
    let status = unshare.status().context(|| "execve(\"unshare\")")?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        (None, signal) => Err(Error::new(ErrorKind::Io, format!("killed by signal {signal:?}"))),
    }
}

/// A directory of this run, removed at its end.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it in `directory`.
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let path = directory.join(format!("rootling-bench.{}", std::process::id()));
        std::fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what is left is named after the program.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The file systems that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub(crate) const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Can files share extents on it, as mkfs makes it here?
    pub(crate) fn clones(self) -> bool {
        self != Self::Ext4
    }

    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // Tables written now, not by a kernel thread while we measure.
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-m", "reflink=1"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file system in a file, mounted with its defaults.
#[derive(Debug)]
pub(crate) struct Loop {
    kind: FileSystem,
    image: PathBuf,
    mounted_at: PathBuf,
    /// The same file system without access times: who looks here leaves no trace.
    quiet: PathBuf,
}

impl Loop {
    /// Makes and mounts it.
    pub(crate) fn make(kind: FileSystem, scratch: &Scratch) -> Result<Self> {
        let image = scratch.path().join(format!("{kind}.img"));
        let mounted_at = scratch.path().join(kind.name());
        let file = std::fs::File::create(&image).context(|| format!("open({image:?}, O_CREAT)"))?;
        file.set_len(SIZE).context(|| format!("ftruncate({image:?})"))?;
        let (mkfs, flags) = kind.mkfs();
        timed(command(mkfs, flags).arg(&image))?;
        std::fs::create_dir(&mounted_at).context(|| format!("mkdir({mounted_at:?})"))?;
        timed(command("mount", ["-o", "loop"]).arg(&image).arg(&mounted_at))?;
        let quiet = scratch.path().join(format!("{kind}-quiet"));
        std::fs::create_dir(&quiet).context(|| format!("mkdir({quiet:?})"))?;
        timed(command("mount", ["--bind"]).arg(&mounted_at).arg(&quiet))?;
        timed(command("mount", ["-o", "remount,bind,noatime"]).arg(&quiet))?;
        Ok(Self { kind, image, mounted_at, quiet })
    }

    pub(crate) fn kind(&self) -> FileSystem {
        self.kind
    }

    /// Returns the same place by a mount that does not move access times; a place elsewhere stays as it is.
    pub(crate) fn quietly(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.mounted_at).map_or_else(|_| path.to_owned(), |below| self.quiet.join(below))
    }

    /// Returns how many sectors of 512 bytes were written to it so far (Documentation/block/stat.rst, the seventh number).
    pub(crate) fn sectors_written(&self) -> Result<u64> {
        let device = output(
            command("losetup", ["--noheadings", "--output", "NAME", "--associated"]).arg(&self.image),
        )?;
        let path = Path::new("/sys/block").join(device.trim().trim_start_matches("/dev/")).join("stat");
        let text = std::fs::read_to_string(&path).context(|| format!("read {path:?}"))?;
        let number = text.split_whitespace().nth(6).and_then(|number| number.parse().ok());
        number.ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("{path:?} is not as documented")))
    }

    /// Makes a new directory on it.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.mounted_at.join(name);
        std::fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
        Ok(path)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Best effort: podman's own mounts below it go too; what cannot be unmounted goes with the namespace.
        for place in [&self.quiet, &self.mounted_at] {
            drop(timed(command("umount", ["--recursive", "--lazy"]).arg(place)));
            // Another of the same kind may come.
            drop(std::fs::remove_dir(place));
        }
        drop(std::fs::remove_file(&self.image));
    }
}
