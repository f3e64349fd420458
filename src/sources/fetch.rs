//! Files of servers and of directories, opened and read.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, OnceLock};

use rootling_backends::{Context, Error, ErrorKind, Result, small_file};

use super::location::Location;
use crate::registry::Client;

/// What gets files. The client is made when the first address is asked for: sources of this machine need none.
pub struct Fetch<'a> {
    make: &'a (dyn Fn() -> Result<Client> + Sync),
    client: OnceLock<Arc<Client>>,
}

impl fmt::Debug for Fetch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch").field("client", &self.client).finish_non_exhaustive()
    }
}

/// A file that is being read. What a cut takes is asked for again.
pub(crate) struct Opened {
    /// How long it is, where that is known.
    pub(crate) length: Option<u64>,
    /// Its bytes.
    pub(crate) reader: Box<dyn Read + Send>,
}

impl<'a> Fetch<'a> {
    /// `make` makes the client for what lies on servers.
    pub fn new(make: &'a (dyn Fn() -> Result<Client> + Sync)) -> Self {
        Self { make, client: OnceLock::new() }
    }

    /// Opens a file. One that is not there is an error of kind `NotFound`. Errors of reading are ours, in an [`std::io::Error`].
    pub(crate) fn open(&self, at: &Location) -> Result<Opened> {
        match at {
            Location::Web(url) => {
                let file = self.client()?.file(url)?;
                Ok(Opened { length: file.length(), reader: Box::new(file) })
            }
            Location::Local(path) => {
                let file = File::open(path).context(|| format!("open({path:?})"))?;
                let stat = file.metadata().context(|| format!("fstat({path:?})"))?;
                if stat.is_dir() {
                    return Err(Error::new(ErrorKind::InvalidInput, format!("{path:?} is a directory")));
                }
                let length = stat.is_file().then_some(stat.len());
                Ok(Opened { length, reader: Box::new(file) })
            }
        }
    }

    /// Returns the whole of a small file; one with more than `limit` bytes is an error of kind `InvalidInput`.
    pub(super) fn small(&self, at: &Location, limit: u64) -> Result<Vec<u8>> {
        if let Location::Local(path) = at {
            return small_file::read_regular(path, limit);
        }
        let mut reader = self.open(at)?.reader.take(limit + 1);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(ours).context(|| format!("read {at}"))?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{at} has more than {limit} bytes")));
        }
        Ok(bytes)
    }

    pub(super) fn client(&self) -> Result<&Arc<Client>> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = (self.make)()?;
        Ok(self.client.get_or_init(|| Arc::new(client)))
    }
}

/// Returns the error of ours that an error of reading carries.
pub(super) fn ours(error: std::io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("read", error))
}
