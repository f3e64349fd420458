//! One grammar of references: how a person says which tree.
//!
//! ```text
//! NAME      a box or a committed node          NAME~2   two states back, also NAME@{2}
//! NAME@L    a box's snapshot of label L        NAME^    one state back
//! 3f9a      the beginning of an id (>= 4)      - or @   the last one used
//! A..B      a range                            host:/   the running machine
//! REF:/p    a path inside
//! dir:/p    a directory (import)               tar:F|-  a tar archive (import)
//! ```
//!
//! This module only reads text; what a reference means, the store says.

use std::fmt;
use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};

use crate::store::{Name, ObjectId};

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
}

/// Where an import comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of the host.
    Directory(PathBuf),
    /// A tar archive, compressed or not.
    Tar(PathBuf),
    /// A tar archive on standard input.
    StandardInput,
    /// The running machine.
    Host,
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
        if text == "host:/" || text == "host:" {
            return Ok(Self::Host);
        }
        if ["dir:", "tar:", "oci:", "docker:", "host:"].iter().any(|transport| text.starts_with(transport)) {
            return Err(unknown(text, "import it first: rootling import SOURCE NAME"));
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
            name => Which::Named(Name::parse_with_label(name)?),
        };
        Ok(Self::Node { which, back })
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
            Self::Last => None,
        }
    }
}

impl Source {
    /// Reads where an import comes from.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            Some(("tar", "-")) => Ok(Self::StandardInput),
            Some(("tar", path)) if !path.is_empty() => Ok(Self::Tar(path.into())),
            Some(("host", "/" | "")) => Ok(Self::Host),
            _ if text == "-" => Ok(Self::StandardInput),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} does not say what to import"))
                .hint("say dir:PATH, tar:FILE, tar:- or host:/")),
        }
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
                }
                if *back > 0 { write!(f, "~{back}") } else { Ok(()) }
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Tar(path) => write!(f, "tar:{}", path.display()),
            Self::StandardInput => f.write_str("tar:-"),
            Self::Host => f.write_str("host:/"),
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
        let snapshot = Which::Named(Name::parse_with_label("dev@clean").unwrap());
        assert_eq!(Reference::parse("dev@clean~2").unwrap(), Reference::Node { which: snapshot, back: 2 });
        assert_eq!(Reference::parse_path("dev:/etc/x").unwrap(), Some((named("dev", 0), "/etc/x".into())));
        assert_eq!(Reference::parse_path("./etc/x").unwrap(), None);
        let range = Reference::parse_range("a..b~1").unwrap();
        assert_eq!(range, Range::Between { from: Some(named("a", 0)), to: Some(named("b", 1)) });
        let open = Reference::parse_range("dev~3..").unwrap();
        assert_eq!(open, Range::Between { from: Some(named("dev", 3)), to: None });
        assert_eq!(Reference::parse_range("dev").unwrap(), Range::One(named("dev", 0)));
        assert_eq!(Source::parse("tar:-").unwrap(), Source::StandardInput);
        assert_eq!(Source::parse("dir:/srv/x").unwrap(), Source::Directory("/srv/x".into()));
    }

    #[test]
    fn what_is_no_reference_says_what_would_be() {
        for text in ["", "dev~x", "tar:x.tar", "a b", "../x"] {
            let error = Reference::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}");
            assert!(error.first_hint().is_some(), "{text:?}");
        }
        assert!(Source::parse("x.tar").unwrap_err().first_hint().unwrap().contains("tar:FILE"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_prints_back(text in ".{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
            drop(Source::parse(&text));
        }
    }
}
