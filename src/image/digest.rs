//! Digests: what content is called in the OCI documents, taken and verified while the bytes stream by.
//!
//! A [`Digest`] names bytes as they lie in a registry. A [`DiffId`] is the digest of a layer's tar before it was
//! packed, a [`ChainId`] that of a stack of them: they look alike, and mixing them up is never an error that
//! shows at once, so they are types of their own.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// How a digest is taken. The [registered ones](https://github.com/opencontainers/image-spec/blob/main/descriptor.md#registered-algorithms)
/// that can be verified here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, which nearly all digests are.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Returns its name in a digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns how many hexadecimal digits its digests have.
    pub fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The digest of some bytes: `sha256:` and 64 hexadecimal digits in lower case, or `sha512:` and 128.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// Reads a digest. Other algorithms, other lengths and capital letters are errors of kind `InvalidInput`.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            let shown: String = text.chars().take(140).collect();
            Err(Error::new(ErrorKind::InvalidInput, format!("{shown:?} is no digest: {why}")))
        };
        let Some((name, hex)) = text.split_once(':') else {
            return refuse("there is no ':' behind an algorithm".to_owned());
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return refuse(format!("algorithm {name:?} is not known, there are sha256 and sha512")),
        };
        let length = algorithm.hex_length();
        if hex.len() != length || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return refuse(format!("{name} has {length} hexadecimal digits in lower case"));
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }

    /// Takes the SHA-256 of `bytes`.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// Takes the digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Takes the digest of all that `reader` has left.
    pub fn of_stream(algorithm: Algorithm, mut reader: impl Read) -> io::Result<Self> {
        let (mut hasher, mut buffer) = (Hasher::new(algorithm), vec![0; 256 << 10]);
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a SHA-256 that was taken elsewhere.
    pub fn from_sha256(sum: [u8; 32]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex(&sum) }
    }

    /// Returns how it was taken.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the digits: they are safe as a file name.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Returns the first twelve digits, by which people call it.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

fn hex(sum: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    sum.iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The digest of a layer's tar, unpacked: what the `diff_ids` of a configuration list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The name of a stack of layers, from the lowest to one of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// Returns the name of a stack of this layer alone.
    pub fn first(layer: &DiffId) -> Self {
        Self(layer.0.clone())
    }

    /// Returns the name of this stack with one more layer on it.
    ///
    /// As the [image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid) has it:
    /// the digest of both digests with a space between them.
    #[must_use]
    pub fn with(&self, layer: &DiffId) -> Self {
        Self(Digest::sha256_of(format!("{} {}", self.0, layer.0).as_bytes()))
    }

    /// Returns the names of the stacks that end at each of `layers`, the lowest first.
    pub fn of_all(layers: &[DiffId]) -> Vec<Self> {
        let mut chains: Vec<Self> = Vec::with_capacity(layers.len());
        for layer in layers {
            chains.push(chains.last().map_or_else(|| Self::first(layer), |below| below.with(layer)));
        }
        chains
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Takes a digest of bytes that come piece by piece, and counts them.
#[derive(Debug, Clone)]
pub struct Hasher {
    state: State,
    size: u64,
}

#[derive(Debug, Clone)]
enum State {
    Sha256(Box<sha2::Sha256>),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Starts with no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Box::default()),
            Algorithm::Sha512 => State::Sha512(Box::default()),
        };
        Self { state, size: 0 }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
        self.size += bytes.len() as u64;
    }

    /// Returns how many bytes there were.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the digest of all the bytes.
    pub fn finish(self) -> Digest {
        match self.state {
            State::Sha256(state) => Digest { algorithm: Algorithm::Sha256, hex: hex(&state.finalize()) },
            State::Sha512(state) => Digest { algorithm: Algorithm::Sha512, hex: hex(&state.finalize()) },
        }
    }
}

/// Bytes go in as they come, and at the end they are what was promised, or it is an error of kind `Corrupt`.
#[derive(Debug, Clone)]
pub struct Verifier {
    hasher: Hasher,
    digest: Digest,
    size: Option<u64>,
}

impl Verifier {
    /// Starts with no bytes; without `size` any length will do.
    pub fn new(digest: &Digest, size: Option<u64>) -> Self {
        Self { hasher: Hasher::new(digest.algorithm), digest: digest.clone(), size }
    }

    /// Adds bytes. More of them than there should be are an error at once: nobody fills a disk with them.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        match self.size {
            Some(size) if self.hasher.size > size => Err(self.wrong_size("more than")),
            _ => Ok(()),
        }
    }

    /// Returns how many bytes there were.
    pub fn size(&self) -> u64 {
        self.hasher.size
    }

    /// Is this what was promised?
    pub fn finish(self) -> Result<()> {
        if self.size.is_some_and(|size| size != self.hasher.size) {
            return Err(self.wrong_size("only"));
        }
        let found = self.hasher.finish();
        if found == self.digest {
            return Ok(());
        }
        let message = format!("verify {}: the bytes that came have {found}", self.digest);
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    fn wrong_size(&self, how: &str) -> Error {
        let (size, came) = (self.size.unwrap_or_default(), self.hasher.size);
        let message = match how {
            "only" => format!("verify {}: only {came} of {size} bytes came", self.digest),
            _ => format!("verify {}: more than {size} bytes came", self.digest),
        };
        Error::new(ErrorKind::Corrupt, message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OF_NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::sha256_of(b"").to_string(), OF_NOTHING);
        assert_eq!(Digest::parse(OF_NOTHING).unwrap().short(), "e3b0c44298fc");
        let long = Digest::of(Algorithm::Sha512, b"abc").to_string();
        assert!(long.starts_with("sha512:ddaf35a193617abacc417349ae204131"), "{long}");
        assert_eq!(Digest::parse(&long).unwrap().to_string(), long);
    }

    #[test]
    fn what_cannot_be_verified_is_no_digest() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:E3B0C44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:../../../../etc/passwd",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85",
            "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "SHA256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert_eq!(Digest::parse(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text:?}");
        }
        let error = Digest::parse("blake3:00").unwrap_err().to_string();
        assert_eq!(
            error,
            r#""blake3:00" is no digest: algorithm "blake3" is not known, there are sha256 and sha512"#
        );
    }

    #[test]
    fn chains_are_those_of_the_specification() {
        let [a, b] = [b"a", b"b"].map(|bytes| DiffId(Digest::sha256_of(bytes)));
        let both = Digest::sha256_of(format!("{} {}", a.0, b.0).as_bytes());
        assert_eq!(ChainId::of_all(&[a.clone(), b]), [ChainId(a.0.clone()), ChainId(both)]);
        assert_eq!(ChainId::of_all(&[]), []);
    }

    #[test]
    fn a_verifier_says_how_the_bytes_are_wrong() {
        let digest = Digest::sha256_of(b"four");
        let verify = |size, bytes: &[u8]| {
            let mut verifier = Verifier::new(&digest, size);
            verifier.update(bytes).and_then(|()| verifier.finish())
        };
        assert!(verify(Some(4), b"four").is_ok());
        assert!(verify(None, b"four").is_ok());
        for (size, bytes, says) in [
            (Some(4), &b"five!"[..], "more than 4 bytes came"),
            (Some(4), b"fou", "only 3 of 4 bytes came"),
            (Some(4), b"FOUR", "the bytes that came have sha256:"),
            (None, b"", "the bytes that came have sha256:e3b0"),
        ] {
            let error = verify(size, bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn pieces_have_the_digest_of_the_whole(bytes: Vec<u8>, cut: prop::sample::Index) {
            let cut = cut.index(bytes.len() + 1);
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let digest = Digest::of(algorithm, &bytes);
                let mut verifier = Verifier::new(&digest, Some(bytes.len() as u64));
                verifier.update(&bytes[..cut]).unwrap();
                verifier.update(&bytes[cut..]).unwrap();
                prop_assert!(verifier.finish().is_ok());
                prop_assert_eq!(Digest::of_stream(algorithm, bytes[..cut].chain(&bytes[cut..])).unwrap(), digest.clone());
                let text = serde_json::to_string(&digest).unwrap();
                prop_assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
            }
        }

        #[test]
        fn any_text_is_a_digest_that_prints_itself_or_an_error(text in "(sha256|sha512|x)?:?[0-9a-fA-F]{0,130}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
