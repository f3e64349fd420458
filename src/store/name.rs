//! Names of nodes: what they may look like, and how they become file names.

use std::fmt;

use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// A name that a person gave to a node: `dev`, `debian/12`, `rust:1.89`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Bytes in the longest name; percent-encoded it still fits a file name (255).
    pub const MAX: usize = 128;

    /// Bytes in the longest file name that a name becomes.
    const MAX_ENCODED: usize = 255;

    /// What the names of volumes begin with; no person may give such a name to a tree.
    pub(crate) const VOLUMES: &str = "_volume/";

    /// What the names of steps of builds begin with; these are not in `n/`, and no person may give one.
    pub(crate) const STEPS: &str = "_step/";

    /// Reads a name: letters, digits and `_ . - + / :`, beginning with a letter, digit or `_`.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with(Self::VOLUMES) {
            let message = format!("name {text:?} is a volume's");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("see `rootling volume`"));
        }
        if text.starts_with(Self::STEPS) {
            let message = format!("name {text:?} is that of a step of a build");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("choose another name"));
        }
        Self::parse_plain(text)
    }

    /// Returns the name of a step of a build, by the name of its link.
    pub(super) fn of_step(file_name: &str) -> Result<Self> {
        Self::parse_plain(&format!("{}{file_name}", Self::STEPS))
    }

    /// Is it the name of a step of a build?
    pub fn is_step(&self) -> bool {
        self.0.starts_with(Self::STEPS)
    }

    /// Is it the name of a volume, or of a snapshot of one?
    pub fn is_volume(&self) -> bool {
        self.0.starts_with(Self::VOLUMES)
    }

    /// Reads the name of a tree, a box, or a snapshot of a box (`NAME@LABEL`).
    pub fn parse_with_label(text: &str) -> Result<Self> {
        match text.split_once('@') {
            None => Self::parse(text),
            Some((name, label)) => Self::parse(name)?.snapshot(&Label::parse(label)?),
        }
    }

    /// Returns the name of this box's snapshot of that label.
    pub fn snapshot(&self, label: &Label) -> Result<Self> {
        let name = Self(format!("{}@{label}", self.0));
        if name.encoded().len() > Self::MAX_ENCODED {
            let message = format!("{name} is too long for a name");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("choose a shorter label"));
        }
        Ok(name)
    }

    /// Takes the name of a snapshot apart: the box's and its label; `None` for any other name.
    pub fn of_snapshot(&self) -> Option<(Self, Label)> {
        let (name, label) = self.0.split_once('@')?;
        Some((Self(name.to_owned()), Label(label.to_owned())))
    }

    /// Is it the name of a snapshot of a box?
    pub fn is_snapshot(&self) -> bool {
        self.0.contains('@')
    }

    /// Reads any name: of a tree, a snapshot, a volume.
    pub(crate) fn parse_any(text: &str) -> Result<Self> {
        match text.split_once('@') {
            None => Self::parse_plain(text),
            Some((name, label)) => Self::parse_plain(name)?.snapshot(&Label::parse(label)?),
        }
    }

    fn parse_plain(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::InvalidInput, format!("name {text:?} {why}"))
                .hint("use letters, digits and _ . - + / : and begin with a letter or digit"))
        };
        let first = text.bytes().next();
        match first {
            None => return refuse("is empty"),
            Some(byte) if !(byte.is_ascii_alphanumeric() || byte == b'_') => {
                return refuse("begins with a character that names may not begin with");
            }
            Some(_) => {}
        }
        if text.len() > Self::MAX {
            return refuse("is longer than 128 bytes");
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-+/:".contains(&byte)) {
            return refuse("contains a character that names may not contain");
        }
        if text.contains("..")
            || text.contains("//")
            || text.contains(":/")
            || text.ends_with(['/', ':', '.'])
        {
            return refuse("has an empty or dotted part");
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name as one file name: `/` becomes `%2F`.
    pub fn encoded(&self) -> String {
        self.0.replace('/', "%2F")
    }

    /// Reads what [`encoded`](Self::encoded) wrote.
    pub fn decode(file_name: &str) -> Result<Self> {
        Self::parse_any(&file_name.replace("%2F", "/"))
    }
}

/// What a snapshot of a box is called: the part of its name behind the `@`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// Bytes in the longest label.
    pub const MAX: usize = 59;

    /// Reads a label: letters, digits and `_ . -`, beginning with a letter or digit.
    pub fn parse(text: &str) -> Result<Self> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if first && rest && text.len() <= Self::MAX && !text.contains("..") && !text.ends_with('.') {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is not the label of a snapshot"))
            .hint("use up to 59 letters, digits and _ . - and begin with a letter or digit"))
    }

    /// Returns the label of this number, which snapshots get that nobody named.
    pub fn numbered(number: u32) -> Self {
        Self(number.to_string())
    }

    /// Returns the label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse_any(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    /// Shows the name of a tree as it is, that of a volume as `volume NAME` or `volume NAME@LABEL`, and that of a step as `step` with the
    /// beginning of its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.strip_prefix(Self::VOLUMES) {
            Some(volume) => f.pad(&format!("volume {}", volume.replacen('/', "@", 1))),
            None => match self.0.strip_prefix(Self::STEPS) {
                Some(step) => f.pad(&format!("step {}", step.get(..12).unwrap_or(step))),
                None => f.pad(&self.0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_people_use_are_names() {
        for text in ["dev", "debian/12", "rust:1.89", "a", "_x", "9lives", "registry.local:5000/a/b:c+d"] {
            assert_eq!(Name::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn snapshots_are_a_box_and_a_label() {
        let name = Name::parse_with_label("dev/rust@before-upgrade").unwrap();
        let (of, label) = name.of_snapshot().unwrap();
        assert_eq!((of.as_str(), label.as_str()), ("dev/rust", "before-upgrade"));
        assert_eq!(of.snapshot(&label).unwrap(), name);
        assert_eq!(Name::decode(&name.encoded()).unwrap(), name);
        for text in ["dev@", "@a", "dev@a/b", "dev@a@b", "dev@a..b", "dev@{1}", "_volume/x@1"] {
            assert!(Name::parse_with_label(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_that_would_confuse_are_refused() {
        for text in [
            "", "-", "-x", ".", "..", "a..b", "a/../b", "/a", "a/", "a b", "a@b", "a~2", "host:/", "a\n", "é",
        ] {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
        assert!(Name::parse(&"x".repeat(129)).is_err());
    }

    proptest! {
        #[test]
        fn encoding_is_one_safe_file_name_and_reverses(text in "[ -~]{0,140}") {
            if let Ok(name) = Name::parse_with_label(&text) {
                let encoded = name.encoded();
                prop_assert!(encoded.len() <= 255 && !encoded.contains('/') && encoded != "." && encoded != "..");
                prop_assert_eq!(Name::decode(&encoded).unwrap(), name);
            }
        }
    }
}
