//! One stat of each entry of a tree, on all cores: the least that a search for changes without help of the file system can do.

use std::path::Path;

use rayon::prelude::*;
use rootling_backends::{Context, Result};

/// What tables call it.
pub(super) const NAME: &str = "parallel stat walk";

/// Looks at every inode below a directory.
pub(super) fn stat_all(directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory).context(|| format!("readdir({directory:?})"))?;
    let entries: Vec<_> =
        entries.collect::<std::io::Result<_>>().context(|| format!("readdir({directory:?})"))?;
    entries.into_par_iter().try_for_each(|entry| {
        let path = entry.path();
        let found = std::fs::symlink_metadata(&path).context(|| format!("lstat({path:?})"))?;
        if found.is_dir() { stat_all(&path) } else { Ok(()) }
    })
}
