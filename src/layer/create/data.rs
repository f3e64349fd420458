//! The bytes of one file on their way into an archive: as many as its header says, or an error.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::{Whence, lseek};
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::super::pack::Stream;

/// Writes a file of which `stat` was read when its header was written. Holes are not read: they come out as zeros.
pub(super) fn write(file: &File, stat: &FileStat, stream: &mut Stream) -> Result<()> {
    let size = stat.st_size.unsigned_abs();
    let has_holes = stat.st_blocks.saturating_mul(512) < stat.st_size;
    let mut position = 0;
    while position < size {
        let (start, end) = if has_holes { next_data(file, position, size)? } else { (position, size) };
        stream.zeros(start - position)?;
        position = start;
        while position < end {
            position += some(file, position, end, stream)?;
        }
    }
    let now = fstat(file).context(|| "fstat(file)")?.st_size.unsigned_abs();
    if now == size { Ok(()) } else { Err(changed(size, now)) }
}

/// Reads once, into the stream's own memory.
fn some(file: &File, position: u64, end: u64, stream: &mut Stream) -> Result<u64> {
    let space = stream.space()?;
    let step = usize::try_from(end - position).map_or(space.len(), |left| left.min(space.len()));
    loop {
        match file.read_at(&mut space[..step], position) {
            Ok(0) => return Err(changed(end, position)),
            Ok(read) => {
                stream.filled(read);
                return Ok(read as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(format!("pread({position})"), error)),
        }
    }
}

/// Returns where the next data begins and ends, both at `size` if there is none before it.
fn next_data(file: &File, position: u64, size: u64) -> Result<(u64, u64)> {
    let seek = |from: u64, whence| lseek(file, from.cast_signed(), whence).map(i64::unsigned_abs);
    let start = match seek(position, Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok((size, size)),
        other => other.context(|| format!("lseek({position}, SEEK_DATA)"))?,
    };
    let end = seek(start, Whence::SeekHole).context(|| format!("lseek({start}, SEEK_HOLE)"))?;
    Ok((start.min(size), end.min(size)))
}

fn changed(expected: u64, found: u64) -> Error {
    let message = format!("it had {expected} bytes and has {found} now: it is being written to");
    Error::new(ErrorKind::Busy, message).hint("make the layer of a snapshot, which does not change")
}
