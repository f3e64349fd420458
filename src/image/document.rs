//! A manifest or an index with the bytes that it was read from: bytes have the digest, what was read from them has not.

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde_json::Value;

use super::descriptor::Descriptor;
use super::digest::Digest;
use super::manifest::{Index, Manifest};
use super::{DOCUMENT_MAX, media_type};

/// What a document says.
#[expect(clippy::large_enum_variant, reason = "there are few of them, and they are borrowed")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// One image, or another artifact.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// A manifest or index as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What has the digest.
    pub bytes: Vec<u8>,
    /// The digest of the bytes: the name that it was asked for by, or their SHA-256.
    pub digest: Digest,
    /// What it is: what it says itself, or what its source said, or OCI's for its form.
    pub media_type: String,
    /// What it says.
    pub parsed: Parsed,
}

impl Document {
    /// Reads a document. `declared` is what its source says that it is, as in `Content-Type`; text that is no media type of
    /// a manifest or index is ignored.
    ///
    /// What could be read in two ways (as a manifest and as an index, or not as what it was declared) is refused:
    /// [GHSA-77vh-xpmg-72qh](https://github.com/opencontainers/image-spec/security/advisories/GHSA-77vh-xpmg-72qh).
    pub fn parse(bytes: Vec<u8>, declared: Option<&str>) -> Result<Self> {
        let digest = Digest::sha256_of(&bytes);
        Self::read(bytes, digest, declared)
    }

    /// Reads the document that `descriptor` names: its bytes are verified first.
    pub fn parse_verified(bytes: Vec<u8>, descriptor: &Descriptor) -> Result<Self> {
        descriptor.verify(&bytes)?;
        Self::read(bytes, descriptor.digest.clone(), Some(&descriptor.media_type))
    }

    /// Reads the document of that digest, whose length nobody told.
    pub fn parse_with_digest(bytes: Vec<u8>, digest: &Digest, declared: Option<&str>) -> Result<Self> {
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("verify {digest}: the bytes that came have {found}"),
            ));
        }
        Self::read(bytes, found, declared)
    }

    fn read(bytes: Vec<u8>, digest: Digest, declared: Option<&str>) -> Result<Self> {
        let (media_type, parsed) = read(&bytes, declared).context(|| format!("read manifest {digest}"))?;
        Ok(Self { bytes, digest, media_type, parsed })
    }

    /// Writes a manifest down.
    pub fn of_manifest(manifest: Manifest) -> Self {
        let media_type = manifest.media_type.clone().unwrap_or_else(|| media_type::MANIFEST.to_owned());
        let bytes = serde_json::to_vec(&manifest).expect("a manifest has only text as keys");
        Self { digest: Digest::sha256_of(&bytes), bytes, media_type, parsed: Parsed::Manifest(manifest) }
    }

    /// Writes an index down.
    pub fn of_index(index: Index) -> Self {
        let media_type = index.media_type.clone().unwrap_or_else(|| media_type::INDEX.to_owned());
        let bytes = serde_json::to_vec(&index).expect("an index has only text as keys");
        Self { digest: Digest::sha256_of(&bytes), bytes, media_type, parsed: Parsed::Index(index) }
    }

    /// Returns the descriptor of these bytes, without a platform.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest.clone(), self.bytes.len() as u64)
    }

    /// Returns the manifest, if it is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.parsed {
            Parsed::Manifest(manifest) => Some(manifest),
            Parsed::Index(_) => None,
        }
    }

    /// Returns the index, if it is one.
    pub fn index(&self) -> Option<&Index> {
        match &self.parsed {
            Parsed::Index(index) => Some(index),
            Parsed::Manifest(_) => None,
        }
    }

    /// Returns all that it names directly: configuration and layers, or manifests.
    pub fn children(&self) -> Vec<&Descriptor> {
        match &self.parsed {
            Parsed::Manifest(manifest) => manifest.blobs().collect(),
            Parsed::Index(index) => index.manifests.iter().collect(),
        }
    }
}

fn read(bytes: &[u8], declared: Option<&str>) -> Result<(String, Parsed)> {
    if bytes.len() as u64 > DOCUMENT_MAX {
        let message = format!("it has {} bytes, more than {DOCUMENT_MAX}", bytes.len());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(no_json)?;
    let Value::Object(fields) = &value else { return Err(invalid("it is no JSON object")) };
    // Parameters (`; charset=utf-8`) say nothing about JSON.
    let declared = declared
        .map(|text| text.split(';').next().unwrap_or_default().trim())
        .filter(|text| media_type::is_manifest(text) || media_type::is_index(text));
    let own = match fields.get("mediaType") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => return Err(invalid("its mediaType is no text")),
    };
    refuse_schema_1(fields.get("schemaVersion"), own)?;

    let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    let is_index = match (has("config") || has("layers"), has("manifests")) {
        (true, false) => false,
        (false, true) => true,
        (true, true) => return Err(invalid("it has layers and manifests, and could be read as either")),
        // `"manifests": null` is an empty index.
        (false, false) => own.or(declared).is_some_and(media_type::is_index),
    };
    for media_type in own.iter().chain(&declared) {
        let fits =
            if is_index { media_type::is_index(media_type) } else { media_type::is_manifest(media_type) };
        if !fits {
            let form = if is_index { "an index" } else { "a manifest" };
            return Err(invalid(format!("it is said to be {media_type}, but has the form of {form}")));
        }
    }
    let default = if is_index { media_type::INDEX } else { media_type::MANIFEST };
    let media_type = own.or(declared).unwrap_or(default).to_owned();
    // From the bytes, not from the value: it has forgotten what came twice.
    let parsed = if is_index {
        Parsed::Index(serde_json::from_slice(bytes).map_err(no_document)?)
    } else {
        Parsed::Manifest(serde_json::from_slice(bytes).map_err(no_document)?)
    };
    Ok((media_type, parsed))
}

fn refuse_schema_1(version: Option<&Value>, own: Option<&str>) -> Result<()> {
    let is_old_type =
        own.is_some_and(|own| own.starts_with("application/vnd.docker.distribution.manifest.v1"));
    match version.and_then(Value::as_u64) {
        Some(2) if !is_old_type => Ok(()),
        Some(1 | 2) => Err(Error::new(
            ErrorKind::Unsupported,
            "it is in docker's schema 1, which has no configuration and which registries gave up in 2019",
        )
        .hint("pull and push it again with a newer docker, or `skopeo copy --format oci`")),
        Some(other) => Err(invalid(format!("its schemaVersion is {other}, only 2 is known"))),
        None => Err(invalid("it has no schemaVersion")),
    }
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, why)
}

fn no_json(error: serde_json::Error) -> Error {
    invalid(format!("it is no JSON: {error}"))
}

fn no_document(error: serde_json::Error) -> Error {
    invalid(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::Platform;

    const SUM: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Result<Document> {
        Document::parse(text.as_bytes().to_vec(), None)
    }

    fn chain(error: &Error) -> String {
        format!("{error:?}")
    }

    #[test]
    fn a_document_keeps_its_bytes() {
        let text = format!(
            r#"{{ "schemaVersion": 2, "mediaType": "{}", "config": {{"mediaType":"c","digest":"{SUM}","size":0,"x":1}},
               "layers": null, "subject": {{"mediaType":"m","digest":"{SUM}","size":3}}, "extra": [1] }}"#,
            media_type::DOCKER_MANIFEST
        );
        let document = parse(&text).unwrap();
        assert_eq!(document.bytes, text.as_bytes());
        assert_eq!(document.digest, Digest::sha256_of(text.as_bytes()));
        assert_eq!(document.media_type, media_type::DOCKER_MANIFEST);
        let manifest = document.manifest().unwrap();
        assert_eq!(manifest.other["extra"][0], 1);
        assert_eq!(manifest.config.other["x"], 1);
        assert!(manifest.subject.is_some() && manifest.layers.is_empty());
        let again = Document::parse_verified(document.bytes.clone(), &document.descriptor()).unwrap();
        assert_eq!(again, document);
    }

    #[test]
    fn what_it_is_is_told_by_its_fields_or_its_source() {
        let empty = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(parse(empty).unwrap().media_type, media_type::INDEX);
        let declared = |text: &str, declared: &str| {
            Document::parse(text.as_bytes().to_vec(), Some(declared)).map(|document| document.media_type)
        };
        assert_eq!(
            declared(empty, media_type::DOCKER_MANIFEST_LIST).unwrap(),
            media_type::DOCKER_MANIFEST_LIST
        );
        assert_eq!(declared(empty, "text/plain").unwrap(), media_type::INDEX);
        assert_eq!(
            declared(empty, &format!("{}; charset=utf-8", media_type::INDEX)).unwrap(),
            media_type::INDEX
        );
        let null = r#"{"schemaVersion":2,"manifests":null}"#;
        assert!(declared(null, media_type::INDEX).is_ok());
        assert!(declared(empty, media_type::MANIFEST).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let config = format!(r#""config":{{"mediaType":"c","digest":"{SUM}","size":0}}"#);
        for (text, says) in [
            ("", "it is no JSON: EOF"),
            ("[]", "it is no JSON object"),
            ("{}", "it has no schemaVersion"),
            (r#"{"schemaVersion":3}"#, "its schemaVersion is 3"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "docker's schema 1"),
            (r#"{"schemaVersion":2}"#, "missing field `config`"),
            (r#"{"schemaVersion":2,"mediaType":7}"#, "its mediaType is no text"),
            (&format!(r#"{{"schemaVersion":2,{config},"manifests":[]}}"#), "could be read as either"),
            (&format!(r#"{{"schemaVersion":2,{config},{config}}}"#), "duplicate field `config`"),
            (
                &format!(r#"{{"schemaVersion":2,"mediaType":"{}",{config}}}"#, media_type::INDEX),
                "the form of a manifest",
            ),
            (&format!(r#"{{"schemaVersion":2,"mediaType":"text/x",{config}}}"#), "it is said to be text/x"),
            (r#"{"schemaVersion":2,"config":{"digest":"sha256:0","size":0}}"#, "is no digest"),
            (r#"{"schemaVersion":2,"manifests":[{"digest":5}]}"#, "expected a string"),
        ] {
            let error = chain(&parse(text).expect_err(text));
            assert!(error.contains(says), "{text}: {error}");
            assert!(error.contains("read manifest sha256:"), "{error}");
        }
        let huge = vec![b' '; DOCUMENT_MAX as usize + 1];
        assert!(chain(&Document::parse(huge, None).unwrap_err()).contains("more than 4194304"));
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn other_bytes_are_not_the_document() {
        let document = Document::of_index(Index::new(Vec::new()));
        let mut bytes = document.bytes.clone();
        bytes.push(b' ');
        for result in [
            Document::parse_verified(bytes.clone(), &document.descriptor()),
            Document::parse_with_digest(bytes, &document.digest, None),
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(sizes in prop::collection::vec(any::<u64>(), 0..5), key in "[a-z.]{1,9}", value in ".{0,9}") {
            let layers = sizes.iter().map(|size| {
                let mut layer = Descriptor::new(media_type::LAYER_GZIP, Digest::sha256_of(&size.to_le_bytes()), *size);
                layer.annotations.insert(key.clone(), value.clone());
                layer
            });
            let mut manifest = Manifest::new(Descriptor::of(media_type::CONFIG, b"{}"), layers.collect());
            manifest.annotations.insert(key, value);
            let document = Document::of_manifest(manifest.clone());
            let read = Document::parse_verified(document.bytes.clone(), &document.descriptor()).unwrap();
            prop_assert_eq!(read.manifest().unwrap(), &manifest);
            prop_assert_eq!(&read, &document);

            let mut index = Index::new(vec![document.descriptor()]);
            index.manifests[0].platform = Some(Platform::host());
            let document = Document::of_index(index.clone());
            let read = Document::parse(document.bytes, None).unwrap();
            prop_assert_eq!(read.index().unwrap(), &index);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            drop(Document::parse(bytes, None));
        }
    }
}
