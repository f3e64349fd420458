//! Names that begin with `.wh.`: what they mean in an image layer (image-spec, layer.md, "Whiteouts").

use rootling_backends::{Error, ErrorKind, Result};

/// What begins a whiteout's name, and must not begin any other in a layer.
pub(super) const PREFIX: &[u8] = b".wh.";
/// What begins the names that are no whiteouts of one entry.
const META: &[u8] = b".wh..wh.";
/// The name of an opaque marker.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a whiteout takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// What stands at this path.
    Entry(Vec<u8>),
    /// All that is in the directory at this path.
    Content(&'a [u8]),
    /// Nothing: it is what AUFS kept its own books with (`.wh..wh.plnk`, `.wh..wh.aufs`, `.wh..wh.orph`).
    Nothing,
}

impl<'a> Whiteout<'a> {
    /// Reads the path of a member; `None` if it is one like others.
    pub(super) fn of(path: &'a [u8]) -> Result<Option<Self>> {
        let (parent, name) = super::place::split(path);
        if let Some(part) = parent.split(|byte| *byte == b'/').find(|part| part.starts_with(PREFIX)) {
            // AUFS kept hard links in such a directory.
            if part.starts_with(META) {
                return Ok(Some(Self::Nothing));
            }
            return Err(refused("its parent's name begins with \".wh.\""));
        }
        let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(None) };
        Ok(Some(match hidden {
            b"" | b"." | b".." => return Err(refused("it is a whiteout of no name")),
            _ if name == OPAQUE => Self::Content(parent),
            _ if name.starts_with(META) => Self::Nothing,
            _ => Self::Entry(super::place::join(parent, hidden)),
        }))
    }
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_take_away() {
        for (path, expected) in [
            ("a/b", None),
            ("a/.whx", None),
            ("a/x.wh.y", None),
            (".wh.a", Some(Whiteout::Entry(b"a".to_vec()))),
            ("d/.wh.a", Some(Whiteout::Entry(b"d/a".to_vec()))),
            ("d/.wh....", Some(Whiteout::Entry(b"d/...".to_vec()))),
            ("d/.wh..a", Some(Whiteout::Entry(b"d/.a".to_vec()))),
            (".wh..wh..opq", Some(Whiteout::Content(b""))),
            ("d/e/.wh..wh..opq", Some(Whiteout::Content(b"d/e"))),
            (".wh..wh.plnk", Some(Whiteout::Nothing)),
            (".wh..wh.plnk/23.42", Some(Whiteout::Nothing)),
            (".wh..wh.aufs", Some(Whiteout::Nothing)),
        ] {
            assert_eq!(Whiteout::of(path.as_bytes()).unwrap(), expected, "{path}");
        }
        for path in [".wh.", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.d/x"] {
            assert!(Whiteout::of(path.as_bytes()).is_err(), "{path}");
        }
    }
}
