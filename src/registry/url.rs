//! Addresses of http and https, as far as registries need them: parsed, joined with a `Location`, given queries.
//!
//! What servers send is hostile: no user names in addresses, no control characters, no other schemes.

use std::fmt;
use std::fmt::Write as _;

use rootling_backends::{Error, ErrorKind, Result};

/// Bytes in the longest address that is followed: signed addresses of blobs have a few thousand.
const LIMIT: usize = 16 << 10;

/// An absolute address of http or https.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    /// https, not http.
    pub(super) secure: bool,
    /// `host` or `host:port`, lower case.
    pub(super) authority: String,
    /// Path and query, from the first `/`.
    path: String,
}

impl Url {
    /// Reads an absolute address; a fragment is dropped.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(ErrorKind::InvalidInput, format!("address {text:?}: {why}"));
        if text.len() > LIMIT {
            return Err(Error::new(ErrorKind::InvalidInput, format!("address of {} bytes", text.len())));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("neither http nor https")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !is_authority(authority) {
            return Err(wrong("no host, or one with strange characters"));
        }
        if path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err(wrong("characters that must be escaped"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, authority: authority.to_ascii_lowercase(), path })
    }

    /// Returns the address of a host's root.
    pub(super) fn of_host(secure: bool, authority: &str) -> Self {
        Self { secure, authority: authority.to_ascii_lowercase(), path: "/".to_owned() }
    }

    /// Returns where a `Location` or a `Link` leads from here.
    pub fn join(&self, location: &str) -> Result<Self> {
        let begins_with_scheme = location.split(['/', '?']).next().is_some_and(|start| start.contains(':'));
        if begins_with_scheme {
            return Self::parse(location);
        }
        let scheme = if self.secure { "https" } else { "http" };
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let before_query = self.path.split('?').next().unwrap_or("/");
        let directory = &before_query[..=before_query.rfind('/').unwrap_or(0)];
        let path = match location.chars().next() {
            Some('/') => location.to_owned(),
            Some('?') => format!("{before_query}{location}"),
            _ => format!("{directory}{location}"),
        };
        Self::parse(&format!("{scheme}://{}{path}", self.authority))
    }

    /// Returns this host's address with another path and query.
    pub(super) fn at(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// Returns the path without the query.
    pub(super) fn path_only(&self) -> &str {
        self.path.split('?').next().unwrap_or("/")
    }

    /// Adds `key=value` to the query, escaped; what is there stays as it is.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(key);
        self.path.push('=');
        self.path.push_str(&escaped(value));
        self
    }

    /// Do both lead to the same server by the same scheme?
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.secure == other.secure && self.authority_with_port() == other.authority_with_port()
    }

    fn authority_with_port(&self) -> String {
        let has_port = self.authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        match (has_port, self.secure) {
            (true, _) => self.authority.clone(),
            (false, true) => format!("{}:443", self.authority),
            (false, false) => format!("{}:80", self.authority),
        }
    }

    /// Returns the host without its port.
    pub(super) fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// Returns the address without its query, which may hold signatures: this is what errors show.
    pub(super) fn shown(&self) -> String {
        self.to_string().split('?').next().unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.secure { "https" } else { "http" }, self.authority, self.path)
    }
}

/// Returns `host[:port]` without the port.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
}

/// Is it this machine by its loopback, whom plain http does no harm?
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// May this stand between `://` and the path: a host, a number in brackets, a port?
pub(super) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| {
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    let host_fits = match host.strip_prefix('[') {
        Some(number) => {
            number.strip_suffix(']').is_some_and(|number| number.parse::<std::net::Ipv6Addr>().is_ok())
        }
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        }
    };
    port_fits && host_fits
}

/// Escapes all but what RFC 3986 calls unreserved.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes all");
        }
    }
    out
}

/// Returns the bytes of a text in which some are written as `%XX`; `None` where other than two hexadecimal digits come after a `%`.
pub(crate) fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).expect("two digits are a byte"));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base: &str, location: &str) -> String {
        Url::parse(base).unwrap().join(location).unwrap().to_string()
    }

    #[test]
    fn locations_are_joined() {
        let base = "https://r.example:5000/v2/a/blobs/uploads/?x=1";
        assert_eq!(joined(base, "/v2/b?y=%2F"), "https://r.example:5000/v2/b?y=%2F");
        assert_eq!(joined(base, "http://other/p"), "http://other/p");
        assert_eq!(joined(base, "//cdn.example/p?q"), "https://cdn.example/p?q");
        assert_eq!(joined(base, "?n=2"), "https://r.example:5000/v2/a/blobs/uploads/?n=2");
        assert_eq!(joined(base, "next"), "https://r.example:5000/v2/a/blobs/uploads/next");
        let with = Url::parse(base).unwrap().with("digest", "sha256:ab");
        assert_eq!(with.to_string(), format!("{base}&digest=sha256%3Aab"));
    }

    #[test]
    fn strange_addresses_are_refused() {
        for text in [
            "file:///etc/passwd",
            "https://user:secret@host/",
            "https:///path",
            "https://host\r\nX: y/",
            "https://host/a b",
            "https://host:port/",
            "https://host:99999/",
            "https://[::g]/",
            "gopher://x/",
            "host/path",
            "",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
        assert!(Url::parse(&format!("https://h/{}", "a".repeat(LIMIT))).is_err());
    }

    #[test]
    fn what_was_escaped_is_read() {
        for (text, expected) in [("a%20b", "a b"), ("%2F%2f", "//"), ("a+b", "a+b"), ("", "")] {
            assert_eq!(unescaped(text).as_deref(), Some(expected.as_bytes()), "{text}");
        }
        assert_eq!(unescaped(&escaped("ä %/")).as_deref(), Some("ä %/".as_bytes()));
        for text in ["%", "a%2", "%2x", "%+2", "%é"] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let url = |text| Url::parse(text).unwrap();
        assert!(url("https://a/x").same_origin(&url("https://A:443/y")));
        assert!(!url("https://a/x").same_origin(&url("http://a/x")));
        assert!(!url("https://a/x").same_origin(&url("https://a:8443/x")));
        assert!(!url("https://a/x").same_origin(&url("https://a.evil/x")));
    }

    #[test]
    fn loopback_is_known() {
        for authority in ["localhost", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "localhost:1"] {
            assert!(is_loopback(authority), "{authority}");
        }
        for authority in ["localhost.example", "10.0.0.1:5000", "[::2]", "1270.0.0.1"] {
            assert!(!is_loopback(authority), "{authority}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_the_same(text in "\\PC{0,40}", location in "\\PC{0,40}") {
            if let Ok(url) = Url::parse(&text) {
                proptest::prop_assert_eq!(&Url::parse(&url.to_string()).unwrap(), &url);
            }
            if let Ok(url) = Url::parse("https://h/a/b").unwrap().join(&location) {
                proptest::prop_assert_eq!(Url::parse(&url.to_string()).unwrap(), url);
            }
        }
    }
}
