//! Names of images in registries: the grammar of [distribution](https://github.com/distribution/reference), whole.
//!
//! ```text
//! ghcr.io:443/team/app:1.2@sha256:…
//! └─ domain ─┘└─ path ─┘tag └ digest
//! ```
//!
//! The first part is a domain if it has a `.`, a `:` or a capital letter, or is `localhost`; without one it is `docker.io`, and
//! there a path of one part lies under `library/`. [`Display`](fmt::Display) writes the whole, [`familiar`](ImageReference::familiar) what people write.

use std::fmt;
use std::str::FromStr;

use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::digest::Digest;

const HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";
/// `RepositoryNameTotalLengthMax`: bytes of the longest path.
const PATH_MAX: usize = 255;
/// The longest domain name there is, and a port.
const DOMAIN_MAX: usize = 253 + 6;
const TAG_MAX: usize = 128;
/// What the store takes as a name.
const NAME_MAX: usize = 128;

/// Where an image is to be found: a repository in a registry, and which image of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Reads a reference as `docker pull` does.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|why| {
            let shown: String = text.chars().take(300).collect();
            let error =
                Error::new(ErrorKind::InvalidInput, format!("{shown:?} is no name of an image: {why}"));
            match text.split_once("://") {
                Some((_, rest)) if !rest.is_empty() => error.hint(format!("leave out the protocol: {rest}")),
                _ => error.hint("write [HOST/]NAME[:TAG][@DIGEST]"),
            }
        })
    }

    fn read(text: &str) -> std::result::Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|error| error.to_string())?)),
        };
        // A `:` before the last `/` is a port's.
        let (name, tag) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains('/') => (&rest[..colon], Some(&rest[colon + 1..])),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(format!(
                "a tag is up to {TAG_MAX} letters, digits and _ . -, and begins with no . or -"
            ));
        }
        let (domain, path) = match name.split_once('/') {
            Some((domain, path)) if is_domain_like(domain) => (domain, path),
            _ => (HUB, name),
        };
        let domain = if domain == "index.docker.io" { HUB } else { domain };
        check_domain(domain)?;
        check_path(path)?;
        if domain == HUB && path.len() == 64 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("64 hexadecimal digits are the id of an image".to_owned());
        }
        let path =
            if domain == HUB && !path.contains('/') { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        if path.len() > PATH_MAX {
            return Err(format!("its path is longer than {PATH_MAX} bytes"));
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// Returns the registry, with its port where one was given; `docker.io` for Docker Hub.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository within the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the tag to ask for: that which was given, or `latest` where there is no digest either.
    pub fn tag_or_latest(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// Returns what a registry is asked for: the digest, where there is one, or the tag.
    pub fn manifest_reference(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag_or_latest().unwrap_or("latest").to_owned(),
        }
    }

    /// Returns the domain and the path.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns this repository's image of another tag; a digest is dropped.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            let message = format!("{tag:?} is no tag");
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint(format!("use up to {TAG_MAX} letters, digits and _ . -")));
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Returns this repository's image of that digest; the tag stays, for people.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Returns the reference as people write it: without `docker.io/library/`, without `docker.io/`.
    ///
    /// [`parse`](Self::parse) reads it as the same reference again.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.add_tag_and_digest(&mut text);
        text
    }

    fn familiar_name(&self) -> String {
        if self.domain != HUB {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            // `localhost/x` would be read as a registry, and `docker.io/localhost/x` is a repository.
            _ if self.path.split('/').next().is_some_and(is_domain_like) => self.repository(),
            _ => self.path.clone(),
        }
    }

    fn add_tag_and_digest(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }

    /// Returns what the image is called in a store: its familiar name with its tag, `latest` where there is none, or with
    /// the beginning of its digest.
    ///
    /// `docker.io/library/alpine` is `alpine:latest`, by digest `alpine:sha256-0123456789ab`. It is always a name that a store takes:
    /// what a reference may have and a name may not (brackets, two dots) becomes `_`, and what is too long ends in a digest.
    pub fn default_name(&self) -> String {
        let tag = match (self.tag_or_latest(), &self.digest) {
            (Some(tag), _) => tag.to_owned(),
            (None, Some(digest)) => format!("{}-{}", digest.algorithm(), digest.short()),
            (None, None) => "latest".to_owned(),
        };
        let whole = format!("{}:{tag}", self.familiar_name());
        let mut name: String = whole.replace(['[', ']'], "_").replace("..", "__");
        if name.ends_with('.') {
            name.pop();
            name.push('_');
        }
        // In a file name each `/` takes three bytes.
        let encoded = name.len() + 2 * name.matches('/').count();
        if name.len() > NAME_MAX || encoded > 200 {
            let kept: String = name.replace('/', "_").chars().take(NAME_MAX - 13).collect();
            name = format!("{kept}-{}", Digest::sha256_of(whole.as_bytes()).short());
        }
        name
    }
}

fn is_domain_like(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.bytes().next().is_some_and(is_word)
        && tag.len() <= TAG_MAX
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

fn check_domain(domain: &str) -> std::result::Result<(), String> {
    let (host, port) = if let Some(address) = domain.strip_prefix('[') {
        let Some((host, rest)) = address.split_once(']') else {
            return Err(format!("the address in {domain:?} has no ]"));
        };
        // As there: what looks like an address. It is dialled, or it fails.
        if !(host.contains(':') && host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')) {
            return Err(format!("{host:?} is no IPv6 address"));
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return Err(format!("{domain:?} is no host")),
        }
    } else {
        let (host, port) = domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port)));
        (Some(host), port)
    };
    if let Some(port) = port
        && !(port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
    {
        return Err(format!("{port:?} is no port"));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() > DOMAIN_MAX || host.is_some_and(|host| !host.split('.').all(is_label)) {
        return Err(format!("{domain:?} is no host"));
    }
    Ok(())
}

fn check_path(path: &str) -> std::result::Result<(), String> {
    if path.is_empty() {
        return Err("it has no name".to_owned());
    }
    for part in path.split('/') {
        if !is_path_part(part) {
            let lower = part.to_ascii_lowercase();
            return Err(if lower != part && is_path_part(&lower) {
                format!("{part:?} has capital letters")
            } else {
                format!(
                    "{part:?} is not lower-case letters and digits with single . _ or __ or - between them"
                )
            });
        }
    }
    Ok(())
}

/// `[a-z0-9]+` with `.`, `_`, `__` or any number of `-` between them.
fn is_path_part(part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(is_word)
        && part.ends_with(is_word)
        && part.split(is_word).all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-')
        })
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.repository();
        self.add_tag_and_digest(&mut text);
        f.pad(&text)
    }
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ImageReference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn good_references_are_read_as_docker_reads_them() {
        let by_digest = format!("@sha256:{SUM}");
        // What is written, the whole, the familiar form, the name in a store.
        for (text, whole, familiar, name) in [
            ("alpine", "docker.io/library/alpine", "alpine", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20", "alpine:3.20"),
            ("user/app", "docker.io/user/app", "user/app", "user/app:latest"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine", "alpine:latest"),
            ("docker.io/library/alpine", "docker.io/library/alpine", "alpine", "alpine:latest"),
            ("index.docker.io/alpine:x", "docker.io/library/alpine:x", "alpine:x", "alpine:x"),
            ("library/a", "docker.io/library/a", "a", "a:latest"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b", "library/a/b:latest"),
            (
                "docker.io/localhost/x",
                "docker.io/localhost/x",
                "docker.io/localhost/x",
                "docker.io/localhost/x:latest",
            ),
            ("localhost/x", "localhost/x", "localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
            ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000", "localhost:5000"),
            ("ghcr.io/a/b:1", "ghcr.io/a/b:1", "ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("Registry/app", "Registry/app", "Registry/app", "Registry/app:latest"),
            ("10.0.0.1:80/a", "10.0.0.1:80/a", "10.0.0.1:80/a", "10.0.0.1:80/a:latest"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c", "[::1]:5000/a/b:c", "_::1_:5000/a/b:c"),
            ("[fd00::2]/a", "[fd00::2]/a", "[fd00::2]/a", "_fd00::2_/a:latest"),
            ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f", "a__b/c---d.e_f", "a__b/c---d.e_f:latest"),
            ("a:A_.-z", "docker.io/library/a:A_.-z", "a:A_.-z", "a:A_.-z"),
            ("a:1..2.", "docker.io/library/a:1..2.", "a:1..2.", "a:1__2_"),
        ] {
            let reference = ImageReference::parse(text).unwrap();
            assert_eq!(reference.to_string(), whole);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(reference.default_name(), name);

            let pinned = ImageReference::parse(&format!("{text}{by_digest}")).unwrap();
            assert_eq!(pinned.to_string(), format!("{whole}{by_digest}"));
            assert_eq!(pinned.manifest_reference(), by_digest[1..]);
        }
        let alone = ImageReference::parse(&format!("alpine{by_digest}")).unwrap();
        assert_eq!(alone.default_name(), "alpine:sha256-e3b0c44298fc");
        assert_eq!(alone.tag_or_latest(), None);
        let both = ImageReference::parse(&format!("alpine:3{by_digest}")).unwrap();
        assert_eq!(both.default_name(), "alpine:3");
        assert_eq!(both.with_tag("4").unwrap().to_string(), "docker.io/library/alpine:4");
    }

    #[test]
    fn bad_references_are_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        let short_sum = format!("a@sha256:{}", &SUM[1..]);
        let two = format!("a@sha256:{SUM}@sha256:{SUM}");
        for text in [
            "",
            ":",
            "/",
            "@",
            "a:",
            "a@",
            ":tag",
            "a/",
            "/a",
            "a//b",
            "Alpine",
            "user/App",
            "a b",
            "a:b c",
            "-a",
            "a-",
            ".a",
            "a.",
            "a..b",
            "a___b",
            "a._b",
            "a:.x",
            "a:-x",
            "a/../b",
            "a/./b",
            "é",
            "a:é",
            "ghcr.io/",
            "ghcr.io:/a",
            "ghcr.io:x/a",
            "ghcr.io:70000/a",
            "-x.io/a",
            "x-.io/a",
            "x..io/a",
            "[::1/a",
            "[]/a",
            "[::1]x/a",
            "[zz::]/a",
            "[dead]/a",
            "http://ghcr.io/a",
            "docker://a",
            "a@md5:00",
            "a\n",
            "a\0",
            SUM,
            &long,
            &long_tag,
            &short_sum,
            &two,
        ] {
            let error = ImageReference::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}");
            assert!(error.first_hint().is_some());
        }
        let error = ImageReference::parse("Alpine").unwrap_err();
        assert_eq!(error.to_string(), r#""Alpine" is no name of an image: "Alpine" has capital letters"#);
        let error = ImageReference::parse("https://ghcr.io/a").unwrap_err();
        assert_eq!(error.first_hint(), Some("leave out the protocol: ghcr.io/a"));
    }

    #[test]
    fn long_names_stay_apart() {
        let [a, b] = ["a", "b"].map(|end| {
            ImageReference::parse(&format!("ghcr.io/{}{end}", "x".repeat(200))).unwrap().default_name()
        });
        assert_ne!(a, b);
        assert_eq!(a.len(), NAME_MAX);
    }

    fn any_reference() -> impl Strategy<Value = String> {
        let domain = "(|localhost/|[a-z]{1,5}\\.io/|[a-z]{1,3}:[0-9]{1,4}/|\\[[0-9a-f]{1,4}::1\\]/|[A-Z][a-z-]{0,3}[a-z]/)";
        let path = "[a-z0-9]{1,8}([._/-]|__)[a-z0-9]{1,8}";
        let tag = "(|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})";
        (domain, path, tag, any::<bool>()).prop_map(|(domain, path, tag, pinned)| {
            format!("{domain}{path}{tag}{}", if pinned { format!("@sha256:{SUM}") } else { String::new() })
        })
    }

    proptest! {
        #[test]
        fn all_forms_are_the_same_reference(text in any_reference()) {
            let reference = ImageReference::parse(&text).unwrap();
            prop_assert_eq!(&ImageReference::parse(&reference.to_string()).unwrap(), &reference);
            prop_assert_eq!(&ImageReference::parse(&reference.familiar()).unwrap(), &reference);
            let json = serde_json::to_string(&reference).unwrap();
            prop_assert_eq!(serde_json::from_str::<ImageReference>(&json).unwrap(), reference);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-zA-Z0-9.:/@\\[\\]_ -]{0,80}|\\PC{0,20}") {
            if let Ok(reference) = ImageReference::parse(&text) {
                prop_assert_eq!(ImageReference::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
