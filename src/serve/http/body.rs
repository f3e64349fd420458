//! The body of a request, piece by piece.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::head::{Framing, Head};
use super::wire::{PATIENCE, Wire, malformed};

/// From when on a body must have come at [`SLOWEST`] on average.
const GRACE: Duration = Duration::from_secs(60);

/// Bytes a second that a body must bring: whoever sends less holds a thread for nothing.
const SLOWEST: u64 = 128;

/// Bytes of a body that nobody wants which are read all the same, so that the connection can be kept.
const DRAINED_MAX: u64 = 256 << 10;

/// Bytes in the longest line about a chunk.
const LINE_MAX: usize = 1 << 10;

/// Most lines behind the last chunk.
const TRAILERS_MAX: usize = 16;

/// A request's body. What is not read of it is read, or ends the connection, when it is [finished](Body::finish).
#[derive(Debug)]
pub struct Body<'w> {
    wire: &'w mut Wire,
    left: Left,
    length: Option<u64>,
    expects_continue: bool,
    begun: Instant,
    came: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// So many bytes.
    Sized(u64),
    /// So many of a chunk, then more chunks.
    Chunk(u64),
    /// A chunk's head.
    NextChunk,
    /// Nothing.
    Nothing,
}

impl<'w> Body<'w> {
    /// Returns the body that follows a head.
    pub fn of(wire: &'w mut Wire, head: &Head) -> Self {
        let (left, length) = match head.framing {
            Framing::Sized(0) => (Left::Nothing, Some(0)),
            Framing::Sized(length) => (Left::Sized(length), Some(length)),
            Framing::Chunked => (Left::NextChunk, None),
        };
        let (expects_continue, begun) = (head.expects_continue, Instant::now());
        Self { wire, left, length, expects_continue, begun, came: 0 }
    }

    /// Returns how many bytes there are, if that was told.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Reads all of it, if that is not more than `limit`; else `None`.
    pub fn read_all(&mut self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        if self.length.is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64 <= limit).then_some(bytes))
    }

    /// Ends the body: says whether another request can follow it.
    pub fn finish(mut self) -> bool {
        if self.left == Left::Nothing {
            return !self.wire.is_broken;
        }
        // A client that waits for our word gets another one: nobody knows whether it sends the body all the same.
        let is_long = self.length.is_some_and(|length| length - self.came > DRAINED_MAX);
        if self.expects_continue || self.wire.is_broken || is_long {
            return false;
        }
        let drained = io::copy(&mut (&mut self).take(DRAINED_MAX), &mut io::sink());
        drained.is_ok() && self.left == Left::Nothing
    }

    fn next(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.expects_continue) {
            self.wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.wire.flush()?;
        }
        self.wire.set_patience(PATIENCE)?;
        loop {
            match self.left {
                Left::Nothing => return Ok(0),
                Left::NextChunk => self.begin_chunk()?,
                Left::Sized(left) | Left::Chunk(left) => return self.piece(into, left),
            }
        }
    }

    fn piece(&mut self, into: &mut [u8], left: u64) -> io::Result<usize> {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let read = self.wire.read(&mut into[..most])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.came += read as u64;
        self.left = match (self.left, left - read as u64) {
            (Left::Sized(_), 0) => Left::Nothing,
            (Left::Sized(_), left) => Left::Sized(left),
            (_, 0) if self.wire.line(0)?.is_empty() => Left::NextChunk,
            (_, 0) => return Err(malformed("a chunk is longer than it said")),
            (_, left) => Left::Chunk(left),
        };
        let took = self.begun.elapsed();
        if took > GRACE && self.came < SLOWEST * took.as_secs() {
            return Err(io::Error::new(ErrorKind::TimedOut, "the body comes too slowly"));
        }
        Ok(read)
    }

    /// Reads a chunk's head ([RFC 9112, 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)); what extends it is passed over.
    fn begin_chunk(&mut self) -> io::Result<()> {
        let line = self.wire.line(LINE_MAX)?;
        let size = line.split(';').next().unwrap_or_default().trim_end_matches([' ', '\t']);
        let is_number = size.len() <= 16 && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = u64::from_str_radix(size, 16).ok().filter(|_| is_number);
        match size.ok_or_else(|| malformed("a chunk has no length"))? {
            0 => self.end(),
            size => {
                self.left = Left::Chunk(size);
                Ok(())
            }
        }
    }

    /// Reads what follows the last chunk.
    fn end(&mut self) -> io::Result<()> {
        for _ in 0..=TRAILERS_MAX {
            if self.wire.line(LINE_MAX)?.is_empty() {
                self.left = Left::Nothing;
                return Ok(());
            }
        }
        Err(malformed("too many lines follow the last chunk"))
    }
}

impl Read for Body<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let read = self.next(into);
        if read.as_ref().is_err_and(|error| error.kind() != ErrorKind::Interrupted) {
            self.wire.is_broken = true;
        }
        read
    }
}
