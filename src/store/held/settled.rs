//! Which syncs make a link durable, with all that it leads to.

use std::path::Path;

use rootling_backends::Result;

use super::super::files;
use super::HeldTrees;

/// File systems with one log of all that happens to directories: what syncs a name syncs everything that was done before, whichever directory
/// it was done in. What is in files is another matter.
const ONE_LOG: [&str; 2] = ["ext4", "xfs"];

impl HeldTrees {
    /// Makes durable what was done in these directories, in this order; the last is the one that counts.
    pub(super) fn settle(&self, directories: &[&Path]) -> Result<()> {
        let has_one_log = ONE_LOG.contains(&self.store.abilities().file_system.as_str());
        let needed = if has_one_log { &directories[directories.len() - 1..] } else { directories };
        needed.iter().try_for_each(|directory| files::sync_dir(directory))
    }

    /// Makes all that was written before this call durable, in one sync with all others that ask for it meanwhile.
    pub(super) fn sync_all(&self) -> Result<()> {
        self.barrier.wait(|| self.root.sync_file_system())
    }
}
