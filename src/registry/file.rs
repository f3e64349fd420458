//! Files of servers that are no registries: one address, read from its start to its end, without showing who one is.
//!
//! When the connection is cut, the rest is asked for by a range; a server that knows none sends all again, and what was read is
//! skipped. Whether the bytes are right, the caller verifies.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::client::{Call, Client, To};
use super::pull::{content_length, cut, range_start};
use super::transport::{Method, Response};
use super::url::{self, Url};

/// Bytes that are skipped at once.
const PIECE: usize = 64 << 10;

impl Client {
    /// Opens a file. One that is not there is an error of kind `NotFound`.
    pub fn file(self: &Arc<Self>, url: &Url) -> Result<RemoteFile> {
        let mut file = RemoteFile {
            client: Arc::clone(self),
            url: url.clone(),
            offset: 0,
            length: None,
            stamp: None,
            modified: None,
            name: None,
            body: None,
            failed: 0,
        };
        let response = file.ask()?;
        file.length = content_length(&response);
        file.stamp = stamp(&response);
        file.modified = modified(&response);
        file.name = response.header("content-disposition").and_then(named);
        file.body = Some(response.body);
        Ok(file)
    }
}

/// A file that is being read, and goes on by itself after cuts. Errors of reading are ours, in an [`io::Error`].
pub struct RemoteFile {
    client: Arc<Client>,
    url: Url,
    /// Bytes that were handed out.
    offset: u64,
    length: Option<u64>,
    /// What the server tells versions of the file apart by: its header `ETag` or `Last-Modified`.
    stamp: Option<String>,
    modified: Option<i64>,
    name: Option<String>,
    body: Option<Box<dyn Read + Send>>,
    /// Failures since the last byte.
    failed: u32,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFile").field("url", &self.url.shown()).finish_non_exhaustive()
    }
}

impl RemoteFile {
    /// Returns how long it is, where the server says so.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Returns when it was last changed, in seconds since 1970, where the server says so.
    pub fn modified(&self) -> Option<i64> {
        self.modified
    }

    /// Returns the name that the server gives it (RFC 6266): a stranger's word, which may be any text.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn ask(&self) -> Result<Response> {
        let mut call = Call::new(Method::Get, To::Address(&self.url), Vec::new());
        if self.offset > 0 {
            call = call.header("range", format!("bytes={}-", self.offset));
            // Weak ones do not tell bytes apart (RFC 9110, 13.1.5).
            if let Some(stamp) = self.stamp.as_ref().filter(|stamp| !stamp.starts_with("W/")) {
                call = call.header("if-range", stamp.as_str());
            }
        }
        let sent = self.client.persist(self.url.host(), false, || self.client.anonymous(&self.url, &call));
        sent.map_err(|trouble| self.client.final_error(trouble, Method::Get, self.url.host()))
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            self.client.check()?;
            let read = self.body.as_mut().map_or(Ok(0), |body| body.read(buffer));
            match read {
                Ok(0) if self.length.is_none_or(|length| self.offset >= length) => return Ok(0),
                Ok(0) => self.go_on(io::ErrorKind::UnexpectedEof.into())?,
                Ok(read) => {
                    self.offset += read as u64;
                    self.failed = 0;
                    return Ok(read);
                }
                Err(error) => self.go_on(error)?,
            }
        }
    }

    /// Connects again after a cut.
    fn go_on(&mut self, error: io::Error) -> Result<()> {
        self.body = None;
        self.failed += 1;
        let trouble = cut(error);
        if !self.client.wait(self.url.host(), self.failed, &trouble)? {
            return Err(self.client.final_error(trouble, Method::Get, self.url.host()));
        }
        let response = self.ask()?;
        let changed = || {
            let message = format!("{} changed while it was read", self.url.shown());
            Error::new(ErrorKind::Io, message).hint("try again")
        };
        if response.status == 206 {
            if response.header("content-range").and_then(range_start) != Some(self.offset) {
                return Err(changed());
            }
            self.body = Some(response.body);
            return Ok(());
        }
        if stamp(&response) != self.stamp || content_length(&response) != self.length {
            return Err(changed());
        }
        let mut body = response.body;
        let mut piece = vec![0; PIECE];
        let mut skipped = 0;
        while skipped < self.offset {
            self.client.check()?;
            let want = PIECE.min(usize::try_from(self.offset - skipped).unwrap_or(PIECE));
            match body.read(&mut piece[..want]) {
                // The next read finds out the same, and counts it.
                Ok(0) | Err(_) => return Ok(()),
                Ok(read) => skipped += read as u64,
            }
        }
        self.body = Some(body);
        Ok(())
    }
}

impl Read for RemoteFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.next(buffer).context(|| format!("get {}", self.url.shown()));
        read.map_err(io::Error::other)
    }
}

fn stamp(response: &Response) -> Option<String> {
    response.header("etag").or_else(|| response.header("last-modified")).map(str::to_owned)
}

fn modified(response: &Response) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(response.header("last-modified")?).ok()?;
    Some(date.timestamp().as_second())
}

/// Returns the parameter `filename` of a `Content-Disposition`, quoted or not.
fn named(header: &str) -> Option<String> {
    let mut quoted = false;
    let ends = |letter| {
        quoted ^= letter == '"';
        letter == ';' && !quoted
    };
    let after = header.split(ends).skip(1).find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        key.trim().eq_ignore_ascii_case("filename").then_some(value.trim())
    })?;
    Some(after.trim_matches('"').to_owned())
}

impl Url {
    /// Is it https?
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Is it this machine's, by its loopback?
    pub fn is_loopback(&self) -> bool {
        url::is_loopback(&self.authority)
    }

    /// Returns what stands behind the last slash of the path, without the query.
    pub fn file_name(&self) -> &str {
        self.path_only().rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_what_ends_a_parameter_in_quotes() {
        for (header, name) in [
            ("attachment; filename=a.tar", Some("a.tar")),
            ("attachment; x=1; FileName=\"a b\"", Some("a b")),
            ("attachment; filename=\"a;b.tar\"; size=1", Some("a;b.tar")),
            ("inline", None),
        ] {
            assert_eq!(named(header).as_deref(), name, "{header}");
        }
    }
}
