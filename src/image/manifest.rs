//! Manifests and indexes, as they are written. OCI's and docker's (schema 2) differ in media types alone.

use std::collections::BTreeMap;

use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::descriptor::Descriptor;
use super::platform::Platform;
use super::{annotations, media_type, or_default};

/// One image: its configuration and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is; some do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "or_default")]
    pub layers: Vec<Descriptor>,
    /// Which manifest this one says something of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Manifest {
    /// Returns OCI's manifest of these.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// Is it an image with a root filesystem, and not some other artifact?
    pub fn is_image(&self) -> bool {
        media_type::is_config(&self.config.media_type)
    }

    /// Returns all content that it names: the configuration, then the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// Several manifests: an image for many platforms, or all that is in a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is; some do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, and further indexes.
    #[serde(default, deserialize_with = "or_default")]
    pub manifests: Vec<Descriptor>,
    /// Which manifest this index says something of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Index {
    /// Returns OCI's index of these.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// Returns the entries that are images, or may be: no attestations, no signatures.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| {
            let is_document = entry.media_type.is_empty()
                || media_type::is_manifest(&entry.media_type)
                || media_type::is_index(&entry.media_type);
            is_document
                && entry.artifact_type.is_none()
                && entry.annotation(annotations::DOCKER_REFERENCE_TYPE).is_none()
        })
    }

    /// Returns the entry that runs best on `platform`.
    ///
    /// One entry without a platform is taken where no other fits; of several nobody knows which is meant. The error names the
    /// platforms there are.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor> {
        let rank = |entry: &Descriptor| entry.platform.as_ref().and_then(|offered| platform.rank(offered));
        // Of equals the first: the order is the publisher's.
        let best =
            self.images().filter_map(|entry| Some((rank(entry)?, entry))).min_by_key(|(rank, _)| *rank);
        if let Some((_, entry)) = best {
            return Ok(entry);
        }
        let mut nameless = self.images().filter(|entry| entry.platform.is_none());
        if let (Some(entry), None) = (nameless.next(), nameless.next()) {
            return Ok(entry);
        }
        let mut offered: Vec<String> =
            self.images().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).collect();
        offered.dedup();
        let error =
            Error::new(ErrorKind::NotFound, format!("there is no image for {platform} among its manifests"));
        Err(match offered.is_empty() {
            true => error,
            false => error.hint(format!("choose with --platform one of {}", offered.join(", "))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn entry(platform: &str, digest: &str) -> Descriptor {
        let mut entry = Descriptor::new(media_type::MANIFEST, Digest::sha256_of(digest.as_bytes()), 1);
        if !platform.is_empty() {
            let (os, architecture) = platform.split_once('/').unwrap();
            entry.platform =
                Some(Platform { os: os.into(), architecture: architecture.into(), ..Platform::default() });
        }
        entry
    }

    #[test]
    fn the_image_of_the_platform_is_selected() {
        let mut attestation = entry("unknown/unknown", "a");
        attestation
            .annotations
            .insert(annotations::DOCKER_REFERENCE_TYPE.into(), "attestation-manifest".into());
        let index = Index::new(vec![
            entry("linux/arm64", "1"),
            attestation,
            entry("linux/amd64", "2"),
            entry("linux/amd64", "3"),
        ]);
        let of = |platform: &str| index.select(&platform.parse().unwrap()).map(|entry| entry.digest.clone());
        assert_eq!(of("linux/amd64").unwrap(), Digest::sha256_of(b"2"));
        assert_eq!(of("linux/aarch64").unwrap(), Digest::sha256_of(b"1"));
        let error = of("linux/s390x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.first_hint(), Some("choose with --platform one of linux/arm64, linux/amd64"));
    }

    #[test]
    fn one_image_without_a_platform_is_for_all() {
        let linux = Platform::parse("linux/amd64").unwrap();
        assert!(Index::new(vec![entry("", "1")]).select(&linux).is_ok());
        assert!(Index::new(vec![entry("", "1"), entry("", "2")]).select(&linux).is_err());
        assert!(Index::new(vec![]).select(&linux).is_err());
    }
}
