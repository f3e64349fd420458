//! Bytes from one thread to the next, in few large buffers that go round.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rootling_backends::{Context, Error, Result};

use super::compression::read_up_to;

/// What one buffer holds: large enough that handing it over costs nothing, small enough for a cache.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers that wait full: the ends run in fits and starts.
const WAITING: usize = 4;

/// The end that fills buffers; dropped before [`finish`](Self::finish), it leaves the reader with an error.
#[derive(Debug)]
pub(super) struct Filler {
    full: SyncSender<Option<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// The end that reads them.
#[derive(Debug)]
pub(super) struct Reader {
    full: Receiver<Option<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    used: usize,
    ended: bool,
}

/// Why a thread of a pipe ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The other end is gone: it failed, and knows why.
    Gone,
    /// It failed itself.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Returns the two ends.
pub(super) fn pipe() -> (Filler, Reader) {
    let (to_reader, full) = sync_channel(WAITING);
    // One is filled and one is read while others wait: a buffer never waits to be given back.
    let (to_filler, empty) = sync_channel(WAITING + 2);
    for _ in 0..WAITING + 2 {
        to_filler.try_send(Vec::new()).expect("it has room for all buffers");
    }
    let reader = Reader { full, empty: to_filler, buffer: Vec::new(), used: 0, ended: false };
    (Filler { full: to_reader, empty }, reader)
}

impl Filler {
    /// Passes on all that `source` has; `see` is shown each buffer before it goes.
    pub(super) fn fill_from(
        &mut self,
        source: &mut impl Read,
        what: &str,
        see: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<(), Stop> {
        loop {
            let mut buffer = self.empty.recv().map_err(|_| Stop::Gone)?;
            buffer.resize(BUFFER_BYTES, 0);
            let read = read_up_to(source, &mut buffer).context(|| what.to_owned())?;
            buffer.truncate(read);
            see(&buffer)?;
            self.full.send(Some(buffer)).map_err(|_| Stop::Gone)?;
            if read < BUFFER_BYTES {
                return Ok(());
            }
        }
    }

    /// Ends the stream.
    pub(super) fn finish(self) {
        // A reader that failed does not wait for it.
        drop(self.full.send(None));
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.used == self.buffer.len() && !self.ended {
            match self.full.recv() {
                Ok(Some(buffer)) => {
                    let read = std::mem::replace(&mut self.buffer, buffer);
                    self.used = 0;
                    if read.capacity() > 0 {
                        // The filler may have ended: then nobody wants it.
                        drop(self.empty.try_send(read));
                    }
                }
                Ok(None) => self.ended = true,
                Err(_) => return Err(io::Error::other("the thread that reads the archive stopped")),
            }
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, length: usize) {
        self.used += length;
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
