//! What stands before the bytes of a binary file: what it is, how long, and a checksum.
//!
//! | bytes | |
//! |---|---|
//! | 0..8 | magic |
//! | 8..12 | version, 1 |
//! | 12..16 | flags, 0 |
//! | 16..24 | length of the payload |
//! | 24..40 | XXH3-128 of the payload |

use xxhash_rust::xxh3::xxh3_128;

const VERSION: u32 = 1;
/// Bytes before the payload.
pub(super) const HEADER: usize = 8 + 4 + 4 + 8 + 16;

/// Returns the file with a payload.
pub(super) fn seal(magic: &[u8; 8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&xxh3_128(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Returns the payload of a file; what does not match is refused with the reason, a lowercase fragment.
pub(super) fn open<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let (header, payload) = bytes.split_at_checked(HEADER).ok_or("is cut short")?;
    if &header[..8] != magic {
        return Err("does not begin as one");
    }
    let number = |range: std::ops::Range<usize>| {
        header[range].iter().rev().fold(0_u128, |number, byte| number << 8 | u128::from(*byte))
    };
    if number(8..12) != u128::from(VERSION) || number(12..16) != 0 {
        return Err("is of another version");
    }
    if number(16..24) != payload.len() as u128 {
        return Err("is cut short");
    }
    if number(24..40) != xxh3_128(payload) {
        return Err("does not match its checksum");
    }
    Ok(payload)
}
