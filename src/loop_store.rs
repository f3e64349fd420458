//! A store on a file system of its own, in a sparse file: how a host with ext4 gets snapshots.
//!
//! ```text
//! PATH/loop.json    version, file system
//! PATH/store.img    the sparse file; discards of the file system in it punch holes
//! PATH/mnt/         where it is mounted: the store itself
//! PATH/loop.lock    flock, held while mounting, unmounting or growing
//! ```
//!
//! The mount is made on demand and stays until the machine stops or somebody unmounts it. Making, mounting and
//! growing are the work of mkfs, mount(8), losetup and the file system's own tools: they know the formats.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rootling_backends::{Context, Error, ErrorKind, Result, private};
use serde::{Deserialize, Serialize};

/// File systems that a loop store can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FileSystem {
    /// Subvolumes: everything is a snapshot.
    Btrfs,
    /// Reflinks.
    Xfs,
}

impl FileSystem {
    /// mkfs.btrfs wants 109 MiB at least, mkfs.xfs 300 MiB.
    fn smallest(self) -> u64 {
        match self {
            Self::Btrfs => 128 << 20,
            Self::Xfs => 320 << 20,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
        }
    }
}

/// The content of `loop.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    fs: FileSystem,
}

fn description(path: &Path) -> PathBuf {
    path.join("loop.json")
}

fn image(path: &Path) -> PathBuf {
    path.join("store.img")
}

fn mount_point(path: &Path) -> PathBuf {
    path.join("mnt")
}

/// Is there a loop store at `path`?
pub fn exists(path: &Path) -> bool {
    // access(2): a single call, where others first find out which of two to use.
    nix::unistd::access(&description(path), nix::unistd::AccessFlags::F_OK).is_ok()
}

/// Makes the sparse file and its file system below `path`, and mounts it. Returns where the store goes.
///
/// `loop.json` is written last: what a crash leaves before that is no loop store, and a second call begins anew.
pub fn create(path: &Path, size_bytes: u64, fs: FileSystem) -> Result<PathBuf> {
    let intent = || format!("make a loop store at {path:?}");
    if exists(path) {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("{path:?} is a loop store already")));
    }
    if size_bytes < fs.smallest() {
        let message = format!("{size_bytes} bytes are too few for {}", fs.name());
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint(format!("say --loop {}M or more", fs.smallest() >> 20)));
    }
    refuse_strangers(path).context(intent)?;
    private::make_dirs(&mount_point(path)).context(intent)?;
    private::close_to_others(path).context(intent)?;
    let _lock = lock(path).context(intent)?;
    let file = image(path);
    let made = private_file().truncate(true).open(&file).and_then(|image| image.set_len(size_bytes));
    made.context(|| format!("truncate({file:?}, {size_bytes})")).context(intent)?;
    let mut make = Command::new(format!("mkfs.{}", fs.name()));
    run(make.arg("-q").arg("-f").arg(&file)).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            error
                .hint(format!("install {}", if fs == FileSystem::Btrfs { "btrfs-progs" } else { "xfsprogs" }))
        } else {
            error
        }
    })?;
    let text = serde_json::to_vec_pretty(&Description { version: 1, fs }).expect("two plain fields");
    private_file()
        .truncate(true)
        .open(description(path))
        .and_then(|mut file| file.write_all(&text))
        .context(|| format!("write({:?})", description(path)))
        .context(intent)?;
    File::open(path).and_then(|dir| dir.sync_all()).context(|| format!("fsync({path:?})")).context(intent)?;
    mount(path).context(intent)
}

/// A directory with something in it is somebody's, unless a lock shows that we were cut off here.
fn refuse_strangers(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(|| format!("opendir({path:?})"))?,
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let begun = names.iter().any(|name| name == "loop.lock");
    let ours = |name: &std::ffi::OsString| {
        begun && ["loop.lock", "store.img", "mnt"].iter().any(|known| name == known)
    };
    match names.iter().find(|name| !ours(name)) {
        None => Ok(()),
        Some(name) => {
            let message = format!("{path:?} is neither empty nor a store: it holds {name:?}");
            Err(Error::new(ErrorKind::FailedPrecondition, message).hint("choose an empty directory"))
        }
    }
}

/// A file that its owner alone may read: what is in it is the whole file system.
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// Returns where the store at `path` is, mounting it first if it is not.
pub fn open(path: &Path) -> Result<PathBuf> {
    let intent = || format!("open the loop store {path:?}");
    // The file system is mounted with all its rights: who writes the file is root.
    private::close_to_others(path).context(intent)?;
    if is_mounted(path).context(intent)? {
        return Ok(mount_point(path));
    }
    let _lock = lock(path).context(intent)?;
    if is_mounted(path).context(intent)? { Ok(mount_point(path)) } else { mount(path).context(intent) }
}

/// Makes the file system of a loop store larger; a smaller size is an error. A crash leaves the old or the new size.
pub fn grow(path: &Path, size_bytes: u64) -> Result<()> {
    let intent = || format!("grow the loop store {path:?}");
    let place = open(path)?;
    let _lock = lock(path).context(intent)?;
    let fs = describe(path).context(intent)?.fs;
    let file =
        OpenOptions::new().write(true).open(image(path)).context(|| format!("open({:?})", image(path)))?;
    let now = file.metadata().context(|| format!("fstat({:?})", image(path)))?.len();
    if size_bytes < now {
        let message = format!("{path:?} has {now} bytes already: a loop store cannot shrink");
        return Err(
            Error::new(ErrorKind::InvalidInput, message).hint("make a new one and move the trees there")
        );
    }
    file.set_len(size_bytes)
        .context(|| format!("truncate({:?}, {size_bytes})", image(path)))
        .context(intent)?;
    let listed = run(Command::new("losetup")
        .args(["--noheadings", "--output", "NAME", "--associated"])
        .arg(image(path)))
    .context(intent)?;
    for device in listed.split_whitespace() {
        run(Command::new("losetup").args(["--set-capacity", device])).context(intent)?;
    }
    let mut command = match fs {
        FileSystem::Btrfs => {
            let mut command = Command::new("btrfs");
            command.args(["--quiet", "filesystem", "resize", "max"]);
            command
        }
        FileSystem::Xfs => Command::new("xfs_growfs"),
    };
    run(command.arg(&place)).map(drop).context(intent)
}

fn describe(path: &Path) -> Result<Description> {
    let file = description(path);
    let text = fs::read(&file).context(|| format!("read({file:?})"))?;
    let description: Description = serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{file:?} is damaged: {error}")))?;
    if description.version != 1 {
        let message = format!("{file:?} has version {}, this program reads 1", description.version);
        return Err(Error::new(ErrorKind::Unsupported, message).hint("use a newer rootling"));
    }
    Ok(description)
}

/// Returns where the loop store at `path` is mounted, if there is one and it is.
pub fn mounted(path: &Path) -> Option<PathBuf> {
    let here = exists(path) && is_mounted(path).unwrap_or(false);
    here.then(|| mount_point(path))
}

fn lock(path: &Path) -> Result<File> {
    let file = path.join("loop.lock");
    let lock = private_file().truncate(false).open(&file);
    lock.and_then(|lock| lock.lock().map(|()| lock)).context(|| format!("flock({file:?})"))
}

fn is_mounted(path: &Path) -> Result<bool> {
    let device =
        |path: &Path| fs::metadata(path).map(|stat| stat.dev()).context(|| format!("stat({path:?})"));
    Ok(device(&mount_point(path))? != device(path)?)
}

fn mount(path: &Path) -> Result<PathBuf> {
    let fs = describe(path)?.fs;
    let mut command = Command::new("mount");
    command.args(["-t", fs.name(), "-o", "loop,discard,noatime"]);
    if fs == FileSystem::Btrfs {
        // So that somebody without root can delete the subvolumes that are theirs.
        command.args(["-o", "user_subvol_rm_allowed"]);
    }
    run(command.arg(image(path)).arg(mount_point(path))).map_err(|error| {
        error.hint("mounting a loop file needs root; the file system must be one the kernel has")
    })?;
    Ok(mount_point(path))
}

/// Runs a tool of the system and returns what it printed; its failure carries what it said.
fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().context(|| format!("execute {shown}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = format!("{shown} failed ({}): {}", output.status, said.trim());
    Err(Error::new(ErrorKind::Io, message))
}
