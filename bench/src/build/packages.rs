//! The packages of a compiler for the base image, fetched by its own apt before anything is measured.

use std::path::{Path, PathBuf};

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::command::{command, timed};

/// Returns a directory of packages, fetched where the cache has none.
pub(super) fn fetch(tree: &Path, cache: &Path) -> Result<PathBuf> {
    let directory = cache.join("debian-minbase-compiler");
    if directory.exists() {
        return Ok(directory);
    }
    let resolv = tree.join("etc/resolv.conf");
    std::fs::copy("/etc/resolv.conf", &resolv).context(|| format!("copy to {resolv:?}"))?;
    // A mirror that stands still has lists that expired; they are signed all the same.
    let apt = |words: &[&str]| {
        let options = ["-qq", "-o", "Acquire::Check-Valid-Until=false"];
        timed(command("chroot", [tree]).arg("apt-get").args(options).args(words))
    };
    apt(&["update"])?;
    apt(&["install", "--yes", "--download-only", "--no-install-recommends", "gcc", "libc6-dev"])?;
    let making = cache.join("debian-minbase-compiler.making");
    std::fs::create_dir_all(&making).context(|| format!("mkdir({making:?})"))?;
    let fetched = tree.join("var/cache/apt/archives");
    let mut count = 0;
    for entry in std::fs::read_dir(&fetched).context(|| format!("readdir({fetched:?})"))? {
        let path = entry.context(|| format!("readdir({fetched:?})"))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let to = making.join(path.file_name().unwrap_or_default());
            std::fs::copy(&path, &to).context(|| format!("copy to {to:?}"))?;
            count += 1;
        }
    }
    if count == 0 {
        return Err(Error::new(ErrorKind::NotFound, "apt fetched no packages"));
    }
    std::fs::rename(&making, &directory).context(|| format!("rename({making:?}, {directory:?})"))?;
    Ok(directory)
}
