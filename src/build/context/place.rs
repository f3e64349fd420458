//! What a person writes for a context, as the argument of `build` or in `--build-context NAME=PLACE`. Nothing is looked at.
//!
//! | text | means |
//! |---|---|
//! | `-` | standard input: a Dockerfile alone, or an archive; not for named ones |
//! | `git://…` `ssh://…` `USER@HOST:PATH` `file://…` `github.com/…` `https://….git` | a repository: see [`Repository`] |
//! | `https://…` | an archive, or a Dockerfile alone |
//! | `docker-image://NAME` `docker://NAME` `container-image://NAME` | an image; named ones only |
//! | `oci-layout://DIRECTORY[:TAG][@DIGEST]` | an image in a directory; named ones only |
//! | anything else | a directory of this machine, or an archive in a file |

use std::fmt;
use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};

use super::git::Repository;
use crate::sources::Location;

/// Where a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard input.
    Stdin,
    /// A directory, or a file that is an archive.
    Path(PathBuf),
    /// A repository.
    Git(Repository),
    /// A file on a server.
    Web(Location),
    /// An image by its name: the executor's to find.
    Image(String),
    /// An image in a directory in OCI's layout: `DIRECTORY[:TAG][@DIGEST]`.
    Layout(String),
}

/// What `--build-context` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedContext {
    /// As `FROM` and `--from` are compared with it: see [`canonical_name`].
    pub name: String,
    /// Where it is.
    pub place: Place,
}

impl Place {
    /// Reads the argument of `build`. Images are refused: they are no directories that a Dockerfile would be in.
    pub fn parse(text: &str) -> Result<Self> {
        match Self::parse_any(text)? {
            Self::Image(_) | Self::Layout(_) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{text} is an image, and the context of a build is files"),
            )
            .hint(format!("give it a name: --build-context NAME={text}"))),
            place => Ok(place),
        }
    }

    fn parse_any(text: &str) -> Result<Self> {
        if text.is_empty() {
            let error = Error::new(ErrorKind::InvalidInput, "an empty context");
            return Err(error.hint("write . for the directory you are in"));
        }
        if text == "-" {
            return Ok(Self::Stdin);
        }
        for scheme in ["docker-image://", "docker://", "container-image://"] {
            if let Some(name) = text.strip_prefix(scheme) {
                return named(text, name).map(Self::Image);
            }
        }
        if let Some(directory) = text.strip_prefix("oci-layout://") {
            return named(text, directory).map(Self::Layout);
        }
        if let Some(repository) = Repository::parse(text) {
            return repository.map(Self::Git);
        }
        match Location::parse(text) {
            Some(location) => location.map(Self::Web),
            None => match text.split_once("://") {
                Some((scheme, _))
                    if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
                {
                    let message = format!("{text}: contexts of {scheme} are not known");
                    Err(Error::new(ErrorKind::Unsupported, message)
                        .hint("there are docker-image, oci-layout, https, git, ssh and file"))
                }
                _ => Ok(Self::Path(text.into())),
            },
        }
    }
}

fn named(text: &str, rest: &str) -> Result<String> {
    if rest.is_empty()
        || rest.starts_with('-')
        || rest.chars().any(|found| found.is_control() || found == ' ')
    {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} names no image")));
    }
    Ok(rest.to_owned())
}

impl NamedContext {
    /// Reads `NAME=PLACE`.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((name, place)) = text.split_once('=') else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is not NAME=PLACE"))
                .hint("as --build-context src=../src"));
        };
        let name = canonical_name(name.trim());
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_word) || !name.as_bytes()[0].is_ascii_alphanumeric() {
            let message = format!("{name:?} is no name of a context");
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint("use letters, digits, and - _ . / : between them"));
        }
        match Place::parse_any(place)? {
            Place::Stdin => {
                Err(Error::new(ErrorKind::InvalidInput, "a named context does not come from standard input")
                    .hint("write it into a file, and give that"))
            }
            place => Ok(Self { name, place }),
        }
    }
}

/// Returns the name by which contexts and what `FROM` and `--from` name are compared: lower case, as short as it can be written.
pub fn canonical_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("docker.io/").unwrap_or(&name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name).to_owned()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::Path(path) => path.display().fmt(f),
            Self::Git(repository) => repository.fmt(f),
            Self::Web(location) => location.fmt(f),
            Self::Image(name) => write!(f, "docker-image://{name}"),
            Self::Layout(directory) => write!(f, "oci-layout://{directory}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_read() {
        let read = |text: &str| Place::parse(text).unwrap();
        assert_eq!(read("-"), Place::Stdin);
        for path in [".", "/srv/x", "./git@host:x", "a:b", "dir.git", "x=y", "-dir"] {
            assert_eq!(read(path), Place::Path(path.into()), "{path}");
        }
        for web in ["https://h/x.tar.gz", "http://127.0.0.1:80/Dockerfile", "https://h/x.git/y"] {
            assert!(matches!(read(web), Place::Web(_)), "{web}");
            assert_eq!(read(web).to_string(), web);
        }
        for git in ["https://h/x.git", "git://h/x", "git@h:x.git#main:sub", "github.com/a/b", "file:///srv/x"]
        {
            assert!(matches!(read(git), Place::Git(_)), "{git}");
        }
        for wrong in ["", "docker-image://alpine", "oci-layout:///x", "ftp://h/x", "s3://x", "https://"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn named_contexts_are_read() {
        let read = |text: &str| NamedContext::parse(text).unwrap();
        assert_eq!(
            read("src=../src"),
            NamedContext { name: "src".into(), place: Place::Path("../src".into()) }
        );
        for (text, name) in [
            ("docker.io/library/Alpine:latest=docker-image://alpine:3.20", "alpine"),
            ("alpine:3.20=docker://localhost:5000/alpine@sha256:ab", "alpine:3.20"),
            ("ghcr.io/a/b=container-image://c", "ghcr.io/a/b"),
        ] {
            let found = read(text);
            assert_eq!(found.name, name);
            assert!(matches!(found.place, Place::Image(_)), "{text}");
        }
        assert_eq!(read("a=oci-layout:///srv/x:v1").place, Place::Layout("/srv/x:v1".into()));
        assert_eq!(read("a=b=c").place, Place::Path("b=c".into()));
        for wrong in [
            "src",
            "=x",
            "src=",
            "src=-",
            "a b=x",
            "a=docker-image://",
            "a=docker-image://-x",
            "-a=x",
            "a=docker-image://x y",
        ] {
            assert_eq!(NamedContext::parse(wrong).unwrap_err().kind(), ErrorKind::InvalidInput, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}|[a-z@:/.#?=-]{0,30}") {
            drop(Place::parse(&text));
            drop(NamedContext::parse(&text));
        }
    }
}
