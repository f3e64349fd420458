//! The bytes of a file on their way to disk: holes made, digest taken.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

/// The least run of zeros that becomes a hole: shorter ones would cost more extents than they save bytes.
const HOLE_BYTES: u64 = 64 << 10;
/// Zeros are looked for in pieces of this size: what file systems allocate in.
const PIECE: usize = 4096;
static ZEROS: [u8; HOLE_BYTES as usize] = [0; HOLE_BYTES as usize];

/// Writes one new file from front to end.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    file: &'a File,
    digest: Option<Sha256>,
    /// How far the file is written, and how many zeros follow that were held back.
    written: u64,
    zeros: u64,
    /// Bytes that really went to disk.
    bytes: u64,
}

impl<'a> Writer<'a> {
    /// Starts at the front of an empty file.
    pub(super) fn new(file: &'a File, with_digest: bool) -> Self {
        Self { file, digest: with_digest.then(Sha256::new), written: 0, zeros: 0, bytes: 0 }
    }

    /// Returns the length so far.
    pub(super) fn position(&self) -> u64 {
        self.written + self.zeros
    }

    /// Adds data.
    pub(super) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        if let Some(digest) = &mut self.digest {
            digest.update(data);
        }
        // Runs of pieces that are all zeros, or none of them: short zeros in between go out with the data.
        let mut start = 0;
        let mut at = 0;
        while at < data.len() {
            let zeros = leading_zero_pieces(&data[at..]);
            // Zeros at either end of the buffer may belong to a longer run.
            let held = zeros as u64 >= HOLE_BYTES || (zeros > 0 && (at == 0 || at + zeros == data.len()));
            if held {
                self.put(&data[start..at])?;
                self.zeros += zeros as u64;
                start = at + zeros;
            }
            at += zeros;
            at += PIECE.min(data.len() - at);
        }
        self.put(&data[start.min(data.len())..])
    }

    /// Adds a hole.
    pub(super) fn hole(&mut self, length: u64) {
        self.zeros += length;
        let Some(digest) = &mut self.digest else { return };
        let mut left = length;
        while left > 0 {
            let step = left.min(HOLE_BYTES);
            digest.update(&ZEROS[..usize::try_from(step).expect("64 KiB at most")]);
            left -= step;
        }
    }

    /// Ends the file and returns its digest and the bytes that were written.
    pub(super) fn finish(mut self) -> io::Result<(Option<[u8; 32]>, u64)> {
        if self.zeros >= HOLE_BYTES {
            self.file.set_len(self.position())?;
        } else {
            self.put_zeros()?;
        }
        Ok((self.digest.map(|digest| digest.finalize().into()), self.bytes))
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if self.zeros >= HOLE_BYTES {
            self.written += std::mem::take(&mut self.zeros);
        } else {
            self.put_zeros()?;
        }
        self.write(data)
    }

    fn put_zeros(&mut self) -> io::Result<()> {
        let zeros = usize::try_from(std::mem::take(&mut self.zeros)).expect("shorter than a hole");
        self.write(&ZEROS[..zeros])
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, self.written)?;
        self.written += data.len() as u64;
        self.bytes += data.len() as u64;
        Ok(())
    }
}

fn leading_zero_pieces(data: &[u8]) -> usize {
    data.chunks(PIECE).take_while(|piece| **piece == ZEROS[..piece.len()]).map(<[u8]>::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers that end anywhere must give the same file: runs are followed across them.
    #[test]
    fn pieces_of_any_size_give_the_same_bytes() {
        let mut bytes = Vec::new();
        for (value, length) in
            [(0, 70_000), (1, 5), (0, 4096), (2, 9000), (0, 300_000), (3, 1), (0, 10), (0, 65_536)]
        {
            bytes.extend(std::iter::repeat_n(value, length));
        }
        for step in [1000, 4096, 65_536, 100_000, 262_144, bytes.len()] {
            let file = tempfile::tempfile().unwrap();
            let mut writer = Writer::new(&file, true);
            for data in bytes.chunks(step) {
                writer.data(data).unwrap();
            }
            let (digest, written) = writer.finish().unwrap();
            let mut read = vec![0xff; bytes.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64, "step {step}");
            assert!(read == bytes, "step {step}");
            assert_eq!(digest, Some(Sha256::digest(&bytes).into()));
            assert!(written < 200_000, "step {step}: {written} bytes went to disk");
        }
    }
}
