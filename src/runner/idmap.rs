//! Ids of the host that nobody has, for a box whose root is nobody outside.
//!
//! A block is 65536 ids, lent for as long as a process lives that uses them: it holds a lock on a file named after the block, and
//! locks die with their processes. Whoever takes a block must have had it alone for a moment; then the lock is shared, so that
//! those who join a box keep its ids lent when the first has ended. So two boxes that run at the same time have no id in common, and none can act on the other's
//! processes. Files never bear these ids: trees are shown through id-mapped mounts.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rootling_backends::{Context, Error, ErrorKind, Result, private};

use super::spec::{IdMap, Userns};

/// Where the locks are; gone with the next boot, as all boxes are.
const DIRECTORY: &str = "/run/rootling/ids";

/// The first id: above what systemd lends to containers and below its foreign range (systemd, UIDS-GIDS.md, which calls
/// 1879048192 to 2147352575 unused).
const FIRST: u32 = 0x7000_0000;

/// How many blocks there are up to the foreign range.
const BLOCKS: u32 = 4093;

/// Ids in a block: what the accounts of a usual system need, nobody (65534) included.
const COUNT: u32 = 65536;

/// A block of ids that is ours until it is dropped.
#[derive(Debug)]
pub struct IdBlock {
    first: u32,
    _lock: File,
}

impl IdBlock {
    /// Takes a free block. Costs two system calls as long as there are fewer boxes than blocks by far.
    pub fn take() -> Result<Self> {
        // They start at different places, so that they seldom meet.
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.subsec_nanos());
        let start = now % BLOCKS;
        for number in (start..BLOCKS).chain(0..start) {
            if let Some(lock) = try_lock(&Path::new(DIRECTORY).join(number.to_string()))? {
                return Ok(Self { first: FIRST + number * COUNT, _lock: lock });
            }
        }
        let message = format!("all {BLOCKS} blocks of ids in {DIRECTORY} are in use");
        Err(Error::new(ErrorKind::Busy, message).hint("end some boxes, or use --userns host"))
    }

    /// Keeps the ids of a box lent that is about to be joined; `None` where they are of no block.
    ///
    /// The caller then makes sure that the box still runs: before this returned, its ids may have been lent anew.
    pub fn keep(userns: &Userns) -> Result<Option<Self>> {
        let Some((first, _)) = userns.outside(0, 0) else { return Ok(None) };
        let Some(number) =
            first.checked_sub(FIRST).map(|offset| offset / COUNT).filter(|number| *number < BLOCKS)
        else {
            return Ok(None);
        };
        let path = Path::new(DIRECTORY).join(number.to_string());
        let lock = open(&path)?;
        lock.lock_shared().context(|| format!("flock({path:?}, LOCK_SH)"))?;
        Ok(Some(Self { first: FIRST + number * COUNT, _lock: lock }))
    }

    /// The user namespace in which 0 to 65535 are this block, with the tree shown so that its owners are those on disk.
    pub fn userns(&self) -> Userns {
        let map = vec![IdMap { inside: 0, outside: self.first, count: COUNT }];
        Userns::Private { uid_map: map.clone(), gid_map: map, idmapped_tree: true }
    }
}

fn open(path: &Path) -> Result<File> {
    let open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            private::make_dirs(Path::new(DIRECTORY))?;
            open()
        }
        other => other,
    };
    file.context(|| format!("open({path:?}, O_CREAT)"))
}

/// Alone first, which nobody is where anybody still uses the ids; then shared, for those who join. In between, as flock(2) says,
/// the lock is nobody's: then somebody else may have it, and this block is not ours.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = open(path)?;
    for lock in [File::try_lock, File::try_lock_shared] {
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(Error::io(format!("flock({path:?})"), error)),
        }
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_block_ends_before_the_foreign_range() {
        const { assert!(FIRST + BLOCKS * COUNT <= 2_147_352_576) };
    }
}
