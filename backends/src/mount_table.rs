//! The mount table of this mount namespace: what is mounted where (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::small_file;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Which directory of the file system is shown: field 4.
    pub root: PathBuf,
    /// Where: field 5.
    pub place: PathBuf,
    /// What the file system was made of, in its own words: field 10 or 11.
    pub source: PathBuf,
    /// The kind of file system: the first field after the dash.
    pub kind: String,
    /// The options of the file system itself, separated by commas: the last field.
    pub options: String,
}

/// Returns all mounts, oldest first.
pub fn read() -> Result<Vec<Mounted>> {
    small_file::read("/proc/self/mountinfo", 64 << 20).map(|table| parse(&table))
}

/// Returns where something is mounted below `directory`, itself not counted.
pub fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let directory = directory.canonicalize().context(|| format!("realpath({directory:?})"))?;
    let places = read()?.into_iter().map(|mounted| mounted.place);
    Ok(places.filter(|place| *place != directory && place.starts_with(&directory)).collect())
}

/// `36 35 98:0 /root /place rw,noatime master:1 - ext3 /dev/root rw`: any number of fields before the dash.
///
/// Lines that do not look like it are left out.
pub fn parse(table: &[u8]) -> Vec<Mounted> {
    let lines = table.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let dash = fields.iter().position(|field| *field == b"-")?;
            let field = |index: usize| fields.get(index).map(|field| unescape(field));
            let text = |index: usize| fields.get(index).map(|f| String::from_utf8_lossy(f).into_owned());
            Some(Mounted {
                root: field(3)?,
                place: field(4)?,
                source: field(dash + 2)?,
                kind: text(dash + 1)?,
                options: text(dash + 3).unwrap_or_default(),
            })
        })
        .collect()
}

/// Undoes the kernel's octal escapes (`\040` for a blank).
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            digits.iter().try_fold(0_u32, |code, digit| Some(code * 8 + char::from(*digit).to_digit(8)?))
        });
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &more[3..];
            }
            None => {
                plain.push(*first);
                rest = more;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_blanks_and_optional_fields_are_read() {
        let table = b"36 35 98:0 /a /mnt/b\\040c rw shared:1 master:2 - overlay /up\\134per rw\nrubbish\n";
        let mounted = Mounted {
            root: "/a".into(),
            place: "/mnt/b c".into(),
            source: "/up\\per".into(),
            kind: "overlay".into(),
            options: "rw".into(),
        };
        assert_eq!(parse(table), [mounted]);
        assert_eq!(unescape(b"/plain\\9"), PathBuf::from("/plain\\9"));
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(read().unwrap().iter().any(|mounted| mounted.place == Path::new("/")));
    }
}
