//! Directories that only their owner enters.
//!
//! The owners and modes in a tree are those of a system, not of the host: a set-user-id program of root in a tree is one on
//! the host's file system as well. What keeps the host's users from running it is that no directory above it lets them pass.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::Uid;

use crate::error::{Context, Result};

const MODE: u32 = 0o700;

/// Makes a directory and those above it that are missing, mode 0700; an existing one is left as it is.
///
/// Independent of the umask. A crash leaves some of them; a second call makes the rest.
pub fn make_dirs(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(MODE).create(path);
    made.context(|| format!("mkdir({path:?}, 0700)"))
}

/// Takes from a directory of ours what its group and others may do with it; somebody else's directory stays as it is.
///
/// Costs one system call where it is closed already. An error is one of chmod(2), as on a read-only file system.
pub fn close_to_others(path: &Path) -> Result<()> {
    let stat = fs::metadata(path).context(|| format!("stat({path:?})"))?;
    if stat.mode() & 0o077 == 0 || stat.uid() != Uid::effective().as_raw() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).context(|| format!("chmod({path:?}, 0700)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_closed_and_what_was_there_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        DirBuilder::new().create(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        make_dirs(&open.join("a/b")).unwrap();
        make_dirs(&open.join("a/b")).unwrap();
        assert_eq!((mode(&open), mode(&open.join("a")), mode(&open.join("a/b"))), (0o777, 0o700, 0o700));
        close_to_others(&open).unwrap();
        assert_eq!(mode(&open), 0o700);
    }
}
