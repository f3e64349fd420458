//! The page of metrics, over HTTP, to one reader after the other.

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::calls::Calls;
use super::socket::Socket;
use crate::serve::http::{Answer, Content, Method, Refusal, Wire};

/// How long a reader may say nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where metrics can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On a socket in the file system, by its owner.
    Unix(PathBuf),
    /// At an address of this machine.
    Loopback(SocketAddr),
}

impl Place {
    /// Reads `unix:PATH` or `ADDRESS:PORT`. An address that others can reach is an error of kind `InvalidInput`.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(path.into()));
        }
        match text.parse() {
            Ok(address) if SocketAddr::ip(&address).is_loopback() => Ok(Self::Loopback(address)),
            Ok(_) => Err(Error::new(ErrorKind::InvalidInput, format!("others could read {text}"))
                .hint("give an address of this machine, 127.0.0.1:PORT or [::1]:PORT")),
            Err(_) => {
                let message = format!("{text:?} is neither unix:PATH nor ADDRESS:PORT");
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
        }
    }

    /// Listens there.
    pub fn listen(&self) -> Result<Listening> {
        match self {
            Self::Unix(path) => Socket::bind(path).map(Listening::Unix),
            Self::Loopback(address) => {
                let listener = TcpListener::bind(address).context(|| format!("listen on {address}"))?;
                Ok(Listening::Loopback(listener))
            }
        }
    }
}

/// As it is given.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => write!(f, "{address}"),
        }
    }
}

/// A socket on which metrics are read.
#[derive(Debug)]
pub enum Listening {
    /// In the file system.
    Unix(Socket),
    /// On the network.
    Loopback(TcpListener),
}

impl Listening {
    /// Says where, with the port that was found free.
    pub fn place(&self) -> Result<String> {
        match self {
            Self::Unix(socket) => {
                let address = socket.listener.local_addr().context(|| "getsockname(metrics)")?;
                let path = address.as_pathname().unwrap_or(std::path::Path::new("")).display();
                Ok(format!("unix:{path}"))
            }
            Self::Loopback(listener) => {
                let address = listener.local_addr().context(|| "getsockname(metrics)")?;
                Ok(format!("http://{address}/metrics"))
            }
        }
    }

    fn accept(&self) -> std::io::Result<TcpStream> {
        match self {
            // What is asked of the type is asked of any stream: to read, to write, to wait, to end.
            Self::Unix(socket) => socket.listener.accept().map(|(stream, _)| OwnedFd::from(stream).into()),
            Self::Loopback(listener) => listener.accept().map(|(stream, _)| stream),
        }
    }

    /// Removes the file of the socket.
    pub(super) fn remove(&self) {
        if let Self::Unix(socket) = self {
            socket.remove();
        }
    }

    /// Answers for ever.
    pub(super) fn answer(&self, calls: &Calls) -> ! {
        loop {
            match self.accept() {
                Ok(stream) => attend(stream, calls),
                Err(error) => {
                    log::debug!("accept(metrics): {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

fn attend(stream: TcpStream, calls: &Calls) {
    let mut wire = Wire::plain(stream);
    if let Ok(Some(head)) = wire.next_head(PATIENCE) {
        let (answer, method) = match head {
            Ok(head) => (page(head.method, &head.path, calls), Some(head.method)),
            Err(Refusal { status, why }) => (text(status, why.to_owned()), None),
        };
        if let Err(error) = answer.send(&mut wire, method, false) {
            log::debug!("send(metrics): {error}");
        }
    }
    wire.close();
}

fn page(method: Method, path: &str, calls: &Calls) -> Answer {
    if !method.only_reads() {
        return text(405, "metrics are read".to_owned());
    }
    if !matches!(path, "/metrics" | "/") {
        return text(404, "there is only /metrics".to_owned());
    }
    match calls.metrics.written(&calls.held) {
        Ok(page) => text(200, page),
        Err(error) => text(500, error.chain().join(": ")),
    }
}

fn text(status: u16, text: String) -> Answer {
    Answer::new(status)
        .line("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        .with(Content::Bytes(text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_on_this_machine() {
        assert_eq!(Place::parse("unix:/run/m.sock").unwrap(), Place::Unix("/run/m.sock".into()));
        assert_eq!(Place::parse("unix:///run/m.sock").unwrap(), Place::Unix("/run/m.sock".into()));
        assert!(matches!(Place::parse("127.0.0.1:0").unwrap(), Place::Loopback(_)));
        assert!(matches!(Place::parse("[::1]:9100").unwrap(), Place::Loopback(_)));
        for wrong in ["0.0.0.0:1", "10.0.0.1:9100", "[::]:1", "localhost:1", "/run/m.sock", ""] {
            assert_eq!(Place::parse(wrong).unwrap_err().kind(), ErrorKind::InvalidInput, "{wrong}");
        }
    }
}
