//! A file of a server, as it is: into an open file, with what the server says of it.

use std::fs::File;
use std::io::{self, Write};

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::fetch::{Fetch, ours};
use super::stream::{Expected, Passing, Tell};
use crate::image::Digest;
use crate::registry::{Client, Url, unescaped};

/// What was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// The digest of all of it.
    pub digest: Digest,
    /// When it was last changed, in seconds since 1970, where the server says so.
    pub modified: Option<i64>,
    /// The name that the server gives it: no path, and nothing that leads elsewhere.
    pub name: Option<String>,
}

impl Fetch<'_> {
    /// Downloads a file into `into`, which is empty; with `expected`, anything else is an error of kind `Corrupt`.
    pub fn download(
        &self,
        url: &Url,
        expected: Option<Digest>,
        into: &mut File,
        tell: Tell<'_>,
    ) -> Result<Downloaded> {
        let expected = Expected { digest: expected, length: None };
        let file = Client::file(self.client()?, url)?;
        let (modified, name) = (file.modified(), file.name().and_then(plain));
        let mut passing = Passing::new(file, &expected, tell);
        if let Err(error) = io::copy(&mut passing, &mut Sink(into)) {
            return Err(passing.cause(ours(error)));
        }
        Ok(Downloaded { digest: passing.finish(&expected)?, modified, name })
    }
}

/// Tells an error of writing, which is ours, from one of reading.
struct Sink<'a>(&'a mut File);

impl Write for Sink<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer).context(|| "write what is downloaded").map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns a name that a server gives, if it is one.
fn plain(name: &str) -> Option<String> {
    let name = name.rsplit(['/', '\\']).next()?.trim();
    let is_name = !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains('\0');
    is_name.then(|| name.to_owned())
}

/// Returns the last name of the path of an address, with what is written as `%XX` read.
///
/// One that is no name, or has a slash in it then, is an error of kind `InvalidInput`.
pub fn name_of(url: &Url) -> Result<Option<String>> {
    let text = url.file_name();
    if text.is_empty() {
        return Ok(None);
    }
    // A sign of percent that escapes nothing is one.
    let bytes = unescaped(text).unwrap_or_else(|| text.as_bytes().to_vec());
    let name = String::from_utf8_lossy(&bytes).into_owned();
    if name.contains('/') || plain(&name).is_none() {
        let message = format!("{name:?}, the last part of the address, is no name of a file");
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("name the file in the destination"));
    }
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_path_and_lead_nowhere() {
        let name = |url: &str| name_of(&Url::parse(url).unwrap());
        for (url, expected) in [
            ("https://h/a/b.tar.gz?x=/y", Some("b.tar.gz")),
            ("https://h/a%20b", Some("a b")),
            ("https://h/100%", Some("100%")),
            ("https://h/a/", None),
            ("https://h", None),
        ] {
            assert_eq!(name(url).unwrap().as_deref(), expected, "{url}");
        }
        for url in ["https://h/a%2fb", "https://h/%2e%2e", "https://h/x%00"] {
            assert!(name(url).is_err(), "{url}");
        }
        assert_eq!(plain("../../etc/passwd").as_deref(), Some("passwd"));
        assert_eq!(plain(".."), None);
    }
}
