//! Small files and links, changed so that a crash leaves the old or the new state.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags};
use nix::sys::stat::Mode;
use rootling_backends::{Context, Error, Result, small_file};

/// Does the caller need the change to survive a power cut when the call returns?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Yes.
    Synced,
    /// No: what is written will be thrown away, or a later sync covers it.
    Lazy,
}

/// Returns where what will take the place of `path` is made.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}~", std::process::id()));
    PathBuf::from(aside)
}

/// Replaces a file's content as a whole: temporary file, sync, rename.
pub(crate) fn replace(path: &Path, content: &[u8], durability: Durability) -> Result<()> {
    let temporary = aside(path);
    let write = || -> Result<()> {
        // Whatever is there was left by a process of our number that was killed: it is not written through.
        remove_if_exists(&temporary)?;
        let options = &mut OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        let mut file = options.open(&temporary).context(|| format!("open({temporary:?}, O_CREAT)"))?;
        file.write_all(content).context(|| format!("write({temporary:?})"))?;
        if durability == Durability::Synced {
            file.sync_data().context(|| format!("fdatasync({temporary:?})"))?;
        }
        fs::rename(&temporary, path).context(|| format!("rename({temporary:?}, {path:?})"))
    };
    write().inspect_err(|_| {
        // Best effort: the first error is the one to report, and the sweeper knows the suffix.
        drop(fs::remove_file(&temporary));
    })?;
    if durability == Durability::Synced { sync_parent(path) } else { Ok(()) }
}

/// Writes a file that is not there yet, in a place that nobody else looks at yet.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    let mut file = file.context(|| format!("open({path:?}, O_EXCL)"))?;
    file.write_all(content).context(|| format!("write({path:?})"))
}

/// As [`write_new`], and what is in it is on disk on return; its name need not be.
pub(crate) fn write_new_synced(path: &Path, content: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    let mut file = file.context(|| format!("open({path:?}, O_EXCL)"))?;
    file.write_all(content).context(|| format!("write({path:?})"))?;
    file.sync_data().context(|| format!("fdatasync({path:?})"))
}

/// Makes the entries of the directory that holds `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().expect("paths below a store have a parent");
    sync_dir(parent)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).context(|| format!("fsync({path:?})"))
}

/// Moves `from` to `to`; an existing `to` is an error of kind `AlreadyExists`.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    nix::fcntl::renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)
        .context(|| format!("renameat2({from:?}, {to:?}, RENAME_NOREPLACE)"))
}

/// Makes a symbolic link; an existing `link` is an error of kind `AlreadyExists`.
pub(crate) fn link_new(target: &str, link: &Path) -> Result<()> {
    symlink(target, link).context(|| format!("symlink({target:?}, {link:?})"))
}

/// Makes a symbolic link in place of whatever link is there, in one step.
pub(crate) fn link_over(target: &str, link: &Path) -> Result<()> {
    let temporary = aside(link);
    remove_if_exists(&temporary)?;
    link_new(target, &temporary)?;
    fs::rename(&temporary, link).context(|| format!("rename({temporary:?}, {link:?})"))
}

/// Removes a file or link; says whether it was there.
pub(crate) fn remove_if_exists(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == IoKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(format!("unlink({path:?})"), error)),
    }
}

/// Makes a directory that is its owner's alone; an existing one is fine.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != IoKind::AlreadyExists => {
            Err(Error::io(format!("mkdir({path:?})"), error))
        }
        _ => Ok(()),
    }
}

/// Returns the names in a directory, sorted; a directory that is not there has none.
pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
    let mut names = list_some(path, usize::MAX)?;
    names.sort_unstable();
    Ok(names)
}

/// Returns the names in a directory that are wanted, as they come; a directory that is not there has none.
pub(crate) fn list_where(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut directory = match nix::dir::Dir::open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
    {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("opendir({path:?})")),
    };
    let mut names = Vec::new();
    for entry in directory.iter() {
        let entry = entry.context(|| format!("readdir({path:?})"))?;
        // Everything the store writes is ASCII, and only what is wanted is copied.
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
            && wanted(name)
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Returns the first `limit` names in a directory, as they come, and reads no further.
pub(crate) fn list_some(path: &Path, limit: usize) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("opendir({path:?})"), error)),
    };
    let mut names = Vec::new();
    for entry in entries.take(limit) {
        let entry = entry.context(|| format!("readdir({path:?})"))?;
        // Everything the store writes is ASCII; what is not was not written by it.
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// Is this the temporary name of [`replace`] or [`link_over`], left by a crash?
pub(crate) fn is_leftover(name: &str) -> bool {
    name.strip_suffix('~')
        .and_then(|stem| stem.rsplit_once('.'))
        .is_some_and(|(_, pid)| pid.parse::<u32>().is_ok())
}

/// Reads a whole small file, at most `limit` bytes; a longer one is an error of kind `Corrupt`.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    small_file::read_regular(path, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_through_a_link_in_the_place_of_the_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("record"), dir.path().join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, dir.path().join(format!("record.{}~", std::process::id()))).unwrap();

        replace(&path, b"new", Durability::Synced).unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(!path.is_symlink());
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
    }
}
