//! The records of PAX extended headers (POSIX.1-2001, `x` and `g`), GNU's and SCHILY's keywords included.
//!
//! A record is `LENGTH KEY=VALUE\n`, framed by its length alone: values hold newlines, `=` and any bytes.
//! tar-core's iterator ends quietly at a length that is not a number; here that is an error, because the
//! records behind it would be lost.

use rootling_backends::{Error, ErrorKind, Result};

use super::header::corrupt;
use super::read::sparse::Region;

/// What the records of one header say; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
    /// ACLs in star's text form, which need the names of the archive's own users.
    pub(super) text_acl: bool,
}

/// The `GNU.sparse.*` records: versions 0.0 and 0.1 hold the map, 1.0 puts it before the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) version: (Option<u64>, Option<u64>),
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Option<Vec<Region>>,
    offset: Option<u64>,
}

/// The most regions that a sparse file may have: what 24 MiB of memory hold.
pub(super) const REGIONS: usize = 1 << 20;
/// XATTR_SIZE_MAX (linux/limits.h).
const XATTR_BYTES: usize = 65536;
/// XATTR_NAME_MAX (linux/limits.h).
const XATTR_NAME_BYTES: usize = 255;

impl Records {
    /// Merges the records of one header into these: a later one wins, an empty value takes an earlier one away.
    pub(super) fn merge(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let (key, value, rest) = record(data)?;
            self.set(key, value)?;
            data = rest;
        }
        match self.sparse.offset {
            Some(_) => Err(corrupt("the last GNU.sparse.offset has no GNU.sparse.numbytes")),
            None => Ok(()),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let some = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = some(),
            b"linkpath" => self.link = some(),
            b"size" => self.size = decimal_if_any(key, value)?,
            b"uid" => self.uid = decimal_if_any(key, value)?,
            b"gid" => self.gid = decimal_if_any(key, value)?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| malformed(key, value))?),
            b"SCHILY.acl.access" | b"SCHILY.acl.default" => self.text_acl = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    return self.set_xattr(name.to_vec(), value.to_vec(), true);
                }
                if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = percent_decoded(name).ok_or_else(|| malformed(key, value))?;
                    let value = base64_decoded(value).ok_or_else(|| malformed(key, value))?;
                    return self.set_xattr(name, value, false);
                }
                if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    return self.sparse.set(name, key, value);
                }
                // Times that cannot be set, user names, comments, character sets, fflags, SELinux contexts.
            }
        }
        Ok(())
    }

    /// bsdtar writes both forms: SCHILY's is the bytes themselves, so it wins.
    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>, replace: bool) -> Result<()> {
        if name.is_empty() || name.len() > XATTR_NAME_BYTES || name.contains(&0) || value.len() > XATTR_BYTES
        {
            let (shown, bytes) = (name[..name.len().min(80)].escape_ascii(), value.len());
            let message =
                format!("extended attribute \"{shown}\" ({bytes} bytes) exceeds the kernel's limits");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        match self.xattrs.iter_mut().find(|(known, _)| *known == name) {
            Some(known) if replace => known.1 = value,
            Some(_) => {}
            None => self.xattrs.push((name, value)),
        }
        Ok(())
    }

    /// Is there nothing here that makes sense for a single member only?
    pub(super) fn can_be_global(&self) -> bool {
        self.path.is_none()
            && self.link.is_none()
            && self.size.is_none()
            && self.sparse == SparseRecords::default()
    }
}

impl SparseRecords {
    fn set(&mut self, name: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
        match name {
            b"major" => self.version.0 = Some(decimal(key, value)?),
            b"minor" => self.version.1 = Some(decimal(key, value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(key, value)?),
            b"map" => self.map = Some(comma_map(key, value)?),
            b"offset" => {
                let offset = decimal(key, value)?;
                if self.offset.replace(offset).is_some() {
                    return Err(corrupt("two GNU.sparse.offset without GNU.sparse.numbytes between"));
                }
            }
            b"numbytes" => {
                let length = decimal(key, value)?;
                let offset = self
                    .offset
                    .take()
                    .ok_or_else(|| corrupt("a GNU.sparse.numbytes has no GNU.sparse.offset"))?;
                push(self.map.get_or_insert_default(), Region { offset, length })?;
            }
            // numblocks says again how many regions come.
            _ => {}
        }
        Ok(())
    }
}

/// Adds a region to a map that the archive lets grow.
pub(super) fn push(map: &mut Vec<Region>, region: Region) -> Result<()> {
    if map.len() == REGIONS {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("a sparse file has more than {REGIONS} regions"),
        ));
    }
    map.push(region);
    Ok(())
}

fn comma_map(key: &[u8], value: &[u8]) -> Result<Vec<Region>> {
    let mut map = Vec::new();
    let mut numbers = value.split(|byte| *byte == b',').filter(|text| !text.is_empty());
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(|| malformed(key, value))?;
        push(&mut map, Region { offset: decimal(key, offset)?, length: decimal(key, length)? })?;
    }
    Ok(map)
}

/// Splits the first record off.
fn record(data: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let bad = || {
        let shown = data[..data.len().min(40)].escape_ascii();
        corrupt(format!("a PAX record is malformed: \"{shown}\""))
    };
    let space = data.iter().take(20).position(|byte| *byte == b' ').ok_or_else(bad)?;
    let length = digits(&data[..space]).and_then(|length| usize::try_from(length).ok()).ok_or_else(bad)?;
    if length > data.len() || length < space + 3 || data[length - 1] != b'\n' {
        return Err(bad());
    }
    let (record, rest) = data.split_at(length);
    let text = &record[space + 1..length - 1];
    let equals = text.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
    Ok((&text[..equals], &text[equals + 1..], rest))
}

fn malformed(key: &[u8], value: &[u8]) -> Error {
    let value = value[..value.len().min(40)].escape_ascii();
    corrupt(format!("PAX record {} has the value \"{value}\"", key.escape_ascii()))
}

fn decimal_if_any(key: &[u8], value: &[u8]) -> Result<Option<u64>> {
    if value.is_empty() { Ok(None) } else { decimal(key, value).map(Some) }
}

fn decimal(key: &[u8], value: &[u8]) -> Result<u64> {
    digits(value).ok_or_else(|| malformed(key, value))
}

/// Parses decimal digits and nothing else: `u64::from_str` takes a sign, too.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Parses `-1.25` as (-2, 750000000): nanoseconds count upwards from the second before.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(digits(&text[..dot])?).ok()?;
    let fraction = text.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds =
        (0..9).fold(0, |value, at| value * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0')));
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte == b'%' {
            let high = char::from(*bytes.next()?).to_digit(16)?;
            let low = char::from(*bytes.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
        } else {
            decoded.push(*byte);
        }
    }
    Some(decoded)
}

/// libarchive writes base64 without padding; other writers pad.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.iter().filter(|byte| !matches!(byte, b'=' | b'\n')) {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push(u8::try_from(bits >> count & 0xff).expect("eight bits"));
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_up_from_the_second_before() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1700000000.1234567899", Some((1_700_000_000, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("5.", Some((5, 0))),
            ("", None),
            (".5", None),
            ("--1", None),
            ("1e9", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn records_are_framed_by_length_alone() {
        let mut records = Records::default();
        records.merge(b"27 SCHILY.xattr.user.a=\n=\0\n12 path=a b\n").unwrap();
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"\n=\0".to_vec())]);
        assert_eq!(records.path.as_deref(), Some(&b"a b"[..]));
        for bad in
            ["x path=a\n", "8 path=a\n", "99 path=a\n", "3 \n", "0 a=b\n", "10 path=ab", "9 pathab\n\n"]
        {
            assert!(Records::default().merge(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_raw_form_of_an_attribute_wins() {
        let mut records = Records::default();
        records.merge(b"30 LIBARCHIVE.xattr.user.%41=aGk\n").unwrap_err();
        records.merge(b"33 LIBARCHIVE.xattr.user.%41=aGk\n24 SCHILY.xattr.user.A=\n").unwrap();
        assert_eq!(records.xattrs, [(b"user.A".to_vec(), Vec::new())]);
        assert_eq!(base64_decoded(b"AAECAwT+/w=="), Some(vec![0, 1, 2, 3, 4, 0xfe, 0xff]));
    }
}
