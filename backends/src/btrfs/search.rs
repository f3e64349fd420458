//! Reads a subvolume's own B-tree: which inodes changed since a transaction, and by which names they are known.
//!
//! Every node of the tree carries the number of the transaction that wrote it, so the kernel skips what is older without reading it:
//! the cost follows the changes, not the tree. The filter works on whole leaves, therefore what it lets through is filtered again by
//! the inode's own `transid`. The kernel looks at the tree as it is in memory, in which delayed inode updates are
//! missing: sync the file system first. Needs CAP_SYS_ADMIN.
//!
//! Formats: linux/btrfs_tree.h; all numbers little-endian on disk, the headers between them in the machine's order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use crate::dir::Dir;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of a subvolume's root.
pub(super) const ROOT_INODE: u64 = 256;

/// `BTRFS_LAST_FREE_OBJECTID`: the highest inode number.
pub(super) const LAST_INODE: u64 = -256_i64 as u64;

pub(super) const INODE_ITEM_KEY: u32 = 1;
const INODE_REF_KEY: u32 = 12;
const INODE_EXTREF_KEY: u32 = 13;
pub(super) const EXTENT_DATA_KEY: u32 = 108;

/// Room for the items of one call. Larger saves calls; the kernel fills it from one leaf after the other.
const BUFFER: usize = 128 * 1024;

/// An inode that was touched after the transaction asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Touched {
    /// The transaction that made the inode: with the number it identifies an inode for ever.
    pub(super) made_in: u64,
    /// When its data, attributes or names last changed, which nobody can set: seconds and nanoseconds since 1970.
    pub(super) changed_at: (i64, u32),
}

/// One name of an inode.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// The inode number of the directory.
    pub(super) parent: u64,
    /// The name in it.
    pub(super) name: OsString,
}

/// The slice of a subvolume's tree to look at: `struct btrfs_ioctl_search_key`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    pub(super) objects: (u64, u64),
    pub(super) types: (u32, u32),
    pub(super) min_transaction: u64,
}

/// The place where a search goes on: the 136-bit key of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) object: u64,
    pub(super) item_type: u32,
    pub(super) offset: u64,
}

impl Key {
    /// Returns the key right behind this one; `None` behind the last.
    fn next(self) -> Option<Self> {
        if self.offset < u64::MAX {
            Some(Self { offset: self.offset + 1, ..self })
        } else if self.item_type < 255 {
            Some(Self { item_type: self.item_type + 1, offset: 0, ..self })
        } else {
            Some(Self { object: self.object.checked_add(1)?, item_type: 0, offset: 0 })
        }
    }
}

/// A search in one tree, with the buffer that all its calls share.
pub(super) struct Search<'a> {
    dir: &'a Dir,
    /// 0 is the subvolume that `dir` is in.
    tree: u64,
    buffer: Vec<u8>,
}

impl<'a> Search<'a> {
    /// Returns a search in the subvolume that `dir` is in.
    pub(super) fn new(dir: &'a Dir) -> Self {
        Self::in_tree(dir, 0)
    }

    /// Returns a search in any tree of the file system that `dir` is on. One that is gone is an error of kind `NotFound`.
    pub(super) fn in_tree(dir: &'a Dir, tree: u64) -> Self {
        Self { dir, tree, buffer: vec![0; BUFFER] }
    }

    /// Returns the inodes touched after transaction `generation`, by number; deleted ones whose last user is still
    /// there are left out.
    pub(super) fn touched_after(&mut self, generation: u64) -> Result<BTreeMap<u64, Touched>> {
        let slice = Slice {
            objects: (ROOT_INODE, LAST_INODE),
            types: (INODE_ITEM_KEY, INODE_ITEM_KEY),
            min_transaction: generation.saturating_add(1),
        };
        let mut touched = BTreeMap::new();
        self.run(slice, |key, _, item| {
            // The range of types holds only for the first and the last object: keys are compared as a whole.
            if key.item_type != INODE_ITEM_KEY {
                return Ok(());
            }
            let inode = InodeItem::parse(item)?;
            if inode.transaction > generation && inode.links > 0 {
                touched.insert(key.object, inode.identity());
            }
            Ok(())
        })?;
        Ok(touched)
    }

    /// Returns an inode by its number.
    pub(super) fn inode(&mut self, number: u64) -> Result<Option<Touched>> {
        let types = (INODE_ITEM_KEY, INODE_ITEM_KEY);
        let mut found = None;
        self.run(Slice { objects: (number, number), types, min_transaction: 0 }, |_, _, item| {
            found = Some(InodeItem::parse(item)?.identity());
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns all names of an inode: none for the root of the subvolume, several for a hard-linked file.
    pub(super) fn names(&mut self, inode: u64) -> Result<Vec<Name>> {
        let slice =
            Slice { objects: (inode, inode), types: (INODE_REF_KEY, INODE_EXTREF_KEY), min_transaction: 0 };
        let mut names = Vec::new();
        self.run(slice, |key, _, item| match key.item_type {
            // The root refers to itself as "..".
            INODE_REF_KEY if key.offset != inode => parse_refs(key.offset, item, &mut names),
            INODE_EXTREF_KEY => parse_extended_refs(item, &mut names),
            _ => Ok(()),
        })?;
        Ok(names)
    }

    /// Shows `visit` each item of the slice: its key, the transaction that wrote the leaf it lies in, its bytes.
    pub(super) fn run(
        &mut self,
        slice: Slice,
        mut visit: impl FnMut(Key, u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut from = Key { object: slice.objects.0, item_type: slice.types.0, offset: 0 };
        loop {
            slice.fill_in(self.tree, from, &mut self.buffer);
            sys::btrfs_tree_search(self.dir.as_fd(), &mut self.buffer)
                .context(|| format!("ioctl({}, BTRFS_IOC_TREE_SEARCH_V2)", self.dir))?;
            let Some(last) = visit_items(&self.buffer, &mut visit)? else { return Ok(()) };
            match last.next() {
                Some(next) if next.object <= slice.objects.1 => from = next,
                _ => return Ok(()),
            }
        }
    }
}

impl Slice {
    /// Returns the slice with all that is said of one inode.
    pub(super) fn of_inode(inode: u64) -> Self {
        Self { objects: (inode, inode), types: (0, EXTENT_DATA_KEY), min_transaction: 0 }
    }

    /// Writes `struct btrfs_ioctl_search_key`: tree_id, then min and max of object, offset and transaction, then
    /// of type as two u32, then nr_items as u32; the rest is unused.
    fn fill_in(self, tree: u64, from: Key, buffer: &mut [u8]) {
        let longs =
            [tree, from.object, self.objects.1, from.offset, u64::MAX, self.min_transaction, u64::MAX];
        buffer[..sys::BTRFS_SEARCH_HEADER].fill(0);
        for (index, value) in longs.into_iter().enumerate() {
            buffer[8 * index..8 * index + 8].copy_from_slice(&value.to_ne_bytes());
        }
        for (index, value) in [from.item_type, self.types.1, u32::MAX].into_iter().enumerate() {
            buffer[56 + 4 * index..60 + 4 * index].copy_from_slice(&value.to_ne_bytes());
        }
    }
}

/// Shows every item of a filled buffer to `visit` and returns the key of the last one.
fn visit_items(buffer: &[u8], visit: &mut impl FnMut(Key, u64, &[u8]) -> Result<()>) -> Result<Option<Key>> {
    // struct btrfs_ioctl_search_header { u64 transid; u64 objectid; u64 offset; u32 type; u32 len; }
    const HEADER: usize = 32;
    let count = u32::from_ne_bytes(array(buffer, 64)?);
    let mut rest = &buffer[sys::BTRFS_SEARCH_HEADER..];
    let mut last = None;
    for _ in 0..count {
        let key = Key {
            object: u64::from_ne_bytes(array(rest, 8)?),
            offset: u64::from_ne_bytes(array(rest, 16)?),
            item_type: u32::from_ne_bytes(array(rest, 24)?),
        };
        let length = u32::from_ne_bytes(array(rest, 28)?) as usize;
        let item = rest.get(HEADER..HEADER + length).ok_or_else(cut_short)?;
        visit(key, u64::from_ne_bytes(array(rest, 0)?), item)?;
        rest = &rest[HEADER + length..];
        last = Some(key);
    }
    Ok(last)
}

/// The part of `struct btrfs_inode_item` that is used.
struct InodeItem {
    made_in: u64,
    transaction: u64,
    links: u32,
    changed_at: (i64, u32),
}

impl InodeItem {
    /// generation u64, transid u64, size u64, nbytes u64, block_group u64, nlink u32, then at 124
    /// ctime as i64 and u32
    fn parse(item: &[u8]) -> Result<Self> {
        Ok(Self {
            made_in: u64::from_le_bytes(array(item, 0)?),
            transaction: u64::from_le_bytes(array(item, 8)?),
            links: u32::from_le_bytes(array(item, 40)?),
            changed_at: (i64::from_le_bytes(array(item, 124)?), u32::from_le_bytes(array(item, 132)?)),
        })
    }

    fn identity(&self) -> Touched {
        Touched { made_in: self.made_in, changed_at: self.changed_at }
    }
}

/// struct btrfs_inode_ref { le64 index; le16 name_len; name }, as often as the directory has the inode.
fn parse_refs(parent: u64, mut item: &[u8], names: &mut Vec<Name>) -> Result<()> {
    while !item.is_empty() {
        let length = usize::from(u16::from_le_bytes(array(item, 8)?));
        let name = item.get(10..10 + length).ok_or_else(cut_short)?;
        names.push(Name { parent, name: OsString::from_vec(name.to_vec()) });
        item = &item[10 + length..];
    }
    Ok(())
}

/// struct btrfs_inode_extref { le64 parent_objectid; le64 index; le16 name_len; name }: for names that one item of
/// the other kind has no room for.
fn parse_extended_refs(mut item: &[u8], names: &mut Vec<Name>) -> Result<()> {
    while !item.is_empty() {
        let parent = u64::from_le_bytes(array(item, 0)?);
        let length = usize::from(u16::from_le_bytes(array(item, 16)?));
        let name = item.get(18..18 + length).ok_or_else(cut_short)?;
        names.push(Name { parent, name: OsString::from_vec(name.to_vec()) });
        item = &item[18 + length..];
    }
    Ok(())
}

/// Returns the little-endian number of `length` bytes, eight at the most, at a place in an item.
pub(super) fn number(item: &[u8], at: usize, length: usize) -> Result<u64> {
    let bytes = item.get(at..at + length).ok_or_else(cut_short)?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..at + N).and_then(|slice| slice.try_into().ok()).ok_or_else(cut_short)
}

fn cut_short() -> Error {
    Error::new(ErrorKind::Corrupt, "an item of the btrfs tree search is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_key_carries_from_offset_to_type_to_object() {
        let key = Key { object: 300, item_type: 12, offset: u64::MAX };
        assert_eq!(key.next(), Some(Key { object: 300, item_type: 13, offset: 0 }));
        let key = Key { object: 300, item_type: 255, offset: u64::MAX };
        assert_eq!(key.next(), Some(Key { object: 301, item_type: 0, offset: 0 }));
        let key = Key { object: u64::MAX, item_type: 255, offset: u64::MAX };
        assert_eq!(key.next(), None);
    }

    #[test]
    fn two_names_in_one_ref_item_are_both_found() {
        let mut item = Vec::new();
        for (index, name) in [(2_u64, b"one".as_slice()), (3, b"\xff\xfe")] {
            item.extend(index.to_le_bytes());
            item.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            item.extend(name);
        }
        let mut names = Vec::new();
        parse_refs(256, &item, &mut names).unwrap();
        assert_eq!(names.len(), 2);
        assert_eq!(names[1], Name { parent: 256, name: OsString::from_vec(vec![0xff, 0xfe]) });
    }

    #[test]
    fn an_item_that_is_cut_short_is_an_error() {
        let error = parse_refs(256, &[0; 12], &mut Vec::new()).map(|()| "a name of no bytes");
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(InodeItem::parse(&[0; 50]).map(|_| ()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
