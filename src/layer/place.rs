//! Where members go: parents found inside the tree, names cleared, attributes set in the order that keeps them.
//!
//! Every name is taken in an open directory and never followed; directories are found by `openat2(2)` with
//! `RESOLVE_IN_ROOT`, so a link in the archive can lead elsewhere in the tree and nowhere else.
//!
//! Attributes of a file: owner (clears setuid and capabilities), extended attributes, mode (an ACL changes
//! it), times. Those of directories wait until all members are placed: a default ACL or setgid bit would be
//! inherited, a mode without `w` would be in the way, and every new name would change the time. A directory
//! from beneath that has no entry of its own keeps what it has, its times included.
//!
//! | module | what it is for |
//! |---|---|
//! | `own` | which paths a layer made itself |
//! | `flat` | whiteouts in a tree that holds the layers beneath |
//! | `delta` | whiteouts of a layer alone, as OverlayFS writes them |

mod delta;
mod flat;
mod own;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use rootling_backends::attributes::is_overlay_xattr;
use rootling_backends::marks::Marks;
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result, Times, reap, sys};

use self::delta::{Assumed, Delta, needs_lower};
use self::own::Own;
use super::apply::Whiteouts;
use super::member::{Content, Member};
use super::whiteout::Whiteout;

/// A directory of the tree and its path there, free of links.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) dir: Dir,
    path: Vec<u8>,
    /// Does what is made in it belong to this process's user and group?
    pub(super) gives_own: bool,
}

/// Open directories to keep: archives go through one at a time, and come back to a few.
const CACHED: usize = 64;

const DEFAULT_ACL: &str = "system.posix_acl_default";

/// The tree that members are placed in.
pub(super) struct Place<'a> {
    root: &'a Dir,
    /// The root's path as /proc tells it: what is cut off the paths of directories behind links.
    root_path: OsString,
    owners: bool,
    beneath: Beneath,
    /// User and group of what this process makes in a directory of its own group; `None` where that is not sure.
    own_ids: Option<(u32, u32)>,
    open: HashMap<Vec<u8>, Rc<Parent>>,
    directories: BTreeMap<Vec<u8>, Given>,
    labels_noted: bool,
    notes: Vec<String>,
}

/// What lies beneath what is placed.
#[derive(Debug)]
enum Beneath {
    /// Nothing: whiteouts are names like others.
    Nothing,
    /// The layers beneath are in the same tree.
    Here(Own),
    /// They are in trees of their own.
    Elsewhere(Delta),
}

/// What a directory is given in the end.
#[derive(Debug)]
enum Given {
    /// What an archive says.
    Told(Told),
    /// What it had, before something in it was changed.
    Kept { times: Times, default_acl: Option<Vec<u8>> },
}

#[derive(Debug)]
struct Told {
    member: Member,
    /// Or was it made because members in it needed it?
    has_entry: bool,
    /// Was it made just now, with no attributes to be cleared away?
    is_fresh: bool,
}

/// Returns a directory that no member tells of.
fn implied_directory(path: Vec<u8>) -> Member {
    Member {
        path,
        content: Content::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
    }
}

impl<'a> Place<'a> {
    pub(super) fn new(root: &'a Dir, owners: bool, whiteouts: Whiteouts) -> Result<Self> {
        let beneath = match whiteouts {
            Whiteouts::Plain => Beneath::Nothing,
            Whiteouts::Delete | Whiteouts::Added => Beneath::Here(Own::default()),
            Whiteouts::Overlay { userxattr } => Beneath::Elsewhere(Delta::new(Marks::new(userxattr))),
        };
        // Modes are given to open(2) and mkdir(2) as they are meant.
        rootling_backends::clear_umask();
        if !matches!(beneath, Beneath::Here(_)) {
            take_default_acl(root)?;
        }
        Ok(Self {
            root,
            root_path: proc_path(root)?,
            owners,
            beneath,
            own_ids: own_ids(root),
            open: HashMap::new(),
            directories: BTreeMap::new(),
            labels_noted: false,
            notes: Vec::new(),
        })
    }

    /// Returns what could not be kept since the last call.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Did the archive have an entry for the root?
    pub(super) fn root_is_told(&self) -> bool {
        matches!(self.directories.get(&b""[..]), Some(Given::Told(Told { has_entry: true, .. })))
    }

    /// Notes that the archive made what now stands at `path`, a path of the tree.
    pub(super) fn made(&mut self, path: &[u8]) {
        if let Beneath::Here(own) = &mut self.beneath {
            own.add(path);
        }
    }

    /// Takes away what a whiteout names, of the layers beneath only.
    pub(super) fn whiteout(&mut self, whiteout: Whiteout<'_>) -> Result<()> {
        match (&self.beneath, whiteout) {
            (Beneath::Nothing, _) | (_, Whiteout::Nothing) => Ok(()),
            (Beneath::Here(_), Whiteout::Entry(path)) => self.delete(&path),
            (Beneath::Here(_), Whiteout::Content(path)) => self.delete_content(path),
            (Beneath::Elsewhere(_), Whiteout::Entry(path)) => self.hide(path),
            (Beneath::Elsewhere(_), Whiteout::Content(path)) => self.hide_content(path),
        }
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
            None => {
                let found = match self.find(parent) {
                    Err(error) if error.errno() == Some(Errno::ENOENT) => {
                        self.make_parents(parent, implied)?;
                        self.find(parent)?
                    }
                    other => other?,
                };
                self.keep_open(parent, found)?
            }
        };
        let real = join(&parent.path, name);
        Ok((parent, OsStr::from_bytes(name), real))
    }

    fn keep_open(&mut self, path: &[u8], found: Parent) -> Result<Rc<Parent>> {
        let parent = Rc::new(self.entered(found)?);
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

    /// The same for what is to be deleted from it.
    fn lower_parent<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<Parent>, &'p OsStr, Vec<u8>)> {
        let (parent, name) = split(path);
        let parent = match self.open.get(parent) {
            Some(known) => Rc::clone(known),
            None => {
                let found = self.find(parent)?;
                self.keep_open(parent, found)?
            }
        };
        let real = join(&parent.path, name);
        Ok((parent, OsStr::from_bytes(name), real))
    }

    /// Readies a directory for changes: one from beneath that has no entry gets its times and default ACL back in the end.
    fn entered(&mut self, mut parent: Parent) -> Result<Parent> {
        if !matches!(self.beneath, Beneath::Here(_)) {
            return Ok(parent);
        }
        let stat = parent.dir.stat_self()?;
        parent.gives_own = self.own_ids.is_some_and(|(_, group)| group == stat.st_gid);
        match self.directories.get(&parent.path) {
            Some(Given::Told(Told { is_fresh: true, .. }) | Given::Kept { .. }) => {}
            Some(Given::Told(_)) => drop(take_default_acl(&parent.dir)?),
            None => {
                let default_acl = take_default_acl(&parent.dir)?;
                let kept = Given::Kept { times: Times::of(&stat), default_acl };
                self.directories.insert(parent.path.clone(), kept);
            }
        }
        Ok(parent)
    }

    fn find(&self, path: &[u8]) -> Result<Parent> {
        let gives_own = self.own_ids.is_some();
        if path.is_empty() {
            return Ok(Parent { dir: self.root.try_clone()?, path: Vec::new(), gives_own });
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let text = Path::new(OsStr::from_bytes(path));
        match self.root.open_beneath(text, flags) {
            Ok(fd) => {
                let dir = Dir::from_fd(fd, self.root.path().join(text));
                return Ok(Parent { dir, path: path.to_vec(), gives_own });
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
        Ok(Parent { dir, path, gives_own })
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
            let above = self.find(above).and_then(|found| self.entered(found))?;
            let made = above.dir.make_dir(OsStr::from_bytes(name), 0o700);
            if made.as_ref().is_err_and(|error| error.errno() == Some(Errno::EEXIST)) {
                if matches!(self.beneath, Beneath::Elsewhere(_)) {
                    return Err(needs_lower(prefix, "it is a link to a directory that is not in the layer"));
                }
                let shown = String::from_utf8_lossy(prefix);
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("its parent {shown:?} is a link to a directory that does not exist yet"),
                ));
            }
            made?;
            let member = implied_directory(join(&above.path, name));
            implied(&member);
            if let Beneath::Elsewhere(delta) = &mut self.beneath {
                delta.imply(&member.path);
            }
            let path = member.path.clone();
            self.directories.insert(path, Given::Told(Told { member, has_entry: false, is_fresh: true }));
        }
        Ok(())
    }

    /// Returns the error of a hard link to what is not there.
    pub(super) fn missing_target(&self, target: &[u8]) -> Error {
        if matches!(self.beneath, Beneath::Elsewhere(_)) {
            return needs_lower(target, "a hard link names it");
        }
        let shown = String::from_utf8_lossy(target);
        let message = format!("the target of the hard link, {shown:?}, is not in the archive before it");
        Error::new(ErrorKind::InvalidInput, message)
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
        if kind == EntryType::Directory {
            self.forget_below(&join(&parent.path, name.as_bytes()));
        }
        reap::remove(&parent.dir, name)
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
        let is_fresh = match parent.dir.make_dir(name, 0o700) {
            Ok(()) => true,
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                let kind = EntryType::of_mode(parent.dir.stat(name)?.st_mode);
                if kind != EntryType::Directory {
                    self.remove(parent, name)?;
                    parent.dir.make_dir(name, 0o700)?;
                    if let Beneath::Elsewhere(delta) = &mut self.beneath {
                        // What stood here before hid all that is beneath.
                        delta.hide(member.path.clone());
                    }
                }
                kind != EntryType::Directory
            }
            Err(error) => return Err(error),
        };
        let path = member.path.clone();
        self.directories.insert(path, Given::Told(Told { member, has_entry: true, is_fresh }));
        Ok(())
    }

    /// Remembers the attributes of the root.
    pub(super) fn root_directory(&mut self, member: Member) {
        let told = Told { member, has_entry: true, is_fresh: false };
        self.directories.insert(Vec::new(), Given::Told(told));
    }

    // ------------------------------------------------------------ attributes

    /// Has what was made in `parent` the owner that `member` wants from the start?
    pub(super) fn is_own(&self, parent: &Parent, member: &Member) -> bool {
        parent.gives_own && self.own_ids == Some((member.uid, member.gid))
    }

    /// Sets the attributes of what this process just made under `name`.
    pub(super) fn attributes(&mut self, parent: &Parent, name: &OsStr, member: &Member) -> Result<()> {
        let is_own = self.is_own(parent, member);
        self.set_attributes(&parent.dir, name, member, is_own)
    }

    fn set_attributes(&mut self, dir: &Dir, name: &OsStr, member: &Member, is_own: bool) -> Result<()> {
        if self.owners && !is_own {
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
        let attribute = OsStr::from_bytes(attribute);
        // A lower directory's own overlay attributes redirect and hide: an archive must not speak to the mount.
        if is_overlay_xattr(attribute) {
            self.notes.push(format!("attribute {shown}: OverlayFS would act on it"));
            return Ok(());
        }
        // The host's policy labels files, not the archive's. Where one has a label all have: it is told once.
        if attribute == LABEL {
            if !std::mem::replace(&mut self.labels_noted, true) {
                self.notes
                    .push(format!("attribute {shown}, here and on all that follows: labels are the host's"));
            }
            return Ok(());
        }
        match dir.set_xattr(name, attribute, value) {
            Err(error) if matches!(error.errno(), Some(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP)) => {
                let reason = error.errno().map_or("refused", Errno::desc);
                self.notes.push(format!("attribute {shown}: {reason}"));
                Ok(())
            }
            other => other,
        }
    }

    /// Writes the marks of a delta and sets the attributes of all directories, deepest first; `noted` is told what could
    /// not be kept.
    pub(super) fn finish(&mut self, noted: &mut dyn FnMut(&[u8], String)) -> Result<Assumed> {
        let assumed = match std::mem::replace(&mut self.beneath, Beneath::Nothing) {
            Beneath::Elsewhere(delta) => self.mark(delta)?,
            other => {
                self.beneath = other;
                Assumed::default()
            }
        };
        let directories = std::mem::take(&mut self.directories);
        // In bytewise order a directory comes before what it holds.
        for (path, given) in directories.into_iter().rev() {
            let shown = String::from_utf8_lossy(&path).into_owned();
            self.give(&path, &given).context(|| format!("set attributes of directory {shown:?}"))?;
            for note in self.take_notes() {
                noted(&path, note);
            }
        }
        Ok(assumed)
    }

    fn give(&mut self, path: &[u8], given: &Given) -> Result<()> {
        let dir = self.find(path)?.dir;
        match given {
            Given::Told(told) => {
                if matches!(self.beneath, Beneath::Here(_)) && !told.is_fresh {
                    clear_xattrs(&dir, &told.member)?;
                }
                let member = &told.member;
                let is_own = told.is_fresh
                    && !matches!(self.beneath, Beneath::Here(_))
                    && self.own_ids == Some((member.uid, member.gid));
                self.set_attributes(&dir, OsStr::new("."), member, is_own)
            }
            Given::Kept { times, default_acl } => {
                if let Some(value) = default_acl {
                    dir.set_xattr(".", OsStr::new(DEFAULT_ACL), value)?;
                }
                dir.set_times(".", *times)
            }
        }
    }
}

/// A label of a security module.
const LABEL: &str = "security.selinux";

/// Takes away what a directory from beneath has and the archive does not give it. Labels and OverlayFS's marks are not the archive's.
fn clear_xattrs(dir: &Dir, member: &Member) -> Result<()> {
    for (name, _) in dir.xattrs(".")? {
        let is_given = member.xattrs.iter().any(|(given, _)| *given == name.as_bytes());
        if is_given || name == LABEL || is_overlay_xattr(&name) {
            continue;
        }
        match sys::fremovexattr(dir.as_fd(), &name) {
            // XFS shows each ACL twice: the second form goes with the first.
            Ok(()) | Err(Errno::ENODATA) => {}
            Err(errno) => return Err(Error::call(format!("fremovexattr({dir}, {name:?})"), errno)),
        }
    }
    Ok(())
}

/// Takes a directory's default ACL away, which all that is made in it would inherit, and returns it.
fn take_default_acl(dir: &Dir) -> Result<Option<Vec<u8>>> {
    let name = OsStr::new(DEFAULT_ACL);
    let acl = match sys::fgetxattr(dir.as_fd(), name) {
        Ok(acl) => acl,
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => return Ok(None),
        Err(errno) => return Err(Error::call(format!("fgetxattr({dir}, {name:?})"), errno)),
    };
    sys::fremovexattr(dir.as_fd(), name).context(|| format!("fremovexattr({dir}, {name:?})"))?;
    Ok(Some(acl))
}

/// Returns whose new files are where the directory's group is this process's, tried out with one that has no name.
fn own_ids(root: &Dir) -> Option<(u32, u32)> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(root, ".", flags, nix::sys::stat::Mode::S_IRUSR).ok()?;
    let stat = nix::sys::stat::fstat(&file).ok()?;
    let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    (ids == (stat.st_uid, stat.st_gid)).then_some(ids)
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
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
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
