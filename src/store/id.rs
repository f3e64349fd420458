//! The name of an object on disk: short, random, never reused.

use std::fmt;

use rootling_backends::{Context, Error, ErrorKind, Result, sys};
use serde::{Deserialize, Serialize};

/// Crockford's base32 in lower case: no `i`, `l`, `o`, `u`, so that ids survive being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Eight characters, 40 random bits: short, because the paths of 128 overlay layers must fit into one page
/// for those who mount with mount(2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId(String);

impl ObjectId {
    /// Characters in an id.
    pub const LENGTH: usize = 8;

    /// Returns a new random id.
    pub fn random() -> Result<Self> {
        let mut bits = [0_u8; Self::LENGTH];
        sys::random(&mut bits).context(|| format!("getrandom({} bytes)", Self::LENGTH))?;
        Ok(Self(bits.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()))
    }

    /// Reads an id; anything else is an error of kind `InvalidInput`.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() == Self::LENGTH && text.bytes().all(|byte| ALPHABET.contains(&byte)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is not an object id")))
        }
    }

    /// Could `text` be the beginning of an id? Four characters at least.
    pub fn is_prefix(text: &str) -> bool {
        (4..=Self::LENGTH).contains(&text.len()) && text.bytes().all(|byte| ALPHABET.contains(&byte))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (ObjectId::random().unwrap(), ObjectId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(ObjectId::parse(a.as_str()).unwrap(), a);
    }

    #[test]
    fn what_could_escape_a_directory_is_no_id() {
        for text in ["", "abc", "../../..", "abcdefgl", "ABCDEFGH", "abcdefghj", "abcd/efg"] {
            assert!(ObjectId::parse(text).is_err(), "{text:?}");
        }
    }
}
