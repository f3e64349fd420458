//! What an archive is packed with, told by its first bytes and never by its name.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::header::{BLOCK, is_header};

/// The ways of packing that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, of one or more members (`pigz`, `cat a.gz b.gz`).
    Gzip,
    /// xz, of one or more streams.
    Xz,
    /// zstd, of one or more frames.
    Zstd,
    /// bzip2, of one or more streams.
    Bzip2,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        })
    }
}

/// What is recognized only to be refused: magic bytes, name, and the one thing to do about it.
const REFUSED: &[(&[u8], &str, &str)] = &[
    (b"\x04\x22\x4d\x18", "lz4", "unpack it with `unlz4` first"),
    (b"\x1f\x9d", "compress (.Z)", "unpack it with `uncompress` first"),
    (b"LZIP", "lzip", "unpack it with `lzip -d` first"),
    (b"\x5d\x00\x00", "lzma", "unpack it with `unlzma` first"),
    (b"\x89LZO", "lzop", "unpack it with `lzop -d` first"),
    (b"PK\x03\x04", "zip", "give a tar of the root filesystem instead"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "give a tar of the root filesystem instead"),
    (b"Rar!", "rar", "give a tar of the root filesystem instead"),
    (b"hsqs", "squashfs", "mount it, or unpack it with `unsquashfs`, and give a tar of that"),
    (b"QFI\xfb", "qcow2", "give a tar of the root filesystem, not a disk image"),
    (b"070701", "cpio", "give a tar of the root filesystem instead"),
    (b"!<arch>\n", "ar (a .deb package?)", "give a tar of the root filesystem instead"),
    (b"\x7fELF", "ELF", "give a tar of the root filesystem instead"),
];

/// What zstd's window may take: 2^27 bytes, the most that its own program accepts unasked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// What an xz dictionary may take: `xz -9` needs 65 MiB to unpack.
const XZ_MEMORY_BYTES: u64 = 256 << 20;

/// Returns what `head`, the first 512 bytes of an archive (or all of a shorter one), is packed with.
pub fn detect(head: &[u8]) -> Result<Compression> {
    if head.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "read archive: it is empty")
            .hint("give a tar archive of a root filesystem"));
    }
    // A tar may begin with any name, "BZh" too: its checksum tells more than two or three magic bytes.
    if is_header(head) {
        return Ok(Compression::None);
    }
    for (magic, compression) in [
        (&b"\x1f\x8b"[..], Compression::Gzip),
        (b"\xfd7zXZ\x00", Compression::Xz),
        (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        (b"BZh", Compression::Bzip2),
    ] {
        if head.starts_with(magic) {
            return Ok(compression);
        }
    }
    // A skippable frame may come first: magic 0x184d2a50 to 0x184d2a5f, little endian (RFC 8878, 3.1.2).
    if head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18] {
        return Ok(Compression::Zstd);
    }
    if head.len() == BLOCK && head.iter().all(|byte| *byte == 0) {
        return Ok(Compression::None);
    }
    Err(refusal(head))
}

fn refusal(head: &[u8]) -> Error {
    for (magic, name, hint) in REFUSED {
        if head.starts_with(magic) {
            let message = format!("read archive: {name} is not supported");
            return Error::new(ErrorKind::Unsupported, message).hint(*hint);
        }
    }
    if head.len() > 262 && head[257..].starts_with(b"ustar") {
        return Error::new(ErrorKind::Corrupt, "read archive: the first tar header has a wrong checksum");
    }
    let start = head[..head.len().min(8)].escape_ascii();
    Error::new(
        ErrorKind::Unsupported,
        format!("read archive: neither tar, gzip, xz, zstd nor bzip2: \"{start}\""),
    )
    .hint("give a tar archive of a root filesystem, plain or packed with gzip, xz, zstd or bzip2")
}

/// A tar that is being unpacked.
pub(super) type Unpacked<'a> = Box<dyn Read + Send + 'a>;

/// Returns the tar inside `reader`, and what it was packed with.
///
/// Reads ahead of what is asked for. Checksums of the packing are verified at the end of the stream: a caller who
/// stops before it has not seen them.
pub fn decompress<'a>(reader: impl Read + Send + 'a) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    decompress_buffered(BufReader::with_capacity(BUFFER_BYTES, reader))
}

const BUFFER_BYTES: usize = 128 << 10;

/// The same with the caller's buffer.
pub(super) fn decompress_buffered<'a>(
    mut reader: impl BufRead + Send + 'a,
) -> Result<(Compression, Unpacked<'a>)> {
    let mut head = vec![0; BLOCK];
    let length = read_up_to(&mut reader, &mut head).context(|| "read archive at offset 0")?;
    head.truncate(length);
    let compression = detect(&head)?;
    let whole = Cursor::new(head).chain(reader);
    let unpacked: Unpacked<'a> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Xz => Box::new(xz(whole)?),
        Compression::Zstd => Box::new(zstd(whole)?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
    };
    Ok((compression, unpacked))
}

fn xz<R: BufRead>(reader: R) -> Result<liblzma::bufread::XzDecoder<R>> {
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES, liblzma::stream::CONCATENATED)
        .map_err(io::Error::from)
        .context(|| "start the xz decoder")?;
    Ok(liblzma::bufread::XzDecoder::new_stream(reader, stream))
}

fn zstd<R: BufRead>(reader: R) -> Result<zstd::Decoder<'static, R>> {
    let mut decoder = zstd::Decoder::with_buffer(reader).context(|| "start the zstd decoder")?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).context(|| "limit the zstd decoder's window")?;
    Ok(decoder)
}

/// Does it begin as a tar does, packed or not? Reads little of it, and what follows may still be anything.
pub fn is_archive(reader: impl Read + Send) -> bool {
    let Ok((_, mut tar)) = decompress(reader) else { return false };
    let mut head = vec![0; BLOCK];
    matches!(read_up_to(&mut tar, &mut head), Ok(BLOCK)) && is_header(&head)
}

/// Fills `buffer` as far as the stream reaches.
pub(super) fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
