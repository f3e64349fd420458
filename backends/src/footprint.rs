//! What a tree occupies, and where: the bytes of its files by address, so that what two trees share can be told by comparing.
//!
//! Three ways, tried in this order on each tree:
//!
//! | way | where | data | the rest |
//! |---|---|---|---|
//! | tree search | btrfs, with CAP_SYS_ADMIN | whole extents, as long as they are on disk | items of the inodes, see [`METADATA`](crate::extents::METADATA) |
//! | FIEMAP | file systems that share extents | mapped ranges, and whether somebody else holds them too | `st_blocks` beyond the data, inodes |
//! | `st_blocks` | ext4, tmpfs and whatever refuses FIEMAP: nothing is shared | the tree's own | in the same number |
//!
//! FIEMAP on btrfs (without privilege) says how long data is, not how long it is on disk: compressed files look larger, and an extent of
//! which a piece is left looks like the piece.
//!
//! Data that is not written out yet has no address: sync the file system first.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::stat::FileStat;
use nix::sys::statfs::{self, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC};

use crate::backend::FS;
use crate::dir::{Dir, EntryType};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::extents::Extents;
use crate::{sys, walk};

/// What a tree's own directory occupies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Inodes, hard links counted once.
    pub entries: u64,
    /// Sum of the sizes of its files.
    pub apparent_bytes: u64,
    /// Bytes on disk that nobody can share: inodes, directories, attributes; all of it where extents are never shared.
    pub own_bytes: u64,
    /// Where its data lies.
    pub extents: Extents,
    /// What of it the file system called shared although this tree refers to it once: somebody else holds it. FIEMAP only.
    pub elsewhere: Extents,
    /// The ids of the btrfs subvolumes that it consists of; none for a plain directory.
    pub subvolumes: Vec<u64>,
    /// For a plain directory read by tree search: the numbers of its inodes in the subvolume that it lies in.
    pub inodes: Vec<u64>,
}

/// What the file system says of itself, and what on it is held by others than the trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes of btrfs's own bookkeeping, with their second copies, in that number.
    pub metadata_bytes: Option<u64>,
    /// What subvolumes that are no tree's hold, where that can be searched.
    pub outside: Extents,
}

/// Which of the ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Blocks,
    Map,
    #[cfg(feature = "btrfs")]
    Items,
}

/// Measures a tree's own directory, with what is in it. O(entries), on all cores.
pub fn measure(tree: &Dir) -> Result<Footprint> {
    let walk = Walk { way: Way::of(tree)?, inode_bytes: inode_bytes(tree)?, sum: Mutex::default() };
    walk.measure(tree)
}

/// Returns how many inodes a tree's own directory has, and their blocks in bytes, as du(1) counts: what is shared with other trees counts, and
/// what is not written out yet. O(entries), on all cores.
pub fn blocks(tree: &Dir) -> Result<(u64, u64)> {
    let walk = Walk { way: Way::Blocks, inode_bytes: 0, sum: Mutex::default() };
    let found = walk.measure(tree)?;
    Ok((found.entries, found.own_bytes))
}

/// Returns the bytes on disk of what lies in a slot beside the tree: records, logs, caches, scratch directories.
pub fn beside(slot: &Dir) -> Result<u64> {
    let inode_bytes = inode_bytes(slot)?;
    let mut bytes = block_bytes(&slot.stat_self()?) + inode_bytes;
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let Some(dir) = walk::enter(slot, &path)? else { continue };
        for entry in dir.entries()? {
            let Some(stat) = dir.stat_if_exists(&entry.name)? else { continue };
            if path.as_os_str().is_empty() && entry.name == FS {
                continue;
            }
            bytes += block_bytes(&stat) + inode_bytes;
            if EntryType::of_mode(stat.st_mode) == EntryType::Directory {
                pending.push(path.join(&entry.name));
            }
        }
    }
    Ok(bytes)
}

/// Returns what the file system of `directory` says of itself; `trees` are all that is known to lie on it.
///
/// On btrfs, with privilege, every subvolume that belongs to none of them is searched: O(what they hold).
pub fn surroundings<'a>(
    directory: &Dir,
    trees: impl Iterator<Item = &'a Footprint> + Clone,
) -> Result<Surroundings> {
    #[cfg(feature = "btrfs")]
    if crate::pairing::is_on_btrfs(directory)? {
        return crate::btrfs::surroundings(directory, trees);
    }
    drop(trees);
    let stat = nix::sys::statvfs::fstatvfs(directory.as_fd()).context(|| format!("fstatvfs({directory})"))?;
    let used_bytes = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
    Ok(Surroundings { used_bytes, ..Surroundings::default() })
}

fn file_system(dir: &Dir) -> Result<FsType> {
    Ok(statfs::fstatfs(dir).context(|| format!("fstatfs({dir})"))?.filesystem_type())
}

/// Returns what an inode itself costs: on XFS they are allocated with the files, elsewhere they were before, or are counted as items.
fn inode_bytes(dir: &Dir) -> Result<u64> {
    /// `-i size=` of mkfs.xfs(8), unless somebody asked for another.
    const XFS_INODE: u64 = 512;
    Ok(if file_system(dir)? == XFS_SUPER_MAGIC { XFS_INODE } else { 0 })
}

/// stat(2): `st_blocks` counts units of 512 bytes on every file system.
fn block_bytes(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

impl Way {
    fn of(tree: &Dir) -> Result<Self> {
        let file_system = file_system(tree)?;
        if file_system == EXT4_SUPER_MAGIC || file_system == TMPFS_MAGIC {
            return Ok(Self::Blocks);
        }
        #[cfg(feature = "btrfs")]
        if crate::pairing::is_on_btrfs(tree)? && crate::btrfs::may_search(tree)? {
            return Ok(Self::Items);
        }
        Ok(Self::Map)
    }
}

struct Walk {
    way: Way,
    inode_bytes: u64,
    sum: Mutex<Sum>,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) footprint: Footprint,
    /// The ranges of all files.
    pub(crate) ranges: Vec<(u64, u64)>,
    /// Those of them that the file system calls shared.
    shared: Vec<(u64, u64)>,
    /// Inodes of several names that were met.
    linked: HashSet<(u64, u64)>,
}

impl Sum {
    pub(crate) fn finish(self) -> Footprint {
        let elsewhere = Extents::of(self.shared).minus(&Extents::repeated(&self.ranges));
        Footprint { extents: Extents::of(self.ranges), elsewhere, ..self.footprint }
    }
}

impl Walk {
    fn measure(self, tree: &Dir) -> Result<Footprint> {
        walk::for_each(vec![PathBuf::new()], |path, more: &mut Vec<PathBuf>| {
            let Some(dir) = walk::enter(tree, &path)? else { return Ok(1) };
            self.directory(&dir, &path, more)
        })
        .context(|| format!("measure {:?}", tree.path()))?;
        Ok(self.sum.into_inner().expect("no thread panics while it holds the lock").finish())
    }

    fn directory(&self, dir: &Dir, path: &Path, more: &mut Vec<PathBuf>) -> Result<usize> {
        let mut found = vec![(OsStr::new(".").to_owned(), dir.stat_self()?)];
        for entry in dir.entries()? {
            let Some(stat) = dir.stat_if_exists(&entry.name)? else { continue };
            if EntryType::of_mode(stat.st_mode) == EntryType::Directory {
                more.push(path.join(&entry.name));
            } else {
                found.push((entry.name, stat));
            }
        }
        let count = found.len();
        {
            let mut sum = self.sum.lock().expect("no thread panics while it holds the lock");
            found.retain(|(_, stat)| {
                let is_directory = EntryType::of_mode(stat.st_mode) == EntryType::Directory;
                is_directory || stat.st_nlink < 2 || sum.linked.insert((stat.st_dev, stat.st_ino))
            });
        }
        let mut here = Sum::default();
        self.add(dir, &found, &mut here)?;
        let mut sum = self.sum.lock().expect("no thread panics while it holds the lock");
        sum.footprint.entries += here.footprint.entries;
        sum.footprint.apparent_bytes += here.footprint.apparent_bytes;
        sum.footprint.own_bytes += here.footprint.own_bytes;
        sum.footprint.inodes.append(&mut here.footprint.inodes);
        sum.ranges.append(&mut here.ranges);
        sum.shared.append(&mut here.shared);
        Ok(count)
    }

    fn add(&self, dir: &Dir, found: &[(std::ffi::OsString, FileStat)], sum: &mut Sum) -> Result<()> {
        #[cfg(feature = "btrfs")]
        if self.way == Way::Items {
            return crate::btrfs::add_inodes(dir, found.iter().map(|(_, stat)| stat.st_ino), sum);
        }
        let mut buffer = vec![0; 64 * 1024];
        for (name, stat) in found {
            let is_file = EntryType::of_mode(stat.st_mode) == EntryType::File;
            let mut own = block_bytes(stat);
            if is_file && own > 0 && self.way == Way::Map {
                own = own.saturating_sub(map(dir, name, &mut buffer, sum)?);
            }
            sum.footprint.entries += 1;
            sum.footprint.own_bytes += own + self.inode_bytes;
            sum.footprint.apparent_bytes +=
                if is_file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        }
        Ok(())
    }
}

/// Adds the ranges of one file and returns their length; nothing where the file system has no addresses for it.
fn map(dir: &Dir, name: &OsStr, buffer: &mut [u8], sum: &mut Sum) -> Result<u64> {
    let file = match dir.open_file(name) {
        // Gone, or not ours to read: its blocks are counted all the same.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(0);
        }
        file => file?,
    };
    let (mut from, mut bytes) = (0, 0);
    loop {
        let extents = match sys::fiemap(file.as_fd(), from, buffer) {
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOTTY) => return Ok(bytes),
            Err(errno) => return Err(Error::call(format!("ioctl({dir}, {name:?}, FS_IOC_FIEMAP)"), errno)),
            Ok(extents) => extents,
        };
        let Some(last) = extents.last() else { return Ok(bytes) };
        from = last.logical + last.length;
        for extent in extents.iter().filter(|extent| extent.flags & sys::FIEMAP_EXTENT_NO_ADDRESS == 0) {
            let range = (extent.physical, extent.physical + extent.length);
            sum.ranges.push(range);
            if extent.flags & sys::FIEMAP_EXTENT_SHARED != 0 {
                sum.shared.push(range);
            }
            bytes += extent.length;
        }
        if last.flags & sys::FIEMAP_EXTENT_LAST != 0 {
            return Ok(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn hard_links_are_counted_once_and_holes_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("sub")).unwrap();
        fs::write(temp.path().join("sub/file"), vec![7; 100_000]).unwrap();
        fs::hard_link(temp.path().join("sub/file"), temp.path().join("link")).unwrap();
        let sparse = fs::File::create(temp.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.sync_file_system().unwrap();
        let found = measure(&dir).unwrap();
        assert_eq!((found.entries, found.apparent_bytes), (4, 100_000 + (1 << 30)));
        let occupied = found.own_bytes + found.extents.data_bytes();
        assert!((100_000..200_000).contains(&occupied), "{found:?}");
    }

    #[test]
    fn beside_a_tree_is_everything_in_its_slot_but_the_tree() {
        let temp = tempfile::tempdir().unwrap();
        let slot = Dir::open(temp.path()).unwrap();
        fs::create_dir_all(temp.path().join("fs")).unwrap();
        fs::write(temp.path().join("fs/large"), vec![7; 1 << 20]).unwrap();
        slot.sync_file_system().unwrap();
        let before = beside(&slot).unwrap();
        assert!(before < 1 << 20);
        fs::create_dir(temp.path().join("work")).unwrap();
        fs::write(temp.path().join("work/log"), vec![7; 1 << 20]).unwrap();
        slot.sync_file_system().unwrap();
        let grown = beside(&slot).unwrap() - before;
        assert!((1 << 20..(1 << 20) + 65536).contains(&grown), "{grown}");
    }
}
