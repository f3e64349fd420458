//! gzip on all cores: blocks of one size, each compressed alone and with what is before it as its dictionary.
//!
//! ```text
//! header │ deflate(block 1) sync │ deflate(block 2 | last 32 KiB of block 1) sync │ ... │ empty last block │ CRC-32, length
//! ```
//!
//! It is one member and one deflate stream to whoever reads it, as with pigz. Which bytes come out depends on the input, the level and the
//! library, never on how many threads there are or how fast: the blocks are cut at fixed places and a flush ends each on a whole byte.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use flate2::{Compress, Crc, FlushCompress};

use super::pack::Block;

/// What compresses, for the record: what comes out may differ in another version. A test holds it against the lock file.
pub(super) const LIBRARY: &str = "zlib-rs 0.6.8";

/// RFC 1952, 2.3: magic, deflate, no flags, no time, no extra flags, unknown operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// RFC 1951, 3.2.6: a last block with fixed codes, of which the first ends it.
const END: [u8; 2] = [0x03, 0x00];
/// How far back deflate looks.
const WINDOW: usize = 32 << 10;

/// A block to compress, the one before it, and where the result goes.
struct Job {
    block: Block,
    before: Option<Block>,
    done: SyncSender<io::Result<Deflated>>,
}

/// A compressed block, and the checksum of what it was.
struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses all blocks into `sink`, two for each thread in memory at a time.
pub(super) fn encode(
    blocks: &Receiver<Block>,
    level: u32,
    threads: NonZero<usize>,
    sink: &mut impl Write,
) -> io::Result<()> {
    let (send, jobs) = channel();
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        // Dropped when this closure returns, however it does: then the workers end, and the scope with them.
        let send = send;
        for _ in 0..threads.get() {
            scope.spawn(|| work(&jobs, level));
        }
        sink.write_all(&HEADER)?;
        let (mut pending, mut before, mut crc) = (VecDeque::new(), None, Crc::new());
        for block in blocks {
            let (done, result) = sync_channel(1);
            send.send(Job { block: Block::clone(&block), before: before.replace(block), done })
                .expect("the workers end after the sender");
            pending.push_back(result);
            if pending.len() > 2 * threads.get() {
                write_first(&mut pending, &mut crc, sink)?;
            }
        }
        while !pending.is_empty() {
            write_first(&mut pending, &mut crc, sink)?;
        }
        sink.write_all(&END)?;
        sink.write_all(&crc.sum().to_le_bytes())?;
        sink.write_all(&crc.amount().to_le_bytes())
    })
}

fn write_first(
    pending: &mut VecDeque<Receiver<io::Result<Deflated>>>,
    crc: &mut Crc,
    sink: &mut impl Write,
) -> io::Result<()> {
    let first = pending.pop_front().expect("the caller looked");
    let deflated = first.recv().expect("every job is answered")?;
    crc.combine(&deflated.crc);
    sink.write_all(&deflated.bytes)
}

fn work(jobs: &Mutex<Receiver<Job>>, level: u32) {
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    loop {
        let next = jobs.lock().expect("no thread panics while it holds the lock").recv();
        let Ok(Job { block, before, done }) = next else { return };
        let deflated = deflate(&mut compress, &block, before.as_deref().map(Vec::as_slice));
        // Nobody waits for it where the sink has failed.
        drop(done.send(deflated));
    }
}

fn deflate(compress: &mut Compress, block: &[u8], before: Option<&[u8]>) -> io::Result<Deflated> {
    compress.reset();
    if let Some(before) = before {
        compress.set_dictionary(&before[before.len().saturating_sub(WINDOW)..])?;
    }
    // More than what cannot be compressed grows by: one call does it all.
    let mut bytes = Vec::with_capacity(block.len() + block.len() / 128 + 1024);
    let mut taken = 0;
    while taken < block.len() || bytes.len() == bytes.capacity() {
        bytes.reserve(1024);
        let start = compress.total_in();
        compress.compress_vec(&block[taken..], &mut bytes, FlushCompress::Sync)?;
        taken += usize::try_from(compress.total_in() - start).expect("no more than the block");
    }
    let mut crc = Crc::new();
    crc.update(block);
    Ok(Deflated { bytes, crc })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use super::*;

    fn encoded(blocks: &[Vec<u8>], threads: usize) -> Vec<u8> {
        let (send, receive) = channel();
        blocks.iter().for_each(|block| send.send(Arc::new(block.clone())).unwrap());
        drop(send);
        let mut sink = Vec::new();
        encode(&receive, 6, NonZero::new(threads).unwrap(), &mut sink).unwrap();
        sink
    }

    #[test]
    fn one_member_comes_out_the_same_with_any_number_of_threads() {
        let words: Vec<u8> = (0..400_000_u32).flat_map(|at| (at / 7 * 11 % 6000).to_le_bytes()).collect();
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Vec<u8> = noise.take(1 << 20).collect();
        let blocks = [words[..1 << 20].to_vec(), noise, words[1 << 20..].to_vec(), b"end".to_vec()];
        let whole = blocks.concat();
        let packed = encoded(&blocks, 1);
        for threads in [2, 3, 8] {
            assert!(encoded(&blocks, threads) == packed, "{threads} threads");
        }
        let mut unpacked = Vec::new();
        // A decoder of a single member: there is but one.
        flate2::bufread::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == whole);
        assert_eq!(encoded(&[], 2).len(), 20);
    }

    #[test]
    fn a_block_is_compressed_with_what_is_before_it() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(WINDOW / 2)
        .collect();
        let twice = encoded(&[noise.clone(), noise.clone()], 2).len();
        assert!(twice < encoded(&[noise], 2).len() + 1000, "{twice}");
    }

    #[test]
    fn the_library_is_the_one_in_the_lock_file() {
        let lock = include_str!("../../Cargo.lock");
        let after = lock.split_once("name = \"zlib-rs\"\nversion = \"").unwrap().1;
        assert_eq!(LIBRARY, format!("zlib-rs {}", after.split('"').next().unwrap()));
    }
}
