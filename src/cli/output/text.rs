//! Names, sizes, times and tables as people read them. What comes out of a root filesystem is escaped, so that it cannot drive the terminal.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rootling_backends::Cost;

/// Returns a line that anybody may have written as text that can be shown.
pub(crate) fn tamed_text(line: &[u8]) -> String {
    String::from_utf8_lossy(&tame(line)).replace('\t', " ")
}

/// Escapes control characters but the tab, and what is no UTF-8.
pub(super) fn tame(bytes: &[u8]) -> Vec<u8> {
    let mut tamed = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() && c != '\t' { tamed.extend(c.escape_default()) } else { tamed.push(c) }
        }
        tamed.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    tamed.into_bytes()
}

/// Cuts a text that is longer than a column, with a sign that it was cut.
pub(crate) fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

/// Returns how long ago something was, for people.
pub(crate) fn age(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Says what a materialization cost, in one line.
pub(crate) fn describe(cost: &Cost) -> String {
    let mut parts = Vec::new();
    if cost.files_cloned > 0 {
        let files = counted(cost.files_cloned, "file", "files");
        parts.push(format!("{files} cloned ({})", bytes(cost.bytes_cloned)));
    }
    if cost.files_copied > 0 {
        let files = counted(cost.files_copied, "file", "files");
        parts.push(format!("{files} copied ({})", bytes(cost.bytes_copied)));
    }
    if cost.snapshots > 0 {
        parts.push(counted(cost.snapshots, "snapshot", "snapshots"));
    }
    if cost.directories > 0 {
        parts.push(counted(cost.directories, "directory", "directories"));
    }
    if cost.others > 0 {
        parts.push(counted(cost.others, "link or device", "links and devices"));
    }
    if parts.is_empty() {
        parts.push("nothing copied".to_owned());
    }
    format!("{}, {}", parts.join(", "), duration(cost.elapsed))
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Returns a size for people: `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Returns a duration for people: `3.2 ms`.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1000.0),
    }
}

/// Returns a path as it can be shown: control characters and bytes that are not UTF-8 escaped.
pub(crate) fn plain(path: &Path) -> Cow<'_, str> {
    plain_text(path.as_os_str())
}

/// Returns a person's text as it can be shown in a row: its first line, escaped, with a sign where there is more.
pub(crate) fn one_line(text: &str) -> String {
    let mut lines = text.trim_end().lines();
    let first = plain_text(lines.next().unwrap_or_default().as_ref()).into_owned();
    if lines.next().is_some() { format!("{first} …") } else { first }
}

/// Returns text as it can be shown.
pub(crate) fn plain_text(text: &OsStr) -> Cow<'_, str> {
    match text.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Cow::Borrowed(text),
        _ => Cow::Owned(text.as_bytes().escape_ascii().to_string()),
    }
}

/// Returns rows as aligned columns under a heading.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()) + 2);
            line.push_str(cell);
            line.push_str(&fill);
        }
        format!("{}\n", line.trim_end())
    };
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(line(&heading)).chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(plain(Path::new("a/ü")), "a/ü");
        assert_eq!(plain(Path::new("a\x1b[2J\n")), "a\\x1b[2J\\n");
        assert_eq!(plain(Path::new(OsStr::from_bytes(b"\xff"))), "\\xff");
    }

    #[test]
    fn what_a_box_said_cannot_drive_the_terminal() {
        assert_eq!(
            tame("ü\t\u{1b}]52;c;x\u{7}\r\u{9b}2J".as_bytes()),
            "ü\t\\u{1b}]52;c;x\\u{7}\\r\\u{9b}2J".as_bytes()
        );
        assert_eq!(tame(b"a\xff\x9b"), b"a\\xff\\x9b");
    }

    #[test]
    fn columns_line_up_and_do_not_trail() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME  N\na     1\nlong\n");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!((bytes(0), bytes(1023), bytes(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
    }
}
