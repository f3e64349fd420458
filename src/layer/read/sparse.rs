//! Sparse files in tars: which parts of a file an archive holds.
//!
//! | form | where the map is |
//! |---|---|
//! | old GNU (`S`) | four descriptors in the header, 21 in each block that follows it |
//! | PAX 0.0 | a pair of records for each region |
//! | PAX 0.1 | one record, numbers between commas |
//! | PAX 1.0 | decimal lines before the data, filled up to a block |

use std::io::BufRead;

use rootling_backends::{Error, ErrorKind, Result};

use super::super::header::{BLOCK, OldSparse, corrupt, unsigned};
use super::super::pax::{SparseRecords, digits, push};
use super::Archive;

/// A part of a file that is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) struct Region {
    pub(in crate::layer) offset: u64,
    pub(in crate::layer) length: u64,
}

/// A map with the size of the whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::layer) struct Map {
    pub(in crate::layer) regions: Vec<Region>,
    pub(in crate::layer) real_size: u64,
}

impl Map {
    /// Checks that the regions are in order, apart, within the file, and as long as what the archive stores.
    fn build(regions: Vec<Region>, real_size: u64, stored: u64) -> Result<Self> {
        let (mut end, mut sum) = (0, 0_u64);
        for region in &regions {
            let next = region.offset.checked_add(region.length);
            let in_order = region.offset >= end && next.is_some_and(|next| next <= real_size);
            if !in_order {
                let Region { offset, length } = region;
                return Err(corrupt(format!(
                    "the sparse map puts {length} bytes at {offset} of {real_size}, after what ends at {end}"
                )));
            }
            end = region.offset + region.length;
            // Regions do not overlap: their sum is at most the file's size.
            sum += region.length;
        }
        if sum != stored {
            return Err(corrupt(format!("the sparse map tells of {sum} bytes, but {stored} are stored")));
        }
        if i64::try_from(real_size).is_err() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("a file of {real_size} bytes is too large"),
            ));
        }
        Ok(Self { regions, real_size })
    }
}

impl<R: BufRead> Archive<R> {
    /// Returns the map of the member whose data begins, if it is stored without its holes.
    pub(super) fn map(
        &mut self,
        old: Option<&OldSparse>,
        records: SparseRecords,
        stored: u64,
    ) -> Result<Option<Map>> {
        if let Some(old) = old {
            let regions = self.old_map(old)?;
            return Map::build(regions, old.real_size, stored).map(Some);
        }
        let real_size =
            || records.real_size.ok_or_else(|| corrupt("a sparse file has no GNU.sparse.realsize"));
        match records.version {
            (Some(1), Some(0)) => {
                let real_size = real_size()?;
                let regions = self.map_before_data()?;
                Map::build(regions, real_size, self.data).map(Some)
            }
            (None | Some(0), _) => match records.map {
                Some(regions) => Map::build(regions, real_size()?, stored).map(Some),
                None if records.real_size.is_some() => Err(corrupt("a sparse file has no map")),
                None => Ok(None),
            },
            (major, minor) => {
                let version = format!("{}.{}", major.unwrap_or(0), minor.unwrap_or(0));
                Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("sparse files of version {version} are not known"),
                ))
            }
        }
    }

    /// Reads the blocks between an old GNU sparse header and its data: they do not count as data.
    fn old_map(&mut self, old: &OldSparse) -> Result<Vec<Region>> {
        let mut map = Vec::new();
        let mut full = add_descriptors(&mut map, &old.descriptors)?;
        let mut extended = old.extended;
        while extended {
            // An endless chain of blocks that hold nothing must not be followed.
            if !full {
                return Err(corrupt("a sparse map goes on after its end"));
            }
            let block = self.block()?.ok_or_else(|| self.truncated(BLOCK as u64))?;
            full = add_descriptors(&mut map, &block[..504])?;
            extended = block[504] != 0;
        }
        Ok(map)
    }

    /// Reads the decimal lines at the start of the data, and the filling up to a whole block.
    fn map_before_data(&mut self) -> Result<Vec<Region>> {
        let mut lines = Lines { archive: self, block: [0; BLOCK], at: BLOCK };
        let count = lines.number()?;
        let mut map = Vec::new();
        for _ in 0..count {
            push(&mut map, Region { offset: lines.number()?, length: lines.number()? })?;
        }
        Ok(map)
    }
}

/// The lines of a sparse map 1.0.
struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: BufRead> Lines<'_, R> {
    fn number(&mut self) -> Result<u64> {
        let mut text = Vec::with_capacity(20);
        loop {
            if self.at == BLOCK {
                let read = self.archive.read_data(&mut self.block)?;
                if read < BLOCK {
                    return Err(corrupt("the sparse map is longer than the data it is in"));
                }
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return digits(&text).ok_or_else(|| bad_line(&text)),
                b'0'..=b'9' if text.len() < 20 => text.push(byte),
                _ => return Err(bad_line(&text)),
            }
        }
    }
}

fn bad_line(text: &[u8]) -> Error {
    corrupt(format!("the sparse map holds a line that is no number: \"{}\"", text.escape_ascii()))
}

/// Adds the descriptors (24 bytes each: offset and length) of a header or extension block, up to an empty one.
///
/// Returns whether the block was full: a block that is not full ends the map.
fn add_descriptors(map: &mut Vec<Region>, bytes: &[u8]) -> Result<bool> {
    for descriptor in bytes.chunks_exact(24) {
        if descriptor[0] == 0 {
            return Ok(false);
        }
        let offset = unsigned(&descriptor[..12], "sparse offset")?;
        let length = unsigned(&descriptor[12..], "sparse length")?;
        push(map, Region { offset, length })?;
    }
    Ok(true)
}
