//! The database of dpkg: paragraphs of fields, as in deb822(5).

use rootling_backends::{Dir, Result};

use super::{Manager, Package, list, read, stanzas, text};

const STATUS: &str = "var/lib/dpkg/status";
const STATUS_D: &str = "var/lib/dpkg/status.d";

/// Returns what is installed in the tree; nothing where it has no dpkg.
pub fn installed(root: &Dir) -> Result<Vec<Package>> {
    let mut packages = read(root, STATUS)?.map_or_else(Vec::new, |bytes| parse(&bytes));
    // Images without a package manager keep one file for each package, beside lists of checksums.
    for name in list(root, STATUS_D)? {
        let Some(name) = name.to_str().filter(|name| !name.ends_with(".md5sums")) else { continue };
        packages
            .extend(read(root, &format!("{STATUS_D}/{name}"))?.map_or_else(Vec::new, |bytes| parse(&bytes)));
    }
    Ok(packages)
}

/// Reads a status file. What is not installed (only its configuration is left, say) and what has no name or version is left out.
pub fn parse(bytes: &[u8]) -> Vec<Package> {
    stanzas(bytes).filter_map(|lines| package(&lines)).collect()
}

fn package(lines: &[&[u8]]) -> Option<Package> {
    let field = |name: &str| {
        let value = |line: &&[u8]| {
            let (key, value) = line.split_at_checked(name.len())?;
            if key.eq_ignore_ascii_case(name.as_bytes()) { value.strip_prefix(b":").map(text) } else { None }
        };
        lines.iter().find_map(value)
    };
    // dpkg(1): selection, error flag, state. A file of status.d often has none.
    if let Some(status) = field("Status")
        && matches!(status.split_ascii_whitespace().nth(2), None | Some("not-installed" | "config-files"))
    {
        return None;
    }
    Some(Package {
        manager: Manager::Dpkg,
        name: field("Package")?,
        architecture: field("Architecture").unwrap_or_default(),
        version: field("Version")?,
        // deb-control(5): in KiB.
        size_bytes: field("Installed-Size")
            .and_then(|size| size.parse::<u64>().ok())
            .and_then(|size| size.checked_mul(1024)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        let status = b"Package: bash\nStatus: install ok installed\nInstalled-Size: 7\nArchitecture: amd64\nVersion: 5.2-1\n\
            Description: a shell\n Package: not this\n .\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\n\
            package: half\nstatus: install ok half-configured\nversion: 2:3\n";
        let found: Vec<_> = parse(status).into_iter().map(|p| (p.name, p.version, p.size_bytes)).collect();
        let expected = [("bash", "5.2-1", Some(7 * 1024)), ("half", "2:3", None)];
        assert_eq!(found, expected.map(|(name, version, size)| (name.to_owned(), version.to_owned(), size)));
    }

    #[test]
    fn an_image_without_dpkg_has_a_file_for_each_package() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join(STATUS_D);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("libc6"), "Package: libc6\nVersion: 2.36\n").unwrap();
        std::fs::write(directory.join("libc6.md5sums"), "Package: no\nVersion: 1\n").unwrap();
        let found = installed(&Dir::open(temp.path()).unwrap()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("libc6", "2.36"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&bytes));
        }
    }
}
