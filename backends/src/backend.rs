//! The contract: what a backend is, and the words it is told in.
//!
//! A **tree** is a directory on disk that a backend made. It lies in a **slot**: a directory of the store
//! that holds `fs/` (the tree itself) and whatever else the backend needs beside it (`work/` for OverlayFS, `dirs` for
//! the change search of plain directories). A backend knows slots and trees; names, records, locks and garbage are the store's.
//!
//! A tree is **full** (a plain directory or a subvolume: readable as it is) or a **delta** (an OverlayFS upper directory:
//! it means something only over the trees beneath it). Any backend can fork a tree of either form.
//!
//! The life of a tree: [`create`](Backend::create) (empty) or [`fork`](Backend::fork) (with its parent's content) → written to by
//! anybody, through [`mount`](Backend::mount) → either [`seal`](Backend::seal)ed, after which it never changes and may become a parent, or copied as it
//! stands into a sealed tree by [`snapshot`](Backend::snapshot) → in the end [`reap`](Backend::reap)ed. [`barrier`](Backend::barrier) makes everything done before it durable.
//!
//! Every method may be repeated after a crash on a slot that the store emptied with `reap`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::RenameFlags;
use serde::{Deserialize, Serialize};

use crate::change::{Change, DiffOptions};
use crate::dir::{Dir, Times};
use crate::error::{Context, Result};
use crate::footprint::{self, Footprint};
use crate::mount::{Access, Mount, Overlay, Upper};

/// The four ways, by the names that records, flags and messages use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A subvolume for each tree, snapshots by ioctl.
    Btrfs,
    /// An upper directory for each tree, over its parents.
    Overlay,
    /// A plain directory for each tree, files sharing their extents.
    Reflink,
    /// A plain directory for each tree, files copied.
    Copy,
}

impl Kind {
    /// All of them, in the order in which `auto` prefers them for what lives long.
    pub const ALL: [Self; 4] = [Self::Btrfs, Self::Reflink, Self::Overlay, Self::Copy];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Overlay => "overlay",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Can a tree be read by itself?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Yes: `fs/` is the whole tree.
    Full,
    /// No: `fs/` is an OverlayFS upper directory over the trees beneath.
    Delta,
}

/// A tree on disk and what it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The slot that holds it.
    pub slot: PathBuf,
    /// Full or delta.
    pub form: Form,
    /// The `fs` directories beneath a delta, top first, down to and including the first full one; empty for a full tree.
    pub lowers: Vec<PathBuf>,
}

impl Tree {
    /// Returns a full tree.
    pub fn full(slot: impl Into<PathBuf>) -> Self {
        Self { slot: slot.into(), form: Form::Full, lowers: Vec::new() }
    }

    /// Returns a delta over `parent`.
    pub fn delta(slot: impl Into<PathBuf>, parent: &Tree) -> Self {
        Self { slot: slot.into(), form: Form::Delta, lowers: parent.layers() }
    }

    /// Returns the tree's own directory.
    pub fn fs(&self) -> PathBuf {
        self.slot.join(FS)
    }

    /// Returns all directories that make up the tree, top first.
    pub fn layers(&self) -> Vec<PathBuf> {
        std::iter::once(self.fs()).chain(self.lowers.iter().cloned()).collect()
    }

    /// Returns how to show the tree as it is on disk. A delta that is written to needs its slot's `work/`.
    pub fn mount(&self, access: Access, userxattr: bool, volatile: bool) -> Mount {
        match (self.form, access) {
            (Form::Full, _) => Mount::Bind { source: self.fs() },
            (Form::Delta, Access::ReadOnly) => {
                Mount::Overlay(Overlay { lowers: self.layers(), upper: None, volatile: false, userxattr })
            }
            (Form::Delta, Access::ReadWrite) => Mount::Overlay(Overlay {
                lowers: self.lowers.clone(),
                upper: Some(Upper { dir: self.fs(), work: self.slot.join(WORK) }),
                volatile,
                userxattr,
            }),
        }
    }
}

/// The name of the tree in its slot.
pub const FS: &str = "fs";
/// The name of OverlayFS's scratch directory in a slot.
pub const WORK: &str = "work";

/// Where a search for changes starts: kept by the store in the record of a forked tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Baseline {
    /// btrfs: everything changed after this generation.
    Generation {
        /// The subvolume's generation at the fork.
        generation: u64,
        /// For a snapshot: the second since 1970 in which it was made; equal inode numbers from before mean the same inode. Missing
        /// for a copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parted: Option<i64>,
    },
    /// Plain directories: everything whose ctime is not before this moment. The slot's file `dirs` remembers which
    /// directory stood where.
    Fence {
        /// The ctime of a file made after the last file was cloned: seconds and nanoseconds since 1970.
        ctime: (i64, i64),
        /// The kernel's boot id then.
        boot_id: String,
        /// CLOCK_REALTIME minus CLOCK_BOOTTIME then, in nanoseconds: a clock set back shows here.
        clock_offset_ns: i64,
    },
    /// A delta: the upper directory holds the changes.
    Upper,
    /// Nothing is known: compare everything.
    None,
}

/// What making a tree cost, and by which means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Subvolumes snapshotted.
    pub snapshots: u64,
    /// Directories made.
    pub directories: u64,
    /// Files that share their data with the parent's.
    pub files_cloned: u64,
    /// Files whose data was copied.
    pub files_copied: u64,
    /// Links, devices, pipes, sockets and further names of hard-linked files.
    pub others: u64,
    /// Bytes shared.
    pub bytes_cloned: u64,
    /// Bytes copied (holes not counted).
    pub bytes_copied: u64,
    /// Why files were copied where cloning was asked for: the first few, path and reason. Where it is kept, bytes of a path that are no
    /// UTF-8 are replaced.
    #[serde(serialize_with = "reasons")]
    pub copied_because: Vec<(PathBuf, String)>,
    /// Wall time.
    #[serde(rename = "elapsed_ns", with = "nanoseconds")]
    pub elapsed: Duration,
}

/// Text has no room for all that a path can be, and a record must be written whatever is in a tree.
fn reasons<S: serde::Serializer>(
    reasons: &[(PathBuf, String)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(reasons.iter().map(|(path, reason)| (path.to_string_lossy(), reason)))
}

mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

/// A tree made by [`Backend::fork`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forked {
    /// Its form.
    pub form: Form,
    /// Where the search for its changes starts.
    pub baseline: Baseline,
    /// What it cost.
    pub cost: Cost,
}

/// A sealed tree made by [`Backend::snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshotted {
    /// Full, or a delta over the *parent* of the tree it was taken of.
    pub form: Form,
    /// Where the search for changes of the tree it was taken of may start from now on, against the new snapshot.
    pub baseline: Baseline,
    /// What it cost.
    pub cost: Cost,
}

/// What [`Backend::reap`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Inodes removed one by one.
    pub entries: u64,
    /// Subvolumes removed as a whole.
    pub subvolumes: u64,
    /// Inodes whose immutable or append-only flag was cleared first.
    pub flags_cleared: u64,
}

/// Something [`Backend::check`] does not like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where.
    pub path: PathBuf,
    /// What, as a lowercase fragment.
    pub problem: String,
}

/// What a backend can do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// A fork costs the same whatever the size of its parent.
    pub constant_time_fork: bool,
    /// Forks share the data of files that were not changed.
    pub shares_data: bool,
    /// The form of the trees that `fork` makes.
    pub fork_form: Form,
    /// A tree may be snapshotted while somebody writes to it.
    pub live_snapshot: bool,
}

/// How to make a fork.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForkOptions {
    /// Fail instead of copying a file that cannot be cloned.
    pub always_clone: bool,
    /// The fork will be thrown away: skip what only serves durability and later change searches.
    pub ephemeral: bool,
    /// Snapshot the parent's outermost subvolume or fail with kind `CrossDevice`: nothing is copied, and subvolumes nested in
    /// it become empty directories. Backends without subvolumes always fail.
    pub outermost_only: bool,
    /// Make a whole tree instead of a delta that, shown read-only, would have more layers than this: for who mounts it in a way that
    /// takes fewer than the backend's own. `None` is as many as the backend can show.
    pub most_layers: Option<usize>,
}

/// One way of materializing trees on one file system. See the module's head for the words.
pub trait Backend: fmt::Debug + Send + Sync {
    /// Returns which of the four it is.
    fn kind(&self) -> Kind;

    /// Returns what it can do here.
    fn capabilities(&self) -> Capabilities;

    /// Makes an empty full tree (root mode 0755, owned by the caller) in `slot`, an existing directory.
    fn create(&self, slot: &Path) -> Result<()>;

    /// Makes in `slot`, an existing empty directory, a writable tree with the content of the sealed tree `parent`.
    fn fork(&self, parent: &Tree, slot: &Path, options: ForkOptions) -> Result<Forked>;

    /// Makes in `slot` a sealed tree with the present content of `tree`, which stays as and where it is.
    ///
    /// `parent` is the sealed tree that `tree` was forked from, with the baseline of that fork; a tree without
    /// a parent is copied whole.
    fn snapshot(&self, tree: &Tree, parent: Option<(&Tree, &Baseline)>, slot: &Path) -> Result<Snapshotted>;

    /// Makes a tree read-only where the file system has a switch for it. Does not sync. A second call does nothing.
    fn seal(&self, tree: &Tree) -> Result<()>;

    /// Makes all that was done in `directory`'s file system before this call durable.
    fn barrier(&self, directory: &Path) -> Result<()>;

    /// Returns how to show the tree. `volatile`: the tree is thrown away afterwards, skip its syncs.
    fn mount(&self, tree: &Tree, access: Access, volatile: bool) -> Mount;

    /// Opens the root of the tree for reading, mounting it only where it must be.
    fn open_root(&self, tree: &Tree) -> Result<Dir> {
        self.mount(tree, Access::ReadOnly, false).open_root()
    }

    /// Returns what differs in `tree` against the sealed tree it was forked from: exact, sorted by the bytes of
    /// the path, so parents first.
    fn changes(
        &self,
        tree: &Tree,
        parent: &Tree,
        baseline: &Baseline,
        options: DiffOptions,
    ) -> Result<Vec<Change>>;

    /// Is the tree for sure as the sealed tree it was forked from? `false` only says that this cannot be told cheaply. O(1).
    ///
    /// The times of the root do not count: whatever is shown at a mount point that was missing moves them.
    fn is_untouched(&self, _tree: &Tree, _parent: &Tree, _baseline: &Baseline) -> Result<bool> {
        Ok(false)
    }

    /// Returns where the search for changes of a tree that nobody writes to may start from now on, against whatever it is like now.
    fn baseline(&self, _tree: &Tree) -> Result<Baseline> {
        Ok(Baseline::None)
    }

    /// Returns what the tree's own directory occupies, and where: not what lies beneath a delta. Sync the file system first.
    fn footprint(&self, tree: &Tree) -> Result<Footprint> {
        footprint::measure(&Dir::open(tree.fs())?)
    }

    /// Returns a value that stays the same as long as the tree's footprint does, where the file system keeps one: O(1), after a sync.
    /// `None` says that only the caller can know, who knows which trees never change.
    fn stamp(&self, _tree: &Tree) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Puts the sealed tree in `made` in the place of the sealed tree in `slot`, and that one where it was, in one step.
    ///
    /// What is mounted goes on with what it shows. A kill may leave one of them without its seal.
    fn exchange(&self, slot: &Path, made: &Path) -> Result<()> {
        let (slot, made) = (Dir::open(slot)?, Dir::open(made)?);
        let times = Times::of(&made.stat(FS)?);
        nix::fcntl::renameat2(&made, FS, &slot, FS, RenameFlags::RENAME_EXCHANGE)
            .context(|| format!("renameat2({made}, {FS:?}, {slot}, {FS:?}, RENAME_EXCHANGE)"))?;
        // XFS moves them, because the way up is another.
        slot.set_times(FS, times)
    }

    /// Destroys whatever is in `slot`, the slot included: immutable files, nested subvolumes, half-made trees.
    ///
    /// Refuses to cross into another mounted file system. Idempotent: a slot that is gone is fine.
    fn reap(&self, slot: &Path) -> Result<Reaped>;

    /// Looks for what a crash or a meddling hand may have left: missing directories, a lost read-only flag.
    fn check(&self, tree: &Tree, sealed: bool) -> Result<Vec<Finding>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_written_whatever_the_names_of_files() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a/\xff")).to_owned();
        let cost = Cost { copied_because: vec![(path, "no room".to_owned())], ..Cost::default() };
        let read: Cost = serde_json::from_str(&serde_json::to_string(&cost).unwrap()).unwrap();
        assert_eq!(read.copied_because, [(PathBuf::from("a/\u{fffd}"), "no room".to_owned())]);
    }
}
