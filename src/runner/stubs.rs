//! Mount points that were made for a box, and are removed when it has ended.
//!
//! The child makes them and sends two descriptors for each: the directory, and what it made there. By these they are removed:
//! a name in that very directory, if it still is that very inode, and if nothing is in it. So neither a swapped parent nor a swapped
//! name leads a removal elsewhere (CVE-2024-23652); what somebody put in the meantime stays. The directory's time of change is kept, so that
//! nothing tells of it. A kill leaves empty mount points in the tree, and nothing else.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, UtimensatFlags, fstat, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::UnlinkatFlags;

use super::plan::Plan;
use super::report::{Kind, Message};

/// What was made, in order.
#[derive(Debug, Default)]
pub(super) struct Stubs(Vec<Stub>);

#[derive(Debug)]
struct Stub {
    parent: OwnedFd,
    name: CString,
    made: OwnedFd,
}

impl Stubs {
    /// Takes what the child reported; the plan knows the names.
    pub(super) fn of(plan: &Plan, reported: Vec<(Message, OwnedFd)>) -> Self {
        let mut stubs = Vec::new();
        let mut parent = None;
        for (message, file) in reported {
            if message.kind == Kind::MadeIn as u32 {
                parent = Some(file);
                continue;
            }
            let part = usize::try_from(message.errno).unwrap_or(usize::MAX);
            let name = plan.ops.get(message.index as usize).and_then(|op| op.made(part));
            if let (Some(parent), Some(name)) = (parent.take(), name) {
                stubs.push(Stub { parent, name: name.to_owned(), made: file });
            }
        }
        Self(stubs)
    }

    /// Removes what is still as it was made, the last first. To be called when nothing runs in the box any more.
    pub(super) fn remove(self) {
        for stub in self.0.into_iter().rev() {
            // Best effort: an empty mount point that stays is no reason to lose the command's status.
            match stub.remove() {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => {}
                Err(errno) => log::debug!("mount point {:?} stays: {errno}", stub.name),
            }
        }
    }
}

/// *child*: gives a directory back the time at which something was last made or removed in it: what is made and removed again there is
/// no change.
pub(super) fn keep_time(dir: impl AsFd, before: &FileStat) -> nix::Result<()> {
    let omit = TimeSpec::UTIME_OMIT;
    let modified = TimeSpec::new(before.st_mtime, before.st_mtime_nsec);
    utimensat(dir, c".", &omit, &modified, UtimensatFlags::NoFollowSymlink)
}

impl Stub {
    fn remove(&self) -> nix::Result<()> {
        let name = self.name.as_c_str();
        let made = fstat(&self.made)?;
        let now = fstatat(&self.parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if (made.st_dev, made.st_ino) != (now.st_dev, now.st_ino) {
            return Ok(());
        }
        let flag = match made.st_mode & libc::S_IFMT {
            libc::S_IFDIR => UnlinkatFlags::RemoveDir,
            libc::S_IFREG if now.st_size == 0 && now.st_nlink == 1 => UnlinkatFlags::NoRemoveDir,
            _ => return Ok(()),
        };
        let before = fstat(&self.parent)?;
        nix::unistd::unlinkat(&self.parent, name, flag)?;
        // Best effort: the directory is as it was but for the time.
        keep_time(&self.parent, &before).unwrap_or_default();
        Ok(())
    }
}
