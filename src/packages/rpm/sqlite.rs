//! One table of a SQLite 3 file: what is needed to read rpm's, and no more.
//!
//! The library of SQLite would bring 250,000 lines of C to hostile bytes and a minute to every build, for one walk down one tree of pages.
//! This reads the rows of a table in the order of their keys, out of the file and of a write-ahead log beside it, which holds what a box
//! that was not shut down had not yet moved over. It never writes, and knows no SQL. Format: <https://www.sqlite.org/fileformat.html>.
//!
//! Every page of a tree is visited once, all rows together have no more bytes than the files: no input takes more than time and memory in
//! proportion to its size.

use std::collections::{HashMap, HashSet};

use rootling_backends::{Error, ErrorKind, Result};

const MAGIC: &[u8] = b"SQLite format 3\0";
/// Bytes before the first page's own content.
const FILE_HEADER: usize = 100;
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;

fn damaged(what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the SQLite file is damaged: {what}"))
}

/// Returns the second column of each row of a table, which must be a blob, in the order of the rows' keys.
///
/// `log` is the content of the file `-wal`, empty where there is none. A table that is not there is an error of kind `Corrupt`.
pub fn blobs(main: &[u8], log: &[u8], table: &str) -> Result<Vec<Vec<u8>>> {
    let mut file = File::open(main, log)?;
    // The first page is the root of the table of tables: type, name, table, root page, SQL.
    let root = file.rows(1)?.iter().find_map(|row| {
        let columns = columns(row)?;
        let is_it = *columns.first()? == b"table" && columns.get(1)? == &table.as_bytes();
        number(columns.get(3)?).filter(|_| is_it)
    });
    let root = root.ok_or_else(|| damaged("it has no table of packages"))?;
    let rows = file.rows(root)?;
    let second = |row: &Vec<u8>| columns(row)?.get(1).map(|column| column.to_vec());
    rows.iter().map(|row| second(row).ok_or_else(|| damaged("a row has no second column"))).collect()
}

/// The pages of a database.
struct File<'a> {
    main: &'a [u8],
    page_size: usize,
    /// Bytes of a page that are used.
    usable: usize,
    /// Pages that the log has newer.
    newer: HashMap<u32, &'a [u8]>,
    /// Bytes that rows may still have.
    budget: usize,
}

impl<'a> File<'a> {
    fn open(main: &'a [u8], log: &'a [u8]) -> Result<Self> {
        let newer = committed(log);
        // A database that was just made may have all of its pages in the log.
        let header = newer.get(&1).copied().unwrap_or(main);
        if !header.starts_with(MAGIC) || header.len() < FILE_HEADER {
            return Err(damaged("it does not begin as one"));
        }
        let page_size = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65536,
            size => usize::from(size),
        };
        if !page_size.is_power_of_two() || page_size < 512 {
            return Err(damaged("its page size is none"));
        }
        // At least 480 bytes of a page are used, says the format.
        let usable = page_size.checked_sub(usize::from(header[20])).filter(|usable| *usable >= 480);
        let usable = usable.ok_or_else(|| damaged("its pages have no room"))?;
        let newer = if newer.values().all(|page| page.len() == page_size) { newer } else { HashMap::new() };
        Ok(Self { main, page_size, usable, newer, budget: main.len().saturating_add(log.len()) })
    }

    fn page(&self, number: u32) -> Result<&'a [u8]> {
        if let Some(page) = self.newer.get(&number) {
            return Ok(&page[..self.usable]);
        }
        let start = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1)?.checked_mul(self.page_size));
        let page = start.and_then(|start| self.main.get(start..)?.get(..self.usable));
        page.ok_or_else(|| damaged("a page lies beyond its end"))
    }

    /// Returns the records of a table by its root page.
    fn rows(&mut self, root: u32) -> Result<Vec<Vec<u8>>> {
        let (mut rows, mut visited) = (Vec::new(), HashSet::new());
        let mut pending = vec![root];
        while let Some(number) = pending.pop() {
            if !visited.insert(number) {
                return Err(damaged("a page is its own ancestor"));
            }
            let page = self.page(number)?;
            let start = if number == 1 { FILE_HEADER } else { 0 };
            let header = page.get(start..start + 12).ok_or_else(|| damaged("a page is cut short"))?;
            let count = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let first = start + if header[0] == INTERIOR { 12 } else { 8 };
            let places =
                page.get(first..first + 2 * count).ok_or_else(|| damaged("a page has too many cells"))?;
            let cells = places
                .as_chunks::<2>()
                .0
                .iter()
                .map(|place| page.get(usize::from(u16::from_be_bytes(*place))..));
            match header[0] {
                INTERIOR => {
                    let mut children = Vec::with_capacity(count + 1);
                    for cell in cells {
                        children.push(
                            cell.and_then(word).ok_or_else(|| damaged("a cell lies outside of its page"))?,
                        );
                    }
                    children.extend(word(&header[8..]));
                    pending.extend(children.into_iter().rev());
                }
                LEAF => {
                    for cell in cells {
                        let cell = cell.ok_or_else(|| damaged("a cell lies outside of its page"))?;
                        rows.push(self.payload(cell)?);
                    }
                }
                _ => return Err(damaged("a page is not one of a table")),
            }
        }
        Ok(rows)
    }

    /// Returns the record of a leaf's cell, with what of it lies on other pages.
    fn payload(&mut self, cell: &[u8]) -> Result<Vec<u8>> {
        let short = || damaged("a row is cut short");
        let (length, rest) = varint(cell).ok_or_else(short)?;
        let (_key, rest) = varint(rest).ok_or_else(short)?;
        let length = usize::try_from(length).map_err(|_| short())?;
        self.budget =
            self.budget.checked_sub(length).ok_or_else(|| damaged("its rows have more bytes than it has"))?;
        let local = self.local(length);
        let mut bytes = rest.get(..local).ok_or_else(short)?.to_vec();
        let mut next = if local < length { word(&rest[local..]).ok_or_else(short)? } else { 0 };
        while bytes.len() < length {
            let page = self.page(next)?;
            let part = (length - bytes.len()).min(self.usable - 4);
            bytes.extend(&page[4..4 + part]);
            next = word(page).ok_or_else(short)?;
        }
        Ok(bytes)
    }

    /// Returns how many bytes of a record are in the cell itself.
    fn local(&self, length: usize) -> usize {
        let most = self.usable - 35;
        if length <= most {
            return length;
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let fitting = least + (length - least) % (self.usable - 4);
        if fitting <= most { fitting } else { least }
    }
}

/// Returns the pages of a write-ahead log, the newest of each, up to its last commit. What does not match its checksums was never finished.
fn committed(log: &[u8]) -> HashMap<u32, &[u8]> {
    const FRAME: usize = 24;
    let mut pages = HashMap::new();
    let Some(header) = log.first_chunk::<32>() else { return pages };
    let words = header.as_chunks::<4>().0;
    let magic = u32::from_be_bytes(words[0]);
    if magic & !1 != 0x377f_0682 {
        return pages;
    }
    let number = if magic & 1 == 1 { u32::from_be_bytes } else { u32::from_le_bytes };
    let mut sum = checksum((0, 0), &header[..24], number);
    if [sum.0, sum.1].map(u32::to_be_bytes).as_slice() != &words[6..8] {
        return pages;
    }
    let size = usize::try_from(u32::from_be_bytes(words[2])).unwrap_or(0);
    let mut uncommitted = Vec::new();
    for frame in log[32..].chunks_exact(FRAME.saturating_add(size)) {
        let (frame, page) = frame.split_at(FRAME);
        let frame_words = frame.as_chunks::<4>().0;
        sum = checksum(checksum(sum, &frame[..8], number), page, number);
        let is_whole = frame_words[2..4] == words[4..6]
            && [sum.0, sum.1].map(u32::to_be_bytes).as_slice() == &frame_words[4..6];
        if !is_whole {
            break;
        }
        uncommitted.push((u32::from_be_bytes(frame_words[0]), page));
        // The number of pages after a commit; 0 in all other frames.
        if frame_words[1] != [0; 4] {
            pages.extend(uncommitted.drain(..));
        }
    }
    pages
}

fn checksum(sum: (u32, u32), bytes: &[u8], number: fn([u8; 4]) -> u32) -> (u32, u32) {
    bytes.as_chunks::<8>().0.iter().fold(sum, |(a, b), pair| {
        let words = pair.as_chunks::<4>().0;
        let a = a.wrapping_add(number(words[0])).wrapping_add(b);
        (a, b.wrapping_add(number(words[1])).wrapping_add(a))
    })
}

/// Splits a record into the bytes of its columns.
fn columns(record: &[u8]) -> Option<Vec<&[u8]>> {
    let (header_length, rest) = varint(record)?;
    let header_length = usize::try_from(header_length).ok()?;
    let mut kinds = record.get(record.len() - rest.len()..header_length)?;
    let mut data = record.get(header_length..)?;
    let mut columns = Vec::new();
    while !kinds.is_empty() {
        let (kind, rest) = varint(kinds)?;
        kinds = rest;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => (kind - 12) / 2,
        };
        let (column, rest) = data.split_at_checked(usize::try_from(length).ok()?)?;
        columns.push(column);
        data = rest;
    }
    Some(columns)
}

/// Returns the number of a page that a column holds.
fn number(column: &[u8]) -> Option<u32> {
    let value =
        column.iter().try_fold(0_u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)))?;
    u32::try_from(value).ok().filter(|value| *value > 0)
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// Takes a number of one to nine bytes off the beginning.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (place, byte) in bytes.iter().take(9).enumerate() {
        if place == 8 {
            return Some((value << 8 | u64::from(*byte), &bytes[9..]));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by SQLite 3 with pages of 512 bytes: row 3n holds 7n bytes of value n, for n up to 200. The log then removes row 3 and gives
    /// row 6 other bytes.
    fn fixture() -> (Vec<u8>, Vec<u8>) {
        let unpacked = |bytes: &[u8]| zstd::decode_all(bytes).unwrap();
        (
            unpacked(include_bytes!("fixtures/rows.sqlite.zst")),
            unpacked(include_bytes!("fixtures/rows.sqlite-wal.zst")),
        )
    }

    fn row(number: usize) -> Vec<u8> {
        vec![u8::try_from(number % 256).unwrap(); number * 7]
    }

    #[test]
    fn rows_are_read_across_pages_in_the_order_of_their_keys() {
        let (main, _) = fixture();
        assert_eq!(blobs(&main, b"", "Packages").unwrap(), (1..=200).map(row).collect::<Vec<_>>());
        assert_eq!(blobs(&main, b"", "Name").unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(blobs(&main, b"", "Nothing").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn what_the_log_has_committed_counts_and_what_it_has_not_does_not() {
        let (main, mut log) = fixture();
        let found = blobs(&main, &log, "Packages").unwrap();
        assert_eq!((found.len(), found[0].as_slice()), (199, b"changed".repeat(100).as_slice()));
        // A log of another time, and one whose last frame is torn.
        let last = log.len() - 1;
        log[last] ^= 1;
        assert_eq!(blobs(&main, &log, "Packages").unwrap().len(), 200);
        log[17] ^= 1;
        assert_eq!(blobs(&main, &log, "Packages").unwrap().len(), 200);
    }

    #[test]
    fn pages_in_a_circle_end() {
        let (mut main, _) = fixture();
        // Every interior page's right-most child is the first page.
        for page in (0..main.len()).step_by(512) {
            let at = if page == 0 { FILE_HEADER } else { page };
            if main[at] == INTERIOR {
                main[at + 8..at + 12].copy_from_slice(&1_u32.to_be_bytes());
            }
        }
        assert_eq!(blobs(&main, b"", "Packages").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn damaged_files_are_errors_or_read(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            in_log in any::<bool>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut main, mut log) = fixture();
            let bytes = if in_log { &mut log } else { &mut main };
            for (place, byte) in damage {
                // Most of what decides is at the beginning.
                let place = if byte & 1 == 0 { place.index(2048) } else { place.index(bytes.len()) };
                bytes[place] = byte;
            }
            bytes.truncate(cut.index(bytes.len() * 4).max(100));
            drop(blobs(&main, &log, "Packages"));
        }
    }
}
