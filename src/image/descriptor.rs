//! Descriptors: which content is meant, what it is, and where else it may be had.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::{Digest, Verifier};
use super::or_default;
use super::platform::Platform;

/// A [descriptor](https://github.com/opencontainers/image-spec/blob/main/descriptor.md). Fields it does not know are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is; empty in some of docker's archives.
    #[serde(default, deserialize_with = "or_default")]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where else it may be had, without credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub urls: Vec<String>,
    /// Anything; see [`annotations`](super::annotations).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself in base64, if it is small; see [`inline`](Self::inline).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What the manifest's image runs on; in indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What the manifest is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Descriptor {
    /// Returns a descriptor that says only what it must.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
            other: BTreeMap::new(),
        }
    }

    /// Returns the descriptor of these bytes, by SHA-256.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256_of(bytes), bytes.len() as u64)
    }

    /// Returns an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// Returns what verifies the content while it streams by.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(&self.digest, Some(self.size))
    }

    /// Returns an error of kind `Corrupt` unless `bytes` are the content.
    pub fn verify(&self, bytes: &[u8]) -> Result<()> {
        let mut verifier = self.verifier();
        verifier.update(bytes)?;
        verifier.finish()
    }

    /// Returns the content, verified, if the descriptor brings it along.
    pub fn inline(&self) -> Result<Option<Vec<u8>>> {
        let Some(data) = &self.data else { return Ok(None) };
        let bytes = STANDARD.decode(data).map_err(|error| {
            let message = format!("the data that comes with {} is no base64: {error}", self.digest);
            Error::new(ErrorKind::Corrupt, message)
        })?;
        self.verify(&bytes).map(|()| Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_survive() {
        let text = r#"{"mediaType":"application/x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"urls":["https://x/y"],"annotations":{"a":"b"},"platform":{"architecture":"arm","os":"linux","variant":"v7","x":1},"new":{"deep":[1]}}"#;
        let descriptor: Descriptor = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&descriptor).unwrap(), text);
        assert_eq!(descriptor.annotation("a"), Some("b"));
    }

    #[test]
    fn data_that_comes_along_is_verified() {
        let mut descriptor = Descriptor::of("application/vnd.oci.empty.v1+json", b"{}");
        assert_eq!(descriptor.inline().unwrap(), None);
        descriptor.data = Some("e30=".to_owned());
        assert_eq!(descriptor.inline().unwrap().unwrap(), b"{}");
        for bad in ["e31=", "e30gIA==", "%%%"] {
            descriptor.data = Some(bad.to_owned());
            assert_eq!(descriptor.inline().unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn sizes_below_zero_are_refused() {
        let text = r#"{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":-1}"#;
        assert!(serde_json::from_str::<Descriptor>(text).is_err());
    }
}
