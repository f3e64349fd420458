//! Small files read whole, in as few system calls as can be: what every start of the program does several times.
//!
//! `std::fs::read` asks files of /proc for their size, learns 0, and reads them in pieces that double.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};

/// Bytes that are read at once: more than any record or file of /proc read here usually has.
const AT_ONCE: usize = 8 * 1024;

/// Reads the file at `path`, a path of the host; more than `limit` bytes are an error of kind `Corrupt`.
pub fn read(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let file = File::open(path).context(|| format!("open({path:?})"))?;
    let mut bytes = Vec::with_capacity(AT_ONCE);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).context(|| format!("read({path:?})"))?;
    if bytes.len() as u64 > limit {
        let message = format!("{path:?} has more than the {limit} bytes it may have");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(bytes)
}

/// As [`read`], of a file on a disk: a read that returns less than asked for has reached its end.
pub fn read_regular(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let mut bytes = vec![0; AT_ONCE];
    let file = File::open(path).context(|| format!("open({path:?})"))?;
    let length = (&file).read(&mut bytes).context(|| format!("read({path:?})"))?;
    if length == bytes.len() {
        return read(path, limit);
    }
    bytes.truncate(length);
    if length as u64 > limit {
        let message = format!("{path:?} has more than the {limit} bytes it may have");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(bytes)
}

/// Returns a file of /proc that is one record, as `status` and `stat` are: the kernel gives all of it to one read (seq_file.rst).
///
/// A record of more than 8 KiB is an error of kind `Corrupt`; there is none among those read here.
pub fn read_record(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let mut file = File::open(path).context(|| format!("open({path:?})"))?;
    let mut bytes = vec![0; AT_ONCE];
    let length = file.read(&mut bytes).context(|| format!("read({path:?})"))?;
    if length == bytes.len() {
        return Err(Error::new(ErrorKind::Corrupt, format!("{path:?} is longer than a record")));
    }
    bytes.truncate(length);
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 20_000]).unwrap();
        assert_eq!(read(file.path(), 20_000).unwrap(), vec![7; 20_000]);
        assert_eq!(read(file.path(), 19_999).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(read_regular(file.path(), 20_000).unwrap(), vec![7; 20_000]);
        assert_eq!(read_regular(file.path(), 100).unwrap_err().kind(), ErrorKind::Corrupt);
        std::fs::write(file.path(), "short").unwrap();
        assert_eq!(read_regular(file.path(), 5).unwrap(), b"short");
        assert_eq!(read_regular(file.path(), 4).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(read("/nowhere", 1).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(read_record("/proc/self/status").unwrap().contains("nonvoluntary_ctxt_switches:"));
        std::fs::write(file.path(), vec![7; 20_000]).unwrap();
        assert_eq!(read_record(file.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
