//! What goes into a layer, and in which order. Looks at inodes only where names of one inode, or devices, changed.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use rootling_backends::{Aspects, Change, ChangeKind, Dir, EntryType, Error, ErrorKind, Result};

use super::super::member::{Content, Member};
use super::{Inode, has_several_names, inode_of};

const WHITEOUT: &[u8] = b".wh.";

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// What stands at a path.
    Entry(PathBuf),
    /// The deletion of what stood at a path.
    Whiteout(PathBuf),
}

impl Step {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Entry(path) | Self::Whiteout(path) => path,
        }
    }
}

/// Returns the member that stands for the deletion of a path.
pub(super) fn whiteout(path: &Path) -> Member {
    let name = [WHITEOUT, path.file_name().unwrap_or_default().as_bytes()].concat();
    let path = path.with_file_name(OsStr::from_bytes(&name));
    Member {
        path: path.into_os_string().into_vec(),
        content: Content::File { size: 0, digest: None },
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
    }
}

/// All entries of a layer in their order, and what is left out, with why.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) skipped: Vec<(PathBuf, &'static str)>,
}

impl Plan {
    pub(super) fn build(changes: &[Change], root: &Dir) -> Result<Self> {
        let parted = parted(changes, root)?;
        let (mut keys, mut skipped) = (Keys::default(), Vec::new());
        for change in changes.iter().filter(|change| !parted.contains(change.path.as_path())) {
            let reason = no_entry(change, root)?;
            skipped.extend(reason.map(|reason| (change.path.clone(), reason)));
            match (change.kind, reason) {
                (ChangeKind::Deleted, _) => keys.whiteout(&change.path)?,
                // What was there before does not stay.
                (ChangeKind::Modified, Some(_)) if change.aspects.kind => keys.whiteout(&change.path)?,
                (_, Some(_)) => {}
                (_, None) => keys.entry(&change.path, change.entry_type == EntryType::Directory)?,
            }
        }
        Ok(Self { steps: keys.sorted(), skipped })
    }
}

/// Returns why what stands at a path cannot be in a layer.
fn no_entry(change: &Change, root: &Dir) -> Result<Option<&'static str>> {
    Ok(match (change.kind, change.entry_type) {
        (ChangeKind::Deleted, _) => None,
        (_, EntryType::Socket) => Some("archives have no sockets"),
        (_, EntryType::CharDevice) if stat(root, &change.path)?.st_rdev == 0 => {
            Some("character device 0:0 is a whiteout to OverlayFS")
        }
        _ => None,
    })
}

fn stat(root: &Dir, path: &Path) -> Result<FileStat> {
    let dir = root.open_deep(path.parent().unwrap_or(Path::new("")))?;
    dir.stat(path.file_name().unwrap_or(OsStr::new(".")))
}

/// What sorts as the archive does: an entry is its name there, a whiteout has a NUL, which no name has, before its last name. So it comes
/// before all that is in its directory.
#[derive(Debug, Default)]
struct Keys {
    keys: Vec<Vec<u8>>,
    parents: HashSet<PathBuf>,
}

impl Keys {
    fn entry(&mut self, path: &Path, is_dir: bool) -> Result<()> {
        self.parents_of(path)?;
        self.push(path, is_dir)
    }

    fn whiteout(&mut self, path: &Path) -> Result<()> {
        self.parents_of(path)?;
        refuse_whiteout_name(path)?;
        let mut key = path.as_os_str().as_bytes().to_vec();
        let name = key.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        key.insert(name, 0);
        self.keys.push(key);
        Ok(())
    }

    /// Adds the directories above a path, each once.
    fn parents_of(&mut self, path: &Path) -> Result<()> {
        for parent in path.ancestors().skip(1) {
            if self.parents.contains(parent) {
                break;
            }
            self.parents.insert(parent.to_owned());
            self.push(parent, true)?;
        }
        Ok(())
    }

    fn push(&mut self, path: &Path, is_dir: bool) -> Result<()> {
        refuse_whiteout_name(path)?;
        let mut key = path.as_os_str().as_bytes().to_vec();
        if is_dir && !key.is_empty() {
            key.push(b'/');
        }
        self.keys.push(key);
        Ok(())
    }

    fn sorted(mut self) -> Vec<Step> {
        self.keys.sort_unstable();
        self.keys.dedup();
        self.keys.into_iter().map(step).collect()
    }
}

fn step(mut key: Vec<u8>) -> Step {
    match key.iter().position(|byte| *byte == 0) {
        Some(nul) => {
            key.remove(nul);
            Step::Whiteout(OsString::from_vec(key).into())
        }
        None => {
            let end = key.len() - usize::from(key.ends_with(b"/"));
            key.truncate(end);
            Step::Entry(OsString::from_vec(key).into())
        }
    }
}

/// The specification reserves the prefix: whoever unpacks such a name deletes another one.
fn refuse_whiteout_name(path: &Path) -> Result<()> {
    if path.file_name().is_none_or(|name| !name.as_bytes().starts_with(WHITEOUT)) {
        return Ok(());
    }
    let message = format!("{path:?} cannot be in a layer: names that begin with .wh. mean deletions there");
    Err(Error::new(ErrorKind::InvalidInput, message).hint("rename or remove it"))
}

/// Returns the names that need no entry although their inode has other names than before: those that lost all the others.
///
/// Where such a name was one inode with others before, these are gone or become inodes of their own with their entries, but for those
/// that only lost names too. Such names were one inode and so are of one size, owner and mode: if there is no other like it,
/// a name stays what it is.
fn parted<'a>(changes: &'a [Change], root: &Dir) -> Result<HashSet<&'a Path>> {
    let only_links = |change: &Change| change.aspects == Aspects { links: true, ..Aspects::default() };
    if !changes.iter().any(only_links) {
        return Ok(HashSet::new());
    }
    let mut names: HashMap<Inode, usize> = HashMap::new();
    let mut alike: HashMap<_, Vec<(&Path, Inode)>> = HashMap::new();
    for change in changes {
        if change.kind == ChangeKind::Deleted || change.entry_type == EntryType::Directory {
            continue;
        }
        let stat = stat(root, &change.path)?;
        if has_several_names(&stat) {
            *names.entry(inode_of(&stat)).or_default() += 1;
        }
        if only_links(change) {
            let like = (stat.st_rdev, stat.st_size, stat.st_mode, stat.st_uid, stat.st_gid);
            alike.entry(like).or_default().push((&change.path, inode_of(&stat)));
        }
    }
    let is_alone = |inode: &Inode| names.get(inode).is_none_or(|count| *count == 1);
    let single = alike.into_values().filter(|names| names.len() == 1).flatten();
    Ok(single.filter(|(_, inode)| is_alone(inode)).map(|(path, _)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &str, kind: ChangeKind, entry_type: EntryType, aspects: Aspects) -> Change {
        Change { path: path.into(), kind, entry_type, aspects }
    }

    fn names(changes: &[Change], root: &Dir) -> Vec<String> {
        let name = |step: &Step| match step {
            Step::Entry(path) => path.display().to_string(),
            Step::Whiteout(path) => format!("-{}", path.display()),
        };
        Plan::build(changes, root).unwrap().steps.iter().map(name).collect()
    }

    #[test]
    fn whiteouts_come_first_and_every_parent_is_there_once() {
        use ChangeKind::{Added, Deleted};
        use EntryType::{Directory, File};
        let root = Dir::open(tempfile::tempdir().unwrap().keep()).unwrap();
        let none = Aspects::default();
        let changes = [
            change("a/b/new", Added, File, none),
            change("a/b/!", Added, File, none),
            change("a/b/old", Deleted, File, none),
            change("a", Added, Directory, none),
            change("a.b", Added, File, none),
            change("z", Deleted, Directory, none),
        ];
        let expected = ["", "-z", "a.b", "a", "a/b", "-a/b/old", "a/b/!", "a/b/new"];
        assert_eq!(names(&changes, &root), expected);
        assert_eq!(names(&[], &root), [""; 0]);
        std::fs::remove_dir(root.path()).unwrap();
    }

    #[test]
    fn names_that_mean_deletions_are_refused_wherever_they_stand() {
        let root = Dir::open("/").unwrap();
        for path in ["etc/.wh.x", ".wh.dir/below", ".wh..wh..opq"] {
            for kind in [ChangeKind::Added, ChangeKind::Deleted] {
                let change = change(path, kind, EntryType::File, Aspects::default());
                let error = Plan::build(&[change], &root).unwrap_err();
                assert!(error.to_string().contains(".wh."), "{error:?}");
                assert!(error.first_hint().is_some());
            }
        }
    }
}
