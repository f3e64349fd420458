//! `squashfs:`: mounted by the kernel where that can be done, else unpacked by unsquashfs.
//!
//! The mount is a detached one, of a loop device that goes with it: nobody sees either, and a kill leaves neither.
//!
//! | feature | since | used for | fallback |
//! |---|---|---|---|
//! | `LOOP_CONFIGURE`, `fsmount` | 5.8, 5.2 | reading a file as a file system, without a name | unsquashfs |

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rootling_backends::entry::CloneMode;
use rootling_backends::{Context, Cost, Dir, Error, ErrorKind, Result, replicate, sys};

use super::Means;
use super::location::Location;
use super::program::Program;
use super::stream::{Expected, Made, Passing, Treatment};
use crate::image::Digest;

/// Makes the tree of a squashfs in `target`, an empty directory.
pub(super) fn make(
    means: &Means<'_>,
    at: &Location,
    expected: &Expected,
    target: &Dir,
    treatment: &Treatment,
) -> Result<Made> {
    let (file, digest) = match at {
        Location::Local(path) => {
            let file = File::open(path).context(|| format!("open({path:?})"))?;
            let digest = expected.digest.is_some().then(|| verify(&file, expected, means)).transpose()?;
            (file, digest)
        }
        Location::Web(_) => {
            let (file, digest) = download(means, at, expected)?;
            (file, Some(digest))
        }
    };
    require_squashfs(&file)?;
    let made = match mount(&file)? {
        Some(root) => {
            let options = replicate::Options { clone: CloneMode::Auto, owners: treatment.owners };
            Made { cost: replicate::replicate(&root, target, &options)?, ..Made::default() }
        }
        None => unsquashfs(means, &file, target)?,
    };
    Ok(Made { digest, ..made })
}

fn verify(mut file: &File, expected: &Expected, means: &Means<'_>) -> Result<Digest> {
    let digest = Passing::new(file, expected, means.tell).finish(expected)?;
    file.rewind().context(|| "lseek of a squashfs")?;
    Ok(digest)
}

/// Downloads it into a file without a name, and verifies it.
fn download(means: &Means<'_>, at: &Location, expected: &Expected) -> Result<(File, Digest)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    let file = options.open(means.scratch).context(|| format!("open({:?}, O_TMPFILE)", means.scratch))?;
    let opened = means.fetch.open(at)?;
    let expected = Expected { length: expected.length.or(opened.length), ..expected.clone() };
    let mut passing = Passing::new(opened.reader, &expected, means.tell);
    let mut piece = vec![0; 256 << 10];
    loop {
        match passing.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                (&file).write_all(&piece[..read]).context(|| format!("write in {:?}", means.scratch))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(passing.cause(Error::io("read", error))),
        }
    }
    let digest = passing.finish(&expected)?;
    Ok((file, digest))
}

fn require_squashfs(file: &File) -> Result<()> {
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == *b"hsqs" => Ok(()),
        Ok(()) => Err(Error::new(ErrorKind::InvalidInput, "this is not a squashfs")),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Error::new(ErrorKind::InvalidInput, "this is not a squashfs: it is too short"))
        }
        Err(error) => Err(Error::io("pread of a squashfs", error)),
    }
}

/// Mounts it where only the returned directory leads to; `None` where this machine, or this user, cannot.
fn mount(file: &File) -> Result<Option<Dir>> {
    let cannot = |why: &str, errno: Errno| {
        log::debug!("a squashfs is not mounted: {why}: {errno}");
        Ok(None)
    };
    let context = match sys::fsopen(c"squashfs") {
        // EPERM: not root of this machine; ENODEV: the kernel has no squashfs; ENOSYS: it is older than 5.2.
        Err(errno @ (Errno::EPERM | Errno::ENODEV | Errno::ENOSYS)) => return cannot("fsopen", errno),
        context => context.context(|| "fsopen(\"squashfs\")")?,
    };
    let device = match attach(file) {
        Ok(device) => device,
        Err(errno) => return cannot("loop device", errno),
    };
    let source = CString::new(device.1).expect("a number has no NUL");
    sys::fsconfig_string(context.as_fd(), c"source", &source)
        .and_then(|()| sys::fsconfig_flag(context.as_fd(), c"ro"))
        .context(|| format!("fsconfig(squashfs, source={source:?})"))?;
    match sys::fsconfig_create(context.as_fd()) {
        // The first user namespace alone may mount what lies on a device.
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => return cannot("fsconfig", errno),
        Err(errno) => {
            let why = sys::fs_context_log(context.as_fd());
            let kind = if errno == Errno::EINVAL { ErrorKind::Corrupt } else { ErrorKind::Io };
            let error = Error::call(format!("fsconfig(squashfs, FSCONFIG_CMD_CREATE): {why}"), errno);
            return Err(error.context("the kernel cannot mount this squashfs").with_kind(kind));
        }
        Ok(()) => {}
    }
    let attributes = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOSUID;
    let mount = sys::fsmount(context.as_fd(), attributes).context(|| "fsmount(squashfs)")?;
    // fsmount returns an O_PATH descriptor; reading needs a real one.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::openat(&mount, ".", flags, Mode::empty()).context(|| "openat(squashfs, \".\")")?;
    Ok(Some(Dir::from_fd(root, "squashfs")))
}

/// Attaches a file to a loop device, which is free again once neither it is open nor anything on it mounted.
fn attach(file: &File) -> nix::Result<(File, String)> {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(errno)?;
    for _ in 0..64 {
        let path = format!("/dev/loop{}", sys::loop_free(control.as_fd())?);
        let device = File::open(&path).map_err(errno)?;
        match sys::loop_show(device.as_fd(), file.as_fd()) {
            // Somebody else took it between the two calls.
            Err(Errno::EBUSY) => {}
            done => return done.map(|()| (device, path)),
        }
    }
    Err(Errno::EBUSY)
}

/// Has it unpacked by the program.
fn unsquashfs(means: &Means<'_>, file: &File, target: &Dir) -> Result<Made> {
    let mut command = Command::new("unsquashfs");
    let descriptors = vec![
        sys::duplicate(file).context(|| "dup of a squashfs")?,
        sys::duplicate(target).context(|| format!("dup({target})"))?,
    ];
    let path = |nth: usize| format!("/proc/self/fd/{}", descriptors[nth].as_raw_fd());
    command.args(["-force", "-no-progress", "-dest", &format!("{}/.", path(1)), &path(0)]);
    sys::pass_descriptors(&mut command, descriptors);
    let mut program = Program::start("unsquashfs", &mut command, "squashfs-tools", means.bind).map_err(
        |error| match error.kind() {
            ErrorKind::FailedPrecondition => error.context(
                "a squashfs is mounted for root where the kernel has squashfs, else unpacked by unsquashfs",
            ),
            _ => error,
        },
    )?;
    // It says there what it unpacks.
    std::io::copy(&mut program.output(), &mut std::io::sink()).context(|| "read from unsquashfs")?;
    let ended = program.wait(means.tell)?;
    // 2: all is there but what this user may not make or set.
    if !ended.is(&[0, 2]) {
        return Err(ended.failure());
    }
    let notes = if ended.is(&[2]) { ended.said } else { Vec::new() };
    Ok(Made { cost: counted(target)?, notes, ..Made::default() })
}

fn counted(target: &Dir) -> Result<Cost> {
    let root = format!("/proc/self/fd/{}", target.as_fd().as_raw_fd());
    let mut cost = Cost::default();
    for entry in walkdir::WalkDir::new(Path::new(&root).join(".")).min_depth(1) {
        let entry = entry.map_err(|error| Error::io(format!("walk {target}"), error.into()))?;
        let stat = entry.metadata().map_err(|error| Error::io(format!("lstat in {target}"), error.into()))?;
        cost.files_copied += 1;
        cost.bytes_copied += if stat.is_file() { stat.len() } else { 0 };
    }
    Ok(cost)
}
