//! Where members go: parents found inside the tree, names cleared, attributes set in the order that keeps them.
//!
//! Every name is taken in an open directory and never followed; directories are found by `openat2(2)` with
//! `RESOLVE_IN_ROOT`, so a link in the archive can lead elsewhere in the tree and nowhere else.
//!
//! Attributes of a file: owner (clears setuid and capabilities), extended attributes, mode (an ACL changes
//! it), times. Those of directories wait until all members are placed: a default ACL or setgid bit would be
//! inherited, a mode without `w` would be in the way, and every new name would change the time.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result, Times};

use super::member::{Content, Member};

/// A directory of the tree and its path there, free of links.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) dir: Dir,
    path: Vec<u8>,
}

/// Open directories to keep: archives go through one at a time, and come back to a few.
const CACHED: usize = 64;

/// The tree that members are placed in.
pub(super) struct Place<'a> {
    root: &'a Dir,
    /// The root's path as /proc tells it: what is cut off the paths of directories behind links.
    root_path: OsString,
    owners: bool,
    open: HashMap<Vec<u8>, Rc<Parent>>,
    directories: BTreeMap<Vec<u8>, Member>,
    notes: Vec<String>,
}

impl<'a> Place<'a> {
    pub(super) fn new(root: &'a Dir, owners: bool) -> Result<Self> {
        let root_path = proc_path(root)?;
        let (open, directories, notes) = (HashMap::new(), BTreeMap::new(), Vec::new());
        Ok(Self { root, root_path, owners, open, directories, notes })
    }

    /// Returns what could not be kept since the last call.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    // ------------------------------------------------------------ parents

    /// Returns the directory that holds `path`, the name in it, and `path` as it is in the tree.
    ///
    /// Parents that no member told of are made; `implied` is told of each.
    pub(super) fn parent<'p>(
        &mut self,
        path: &'p [u8],
        implied: &mut dyn FnMut(&Member),
    ) -> Result<(Rc<Parent>, &'p OsStr, Vec<u8>)> {
        let (parent, name) = split(path);
        let parent = match self.open.get(parent) {
            Some(known) => Rc::clone(known),
            None => self.open_parent(parent, implied)?,
        };
        let real = join(&parent.path, name);
        Ok((parent, OsStr::from_bytes(name), real))
    }

    fn open_parent(&mut self, path: &[u8], implied: &mut dyn FnMut(&Member)) -> Result<Rc<Parent>> {
        let found = match self.find(path) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => {
                self.make_parents(path, implied)?;
                self.find(path)?
            }
            other => other?,
        };
        let parent = Rc::new(found);
        if self.open.len() == CACHED {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), Rc::clone(&parent));
        Ok(parent)
    }

    /// Returns what [`parent`](Self::parent) does, but makes nothing: a missing directory is an error.
    pub(super) fn existing<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<Parent>, &'p OsStr, Vec<u8>)> {
        let (parent, name) = split(path);
        let parent = match self.open.get(parent) {
            Some(known) => Rc::clone(known),
            None => Rc::new(self.find(parent)?),
        };
        let real = join(&parent.path, name);
        Ok((parent, OsStr::from_bytes(name), real))
    }

    fn find(&self, path: &[u8]) -> Result<Parent> {
        if path.is_empty() {
            return Ok(Parent { dir: self.root.try_clone()?, path: Vec::new() });
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let text = Path::new(OsStr::from_bytes(path));
        match self.root.open_beneath(text, flags) {
            Ok(fd) => {
                let dir = Dir::from_fd(fd, self.root.path().join(text));
                return Ok(Parent { dir, path: path.to_vec() });
            }
            // There is a link on the way.
            Err(error) if error.errno() == Some(Errno::ELOOP) => {}
            Err(error) => return Err(error),
        }
        let fd = self.root.open_in_root(text, flags)?;
        let dir = Dir::from_fd(fd, self.root.path().join(text));
        let real = proc_path(&dir)?;
        let inside = Path::new(&real).strip_prefix(&self.root_path).map_err(|_| {
            Error::new(ErrorKind::Busy, format!("{dir} was moved out of the tree while it was written"))
        })?;
        let path = inside.as_os_str().as_bytes().to_vec();
        Ok(Parent { dir, path })
    }

    fn make_parents(&mut self, path: &[u8], implied: &mut dyn FnMut(&Member)) -> Result<()> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            match self.find(prefix) {
                Ok(_) => continue,
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
            let (above, name) = split(prefix);
            let above = self.find(above)?;
            let made = above.dir.make_dir(OsStr::from_bytes(name), 0o700);
            if made.as_ref().is_err_and(|error| error.errno() == Some(Errno::EEXIST)) {
                let shown = String::from_utf8_lossy(prefix);
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("its parent {shown:?} is a link to a directory that does not exist yet"),
                ));
            }
            made?;
            let member = Member {
                path: join(&above.path, name),
                content: Content::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                xattrs: Vec::new(),
            };
            implied(&member);
            self.directories.insert(member.path.clone(), member);
        }
        Ok(())
    }

    // ------------------------------------------------------------ names

    /// Does `make`, and again after removing whatever has the name.
    pub(super) fn replace<T>(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        make: impl Fn(&Dir, &OsStr) -> Result<T>,
    ) -> Result<T> {
        match make(&parent.dir, name) {
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                self.remove(parent, name)?;
                make(&parent.dir, name)
            }
            other => other,
        }
    }

    fn remove(&mut self, parent: &Parent, name: &OsStr) -> Result<()> {
        let kind = EntryType::of_mode(parent.dir.stat(name)?.st_mode);
        if matches!(kind, EntryType::Directory | EntryType::Symlink) {
            // Paths that led through it lead elsewhere from now on.
            self.open.clear();
        }
        if kind != EntryType::Directory {
            return parent.dir.unlink(name);
        }
        let path = join(&parent.path, name.as_bytes());
        self.forget_below(&path);
        remove_tree(&parent.dir, name)
    }

    fn forget_below(&mut self, path: &[u8]) {
        self.directories.remove(path);
        let below = join(path, b"");
        let gone: Vec<_> = self
            .directories
            .range(below.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&below))
            .cloned()
            .collect();
        for path in gone {
            self.directories.remove(&path);
        }
    }

    /// Makes a directory or keeps the one there, and remembers its attributes for [`finish`](Self::finish).
    pub(super) fn directory(&mut self, parent: &Parent, name: &OsStr, member: Member) -> Result<()> {
        let is_there = parent
            .dir
            .stat_if_exists(name)?
            .is_some_and(|stat| EntryType::of_mode(stat.st_mode) == EntryType::Directory);
        if !is_there {
            self.replace(parent, name, |dir, name| dir.make_dir(name, 0o700))?;
        }
        self.directories.insert(member.path.clone(), member);
        Ok(())
    }

    /// Remembers the attributes of the root.
    pub(super) fn root_directory(&mut self, member: Member) {
        self.directories.insert(Vec::new(), member);
    }

    // ------------------------------------------------------------ attributes

    /// Sets the attributes of what this process just made under `name`.
    pub(super) fn attributes(&mut self, dir: &Dir, name: &OsStr, member: &Member) -> Result<()> {
        if self.owners {
            dir.set_owner(name, member.uid, member.gid).map_err(|error| explain_owner(error, member))?;
        }
        for (attribute, value) in &member.xattrs {
            self.xattr(dir, name, attribute, value)?;
        }
        if !matches!(member.content, Content::Symlink { .. }) {
            dir.set_mode_following_symlinks(name, member.mode)?;
        }
        dir.set_times(name, times(member))
    }

    fn xattr(&mut self, dir: &Dir, name: &OsStr, attribute: &[u8], value: &[u8]) -> Result<()> {
        let shown = String::from_utf8_lossy(attribute);
        if is_overlay(attribute) {
            self.notes.push(format!("attribute {shown}: OverlayFS would act on it"));
            return Ok(());
        }
        // The host's policy labels files, not the archive's.
        if attribute == b"security.selinux" {
            self.notes.push(format!("attribute {shown}: labels are the host's"));
            return Ok(());
        }
        match dir.set_xattr(name, OsStr::from_bytes(attribute), value) {
            Err(error) if matches!(error.errno(), Some(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP)) => {
                let reason = error.errno().map_or("refused", Errno::desc);
                self.notes.push(format!("attribute {shown}: {reason}"));
                Ok(())
            }
            other => other,
        }
    }

    /// Sets the attributes of all directories, deepest first; `noted` is told what could not be kept.
    pub(super) fn finish(&mut self, noted: &mut dyn FnMut(&[u8], String)) -> Result<()> {
        let directories = std::mem::take(&mut self.directories);
        // In bytewise order a directory comes before what it holds.
        for (path, member) in directories.into_iter().rev() {
            let shown = String::from_utf8_lossy(&path).into_owned();
            self.finish_one(&path, &member).context(|| format!("set attributes of directory {shown:?}"))?;
            for note in self.take_notes() {
                noted(&path, note);
            }
        }
        Ok(())
    }

    fn finish_one(&mut self, path: &[u8], member: &Member) -> Result<()> {
        let dir = self.find(path)?.dir;
        self.attributes(&dir, OsStr::new("."), member)
    }
}

/// A lower directory's own overlay attributes redirect and hide: an archive must not speak to the mount.
fn is_overlay(attribute: &[u8]) -> bool {
    attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.")
}

/// Adds what chown(2) means by `EINVAL`.
pub(super) fn explain_owner(error: Error, member: &Member) -> Error {
    match error.errno() {
        Some(Errno::EINVAL) => {
            let Member { uid, gid, .. } = member;
            error
                .context(format!("give it to user {uid} and group {gid}, which do not exist for you"))
                .with_kind(ErrorKind::PermissionDenied)
                .hint("leave its owners out with --no-owners, or get a range of ids (see `rootling doctor`)")
        }
        _ => error,
    }
}

/// Returns the times to set: tar keeps no time of access worth having.
pub(super) fn times(member: &Member) -> Times {
    let time = (member.mtime.0, i64::from(member.mtime.1));
    Times { accessed: time, modified: time }
}

/// Splits a path into its parent and its last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn proc_path(dir: &Dir) -> Result<OsString> {
    use std::os::fd::{AsFd, AsRawFd};
    let link = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    nix::fcntl::readlink(link.as_str()).context(|| format!("readlink({link:?}, {dir})"))
}

/// Removes a directory and all below it, links unfollowed.
///
/// By paths beneath `dir` and not by a descriptor for each level: an archive can nest deeper than a process
/// may have files open.
fn remove_tree(dir: &Dir, name: &OsStr) -> Result<()> {
    let mut found = vec![name.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        let fd = dir.open_beneath(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let inner = Dir::from_fd(fd, dir.path().join(&path));
        for entry in inner.entries()? {
            let kind = match entry.entry_type {
                Some(kind) => kind,
                None => EntryType::of_mode(inner.stat(&entry.name)?.st_mode),
            };
            if kind == EntryType::Directory {
                found.push(OsString::from_vec(join(path.as_bytes(), entry.name.as_bytes())));
            } else {
                inner.unlink(&entry.name)?;
            }
        }
    }
    for path in found.iter().rev() {
        let (above, last) = split(path.as_bytes());
        if above.is_empty() {
            dir.remove_dir(OsStr::from_bytes(last))?;
            continue;
        }
        let fd = dir.open_beneath(OsStr::from_bytes(above), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        Dir::from_fd(fd, dir.path().join(OsStr::from_bytes(above))).remove_dir(OsStr::from_bytes(last))?;
    }
    Ok(())
}
