//! The program that a box could reach by `/proc/PID/exe` cannot be written there (CVE-2019-5736).
//!
//! A box whose root is nobody outside could not write it anyway. For the others, those of an ordinary user, who often owns the program,
//! and those with the host's users, the program starts itself again from a mount of its own file that is read-only, is in nobody's
//! mount table, and so can be made writable by nobody. No byte is copied.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statvfs::{FsFlags, statvfs};
use rootling_backends::sys as kernel;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::sys::{self, StringArray};

const OURSELVES: &str = "/proc/self/exe";

/// Does this process run from where nothing can be written?
pub fn is_sealed() -> bool {
    statvfs(OURSELVES).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY))
}

/// Starts the program again with the same arguments, sealed, and the variable `name` set to `value`; returns only on failure.
///
/// Costs one `execve`. Locks and open files of this process end with it.
pub fn seal(name: &str, value: &str) -> Result<std::convert::Infallible> {
    let intent = || "start again from a read-only mount of this program";
    let path = std::fs::read_link(OURSELVES).context(|| format!("readlink({OURSELVES})")).context(intent)?;
    let text = CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL");
    let call = || format!("open_tree({path:?}, OPEN_TREE_CLONE)");
    let mount = kernel::open_tree_clone(AT_FDCWD, &text, false).context(call).context(intent)?;
    let stat = |file: std::os::fd::BorrowedFd<'_>| fstat(file).context(|| format!("fstat({path:?})"));
    let running = nix::fcntl::openat(AT_FDCWD, OURSELVES, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let running = running.context(|| format!("open({OURSELVES}, O_PATH)")).context(intent)?;
    let (found, running) = (stat(mount.as_fd()).context(intent)?, stat(running.as_fd()).context(intent)?);
    if (found.st_dev, found.st_ino) != (running.st_dev, running.st_ino) {
        let message = format!("{path:?} is not this program any more");
        return Err(
            Error::new(ErrorKind::FailedPrecondition, message).hint("try again: it was just replaced")
        );
    }
    kernel::mount_setattr(mount.as_fd(), kernel::MOUNT_ATTR_RDONLY, 0, false)
        .context(|| format!("mount_setattr({path:?}, MOUNT_ATTR_RDONLY)"))
        .context(intent)?;
    let own = |text: &std::ffi::OsStr| CString::new(text.as_bytes()).expect("the kernel gave us C strings");
    let arguments = StringArray::new(std::env::args_os().map(|text| own(&text)).collect());
    let mut environment: Vec<CString> = std::env::vars_os()
        .filter(|(known, _)| known != name)
        .map(|(known, value)| own(&[known, value].join(std::ffi::OsStr::new("="))))
        .collect();
    environment.push(CString::new(format!("{name}={value}")).expect("our own text has no NUL"));
    let errno = sys::execve_file(mount.as_fd(), &arguments, &StringArray::new(environment));
    Err(Error::call(format!("execveat({path:?}, AT_EMPTY_PATH)"), errno)).context(intent)
}
