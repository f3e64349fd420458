//! The file `extents` of an object: what its tree occupied when it was last measured, so that it need not be measured again.
//!
//! It is believed for a tree whose backend gives it the same stamp as then, or that is committed; what else may move the data of a
//! committed tree where there are no stamps (defragmentation of XFS) is not seen. Anything that does not fit costs a measurement.
//! Layout: `FORMAT.md`.

use std::path::{Path, PathBuf};

use rootling_backends::{Extents, Footprint, Result};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::envelope;
use super::files::{self, Durability};

const MAGIC: &[u8; 8] = b"RLEXTNT\0";
/// Bytes in the largest file that is read: about sixteen million extents.
const LIMIT: u64 = 1 << 28;

/// What another tree's set is known by.
pub(super) fn hash(set: &Extents) -> u128 {
    let mut hash = Xxh3::new();
    for (start, end) in set.ranges() {
        hash.update(&start.to_le_bytes());
        hash.update(&end.to_le_bytes());
    }
    if set.is_empty() { xxh3_128(&[]) } else { hash.digest128() }
}

/// The set of the parent, against which a file may be written, with its [`hash`].
pub(super) type Base<'a> = (&'a Extents, u128);

fn path(slot: &Path) -> PathBuf {
    slot.join("extents")
}

/// Writes what a tree occupies; against `base` where that is shorter. Not synced: a damaged file costs a measurement.
pub(super) fn write(
    slot: &Path,
    stamp: Option<u64>,
    base: Option<Base<'_>>,
    found: &Footprint,
) -> Result<()> {
    files::replace(&path(slot), &envelope::seal(MAGIC, &encode(stamp, base, found)), Durability::Lazy)
}

/// Returns what was written with the same stamp and, if it was written against a base, the same base.
pub(super) fn read(slot: &Path, stamp: Option<u64>, base: Option<Base<'_>>) -> Option<Footprint> {
    let bytes = files::read(&path(slot), LIMIT).ok()?;
    decode(envelope::open(MAGIC, &bytes).ok()?, stamp, base)
}

fn encode(stamp: Option<u64>, base: Option<Base<'_>>, found: &Footprint) -> Vec<u8> {
    let whole = (found.extents.clone(), Extents::default(), 0);
    let against = base.map(|(set, hash)| (found.extents.minus(set), set.minus(&found.extents), hash));
    let length =
        |(added, removed, _): &(Extents, Extents, u128)| added.ranges().len() + removed.ranges().len();
    let (added, removed, base) = against.filter(|against| length(against) < length(&whole)).unwrap_or(whole);
    let mut bytes = Vec::new();
    for number in [stamp.unwrap_or(0), found.entries, found.apparent_bytes, found.own_bytes] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(base.to_le_bytes());
    bytes.extend((found.subvolumes.len() as u64).to_le_bytes());
    found.subvolumes.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
    for set in [&added, &removed, &found.elsewhere] {
        bytes.extend((set.ranges().len() as u64).to_le_bytes());
        for (start, end) in set.ranges() {
            bytes.extend(start.to_le_bytes());
            bytes.extend(end.to_le_bytes());
        }
    }
    bytes
}

fn decode(mut bytes: &[u8], stamp: Option<u64>, base: Option<Base<'_>>) -> Option<Footprint> {
    let bytes = &mut bytes;
    if word(bytes)? != stamp.unwrap_or(0) {
        return None;
    }
    let mut found = Footprint {
        entries: word(bytes)?,
        apparent_bytes: word(bytes)?,
        own_bytes: word(bytes)?,
        ..Footprint::default()
    };
    let against = u128::from(word(bytes)?) | u128::from(word(bytes)?) << 64;
    for _ in 0..word(bytes)? {
        found.subvolumes.push(word(bytes)?);
    }
    let (added, removed) = (set(bytes)?, set(bytes)?);
    found.elsewhere = set(bytes)?;
    found.extents = match base {
        _ if against == 0 => added,
        Some((set, hash)) if hash == against => set.minus(&removed).or(&added),
        _ => return None,
    };
    bytes.is_empty().then_some(found)
}

fn word(bytes: &mut &[u8]) -> Option<u64> {
    let (word, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*word))
}

fn set(bytes: &mut &[u8]) -> Option<Extents> {
    let count = word(bytes)?;
    let ranges: Option<Vec<_>> = (0..count).map(|_| Some((word(bytes)?, word(bytes)?))).collect();
    Some(Extents::of(ranges?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Footprint {
        Footprint {
            entries: 3,
            apparent_bytes: 4,
            own_bytes: 5,
            extents: Extents::of(vec![(0, 10), (20, 30), (40, 50), (60, 70)]),
            elsewhere: Extents::of(vec![(0, 10)]),
            subvolumes: vec![256],
            inodes: Vec::new(),
        }
    }

    #[test]
    fn it_reads_back_alone_and_against_its_base_and_against_no_other() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), Some(7), None, &sample()).unwrap();
        assert_eq!(read(temp.path(), Some(7), None), Some(sample()));
        assert_eq!(read(temp.path(), Some(8), None), None);
        let alone = std::fs::read(temp.path().join("extents")).unwrap().len();

        let base = Extents::of(vec![(0, 10), (20, 35), (40, 50), (60, 70)]);
        write(temp.path(), None, Some((&base, hash(&base))), &sample()).unwrap();
        assert!(std::fs::read(temp.path().join("extents")).unwrap().len() < alone);
        assert_eq!(read(temp.path(), None, Some((&base, hash(&base)))), Some(sample()));
        assert_eq!(read(temp.path(), None, None), None);
        let moved = Extents::of(vec![(100, 110)]);
        assert_eq!(read(temp.path(), None, Some((&moved, hash(&moved)))), None);
    }

    #[test]
    fn a_damaged_file_is_none() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), None, None, &sample()).unwrap();
        let good = std::fs::read(temp.path().join("extents")).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(temp.path().join("extents"), &bad).unwrap();
            assert_eq!(read(temp.path(), None, None), None, "byte {at}");
            std::fs::write(temp.path().join("extents"), &good[..at]).unwrap();
            assert_eq!(read(temp.path(), None, None), None, "cut at {at}");
        }
    }

    /// The bytes of version 1: a change here needs a new version, and a reader for the old one.
    #[test]
    fn the_format_is_pinned() {
        let found = Footprint { extents: Extents::of(vec![(1, 2)]), ..sample() };
        let numbers = [7_u64, 3, 4, 5, 0, 0, 1, 256, 1, 1, 2, 0, 1, 0, 10];
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(encode(Some(7), None, &found), bytes);
        assert_eq!(decode(&bytes, Some(7), None), Some(found));
    }
}
