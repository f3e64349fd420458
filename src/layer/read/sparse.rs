//! Sparse files in tars: which parts of a file an archive holds.
//!
//! | form | where the map is |
//! |---|---|
//! | old GNU (`S`) | four descriptors in the header, 21 in each block that follows it |
//! | PAX 0.0 | a pair of records for each region |
//! | PAX 0.1 | one record, numbers between commas |
//! | PAX 1.0 | decimal lines before the data, filled up to a block |

use rootling_backends::{Error, ErrorKind, Result};

use super::header::{corrupt, unsigned};
use super::pax::push;

/// A part of a file that is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A map with the size of the whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) regions: Vec<Region>,
    pub(super) real_size: u64,
}

impl Map {
    /// Checks that the regions are in order, apart, within the file, and as long as what the archive stores.
    pub(super) fn build(regions: Vec<Region>, real_size: u64, stored: u64) -> Result<Self> {
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

/// Adds the descriptors (24 bytes each: offset and length) of a header or extension block, up to an empty one.
///
/// Returns whether the block was full: a block that is not full ends the map.
pub(super) fn add_descriptors(map: &mut Vec<Region>, bytes: &[u8]) -> Result<bool> {
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
