//! Root file systems that come from no registry: made of packages, from servers of images, of tarballs, from squashfs files.
//!
//! ```text
//! text ── parse ──> Source ── resolve ──> Resolved ── make ──> tree
//!                      (asks servers:        (fetch, verify, decompress, apply)
//!                       version, digest)
//! ```
//!
//! A [`Resolved`] knows what it is before it is made, and so has a key ([`Resolved::key`]): who has made it once looks for the
//! key, and makes nothing.
//!
//! | module | what it is for |
//! |---|---|
//! | `words`, `server`, `location` | the grammar: options, servers, addresses |
//! | `bootstrap` | `bootstrap:`, by mmdebstrap |
//! | `streams` | `simplestreams:`, `images:`, `ubuntu:` |
//! | `classic` | `lxc:` |
//! | `checksums` | `FILE.sha256` and `SHA256SUMS` beside a file |
//! | `squashfs` | mounted, or unpacked by unsquashfs |
//! | `stream`, `strip` | an archive becomes a tree; its top directory is taken off |
//! | `download` | a file as it is, with what the server says of it |
//! | `fetch`, `program` | what brings bytes: servers, programs |
//!
//! **Invariants.** Everything that a server sends is hostile: it has a limit, and leads nowhere but below itself or to https.
//! Without a checksum nothing comes over plain http, but from loopback. What fails leaves a tree that the caller throws away.

mod bootstrap;
mod checksums;
mod classic;
mod download;
mod fetch;
mod location;
mod program;
mod server;
mod squashfs;
mod stream;
mod streams;
mod strip;
mod words;

use std::fmt;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rootling_backends::attributes::Owners;
use rootling_backends::{Context, Dir, Error, ErrorKind, Result};

pub use bootstrap::Bootstrap;
pub use classic::Classic;
pub use download::{Downloaded, name_of};
pub use fetch::Fetch;
pub use location::Location;
pub(crate) use program::{Program, missing};
pub use stream::{Made, Progress, Tell, Treatment};
pub use streams::Streams;
pub use strip::Strip;

use crate::image::Digest;
use stream::Expected;

/// The schemes of all sources here, for whoever completes or explains them.
pub const SCHEMES: [&str; 8] =
    ["bootstrap:", "simplestreams:", "images:", "ubuntu:", "ubuntu-daily:", "lxc:", "squashfs:", "https://"];

/// Where a root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Bootstrap(Bootstrap),
    Streams(Streams),
    Classic(Classic),
    Archive(Location),
    Squashfs(Location),
}

/// Makes a program end with the thread that starts it, and keep a file open to its own end.
pub type Bind = fn(&mut Command, OwnedFd);

/// What making needs of the caller.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// What gets files.
    pub fetch: &'a Fetch<'a>,
    /// A directory on a file system with room, for what has to lie somewhere first; it may have files without names.
    pub scratch: &'a Path,
    /// Makes a program end with the thread that starts it, and keep a file open to its own end.
    pub bind: Bind,
    /// The variable `SOURCE_DATE_EPOCH`, for programs that make archives.
    pub source_date_epoch: Option<&'a str>,
    /// Who is told how it goes on.
    pub tell: Tell<'a>,
}

impl fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Means").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

/// A source of which it is known what it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    content: Content,
    /// What the file must be; for packages, what the archives hold.
    digest: Option<Digest>,
    /// How long the file must be.
    length: Option<u64>,
    /// Which version was chosen, where there is a choice.
    pub version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Packages(Bootstrap),
    Archive(Location),
    Squashfs(Location),
}

impl Source {
    /// Reads a source; `None` where the text has none of our [`SCHEMES`].
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let (scheme, rest) = text.split_once(':')?;
        let kind = match scheme {
            "bootstrap" => Bootstrap::parse(text, rest).map(Kind::Bootstrap),
            "simplestreams" => Streams::parse(text, rest, None).map(Kind::Streams),
            "images" | "ubuntu" | "ubuntu-daily" => {
                Streams::parse(text, rest, Some(scheme)).map(Kind::Streams)
            }
            "lxc" => Classic::parse(text, rest).map(Kind::Classic),
            "https" | "http" => Location::parse(text)?.map(Kind::Archive),
            "tar" if rest.starts_with("https://") || rest.starts_with("http://") => {
                Location::parse(rest)?.map(Kind::Archive)
            }
            "squashfs" if rest.is_empty() => {
                Err(Error::new(ErrorKind::InvalidInput, "there is no file after squashfs:"))
            }
            "squashfs" => {
                Location::parse(rest).unwrap_or_else(|| Ok(Location::Local(rest.into()))).map(Kind::Squashfs)
            }
            _ => return None,
        };
        Some(kind.map(|kind| Self { text: text.to_owned(), kind }))
    }

    /// Finds out what it is now. `digest`, where it is given, is that of the file that is imported.
    ///
    /// Asks servers: the index of images, files of checksums, the `InRelease` of packages; downloads no content.
    pub fn resolve(&self, means: &Means<'_>, digest: Option<Digest>) -> Result<Resolved> {
        self.resolve_now(means, digest).context(|| format!("find out what {self} is"))
    }

    fn resolve_now(&self, means: &Means<'_>, digest: Option<Digest>) -> Result<Resolved> {
        let given = digest.is_some();
        self.require_safe(given)?;
        let resolved = match &self.kind {
            Kind::Bootstrap(bootstrap) => {
                if given {
                    let message = "what is made of packages has no checksum";
                    return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave out --sha256"));
                }
                let version = bootstrap.version(means.fetch)?;
                let epoch = means.source_date_epoch.unwrap_or_default();
                let digest =
                    version.map(|version| Digest::sha256_of(format!("{version} {epoch}").as_bytes()));
                return Ok(Resolved { digest, ..Resolved::of(Content::Packages(bootstrap.clone())) });
            }
            Kind::Streams(streams) => streams.resolve(means.fetch)?,
            Kind::Classic(classic) => classic.resolve(means.fetch)?,
            Kind::Archive(at) => Resolved::file(means.fetch, Content::Archive(at.clone()), at, given)?,
            Kind::Squashfs(at) => Resolved::file(means.fetch, Content::Squashfs(at.clone()), at, given)?,
        };
        Ok(if given { Resolved { digest, ..resolved } } else { resolved })
    }

    /// Refuses what anybody on the way could replace.
    fn require_safe(&self, given: bool) -> Result<()> {
        let at = match &self.kind {
            Kind::Bootstrap(_) => return Ok(()),
            Kind::Streams(Streams { server: at, .. }) | Kind::Classic(Classic { server: at, .. }) => at,
            Kind::Archive(at) | Kind::Squashfs(at) => at,
        };
        if given || at.is_safe() {
            return Ok(());
        }
        let message = format!("{at} comes in the clear, and nothing says what it should be");
        Err(Error::new(ErrorKind::PermissionDenied, message)
            .hint("use https, or give its checksum: --sha256 HEX"))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Resolved {
    fn of(content: Content) -> Self {
        Self { content, digest: None, length: None, version: None }
    }

    /// Returns the archive in a file of this machine; `digest` is what it must be, if that is known.
    pub fn local(path: PathBuf, digest: Option<Digest>) -> Self {
        Self { digest, ..Self::of(Content::Archive(Location::Local(path))) }
    }

    /// Looks for a checksum, where none is given.
    fn file(fetch: &Fetch<'_>, content: Content, at: &Location, given: bool) -> Result<Self> {
        // Beside a file of this machine a checksum says only that the disk is whole.
        let digest = match at {
            Location::Web(_) if !given => checksums::beside(fetch, at)?,
            _ => None,
        };
        Ok(Self { digest, ..Self::of(content) })
    }

    /// Is it known what the content must be? What is not is imported as it comes.
    pub fn is_verified(&self) -> bool {
        self.digest.is_some() || matches!(self.content, Content::Packages(_))
    }

    /// Returns what equal trees have in common: what the file must be, and what is done to it. `None` where it is not known what
    /// will come.
    pub fn key(&self, treatment: &Treatment) -> Option<Digest> {
        let digest = self.digest.as_ref()?;
        let content = match &self.content {
            Content::Packages(_) => "packages",
            Content::Archive(_) => "archive",
            Content::Squashfs(_) => "squashfs",
        };
        let owners = match treatment.owners {
            Owners::Keep => "keep".to_owned(),
            Owners::Caller => "caller".to_owned(),
            Owners::CallerInsteadOf { user, group } => format!("caller for {user}:{group}"),
        };
        let strip = match treatment.strip {
            Strip::Auto => "auto".to_owned(),
            Strip::Exactly(count) => count.to_string(),
        };
        let text = format!("rootling source 1\n{content} {digest}\nowners {owners}\nstrip {strip}\n");
        Some(Digest::sha256_of(text.as_bytes()))
    }

    /// Makes the tree in `target`, an empty directory. After an error it is half made: the caller throws it away.
    pub fn make(&self, means: &Means<'_>, target: &Dir, treatment: &Treatment) -> Result<Made> {
        let expected = Expected { digest: self.digest.clone(), length: self.length };
        match &self.content {
            Content::Packages(bootstrap) => bootstrap.make(means, target, treatment),
            Content::Archive(at) => {
                let opened = means.fetch.open(at)?;
                let expected = Expected { length: expected.length.or(opened.length), ..expected };
                stream::unpack(opened.reader, &expected, target, treatment, means.tell)
                    .context(|| format!("unpack {at}"))
            }
            Content::Squashfs(at) => {
                let make = || -> Result<Made> {
                    let mut made = squashfs::make(means, at, &expected, target, treatment)?;
                    made.notes.extend(strip::strip(target, treatment.strip)?);
                    Ok(made)
                };
                make().context(|| format!("unpack {at}"))
            }
        }
    }
}

/// Unpacks an archive that comes from somewhere else, standard input for one; `digest` is what it must be, if that is known.
pub fn unpack(
    archive: impl Read + Send,
    digest: Option<Digest>,
    target: &Dir,
    treatment: &Treatment,
    tell: Tell<'_>,
) -> Result<Made> {
    stream::unpack(archive, &Expected { digest, length: None }, target, treatment, tell)
}

/// Reads the SHA-256 of a file, as people write it: 64 hexadecimal digits, `sha256:` before them or not.
pub fn parse_sha256(text: &str) -> Result<Digest> {
    checksums::parse(text).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is no SHA-256"))
            .hint("it has 64 hexadecimal digits: sha256sum FILE prints it")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_scheme_is_read() {
        for text in [
            "bootstrap:debian/bookworm",
            "simplestreams:images/debian/bookworm",
            "images:debian/bookworm",
            "ubuntu:24.04",
            "ubuntu-daily:noble?arch=arm64",
            "lxc:debian/bookworm/amd64/default",
            "squashfs:root.squashfs",
            "squashfs:https://h/root.squashfs",
            "https://h/root.tar.xz",
            "tar:https://h/root.tar.xz",
        ] {
            assert_eq!(Source::parse(text).unwrap().unwrap().to_string(), text);
        }
        for text in ["tar:root.tar", "dir:/x", "debian", "docker:x", "ftp://h/x"] {
            assert!(Source::parse(text).is_none(), "{text}");
        }
        for text in ["bootstrap:", "images:", "images:h//x", "squashfs:", "https:///x", "https:x", "lxc:x"] {
            assert!(Source::parse(text).is_none_or(|read| read.is_err()), "{text}");
        }
    }

    #[test]
    fn a_key_is_the_content_and_what_is_done_to_it() {
        let treatment = Treatment { owners: Owners::Keep, strip: Strip::Auto };
        let digest = Some(Digest::sha256_of(b"x"));
        let here = Resolved::local("/a.tar".into(), digest.clone());
        let there = Resolved::local("/b.tar".into(), digest);
        assert_eq!(here.key(&treatment), there.key(&treatment));
        assert_ne!(
            here.key(&treatment),
            here.key(&Treatment { strip: Strip::Exactly(1), ..treatment.clone() })
        );
        assert_ne!(
            here.key(&treatment),
            here.key(&Treatment { owners: Owners::Caller, ..treatment.clone() })
        );
        assert_eq!(Resolved::local("/a.tar".into(), None).key(&treatment), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}|(bootstrap|images|lxc|simplestreams|squashfs|https):[a-z/?=&:.%-]{0,30}") {
            drop(Source::parse(&text));
        }
    }
}
