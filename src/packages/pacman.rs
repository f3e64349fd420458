//! The database of pacman: a directory for each package, with a file `desc` of headings and lines.

use rootling_backends::{Dir, Result};

use super::{Manager, Package, list, read, text};

const LOCAL: &str = "var/lib/pacman/local";

/// Returns what is installed in the tree; nothing where it has no pacman.
pub fn installed(root: &Dir) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for name in list(root, LOCAL)? {
        let Some(name) = name.to_str() else { continue };
        packages.extend(read(root, &format!("{LOCAL}/{name}/desc"))?.and_then(|bytes| parse(&bytes)));
    }
    Ok(packages)
}

/// Reads a file `desc`; `None` for one without name or version.
pub fn parse(bytes: &[u8]) -> Option<Package> {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).collect();
    let field = |heading: &str| {
        let at = lines.iter().position(|line| *line == heading.as_bytes())?;
        lines.get(at + 1).filter(|line| !line.is_empty()).map(|line| text(line))
    };
    Some(Package {
        manager: Manager::Pacman,
        name: field("%NAME%")?,
        architecture: field("%ARCH%").unwrap_or_default(),
        version: field("%VERSION%")?,
        size_bytes: field("%SIZE%").and_then(|size| size.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packages_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join(LOCAL).join("zlib-1:1.3.1-1");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(temp.path().join(LOCAL).join("ALPM_DB_VERSION"), "9\n").unwrap();
        let desc =
            "%NAME%\nzlib\n\n%VERSION%\n1:1.3.1-1\n\n%ARCH%\nx86_64\n\n%SIZE%\n345678\n\n%DEPENDS%\nglibc\n";
        std::fs::write(directory.join("desc"), desc).unwrap();
        let found = installed(&Dir::open(temp.path()).unwrap()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("zlib", "1:1.3.1-1"));
        assert_eq!(found[0].size_bytes, Some(345_678));
        assert_eq!(parse(b"%NAME%\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&bytes));
        }
    }
}
