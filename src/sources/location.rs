//! Where a file lies: at an address of http or https, or in a directory laid out like a server's.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use rootling_backends::{Error, ErrorKind, Result};

use crate::registry::Url;

/// A file, or the directory that an index is in: then it ends with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// On a server.
    Web(Url),
    /// On this machine.
    Local(PathBuf),
}

impl Location {
    /// Reads `https://...`, `http://...` or `file:///...`; `None` where it is none of them.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let (scheme, rest) = text.split_once("://")?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Some(Url::parse(text).map(Self::Web)),
            "file" if rest.starts_with('/') => Some(Ok(Self::Local(rest.into()))),
            _ => None,
        }
    }

    /// Returns where a path in an index of this directory leads: below it, or to any address of https.
    ///
    /// An index is a stranger's: `..`, other schemes, other hosts in the clear are errors of kind `PermissionDenied`.
    pub(super) fn join(&self, path: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = path.chars().take(200).collect();
            Err(Error::new(ErrorKind::PermissionDenied, format!("{self} names {shown:?}: {why}")))
        };
        if path.contains("://") {
            return match Url::parse(path) {
                Ok(url) if url.is_secure() => Ok(Self::Web(url)),
                _ => refuse("an index may lead to another host by https only"),
            };
        }
        // Classic indexes write paths from the root of the server.
        let path = path.strip_prefix('/').unwrap_or(path);
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if path.contains(['?', '#', '\\', '\0', '%']) || !path.split('/').all(is_plain) {
            return refuse("that is no path below it");
        }
        match self {
            Self::Web(url) => url.join(path).map(Self::Web),
            Self::Local(base)
                if Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) =>
            {
                Ok(Self::Local(base.join(path)))
            }
            Self::Local(_) => refuse("that is no path below it"),
        }
    }

    /// Returns the file of another name in the same directory.
    pub(super) fn beside(&self, name: &str) -> Result<Self> {
        match self {
            Self::Web(url) => url.join(name).map(Self::Web),
            Self::Local(path) => Ok(Self::Local(path.with_file_name(name))),
        }
    }

    /// Returns its name in its directory; of an address without the query.
    pub(super) fn file_name(&self) -> String {
        match self {
            Self::Web(url) => url.file_name().to_owned(),
            Self::Local(path) => {
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
        }
    }

    /// Is there nobody on the way who could change what is read?
    pub(crate) fn is_safe(&self) -> bool {
        match self {
            Self::Web(url) => url.is_secure() || url.is_loopback(),
            Self::Local(_) => true,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web(url) => url.fmt(f),
            Self::Local(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Location {
        Location::parse(text).unwrap().unwrap()
    }

    #[test]
    fn an_index_leads_below_itself_or_to_https() {
        let base = at("http://h:80/x/");
        let joined = |base: &Location, path| base.join(path).map(|found| found.to_string());
        assert_eq!(joined(&base, "streams/v1/a:b.json").unwrap(), "http://h:80/x/streams/v1/a:b.json");
        assert_eq!(joined(&base, "https://other/y").unwrap(), "https://other/y");
        assert_eq!(joined(&at("file:///srv/m/"), "a/b").unwrap(), "file:///srv/m/a/b");
        for hostile in [
            "http://other/y",
            "file:///etc/passwd",
            "../up",
            "a/../../b",
            "a//b",
            "//other/y",
            "",
            ".",
            "a\\b",
            "%2e%2e/x",
            "ftp://x/y",
            "a?b",
        ] {
            for base in [&base, &at("https://h/x/"), &at("file:///srv/m/")] {
                let error = joined(base, hostile).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{hostile:?} {error}");
            }
        }
    }

    #[test]
    fn what_lies_beside_is_found() {
        let file = at("https://h/x/root.tar.xz?token=1");
        assert_eq!(file.file_name(), "root.tar.xz");
        assert_eq!(file.beside("SHA256SUMS").unwrap().to_string(), "https://h/x/SHA256SUMS");
        assert_eq!(
            at("file:///x/root.tar").beside("root.tar.sha256").unwrap(),
            at("file:///x/root.tar.sha256")
        );
        assert!(
            at("https://h/").is_safe() && at("http://127.0.0.1:8/").is_safe() && !at("http://h/").is_safe()
        );
    }

    proptest! {
        #[test]
        fn no_path_of_an_index_leaves_its_host_or_directory(path in "\\PC{0,30}|[a-z./:?%]{0,12}") {
            if let Ok(Location::Web(url)) = at("http://h/x/").join(&path) {
                prop_assert!(url.is_secure() || url.to_string().starts_with("http://h/x/"), "{url}");
            }
            if let Ok(Location::Local(found)) = at("file:///srv/m/").join(&path) {
                prop_assert!(found.starts_with("/srv/m/"), "{found:?}");
            }
        }
    }
}
