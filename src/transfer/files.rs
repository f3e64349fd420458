//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use rootling_backends::{Context, Error, Result};

/// A file that has no name yet, or where the file system cannot make such, one that nobody looks for.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    directory: PathBuf,
    /// Its name, while it has one that is not its own.
    name: Option<PathBuf>,
}

impl NewFile {
    /// Begins a file that will be in `directory`. Dropped, it was never there; nor if this process dies, where the file system makes
    /// files without names.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        let file = match Self::options().custom_flags(libc::O_TMPFILE).open(directory) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) =>
            {
                return Self::create_named(directory);
            }
            other => other.context(|| format!("open({directory:?}, O_TMPFILE)"))?,
        };
        Ok(Self { file, directory: directory.to_owned(), name: None })
    }

    fn create_named(directory: &Path) -> Result<Self> {
        let name = passing_name(directory);
        let file = Self::options().create_new(true).open(&name);
        let file = file.context(|| format!("open({name:?}, O_CREAT|O_EXCL)"))?;
        Ok(Self { file, directory: directory.to_owned(), name: Some(name) })
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o644);
        options
    }

    /// Adds to it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context(|| format!("write to a new file in {:?}", self.directory))
    }

    /// Makes its content durable and gives it its name, in place of what has it; [`sync_directory`] makes that durable.
    pub(super) fn publish(mut self, path: &Path) -> Result<()> {
        self.file.sync_data().context(|| format!("fdatasync of a new file in {:?}", self.directory))?;
        if self.name.is_none() {
            let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let give =
                |name: &Path| linkat(AT_FDCWD, link.as_str(), AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW);
            match give(path) {
                Ok(()) => return Ok(()),
                // What is there is replaced by a rename.
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Error::call(format!("linkat({link:?}, {path:?})"), errno)),
            }
            let name = passing_name(&self.directory);
            give(&name).context(|| format!("linkat({link:?}, {name:?})"))?;
            self.name = Some(name);
        }
        let name = self.name.as_ref().expect("it has one by now");
        fs::rename(name, path).context(|| format!("rename({name:?}, {path:?})"))?;
        self.name = None;
        Ok(())
    }

    /// Returns the file: without a name it is there as long as it is open.
    pub(super) fn into_unnamed(mut self) -> Result<File> {
        if let Some(name) = self.name.take() {
            fs::remove_file(&name).context(|| format!("unlink({name:?})"))?;
        }
        self.file.try_clone().context(|| "dup of a new file")
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Best effort: it has a name that nobody looks for.
            drop(fs::remove_file(name));
        }
    }
}

fn passing_name(directory: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    directory.join(format!(".rootling-{}-{count}", std::process::id()))
}

/// Returns the directory that a file is in, or will be.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<()> {
    let file = File::open(directory).context(|| format!("open({directory:?})"))?;
    file.sync_all().context(|| format!("fsync({directory:?})"))
}

/// Opens a regular file; a pipe or device is an error and never waited for.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).custom_flags(libc::O_NONBLOCK).open(path).context(|| format!("open({path:?})"))?;
    let metadata = file.metadata().context(|| format!("fstat({path:?})"))?;
    if !metadata.is_file() {
        return Err(Error::io(
            format!("open({path:?})"),
            std::io::Error::new(IoKind::InvalidInput, "it is no file"),
        ));
    }
    Ok((file, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_whole_or_not_at_all() {
        let names = |directory: &Path| fs::read_dir(directory).unwrap().count();
        for create in [NewFile::create, NewFile::create_named] {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("file");
            for content in ["first", "second"] {
                let mut file = create(temp.path()).unwrap();
                file.write(content.as_bytes()).unwrap();
                assert_ne!(fs::read_to_string(&path).unwrap_or_default(), content);
                file.publish(&path).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), content);
                assert_eq!(names(temp.path()), 1);
            }
            drop(create(temp.path()).unwrap());
            let mut file = create(temp.path()).unwrap();
            file.write(b"kept").unwrap();
            let file = file.into_unnamed().unwrap();
            assert_eq!(file.metadata().unwrap().len(), 4);
            assert_eq!(names(temp.path()), 1);
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let pipe = temp.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_regular(&pipe).is_err());
        assert!(open_regular(temp.path()).is_err());
    }
}
