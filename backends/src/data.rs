//! The bytes of one file: shared with another, copied with their holes, compared.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::Whence;

use crate::error::{Context, Error, Result};
use crate::sys;

/// One read of a comparison or of a copy that the kernel would not do.
const BLOCK: usize = 128 * 1024;

/// One `copy_file_range`.
const RANGE: i64 = 1 << 30;

/// Makes the empty `target` share all of `source`'s data.
///
/// btrfs shares only between files of which both or neither write in place (`chattr +C`), so that flag goes first.
pub(crate) fn clone(source: &File, target: &File, size: u64) -> nix::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match sys::ficlone(target.as_fd(), source.as_fd()) {
        Err(Errno::EINVAL) if match_nocow(source, target) => sys::ficlone(target.as_fd(), source.as_fd()),
        other => other,
    }
}

/// Gives the empty `target` the `+C` flag of `source`; true if it had to be changed, and could be.
fn match_nocow(source: &File, target: &File) -> bool {
    let (Ok(wanted), Ok(present)) = (sys::inode_flags(source.as_fd()), sys::inode_flags(target.as_fd()))
    else {
        return false;
    };
    let flags = (present & !sys::FS_NOCOW_FL) | (wanted & sys::FS_NOCOW_FL);
    flags != present && sys::set_inode_flags(target.as_fd(), flags).is_ok()
}

/// Would copying instead of cloning fail just the same?
pub(crate) fn is_final(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EIO | Errno::EROFS | Errno::EUCLEAN | Errno::EFBIG)
}

/// Copies the data of `source` into the empty `target`, leaving out holes; returns how many bytes.
pub(crate) fn copy(source: &File, target: &File, stat: &FileStat) -> Result<u64> {
    if stat.st_size == 0 {
        return Ok(0);
    }
    // Best effort: the flag matters for speed only, and most file systems have none.
    let _ = match_nocow(source, target);
    let mut copied = 0;
    if stat.st_blocks.saturating_mul(512) >= stat.st_size {
        copied = copy_range(source, target, 0, i64::MAX)?;
    } else {
        let mut position = 0;
        while let Some((start, end)) = next_data(source, position)? {
            copied += copy_range(source, target, start, end)?;
            position = end;
        }
        // A hole at the end.
        let length = nix::sys::stat::fstat(source).context(|| "fstat(source)")?.st_size;
        let written = nix::sys::stat::fstat(target).context(|| "fstat(target)")?.st_size;
        if written < length {
            nix::unistd::ftruncate(target, length).context(|| format!("ftruncate({length})"))?;
        }
    }
    Ok(copied)
}

/// Returns where the next data at or after `position` begins and ends; `None` if there is only a hole left.
fn next_data(file: &File, position: i64) -> Result<Option<(i64, i64)>> {
    let start = match nix::unistd::lseek(file, position, Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok(None),
        other => other.context(|| format!("lseek({position}, SEEK_DATA)"))?,
    };
    let end =
        nix::unistd::lseek(file, start, Whence::SeekHole).context(|| format!("lseek({start}, SEEK_HOLE)"))?;
    Ok(Some((start, end)))
}

fn copy_range(source: &File, target: &File, start: i64, end: i64) -> Result<u64> {
    let mut position = start;
    while position < end {
        let length = usize::try_from((end - position).min(RANGE)).expect("at most 1 GiB");
        match sys::copy_file_range(source.as_fd(), target.as_fd(), position, length) {
            Ok(0) => break,
            Ok(copied) => position += copied as i64,
            Err(Errno::EINTR) => {}
            // Across some file systems, and in some old kernels, the kernel leaves it to us.
            Err(Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EBADF) => {
                return Ok((position - start).unsigned_abs() + copy_by_hand(source, target, position, end)?);
            }
            Err(errno) => return Err(Error::call(format!("copy_file_range({position}, {length})"), errno)),
        }
    }
    Ok((position - start).unsigned_abs())
}

fn copy_by_hand(source: &File, target: &File, start: i64, end: i64) -> Result<u64> {
    let mut buffer = vec![0; BLOCK];
    let (mut position, end) = (start.unsigned_abs(), end.unsigned_abs());
    while position < end {
        let length = BLOCK.min(usize::try_from(end - position).unwrap_or(BLOCK));
        let read =
            source.read_at(&mut buffer[..length], position).context(|| format!("pread({position})"))?;
        if read == 0 {
            break;
        }
        target.write_all_at(&buffer[..read], position).context(|| format!("pwrite({position})"))?;
        position += read as u64;
    }
    Ok(position - start.unsigned_abs())
}

/// Do two files hold the same bytes? Reads both, up to the first difference.
pub(crate) fn equal(old: &File, new: &File) -> std::io::Result<bool> {
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut position = 0;
    loop {
        let read = read_block(old, &mut left, position)?;
        if read != read_block(new, &mut right, position)? || left[..read] != right[..read] {
            return Ok(false);
        }
        if read < BLOCK {
            return Ok(true);
        }
        position += read as u64;
    }
}

/// Fills the buffer unless the file ends before.
fn read_block(file: &File, buffer: &mut [u8], position: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
