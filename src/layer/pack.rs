//! A tar on its way to a blob: packed, and the digests of both forms taken, in one pass.
//!
//! ```text
//! producer ── blocks of 1 MiB ──┬──> SHA-256 of the tar: the diff ID
//!                               └──> compression (gzip: on all cores) ──> SHA-256 of the blob ──> sink
//! ```
//!
//! Each part is a thread of its own and waits for the next: a few blocks are in memory at a time, whatever the size. Where the
//! sink fails, the producer is stopped at its next block and the sink's error is the one that is returned.

use std::fmt;
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::compression::Compression;
use super::gzip;
use crate::image::{Algorithm, Descriptor, DiffId, Digest, Hasher, media_type};

/// What the producer hands on at a time, and what gzip compresses alone. Part of what comes out: see [`Recipe`].
pub(super) type Block = Arc<Vec<u8>>;
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that wait before each of the two consumers.
const WAITING: usize = 2;

/// How to pack a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// gzip, which everybody reads.
    Gzip {
        /// From 0, which only wraps, to 9, the smallest.
        level: u32,
    },
    /// zstd: smaller in a quarter of the time; clients older than 2020 do not read it.
    Zstd {
        /// From 1 to 22.
        level: i32,
    },
}

impl Default for Packing {
    /// gzip at its usual level.
    fn default() -> Self {
        Self::Gzip { level: 6 }
    }
}

impl Packing {
    /// Returns a way of packing at a level, or at its usual one: 6 for gzip, 3 for zstd.
    pub fn new(compression: Compression, level: Option<i32>) -> Result<Self> {
        let between = |least: i32, most: i32, usual: i32| match level.unwrap_or(usual) {
            level if (least..=most).contains(&level) => Ok(level),
            level => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{compression} has no level {level}: they go from {least} to {most}"),
            )),
        };
        match (compression, level) {
            (Compression::None, None) => Ok(Self::None),
            (Compression::None, Some(_)) => {
                Err(Error::new(ErrorKind::InvalidInput, "what is not compressed has no level"))
            }
            (Compression::Gzip, _) => Ok(Self::Gzip { level: between(0, 9, 6)?.unsigned_abs() }),
            (Compression::Zstd, _) => Ok(Self::Zstd { level: between(1, 22, 3)? }),
            (Compression::Xz | Compression::Bzip2, _) => {
                let message = format!("no image format knows layers packed with {compression}");
                Err(Error::new(ErrorKind::Unsupported, message).hint("take gzip or zstd"))
            }
        }
    }

    /// Returns what a manifest calls a layer that is packed like this.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::LAYER_TAR,
            Self::Gzip { .. } => media_type::LAYER_GZIP,
            Self::Zstd { .. } => media_type::LAYER_ZSTD,
        }
    }

    fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip { .. } => Compression::Gzip,
            Self::Zstd { .. } => Compression::Zstd,
        }
    }
}

/// Shows `gzip -6`, as its program would be called.
impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Gzip { level } => write!(f, "gzip -{level}"),
            Self::Zstd { level } => write!(f, "zstd -{level}"),
        }
    }
}

/// How a blob was packed: what it takes to make the same bytes of the same tar again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// With what.
    pub algorithm: Compression,
    /// At which level; 0 where it has none.
    pub level: i32,
    /// Size of the blocks that the tar was cut into.
    pub block_bytes: u32,
    /// What compressed, and its version; empty for none.
    pub library: String,
}

impl Recipe {
    /// Returns the recipe of this program.
    pub fn of(packing: Packing) -> Self {
        let (level, library) = match packing {
            Packing::None => (0, String::new()),
            Packing::Gzip { level } => (level.cast_signed(), gzip::LIBRARY.to_owned()),
            Packing::Zstd { level } => (level, format!("zstd {}", zstd::zstd_safe::version_string())),
        };
        let block_bytes = u32::try_from(BLOCK_BYTES).expect("1 MiB");
        Self { algorithm: packing.compression(), level, block_bytes, library }
    }

    /// Returns what to give [`pack`] for the same bytes; `None` where this program would make others.
    pub fn packing(&self) -> Option<Packing> {
        let level = (self.algorithm != Compression::None).then_some(self.level);
        let packing = Packing::new(self.algorithm, level).ok()?;
        (*self == Self::of(packing)).then_some(packing)
    }
}

/// A blob that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The digest of the tar.
    pub diff_id: DiffId,
    /// Length of the tar.
    pub diff_size: u64,
    /// The digest of the blob.
    pub digest: Digest,
    /// Length of the blob.
    pub size: u64,
    /// What a manifest calls it.
    pub media_type: &'static str,
    /// How to make the same blob again.
    pub recipe: Recipe,
}

impl Packed {
    /// Returns what a manifest says of the blob.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type, self.digest.clone(), self.size)
    }
}

/// Packs a tar that is there already: to pack it otherwise, or again as it was (see [`Recipe::packing`]).
///
/// The blob depends on the tar and on `packing`, not on `threads`. After an error the sink holds a part of it.
pub fn pack(
    mut tar: impl Read,
    packing: Packing,
    threads: NonZero<usize>,
    sink: &mut (dyn Write + Send),
) -> Result<Packed> {
    let copy = |stream: &mut Stream| loop {
        let space = stream.space()?;
        match tar.read(space) {
            Ok(0) => return Ok(()),
            Ok(read) => stream.filled(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read the tar", error)),
        }
    };
    packed(packing, threads, sink, copy).map(|((), packed)| packed)
}

/// Packs what `produce` writes.
pub(super) fn packed<T>(
    packing: Packing,
    threads: NonZero<usize>,
    sink: &mut (dyn Write + Send),
    produce: impl FnOnce(&mut Stream) -> Result<T>,
) -> Result<(T, Packed)> {
    let (to_hash, hashed) = sync_channel(WAITING);
    let (to_pack, blocks) = sync_channel(WAITING);
    thread::scope(|scope| {
        let tar = scope.spawn(move || hash(&hashed));
        let blob = scope.spawn(move || write(packing, threads, &blocks, sink));
        let mut stream = Stream { block: Vec::new(), filled: 0, to: [to_hash, to_pack] };
        let produced = produce(&mut stream).and_then(|value| stream.send().map(|()| value));
        drop(stream);
        let blob = blob.join().expect("it does not panic").context(|| "write the layer")?;
        let tar = tar.join().expect("it does not panic");
        let packed = Packed {
            diff_size: tar.size(),
            diff_id: DiffId(tar.finish()),
            size: blob.size(),
            digest: blob.finish(),
            media_type: packing.media_type(),
            recipe: Recipe::of(packing),
        };
        Ok((produced?, packed))
    })
}

fn hash(blocks: &Receiver<Block>) -> Hasher {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    blocks.iter().for_each(|block| hasher.update(&block));
    hasher
}

fn write(
    packing: Packing,
    threads: NonZero<usize>,
    blocks: &Receiver<Block>,
    sink: &mut (dyn Write + Send),
) -> io::Result<Hasher> {
    let mut sink = Hashed { sink, hasher: Hasher::new(Algorithm::Sha256) };
    match packing {
        Packing::None => blocks.iter().try_for_each(|block| sink.write_all(&block))?,
        Packing::Gzip { level } => gzip::encode(blocks, level, threads, &mut sink)?,
        Packing::Zstd { level } => {
            let mut encoder = zstd::Encoder::new(&mut sink, level)?;
            encoder.include_checksum(true)?;
            // One worker and many give the same bytes, none at all gives others (zstd.h, ZSTD_c_nbWorkers).
            encoder.multithread(u32::try_from(threads.get()).unwrap_or(u32::MAX))?;
            blocks.iter().try_for_each(|block| encoder.write_all(&block))?;
            encoder.finish()?;
        }
    }
    sink.flush()?;
    Ok(sink.hasher)
}

/// A sink whose bytes are digested on their way.
struct Hashed<'a> {
    sink: &'a mut (dyn Write + Send),
    hasher: Hasher,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Where the producer writes: full blocks go to both consumers.
#[derive(Debug)]
pub(super) struct Stream {
    block: Vec<u8>,
    filled: usize,
    to: [SyncSender<Block>; 2],
}

impl Stream {
    /// Returns space for at least one byte: what [`filled`](Self::filled) then says was put at its front.
    pub(super) fn space(&mut self) -> Result<&mut [u8]> {
        if self.filled == self.block.len() {
            self.send()?;
            self.block = vec![0; BLOCK_BYTES];
        }
        Ok(&mut self.block[self.filled..])
    }

    /// Says how much of the space is used now.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    /// Writes bytes.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let step = space.len().min(bytes.len());
            space[..step].copy_from_slice(&bytes[..step]);
            self.filled(step);
            bytes = &bytes[step..];
        }
        Ok(())
    }

    /// Writes zeros.
    pub(super) fn zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let space = self.space()?;
            let step = usize::try_from(count).map_or(space.len(), |count| count.min(space.len()));
            space[..step].fill(0);
            self.filled(step);
            count -= step as u64;
        }
        Ok(())
    }

    /// Hands on what there is.
    fn send(&mut self) -> Result<()> {
        let mut block = std::mem::take(&mut self.block);
        block.truncate(std::mem::take(&mut self.filled));
        if block.is_empty() {
            return Ok(());
        }
        let block = Arc::new(block);
        // Only the packing thread ends early, with an error of its own, which is the one that is shown.
        let stopped = || Error::new(ErrorKind::Io, "the layer is not written any more");
        self.to.iter().try_for_each(|to| to.send(Block::clone(&block)).map_err(|_| stopped()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::compression::decompress;
    use super::*;

    const PACKINGS: [Packing; 4] =
        [Packing::None, Packing::Gzip { level: 6 }, Packing::Gzip { level: 1 }, Packing::Zstd { level: 3 }];

    fn threads(count: usize) -> NonZero<usize> {
        NonZero::new(count).unwrap()
    }

    /// Not a round number of blocks, and more than zstd's jobs hold.
    fn text() -> Vec<u8> {
        (0..3_000_000_u32).flat_map(|at| (at / 3).wrapping_mul(7919).to_le_bytes()).skip(5).collect()
    }

    #[test]
    fn blobs_unpack_to_the_tar_and_depend_on_no_thread() {
        let tar = text();
        for packing in PACKINGS {
            let mut blob = Vec::new();
            let one = pack(&tar[..], packing, threads(1), &mut blob).unwrap();
            assert_eq!(one.digest, Digest::sha256_of(&blob));
            assert_eq!(one.diff_id.0, Digest::sha256_of(&tar));
            assert_eq!(one.descriptor(), Descriptor::of(packing.media_type(), &blob));
            assert_eq!((one.size, one.diff_size), (blob.len() as u64, tar.len() as u64));
            for count in [2, 5] {
                let again = pack(&tar[..], packing, threads(count), &mut io::sink()).unwrap();
                assert_eq!(again, one, "{packing} with {count} threads");
            }
            let mut unpacked = Vec::new();
            if packing == Packing::None {
                unpacked = blob;
            } else {
                decompress(&blob[..]).unwrap().1.read_to_end(&mut unpacked).unwrap();
            }
            assert!(unpacked == tar, "{packing}");
            assert_eq!(one.recipe.packing(), Some(packing));
        }
    }

    #[test]
    fn a_recipe_of_another_program_cannot_be_followed() {
        let recipe = Recipe::of(Packing::default());
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        assert!(
            text.starts_with(r#"{"algorithm":"gzip","level":6,"block_bytes":1048576,"library":"zlib-rs"#)
        );
        assert_eq!(Recipe { library: "zlib 1.3".to_owned(), ..recipe.clone() }.packing(), None);
        assert_eq!(Recipe { block_bytes: 4096, ..recipe.clone() }.packing(), None);
        assert_eq!(Recipe { algorithm: Compression::Xz, ..recipe }.packing(), None);
    }

    #[test]
    fn levels_are_checked() {
        for (compression, level, is_valid) in [
            (Compression::Gzip, Some(9), true),
            (Compression::Gzip, Some(10), false),
            (Compression::Zstd, Some(22), true),
            (Compression::Zstd, Some(0), false),
            (Compression::None, Some(1), false),
            (Compression::Xz, None, false),
        ] {
            assert_eq!(Packing::new(compression, level).is_ok(), is_valid, "{compression} {level:?}");
        }
        assert_eq!(Packing::new(Compression::Gzip, None).unwrap(), Packing::default());
        assert_eq!(Packing::new(Compression::Zstd, None).unwrap(), Packing::Zstd { level: 3 });
    }

    /// Takes so much and no more, as a full disk does.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            let step = bytes.len().min(self.0);
            self.0 -= step;
            Ok(step)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_fails_stops_the_producer_with_its_own_error() {
        for packing in PACKINGS {
            for room in [0, 5, 100_000] {
                let error = pack(Xorshift(1), packing, threads(2), &mut Full(room)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{packing}, {room}: {error:?}");
            }
        }
    }

    /// Bytes without end that nothing compresses.
    struct Xorshift(u64);

    impl Read for Xorshift {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for byte in buffer.iter_mut() {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                *byte = self.0 as u8;
            }
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_producer_that_fails_is_heard() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
        for packing in PACKINGS {
            let error = pack(Broken, packing, threads(2), &mut Vec::new()).unwrap_err();
            assert_eq!(error.to_string(), "read the tar");
        }
    }
}
