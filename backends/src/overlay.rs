//! Trees as OverlayFS upper directories: a fork is two empty directories, whatever the size of its parent.
//!
//! ```text
//! slot/fs/     the upper directory: what differs from the trees beneath, whiteouts included
//! slot/work/   OverlayFS's scratch, on the same file system; gone once the tree is sealed
//! ```
//!
//! A tree without a parent is a plain directory, and deltas stack on any full tree, plain directory or subvolume. Where a mount would
//! have more layers than the kernel takes ([`Overlay::LIMIT`], or [`Overlay::SHORT_LIMIT`] before Linux 6.8) the fork is a *full* tree: the layers
//! are merged into a plain directory, file by file, cloned where the file system can. That fork costs O(tree) and its changes are found
//! by a full comparison; the ones after it are cheap again.
//!
//! Renaming a directory that came from below fails with EXDEV (`redirect_dir` is off), so an upper directory never
//! refers to another place of the stack, and `changes` need only look at the paths it holds.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use nix::errno::Errno;

use crate::backend::{
    Backend, Baseline, Capabilities, Cost, FS, Finding, ForkOptions, Forked, Form, Kind, Reaped, Snapshotted,
    Tree, WORK,
};
use crate::change::{Change, DiffOptions};
use crate::compare::diff_trees;
use crate::dir::{Dir, EntryType, Times};
use crate::entry::CloneMode;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::{Access, Mount, Overlay, Upper};
use crate::{candidates, flatten, fuse, reap, replicate, sys, walk};

/// The scratch directory of a view of a tree that cannot be a stack of lower layers; gone again at once.
const VIEW: &str = "view";

/// The backend [`Kind::Overlay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayFs {
    userxattr: bool,
    fuse: bool,
}

impl OverlayFs {
    /// Returns the backend. `userxattr`: marks go into `user.overlay.*`, for a store used from a user namespace.
    pub fn new(userxattr: bool) -> Self {
        Self { userxattr, fuse: false }
    }

    /// The same with mounts by the program fuse-overlayfs, where the kernel refuses them. Sealed trees carry the
    /// kernel's marks: they are the same whoever wrote them.
    #[must_use]
    pub fn by_fuse(self) -> Self {
        Self { fuse: true, ..self }
    }

    /// Turns the marks of a mount by fuse-overlayfs into the kernel's.
    fn normalize(&self, upper: &Dir) -> Result<()> {
        if self.fuse { fuse::normalize(upper, self.userxattr) } else { Ok(()) }
    }

    /// Makes the fork as a merge of all layers: where one more layer cannot be mounted.
    fn fork_flat(&self, parent: &Tree, slot: &Dir, options: ForkOptions) -> Result<Forked> {
        slot.make_dir(FS, 0o755)?;
        let target = slot.open_dir(FS)?;
        let cost = flatten::flatten(&parent.layers(), &target, self.userxattr, clone_mode(options))?;
        Ok(Forked { form: Form::Full, baseline: Baseline::None, cost })
    }
}

fn clone_mode(options: ForkOptions) -> CloneMode {
    if options.always_clone { CloneMode::Always } else { CloneMode::Auto }
}

impl Backend for OverlayFs {
    fn kind(&self) -> Kind {
        Kind::Overlay
    }

    /// A snapshot of a tree that is written to at that moment is a copy of its files one after the other: each is whole if it is at
    /// rest, but two files may show two moments. So `live_snapshot` is false: the caller stops the writers.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            constant_time_fork: true,
            shares_data: true,
            fork_form: Form::Delta,
            live_snapshot: false,
        }
    }

    fn create(&self, slot: &Path) -> Result<()> {
        let slot = Dir::open(slot)?;
        slot.make_dir(FS, 0o755)?;
        slot.set_mode_following_symlinks(FS, 0o755)
    }

    fn fork(&self, parent: &Tree, slot: &Path, options: ForkOptions) -> Result<Forked> {
        if options.outermost_only {
            let message = format!("backend {} has no subvolumes to snapshot", self.kind());
            return Err(Error::new(ErrorKind::CrossDevice, message));
        }
        let start = Instant::now();
        let dir = Dir::open(slot)?;
        // Shown read-only, the fork is one more lower layer.
        let layers = parent.layers().len() + 1;
        // The kernel is asked only where its answer matters.
        let are_too_many = options.most_layers.is_some_and(|most| layers > most)
            || (layers > Overlay::SHORT_LIMIT && layers > layer_limit());
        if are_too_many {
            return self
                .fork_flat(parent, &dir, options)
                .context(|| format!("flatten {:?} into {slot:?}", parent.slot));
        }
        dir.make_dir(FS, 0o755)?;
        dir.make_dir(WORK, 0o700)?;
        copy_root_attributes(&Dir::open(parent.fs())?, &dir.open_dir(FS)?)
            .context(|| format!("fork {:?} into {slot:?}", parent.slot))?;
        let cost = Cost { directories: 2, elapsed: start.elapsed(), ..Cost::default() };
        Ok(Forked { form: Form::Delta, baseline: Baseline::Upper, cost })
    }

    /// A delta is copied as a delta: its upper directory, whiteouts and opaque marks included, cloned where possible. O(what was
    /// changed since the fork).
    fn snapshot(&self, tree: &Tree, parent: Option<(&Tree, &Baseline)>, slot: &Path) -> Result<Snapshotted> {
        let dir = Dir::open(slot)?;
        let what = || format!("snapshot {:?} into {slot:?}", tree.slot);
        dir.make_dir(FS, 0o755)?;
        let target = dir.open_dir(FS)?;
        let options = replicate::Options::default();
        if tree.form == Form::Delta && parent.is_none() {
            let cost =
                flatten::flatten(&tree.layers(), &target, self.userxattr, CloneMode::Auto).context(what)?;
            return Ok(Snapshotted { form: Form::Full, baseline: Baseline::None, cost });
        }
        let cost = replicate::replicate(&Dir::open(tree.fs())?, &target, &options).context(what)?;
        let baseline = match tree.form {
            Form::Delta => {
                strip_transient_marks(&target).context(what)?;
                self.normalize(&target).context(what)?;
                Baseline::Upper
            }
            Form::Full => Baseline::None,
        };
        Ok(Snapshotted { form: tree.form, baseline, cost })
    }

    /// Throws away OverlayFS's scratch directory: a sealed delta is a lower layer only.
    ///
    /// Refuses a tree that was mounted volatile in an earlier boot: nobody knows what of it reached the disk.
    fn seal(&self, tree: &Tree) -> Result<()> {
        if tree.form == Form::Full {
            return Ok(());
        }
        let slot = Dir::open(&tree.slot)?;
        if slot.stat_if_exists(WORK)?.is_none() {
            return Ok(());
        }
        if let Some(marked) = volatile_mark(&slot)?
            && marked < boot_time()
        {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the tree in {:?} was written without syncs before the machine last started",
                    tree.slot
                ),
            )
            .hint("throw it away: what was in memory is lost"));
        }
        self.normalize(&slot.open_dir(FS)?).context(|| format!("seal {:?}", tree.slot))?;
        reap::reap(&tree.slot.join(WORK)).map(drop)
    }

    fn barrier(&self, directory: &Path) -> Result<()> {
        Dir::open(directory)?.sync_file_system()
    }

    fn mount(&self, tree: &Tree, access: Access, volatile: bool) -> Mount {
        match tree.mount(access, self.userxattr, volatile) {
            Mount::Overlay(overlay) if self.fuse => Mount::FuseOverlay(overlay),
            other => other,
        }
    }

    /// A tree that stands on a directory which it lies in itself (a fork of the running machine) is no stack of lower layers to the
    /// kernel (`ELOOP`); its own directory may still be an upper one, shown read-only, with a scratch directory of its own.
    fn open_root(&self, tree: &Tree) -> Result<Dir> {
        match self.mount(tree, Access::ReadOnly, false).open_root() {
            Err(error) if error.errno() == Some(Errno::ELOOP) && tree.form == Form::Delta => {}
            other => return other,
        }
        let work = tree.slot.join(VIEW);
        let made = std::fs::create_dir(&work);
        if !made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists) {
            made.context(|| format!("mkdir({work:?})"))?;
        }
        let upper = Some(Upper { dir: tree.fs(), work: work.clone() });
        let (lowers, userxattr) = (tree.lowers.clone(), self.userxattr);
        let root = Mount::Overlay(Overlay { lowers, upper, volatile: false, userxattr }).open_root();
        reap::reap(&work)?;
        root
    }

    /// Looks only at the paths that the layers which the two trees do not share have an entry for. O(upper directory), and one read-only
    /// mount for each side.
    fn changes(
        &self,
        tree: &Tree,
        parent: &Tree,
        _baseline: &Baseline,
        options: DiffOptions,
    ) -> Result<Vec<Change>> {
        let what = || format!("compare {:?} with {:?}", tree.slot, parent.slot);
        let (old, new) = (self.open_root(parent).context(what)?, self.open_root(tree).context(what)?);
        let found = candidates::compare_stacks((parent, &old), (tree, &new), options).context(what)?;
        found.map_or_else(|| diff_trees(&old, &new, options).context(what), Ok)
    }

    /// Yes while the upper directory is empty and looks as the root beneath.
    fn is_untouched(&self, tree: &Tree, parent: &Tree, _baseline: &Baseline) -> Result<bool> {
        Ok(tree.form == Form::Delta && tree.lowers == parent.layers() && says_nothing(tree)?)
    }

    fn reap(&self, slot: &Path) -> Result<Reaped> {
        reap::reap(slot)
    }

    fn check(&self, tree: &Tree, sealed: bool) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut find = |path: PathBuf, problem: &str| {
            findings.push(Finding { path, problem: problem.to_owned() });
        };
        let slot = match Dir::open(&tree.slot) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                find(tree.slot.clone(), "missing");
                return Ok(findings);
            }
            slot => slot?,
        };
        let is_dir =
            |stat: nix::sys::stat::FileStat| EntryType::of_mode(stat.st_mode) == EntryType::Directory;
        if !slot.stat_if_exists(FS)?.is_some_and(is_dir) {
            find(tree.fs(), "missing, or not a directory");
        }
        if tree.form == Form::Delta {
            if !sealed && !slot.stat_if_exists(WORK)?.is_some_and(is_dir) {
                find(tree.slot.join(WORK), "missing, or not a directory");
            }
            if volatile_mark(&slot)?.is_some_and(|marked| marked < boot_time()) {
                find(tree.fs(), "written without syncs before the machine last started");
            }
        }
        Ok(findings)
    }
}

// ---------------------------------------------------------------- the layer limit

/// Returns how many layers one mount takes here; found out once.
pub fn layer_limit() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| if takes_single_layers() { Overlay::LIMIT } else { Overlay::SHORT_LIMIT })
}

/// Does the kernel know `lowerdir+`? Asked of the kernel; where this process may not mount, of its version.
fn takes_single_layers() -> bool {
    match sys::fsopen(c"overlay") {
        Ok(context) => sys::fsconfig_string(context.as_fd(), c"lowerdir+", c"/") != Err(Errno::EINVAL),
        Err(_) => kernel_is_at_least((6, 8)),
    }
}

/// Says the kernel that it is this version or a later one?
pub(crate) fn kernel_is_at_least(wanted: (u32, u32)) -> bool {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .is_ok_and(|release| kernel_version(&release).is_some_and(|version| version >= wanted))
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

// ---------------------------------------------------------------- attributes and marks

/// Is this one of OverlayFS's own marks? The escaped marks of an overlay inside the tree (`overlay.overlay.`) are data.
fn is_overlay_mark(name: &OsStr) -> bool {
    [b"trusted.overlay.".as_slice(), b"user.overlay."]
        .iter()
        .filter_map(|prefix| name.as_bytes().strip_prefix(*prefix))
        .any(|mark| !mark.starts_with(b"overlay."))
}

/// Is this a mark about the file that a copy-up came from? It says nothing of the content.
fn is_transient_mark(name: &OsStr) -> bool {
    const TRANSIENT: [&[u8]; 5] = [b"origin", b"impure", b"nlink", b"uuid", b"protattr"];
    is_overlay_mark(name)
        && name.as_bytes().rsplit(|byte| *byte == b'.').next().is_some_and(|last| TRANSIENT.contains(&last))
}

/// An upper directory's root is the mount's root: it must look like the parent's from the start.
fn copy_root_attributes(source: &Dir, target: &Dir) -> Result<()> {
    let (stat, new) = (source.stat_self()?, target.stat_self()?);
    // What is right already is left alone: most roots are root's, mode 0755.
    let mut right = new.st_mode == stat.st_mode;
    if (stat.st_uid, stat.st_gid) != (new.st_uid, new.st_gid) {
        target.set_owner(".", stat.st_uid, stat.st_gid)?;
        right = false;
    }
    for (name, value) in source.xattrs(".")? {
        if !is_overlay_mark(&name) {
            target.set_xattr(".", &name, &value)?;
            right = false;
        }
    }
    if !right {
        // After the owner, which clears bits; before nothing: an access ACL was set above and the mode agrees with it.
        target.set_mode_following_symlinks(".", stat.st_mode & 0o7777)?;
    }
    target.set_times(".", Times::of(&stat))
}

/// Is a delta, whoever wrote it, the same as what it lies on? True where it holds nothing and its root looks as the one beneath, but
/// for times. O(1).
pub fn says_nothing(delta: &Tree) -> Result<bool> {
    let Some(beneath) = delta.lowers.first() else { return Ok(false) };
    let (own, beneath) = (Dir::open(delta.fs())?, Dir::open(beneath)?);
    let look = |root: &Dir| -> Result<_> {
        let stat = root.stat_self()?;
        let mut xattrs = root.xattrs(".")?;
        xattrs.retain(|(name, _)| !is_overlay_mark(name));
        xattrs.sort();
        Ok((stat.st_mode, stat.st_uid, stat.st_gid, xattrs))
    };
    Ok(own.entries()?.is_empty() && look(&own)? == look(&beneath)?)
}

/// Removes the transient marks of everything below and including `root`.
fn strip_transient_marks(root: &Dir) -> Result<()> {
    strip_entry(root, OsStr::new("."))?;
    walk::for_each(vec![PathBuf::new()], |path, more: &mut Vec<PathBuf>| {
        let dir = root.open_deep(&path)?;
        let entries = dir.entries()?;
        for entry in &entries {
            strip_entry(&dir, &entry.name)?;
            if walk::type_of(&dir, entry)? == EntryType::Directory {
                more.push(path.join(&entry.name));
            }
        }
        Ok(entries.len() + 1)
    })
}

fn strip_entry(dir: &Dir, name: &OsStr) -> Result<()> {
    let marks = match sys::llistxattr(dir.as_fd(), name) {
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        other => other.context(|| format!("llistxattr({dir}, {name:?})"))?,
    };
    for mark in marks.iter().filter(|mark| is_transient_mark(mark)) {
        match sys::lremovexattr(dir.as_fd(), name, mark) {
            Ok(()) | Err(Errno::ENODATA) => {}
            Err(errno) => return Err(Error::call(format!("lremovexattr({dir}, {name:?}, {mark:?})"), errno)),
        }
    }
    Ok(())
}

/// OverlayFS makes it and never removes it (kernel documentation, filesystems/overlayfs.rst, "Volatile mount").
const VOLATILE_MARK: &str = "work/work/incompat/volatile";

/// Lets a tree be mounted volatile once more: the kernel refuses what is marked, for it cannot know that the machine ran on since.
///
/// The caller knows that, and that nobody has it mounted. Nothing happens where there is no mark.
pub fn unmark_volatile(slot: &Path) -> Result<()> {
    let mark = slot.join(VOLATILE_MARK);
    let removed = std::fs::remove_file(mark.join("dirty")).and_then(|()| std::fs::remove_dir(&mark));
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.context(|| format!("remove {mark:?}")),
    }
}

/// Returns when the tree in `slot` was first mounted volatile, if it ever was.
fn volatile_mark(slot: &Dir) -> Result<Option<i64>> {
    match slot.open_beneath(VOLATILE_MARK, nix::fcntl::OFlag::O_PATH) {
        Ok(mark) => nix::sys::stat::fstat(&mark)
            .map(|stat| Some(stat.st_ctime))
            .context(|| format!("fstat({slot}, {VOLATILE_MARK:?})")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // OverlayFS makes its scratch directory with mode 0: without privilege nobody can look.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the wall-clock second in which the machine started; a second early, for the clocks' rounding.
fn boot_time() -> i64 {
    use nix::time::{ClockId, clock_gettime};
    let read = |clock| clock_gettime(clock).map_or(0, |time| time.tv_sec());
    read(ClockId::CLOCK_REALTIME) - read(ClockId::CLOCK_BOOTTIME) - 1
}

pub(crate) fn is_opaque(dir: &Dir) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| sys::fgetxattr(dir.as_fd(), OsStr::new(name)).is_ok_and(|value| value == b"y"))
        || fuse::is_opaque(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_marks_are_told_from_lasting_ones() {
        assert!(is_transient_mark(OsStr::new("trusted.overlay.origin")));
        assert!(is_transient_mark(OsStr::new("user.overlay.impure")));
        assert!(!is_transient_mark(OsStr::new("trusted.overlay.opaque")));
        assert!(!is_transient_mark(OsStr::new("user.origin")));
        assert!(!is_transient_mark(OsStr::new("trusted.overlay.overlay.origin")));
    }

    #[test]
    fn kernel_versions_compare_as_numbers() {
        assert_eq!(kernel_version("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(kernel_version("6.8-rc1"), Some((6, 8)));
        assert_eq!(kernel_version("six"), None);
    }
}
