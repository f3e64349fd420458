//! A tar stream, member by member: headers merged, data to be read in between. Never touches a tree.
//!
//! Understood: the seventh edition's tar, ustar, GNU (long names, base-256 numbers, sparse files), PAX
//! (`x`, `g`, SCHILY and LIBARCHIVE attributes, sparse files 0.0 to 1.0). Refused, because tar programs
//! disagree about them: unknown types, data behind links and devices, a lone block of zeros, extension headers
//! that come twice or belong to nothing, `..` and absolute names.

pub(super) mod sparse;

use std::io::{self, BufRead};

use rootling_backends::{Context, Error, ErrorKind, Result};

use self::sparse::Map;
use super::compression::read_up_to;
use super::header::{BLOCK, Raw, corrupt};
use super::member::{Content, Member};
use super::pax::Records;

/// What an archive may ask for. Each is an error that names the member when it is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members.
    pub members: u64,
    /// Sum of the file sizes, holes included.
    pub bytes: u64,
    /// Length of the tar, all that follows its end included: what a few packed bytes can become.
    pub archive_bytes: u64,
    /// Bytes of the extension headers of one member: an attribute takes up to 64 KiB, a name up to 4.
    pub extension_bytes: u64,
}

impl Default for Limits {
    /// What no root filesystem in its senses needs.
    fn default() -> Self {
        Self { members: 50_000_000, bytes: 4 << 40, archive_bytes: 5 << 40, extension_bytes: 2 << 20 }
    }
}

/// `PATH_MAX` without its NUL: what a system call takes.
pub(super) const PATH_BYTES: usize = 4095;
/// `NAME_MAX`.
const NAME_BYTES: usize = 255;

/// An archive that is being read.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    limits: Limits,
    offset: u64,
    /// Data of the present member that was not read yet, and the filling behind it.
    data: u64,
    filling: u64,
    global: Records,
    members: u64,
    bytes: u64,
    finished: bool,
    /// Are absolute names taken as relative to the root?
    trims: bool,
}

/// A member and how its data lies in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the headers say.
    pub member: Member,
    /// Does it have ACLs in a form that is not read (star's text)?
    pub has_text_acl: bool,
    pub(super) map: Option<Map>,
}

impl Entry {
    /// Is its data stored without its holes?
    pub fn is_sparse(&self) -> bool {
        self.map.is_some()
    }
}

/// What extension headers said about the member to come.
#[derive(Debug, Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    local: Option<Records>,
    bytes: u64,
}

impl<R: BufRead> Archive<R> {
    /// Starts reading a tar that is not packed (see [`decompress`](super::decompress)).
    pub fn new(reader: R, limits: Limits) -> Self {
        Self {
            reader,
            limits,
            offset: 0,
            data: 0,
            filling: 0,
            global: Records::default(),
            members: 0,
            bytes: 0,
            finished: false,
            trims: false,
        }
    }

    /// Takes absolute names as relative to the root, instead of refusing them.
    #[must_use]
    pub(super) fn trimming(self) -> Self {
        Self { trims: true, ..self }
    }

    /// Returns how many bytes of the tar were read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next member; what is left of the data of the one before is skipped.
    ///
    /// At the end, the rest of the stream is read too: whoever packs or hashes it sees all of it.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.finished {
            return Ok(None);
        }
        self.skip_data()?;
        self.check_length()?;
        let start = self.offset;
        let entry = self.read_entry().context(|| format!("read archive member at offset {start}"))?;
        match &entry {
            Some(entry) => self.count(entry).context(|| format!("read archive member at offset {start}"))?,
            None => {
                self.finished = true;
                self.drain()?;
            }
        }
        Ok(entry)
    }

    fn count(&mut self, entry: &Entry) -> Result<()> {
        self.members += 1;
        self.bytes = self.bytes.saturating_add(entry.member.size());
        let Limits { members, bytes, .. } = self.limits;
        if self.members > members {
            return Err(too_large(format!("the archive has more than {members} members")));
        }
        if self.bytes > bytes {
            return Err(too_large(format!("the files up to this one add up to more than {bytes} bytes")));
        }
        Ok(())
    }

    /// Fills `buffer` with data of the present member as it is stored; returns 0 at its end.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = usize::try_from(self.data).map_or(buffer.len(), |data| data.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let offset = self.offset;
        let read = read_up_to(&mut self.reader, &mut buffer[..wanted])
            .context(|| format!("read archive at offset {offset}"))?;
        self.offset += read as u64;
        if read < wanted {
            return Err(self.truncated(self.data - read as u64));
        }
        self.data -= read as u64;
        Ok(read)
    }

    /// Returns data of the present member as it lies in the reader's buffer, up to `limit` bytes and not all of it; nothing at
    /// its end. What was used of it is [consumed](Self::consume_data) before the next call.
    pub(super) fn data(&mut self, limit: u64) -> Result<&[u8]> {
        let limit = limit.min(self.data);
        if limit == 0 {
            return Ok(&[]);
        }
        if self.filled()? == 0 {
            return Err(self.truncated(self.data));
        }
        let offset = self.offset;
        let buffer = self.reader.fill_buf().context(|| format!("read archive at offset {offset}"))?;
        Ok(&buffer[..usize::try_from(limit).map_or(buffer.len(), |limit| limit.min(buffer.len()))])
    }

    /// Takes bytes that [`data`](Self::data) returned.
    pub(super) fn consume_data(&mut self, length: usize) {
        self.reader.consume(length);
        self.offset += length as u64;
        self.data -= length as u64;
    }

    /// Fills the reader's buffer and returns how many bytes are in it: none at the end of the stream.
    fn filled(&mut self) -> Result<usize> {
        loop {
            match self.reader.fill_buf() {
                Ok(buffer) => return Ok(buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::io(format!("read archive at offset {}", self.offset), error));
                }
            }
        }
    }

    fn truncated(&self, missing: u64) -> Error {
        corrupt(format!("the archive ends at offset {}, {missing} bytes too early", self.offset))
            .hint("the archive was not copied whole: fetch it again")
    }

    // ------------------------------------------------------------ headers

    fn read_entry(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.header_block(extensions.bytes > 0)? else { return Ok(None) };
            let raw = Raw::parse(&block)?;
            let twice = |name: &str| corrupt(format!("two {name} headers for one member"));
            match raw.kind {
                b'L' => {
                    let path = self.extension(&raw, &mut extensions)?;
                    if extensions.long_path.replace(until_nul(path)).is_some() {
                        return Err(twice("long name"));
                    }
                }
                b'K' => {
                    let link = self.extension(&raw, &mut extensions)?;
                    if extensions.long_link.replace(until_nul(link)).is_some() {
                        return Err(twice("long link"));
                    }
                }
                b'x' | b'X' => {
                    let data = self.extension(&raw, &mut extensions)?;
                    let mut records = self.global.clone();
                    records.merge(&data)?;
                    if extensions.local.replace(records).is_some() {
                        return Err(twice("PAX"));
                    }
                }
                b'g' => {
                    let data = self.extension(&raw, &mut extensions)?;
                    self.global.merge(&data)?;
                    if !self.global.can_be_global() {
                        return Err(corrupt("a global PAX header gives one name or size to all members"));
                    }
                }
                // A volume's label is no member.
                b'V' => self.begin_data(raw.size).and_then(|()| self.skip_data())?,
                _ => return self.entry(raw, extensions).map(Some),
            }
        }
    }

    /// Returns the next header, or nothing at the end of the archive.
    fn header_block(&mut self, inside: bool) -> Result<Option<[u8; BLOCK]>> {
        let first = self.block()?;
        let ended = match first {
            Some(block) if block != [0; BLOCK] => return Ok(Some(block)),
            None => true,
            Some(_) => self.block()?.is_none_or(|block| block == [0; BLOCK]),
        };
        if !ended {
            return Err(corrupt("a lone block of zeros stands before more members"));
        }
        if inside {
            return Err(corrupt("the archive ends after an extension header"));
        }
        Ok(None)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let offset = self.offset;
        let read = read_up_to(&mut self.reader, &mut block)
            .context(|| format!("read archive at offset {offset}"))?;
        self.offset += read as u64;
        match read {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(self.truncated((BLOCK - read) as u64)),
        }
    }

    /// Returns the data of an extension header.
    fn extension(&mut self, raw: &Raw, extensions: &mut Extensions) -> Result<Vec<u8>> {
        extensions.bytes = extensions.bytes.saturating_add(raw.size).saturating_add(BLOCK as u64);
        let limit = self.limits.extension_bytes;
        if extensions.bytes > limit {
            let kind = char::from(raw.kind);
            return Err(too_large(format!(
                "the extension headers up to this '{kind}' are longer than {limit} bytes"
            )));
        }
        self.begin_data(raw.size)?;
        let mut data = vec![0; usize::try_from(raw.size).expect("below the limit")];
        self.read_data(&mut data)?;
        self.skip_data()?;
        Ok(data)
    }

    fn entry(&mut self, raw: Raw, extensions: Extensions) -> Result<Entry> {
        let records = extensions.local.unwrap_or_else(|| self.global.clone());
        let name = records.sparse.name.clone().or(records.path).or(extensions.long_path).unwrap_or(raw.path);
        let link = records.link.or(extensions.long_link).unwrap_or(raw.link);
        let shown = String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
        let context = || format!("member {shown:?}");

        let stored = records.size.unwrap_or(raw.size);
        let kind = effective_kind(raw.kind, &name, stored).context(context)?;
        self.begin_data(if kind == b'1' { 0 } else { stored }).context(context)?;
        let map = if matches!(kind, b'0' | b'S') {
            self.map(raw.sparse.as_ref(), records.sparse, stored).context(context)?
        } else {
            None
        };
        let content = content(
            kind,
            self.trimmed(link, kind == b'1'),
            raw.device,
            map.as_ref().map_or(stored, |map| map.real_size),
        );
        let mut xattrs = records.xattrs;
        xattrs.sort();
        let member = Member {
            path: relative(&self.trimmed(name, true)).context(context)?,
            content: content.context(context)?,
            mode: raw.mode,
            uid: id(records.uid.unwrap_or(raw.uid), "uid").context(context)?,
            gid: id(records.gid.unwrap_or(raw.gid), "gid").context(context)?,
            mtime: records.mtime.unwrap_or((raw.mtime, 0)),
            xattrs,
        };
        if member.path.is_empty() && member.content != Content::Directory {
            return Err(refused("the root of the tree would be no directory")).context(context);
        }
        Ok(Entry { member, has_text_acl: records.text_acl, map })
    }

    /// Takes the slashes at the beginning of a name, where that is asked for. The text of a symbolic link is no name.
    fn trimmed(&self, name: Vec<u8>, is_name: bool) -> Vec<u8> {
        let slashes = name.iter().take_while(|byte| **byte == b'/').count();
        if !self.trims || !is_name || slashes == 0 {
            return name;
        }
        if slashes == name.len() { b".".to_vec() } else { name[slashes..].to_vec() }
    }

    // ------------------------------------------------------------ data

    fn begin_data(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 - BLOCK as u64 {
            return Err(too_large(format!("a size of {size} bytes is more than any file has")));
        }
        self.data = size;
        self.filling = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<()> {
        let mut left = self.data + self.filling;
        while left > 0 {
            let available = self.filled()?;
            if available == 0 {
                // The last member's filling may be missing: its data is whole.
                return if left <= self.filling {
                    self.end_data()
                } else {
                    Err(self.truncated(left - self.filling))
                };
            }
            let step = usize::try_from(left).map_or(available, |left| left.min(available));
            self.reader.consume(step);
            self.offset += step as u64;
            left -= step as u64;
        }
        self.end_data()
    }

    fn end_data(&mut self) -> Result<()> {
        (self.data, self.filling) = (0, 0);
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            let read = self.filled()?;
            if read == 0 {
                return Ok(());
            }
            self.reader.consume(read);
            self.offset += read as u64;
            self.check_length()?;
        }
    }

    fn check_length(&self) -> Result<()> {
        let limit = self.limits.archive_bytes;
        if self.offset > limit {
            return Err(too_large(format!("the archive is longer than {limit} bytes")));
        }
        Ok(())
    }
}

/// Maps the type byte to the one it stands for, and refuses what tar programs do not agree on.
fn effective_kind(kind: u8, name: &[u8], size: u64) -> Result<u8> {
    let kind = match kind {
        // The seventh edition has no type for directories.
        0 | b'0' | b'7' if name.ends_with(b"/") => b'5',
        0 | b'0' | b'7' => b'0',
        b'1'..=b'6' | b'S' => kind,
        b'M' => return Err(unsupported("the archive is a further volume of another")),
        b'D' => return Err(unsupported("the archive is an incremental backup (GNU tar -g)")),
        other => return Err(unsupported(format!("the type '{}' is not known", other.escape_ascii()))),
    };
    // POSIX lets a hard link have a size, and writers put its file's there without the data.
    if matches!(kind, b'2'..=b'6') && size != 0 {
        return Err(corrupt(format!("a member of type '{}' has {size} bytes of data", char::from(kind))));
    }
    Ok(kind)
}

fn content(kind: u8, link: Vec<u8>, device: (u64, u64), size: u64) -> Result<Content> {
    let number = |number: u64| u32::try_from(number).map_err(|_| corrupt(format!("device number {number}")));
    Ok(match kind {
        b'1' => {
            let shown = String::from_utf8_lossy(&link).into_owned();
            let target = relative(&link).context(|| format!("hard link to {shown:?}"))?;
            if target.is_empty() {
                return Err(refused("it is a hard link to the root of the tree"));
            }
            Content::HardLink { target }
        }
        b'2' if link.is_empty() => return Err(corrupt("it is a symbolic link to nothing")),
        b'2' if link.len() > PATH_BYTES => {
            return Err(too_large("its link target is longer than 4095 bytes"));
        }
        b'2' if link.contains(&0) => return Err(corrupt("its link target holds a NUL")),
        b'2' => Content::Symlink { target: link },
        b'3' => Content::CharDevice { major: number(device.0)?, minor: number(device.1)? },
        b'4' => Content::BlockDevice { major: number(device.0)?, minor: number(device.1)? },
        b'5' => Content::Directory,
        b'6' => Content::Fifo,
        _ => Content::File { size, digest: None },
    })
}

/// Brings a name into the form of [`Member::path`], or refuses it.
fn relative(name: &[u8]) -> Result<Vec<u8>> {
    if name.is_empty() {
        return Err(corrupt("its name is empty"));
    }
    if name.starts_with(b"/") {
        return Err(refused("its name is absolute"));
    }
    if name.contains(&0) {
        return Err(refused("its name holds a NUL"));
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(refused("its name holds \"..\"")),
            // A whiteout is longer than the name it hides, and no name in the tree.
            _ if component.strip_prefix(b".wh.").unwrap_or(component).len() > NAME_BYTES => {
                return Err(too_large(format!("its name has a part of more than {NAME_BYTES} bytes")));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > PATH_BYTES {
        return Err(too_large(format!("its name is longer than {PATH_BYTES} bytes")));
    }
    Ok(path)
}

/// `u32::MAX` is no id: chown(2) takes it for "leave as it is".
fn id(number: u64, what: &str) -> Result<u32> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(corrupt(format!("its {what} is {number}"))),
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
    text
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
        .hint("archives that reach outside their tree are refused: pack the tree anew")
}

fn too_large(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn unsupported(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}
