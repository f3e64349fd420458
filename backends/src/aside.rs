//! One entry of a tree put beside the entry of the same name in another: both sides of a conflict, for a person to look at.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::attributes::Xattrs;
use crate::dir::{Dir, EntryType};
use crate::entry::{CloneMode, Copier, open_parent};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::replicate::{Options, replicate};
use crate::walk;

/// Copies what `source` has at `path`, with all below, into `target` beside that path; returns where: `path` with `suffix`, and a number
/// where that is taken.
///
/// Directories on the way that `target` lacks are made, with mode 0755. Files share their data where they can. A failure may leave a
/// part of it: for trees that are thrown away then. Nothing is synced.
pub fn put_aside(source: &Dir, path: &Path, target: &Dir, suffix: &str) -> Result<PathBuf> {
    let what = || format!("put {path:?} of {:?} into {:?}", source.path(), target.path());
    put(source, path, target, suffix).context(what)
}

fn put(source: &Dir, path: &Path, target: &Dir, suffix: &str) -> Result<PathBuf> {
    let (from, name) = open_parent(source, path)?;
    let kind = EntryType::of_mode(from.stat(name)?.st_mode);
    let place = existing_parent(target, path.parent().unwrap_or(Path::new("")))?;
    let free = free_name(&place, name, suffix)?;
    if kind == EntryType::Directory {
        place.make_dir(&free, 0o700)?;
        replicate(
            &walk::open_below(source, path)?,
            &place.open_dir(&free)?,
            &Options::from(CloneMode::Auto),
        )?;
    } else {
        copy_under(&from, name, kind, &place, &free)?;
    }
    Ok(path.with_file_name(free))
}

/// Copies by way of a directory of its own: what copies an entry keeps its name.
fn copy_under(from: &Dir, name: &OsStr, kind: EntryType, place: &Dir, free: &OsStr) -> Result<()> {
    let mut scratch = free.to_owned();
    scratch.push("~");
    place.make_dir(&scratch, 0o700)?;
    let within = place.open_dir(&scratch)?;
    let copier = Copier::new(CloneMode::Auto, Xattrs::All);
    copier.copy(from, &within, Path::new(""), name, kind)?;
    nix::fcntl::renameat(&within, name, place, free)
        .context(|| format!("renameat({within}, {name:?}, {place}, {free:?})"))?;
    place.remove_dir(&scratch)
}

/// Opens a directory of the target, and makes what is missing of it.
fn existing_parent(target: &Dir, path: &Path) -> Result<Dir> {
    let mut dir = target.try_clone()?;
    for component in path.components() {
        let name = component.as_os_str();
        if dir.stat_if_exists(name)?.is_none() {
            dir.make_dir(name, 0o755)?;
        }
        dir = dir.open_dir(name)?;
    }
    Ok(dir)
}

fn free_name(place: &Dir, name: &OsStr, suffix: &str) -> Result<OsString> {
    for number in 1..1000 {
        let mut free = name.to_owned();
        free.push(suffix);
        if number > 1 {
            free.push(format!(".{number}"));
        }
        if place.stat_if_exists(&free)?.is_none() {
            return Ok(free);
        }
    }
    Err(Error::new(ErrorKind::AlreadyExists, format!("{place} has a thousand names like {name:?}{suffix}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn both_sides_stand_beside_each_other_whatever_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let [source, target] = ["source", "target"].map(|name| {
            fs::create_dir(temp.path().join(name)).unwrap();
            Dir::open(temp.path().join(name)).unwrap()
        });
        let (theirs, ours) = (source.path().to_owned(), target.path().to_owned());
        fs::create_dir_all(theirs.join("gone/dir/below")).unwrap();
        fs::write(theirs.join("gone/dir/below/file"), "theirs").unwrap();
        for tree in [&theirs, &ours] {
            fs::write(tree.join("file"), tree.as_os_str().as_encoded_bytes()).unwrap();
        }
        fs::write(ours.join("file.theirs"), "was there").unwrap();

        let file = put_aside(&source, Path::new("file"), &target, ".theirs").unwrap();
        let dir = put_aside(&source, Path::new("gone/dir"), &target, ".theirs").unwrap();

        assert_eq!((file.to_str(), dir.to_str()), (Some("file.theirs.2"), Some("gone/dir.theirs")));
        assert_eq!(fs::read(ours.join("file.theirs.2")).unwrap(), theirs.as_os_str().as_encoded_bytes());
        assert_eq!(fs::read(ours.join("file")).unwrap(), ours.as_os_str().as_encoded_bytes());
        assert_eq!(fs::read_to_string(ours.join("gone/dir.theirs/below/file")).unwrap(), "theirs");
        let mut names: Vec<_> =
            fs::read_dir(&ours).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "file.theirs", "file.theirs.2", "gone"]);
    }
}
