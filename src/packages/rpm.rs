//! The database of rpm: a file that holds one *header* for each package, whatever the form of the file.
//!
//! A header as it lies in the database, numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | number of entries |
//! | 4 | bytes of data |
//! | 16 for each entry | tag, type, offset in the data, number of values |
//! | the rest | data |
//!
//! Of the three forms that rpm has had, the first, Berkeley DB, is not read: its files end with the distributions that still have it.

use rootling_backends::{Context, Dir, Error, ErrorKind, Result};

use super::{Manager, Package, read};

pub mod ndb;
pub mod sqlite;

/// Where the database lies; newer releases have moved it and left a link.
const PLACES: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];

/// Entries of the largest header that is read.
const ENTRIES: usize = 1 << 16;

/// Returns what is installed in the tree; nothing where it has no rpm.
pub fn installed(root: &Dir) -> Result<Vec<Package>> {
    for place in PLACES {
        let file = |name: &str| {
            let found = read(root, &format!("{place}/{name}"))?;
            Ok::<_, Error>(found.filter(|bytes| !bytes.is_empty()))
        };
        let of = |name: &'static str| move || format!("read the package database {place}/{name} of the tree");
        if let Some(main) = file("rpmdb.sqlite")? {
            let log = file("rpmdb.sqlite-wal")?.unwrap_or_default();
            return sqlite::blobs(&main, &log, "Packages").and_then(packages).context(of("rpmdb.sqlite"));
        }
        if let Some(main) = file("Packages.db")? {
            return ndb::blobs(&main).and_then(packages).context(of("Packages.db"));
        }
        if file("Packages")?.is_some() {
            let message =
                format!("the package database {place}/Packages is of Berkeley DB, which is not read");
            return Err(Error::new(ErrorKind::Unsupported, message).hint(
                "compare without --packages, or turn it into a newer one in a box: rpmdb --rebuilddb",
            ));
        }
    }
    Ok(Vec::new())
}

fn packages(headers: Vec<Vec<u8>>) -> Result<Vec<Package>> {
    headers.iter().map(|header| parse(header)).filter_map(Result::transpose).collect()
}

/// Reads a header; `None` for one without name or version.
pub fn parse(header: &[u8]) -> Result<Option<Package>> {
    let header = Header::parse(header)?;
    let text = |tag| header.text(tag);
    let (Some(name), Some(version)) = (text(Tag::Name), text(Tag::Version)) else { return Ok(None) };
    let epoch = header.number(Tag::Epoch).map(|epoch| format!("{epoch}:")).unwrap_or_default();
    let release = text(Tag::Release).map(|release| format!("-{release}")).unwrap_or_default();
    Ok(Some(Package {
        manager: Manager::Rpm,
        name,
        architecture: text(Tag::Arch).unwrap_or_default(),
        version: format!("{epoch}{version}{release}"),
        size_bytes: header.number(Tag::LongSize).or_else(|| header.number(Tag::Size)),
    }))
}

/// The tags that are looked for (rpmtag.h).
#[derive(Debug, Clone, Copy)]
enum Tag {
    Name = 1000,
    Version = 1001,
    Release = 1002,
    Epoch = 1003,
    Size = 1009,
    Arch = 1022,
    LongSize = 5009,
}

/// The types of their values (rpmtag.h).
const INT32: u32 = 4;
const INT64: u32 = 5;
const STRING: u32 = 6;

#[derive(Debug)]
struct Header<'a> {
    index: &'a [[u8; 16]],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let damaged = || Error::new(ErrorKind::Corrupt, "a header of a package is cut short");
        let (entries, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (data, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let size = |bytes: &[u8; 4]| usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| damaged());
        let (entries, data) = (size(entries)?, size(data)?);
        if entries > ENTRIES {
            let message =
                format!("a header of a package has {entries} entries, more than the {ENTRIES} it may have");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let (index, rest) = rest.split_at_checked(entries * 16).ok_or_else(damaged)?;
        Ok(Self { index: index.as_chunks().0, data: rest.get(..data).ok_or_else(damaged)? })
    }

    /// Returns the data from a tag's first value on.
    fn find(&self, tag: Tag, types: &[u32]) -> Option<(u32, &'a [u8])> {
        self.index.iter().find_map(|entry| {
            let word = |place: usize| {
                u32::from_be_bytes(*entry[place * 4..].first_chunk().expect("an entry is four words"))
            };
            let matches = word(0) == tag as u32 && types.contains(&word(1)) && word(3) > 0;
            let offset = usize::try_from(word(2)).ok().filter(|_| matches)?;
            Some((word(1), self.data.get(offset..)?))
        })
    }

    fn text(&self, tag: Tag) -> Option<String> {
        let (_, data) = self.find(tag, &[STRING])?;
        let text = data.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn number(&self, tag: Tag) -> Option<u64> {
        match self.find(tag, &[INT32, INT64])? {
            (INT32, data) => data.first_chunk().map(|bytes| u64::from(u32::from_be_bytes(*bytes))),
            (_, data) => data.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header as rpm writes it.
    pub(crate) fn header(name: &str, version: &str, release: &str, epoch: Option<u32>) -> Vec<u8> {
        let mut entries: Vec<(u32, u32, Vec<u8>)> =
            [(Tag::Name, name), (Tag::Version, version), (Tag::Release, release)]
                .map(|(tag, text)| (tag as u32, STRING, [text.as_bytes(), &[0]].concat()))
                .into();
        entries.extend(epoch.map(|epoch| (Tag::Epoch as u32, INT32, epoch.to_be_bytes().to_vec())));
        let (mut index, mut data) = (Vec::new(), Vec::new());
        for (tag, kind, value) in &entries {
            for word in [*tag, *kind, data.len() as u32, 1] {
                index.extend(word.to_be_bytes());
            }
            data.extend(value);
        }
        [&(entries.len() as u32).to_be_bytes(), &(data.len() as u32).to_be_bytes(), index.as_slice(), &data]
            .concat()
    }

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        zstd::decode_all(bytes).unwrap()
    }

    /// A database that rpm 4.18 made: `rpm --initdb`, then two packages of `rpmbuild`.
    #[test]
    fn a_database_of_rpm_itself_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join("usr/lib/sysimage/rpm");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::create_dir_all(temp.path().join("var/lib")).unwrap();
        std::os::unix::fs::symlink("../../usr/lib/sysimage/rpm", temp.path().join("var/lib/rpm")).unwrap();
        std::fs::write(place.join("rpmdb.sqlite"), unpacked(include_bytes!("rpm/fixtures/rpmdb.sqlite.zst")))
            .unwrap();
        std::fs::write(place.join("rpmdb.sqlite-wal"), "").unwrap();
        let found = installed(&Dir::open(temp.path()).unwrap()).unwrap();
        let shown: Vec<_> =
            found.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.architecture.as_str())).collect();
        assert_eq!(shown, [("second", "2:1.2-3", "noarch"), ("tiny", "1.0-1", "noarch")]);
        assert_eq!(found[0].size_bytes, Some(0));
    }

    #[test]
    fn a_database_of_the_oldest_form_is_told() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("var/lib/rpm")).unwrap();
        std::fs::write(temp.path().join("var/lib/rpm/Packages"), "whatever").unwrap();
        let error = installed(&Dir::open(temp.path()).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("Berkeley DB"), "{error}");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(name in "[a-z0-9+.-]{1,20}", version in "[0-9a-z.~^]{1,9}", epoch in any::<Option<u32>>()) {
            let package = parse(&header(&name, &version, "1.fc40", epoch)).unwrap().unwrap();
            prop_assert_eq!(&package.name, &name);
            let epoch = epoch.map(|epoch| format!("{epoch}:")).unwrap_or_default();
            prop_assert_eq!(package.version, format!("{epoch}{version}-1.fc40"));
        }

        #[test]
        fn a_damaged_header_is_an_error_or_read(
            place in 0_usize..120, byte in any::<u8>(), length in 0_usize..120,
        ) {
            let mut bytes = header("name", "1", "2", Some(3));
            if let Some(one) = bytes.get_mut(place) {
                *one = byte;
            }
            bytes.truncate(length);
            drop(parse(&bytes));
        }
    }
}
