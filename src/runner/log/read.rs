//! Reading a log while it may be written and rotated.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rootling_backends::{Context, Error, Result};

use super::{CURRENT, Line, PREVIOUS};

/// A place in a log, which moves on with each [`Reader::read`].
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    /// Read next, in order; the last one is the log as it was when we looked.
    files: Vec<File>,
    /// What was read of a line that has no end yet.
    rest: Vec<u8>,
}

impl Reader {
    /// Opens the log of the object in `dir` at its beginning; `None` where there is none.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        // The newer one first: if it is rotated in between, it is found twice and not lost.
        let Some(current) = open(&dir.join(CURRENT))? else { return Ok(None) };
        let mut files = Vec::new();
        if let Some(previous) = open(&dir.join(PREVIOUS))?
            && id(&previous)? != id(&current)?
        {
            files.push(previous);
        }
        files.push(current);
        Ok(Some(Self { dir: dir.to_owned(), files, rest: Vec::new() }))
    }

    /// Reads every whole line that is there by now. What is no line is skipped.
    ///
    /// A log that is rotated twice between two calls has lost what was between.
    pub fn read(&mut self, each: &mut dyn FnMut(Line)) -> Result<()> {
        // Looked up before the last file is read to its end: whoever rotated it wrote to it last before that.
        let newest = open(&self.dir.join(CURRENT))?;
        while self.files.len() > 1 {
            let file = self.files.remove(0);
            self.drain(&file, each)?;
            self.rest.clear();
        }
        let Some(last) = self.files.pop() else { return Ok(()) };
        self.drain(&last, each)?;
        match newest {
            Some(newest) if id(&newest)? != id(&last)? => {
                self.rest.clear();
                self.drain(&newest, each)?;
                self.files.push(newest);
            }
            _ => self.files.push(last),
        }
        Ok(())
    }

    fn drain(&mut self, mut file: &File, each: &mut dyn FnMut(Line)) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = file.read(&mut buffer).context(|| format!("read({:?})", self.dir.join(CURRENT)))?;
            if length == 0 {
                return Ok(());
            }
            self.rest.extend(&buffer[..length]);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = self.rest.split_off(end + 1);
            let whole = std::mem::replace(&mut self.rest, rest);
            whole.split(|byte| *byte == b'\n').filter_map(Line::parse).for_each(&mut *each);
        }
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("open({path:?})"), error)),
    }
}

fn id(file: &File) -> Result<(u64, u64)> {
    let meta = file.metadata().context(|| "fstat(log)")?;
    Ok((meta.dev(), meta.ino()))
}
