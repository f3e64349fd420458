//! A directory of the host made another user's, for good: every entry by descriptor, through no link.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::{Gid, Uid};
use rootling_backends::sys as kernel;
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result};

/// Directories that are the system's as a whole.
const SYSTEM: [&str; 22] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt",
    "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
];

/// Directories of which every part is the system's.
const SYSTEM_ALL_THROUGH: [&str; 10] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"];

/// Refuses to give away what belongs to the system, by where the open file is and not by what it was called.
pub(super) fn refuse_of_system(file: &OwnedFd, stat: &FileStat) -> Result<()> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = std::fs::read_link(&link).context(|| format!("readlink({link})"))?;
    let all_through = SYSTEM_ALL_THROUGH.iter().any(|system| path.starts_with(system));
    if all_through || SYSTEM.iter().any(|system| path == Path::new(system)) {
        let message = format!("{path:?} is the system's: it is not given to the user of a box");
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("leave `U` out, or name a directory of your own"));
    }
    if stat.st_nlink > 1 && EntryType::of_mode(stat.st_mode) != EntryType::Directory {
        let message = format!("{path:?} has other names, which would be given away with it");
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave `U` out"));
    }
    Ok(())
}

/// Makes `file`, and everything in it but what is mounted there, belong to a user and group. O(entries).
///
/// As chown(2) does, this clears set-user-id bits and capabilities of what changes hands. A second call changes nothing; one that
/// was cut short is completed by the next.
pub(super) fn give(file: &OwnedFd, stat: &FileStat, uid: u32, gid: u32) -> Result<()> {
    let intent = || format!("give it to {uid}:{gid}");
    if EntryType::of_mode(stat.st_mode) == EntryType::Directory {
        give_content(file, uid, gid).context(intent)?;
    }
    // Last: a directory that is theirs has been given with all that is in it.
    if (stat.st_uid, stat.st_gid) != (uid, gid) {
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        nix::unistd::fchownat(file, "", user, group, AtFlags::AT_EMPTY_PATH)
            .context(|| format!("fchownat({}, {uid}, {gid})", file.as_raw_fd()))
            .context(intent)?;
    }
    Ok(())
}

/// As `give`, for a directory of our own that is given as a whole: where it is theirs already nothing is done. O(1) then.
pub fn give_once(dir: &Dir, uid: u32, gid: u32) -> Result<()> {
    let stat = dir.stat_self()?;
    if (stat.st_uid, stat.st_gid) == (uid, gid) {
        return Ok(());
    }
    let file = kernel::duplicate(dir).context(|| format!("dup({dir})"))?;
    give(&file, &stat, uid, gid)
}

fn give_content(file: &OwnedFd, uid: u32, gid: u32) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // A clone of the mount without what is mounted in it: from there nothing leads to another directory of the host.
    let alone = kernel::open_tree_clone(file.as_fd(), c"", false)
        .context(|| "open_tree(OPEN_TREE_CLONE), of what is to be given away")?;
    let readable = nix::fcntl::openat(&alone, ".", flags, Mode::empty()).context(|| "openat(\".\")")?;
    let root = Dir::from_fd(readable, "");
    // Paths, not descriptors: the depth of a tree must not cost open files.
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let dir = root.open_deep(&path)?;
        for entry in dir.entries()? {
            // Gone since the listing: nobody's.
            let Some(found) = dir.stat_if_exists(&entry.name)? else { continue };
            if (found.st_uid, found.st_gid) != (uid, gid) {
                dir.set_owner(&entry.name, uid, gid)?;
            }
            if EntryType::of_mode(found.st_mode) == EntryType::Directory {
                pending.push(path.join(&entry.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (OwnedFd, FileStat) {
        let file = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let stat = nix::sys::stat::fstat(&file).unwrap();
        (file, stat)
    }

    #[test]
    fn what_is_the_systems_stays_the_systems_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("innocent");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        for path in [Path::new("/"), Path::new("/usr/bin"), Path::new("/var"), &link] {
            let (file, stat) = open(path);
            assert!(refuse_of_system(&file, &stat).is_err(), "{path:?}");
        }
        let (file, stat) = open(dir.path());
        refuse_of_system(&file, &stat).unwrap();
    }

    #[test]
    fn what_is_mounted_in_a_directory_is_not_given_with_it() {
        // A private mount namespace is a thread's of its own: the test's own ends with it.
        let given = std::thread::spawn(|| {
            let dir = tempfile::tempdir().unwrap();
            let (inside, canary) = (dir.path().join("in"), dir.path().join("canary"));
            std::fs::create_dir_all(inside.join("m")).unwrap();
            std::fs::create_dir_all(canary.join("d")).unwrap();
            let none = None::<&str>;
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS)
                .is_err()
            {
                return None;
            }
            nix::mount::mount(none, "/", none, private, none).unwrap();
            nix::mount::mount(Some(&canary), &inside.join("m"), none, nix::mount::MsFlags::MS_BIND, none)
                .unwrap();
            let (file, stat) = open(&inside);
            give(&file, &stat, 1234, 4321).unwrap();
            nix::mount::umount(&inside.join("m")).unwrap();
            let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
            Some((owner(&inside), owner(&inside.join("m")), owner(&canary), owner(&canary.join("d"))))
        });
        if let Some(owners) = given.join().unwrap() {
            assert_eq!(owners, (1234, 1234, 0, 0));
        }
    }

    #[test]
    fn a_link_in_a_directory_is_given_and_not_what_it_names() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(inside.join("deep/er")).unwrap();
        std::fs::write(&outside, "").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("deep/link")).unwrap();
        let (file, stat) = open(&inside);
        give(&file, &stat, 1234, 4321).unwrap();
        let owner = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            let meta = std::fs::symlink_metadata(path).unwrap();
            (meta.uid(), meta.gid())
        };
        for name in ["", "deep", "deep/er", "deep/link"] {
            assert_eq!(owner(&inside.join(name)), (1234, 4321), "{name}");
        }
        assert_eq!(owner(&outside), (0, 0));
    }
}
