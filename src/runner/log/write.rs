//! Writing a log. A line goes out whole, in one call, so that a kill or a full disk costs the last one at the most.
//!
//! A log that cannot be written never stops the box: what is lost is counted, and noted once there is room again.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rootling_backends::{Context, Result};

use super::{CURRENT, Line, PART, PREVIOUS, Stream};

/// A log that is being written. Only one at a time may be.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    tty: bool,
    /// Lines of standard output and standard error that have not ended.
    open: [Option<Begun>; 2],
    lost: u64,
}

#[derive(Debug)]
struct Begun {
    time: Timestamp,
    stream: Stream,
    content: Vec<u8>,
}

impl Log {
    /// Opens the log of the object in `dir`, to write on behind what is there; `limit` is in bytes and for each of two files.
    ///
    /// A last line that was torn by a kill is cut off.
    pub fn open(dir: &Path, limit: u64, tty: bool) -> Result<Self> {
        let path = dir.join(CURRENT);
        let file = open(&path)?;
        let size = whole_lines(&file).context(|| format!("read({path:?})"))?;
        file.set_len(size).context(|| format!("ftruncate({path:?}, {size})"))?;
        Ok(Self { dir: dir.to_owned(), file, size, limit, tty, open: [None, None], lost: 0 })
    }

    /// Takes what a stream said. Lines that have ended are written.
    pub fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let mut records = Vec::new();
        let mut count = 0;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, full) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let slot = &mut self.open[usize::from(stream == Stream::Stderr)];
            let begun =
                slot.get_or_insert_with(|| Begun { time: Timestamp::now(), stream, content: Vec::new() });
            begun.content.extend(text);
            while begun.content.len() > PART {
                let rest = begun.content.split_off(PART);
                Line::format(begun.time, stream, false, self.tty, &begun.content, &mut records);
                begun.content = rest;
                count += 1;
            }
            if full {
                Line::format(begun.time, stream, true, self.tty, &begun.content, &mut records);
                *slot = None;
                count += 1;
            }
            if records.len() > PART {
                self.write(&records, count);
                (records, count) = (Vec::new(), 0);
            }
        }
        self.write(&records, count);
    }

    /// Writes lines that have not ended, because nothing more will come.
    pub fn flush(&mut self) {
        for begun in std::mem::take(&mut self.open).into_iter().flatten() {
            let mut record = Vec::new();
            Line::format(begun.time, begun.stream, false, self.tty, &begun.content, &mut record);
            self.write(&record, 1);
        }
    }

    fn write(&mut self, records: &[u8], count: u64) {
        if records.is_empty() {
            return;
        }
        let mut note = Vec::new();
        if self.lost > 0 {
            let text = format!("{} lines before this one could not be written", self.lost);
            Line::format(Timestamp::now(), Stream::Note, true, false, text.as_bytes(), &mut note);
        }
        let records = [&note, records].concat();
        let length = records.len() as u64;
        if self.size > 0 && self.size + length > self.limit {
            // Best effort: if it cannot be, this file grows on.
            self.rotate().ok();
        }
        match self.file.write_all_at(&records, self.size) {
            Ok(()) => {
                self.size += length;
                self.lost = 0;
            }
            Err(_) => {
                self.lost += count;
                // Best effort: a line cut short would look like a whole one.
                self.file.set_len(self.size).ok();
            }
        }
    }

    fn rotate(&mut self) -> Result<()> {
        let (current, previous) = (self.dir.join(CURRENT), self.dir.join(PREVIOUS));
        fs::rename(&current, &previous).context(|| format!("rename({current:?}, {previous:?})"))?;
        self.file = open(&current)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).context(|| format!("open({path:?}, O_CREAT)"))
}

/// The length of a file up to the end of its last whole line.
fn whole_lines(file: &File) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let chunk = &mut buffer[..usize::try_from(end - start).unwrap_or_default()];
        file.read_exact_at(chunk, start)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
