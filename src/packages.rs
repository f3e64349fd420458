//! What the package managers of a tree say is installed, and how that differs between two trees.
//!
//! | manager | its database |
//! |---|---|
//! | dpkg | `/var/lib/dpkg/status`, and the files of `status.d` in images without dpkg itself |
//! | apk | `/lib/apk/db/installed` or `/usr/lib/apk/db/installed` |
//! | pacman | `/var/lib/pacman/local/*/desc` |
//! | rpm | `rpmdb.sqlite` or `Packages.db` (ndb), in `/var/lib/rpm`, `/usr/lib/sysimage/rpm` or `/usr/share/rpm` |
//!
//! The databases are read as they lie on disk, by parsers of our own that work on bytes: no package manager is run, nothing of the tree
//! is executed, and a tree of any distribution can be read on any host. Everything in them is hostile input: sizes are limited, numbers
//! checked, and only regular files below the tree's root are opened.
//!
//! This module knows trees as [`Dir`]. It knows no store and prints nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result};
use serde::Serialize;

pub mod apk;
pub mod dpkg;
pub mod pacman;
pub mod rpm;
pub mod version;

/// Bytes in the largest file of a package database that is read.
const LIMIT: u64 = 512 << 20;

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// Alpine.
    Apk,
    /// Debian and Ubuntu.
    Dpkg,
    /// Arch.
    Pacman,
    /// Fedora, RHEL, SUSE.
    Rpm,
}

impl Manager {
    /// Returns which of two versions is the later one, by the manager's own rules.
    pub fn compare(self, a: &str, b: &str) -> Ordering {
        match self {
            Self::Apk => version::apk(a, b),
            Self::Dpkg => version::dpkg(a, b),
            Self::Pacman => version::pacman(a, b),
            Self::Rpm => version::rpm(a, b),
        }
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Dpkg => "dpkg",
            Self::Pacman => "pacman",
            Self::Rpm => "rpm",
        }
    }
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Whose it is.
    pub manager: Manager,
    /// Its name. Bytes that are no UTF-8 are replaced.
    pub name: String,
    /// What it was built for; empty where nothing is said.
    pub architecture: String,
    /// Its version with epoch and release, as the manager writes it.
    pub version: String,
    /// What it says it occupies.
    pub size_bytes: Option<u64>,
}

/// What happened to a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happened {
    /// It was not installed.
    Added,
    /// It is no longer installed.
    Removed,
    /// It has a later version.
    Upgraded,
    /// It has an earlier version.
    Downgraded,
    /// It has another version that its manager finds neither earlier nor later.
    Changed,
}

/// A package that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    /// Whose it is.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// What it was built for.
    pub architecture: String,
    /// What happened to it.
    pub change: Happened,
    /// The version that was installed.
    pub old_version: Option<String>,
    /// The version that is installed.
    pub new_version: Option<String>,
    /// Bytes that the old one occupied, by its own word.
    pub old_size_bytes: Option<u64>,
    /// Bytes that the new one occupies, by its own word.
    pub new_size_bytes: Option<u64>,
}

/// Returns what is installed in the tree, by all managers that have a database there, sorted.
///
/// A database that is damaged is an error of kind `Corrupt`, one of a form that is not read of kind `Unsupported`. O(the databases).
pub fn installed(root: &Dir) -> Result<Vec<Package>> {
    let readers = [dpkg::installed, apk::installed, pacman::installed, rpm::installed];
    let mut packages = Vec::new();
    for read in readers {
        packages.extend(read(root)?);
    }
    packages.sort();
    Ok(packages)
}

/// Returns what differs between two lists of packages, sorted by manager and name.
///
/// Of a package that is there in several versions (a kernel, say), those that are on one side only are added and removed.
pub fn difference(old: &[Package], new: &[Package]) -> Vec<PackageChange> {
    let mut pairs: BTreeMap<(Manager, &str, &str), [Vec<&Package>; 2]> = BTreeMap::new();
    for (side, packages) in [old, new].into_iter().enumerate() {
        for package in packages {
            let key = (package.manager, package.name.as_str(), package.architecture.as_str());
            pairs.entry(key).or_default()[side].push(package);
        }
    }
    let mut changes = Vec::new();
    for [old, new] in pairs.into_values() {
        let only = |these: &[&Package], those: &[&Package]| -> Vec<Package> {
            let is_there = |one: &Package| those.iter().any(|other| other.version == one.version);
            these.iter().filter(|one| !is_there(one)).map(|one| (*one).clone()).collect()
        };
        match (only(&old, &new).as_slice(), only(&new, &old).as_slice()) {
            ([before], [now]) => changes.push(change(Some(before), Some(now))),
            (before, now) => {
                changes.extend(before.iter().map(|package| change(Some(package), None)));
                changes.extend(now.iter().map(|package| change(None, Some(package))));
            }
        }
    }
    changes
}

/// One of the two is there.
fn change(old: Option<&Package>, new: Option<&Package>) -> PackageChange {
    let either = new.or(old).expect("one of the two is there");
    let change = match (old, new) {
        (None, _) => Happened::Added,
        (_, None) => Happened::Removed,
        (Some(old), Some(new)) => match either.manager.compare(&old.version, &new.version) {
            Ordering::Less => Happened::Upgraded,
            Ordering::Greater => Happened::Downgraded,
            Ordering::Equal => Happened::Changed,
        },
    };
    PackageChange {
        manager: either.manager,
        name: either.name.clone(),
        architecture: either.architecture.clone(),
        change,
        old_version: old.map(|package| package.version.clone()),
        new_version: new.map(|package| package.version.clone()),
        old_size_bytes: old.and_then(|package| package.size_bytes),
        new_size_bytes: new.and_then(|package| package.size_bytes),
    }
}

// ---------------------------------------------------------------- reading

/// Reads a regular file of the tree; `None` where there is none, or something else of that name.
fn read(root: &Dir, path: &str) -> Result<Option<Vec<u8>>> {
    let intent = || format!("read {path:?} of the tree");
    // Nothing is really opened yet: opening some devices does something.
    let found = match root.open_in_root(path, OFlag::O_PATH) {
        Err(error) if is_missing(&error) => return Ok(None),
        other => other.context(intent)?,
    };
    let stat = fstat(&found).context(|| format!("fstat({path:?})"))?;
    if EntryType::of_mode(stat.st_mode) != EntryType::File {
        return Ok(None);
    }
    let place = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = File::open(&place).context(|| format!("open({place:?})")).context(intent)?;
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(LIMIT as usize));
    file.take(LIMIT + 1).read_to_end(&mut bytes).context(|| format!("read({path:?})"))?;
    if bytes.len() as u64 > LIMIT {
        let message = format!("{path:?} of the tree has more than the {LIMIT} bytes it may have");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(Some(bytes))
}

/// Lists a directory of the tree, sorted; nothing where there is none.
fn list(root: &Dir, path: &str) -> Result<Vec<OsString>> {
    let found = match root.open_in_root(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        other => other.context(|| format!("list {path:?} of the tree"))?,
    };
    let mut names: Vec<OsString> =
        Dir::from_fd(found, path).entries_once()?.into_iter().map(|entry| entry.name).collect();
    names.sort();
    Ok(names)
}

fn is_missing(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
}

/// Returns text of a database.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
}

/// Splits text files whose entries are divided by empty lines; a line is told with its number of the file.
fn stanzas(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let mut lines = bytes.split(|byte| *byte == b'\n').peekable();
    std::iter::from_fn(move || {
        while lines.next_if(|line| line.trim_ascii().is_empty()).is_some() {}
        lines.peek()?;
        let mut stanza = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.trim_ascii().is_empty()) {
            stanza.push(line);
        }
        Some(stanza)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        let (name, version) = (name.to_owned(), version.to_owned());
        Package { manager: Manager::Dpkg, name, architecture: "all".into(), version, size_bytes: None }
    }

    #[test]
    fn what_happened_is_told_by_the_versions() {
        let old = [
            package("a", "1"),
            package("b", "1.9"),
            package("c", "2"),
            package("d", "1.0"),
            package("e", "1"),
        ];
        let new = [
            package("b", "1.10"),
            package("c", "2~rc1"),
            package("d", "0:1.0"),
            package("e", "1"),
            package("f", "1"),
        ];
        let found: Vec<_> =
            difference(&old, &new).into_iter().map(|change| (change.name, change.change)).collect();
        let expected = [
            ("a", Happened::Removed),
            ("b", Happened::Upgraded),
            ("c", Happened::Downgraded),
            ("d", Happened::Changed),
            ("f", Happened::Added),
        ];
        assert_eq!(found, expected.map(|(name, change)| (name.to_owned(), change)));
    }

    #[test]
    fn a_package_that_is_there_several_times_comes_and_goes_by_version() {
        let old = [package("kernel", "5"), package("kernel", "6")];
        let new = [package("kernel", "6"), package("kernel", "7"), package("kernel", "8")];
        let found: Vec<_> = difference(&old, &new)
            .into_iter()
            .map(|change| (change.change, change.old_version.or(change.new_version).unwrap()))
            .collect();
        let expected = [(Happened::Removed, "5"), (Happened::Added, "7"), (Happened::Added, "8")];
        assert_eq!(found, expected.map(|(change, version)| (change, version.to_owned())));
    }

    #[test]
    fn a_pipe_or_device_in_the_place_of_a_database_is_not_opened() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("var/lib/dpkg")).unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let dpkg = root.open_deep(std::path::Path::new("var/lib/dpkg")).unwrap();
        dpkg.make_node("status", libc::S_IFIFO | 0o644, 0).unwrap();
        assert_eq!(installed(&root).unwrap(), []);
        dpkg.unlink("status").unwrap();
        // A link that leads out of the tree leads to the same place in it.
        dpkg.make_symlink("status", "/../../../../etc/hostname".as_ref()).unwrap();
        assert_eq!(installed(&root).unwrap(), []);
    }
}
