//! What the child tells us: fixed-size messages over a socket that closes itself on `execve`.
//!
//! The child may not make text, so it sends numbers; `read` collects them and the caller, who
//! has the plan, turns them into words. The end of the stream means that the command has started or that the
//! child is gone: nothing is left that could speak.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    setsockopt, socketpair, sockopt,
};
use rootling_backends::{Context, Result};

use super::sys;

/// What a message is about; the number is its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// A step was left out.
    Note = 1,
    /// A step of the plan failed.
    Step = 2,
    /// A step of starting the command failed.
    Start = 3,
    /// The command cannot be executed.
    Refused = 4,
    /// The command is about to start; sent by its own process, whose id comes along.
    Ready = 5,
    /// The terminal's master comes along.
    Terminal = 6,
    /// Sent first by a process that is not the one we cloned; its id comes along.
    Here = 7,
    /// Joining a namespace failed.
    Join = 8,
    /// A mount point was made; the directory it is in comes along. `index` is the step, `errno` the part of its path.
    MadeIn = 9,
    /// The mount point itself comes along; always after [`Kind::MadeIn`].
    Made = 10,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u32,
    pub(super) index: u32,
    pub(super) errno: i32,
}

const LENGTH: usize = 12;

/// *child*: sends a message.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    kind: Kind,
    index: usize,
    errno: i32,
    file: Option<BorrowedFd<'_>>,
) {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&(kind as u32).to_ne_bytes());
    bytes[4..8].copy_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_ne_bytes());
    bytes[8..].copy_from_slice(&errno.to_ne_bytes());
    // Best effort: if nobody listens any more, the parent is gone and we are about to be killed.
    sys::send(socket, &bytes, file).ok();
}

/// All that a child said until it started the command or died.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Messages but those below, in order.
    pub(super) messages: Vec<Message>,
    /// The command's process id, as we see it.
    pub(super) command: Option<libc::pid_t>,
    /// The init's process id, where it said [`Kind::Here`].
    pub(super) here: Option<libc::pid_t>,
    /// The terminal's master.
    pub(super) master: Option<OwnedFd>,
    /// Mount points that were made.
    pub(super) made: Vec<(Message, OwnedFd)>,
}

impl Reports {
    /// Returns the first message of a kind.
    pub(super) fn first(&self, kind: Kind) -> Option<Message> {
        self.messages.iter().copied().find(|message| message.kind == kind as u32)
    }
}

/// Both ends of the socket.
#[derive(Debug)]
pub(super) struct Channel {
    ours: OwnedFd,
    childs: OwnedFd,
}

impl Channel {
    /// Makes the pair; messages that come out of `ours` carry the sender's process id.
    pub(super) fn new() -> Result<Self> {
        let (ours, childs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .context(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
        setsockopt(&ours, sockopt::PassCred, &true).context(|| "setsockopt(SO_PASSCRED)")?;
        Ok(Self { ours, childs })
    }

    /// *child*: keeps the child's end; without our end open in the child, the parent's death shows.
    pub(super) fn into_child(self) -> OwnedFd {
        self.childs
    }

    /// Keeps our end.
    pub(super) fn into_parent(self) -> Listener {
        Listener(self.ours)
    }
}

/// Our end.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Lets a waiting child go on, with the tree where it did not have that from the start.
    pub(super) fn go(&self, tree: Option<BorrowedFd<'_>>) -> Result<()> {
        let files: Vec<_> = tree.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&files)];
        let control = if files.is_empty() { &[][..] } else { &rights[..] };
        let raw = self.0.as_raw_fd();
        sendmsg::<()>(raw, &[IoSlice::new(b"g")], control, MsgFlags::MSG_NOSIGNAL, None)
            .context(|| "sendmsg(child)")
            .map(drop)
    }

    /// Reads one message, which must be [`Kind::Here`]; the sender's process id, or what it reports instead.
    pub(super) fn read_here(&self) -> Result<std::result::Result<libc::pid_t, Option<Message>>> {
        let mut reports = Reports::default();
        Ok(match self.read_one(&mut reports)? {
            Some(message) if message.kind == Kind::Here as u32 => reports.here.ok_or(None),
            other => Err(other),
        })
    }

    /// Reads to the end of the stream.
    pub(super) fn read(&self) -> Result<Reports> {
        let mut reports = Reports::default();
        while let Some(message) = self.read_one(&mut reports)? {
            let apart = [Kind::Ready, Kind::Terminal, Kind::MadeIn, Kind::Made];
            if apart.iter().all(|kind| message.kind != *kind as u32) {
                reports.messages.push(message);
            }
        }
        Ok(reports)
    }

    fn read_one(&self, reports: &mut Reports) -> Result<Option<Message>> {
        let mut bytes = [0; LENGTH];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1], nix::sys::socket::UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                other => break other.context(|| "recvmsg(child)")?,
            }
        };
        let length = received.bytes;
        let (mut sender, mut file) = (None, None);
        for part in received.cmsgs().context(|| "recvmsg(child)")? {
            match part {
                ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials.pid()),
                ControlMessageOwned::ScmRights(files) => file = files.first().copied().map(sys::own_received),
                _ => {}
            }
        }
        if length < LENGTH {
            return Ok(None);
        }
        let word = |at: usize| -> [u8; 4] { bytes[at..at + 4].try_into().expect("four bytes") };
        let message = Message {
            kind: u32::from_ne_bytes(word(0)),
            index: u32::from_ne_bytes(word(4)),
            errno: i32::from_ne_bytes(word(8)),
        };
        if message.kind == Kind::Ready as u32 {
            reports.command = sender;
        }
        if message.kind == Kind::Here as u32 {
            reports.here = sender;
        }
        if message.kind == Kind::Terminal as u32 {
            reports.master = file;
        } else if let Some(file) = file
            && (message.kind == Kind::MadeIn as u32 || message.kind == Kind::Made as u32)
        {
            reports.made.push((message, file));
        }
        Ok(Some(message))
    }
}
