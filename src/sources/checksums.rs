//! Files of checksums beside a file: `FILE.sha256`, `SHA256SUMS`.

use rootling_backends::{ErrorKind, Result};

use super::fetch::Fetch;
use super::location::Location;
use crate::image::Digest;

/// Bytes in the largest one that is read.
const LIMIT: u64 = 4 << 20;

/// Looks for the checksum of a file beside it. `None` where nobody wrote one down.
pub(super) fn beside(fetch: &Fetch<'_>, file: &Location) -> Result<Option<Digest>> {
    let name = file.file_name();
    let own = format!("{name}.sha256");
    for (candidate, may_be_bare) in
        [(own.as_str(), true), ("SHA256SUMS", false), ("sha256sums.txt", false), ("sha256sum.txt", false)]
    {
        let text = match fetch.small(&file.beside(candidate)?, LIMIT) {
            Ok(text) => text,
            // Stores of objects say "forbidden" of what does not exist.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = find(&String::from_utf8_lossy(&text), &name, may_be_bare);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Finds the checksum of `name` in what sha256sum wrote, in its own form (`HEX  NAME`, `HEX *NAME`) or BSD's
/// (`SHA256 (NAME) = HEX`). Other lines, those of signatures too, count for nothing.
fn find(text: &str, name: &str, may_be_bare: bool) -> Option<Digest> {
    let of_line = |line: &str| {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("SHA256 (") {
            let (named, hex) = rest.rsplit_once(") = ")?;
            return (named == name).then(|| hex.to_owned());
        }
        let (hex, named) = line.split_once([' ', '\t'])?;
        let named = named.trim_start();
        let named = named.strip_prefix('*').unwrap_or(named);
        let named = named.strip_prefix("./").unwrap_or(named);
        (named == name).then(|| hex.to_owned())
    };
    let bare = || Some(text.trim().to_owned()).filter(|_| may_be_bare);
    text.lines().find_map(of_line).or_else(bare).and_then(|hex| parse(&hex))
}

/// Reads a SHA-256, with or without its name before it, in letters of any size.
pub(super) fn parse(text: &str) -> Option<Digest> {
    let text = text.trim().to_ascii_lowercase();
    Digest::parse(&format!("sha256:{}", text.strip_prefix("sha256:").unwrap_or(&text))).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_forms_of_checksums_are_read() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        let other = "f".repeat(64);
        for text in [
            format!("{other}  other.tar\n{hex}  root.tar.xz\n"),
            format!("{hex} *root.tar.xz\n"),
            format!("{hex}  ./root.tar.xz"),
            format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{hex}  root.tar.xz\n-----BEGIN PGP"),
            format!("SHA256 (other.tar) = {other}\nSHA256 (root.tar.xz) = {hex}\n"),
            format!("{}  root.tar.xz\n", hex.to_uppercase()),
        ] {
            assert_eq!(find(&text, "root.tar.xz", false), Some(digest.clone()), "{text}");
        }
        assert_eq!(find(&format!("{hex}\n"), "root.tar.xz", true), Some(digest.clone()));
        assert_eq!(find(&format!("{hex}\n"), "root.tar.xz", false), None);
        assert_eq!(
            find(&format!("{hex}  xroot.tar.xz\n{hex}  root.tar.xz.asc\n"), "root.tar.xz", true),
            None
        );
        assert_eq!(parse(&format!("sha256:{hex}")), Some(digest));
        assert_eq!(parse(&hex[1..]), None);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,200}", name in "\\PC{0,20}") {
            drop(find(&text, &name, true));
        }
    }
}
