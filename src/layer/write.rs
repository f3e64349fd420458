//! Members into tar headers: ustar, and before it a PAX header with what ustar cannot hold.
//!
//! | side of a member | ustar holds | else the PAX record |
//! |---|---|---|
//! | name | ASCII, 100 bytes, or 155 and 100 around a `/` | `path` |
//! | target of a link | ASCII, 100 bytes | `linkpath` |
//! | owner, group | below 8^7 | `uid`, `gid` |
//! | size | below 8^11 | `size` |
//! | time | whole seconds from 0 to 8^11 | `mtime` |
//! | extended attributes | none | `SCHILY.xattr.NAME` |
//!
//! Nothing here depends on anything but the member: no clock, no names of users, no process id. Records are sorted.

use super::header::BLOCK;
use super::member::{Content, Member};

/// What PAX headers are called: readers that know none of them would make files of this name.
const PAX_NAME: &[u8] = b"PaxHeaders/x";
/// The largest number in a field of eight and of twelve bytes.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Can an attribute of this name be written down? A record's key ends at its first `=`.
pub(super) fn can_hold_xattr(name: &[u8]) -> bool {
    !name.contains(&b'=')
}

/// Returns the headers of a member. Its data follows, filled up to a block.
pub(crate) fn headers(member: &Member) -> Vec<u8> {
    let mut records = Records::default();
    let mut header = Header::new(kind(&member.content));
    header.name(&name(member), &mut records);
    header.octal(100..108, u64::from(member.mode & 0o7777));
    header.number(108..116, OCTAL_7, u64::from(member.uid), b"uid", &mut records);
    header.number(116..124, OCTAL_7, u64::from(member.gid), b"gid", &mut records);
    header.number(124..136, OCTAL_11, member.size(), b"size", &mut records);
    header.time(member.mtime, &mut records);
    if let Content::Symlink { target } | Content::HardLink { target } = &member.content {
        header.link(target, &mut records);
    }
    if let Content::CharDevice { major, minor } | Content::BlockDevice { major, minor } = member.content {
        // Linux has 12 bits of major and 20 of minor numbers: seven octal digits hold both.
        header.octal(329..337, u64::from(major));
        header.octal(337..345, u64::from(minor));
    }
    for (attribute, value) in &member.xattrs {
        records.push(&[XATTR, attribute].concat(), value);
    }
    let mut bytes = records.header();
    bytes.extend_from_slice(&header.finish());
    bytes
}

fn kind(content: &Content) -> u8 {
    match content {
        Content::File { .. } => b'0',
        Content::HardLink { .. } => b'1',
        Content::Symlink { .. } => b'2',
        Content::CharDevice { .. } => b'3',
        Content::BlockDevice { .. } => b'4',
        Content::Directory => b'5',
        Content::Fifo => b'6',
    }
}

/// Returns the path as archives have it: that of a directory ends in `/`.
fn name(member: &Member) -> Vec<u8> {
    match member.content {
        Content::Directory if member.path.is_empty() => b"./".to_vec(),
        Content::Directory => [&member.path[..], b"/"].concat(),
        _ => member.path.clone(),
    }
}

/// A ustar header being written.
struct Header([u8; BLOCK]);

impl Header {
    fn new(kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[156] = kind;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header.octal(329..337, 0);
        header.octal(337..345, 0);
        header
    }

    /// Writes a number that fits.
    fn octal(&mut self, field: std::ops::Range<usize>, value: u64) {
        let digits = field.len() - 1;
        self.0[field].copy_from_slice(format!("{value:0digits$o}\0").as_bytes());
    }

    /// Writes a number, or a record where it does not fit.
    fn number(
        &mut self,
        field: std::ops::Range<usize>,
        max: u64,
        value: u64,
        key: &[u8],
        more: &mut Records,
    ) {
        if value <= max {
            return self.octal(field, value);
        }
        more.push(key, value.to_string().as_bytes());
        // Who knows no records shall not take it for something else: no size, nobody's file.
        self.octal(field, if key == b"size" { 0 } else { max });
    }

    fn time(&mut self, (seconds, nanoseconds): (i64, u32), more: &mut Records) {
        let whole = u64::try_from(seconds).ok().filter(|seconds| *seconds <= OCTAL_11);
        self.octal(136..148, whole.unwrap_or(if seconds < 0 { 0 } else { OCTAL_11 }));
        if whole.is_none() || nanoseconds != 0 {
            more.push(b"mtime", decimal(seconds, nanoseconds).as_bytes());
        }
    }

    fn name(&mut self, name: &[u8], more: &mut Records) {
        let split = split(name).filter(|_| name.is_ascii());
        let (prefix, last) = split.unwrap_or_else(|| {
            more.push(b"path", name);
            (&[], &name[..name.len().min(100)])
        });
        self.0[..last.len()].copy_from_slice(last);
        self.0[345..345 + prefix.len()].copy_from_slice(prefix);
    }

    fn link(&mut self, target: &[u8], more: &mut Records) {
        if target.len() > 100 || !target.is_ascii() {
            more.push(b"linkpath", target);
        }
        let target = &target[..target.len().min(100)];
        self.0[157..157 + target.len()].copy_from_slice(target);
    }

    /// Adds the checksum: the sum of all bytes, its own field counted as spaces.
    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.0[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0
    }
}

/// Splits a name into what goes into the fields `prefix` and `name`; `None` if it is too long for them.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((&[], name));
    }
    // The last byte is no place to split: it may be a directory's `/`.
    let slash = name[..name.len().min(157) - 1].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, last) = (&name[..slash], &name[slash + 1..]);
    (!prefix.is_empty() && last.len() <= 100).then_some((prefix, last))
}

/// Writes a time as POSIX has it: -7.25 is a quarter of a second before -7.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let (sign, whole, part) = match (seconds, nanoseconds) {
        (0.., _) => ("", seconds.unsigned_abs(), nanoseconds),
        (_, 0) => ("-", seconds.unsigned_abs(), 0),
        _ => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    };
    let text = format!("{sign}{whole}.{part:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The records of one PAX header: keys and values.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }

    /// Returns the header and its data; nothing if there are no records.
    fn header(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        self.0.sort();
        let data: Vec<u8> = self.0.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut header = Header::new(b'x');
        header.0[..PAX_NAME.len()].copy_from_slice(PAX_NAME);
        header.octal(100..108, 0o644);
        header.octal(108..116, 0);
        header.octal(116..124, 0);
        header.octal(124..136, data.len() as u64);
        header.octal(136..148, 0);
        let mut bytes = header.finish().to_vec();
        bytes.extend_from_slice(&data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

/// Returns one record: its length, which counts its own digits, key and value.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + " =\n".len();
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::super::read::{Archive, Limits};
    use super::*;

    fn file(path: &[u8]) -> Member {
        let content = Content::File { size: 0, digest: None };
        Member {
            path: path.to_vec(),
            content,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (1, 0),
            xattrs: Vec::new(),
        }
    }

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record(b"a", b"b"), b"6 a=b\n");
        assert_eq!(record(b"key", b"v45"), b"11 key=v45\n");
        let long = record(b"k", &[b'x'; 95]);
        assert_eq!((long.len(), &long[..4]), (102, &b"102 "[..]));
    }

    #[test]
    fn times_before_1970_are_negative_fractions() {
        for (time, text) in [
            ((0, 5), "0.000000005"),
            ((12, 500_000_000), "12.5"),
            ((-7, 0), "-7"),
            ((-8, 750_000_000), "-7.25"),
            ((-1, 1), "-0.999999999"),
            ((1 << 34, 0), "17179869184"),
            ((100, 0), "100"),
        ] {
            assert_eq!(decimal(time.0, time.1), text);
        }
    }

    #[test]
    fn ordinary_members_have_one_header_and_odd_ones_come_back_whole() {
        let long = vec![b'n'; 100];
        let split = [&[b'p'; 155][..], b"/", &long].concat();
        for path in [&b"etc/passwd"[..], &long, &split] {
            assert_eq!(headers(&file(path)).len(), BLOCK, "{}", path.escape_ascii());
        }
        let mut odd = vec![
            file("\u{e9}".as_bytes()),
            file(b"\xff"),
            file(&[&[b'p'; 156][..], b"/x"].concat()),
            file(&[b'n'; 101]),
            file(&[&[b'p'; 60][..], b"/", &[b'n'; 101]].concat()),
            Member { uid: 1 << 21, gid: 4_000_000_000, ..file(b"owner") },
            Member { mtime: (-3, 7), ..file(b"old") },
            Member { mtime: (1 << 33, 0), ..file(b"late") },
            Member { xattrs: vec![(b"user.a".to_vec(), b"\0=\n".to_vec())], ..file(b"attribute") },
        ];
        let target = vec![b't'; 101];
        odd.push(Member { content: Content::Symlink { target: target.clone() }, ..file(b"symlink") });
        odd.push(Member { content: Content::HardLink { target }, ..file(b"link") });
        odd.push(Member { content: Content::Directory, ..file(&[&[b'd'; 99][..], b"/e"].concat()) });
        odd.push(Member { content: Content::File { size: 1 << 33, digest: None }, ..file(b"large") });
        for member in odd {
            let bytes = headers(&member);
            let is_split = member.content == Content::Directory;
            assert_eq!(bytes.len() == BLOCK, is_split, "{}", member.path.escape_ascii());
            let limits = Limits { bytes: u64::MAX, ..Limits::default() };
            let read = Archive::new(&bytes[..], limits).next_entry().unwrap().unwrap().member;
            assert_eq!(read, member);
        }
    }
}
