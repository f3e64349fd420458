//! Which trees are mounted where, and what runs in them that is none of ours.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rootling_backends::{Context, FS, Result, mount_table};

use super::{Node, ObjectId, Store};

/// All trees of stores that are mounted in this mount namespace, as they were when it was read.
#[derive(Debug)]
pub struct MountedTrees(HashMap<ObjectId, Vec<PathBuf>>);

impl MountedTrees {
    /// Reads the mount table once, however many trees will be asked for.
    pub fn read() -> Result<Self> {
        let mut places: HashMap<ObjectId, Vec<PathBuf>> = HashMap::new();
        for mounted in mount_table::read()? {
            // A bind mount shows the tree as the mount's root, an overlay as its source.
            let tree = [&mounted.root, &mounted.source].into_iter().find_map(|path| object_of(path));
            if let Some(id) = tree {
                places.entry(id).or_default().push(mounted.place);
            }
        }
        Ok(Self(places))
    }

    /// Returns where a node's tree is mounted.
    pub fn of(&self, store: &Store, node: &Node) -> &[PathBuf] {
        if self.0.is_empty() {
            return &[];
        }
        // One that is damaged is mounted nowhere.
        let slot = store.tree_slot(node).ok();
        let id = slot.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        let places = id.and_then(|id| self.0.get(&ObjectId::parse(id).ok()?));
        places.map_or(&[], Vec::as_slice)
    }
}

/// The object that a path ending in its tree's directory names.
fn object_of(path: &Path) -> Option<ObjectId> {
    if !path.ends_with(FS) {
        return None;
    }
    ObjectId::parse(path.parent()?.file_name()?.to_str()?).ok()
}

/// Returns a process whose root is the directory `place`, if there is one: in whatever mount namespace, started by whatever program.
///
/// O(processes). One that has just ended, or is another user's, is passed over.
pub fn process_rooted_in(place: &Path) -> Result<Option<u32>> {
    let root = fs::metadata(place).context(|| format!("stat({place:?})"))?;
    let processes = fs::read_dir("/proc").context(|| "readdir(/proc)")?.flatten();
    let is_in = |pid: &u32| {
        let found = fs::metadata(format!("/proc/{pid}/root"));
        found.is_ok_and(|found| (found.dev(), found.ino()) == (root.dev(), root.ino()))
    };
    Ok(processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_in))
}
