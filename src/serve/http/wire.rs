//! A connection: bytes that must come, and go, in time.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;

use super::head::{HEAD_MAX, Head, Refusal};
use super::tls::{self, Tls, TlsStream};

/// How long one read of a body, or one write, may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a head may take, from its first byte.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);

/// How long it takes at most to say goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Plain, or TLS.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// A connection, with what was read of it and not used yet.
pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    used: usize,
    /// Was something malformed, or cut? Then no other request can follow.
    pub(super) is_broken: bool,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("buffered", &(self.buffer.len() - self.used)).finish_non_exhaustive()
    }
}

impl Wire {
    /// Takes a connection that speaks plainly.
    pub fn plain(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), buffer: Vec::new(), used: 0, is_broken: false }
    }

    /// Takes a connection that speaks TLS.
    pub fn tls(stream: TcpStream, tls: &Tls) -> io::Result<Self> {
        let stream = Stream::Tls(Box::new(tls.on(stream)?));
        Ok(Self { stream, buffer: Vec::new(), used: 0, is_broken: false })
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        // Zero would mean forever.
        self.socket().set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        self.socket().set_write_timeout(Some(PATIENCE))
    }

    /// Waits for the next request, at most for `idle`, and reads its head; `None` where the client is gone, or has nothing to say.
    ///
    /// A head that is too long, too slow or malformed is refused, and nothing can follow it.
    pub fn next_head(&mut self, idle: Duration) -> io::Result<Option<Result<Head, Refusal>>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let mut begun = (!self.buffer.is_empty()).then(Instant::now);
        loop {
            // Empty lines before a request are passed over (RFC 9112, 2.2).
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.drain(..2);
            }
            // A client that tries TLS first waits for an answer before it speaks plainly: it gets one at once.
            if self.buffer.first().is_some_and(|byte| !byte.is_ascii_uppercase() && *byte != b'\r') {
                return Ok(Some(self.refuse(Refusal::new(400, "plain HTTP is spoken here"))));
            }
            let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
            if end.unwrap_or(self.buffer.len()) > HEAD_MAX {
                return Ok(Some(self.refuse(Refusal::new(431, "the head is too long"))));
            }
            if let Some(end) = end {
                self.used = end;
                return Ok(Some(match Head::parse(&self.buffer[..end]) {
                    Err(refusal) => self.refuse(refusal),
                    head => head,
                }));
            }
            let left = begun.map_or(idle, |begun: Instant| HEAD_PATIENCE.saturating_sub(begun.elapsed()));
            self.set_patience(left)?;
            match self.fill(4 << 10) {
                Ok(0) => return Ok(None),
                Ok(_) => begun = begun.or_else(|| Some(Instant::now())),
                Err(error) if is_timeout(&error) && begun.is_none() => return Ok(None),
                Err(error) if is_timeout(&error) => return Ok(Some(self.refuse(TOO_SLOW))),
                Err(error) => return Err(error),
            }
            if begun.is_some_and(|begun| begun.elapsed() > HEAD_PATIENCE) {
                return Ok(Some(self.refuse(TOO_SLOW)));
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<Head, Refusal> {
        self.is_broken = true;
        Err(refusal)
    }

    fn fill(&mut self, most: usize) -> io::Result<usize> {
        let before = self.buffer.len();
        self.buffer.resize(before + most, 0);
        let read = loop {
            let read = match &mut self.stream {
                Stream::Plain(stream) => stream.read(&mut self.buffer[before..]),
                Stream::Tls(stream) => stream.read(&mut self.buffer[before..]),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Reads a line of a chunked body, without its end.
    pub(super) fn line(&mut self, most: usize) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            if self.read(&mut byte)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match (line.last(), byte[0]) {
                (Some(b'\r'), b'\n') => {
                    line.pop();
                    return String::from_utf8(line).map_err(|_| malformed("a chunk's head is no text"));
                }
                (_, b'\n') | (Some(b'\r'), _) => return Err(malformed("a line of a chunk has a wrong end")),
                (_, byte) if line.len() < most || byte == b'\r' => line.push(byte),
                _ => return Err(malformed("a line of a chunk is too long")),
            }
        }
    }

    /// Sends so much of a file, from where it stands: without TLS by sendfile(2), since nobody writes to a blob.
    pub(super) fn send_file(&mut self, file: File, length: u64) -> io::Result<()> {
        let sent = match &mut self.stream {
            Stream::Plain(stream) => send_plain(stream, &file, length)?,
            Stream::Tls(stream) => {
                let mut buffer = io::BufReader::with_capacity(128 << 10, file.take(length));
                io::copy(&mut buffer, stream)?
            }
        };
        // The head has promised more: only the end of the connection can tell.
        if sent == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Ends the connection so that what was sent still arrives.
    pub fn close(mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            tls::say_end(stream);
        }
        // What is still on its way to us would make the kernel take back our last words (RFC 9112, 9.6).
        drop(self.socket().shutdown(Shutdown::Write));
        let begun = Instant::now();
        let mut rest = [0; 16 << 10];
        while let Some(left) = LAST_WORDS.checked_sub(begun.elapsed()) {
            if self.set_patience(left).is_err() || !matches!(self.socket().read(&mut rest), Ok(1..)) {
                return;
            }
        }
    }
}

fn send_plain(stream: &TcpStream, file: &File, length: u64) -> io::Result<u64> {
    // As much as one call takes (sendfile(2)).
    const MOST: u64 = 0x7fff_f000;
    let mut sent = 0;
    while sent < length {
        let most = usize::try_from((length - sent).min(MOST)).unwrap_or(usize::MAX);
        match sendfile64(stream, file, None, most) {
            Ok(0) => break,
            Ok(more) => sent += more as u64,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}

const TOO_SLOW: Refusal = Refusal::new(408, "the request came too slowly");

pub(super) fn malformed(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// Did nothing come, or nothing go, in time?
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.used < self.buffer.len() {
            let length = into.len().min(self.buffer.len() - self.used);
            into[..length].copy_from_slice(&self.buffer[self.used..self.used + length]);
            self.used += length;
            return Ok(length);
        }
        if into.len() < 512 {
            self.buffer.clear();
            self.used = 0;
            return match self.fill(8 << 10)? {
                0 => Ok(0),
                _ => self.read(into),
            };
        }
        match &mut self.stream {
            Stream::Plain(stream) => stream.read(into),
            Stream::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
