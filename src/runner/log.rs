//! What a box that nobody looked at has said: its log, in the format of the Kubernetes CRI.
//!
//! A line is `TIME STREAM TAGS CONTENT\n`: RFC 3339 in UTC with nanoseconds; `stdout`, `stderr` or `note` (ours: what
//! could not be written); tags joined by `:`, first `F` for a full line or `P` for a part of one that is longer than
//! 16 KiB or was not ended, then `tty` where it came from a terminal. The content is the box's bytes as they were.
//! `log` is written, `log.1` is the one before; together they are at most twice the limit.

use jiff::Timestamp;

mod read;
mod write;

pub use read::Reader;
pub use write::Log;

/// Bytes of one log file, unless told otherwise.
pub const DEFAULT_LIMIT: u64 = 10 << 20;

/// The largest content of one line; longer ones come in parts.
const PART: usize = 16 << 10;

const CURRENT: &str = "log";
const PREVIOUS: &str = "log.1";

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// Ourselves, about the log.
    Note,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Note => "note",
        }
    }
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When its first byte was read.
    pub time: Timestamp,
    /// Where it came from.
    pub stream: Stream,
    /// Was it ended by a newline?
    pub full: bool,
    /// Did it come from a terminal?
    pub tty: bool,
    /// The bytes, without the newline.
    pub content: Vec<u8>,
}

impl Line {
    /// Reads a line without its newline; `None` for what is none.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
        let time = word()?.parse().ok()?;
        let stream = match word()? {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            "note" => Stream::Note,
            _ => return None,
        };
        let mut tags = word()?.split(':');
        let full = match tags.next()? {
            "F" => true,
            "P" => false,
            _ => return None,
        };
        let tty = tags.any(|tag| tag == "tty");
        Some(Self { time, stream, full, tty, content: words.next()?.to_vec() })
    }

    /// Appends the line as it stands in the file.
    fn format(time: Timestamp, stream: Stream, full: bool, tty: bool, content: &[u8], to: &mut Vec<u8>) {
        let tag = if full { "F" } else { "P" };
        let tty = if tty { ":tty" } else { "" };
        to.extend(format!("{time:.9} {} {tag}{tty} ", stream.name()).as_bytes());
        to.extend(content);
        to.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for (full, tty, content) in
            [(true, false, &b"a b  c "[..]), (false, true, b""), (true, true, b"\x1b[2J\xff")]
        {
            let mut text = Vec::new();
            let time: Timestamp = "2026-01-02T03:04:05.000000007Z".parse().unwrap();
            Line::format(time, Stream::Stderr, full, tty, content, &mut text);
            assert!(text.starts_with(b"2026-01-02T03:04:05.000000007Z stderr "), "{text:?}");
            let line = Line::parse(text.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!(line, Line { time, stream: Stream::Stderr, full, tty, content: content.to_vec() });
        }
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in
            ["", "x", "2026-01-02T03:04:05Z stdout F", "2026-01-02T03:04:05Z out F x", "yesterday stdout F x"]
        {
            assert_eq!(Line::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_log_is_bounded_and_its_reader_sees_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 1000, false).unwrap();
        for number in 0..200 {
            log.take(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size(CURRENT) <= 1000 && size(PREVIOUS) <= 1000);
        let lines = read(dir.path());
        assert!(lines.len() > 15, "{}", lines.len());
        assert_eq!(lines.last().unwrap().content, b"line 199");
        let numbers: Vec<u32> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(&line.content).trim_start_matches("line ").parse().unwrap())
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    }

    fn read(dir: &std::path::Path) -> Vec<Line> {
        let mut lines = Vec::new();
        Reader::open(dir).unwrap().unwrap().read(&mut |line| lines.push(line)).unwrap();
        lines
    }

    #[test]
    fn long_lines_come_in_parts_and_unended_ones_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 1 << 20, false).unwrap();
        let long = vec![b'x'; PART * 2 + 5];
        log.take(Stream::Stdout, &long);
        log.take(Stream::Stdout, b"\nhalf");
        log.take(Stream::Stderr, b"other\n");
        assert_eq!(read(dir.path()).len(), 4);
        log.flush();
        let lines = read(dir.path());
        assert_eq!(lines.iter().map(|line| line.full).collect::<Vec<_>>(), [false, false, true, true, false]);
        let joined: Vec<u8> = lines[..3].iter().flat_map(|line| line.content.clone()).collect();
        assert_eq!(joined, long);
        assert_eq!((lines[3].stream, lines[4].content.as_slice()), (Stream::Stderr, &b"half"[..]));
    }

    #[test]
    fn a_torn_last_line_is_cut_off_by_the_next_writer_and_never_read() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 1 << 20, false).unwrap();
        log.take(Stream::Stdout, b"whole\n");
        let mut file = std::fs::File::options().append(true).open(dir.path().join(CURRENT)).unwrap();
        file.write_all(b"2026-01-02T03:04:05.000000007Z stdout F to").unwrap();
        assert_eq!(read(dir.path()).len(), 1);
        let mut log = Log::open(dir.path(), 1 << 20, false).unwrap();
        log.take(Stream::Stdout, b"next\n");
        let contents: Vec<Vec<u8>> = read(dir.path()).into_iter().map(|line| line.content).collect();
        assert_eq!(contents, [b"whole".to_vec(), b"next".to_vec()]);
    }
}
