//! How a source names a server and what it wants from it: `SERVER/ALIAS`, or `SERVER//ALIAS` where the server's part has slashes.

use rootling_backends::Result;

use super::location::Location;
use super::words::{Words, is_word};

/// The servers that have names of their own.
const KNOWN: [(&str, &str); 3] = [
    ("images", "https://images.linuxcontainers.org/"),
    ("ubuntu", "https://cloud-images.ubuntu.com/releases/"),
    ("ubuntu-daily", "https://cloud-images.ubuntu.com/daily/"),
];

/// Returns the directory that a known name stands for.
pub(super) fn known(name: &str) -> Option<Location> {
    let (_, address) = KNOWN.iter().find(|(known, _)| *known == name)?;
    Location::parse(address)?.ok()
}

/// Takes `SERVER/ALIAS` apart: the server's directory, and the rest.
pub(super) fn split<'a>(words: &Words<'a>, default: Option<&str>) -> Result<(Location, &'a str)> {
    let path = words.path;
    let (scheme, rest) = match path.find("://") {
        Some(end) => path.split_at(end + 3),
        None => ("", path),
    };
    let (server, alias) = match (rest.split_once("//"), rest.split_once('/')) {
        (Some((server, alias)), _) => (server, alias),
        (None, _) if scheme.is_empty() && default.is_some() => ("", rest),
        (None, Some((server, alias))) => (server, alias),
        (None, None) => return Err(words.wrong("there is a server, and nothing that is wanted of it")),
    };
    let alias_fits = alias.split('/').all(|part| is_word(part, b":"));
    if !alias_fits || alias.len() > 256 {
        return Err(words.wrong(format!("{alias:?} is no name of an image")));
    }
    let base = match (server, default) {
        ("", Some(default)) if scheme.is_empty() => known(default),
        _ if scheme.is_empty() => match known(server) {
            Some(base) => Some(base),
            None => Location::parse(&format!("https://{server}/")).transpose()?,
        },
        _ => Location::parse(&format!("{scheme}{server}/")).transpose()?,
    };
    let base = base.ok_or_else(|| words.wrong("a server has an address of https, http or file"))?;
    Ok((base, alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, default: Option<&str>) -> (String, String) {
        let words = Words::parse(text, text).unwrap();
        let (base, alias) = split(&words, default).unwrap();
        (base.to_string(), alias.to_owned())
    }

    #[test]
    fn servers_are_told_from_what_is_wanted() {
        let both = |base: &str, alias: &str| (base.to_owned(), alias.to_owned());
        let images = "https://images.linuxcontainers.org/";
        assert_eq!(parts("images/debian/bookworm", None), both(images, "debian/bookworm"));
        assert_eq!(parts("debian/bookworm", Some("images")), both(images, "debian/bookworm"));
        assert_eq!(parts("h.example/debian/12", None), both("https://h.example/", "debian/12"));
        assert_eq!(parts("h.example/a/b//debian/12", None), both("https://h.example/a/b/", "debian/12"));
        assert_eq!(
            parts("http://127.0.0.1:8/x//debian/12", Some("images")),
            both("http://127.0.0.1:8/x/", "debian/12")
        );
        assert_eq!(parts("file:///srv/m//a:b", None), both("file:///srv/m/", "a:b"));
        for text in ["images", "", "images/", "images/../x", "gopher://h/x", "images/-x", "a b/c"] {
            assert!(split(&Words::parse(text, text).unwrap(), None).is_err(), "{text}");
        }
    }
}
