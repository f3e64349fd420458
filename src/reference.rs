//! One grammar of references: how a person says which tree.
//!
//! ```text
//! NAME      a box or a committed node          NAME~2   two states back, also NAME@{2}
//! NAME@L    a box's snapshot of label L        NAME^    one state back
//! 3f9a      the beginning of an id (>= 4)      - or @   the last one used
//! A..B      a range                            host:/   the running machine
//! @fail     the step of a build that failed last; @fail:2 the failure before that
//! containerd:KEY   what containerd holds by this key, or the last parts of one; nothing is read behind it
//! REF:/p    a path inside
//! ```
//!
//! and of places outside the store:
//!
//! ```text
//! docker://[HOST/]NAME[:TAG][@DIGEST]          a registry
//! oci:DIR[:IMAGE]                              a directory in OCI's layout
//! oci-archive:FILE|-[:IMAGE]                   such a layout as a tar
//! docker-archive:FILE|-[:IMAGE]                what `docker save` writes
//! dir:/p                                       a directory
//! tar:F|-                                      a tar archive of a root file system
//! bootstrap:, images:, https:// and so on      what trees alone are imported from: see [`crate::sources`]
//! ```
//!
//! This module only reads text; what a reference means, the store says.

use std::fmt;
use std::path::{Path, PathBuf};

use rootling_backends::{Error, ErrorKind, Result};

use crate::image::ImageReference;
use crate::sources;
use crate::store::{Name, ObjectId};

/// How a reference to what containerd holds begins.
const HELD: &str = "containerd:";

/// What something can be forked, run, shown or compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A node, so many states back.
    Node {
        /// Which.
        which: Which,
        /// How many parents up.
        back: u32,
    },
    /// The running machine.
    Host,
}

/// From one state to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// One reference: what it is compared with is not said.
    One(Reference),
    /// `A..B`; either may be left out.
    Between {
        /// The older state.
        from: Option<Reference>,
        /// The newer state.
        to: Option<Reference>,
    },
}

/// Which node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one of this name; it may also be the beginning of an id.
    Named(Name),
    /// The one used last.
    Last,
    /// What containerd holds.
    Held {
        /// Its key, or the last parts of that.
        key: String,
    },
    /// A step of a build that failed: the last one, or so many failures before that.
    Failed {
        /// How many failures came after it.
        before: u32,
    },
}

/// A place outside the store, where images or trees are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `docker://`: an image in a registry.
    Registry(ImageReference),
    /// `oci:`: a directory in OCI's layout.
    Layout(InFile),
    /// `oci-archive:`: such a layout as a tar.
    OciArchive(InFile),
    /// `docker-archive:`: what `docker save` writes.
    DockerArchive(InFile),
    /// `dir:`: a directory of the host.
    Directory(PathBuf),
    /// `tar:`: a tar archive of a root file system, compressed or not; `-` is standard input or output.
    Tar(PathBuf),
    /// `host:/`: the running machine.
    Host,
}

/// Where an import comes from, or what something is built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A place where images or trees are.
    Place(Place),
    /// Packages, a server of root file systems, a squashfs.
    Elsewhere(sources::Source),
}

/// Images in a directory or file, and which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFile {
    /// The directory or file; `-` is standard input or output.
    pub path: PathBuf,
    /// A name or digest; without one it is the only image.
    pub image: Option<String>,
}

fn unknown(text: &str, hint: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a reference")).hint(hint)
}

/// Takes one way to say "states back" off the end: `~N`, `~`, `^` or `@{N}`.
fn one_suffix<'a>(text: &str, which: &'a str) -> Result<Option<(&'a str, u32)>> {
    let number =
        |digits: &str| digits.parse().map_err(|_| unknown(text, "how many states back is a number: NAME~2"));
    if let Some(before) = which.strip_suffix('^') {
        return Ok(Some((before, 1)));
    }
    if let Some((before, digits)) = which.strip_suffix('}').and_then(|rest| rest.rsplit_once("@{")) {
        return Ok(Some((before, number(digits)?)));
    }
    match which.rsplit_once('~') {
        None => Ok(None),
        Some((before, "")) => Ok(Some((before, 1))),
        Some((before, digits)) => Ok(Some((before, number(digits)?))),
    }
}

impl Reference {
    /// Reads a reference to a node or to the host.
    pub fn parse(text: &str) -> Result<Self> {
        if Self::is_host(text) {
            return Ok(Self::Host);
        }
        if let Some(key) = Self::held_key(text) {
            return Ok(Self::Node { which: Which::Held { key: key.to_owned() }, back: 0 });
        }
        const PLACES: [&str; 13] = [
            "dir:",
            "tar:",
            "oci:",
            "oci-archive:",
            "docker-archive:",
            "docker:",
            "host:",
            "bootstrap:",
            "simplestreams:",
            "images:",
            "lxc:",
            "squashfs:",
            "https:",
        ];
        if PLACES.iter().any(|transport| text.starts_with(transport)) {
            let hint = if text.starts_with("docker:") {
                "pull it first: rootling pull NAME"
            } else {
                "import it first: rootling import SOURCE NAME"
            };
            return Err(unknown(text, hint));
        }
        let (mut which, mut back) = (text, 0_u32);
        while let Some((before, steps)) = one_suffix(text, which)? {
            which = before;
            back = back
                .checked_add(steps)
                .ok_or_else(|| unknown(text, "that is further than anything goes back"))?;
        }
        let which = match which {
            "-" | "@" => Which::Last,
            name if name.starts_with("@fail") => Which::Failed { before: Self::failure(text, name)? },
            name => Which::Named(Name::parse_with_label(name)?),
        };
        Ok(Self::Node { which, back })
    }

    /// Reads `@fail` or `@fail:N`, which counts from 1; returns how many failures came after it.
    fn failure(text: &str, which: &str) -> Result<u32> {
        if which == "@fail" {
            return Ok(0);
        }
        let number = which.strip_prefix("@fail:").and_then(|number| number.parse::<u32>().ok());
        let before = number.and_then(|number| number.checked_sub(1));
        before.ok_or_else(|| unknown(text, "@fail is the last step that failed, @fail:2 the one before it"))
    }

    /// Returns the key of what containerd holds, if a text says one.
    pub fn held_key(text: &str) -> Option<&str> {
        text.strip_prefix(HELD).filter(|key| !key.is_empty())
    }

    /// Does a text mean the running machine?
    pub fn is_host(text: &str) -> bool {
        text == "host:/" || text == "host:"
    }

    /// Reads `REFERENCE:/PATH`: a path inside a tree. `None` where the text has no `:/`, so that it can be something else.
    pub fn parse_path(text: &str) -> Result<Option<(Self, PathBuf)>> {
        let Some((reference, path)) = text.split_once(":/") else { return Ok(None) };
        let path = PathBuf::from(format!("/{path}"));
        if reference == "host" {
            Ok(Some((Self::Host, path)))
        } else {
            Ok(Some((Self::parse(reference)?, path)))
        }
    }

    /// Reads `A..B`, `A..`, `..B` or a single reference.
    pub fn parse_range(text: &str) -> Result<Range> {
        let end = |text: &str| if text.is_empty() { Ok(None) } else { Self::parse(text).map(Some) };
        match text.split_once("..") {
            None => Ok(Range::One(Self::parse(text)?)),
            Some((from, to)) => Ok(Range::Between { from: end(from)?, to: end(to)? }),
        }
    }
}

impl Which {
    /// Returns the beginning of an id that this may be.
    pub fn id_prefix(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name.as_str()).filter(|text| ObjectId::is_prefix(text)),
            Self::Last | Self::Held { .. } | Self::Failed { .. } => None,
        }
    }
}

impl Place {
    /// Reads a place; `None` where the text begins with none of their words, and is a name in the store.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if let Some(name) = text.strip_prefix("docker://") {
            return ImageReference::parse(name).map(|reference| Some(Self::Registry(reference)));
        }
        let place = match text.split_once(':') {
            Some(("oci", rest)) => InFile::parse(text, rest).map(Self::Layout)?,
            Some(("oci-archive", rest)) => InFile::parse(text, rest).map(Self::OciArchive)?,
            Some(("docker-archive", rest)) => InFile::parse(text, rest).map(Self::DockerArchive)?,
            Some(("dir", path)) if !path.is_empty() => Self::Directory(path.into()),
            Some(("tar", path)) if !path.is_empty() => Self::Tar(path.into()),
            Some(("host", "/" | "")) => Self::Host,
            _ if text == "-" => Self::Tar("-".into()),
            _ => return Ok(None),
        };
        Ok(Some(place))
    }

    /// Reads what is imported or copied from elsewhere; anything else is an error.
    pub fn parse_outside(text: &str) -> Result<Self> {
        Self::parse(text)?.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} does not say what kind of place it is")).hint(
                "say docker://NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, dir:PATH, tar:FILE or host:/",
            )
        })
    }

    /// Are there images in it, and not a tree?
    pub fn has_images(&self) -> bool {
        !matches!(self, Self::Directory(_) | Self::Tar(_) | Self::Host)
    }
}

impl InFile {
    fn parse(text: &str, rest: &str) -> Result<Self> {
        let (path, image) = match rest.split_once(':') {
            Some((path, image)) => (path, Some(image.to_owned()).filter(|image| !image.is_empty())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(unknown(text, "say where: oci:DIR, oci-archive:FILE, docker-archive:FILE"));
        }
        Ok(Self { path: path.into(), image })
    }

    /// Is it standard input, or output?
    pub fn is_stream(&self) -> bool {
        self.path == Path::new("-")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host:/"),
            Self::Node { which, back } => {
                match which {
                    Which::Named(name) => fmt::Display::fmt(name, f)?,
                    Which::Last => f.write_str("-")?,
                    Which::Held { key } => write!(f, "{HELD}{key}")?,
                    Which::Failed { before: 0 } => f.write_str("@fail")?,
                    Which::Failed { before } => write!(f, "@fail:{}", u64::from(*before) + 1)?,
                }
                if *back > 0 { write!(f, "~{back}") } else { Ok(()) }
            }
        }
    }
}

impl Source {
    /// Reads where an import comes from.
    pub fn parse(text: &str) -> Result<Self> {
        match sources::Source::parse(text) {
            Some(source) => source.map(Self::Elsewhere),
            None => Place::parse_outside(text).map(Self::Place).map_err(|error| {
                error.hint(format!(
                    "say dir:PATH, tar:FILE, tar:-, host:/, docker://NAME, or one of {}",
                    sources::SCHEMES.join(" ")
                ))
            }),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => place.fmt(f),
            Self::Elsewhere(source) => source.fmt(f),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Layout(place) => write!(f, "oci:{place}"),
            Self::OciArchive(place) => write!(f, "oci-archive:{place}"),
            Self::DockerArchive(place) => write!(f, "docker-archive:{place}"),
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Tar(path) => write!(f, "tar:{}", path.display()),
            Self::Host => f.write_str("host:/"),
        }
    }
}

impl fmt::Display for InFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.image {
            Some(image) => write!(f, "{}:{image}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_the_grammar_is_read() {
        let named =
            |name: &str, back| Reference::Node { which: Which::Named(Name::parse(name).unwrap()), back };
        assert_eq!(Reference::parse("dev").unwrap(), named("dev", 0));
        assert_eq!(Reference::parse("dev~").unwrap(), named("dev", 1));
        assert_eq!(Reference::parse("dev~12").unwrap(), named("dev", 12));
        assert_eq!(Reference::parse("-").unwrap(), Reference::Node { which: Which::Last, back: 0 });
        assert_eq!(Reference::parse("host:/").unwrap(), Reference::Host);
        assert_eq!(Reference::parse("@").unwrap(), Reference::parse("-").unwrap());
        assert_eq!(Reference::parse("dev^^").unwrap(), named("dev", 2));
        assert_eq!(Reference::parse("dev@{3}").unwrap(), named("dev", 3));
        let failed = |before, back| Reference::Node { which: Which::Failed { before }, back };
        assert_eq!(Reference::parse("@fail").unwrap(), failed(0, 0));
        assert_eq!(Reference::parse("@fail:3~1").unwrap(), failed(2, 1));
        assert_eq!(Reference::parse_path("@fail:/etc/x").unwrap(), Some((failed(0, 0), "/etc/x".into())));
        for text in ["@fail:0", "@fail:", "@failed", "@fail:x"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        let held = |key: &str| Reference::Node { which: Which::Held { key: key.to_owned() }, back: 0 };
        assert_eq!(Reference::parse("containerd:k8s.io/7/a b~1").unwrap(), held("k8s.io/7/a b~1"));
        assert_eq!(
            Reference::parse_path("containerd:x/7/a:/etc").unwrap(),
            Some((held("x/7/a"), "/etc".into()))
        );
        let snapshot = Which::Named(Name::parse_with_label("dev@clean").unwrap());
        assert_eq!(Reference::parse("dev@clean~2").unwrap(), Reference::Node { which: snapshot, back: 2 });
        assert_eq!(Reference::parse_path("dev:/etc/x").unwrap(), Some((named("dev", 0), "/etc/x".into())));
        assert_eq!(Reference::parse_path("./etc/x").unwrap(), None);
        let range = Reference::parse_range("a..b~1").unwrap();
        assert_eq!(range, Range::Between { from: Some(named("a", 0)), to: Some(named("b", 1)) });
        let open = Reference::parse_range("dev~3..").unwrap();
        assert_eq!(open, Range::Between { from: Some(named("dev", 3)), to: None });
        assert_eq!(Reference::parse_range("dev").unwrap(), Range::One(named("dev", 0)));
        assert_eq!(Place::parse("tar:-").unwrap(), Some(Place::Tar("-".into())));
        assert_eq!(Place::parse("dir:/srv/x").unwrap(), Some(Place::Directory("/srv/x".into())));
    }

    #[test]
    fn places_outside_are_read_and_print_back() {
        let in_file =
            |path: &str, image: Option<&str>| InFile { path: path.into(), image: image.map(str::to_owned) };
        for (text, place) in [
            ("oci:/srv/x", Place::Layout(in_file("/srv/x", None))),
            ("oci:x:app:1", Place::Layout(in_file("x", Some("app:1")))),
            ("oci-archive:x.tar:1", Place::OciArchive(in_file("x.tar", Some("1")))),
            ("docker-archive:-", Place::DockerArchive(in_file("-", None))),
            ("host:/", Place::Host),
        ] {
            assert_eq!(Place::parse(text).unwrap(), Some(place.clone()), "{text}");
            assert_eq!(place.to_string(), text);
        }
        let alpine = Place::parse("docker://alpine").unwrap().unwrap();
        assert_eq!(alpine.to_string(), "docker://docker.io/library/alpine");
        for name in ["alpine", "alpine:3.20", "localhost:5000/app:1", "dev@one", "oci", "tar:"] {
            assert_eq!(Place::parse(name).unwrap(), None, "{name}");
        }
        for text in ["docker://A", "docker://", "oci:", "oci-archive::x"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_says_what_would_be() {
        for text in ["", "dev~x", "tar:x.tar", "a b", "../x"] {
            let error = Reference::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}");
            assert!(error.first_hint().is_some(), "{text:?}");
        }
        assert!(Place::parse_outside("x.tar").unwrap_err().first_hint().unwrap().contains("tar:FILE"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_prints_back(text in ".{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
            if let Ok(Some(place)) = Place::parse(&text) {
                prop_assert_eq!(Place::parse(&place.to_string()).unwrap(), Some(place));
            }
        }
    }
}
