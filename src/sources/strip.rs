//! Archives whose root filesystem lies in a directory: what is in it is moved up.
//!
//! Done when all is unpacked, as only then it is known what lies beside. Nothing outside the tree is touched, and no symbolic link
//! followed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use nix::fcntl::{RenameFlags, renameat2};
use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result};

/// How many leading directories are taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strip {
    /// One, if the root filesystem is seen to lie in it: `root.x86_64/` of Arch, `rootfs/` of Incus.
    Auto,
    /// So many, as of `tar --strip-components`.
    Exactly(u32),
}

/// Takes leading directories off, and returns what there is to say of it.
pub(super) fn strip(root: &Dir, strip: Strip) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    match strip {
        Strip::Auto => {
            if let Some(name) = only_root(root)? {
                notes.push(format!("the root filesystem is that in its directory {name:?}"));
                notes.extend(dropped(lift(root, &[name])?));
            }
        }
        Strip::Exactly(count) => {
            for _ in 0..count {
                let tops = directories(root)?;
                if tops.is_empty() {
                    let message = "there are not so many directories to strip";
                    return Err(Error::new(ErrorKind::InvalidInput, message)
                        .hint("say a smaller number after --strip-components"));
                }
                notes.extend(dropped(lift(root, &tops)?));
            }
        }
    }
    Ok(notes)
}

fn dropped(names: Vec<OsString>) -> Option<String> {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
    (!names.is_empty()).then(|| format!("left out what lies beside it: {}{more}", shown.join(", ")))
}

fn directories(dir: &Dir) -> Result<Vec<OsString>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        if EntryType::of_mode(dir.stat(&entry.name)?.st_mode) == EntryType::Directory {
            found.push(entry.name);
        }
    }
    Ok(found)
}

/// Returns the one directory that looks like a root filesystem, if this one does not.
fn only_root(root: &Dir) -> Result<Option<OsString>> {
    let looks = |dir: &Dir| -> Result<bool> {
        let has = |name: &str| dir.stat_if_exists(name).map(|found| found.is_some());
        Ok(has("usr")? || has("bin")? || has("etc")?)
    };
    if looks(root)? {
        return Ok(None);
    }
    let mut found = Vec::new();
    for name in directories(root)? {
        if looks(&root.open_dir(&name)?)? {
            found.push(name);
        }
    }
    Ok(if found.len() == 1 { found.pop() } else { None })
}

/// Moves up what is in the directories `tops`, and removes them and what lies beside; returns the names of that.
fn lift(root: &Dir, tops: &[OsString]) -> Result<Vec<OsString>> {
    // What is moved up may be called as what it comes from.
    let aside = OsStr::new(".rootling-strip");
    let before = root.stat_self()?;
    root.make_dir(aside, 0o700)?;
    let held = root.open_dir(aside)?;
    let mut left_out = Vec::new();
    for entry in root.entries()? {
        if entry.name == aside {
            continue;
        }
        rename(root, &entry.name, &held)?;
        if !tops.contains(&entry.name) {
            left_out.push(entry.name);
        }
    }
    let mut attributes = Attributes::of_open(root, &before, Xattrs::All, root)?;
    for top in tops {
        let from = held.open_dir(top)?;
        if tops.len() == 1 {
            attributes = Attributes::of_open(&from, &from.stat_self()?, Xattrs::All, &from)?;
        }
        for entry in from.entries()? {
            if entry.name == aside {
                let message = format!("{:?} is in the archive, a name that is needed here", entry.name);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            rename(&from, &entry.name, root)?;
        }
    }
    // Nobody else knows of this tree, and std's removal follows no links.
    let path = format!("/proc/self/fd/{}/{}", root.as_fd().as_raw_fd(), aside.display());
    fs::remove_dir_all(&path).context(|| format!("remove what lies beside the root filesystem in {root}"))?;
    attributes.apply_to_open(root, &root.stat_self()?, root)?;
    Ok(left_out)
}

fn rename(from: &Dir, name: &OsStr, to: &Dir) -> Result<()> {
    match renameat2(from, name, to, name, RenameFlags::RENAME_NOREPLACE) {
        Err(nix::errno::Errno::EEXIST) => {
            let message = format!("two of the directories that are stripped have {name:?}");
            Err(Error::new(ErrorKind::InvalidInput, message))
        }
        done => done.context(|| format!("renameat2({from}, {name:?}, {to})")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
        }
        dir
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn stripped(dir: &tempfile::TempDir, how: Strip) -> Result<Vec<String>> {
        strip(&Dir::open(dir.path()).unwrap(), how)
    }

    #[test]
    fn a_single_top_directory_is_found_and_taken_off() {
        let dir = tree(&["root.x86_64/usr/bin/sh", "root.x86_64/etc/passwd", "version", "pkglist.txt"]);
        let top = dir.path().join("root.x86_64");
        symlink("usr/bin", top.join("bin")).unwrap();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o751)).unwrap();
        let mtime = filetime(&top);
        let notes = stripped(&dir, Strip::Auto).unwrap();
        assert_eq!(names(dir.path()), ["bin", "etc", "usr"]);
        assert!(notes[1].contains("\"version\"") && notes[1].contains("\"pkglist.txt\""), "{notes:?}");
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o7777, 0o751);
        assert_eq!(filetime(dir.path()), mtime);
    }

    fn filetime(path: &Path) -> (i64, i64) {
        let stat = fs::metadata(path).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    }

    #[test]
    fn what_is_a_root_already_or_is_not_clear_stays() {
        for paths in [&["usr/x", "old/usr/x"][..], &["a/usr/x", "b/usr/x"], &["data/x"], &["file"]] {
            let dir = tree(paths);
            let before = names(dir.path());
            assert!(stripped(&dir, Strip::Auto).unwrap().is_empty());
            assert_eq!(names(dir.path()), before);
        }
    }

    #[test]
    fn so_many_are_taken_off_as_are_said() {
        let dir = tree(&["a/b/usr/x", "c/d/etc/y", "c/lost", "top"]);
        stripped(&dir, Strip::Exactly(2)).unwrap();
        assert_eq!(names(dir.path()), ["etc", "usr"]);
        // A directory called as the one that it is in.
        let dir = tree(&["a/a/a/x"]);
        stripped(&dir, Strip::Exactly(1)).unwrap();
        assert!(dir.path().join("a/a/x").exists() && !dir.path().join("a/a/a").exists());
        let clash = stripped(&tree(&["a/same/x", "b/same/y"]), Strip::Exactly(1)).unwrap_err();
        assert!(clash.to_string().contains("\"same\""), "{clash}");
        assert!(stripped(&tree(&["a/x"]), Strip::Exactly(2)).unwrap_err().first_hint().is_some());
        let dir = tree(&["root/usr/x"]);
        assert!(stripped(&dir, Strip::Exactly(0)).unwrap().is_empty());
        assert_eq!(names(dir.path()), ["root"]);
    }
}
