//! The database of apk: paragraphs of lines that begin with a letter and a colon.

use rootling_backends::{Dir, Result};

use super::{Manager, Package, read, stanzas, text};

/// Where it lies; newer releases have moved it.
const PLACES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// Returns what is installed in the tree; nothing where it has no apk.
pub fn installed(root: &Dir) -> Result<Vec<Package>> {
    for place in PLACES {
        // Where /lib is a link, both are one file.
        if let Some(bytes) = read(root, place)? {
            return Ok(parse(&bytes));
        }
    }
    Ok(Vec::new())
}

/// Reads the file `installed`. What has no name or version is left out.
pub fn parse(bytes: &[u8]) -> Vec<Package> {
    stanzas(bytes).filter_map(|lines| package(&lines)).collect()
}

fn package(lines: &[&[u8]]) -> Option<Package> {
    let field = |letter: u8| lines.iter().find_map(|line| line.strip_prefix(&[letter, b':']).map(text));
    Some(Package {
        manager: Manager::Apk,
        name: field(b'P')?,
        architecture: field(b'A').unwrap_or_default(),
        version: field(b'V')?,
        size_bytes: field(b'I').and_then(|size| size.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packages_are_read() {
        let text = b"C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nS:1\nI:633856\nT:the C library\nF:lib\nR:libc.so\n\nP:no-version\n\n\
            P:zlib\nV:1.3-r0\n";
        let found: Vec<_> = parse(text).into_iter().map(|p| (p.name, p.version, p.size_bytes)).collect();
        let expected = [("musl", "1.2.4-r2", Some(633_856)), ("zlib", "1.3-r0", None)];
        assert_eq!(found, expected.map(|(name, version, size)| (name.to_owned(), version.to_owned(), size)));
    }

    #[test]
    fn the_newer_place_is_found() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("usr/lib/apk/db")).unwrap();
        std::fs::write(temp.path().join(PLACES[1]), "P:busybox\nV:1\n").unwrap();
        std::os::unix::fs::symlink("usr/lib", temp.path().join("lib")).unwrap();
        assert_eq!(installed(&Dir::open(temp.path()).unwrap()).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&bytes));
        }
    }
}
