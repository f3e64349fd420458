//! Trees as btrfs subvolumes: a fork is one snapshot, whatever the size of its parent.
//!
//! | what | by which means |
//! |---|---|
//! | make, seal, look up | crate `btrfsutil`, which no other file imports, by the slot's path |
//! | snapshot | our own ioctl by descriptor. Both cost the same, 2 to 4 ms, which is the kernel's transaction commit; but the crate drops the errno that tells another file system from a full one, and reaches nested subvolumes by paths that the tree's owner may swap |
//! | search, list, flags of nested subvolumes | our own ioctls: `btrfsutil`'s iterator is unsound |
//!
//! A snapshot is durable when the call returns: it flushes the source and commits. Snapshots do not run in parallel.
//! Subvolumes inside a tree are part of it: they are snapshotted into their places, sealed and compared with it.
//!
//! Everything but the change search works without privilege; there `changes` compares everything.

mod changes;
mod footprint;
mod nested;
mod search;

pub(crate) use footprint::{add_inodes, may_search, surroundings};

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use btrfsutil::error::LibError;
use btrfsutil::subvolume::Subvolume;
use nix::fcntl::RenameFlags;

use crate::backend::{
    Backend, Baseline, Capabilities, Cost, FS, Finding, ForkOptions, Forked, Form, Kind, Reaped, Snapshotted,
    Tree,
};
use crate::change::{Change, DiffOptions};
use crate::compare::diff_trees;
use crate::dir::Dir;
use crate::entry::CloneMode;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::footprint::Footprint;
use crate::mount::{Access, Mount};
use crate::pairing::is_on_btrfs;
use crate::{flatten, reap, replicate, sys};

/// The backend [`Kind::Btrfs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Btrfs {
    userxattr: bool,
}

impl Btrfs {
    /// Returns the backend. `userxattr` says where the deltas that it may have to fork keep OverlayFS's marks.
    pub fn new(userxattr: bool) -> Self {
        Self { userxattr }
    }

    /// Makes a snapshot; `None` where `tree` is no subvolume of this file system and must be copied.
    fn try_snapshot(tree: &Tree, slot: &Dir, read_only: bool) -> Result<Option<(u64, Baseline)>> {
        if tree.form == Form::Delta {
            return Ok(None);
        }
        let source = Dir::open(tree.fs())?;
        if !is_subvolume(&source)? {
            return Ok(None);
        }
        let subvolumes = match nested::snapshot(&source, slot, OsStr::new(FS), read_only) {
            // The parent lies on another btrfs.
            Err(error) if error.kind() == ErrorKind::CrossDevice => return Ok(None),
            other => other?,
        };
        // Writers are held off while the transaction that makes the snapshot commits, so whatever is changed afterwards, here or in the
        // source, carries a later number; nested subvolumes follow in later transactions, which only adds candidates.
        Ok(Some((subvolumes, parted(slot)?)))
    }

    /// Makes a snapshot without what is nested.
    fn snapshot_outermost(tree: &Tree, slot: &Dir) -> Result<Baseline> {
        let source = Dir::open(tree.fs())?;
        if tree.form == Form::Delta || !is_subvolume(&source)? {
            let message = format!("{source} is not the root of a subvolume");
            return Err(Error::new(ErrorKind::CrossDevice, message));
        }
        sys::btrfs_snapshot(source.as_fd(), slot.as_fd(), OsStr::new(FS), false)
            .context(|| format!("ioctl({slot}, BTRFS_IOC_SNAP_CREATE_V2, {source}, {FS:?})"))?;
        parted(slot)
    }

    /// Makes a subvolume with a copy of what is no subvolume: a plain directory or a delta.
    fn copy_into(&self, tree: &Tree, slot: &Path, always_clone: bool) -> Result<Cost> {
        self.create(slot)?;
        let target = Dir::open(slot.join(FS))?;
        let clone = if always_clone { CloneMode::Always } else { CloneMode::Auto };
        match tree.form {
            Form::Full => {
                replicate::replicate(&Dir::open(tree.fs())?, &target, &replicate::Options::from(clone))
            }
            Form::Delta => flatten::flatten(&tree.layers(), &target, self.userxattr, clone),
        }
    }
}

/// Returns where the search for changes of the snapshot in `slot`, and of what it was made of, starts.
fn parted(slot: &Dir) -> Result<Baseline> {
    let made = nested::info(&slot.open_dir(FS)?)?;
    Ok(Baseline::Generation { generation: made.made_in, parted: Some(made.made_at) })
}

/// Is the directory the root of a subvolume?
fn is_subvolume(dir: &Dir) -> Result<bool> {
    Ok(dir.stat_self()?.st_ino == search::ROOT_INODE && is_on_btrfs(dir)?)
}

/// Turns an error of the crate, which has neither errno nor path, into one of ours.
fn failed(operation: &str, path: &Path, error: &LibError) -> Error {
    let kind = match error {
        LibError::NotBtrfs => ErrorKind::Unsupported,
        LibError::NotSubvolume | LibError::InvalidArgument => ErrorKind::FailedPrecondition,
        LibError::SubvolumeNotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Error::io(format!("btrfsutil: {operation} {path:?}"), io::Error::other(error.to_string())).with_kind(kind)
}

impl Backend for Btrfs {
    fn kind(&self) -> Kind {
        Kind::Btrfs
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            constant_time_fork: true,
            shares_data: true,
            fork_form: Form::Full,
            live_snapshot: true,
        }
    }

    fn create(&self, slot: &Path) -> Result<()> {
        let path = slot.join(FS);
        // libbtrfsutil drops the errno, so the usual two reasons are looked for here.
        if Dir::open(slot)?.stat_if_exists(FS)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{path:?} exists already")));
        }
        Subvolume::create(path.as_path(), None).map_err(|error| failed("create subvolume", &path, &error))?;
        Dir::open(slot)?.set_mode_following_symlinks(FS, 0o755)
    }

    /// A subvolume is snapshotted, O(1); a plain directory or a delta is cloned file by file into a new subvolume.
    fn fork(&self, parent: &Tree, slot: &Path, options: ForkOptions) -> Result<Forked> {
        let start = Instant::now();
        let what = || format!("fork {:?} into {slot:?}", parent.slot);
        let dir = Dir::open(slot)?;
        if options.outermost_only {
            let baseline = Self::snapshot_outermost(parent, &dir).context(what)?;
            let cost = Cost { snapshots: 1, elapsed: start.elapsed(), ..Cost::default() };
            return Ok(Forked { form: Form::Full, baseline, cost });
        }
        if let Some((subvolumes, baseline)) = Self::try_snapshot(parent, &dir, false).context(what)? {
            let cost = Cost { snapshots: subvolumes, elapsed: start.elapsed(), ..Cost::default() };
            return Ok(Forked { form: Form::Full, baseline, cost });
        }
        let cost = self.copy_into(parent, slot, options.always_clone).context(what)?;
        let baseline = if options.ephemeral {
            Baseline::None
        } else {
            let generation = sys::btrfs_commit(dir.as_fd())
                .context(|| format!("ioctl({dir}, BTRFS_IOC_START_SYNC)"))
                .context(what)?;
            Baseline::Generation { generation, parted: None }
        };
        Ok(Forked { form: Form::Full, baseline, cost: Cost { elapsed: start.elapsed(), ..cost } })
    }

    /// O(1), of a tree that is written to as well: the snapshot shows one moment of each subvolume.
    fn snapshot(&self, tree: &Tree, _parent: Option<(&Tree, &Baseline)>, slot: &Path) -> Result<Snapshotted> {
        let start = Instant::now();
        let what = || format!("snapshot {:?} into {slot:?}", tree.slot);
        if let Some((subvolumes, baseline)) =
            Self::try_snapshot(tree, &Dir::open(slot)?, true).context(what)?
        {
            let cost = Cost { snapshots: subvolumes, elapsed: start.elapsed(), ..Cost::default() };
            return Ok(Snapshotted { form: Form::Full, baseline, cost });
        }
        let cost = self.copy_into(tree, slot, false).context(what)?;
        self.seal(&Tree::full(slot)).context(what)?;
        Ok(Snapshotted { form: Form::Full, baseline: Baseline::None, cost })
    }

    /// Sets the read-only flag of the subvolume and of all inside it. A plain directory has none and stays as it is.
    fn seal(&self, tree: &Tree) -> Result<()> {
        let path = tree.fs();
        let root = Dir::open(&path)?;
        if tree.form == Form::Delta || !is_subvolume(&root)? {
            return Ok(());
        }
        for nested in nested::children(&root)? {
            nested::set_read_only_all(&nested::open(&root, &nested)?)?;
        }
        Subvolume::get(path.as_path())
            .and_then(|subvolume| if subvolume.is_ro()? { Ok(()) } else { subvolume.set_ro(true) })
            .map_err(|error| failed("set read-only", &path, &error))
    }

    /// Writes out all data of the file system and commits: a seal alone does neither.
    fn barrier(&self, directory: &Path) -> Result<()> {
        Dir::open(directory)?.sync_file_system()
    }

    fn mount(&self, tree: &Tree, access: Access, volatile: bool) -> Mount {
        tree.mount(access, self.userxattr, volatile)
    }

    /// Compares what was touched after the baseline's generation, after a sync of the file system: updates that are still in memory are
    /// not in the tree that is searched. Where the search is not allowed, or the tree changes under it, everything is compared.
    fn changes(
        &self,
        tree: &Tree,
        parent: &Tree,
        baseline: &Baseline,
        options: DiffOptions,
    ) -> Result<Vec<Change>> {
        let what = || format!("compare {:?} with {:?}", tree.slot, parent.slot);
        let view = |tree| self.mount(tree, Access::ReadOnly, false).open_root();
        let (old, new) = (view(parent).context(what)?, view(tree).context(what)?);
        if let Baseline::Generation { generation, parted } = baseline
            && tree.form == Form::Full
            && is_subvolume(&new)?
        {
            new.sync_file_system().context(what)?;
            match changes::changes_since(&old, &new, (*generation, *parted), options) {
                Err(error) if is_reason_to_compare_all(&error) => {}
                other => return other.context(what),
            }
        }
        diff_trees(&old, &new, options).context(what)
    }

    /// Yes while the subvolume has not been written since the fork; updates that are still in memory are written out first.
    fn is_untouched(&self, tree: &Tree, _parent: &Tree, baseline: &Baseline) -> Result<bool> {
        let Baseline::Generation { generation, .. } = baseline else { return Ok(false) };
        let root = Dir::open(tree.fs())?;
        let untouched = || Ok::<_, Error>(nested::info(&root)?.generation <= *generation);
        if tree.form == Form::Delta
            || !is_subvolume(&root)?
            || !untouched()?
            || !nested::children(&root)?.is_empty()
        {
            return Ok(false);
        }
        root.sync_file_system()?;
        untouched()
    }

    /// One search of each subvolume. A plain directory, or without privilege, is walked.
    fn footprint(&self, tree: &Tree) -> Result<Footprint> {
        let root = Dir::open(tree.fs())?;
        match footprint::measure(&root).context(|| format!("measure {root}"))? {
            Some(footprint) => Ok(footprint),
            None => {
                let subvolumes = footprint::ids(&root)?;
                Ok(Footprint { subvolumes, ..crate::footprint::measure(&root)? })
            }
        }
    }

    fn stamp(&self, tree: &Tree) -> Result<Option<u64>> {
        footprint::stamp(&Dir::open(tree.fs())?)
    }

    /// A read-only subvolume cannot be moved: it would change its way up. Both lose the flag for a moment.
    fn exchange(&self, slot: &Path, made: &Path) -> Result<()> {
        let (one, other) = (Dir::open(slot)?, Dir::open(made)?);
        for root in [one.open_dir(FS)?, other.open_dir(FS)?] {
            if is_subvolume(&root)? {
                nested::set_writable(&root)?;
            }
        }
        nix::fcntl::renameat2(&other, FS, &one, FS, RenameFlags::RENAME_EXCHANGE)
            .context(|| format!("renameat2({other}, {FS:?}, {one}, {FS:?}, RENAME_EXCHANGE)"))?;
        self.seal(&Tree::full(slot))
    }

    fn reap(&self, slot: &Path) -> Result<Reaped> {
        reap::reap(slot)
    }

    fn check(&self, tree: &Tree, sealed: bool) -> Result<Vec<Finding>> {
        let path = tree.fs();
        let problem = match Dir::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Some("missing"),
            Err(error) => return Err(error),
            Ok(root) if !is_subvolume(&root)? => Some("not a subvolume"),
            Ok(root) if sealed && !nested::is_read_only(&root)? => Some("sealed, but writable"),
            Ok(_) => None,
        };
        Ok(problem.map(|problem| Finding { path, problem: problem.to_owned() }).into_iter().collect())
    }
}

/// Not privileged, no such ioctl, or a path that moved between the search and the look.
fn is_reason_to_compare_all(error: &Error) -> bool {
    use ErrorKind::{Busy, InvalidInput, NotFound, PermissionDenied, Unsupported};
    matches!(error.kind(), Busy | InvalidInput | NotFound | PermissionDenied | Unsupported)
}
