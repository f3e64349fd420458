//! A volume that begins as a directory of the host: the home of a box that wants a copy of its person's.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rootling_backends::replicate::{Options, replicate};
use rootling_backends::{
    CloneMode, Context, Cost, Dir, ErrorKind, FS, ForkOptions, Kind, Result, flatten, reap,
};

use super::draft::Draft;
use super::files::Durability;
use super::{Node, Record, Role, State, Store, VolumeName, fault, host};

/// The inode of the root of every btrfs subvolume.
const SUBVOLUME_ROOT: u64 = 256;

impl Store {
    /// Makes a volume with the content of a directory of the host as it is now, without this store where that lies in it.
    ///
    /// O(1) where the directory is a btrfs subvolume beside the store's trees, else O(entries), files sharing their extents where
    /// they can; the record's cost says which. Durable on return. A failure or a kill leaves what the sweep removes.
    pub fn copy_to_volume(&self, name: &VolumeName, from: &Path) -> Result<Node> {
        let intent = || format!("copy {from:?} to volume {name}");
        let _lock = self.share_to_write().context(intent)?;
        let from = from.canonicalize().context(|| format!("realpath({from:?})")).context(intent)?;
        let out: Vec<PathBuf> = match self.real_root()?.strip_prefix(&from) {
            Ok(below) => vec![Path::new("/").join(below)],
            Err(_) => Vec::new(),
        };
        let kind = self.volume_backend();
        let draft = self.draft().context(intent)?;
        let cost = match self.snapshot_subvolume(&draft, kind, &from, &out).context(intent)? {
            Some(cost) => cost,
            None => self.copy_directory(&draft, kind, &from, out).context(intent)?,
        };
        self.backend(kind)?.barrier(&draft.slot).context(intent)?;
        fault::point("volume.copied");
        let record =
            Record { role: Role::Volume, cost, ..Record::new(draft.id.clone(), kind, State::Active) };
        self.publish(draft, &record, Some(&name.node_name()), Durability::Synced).context(intent)
    }

    fn copy_directory(&self, draft: &Draft, kind: Kind, from: &Path, out: Vec<PathBuf>) -> Result<Cost> {
        self.backend(kind)?.create(&draft.slot)?;
        let target = Dir::open(draft.slot.join(FS))?;
        let clone = if kind == Kind::Copy { CloneMode::Never } else { CloneMode::Auto };
        if out.is_empty() {
            return replicate(&Dir::open(from)?, &target, &Options::from(clone));
        }
        // What stays out is blanked by a layer over the directory, in a draft that goes when this returns.
        let blanks = self.draft()?;
        let layer = blanks.slot.join(FS);
        host::blank_in(&layer, &Dir::open(from)?, out, self.userxattr())?;
        flatten::flatten(&[layer, from.to_owned()], &target, self.userxattr(), clone)
    }

    /// Returns `None` where the directory is no subvolume, or none that can be snapshotted to here.
    fn snapshot_subvolume(
        &self,
        draft: &Draft,
        kind: Kind,
        from: &Path,
        out: &[PathBuf],
    ) -> Result<Option<Cost>> {
        let found = std::fs::metadata(from).context(|| format!("stat({from:?})"))?;
        if kind != Kind::Btrfs || found.ino() != SUBVOLUME_ROOT {
            return Ok(None);
        }
        host::make_base(&draft.slot, from)?;
        let options = ForkOptions { outermost_only: true, ..ForkOptions::default() };
        let forked = self.backend(kind)?.fork(&host::parent_tree(&draft.slot), &draft.slot, options);
        reap::reap(&host::parent_tree(&draft.slot).slot)?;
        match forked {
            Ok(forked) => {
                host::empty_in(&draft.slot.join(FS), out.to_vec())?;
                Ok(Some(forked.cost))
            }
            // Another btrfs, or a file system that only numbers its directories so.
            Err(error) if matches!(error.kind(), ErrorKind::CrossDevice | ErrorKind::Unsupported) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
