//! Where others come to look at a box that runs without a terminal of its caller's: a socket, and what is said on it.
//!
//! It stands in a directory that only the box's user may enter; who may connect is settled by that alone. Messages keep
//! their bounds (`SOCK_SEQPACKET`); the first byte says what one is. The socket is reached through a descriptor of its
//! directory, because a path of more than 107 bytes does not fit into a `sockaddr_un` (unix(7)).

use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::pty::Winsize;
use nix::sys::socket::{self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr};
use rootling_backends::{Context, Error, ErrorKind, Result};

const DIRECTORY: &str = "attach";
const SOCKET: &str = "socket";

/// The most that one message carries besides its first byte.
pub(super) const CHUNK: usize = 16 << 10;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Typed, for the box.
    Input,
    /// The size of the visitor's terminal: rows and columns.
    Size,
    /// The visitor's standard input has ended.
    End,
    /// Shown by the box.
    Output,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Input => b'i',
            Self::Size => b's',
            Self::End => b'e',
            Self::Output => b'o',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Input, Self::Size, Self::End, Self::Output].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Makes a message.
pub(super) fn message(kind: Kind, content: &[u8]) -> Vec<u8> {
    [&[kind.byte()], content].concat()
}

/// Makes the message that tells a size.
pub(super) fn size_message(size: &Winsize) -> Vec<u8> {
    message(Kind::Size, &[size.ws_row.to_ne_bytes(), size.ws_col.to_ne_bytes()].concat())
}

/// Reads a size out of a message's content.
pub(super) fn size_of(content: &[u8]) -> Option<Winsize> {
    let word = |at: usize| Some(u16::from_ne_bytes(content.get(at..at + 2)?.try_into().ok()?));
    Some(Winsize { ws_row: word(0)?, ws_col: word(2)?, ws_xpixel: 0, ws_ypixel: 0 })
}

/// Sends one message whole, or not at all: `EAGAIN` where the other side does not keep up.
pub(super) fn send(socket: BorrowedFd<'_>, message: &[u8]) -> nix::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    socket::send(socket.as_raw_fd(), message, flags).map(drop)
}

/// What [`receive`] found.
#[derive(Debug)]
pub(super) enum Received<'a> {
    /// A message.
    Message(Kind, &'a [u8]),
    /// None yet.
    Nothing,
    /// The other side has gone.
    Gone,
}

/// Takes one message, without waiting. One of an unknown kind is as good as none.
pub(super) fn receive<'a>(socket: BorrowedFd<'_>, buffer: &'a mut [u8; CHUNK + 1]) -> Received<'a> {
    match socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(0) => Received::Gone,
        Ok(length) => match Kind::of(buffer[0]) {
            Some(kind) => Received::Message(kind, &buffer[1..length]),
            None => Received::Nothing,
        },
        Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
        Err(_) => Received::Gone,
    }
}

/// The socket that visitors connect to; gone when dropped.
#[derive(Debug)]
pub(super) struct Door {
    socket: OwnedFd,
    directory: PathBuf,
}

impl Door {
    /// Makes it beside the tree, in `slot`. One that a killed process left is replaced.
    pub(super) fn open(slot: &Path) -> Result<Self> {
        let directory = slot.join(DIRECTORY);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.context(|| format!("mkdir({directory:?})"))?,
        }
        match fs::remove_file(directory.join(SOCKET)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.context(|| format!("unlink({:?})", directory.join(SOCKET)))?,
        }
        let socket = new_socket()?;
        let (address, _dir) = address(&directory)?;
        socket::bind(socket.as_raw_fd(), &address).context(|| format!("bind({directory:?}/{SOCKET})"))?;
        let backlog = Backlog::new(8).expect("a small number");
        socket::listen(&socket, backlog).context(|| format!("listen({directory:?}/{SOCKET})"))?;
        Ok(Self { socket, directory })
    }

    /// Lets one visitor in, if one waits.
    pub(super) fn accept(&self) -> Option<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let raw = socket::accept4(self.socket.as_raw_fd(), flags).ok()?;
        Some(super::sys::own_received(raw))
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Best effort: what is left is replaced by the next one, or goes with the object.
        drop(fs::remove_file(self.directory.join(SOCKET)));
        drop(fs::remove_dir(&self.directory));
    }
}

/// Connects to the door of what runs in `slot`; `NotFound` where there is none.
pub(super) fn connect(slot: &Path) -> Result<OwnedFd> {
    let directory = slot.join(DIRECTORY);
    let socket = new_socket()?;
    let (address, _dir) = address(&directory)?;
    match socket::connect(socket.as_raw_fd(), &address) {
        // One that a killed process left, or one that ends just now.
        Err(Errno::ECONNREFUSED) => {
            Err(Error::new(ErrorKind::NotFound, format!("nobody listens at {directory:?}/{SOCKET}")))
        }
        connected => connected.map(|()| socket).context(|| format!("connect({directory:?}/{SOCKET})")),
    }
}

fn new_socket() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        .context(|| "socket(AF_UNIX, SOCK_SEQPACKET)")
}

/// The address holds as long as the file that comes with it.
fn address(directory: &Path) -> Result<(UnixAddr, File)> {
    let dir = File::open(directory).context(|| format!("open({directory:?})"))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    let address = UnixAddr::new(path.as_str()).context(|| format!("sockaddr_un({path})"))?;
    Ok((address, dir))
}
