//! A socket in the file system that one server owns at a time.

use std::io::ErrorKind as Io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use rootling_backends::{Context, Error, ErrorKind, Result};

/// Bytes of the longest path of a socket (unix(7)), but for the NUL.
const PATH_MAX: usize = 107;

/// A listening socket; dropped, its file goes with it.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    /// Its file, if it is ours: with the numbers that say whether it still is.
    file: Option<(PathBuf, (u64, u64))>,
}

impl Socket {
    /// Takes one that somebody else has made, and removes.
    pub fn given(listener: UnixListener) -> Self {
        Self { listener, file: None }
    }

    /// Makes one that only its owner can connect to, and the directory where it is to be.
    ///
    /// What a server left that was killed is replaced; a socket that is served is an error of kind `Busy`, and a file that is none one
    /// of kind `AlreadyExists`. Two that try at once wait for each other.
    pub fn bind(path: &Path) -> Result<Self> {
        let intent = || format!("listen on {path:?}");
        if path.as_os_str().len() > PATH_MAX {
            let message =
                format!("{path:?} is longer than the {PATH_MAX} bytes that a socket's path has at most");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let directory = path
            .parent()
            .filter(|_| path.file_name().is_some())
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("{path:?} is no path of a socket")))?;
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        make_directory(directory).context(intent)?;
        let opened =
            std::fs::File::open(directory).context(|| format!("open({directory:?})")).context(intent)?;
        let _alone = Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::call(format!("flock({directory:?})"), errno))
            .context(intent)?;
        make_room(path).context(intent)?;
        let listener = listen_at(path).context(intent)?;
        let numbers = numbers(path).context(|| format!("stat({path:?})"))?;
        Ok(Self { listener, file: Some((path.to_owned(), numbers)) })
    }
}

impl Socket {
    /// Removes its file, if that is still its own.
    pub(super) fn remove(&self) {
        if let Some((path, ours)) = &self.file
            && numbers(path).is_ok_and(|numbers| numbers == *ours)
        {
            // Best effort: the next server replaces what nobody serves.
            std::fs::remove_file(path).unwrap_or_default();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

fn listen_at(path: &Path) -> Result<UnixListener> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.context(|| "socket(AF_UNIX)")?;
    // Its file gets the mode that it has before: there is no moment in which others could connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).context(|| "fchmod(socket, 0600)")?;
    let address = UnixAddr::new(path).context(|| format!("sockaddr_un({path:?})"))?;
    bind(socket.as_raw_fd(), &address).context(|| format!("bind({path:?})"))?;
    listen(&socket, Backlog::MAXCONN).context(|| format!("listen({path:?})"))?;
    Ok(socket.into())
}

fn make_directory(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(directory).context(|| format!("mkdir({directory:?})"))
}

/// Removes what nobody serves.
fn make_room(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        Err(error) => return Err(error).context(|| format!("stat({path:?})")),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            let message = format!("{path:?} is there, and no socket");
            return Err(Error::new(ErrorKind::AlreadyExists, message).hint("choose another with --address"));
        }
    }
    match UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), Io::ConnectionRefused | Io::NotFound) => {}
        _ => {
            let message = format!("{path:?} is served already");
            return Err(Error::new(ErrorKind::Busy, message)
                .hint("stop that server first, or choose another with --address"));
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != Io::NotFound => Err(error).context(|| format!("unlink({path:?})")),
        _ => Ok(()),
    }
}

fn numbers(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_server_at_a_time_and_its_file_goes_with_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("run/deep/a.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let busy = Socket::bind(&path).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        drop(first);
        assert!(!path.exists());
        // Killed: the file stays.
        let killed = UnixListener::bind(&path).unwrap();
        drop(killed);
        assert!(path.exists());
        let second = Socket::bind(&path).unwrap();
        // Somebody else's by now.
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(second);
        assert!(path.exists());
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_is_too_long_is_refused() {
        let path = PathBuf::from("/").join("x".repeat(107));
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
