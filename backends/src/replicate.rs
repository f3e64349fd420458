//! A plain tree out of another: everything below a directory, file data shared or copied.
//!
//! Kept: type, content with its holes, owner, mode with setuid, setgid and sticky, times to the nanosecond, all
//! extended attributes (so ACLs and file capabilities), hard links within the tree, devices, pipes, sockets, any name.
//! Not kept: inode numbers, change and birth times, the immutable and append-only flags. A directory that something is mounted
//! on becomes an empty one; a btrfs subvolume becomes a plain directory.

use std::path::PathBuf;

use crate::attributes::Owners;
use crate::backend::Cost;
use crate::dir::Dir;
use crate::entry::CloneMode;
use crate::error::{Context, Result};
use crate::merge::Merge;

/// How to replicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Share or copy.
    pub clone: CloneMode,
    /// Whose the copies are.
    pub owners: Owners,
}

/// With the owners of the source.
impl From<CloneMode> for Options {
    fn from(clone: CloneMode) -> Self {
        Self { clone, owners: Owners::Keep }
    }
}

/// Copies all that is below `source`, and its own attributes, into the existing empty directory `target`.
///
/// O(entries), on all cores. Clears the process's umask. A failure leaves what was made; nothing is synced.
pub fn replicate(source: &Dir, target: &Dir, options: &Options) -> Result<Cost> {
    replicate_noting_directories(source, target, options).map(|(cost, _)| cost)
}

/// Does the same, and returns the inode and path of every directory it made, the target's own among them.
pub(crate) fn replicate_noting_directories(
    source: &Dir,
    target: &Dir,
    options: &Options,
) -> Result<(Cost, Vec<(u64, PathBuf)>)> {
    let layers = [source.try_clone()?];
    Merge {
        layers: &layers,
        marks: None,
        beneath: None,
        target,
        clone: options.clone,
        owners: options.owners,
    }
    .run()
    .context(|| format!("replicate {:?} to {:?}", source.path(), target.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::DiffOptions;
    use crate::compare::diff_trees;
    use crate::dir::Times;
    use crate::sys;
    use std::ffi::OsStr;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::FileExt;

    fn pair() -> (tempfile::TempDir, Dir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        root.make_dir("old", 0o755).unwrap();
        root.make_dir("new", 0o755).unwrap();
        let dirs = (root.open_dir("old").unwrap(), root.open_dir("new").unwrap());
        (temp, dirs.0, dirs.1)
    }

    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn everything_that_makes_an_entry_is_kept() {
        let (_temp, old, new) = pair();
        let odd = OsStr::from_bytes(b"new\nline \xff");
        let long = OsStr::from_bytes(&[b'n'; 255]).to_owned();
        old.make_dir("d", 0o700).unwrap();
        let d = old.open_dir("d").unwrap();
        d.create_file(odd, 0o644).unwrap().write_all(b"hello").unwrap();
        d.create_file(&long, 0o000).unwrap();
        d.make_symlink("link", OsStr::new("/nowhere")).unwrap();
        d.make_node("pipe", libc::S_IFIFO | 0o600, 0).unwrap();
        d.make_node("socket", libc::S_IFSOCK | 0o600, 0).unwrap();
        d.make_node("whiteout", libc::S_IFCHR, 0).unwrap();
        d.make_link("other", &d, odd).unwrap();
        d.set_xattr(odd, OsStr::new("user.empty"), b"").unwrap();
        let setuid = d.create_file("setuid", 0o600).unwrap();
        if is_root() {
            d.set_owner("setuid", 1, 2).unwrap();
            d.set_xattr("link", OsStr::new("trusted.t"), b"1").unwrap();
            d.set_xattr("setuid", OsStr::new("security.capability"), CAPABILITY).unwrap();
        }
        d.set_mode_following_symlinks("setuid", 0o6711).unwrap();
        drop(setuid);
        old.set_mode_following_symlinks("d", 0o3700).unwrap();
        for name in [odd, OsStr::new("link"), OsStr::new("pipe")] {
            d.set_times(name, Times { accessed: (1, 2), modified: (-3, 999_999_999) }).unwrap();
        }
        old.set_times("d", Times { accessed: (5, 6), modified: (7, 8) }).unwrap();

        let cost = replicate(&old, &new, &Options::default()).unwrap();

        assert_eq!((cost.directories, cost.files_cloned + cost.files_copied, cost.others), (1, 3, 5));
        assert_eq!(diff_trees(&old, &new, DiffOptions { times: true }).unwrap(), []);
        let copy = new.open_dir("d").unwrap();
        assert_eq!(new.stat("d").unwrap().st_mode & 0o7777, 0o3700);
        assert_eq!(copy.stat("setuid").unwrap().st_mode & 0o7777, 0o6711);
        assert_eq!(copy.stat(odd).unwrap().st_ino, copy.stat("other").unwrap().st_ino);
        assert_eq!(Times::of(&copy.stat("link").unwrap()).modified, (-3, 999_999_999));
        assert_eq!(Times::of(&new.stat("d").unwrap()).modified, (7, 8));
        assert_eq!(copy.xattrs("setuid").unwrap(), d.xattrs("setuid").unwrap());
    }

    /// struct vfs_cap_data, revision 2, cap_net_raw permitted and effective (linux/capability.h).
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn holes_stay_holes_and_data_between_them_stays_data() {
        let (_temp, old, new) = pair();
        let file = old.create_file("sparse", 0o644).unwrap();
        file.write_all_at(b"middle", 8 << 20).unwrap();
        file.set_len(64 << 20).unwrap();
        for clone in [CloneMode::Auto, CloneMode::Never] {
            replicate(&old, &new, &Options::from(clone)).unwrap();
            assert_eq!(diff_trees(&old, &new, DiffOptions { times: true }).unwrap(), []);
            let stat = new.stat("sparse").unwrap();
            assert_eq!(stat.st_size, 64 << 20);
            assert!(stat.st_blocks * 512 < 1 << 20, "{} blocks", stat.st_blocks);
            new.unlink("sparse").unwrap();
        }
    }

    #[test]
    fn always_fails_where_a_copy_would_do_and_auto_says_why_it_copied() {
        let (temp, old, new) = pair();
        old.create_file("f", 0o644).unwrap().write_all(b"x").unwrap();
        let (a, b) =
            (tempfile::tempfile_in(temp.path()).unwrap(), tempfile::tempfile_in(temp.path()).unwrap());
        (&a).write_all(b"x").unwrap();
        let clones = sys::ficlone(b.as_fd(), a.as_fd()).is_ok();

        let cost = replicate(&old, &new, &Options::from(CloneMode::Auto)).unwrap();
        assert_eq!(cost.copied_because.len(), usize::from(!clones));
        assert_eq!((cost.files_cloned, cost.files_copied), (u64::from(clones), u64::from(!clones)));

        new.unlink("f").unwrap();
        let result = replicate(&old, &new, &Options::from(CloneMode::Always));
        assert_eq!(result.is_ok(), clones);
        if let Err(error) = result {
            assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        }
    }

    #[test]
    fn a_wide_directory_is_copied_in_parts_with_its_links() {
        let (_temp, old, new) = pair();
        for number in 0..1500 {
            let name = format!("f{number}");
            old.create_file(&name, 0o644).unwrap().write_all(name.as_bytes()).unwrap();
            old.make_link(format!("l{number}"), &old, &name).unwrap();
        }
        replicate(&old, &new, &Options::default()).unwrap();
        assert_eq!(diff_trees(&old, &new, DiffOptions { times: true }).unwrap(), []);
        for number in 0..1500 {
            let inode = |name: String| new.stat(name).unwrap().st_ino;
            assert_eq!(inode(format!("f{number}")), inode(format!("l{number}")));
        }
    }

    #[test]
    fn a_default_acl_does_not_colour_what_is_made_below_it() {
        let (_temp, old, new) = pair();
        // posix_acl_xattr version 2: u::rwx, u:1000:rwx, g::r-x, m::rwx, o::--- (linux/posix_acl_xattr.h).
        let acl = [
            2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255,
            255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
        ];
        old.make_dir("d", 0o755).unwrap();
        old.open_dir("d").unwrap().create_file("plain", 0o640).unwrap();
        old.set_xattr("d", OsStr::new("system.posix_acl_default"), &acl).unwrap();
        new.set_xattr(".", OsStr::new("system.posix_acl_default"), &acl).unwrap();
        replicate(&old, &new, &Options::default()).unwrap();
        assert_eq!(diff_trees(&old, &new, DiffOptions { times: true }).unwrap(), []);
        assert_eq!(new.open_dir("d").unwrap().xattrs("plain").unwrap(), []);
    }
}
