//! One 512-byte tar header: its numbers and names, without what extension headers say.
//!
//! Layout and checksum are tar-core's. Numbers are ours: tar-core 0.1 drops the high bits of a base-256
//! number that is too long, and has no negative ones.

use rootling_backends::{Error, ErrorKind, Result};
use tar_core::Header;

/// Everything in a tar comes in blocks of this many bytes.
pub(super) const BLOCK: usize = 512;

/// Is this block a header with the right checksum?
pub(super) fn is_header(block: &[u8]) -> bool {
    block.first_chunk::<BLOCK>().is_some_and(|block| {
        // A block of zeros has the checksum 256 and none written: it ends an archive.
        Header::from_bytes(block).verify_checksum().is_ok()
    })
}

/// What one header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    /// The type byte.
    pub(super) kind: u8,
    /// The name, `prefix` included.
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) device: (u64, u64),
    /// The four descriptors of an old GNU sparse file, does a block of more follow, and the file's real size.
    pub(super) sparse: Option<OldSparse>,
}

/// What the header of an old GNU sparse file adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldSparse {
    pub(super) descriptors: Vec<u8>,
    pub(super) extended: bool,
    pub(super) real_size: u64,
}

impl Raw {
    /// Parses a header that is not a block of zeros.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self> {
        let header = Header::from_bytes(block);
        header.verify_checksum().map_err(|_| corrupt("the header's checksum is wrong"))?;
        let mut path = Vec::new();
        if let Some(prefix) = header.prefix().filter(|prefix| !prefix.is_empty()) {
            path.extend_from_slice(prefix);
            path.push(b'/');
        }
        path.extend_from_slice(header.path_bytes());
        let kind = block[156];
        // A header of the seventh edition ends before the device fields.
        let device = match kind {
            b'3' | b'4' => (
                unsigned(&block[329..337], "device major number")?,
                unsigned(&block[337..345], "device minor number")?,
            ),
            _ => (0, 0),
        };
        let sparse = match kind {
            b'S' => Some(OldSparse {
                descriptors: block[386..482].to_vec(),
                extended: block[482] != 0,
                real_size: unsigned(&block[483..495], "real size")?,
            }),
            _ => None,
        };
        Ok(Self {
            kind,
            path,
            link: header.link_name_bytes().to_vec(),
            mode: u32::try_from(number(&block[100..108], "mode")? & 0o7777).expect("twelve bits"),
            uid: unsigned(&block[108..116], "uid")?,
            gid: unsigned(&block[116..124], "gid")?,
            size: unsigned(&block[124..136], "size")?,
            mtime: number(&block[136..148], "mtime")?,
            device,
            sparse,
        })
    }
}

/// Returns the error of an archive that is not what a writer wrote.
pub(super) fn corrupt(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Parses a number that cannot be negative.
pub(super) fn unsigned(field: &[u8], what: &str) -> Result<u64> {
    u64::try_from(number(field, what)?).map_err(|_| corrupt(format!("the header's {what} is negative")))
}

/// Parses a numeric field: octal digits, or GNU's base-256 (two's complement, marked by the top bit).
fn number(field: &[u8], what: &str) -> Result<i64> {
    let parsed = match field.first() {
        Some(0x80 | 0xff) => base_256(field),
        Some(first) if first & 0x80 != 0 => None,
        _ => octal(field),
    };
    parsed
        .ok_or_else(|| corrupt(format!("the header's {what} is not a number: \"{}\"", field.escape_ascii())))
}

fn base_256(field: &[u8]) -> Option<i64> {
    // 0x80 begins a positive, 0xff a negative number: both carry no digits of a value that fits 64 bits.
    let negative = field[0] == 0xff;
    let digits = &field[1..];
    let (high, low) = digits.split_at(digits.len().saturating_sub(8));
    let filler = if negative { 0xff } else { 0 };
    if high.iter().any(|byte| *byte != filler) {
        return None;
    }
    let start: i64 = if negative { -1 } else { 0 };
    let value = low.iter().fold(start, |value, byte| (value << 8) | i64::from(*byte));
    (negative == (value < 0)).then_some(value)
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let mut value: i64 = 0;
    for digit in &digits[..end] {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        // At most twelve digits of three bits: 36.
        value = value * 8 + i64::from(digit - b'0');
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_writers() {
        for (field, expected) in [
            (&b"0000755\0"[..], Some(0o755)),
            (b"   755 \0", Some(0o755)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\xb2\xd0\x5e\0", Some(3_000_000_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\0\0\0\0\0\0\0\0\0\0\0", None),
            (b"\xc0\0\0\0\0\0\0\x01", None),
            (b"0000799\0", None),
            (b"-0000001", None),
            (b"0x1f\0\0\0\0", None),
        ] {
            assert_eq!(number(field, "size").ok(), expected, "{}", field.escape_ascii());
        }
    }
}
