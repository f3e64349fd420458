//! `diff --stat`: how much of each file differs, and all of it in one line.

use std::fmt;

use rootling_backends::{Change, ChangeKind, EntryType, Result};

use super::super::output;
use super::ends::Sides;
use super::side::Content;
use super::text::Compared;
use crate::packages::{self, Happened};

/// Columns of the terminal that a table takes.
const WIDTH: usize = 80;

/// Lines that were added and removed; `None` for what is no text.
pub(super) fn lines(sides: &Sides, change: &Change) -> Result<Option<(u64, u64)>> {
    let content = |of: ChangeKind, side: &super::side::Side| {
        if change.kind == of {
            return Ok(Content::Text(Vec::new()));
        }
        match side.inode(&change.path)? {
            Some(inode) => side.content(&change.path, &inode),
            None => Ok(Content::Nothing),
        }
    };
    match (content(ChangeKind::Added, &sides.old)?, content(ChangeKind::Deleted, &sides.new)?) {
        (Content::Text(old), Content::Text(new)) => Ok(Some(Compared::new(&old, &new).count())),
        _ => Ok(None),
    }
}

/// Returns the table: of each entry but directories that came or went, its lines or bytes.
pub(super) fn table(sides: &Sides, changes: &[Change]) -> Result<String> {
    let mut rows = Vec::new();
    for change in changes {
        let is_directory = change.entry_type == EntryType::Directory;
        if is_directory && change.kind != ChangeKind::Modified {
            continue;
        }
        let name = if change.path.as_os_str().is_empty() { "/".into() } else { output::plain(&change.path) };
        let name =
            format!("{name}{}", if is_directory && !change.path.as_os_str().is_empty() { "/" } else { "" });
        let row = match lines(sides, change)? {
            Some((added, removed)) if added + removed > 0 => Row::Lines(added, removed),
            None if change.entry_type == EntryType::File
                && (change.aspects.content || change.kind != ChangeKind::Modified) =>
            {
                let size = |side: &super::side::Side| {
                    side.inode(&change.path).map(|inode| inode.map_or(0, |inode| inode.size_bytes))
                };
                let old = if change.kind == ChangeKind::Added { 0 } else { size(&sides.old)? };
                let new = if change.kind == ChangeKind::Deleted { 0 } else { size(&sides.new)? };
                Row::Bytes(old, new)
            }
            _ => Row::Other(super::aspect_names(change).join(", ")),
        };
        rows.push((name, row));
    }
    Ok(aligned(&rows))
}

enum Row {
    Lines(u64, u64),
    Bytes(u64, u64),
    Other(String),
}

fn aligned(rows: &[(String, Row)]) -> String {
    let longest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let width = longest.min(WIDTH / 2);
    let most =
        rows.iter().map(|(_, row)| if let Row::Lines(a, r) = row { a + r } else { 0 }).max().unwrap_or(0);
    let digits = most.to_string().len().max(3);
    let bar = WIDTH.saturating_sub(width + digits + 6) as u64;
    let scaled = |count: u64| match (most <= bar, count) {
        (true, count) => count,
        (false, 0) => 0,
        (false, count) => (count * bar / most).max(1),
    };
    let mut text = String::new();
    for (name, row) in rows {
        // The end of a path says more than its beginning.
        let excess = name.chars().count().saturating_sub(width);
        let name: String = match excess {
            0 => name.clone(),
            excess => std::iter::once('…').chain(name.chars().skip(excess + 1)).collect(),
        };
        let said = match row {
            Row::Lines(added, removed) => {
                let (plus, minus) = (scaled(*added) as usize, scaled(*removed) as usize);
                format!("{:>digits$} {}{}", added + removed, "+".repeat(plus), "-".repeat(minus))
            }
            Row::Bytes(old, new) => format!("{:>digits$} {old} -> {new} bytes", "Bin"),
            Row::Other(said) => format!("{:>digits$} {said}", 0),
        };
        text.push_str(format!(" {name:<width$} | {said}").trim_end());
        text.push('\n');
    }
    text
}

/// What differs, counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Entries that are no directories: added, modified, deleted.
    pub(crate) files: [u64; 3],
    /// Directories: added, deleted.
    directories: [u64; 2],
    /// Packages: added, changed, removed; `None` where there are none, or they cannot be read.
    packages: Option<[u64; 3]>,
    /// Bytes of the files that were added, or have other content.
    pub(crate) bytes: u64,
}

impl Summary {
    /// Counts changes, of which what was in a deleted directory must be part (see `expanded`).
    pub(crate) fn of(sides: &Sides, changes: &[Change]) -> Result<Self> {
        let mut summary = Self::default();
        for change in changes {
            let place = match change.kind {
                ChangeKind::Added => 0,
                ChangeKind::Modified => 1,
                ChangeKind::Deleted => 2,
            };
            if change.entry_type == EntryType::Directory {
                match change.kind {
                    ChangeKind::Modified => {}
                    kind => summary.directories[usize::from(kind == ChangeKind::Deleted)] += 1,
                }
                continue;
            }
            summary.files[place] += 1;
            let has_data = change.kind == ChangeKind::Added || change.aspects.content || change.aspects.kind;
            if has_data && change.entry_type == EntryType::File {
                summary.bytes += sides.new.inode(&change.path)?.map_or(0, |inode| inode.size_bytes);
            }
        }
        Ok(summary)
    }

    /// Counts the packages too.
    pub(crate) fn with_packages(mut self, sides: &Sides) -> Self {
        let [old, new] = sides.roots().map(packages::installed);
        match old.and_then(|old| Ok((old, new?))) {
            Ok((old, new)) => {
                let mut counts = [0; 3];
                for change in packages::difference(&old, &new) {
                    counts[match change.change {
                        Happened::Added => 0,
                        Happened::Upgraded | Happened::Downgraded | Happened::Changed => 1,
                        Happened::Removed => 2,
                    }] += 1;
                }
                self.packages = Some(counts).filter(|counts| *counts != [0; 3]);
            }
            Err(error) => log::warn!("packages are not counted: {error}"),
        }
        self
    }
}

impl fmt::Display for Summary {
    /// `+312 ~18 -0 files, packages +14, 28.0 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [added, modified, deleted] = self.files;
        write!(f, "+{added} ~{modified} -{deleted} files")?;
        let some = |signed: &[(char, u64)]| {
            let words =
                signed.iter().filter(|(_, count)| *count > 0).map(|(sign, count)| format!("{sign}{count}"));
            words.collect::<Vec<_>>().join(" ")
        };
        if self.directories != [0; 2] {
            write!(f, ", directories {}", some(&[('+', self.directories[0]), ('-', self.directories[1])]))?;
        }
        if let Some([added, changed, removed]) = self.packages {
            write!(f, ", packages {}", some(&[('+', added), ('~', changed), ('-', removed)]))?;
        }
        write!(f, ", {}", output::bytes(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_line_up_and_long_bars_are_scaled() {
        let rows = [
            ("etc/hosts".to_owned(), Row::Lines(2, 1)),
            ("usr/bin/tool".to_owned(), Row::Bytes(0, 1024)),
            ("usr/bin".to_owned(), Row::Other("mode".to_owned())),
            (format!("{}/end", "long/".repeat(10)), Row::Lines(4000, 1)),
        ];
        let text = aligned(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(lines[0].starts_with(" etc/hosts ") && lines[0].ends_with(" |    3 +-"), "{text}");
        assert!(lines[1].ends_with("|  Bin 0 -> 1024 bytes"), "{text}");
        assert!(lines[2].ends_with("|    0 mode"), "{text}");
        assert!(
            lines[3].starts_with(" …") && lines[3].contains("/end | 4001 +++++") && lines[3].ends_with("+-"),
            "{text}"
        );
    }

    #[test]
    fn the_summary_is_one_line() {
        let summary =
            Summary { files: [312, 18, 0], directories: [3, 0], packages: Some([14, 0, 0]), bytes: 28 << 20 };
        assert_eq!(summary.to_string(), "+312 ~18 -0 files, directories +3, packages +14, 28.0 MiB");
        assert_eq!(Summary::default().to_string(), "+0 ~0 -0 files, 0 B");
    }
}
