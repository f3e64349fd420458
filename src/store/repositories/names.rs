//! What repositories and tags may be called, and what an image's repository is called here.

use crate::image::ImageReference;

/// Bytes in the longest name of a repository, and in the longest that one becomes as the name of a directory.
pub(super) const NAME_MAX: usize = 255;

/// Returns the repository of the store that has an image's tags: that of its familiar name.
pub fn repository_of(reference: &ImageReference) -> String {
    canonical(&reference.repository()).to_owned()
}

/// Returns what a repository is called here: Docker Hub's have no host, and its official images no `library/`.
pub fn canonical(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(name)
}

/// May a repository be called that? As the [specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests)
/// has it: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, and again behind each `/`.
pub(super) fn is_repository(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let separators =
            part.split(|c: char| u8::try_from(c).is_ok_and(is_word)).filter(|text| !text.is_empty());
        ends.iter().all(|end| end.is_some_and(|byte| is_word(*byte))) && { separators }
            .all(|text| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-'))
    };
    name.len() <= NAME_MAX && name.split('/').all(is_part)
}

/// May a tag be called that: up to 128 letters, digits and `_ . -`, not beginning with `.` or `-`?
pub fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_called_as_the_specification_says() {
        for name in ["a", "library/alpine", "a.b/c_d/e__f/g---h", "ghcr.io/x/y", "0"] {
            assert!(is_repository(name), "{name}");
        }
        let names = [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", "A", "a..b", "a___b", "-a", "a-", "a_.b", "a:1",
            "a%2fb", "é", "a b", "a\0",
        ];
        for name in names {
            assert!(!is_repository(name), "{name:?}");
        }
        assert!(!is_repository(&"a".repeat(256)));
    }

    #[test]
    fn tags_are_called_as_the_specification_says() {
        assert!(["latest", "_1", "1.2-x", "V3"].iter().all(|tag| is_tag(tag)));
        assert!(["", ".", "..", "-x", ".x", "a/b", "a:b", "a~", "a b"].iter().all(|tag| !is_tag(tag)));
        assert!(!is_tag(&"a".repeat(129)));
    }

    #[test]
    fn the_hub_has_no_host_here() {
        assert_eq!(canonical("docker.io/library/alpine"), "alpine");
        assert_eq!(canonical("library/alpine"), "alpine");
        assert_eq!(canonical("library/a/b"), "library/a/b");
        assert_eq!(canonical("ghcr.io/library"), "ghcr.io/library");
    }
}
