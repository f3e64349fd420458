//! The [configuration](https://github.com/opencontainers/image-spec/blob/main/config.md) of an image: how it is run, what
//! its layers are unpacked, and how they came to be.

use std::collections::BTreeMap;

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::ImageConfig;
use super::digest::{ChainId, DiffId};
use super::manifest::Manifest;
use super::platform::Platform;
use super::{DOCUMENT_MAX, or_default};

/// All that is said of an image beside its layers. Fields it does not know are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// When the image was made (RFC 3339), as it was written; see [`created_at`](Self::created_at).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub author: String,
    /// The processor it was made for.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// The operating system it was made for.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// The version that Windows needs.
    #[serde(
        rename = "os.version",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub os_version: String,
    /// What Windows must have.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub os_features: Vec<String>,
    /// The sort of processor.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub variant: String,
    /// How it is run.
    #[serde(skip_serializing_if = "ImageConfig::is_empty", deserialize_with = "or_default")]
    pub config: ImageConfig,
    /// What its layers are, unpacked.
    #[serde(deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// How it came to be, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub history: Vec<History>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What the layers are, unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digests of the layers' tars, the lowest first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<DiffId>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new(), other: BTreeMap::new() }
    }
}

/// One step by which an image came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When (RFC 3339), as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub created_by: String,
    /// By whom.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub author: String,
    /// What was said about it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub comment: String,
    /// Did it change no file, so that it has no layer?
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "or_default")]
    pub empty_layer: bool,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Configuration {
    /// Reads a configuration. The bytes have the digest: keep them where it matters.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).context(|| "read the configuration of the image")
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let invalid = |why: String| Error::new(ErrorKind::InvalidInput, why);
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(invalid(format!("it has {} bytes, more than {DOCUMENT_MAX}", bytes.len())));
        }
        let configuration: Self =
            serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        let kind = &configuration.rootfs.kind;
        if kind != "layers" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("its rootfs has type {kind:?}, only layers are known"),
            ));
        }
        Ok(configuration)
    }

    /// Writes it down.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a configuration has only text as keys")
    }

    /// Returns when the image was made, if it says so in a form that can be read.
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.created.as_deref()?.parse().ok()
    }

    /// Returns what it runs on, in its normal form.
    pub fn platform(&self) -> Platform {
        let mut platform = Platform::new(&self.os, &self.architecture, &self.variant);
        platform.os_version.clone_from(&self.os_version);
        platform.os_features.clone_from(&self.os_features);
        platform
    }

    /// Returns the names of the stacks that end at each layer, the lowest first.
    pub fn chain_ids(&self) -> Vec<ChainId> {
        ChainId::of_all(&self.rootfs.diff_ids)
    }

    /// Returns for each layer the step that made it. Histories that do not fit the layers tell nothing of any.
    pub fn layer_history(&self) -> Vec<Option<&History>> {
        let steps: Vec<_> = self.history.iter().filter(|step| !step.empty_layer).map(Some).collect();
        let layers = self.rootfs.diff_ids.len();
        if steps.len() == layers { steps } else { vec![None; layers] }
    }

    /// Returns an error of kind `InvalidInput` unless it has as many layers as `manifest`.
    pub fn check(&self, manifest: &Manifest) -> Result<()> {
        let (unpacked, packed) = (self.rootfs.diff_ids.len(), manifest.layers.len());
        if unpacked == packed {
            return Ok(());
        }
        let message =
            format!("the manifest has {packed} layers, but the configuration has {unpacked} diff_ids");
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

impl History {
    /// Returns when it was, if it says so in a form that can be read.
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.created.as_deref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Descriptor, Digest, media_type};

    /// As docker's builder writes it, shortened.
    const DOCKER: &str = r#"{"architecture":"arm","config":{"Env":["PATH=/bin"],"Cmd":["sh"],"ArgsEscaped":true,"OnBuild":null},"created":"2024-05-22T18:18:12.052034407Z","history":[{"created":"2024-05-22T18:18:11Z","created_by":"ADD x in / ","comment":"buildkit.dockerfile.v0"},{"created_by":"CMD [\"sh\"]","empty_layer":true,"extra":1}],"os":"linux","variant":"v7","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"container_config":{"Hostname":"x"},"docker_version":"26"}"#;

    #[test]
    fn what_docker_writes_survives() {
        let configuration = Configuration::parse(DOCKER.as_bytes()).unwrap();
        assert_eq!(configuration.config.cmd, ["sh"]);
        assert_eq!(configuration.platform().to_string(), "linux/arm/v7");
        assert_eq!(configuration.created_at().unwrap().as_second(), 1_716_401_892);
        assert_eq!(configuration.layer_history()[0].unwrap().created_by, "ADD x in / ");
        assert_eq!(configuration.chain_ids()[0].0, configuration.rootfs.diff_ids[0].0);
        let again: Value = serde_json::from_slice(&configuration.to_bytes()).unwrap();
        let mut expected: Value = serde_json::from_str(DOCKER).unwrap();
        assert_eq!(again["history"][1]["extra"], 1);
        assert_eq!(again["container_config"]["Hostname"], "x");
        // Unknown fields are kept as they are, null too.
        assert_eq!(again, expected.take());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("", "EOF"),
            (r#"{"rootfs":{"type":"windows"}}"#, "type \"windows\""),
            (r#"{"rootfs":{"type":"layers","diff_ids":["sha256:1"]}}"#, "is no digest"),
            (r#"{"history":{}}"#, "invalid type: map"),
        ] {
            let error = format!("{:?}", Configuration::parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(says) && error.contains("read the configuration"), "{error}");
        }
        let null = r#"{"config":null,"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        assert_eq!(Configuration::parse(null.as_bytes()).unwrap(), Configuration::default());
    }

    #[test]
    fn layers_and_diff_ids_must_be_as_many() {
        let configuration = Configuration::parse(DOCKER.as_bytes()).unwrap();
        let config = Descriptor::of(media_type::CONFIG, DOCKER.as_bytes());
        let layer = Descriptor::new(media_type::LAYER_TAR, Digest::sha256_of(b""), 0);
        assert!(configuration.check(&Manifest::new(config.clone(), vec![layer])).is_ok());
        let error = configuration.check(&Manifest::new(config, vec![])).unwrap_err();
        assert_eq!(error.to_string(), "the manifest has 0 layers, but the configuration has 1 diff_ids");
    }
}
