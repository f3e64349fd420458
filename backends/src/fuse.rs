//! OverlayFS in user space: the program `fuse-overlayfs`, for kernels that refuse overlay mounts in a user namespace.
//!
//! We make the mount, detached like every other, and the program only serves it: it gets `/dev/fuse` as an open
//! descriptor and the layers as open directories, so it mounts nothing and no path of ours is parsed. It goes into the
//! background by itself, in a session of its own where no signal of a terminal reaches it, once it is ready; until
//! then we wait, and what it says in case of failure is the error. It ends when the mount is gone, and holds nothing of ours but
//! the layers: every other descriptor is closed on exec.
//!
//! | it writes | where the kernel writes |
//! |---|---|
//! | character device 0:0 | the same |
//! | `user.fuseoverlayfs.opaque`, and the files `.wh..wh..opq` and `.wh..opq` | `overlay.opaque` |
//! | `user.fuseoverlayfs.origin` | `overlay.origin` |
//!
//! It reads both; [`normalize`] turns the first into the second before a tree is sealed.
//!
//! What it does worse than the kernel: names that begin with `.wh.` cannot be seen, holes read as data, symbolic
//! links have no extended attributes, a hard-linked file that is written to parts from its other names, and a hard link between some
//! directories fails with `EIO`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;

use crate::dir::{Dir, EntryType, Times};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::marks::Marks;
use crate::mount::{Overlay, open_layer};
use crate::{sys, walk};

/// The program.
pub(crate) const PROGRAM: &str = "fuse-overlayfs";
/// What a call of it needs.
pub(crate) const DEVICE: &str = "/dev/fuse";

const OPAQUE: &str = "user.fuseoverlayfs.opaque";
const OPAQUE_FILES: [&str; 2] = [".wh..wh..opq", ".wh..opq"];

/// Makes the detached mount and starts what serves it.
///
/// Closing the descriptor unmounts it unless it was attached, and that ends the program.
pub(crate) fn open(overlay: &Overlay) -> Result<OwnedFd> {
    let device =
        File::options().read(true).write(true).open(DEVICE).context(|| format!("open({DEVICE:?})"))?;
    let device = OwnedFd::from(device);
    let mount = mount(overlay, &device)?;
    serve(overlay, device)?;
    Ok(mount)
}

fn mount(overlay: &Overlay, device: &OwnedFd) -> Result<OwnedFd> {
    let context = sys::fsopen(c"fuse").context(|| "fsopen(\"fuse\")")?;
    let number = |number: u32| CString::new(number.to_string()).expect("no NUL in a number");
    let device = CString::new(device.as_raw_fd().to_string()).expect("no NUL in a number");
    let (user, group) = (number(nix::unistd::geteuid().as_raw()), number(nix::unistd::getegid().as_raw()));
    let source = overlay.shown();
    // Whoever is in the tree may use it, under the modes that it shows (kernel documentation, filesystems/fuse.rst).
    for (key, value) in [
        (c"source", source.as_deref().unwrap_or(c"rootling")),
        (c"fd", device.as_c_str()),
        (c"rootmode", c"40000"),
        (c"user_id", user.as_c_str()),
        (c"group_id", group.as_c_str()),
    ] {
        sys::fsconfig_string(context.as_fd(), key, value)
            .context(|| format!("fsconfig(fuse, {key:?}, {value:?})"))?;
    }
    for key in [c"default_permissions", c"allow_other"] {
        sys::fsconfig_flag(context.as_fd(), key).context(|| format!("fsconfig(fuse, {key:?})"))?;
    }
    sys::fsconfig_create(context.as_fd()).context(|| "fsconfig(fuse, FSCONFIG_CMD_CREATE)")?;
    sys::fsmount(context.as_fd(), 0).context(|| "fsmount(fuse)")
}

/// Starts the program and waits until it is in the background.
fn serve(overlay: &Overlay, device: OwnedFd) -> Result<()> {
    let lowers = overlay.lowers.iter().map(|path| open_layer(path)).collect::<Result<Vec<_>>>()?;
    let place = |layer: &OwnedFd| format!("/proc/self/fd/{}", layer.as_raw_fd());
    let mut options = format!("lowerdir={}", lowers.iter().map(place).collect::<Vec<_>>().join(":"));
    let mut passed = lowers;
    if let Some(upper) = &overlay.upper {
        let (dir, work) = (open_layer(&upper.dir)?, open_layer(&upper.work)?);
        options.push_str(&format!(",upperdir={},workdir={}", place(&dir), place(&work)));
        passed.extend([dir, work]);
    }
    // fuse_session_mount(3) of libfuse: a mount point of this form is a descriptor that is mounted already.
    let mountpoint = format!("/dev/fd/{}", device.as_raw_fd());
    passed.push(device);
    let mut command = Command::new(PROGRAM);
    command.args(["-o", &options, &mountpoint]).stdin(Stdio::null()).stdout(Stdio::null());
    sys::pass_descriptors(&mut command, passed);
    let output = command.output().context(|| format!("execve({PROGRAM})"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said =
        said.lines().filter(|line| !line.starts_with("unknown argument")).collect::<Vec<_>>().join("; ");
    Err(Error::new(ErrorKind::Io, format!("{PROGRAM} ended ({}): {said}", output.status)))
}

/// Does the directory hide what is beneath it, as the program says it?
pub(crate) fn is_opaque(dir: &Dir) -> bool {
    sys::fgetxattr(dir.as_fd(), OsStr::new(OPAQUE)).is_ok_and(|value| value == b"y")
        || dir.stat_if_exists(OPAQUE_FILES[0]).is_ok_and(|stat| stat.is_some())
}

/// Rewrites the program's marks in an upper directory as the kernel's. Nobody may have it mounted. O(entries).
///
/// Cut off in the middle it leaves marks of both kinds, which mean the same; a second call completes it.
pub(crate) fn normalize(root: &Dir, userxattr: bool) -> Result<()> {
    let marks = Marks::new(userxattr);
    walk::for_each(vec![PathBuf::new()], |path, more: &mut Vec<PathBuf>| {
        let dir = root.open_deep(&path)?;
        let times = Times::of(&dir.stat_self()?);
        let opaque = is_opaque(&dir);
        if opaque {
            marks.make_opaque(&dir)?;
        }
        strip(&dir, OsStr::new("."))?;
        let entries = dir.entries()?;
        for entry in &entries {
            if OPAQUE_FILES.iter().any(|name| entry.name == *name) {
                dir.unlink(&entry.name)?;
            } else if walk::type_of(&dir, entry)? == EntryType::Directory {
                more.push(path.join(&entry.name));
            } else {
                strip(&dir, &entry.name)?;
            }
        }
        if opaque {
            // The files that are gone were not part of the tree, and nor is the moment when they went.
            dir.set_times(".", times)?;
        }
        Ok(entries.len() + 1)
    })
}

fn strip(dir: &Dir, name: &OsStr) -> Result<()> {
    let attributes: Vec<OsString> = match sys::llistxattr(dir.as_fd(), name) {
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        other => other.context(|| format!("llistxattr({dir}, {name:?})"))?,
    };
    for attribute in attributes.iter().filter(|name| name.as_bytes().starts_with(b"user.fuseoverlayfs.")) {
        match sys::lremovexattr(dir.as_fd(), name, attribute) {
            Ok(()) | Err(Errno::ENODATA) => {}
            Err(errno) => {
                return Err(Error::call(format!("lremovexattr({dir}, {name:?}, {attribute:?})"), errno));
            }
        }
    }
    Ok(())
}

/// Is the program there, and the device usable?
pub(crate) fn is_usable() -> bool {
    is_installed() && File::options().read(true).write(true).open(DEVICE).is_ok()
}

pub(crate) fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir: PathBuf| Path::new(&dir).join(PROGRAM).is_file())
}
