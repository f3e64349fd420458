//! What trees occupy on btrfs, from the items of their inodes.
//!
//! A file refers to pieces of extents, and an extent goes when nothing refers to any piece of it: so whole extents are counted, as long
//! as they are on disk, compressed or not. Small files have no extent; they are in the items.
//!
//! Items lie in leaves, which snapshots share until one of them writes. The search tells in which transaction each leaf was written, so
//! equal items of one inode in leaves of one age are the same bytes on disk, and are given the same address. What is not seen is how full
//! the leaves are: the file system's own count of its metadata is shared out by whoever adds all up.

use std::collections::HashSet;
use std::os::fd::AsFd;

use super::search::{EXTENT_DATA_KEY, INODE_ITEM_KEY, Key, LAST_INODE, ROOT_INODE, Search, Slice, number};
use super::{is_subvolume, nested};
use crate::dir::Dir;
use crate::error::{Context, ErrorKind, Result};
use crate::extents::{Extents, METADATA};
use crate::fence;
use crate::footprint::{Footprint, Sum, Surroundings};
use crate::sys;

/// The tree of all trees, and in it the kind of item that describes one.
const ROOT_TREE: u64 = 1;
const ROOT_ITEM_KEY: u32 = 132;
/// `BTRFS_FS_TREE_OBJECTID`: the subvolume that a file system is made with.
const TOP_LEVEL: u64 = 5;
/// `struct btrfs_item`: what a leaf has beside the bytes of an item.
const ITEM_HEADER: u64 = 25;

/// May this process search trees?
pub(crate) fn may_search(dir: &Dir) -> Result<bool> {
    match Search::new(dir).run(Slice::of_inode(ROOT_INODE), |_, _, _| Ok(())) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        other => other.map(|()| true),
    }
}

/// Measures a subvolume and those inside it. `None` for what is no subvolume, or where searching is not allowed.
pub(super) fn measure(root: &Dir) -> Result<Option<Footprint>> {
    if !is_subvolume(root)? || !may_search(root)? {
        return Ok(None);
    }
    let mut sum = Sum::default();
    add_subvolume(root, &mut sum)?;
    Ok(Some(Footprint { subvolumes: ids(root)?, ..sum.finish() }))
}

fn add_subvolume(root: &Dir, sum: &mut Sum) -> Result<()> {
    add_all(Search::new(root), sum, |_| true)?;
    for nested in nested::children(root)? {
        add_subvolume(&nested::open(root, &nested)?, sum)?;
    }
    Ok(())
}

/// Returns the ids of a subvolume and those inside it; none for a plain directory.
pub(super) fn ids(root: &Dir) -> Result<Vec<u64>> {
    if !is_subvolume(root)? {
        return Ok(Vec::new());
    }
    let mut found = vec![nested::info(root)?.id];
    for nested in nested::children(root)? {
        found.extend(ids(&nested::open(root, &nested)?)?);
    }
    Ok(found)
}

/// Adds some inodes of the subvolume that `dir` is in.
pub(crate) fn add_inodes(dir: &Dir, inodes: impl Iterator<Item = u64>, sum: &mut Sum) -> Result<()> {
    let mut search = Search::new(dir);
    for inode in inodes {
        let mut items = Items { sum, unit: None };
        search.run(Slice::of_inode(inode), |key, transaction, item| items.add(key, transaction, item))?;
        items.close();
        sum.footprint.inodes.push(inode);
    }
    Ok(())
}

fn add_all(mut search: Search<'_>, sum: &mut Sum, counts: impl Fn(u64) -> bool) -> Result<()> {
    let slice = Slice { objects: (ROOT_INODE, LAST_INODE), types: (0, EXTENT_DATA_KEY), min_transaction: 0 };
    let mut items = Items { sum, unit: None };
    search.run(
        slice,
        |key, transaction, item| {
            if counts(key.object) { items.add(key, transaction, item) } else { Ok(()) }
        },
    )?;
    items.close();
    Ok(())
}

/// Returns what a value that is the same as long as no subvolume of the tree was written: not by anybody in it, nor by a balance or
/// defragmentation that moved its extents. O(1) and without privilege; sync the file system first.
pub(super) fn stamp(root: &Dir) -> Result<Option<u64>> {
    if !is_subvolume(root)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    add_stamp(root, &mut bytes)?;
    Ok(Some(fence::checksum(&bytes)))
}

fn add_stamp(root: &Dir, bytes: &mut Vec<u8>) -> Result<()> {
    let info = nested::info(root)?;
    bytes.extend(info.uuid);
    bytes.extend(info.generation.to_le_bytes());
    for nested in nested::children(root)? {
        add_stamp(&nested::open(root, &nested)?, bytes)?;
    }
    Ok(())
}

/// Takes items in the order of their keys.
struct Items<'a> {
    sum: &'a mut Sum,
    unit: Option<Unit>,
}

/// What one leaf says of one inode.
struct Unit {
    inode: u64,
    transaction: u64,
    hash: u64,
    bytes: u64,
}

impl Items<'_> {
    fn add(&mut self, key: Key, transaction: u64, item: &[u8]) -> Result<()> {
        if self.unit.as_ref().is_none_or(|unit| (unit.inode, unit.transaction) != (key.object, transaction)) {
            self.close();
            let hash = fence::checksum(&transaction.to_le_bytes());
            self.unit = Some(Unit { inode: key.object, transaction, hash, bytes: 0 });
        }
        if let Some(unit) = &mut self.unit {
            unit.bytes += ITEM_HEADER + item.len() as u64;
            unit.hash = [key.object, key.item_type.into(), key.offset, fence::checksum(item)]
                .into_iter()
                .fold(unit.hash, mixed);
        }
        match key.item_type {
            INODE_ITEM_KEY => self.inode(item),
            EXTENT_DATA_KEY => self.extent(item),
            _ => Ok(()),
        }
    }

    /// struct btrfs_inode_item: le64 size at 16, le32 nlink at 40, le32 mode at 52.
    fn inode(&mut self, item: &[u8]) -> Result<()> {
        let (size, links, mode) = (number(item, 16, 8)?, number(item, 40, 4)?, number(item, 52, 4)?);
        // Without a name, it goes with whoever has it open.
        if links > 0 {
            self.sum.footprint.entries += 1;
            if mode & u64::from(libc::S_IFMT) == u64::from(libc::S_IFREG) {
                self.sum.footprint.apparent_bytes += size;
            }
        }
        Ok(())
    }

    /// struct btrfs_file_extent_item { le64 generation; le64 ram_bytes; u8 compression; u8 encryption; le16 other; u8 type;
    /// le64 disk_bytenr; le64 disk_num_bytes; ... }; inline data, type 0, has its bytes from disk_bytenr on.
    fn extent(&mut self, item: &[u8]) -> Result<()> {
        if number(item, 20, 1)? > 0 {
            let (start, length) = (number(item, 21, 8)?, number(item, 29, 8)?);
            // A hole starts nowhere.
            if start != 0 {
                self.sum.ranges.push((start, start.saturating_add(length)));
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(unit) = self.unit.take() {
            let start = METADATA | unit.hash >> 2;
            self.sum.ranges.push((start, start + unit.bytes));
        }
    }
}

/// Mixes a word into a hash: the finalizer of MurmurHash3, whose every input bit reaches every output bit.
fn mixed(hash: u64, word: u64) -> u64 {
    let mut hash = hash.rotate_left(23) ^ word;
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// As [`footprint::surroundings`](crate::footprint::surroundings).
pub(crate) fn surroundings<'a>(
    directory: &Dir,
    trees: impl Iterator<Item = &'a Footprint> + Clone,
) -> Result<Surroundings> {
    let (used_bytes, metadata_bytes) = used(directory)?;
    let outside = match outside(directory, trees) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Extents::default(),
        found => found?,
    };
    Ok(Surroundings { used_bytes, metadata_bytes, outside })
}

fn outside<'a>(directory: &Dir, trees: impl Iterator<Item = &'a Footprint> + Clone) -> Result<Extents> {
    let ours: HashSet<u64> = trees.clone().flat_map(|tree| tree.subvolumes.iter().copied()).collect();
    let counted: HashSet<u64> = trees.flat_map(|tree| tree.inodes.iter().copied()).collect();
    let here = nested::info(directory)?.id;
    let mut sum = Sum::default();
    for subvolume in subvolumes(directory)?.into_iter().filter(|id| !ours.contains(id)) {
        let counts = |inode| subvolume != here || !counted.contains(&inode);
        match add_all(Search::in_tree(directory, subvolume), &mut sum, counts) {
            // Deleted, and gone in a moment.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(sum.finish().extents)
}

/// Returns the ids of all subvolumes of the file system.
fn subvolumes(directory: &Dir) -> Result<Vec<u64>> {
    let slice =
        Slice { objects: (TOP_LEVEL, LAST_INODE), types: (ROOT_ITEM_KEY, ROOT_ITEM_KEY), min_transaction: 0 };
    let mut found = Vec::new();
    Search::in_tree(directory, ROOT_TREE).run(slice, |key, _, _| {
        if key.item_type == ROOT_ITEM_KEY && (key.object == TOP_LEVEL || key.object >= ROOT_INODE) {
            found.push(key.object);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Returns what the file system has in use, in bytes as data is kept, and how much of it is metadata.
fn used(directory: &Dir) -> Result<(u64, Option<u64>)> {
    let spaces = sys::btrfs_space_info(directory.as_fd())
        .context(|| format!("ioctl({directory}, BTRFS_IOC_SPACE_INFO)"))?;
    let is_data = |space: &&sys::SpaceInfo| space.flags & sys::BTRFS_BLOCK_GROUP_DATA != 0;
    let copies = spaces.iter().find(is_data).map_or(1, sys::SpaceInfo::copies);
    let data: u64 = spaces.iter().filter(is_data).map(|space| space.used_bytes).sum();
    let rest = spaces.iter().filter(|space| !is_data(space));
    let metadata: u64 = rest.map(|space| space.used_bytes * space.copies() / copies).sum();
    Ok((data + metadata, Some(metadata).filter(|bytes| *bytes > 0)))
}
