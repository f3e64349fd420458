//! Connections: a thread for each, of which there are only so many, and an end that lets requests finish.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rootling_backends::{Context, Result};

use super::http::Wire;
use super::{Access, Server};

/// Connections at once. Others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may stand idle, and how long when most of them are taken.
const IDLE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(1)];

/// How long requests may go on once the end was asked for.
const LAST: Duration = Duration::from_secs(10);

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: Mutex<HashMap<u64, Connection>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    is_busy: bool,
    told_to_end: bool,
}

impl Connections {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Connection>> {
        self.all.lock().expect("nobody panics who holds it")
    }

    fn count(&self) -> usize {
        self.all().len()
    }

    fn add(&self, stream: &TcpStream) -> io::Result<u64> {
        let connection = Connection { stream: stream.try_clone()?, is_busy: false, told_to_end: false };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.all().insert(id, connection);
        Ok(id)
    }

    /// Notes that a connection is, or is not, in the middle of a request; says whether it may go on.
    pub(super) fn set_busy(&self, id: u64, is_busy: bool) -> bool {
        self.all().get_mut(&id).is_some_and(|connection| {
            connection.is_busy = is_busy;
            !connection.told_to_end
        })
    }

    fn end(&self, also_busy: bool) {
        for connection in self.all().values_mut() {
            connection.told_to_end = true;
            if also_busy || !connection.is_busy {
                // Best effort: it may be gone.
                drop(connection.stream.shutdown(if also_busy { Shutdown::Both } else { Shutdown::Read }));
            }
        }
    }

    /// Returns how long a connection may wait for its next request.
    pub(super) fn patience(&self) -> Duration {
        IDLE[usize::from(self.count() > CONNECTIONS_MAX * 3 / 4)]
    }
}

/// Takes connections until `stop` can be read, then waits until requests that have begun are answered, or ten seconds.
pub(super) fn listen(
    server: &Server,
    listener: &TcpListener,
    stop: BorrowedFd<'_>,
    told: &(dyn Fn(&Access) + Sync),
) -> Result<()> {
    listener.set_nonblocking(true).context(|| "fcntl(listener, O_NONBLOCK)")?;
    std::thread::scope(|scope| {
        let taken = loop {
            let is_full = server.connections.count() >= CONNECTIONS_MAX;
            match wait(listener, stop, is_full) {
                Ok(Next::Stop) => break Ok(()),
                Ok(Next::Nothing) => continue,
                Ok(Next::Connection) => {}
                Err(error) => break Err(error),
            }
            match listener.accept() {
                Ok((stream, peer)) => {
                    let Ok(id) = server.connections.add(&stream) else { continue };
                    let attend = move || {
                        attend(server, stream, peer, id, told);
                        server.connections.all().remove(&id);
                    };
                    let thread = std::thread::Builder::new().stack_size(1 << 20);
                    if let Err(error) = thread.spawn_scoped(scope, attend) {
                        log::warn!("no thread for a connection: {error}");
                        server.connections.all().remove(&id);
                    }
                }
                // Out of descriptors, or gone again: others may still come.
                Err(error) => {
                    log::debug!("accept: {error}");
                    if error.kind() != io::ErrorKind::WouldBlock {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        };
        server.connections.end(false);
        let begun = Instant::now();
        while server.connections.count() > 0 && begun.elapsed() < LAST {
            std::thread::sleep(Duration::from_millis(5));
            server.connections.end(false);
        }
        server.connections.end(true);
        if let Some(mirror) = &server.mirror {
            mirror.end();
        }
        taken
    })
}

enum Next {
    Connection,
    Stop,
    Nothing,
}

fn wait(listener: &TcpListener, stop: BorrowedFd<'_>, is_full: bool) -> Result<Next> {
    let mut fds = [PollFd::new(stop, PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    // Nothing tells that a connection ended: it is looked at often.
    let (watched, patience) = if is_full { (1, PollTimeout::from(20_u8)) } else { (2, PollTimeout::NONE) };
    match poll(&mut fds[..watched], patience) {
        Err(Errno::EINTR) => return Ok(Next::Nothing),
        polled => polled.context(|| "poll(listener)")?,
    };
    let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(match (is_ready(&fds[0]), watched == 2 && is_ready(&fds[1])) {
        (true, _) => Next::Stop,
        (false, true) => Next::Connection,
        (false, false) => Next::Nothing,
    })
}

/// Answers the requests of one connection, one after the other.
fn attend(server: &Server, stream: TcpStream, peer: SocketAddr, id: u64, told: &(dyn Fn(&Access) + Sync)) {
    let prepared = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
    let wire = prepared.and_then(|()| match &server.tls {
        None => Ok(Wire::plain(stream)),
        Some(tls) => Wire::tls(stream, tls),
    });
    let Ok(mut wire) = wire else { return };
    let peer = SocketAddr::new(plain(peer.ip()), peer.port());
    loop {
        match wire.next_head(server.connections.patience()) {
            Ok(Some(head)) => {
                server.connections.set_busy(id, true);
                let keeps = server.exchange(&mut wire, head, peer, told);
                if !server.connections.set_busy(id, false) || !keeps {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                log::debug!("{peer}: {error}");
                break;
            }
        }
    }
    wire.close();
}

/// An address of IPv4 as such.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
