//! Real Debian trees: archives made once with mmdebstrap, unpacked by tar onto each file system.

use std::path::{Path, PathBuf};

use rootling_backends::{Context, Result};

use crate::command::{command, timed};
use crate::fixture::Scratch;
use crate::options::Options;
use crate::report;

/// An archive of a root file system.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    /// What tables call it.
    pub(crate) name: &'static str,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// Name, and the packages beside those of the variant minbase.
const TREES: [(&str, &str); 2] =
    [("minbase", ""), ("large", "python3,perl,locales,linux-headers-amd64,gcc,libboost-dev")];

/// Returns the archives that the options ask for, made where the cache has none.
pub(crate) fn archives(options: &Options, scratch: &Scratch) -> Result<Vec<Archive>> {
    let directory = options.cache.as_deref().unwrap_or(scratch.path());
    std::fs::create_dir_all(directory).context(|| format!("mkdir({directory:?})"))?;
    let wanted = TREES.iter().filter(|(name, _)| options.wants_tree(name));
    wanted.map(|(name, packages)| archive(name, packages, directory)).collect()
}

fn archive(name: &'static str, packages: &str, directory: &Path) -> Result<Archive> {
    let path = directory.join(format!("debian-{name}.tar"));
    if !path.exists() {
        report::progress(&format!("{name}: making the archive with mmdebstrap"));
        let making = directory.join(format!("debian-{name}.making.tar"));
        let include = format!("--include={packages}");
        // A mirror that stands still has lists that expired; they are signed all the same.
        let still = "--aptopt=Acquire::Check-Valid-Until \"false\"";
        let mut flags = vec!["--quiet", "--variant=minbase", still];
        if !packages.is_empty() {
            flags.push(&include);
        }
        timed(command("mmdebstrap", flags).arg("stable").arg(&making))?;
        std::fs::rename(&making, &path).context(|| format!("rename({making:?}, {path:?})"))?;
    }
    Ok(Archive { name, path })
}

impl Archive {
    /// Unpacks it into a directory by means of tar: no contender's own code decides what the tree is.
    pub(crate) fn unpack(&self, directory: &Path) -> Result<()> {
        let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"];
        timed(command("tar", flags).arg(&self.path).arg("-C").arg(directory)).map(drop)
    }
}
