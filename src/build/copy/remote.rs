//! What `ADD` fetches: files of servers.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::super::context::{Fetched, Loading};
use super::super::plan::CopyStep;
use crate::image::Digest;
use crate::registry::Url;
use crate::sources::{Downloaded, Means, name_of};

/// A file of a server. It is fetched for the key, unless it is known what it must be: then when it is copied.
#[derive(Debug)]
pub struct Remote {
    url: Url,
    text: String,
    /// What it must be.
    expected: Option<Digest>,
}

impl Remote {
    /// Reads a source; `None` where it is a path.
    pub(super) fn parse(text: &str, step: &CopyStep) -> Option<Result<Self>> {
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return None;
        }
        if !step.is_add {
            let error = Error::new(ErrorKind::InvalidInput, "COPY takes no addresses of servers");
            return Some(Err(error.hint("write ADD for it")));
        }
        let expected = step.checksum.as_ref().map(|text| Digest::parse(text)).transpose();
        let expected = expected.context(|| "read --checksum");
        let read = || Ok(Self { url: Url::parse(text)?, text: text.to_owned(), expected: expected? });
        Some(read())
    }

    /// Returns what a key says of it: equal words, equal copies. Fetches it unless there is a checksum.
    pub(super) fn words(&self, loading: &Loading<'_>) -> Result<String> {
        if let Some(expected) = &self.expected {
            return Ok(format!("{} {expected}", self.text));
        }
        let said = &self.fetch(loading)?.said;
        let modified = said.modified.unwrap_or(0);
        Ok(format!("{} {} {modified} {}", self.text, said.digest, said.name.as_deref().unwrap_or_default()))
    }

    /// Does it come in the clear, with nothing that says what it should be?
    pub(super) fn is_unsafe(&self) -> bool {
        self.expected.is_none() && !self.url.is_secure() && !self.url.is_loopback()
    }

    /// Fetches it, once in a build.
    pub(super) fn fetch(&self, loading: &Loading<'_>) -> Result<Arc<Fetched>> {
        let expected = self.expected.as_ref().map(Digest::to_string).unwrap_or_default();
        let download = || self.download(loading.means).context(|| format!("get {}", self.text));
        loading.gathered.files.get(&format!("{} {expected}", self.text), download)
    }

    fn download(&self, means: &Means<'_>) -> Result<Fetched> {
        let mut file = nameless(means.scratch)?;
        let said = means.fetch.download(&self.url, self.expected.clone(), &mut file, means.tell)?;
        Ok(Fetched { file, said })
    }

    /// Returns the name that it has in a directory: that of the address or, where that has none, the server's.
    pub(super) fn name(&self, said: &Downloaded) -> Result<String> {
        let name = name_of(&self.url)?.or_else(|| said.name.clone());
        name.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{} has no name of a file at its end", self.text))
                .hint("name the file in the destination, without a slash at the end")
        })
    }
}

fn nameless(directory: &Path) -> Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(directory, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    file.map(File::from).context(|| format!("open({directory:?}, O_TMPFILE)"))
}
