//! The form `ndb` of rpm's database (SUSE): a table of slots, then blobs in blocks. Numbers are little-endian.
//!
//! | what | bytes |
//! |---|---|
//! | file | magic `RpmP`, version 0, generation, number of slot pages, 16 more; then the slots up to the end of these pages |
//! | page | 4096 |
//! | slot | magic `Slot`, number of the package (0: free), first block, number of blocks |
//! | block | 16 |
//! | blob | magic `BlbS`, number of the package, generation, length of the data; data |
//!
//! Source: `lib/backend/ndb/rpmpkg.c` of rpm. Its checksums are against torn writes and are not verified: a header is checked by its parser.

use rootling_backends::{Error, ErrorKind, Result};

const PAGE: usize = 4096;
const SLOT: usize = 16;
const BLOCK: usize = 16;

fn damaged(what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// Returns the header of each package, in the order of the slots.
pub fn blobs(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    if file.get(..4) != Some(b"RpmP") {
        return Err(damaged("it does not begin as a database of the form ndb does"));
    }
    if word(file, 4) != Some(0) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "it is a database of the form ndb, of another version than 0",
        ));
    }
    let end = word(file, 12).and_then(|pages| pages.checked_mul(PAGE));
    let slots = end
        .and_then(|end| file.get(2 * SLOT..end))
        .ok_or_else(|| damaged("its table of packages is cut short"))?;
    // Slots may not name the same blob again and again: together they are no larger than the file.
    let mut budget = file.len();
    let mut blobs = Vec::new();
    for slot in slots.chunks_exact(SLOT) {
        if slot[..4] != *b"Slot" {
            return Err(damaged("its table of packages is damaged"));
        }
        if slot[4..8] == [0; 4] {
            continue;
        }
        let found = blob(file, slot).ok_or_else(|| damaged("what it holds of a package is damaged"))?;
        budget = budget.checked_sub(found.len()).ok_or_else(|| damaged("it holds a package twice"))?;
        blobs.push(found.to_vec());
    }
    Ok(blobs)
}

fn blob<'a>(file: &'a [u8], slot: &[u8]) -> Option<&'a [u8]> {
    let start = word(slot, 8)?.checked_mul(BLOCK)?;
    let blob = file.get(start..)?;
    let length = word(blob, 12)?;
    let is_it = blob.starts_with(b"BlbS") && blob.get(4..8)? == slot.get(4..8)?;
    blob.get(16..)?.get(..length).filter(|_| is_it)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*word)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packages::rpm::{parse, tests::header};

    fn database(headers: &[Vec<u8>]) -> Vec<u8> {
        let words = |words: [u32; 4]| words.map(u32::to_le_bytes).concat();
        let name = |text: &[u8; 4]| u32::from_le_bytes(*text);
        let mut file = words([name(b"RpmP"), 0, 7, 1]);
        file.extend([0; 16]);
        let mut blobs = Vec::new();
        for (number, header) in (1_u32..).zip(headers) {
            let at = (PAGE + blobs.len()) / BLOCK;
            file.extend(words([name(b"Slot"), number, at as u32, header.len().div_ceil(BLOCK) as u32 + 2]));
            blobs.extend(words([name(b"BlbS"), number, 7, header.len() as u32]));
            blobs.extend(header);
            blobs.resize(blobs.len().next_multiple_of(BLOCK) + BLOCK, 0);
        }
        while file.len() < PAGE {
            file.extend(words([name(b"Slot"), 0, 0, 0]));
        }
        file.extend(blobs);
        file
    }

    #[test]
    fn every_package_is_read() {
        let file = database(&[header("one", "1", "1", None), header("two", "2", "1", Some(1))]);
        let found: Vec<_> = blobs(&file)
            .unwrap()
            .iter()
            .map(|blob| parse(blob).unwrap().unwrap())
            .map(|p| (p.name, p.version))
            .collect();
        assert_eq!(found, [("one", "1-1"), ("two", "1:2-1")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn slots_that_name_one_blob_are_refused() {
        let mut file = database(&[header("one", "1", "1", None)]);
        let slot = file[32..48].to_vec();
        for place in (48..PAGE).step_by(SLOT) {
            file[place..place + SLOT].copy_from_slice(&slot);
        }
        assert_eq!(blobs(&file).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_an_error_or_read(place in 0_usize..4400, byte in any::<u8>(), length in 0_usize..4400) {
            let mut file = database(&[header("one", "1", "1", None), header("two", "2", "1", Some(1))]);
            if let Some(one) = file.get_mut(place) {
                *one = byte;
            }
            file.truncate(length);
            drop(blobs(&file));
        }
    }
}
