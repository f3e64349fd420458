//! What a tree occupies: one stat of each inode, hard links counted once.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;

use nix::sys::stat::FileStat;

use crate::backend::Usage;
use crate::dir::{Dir, EntryType};
use crate::error::{Context, Result};
use crate::walk;

/// Sums up a tree's own directory; `exclusive_bytes` is left to the caller, who knows what is shared. On all cores.
pub fn measure(tree: &Dir) -> Result<Usage> {
    let sum = Mutex::new((Usage::default(), HashSet::new()));
    add(&sum, &[tree.stat_self()?]);
    walk::for_each(vec![PathBuf::new()], |path, more: &mut Vec<PathBuf>| {
        let Some(dir) = walk::enter(tree, &path)? else { return Ok(1) };
        let mut stats = Vec::new();
        for entry in dir.entries()? {
            let Some(stat) = dir.stat_if_exists(&entry.name)? else { continue };
            if EntryType::of_mode(stat.st_mode) == EntryType::Directory {
                more.push(path.join(&entry.name));
            }
            stats.push(stat);
        }
        add(&sum, &stats);
        Ok(stats.len())
    })
    .context(|| format!("measure {:?}", tree.path()))?;
    Ok(sum.into_inner().expect("no thread panics while it holds the lock").0)
}

fn add(sum: &Mutex<(Usage, HashSet<(u64, u64)>)>, stats: &[FileStat]) {
    let mut sum = sum.lock().expect("no thread panics while it holds the lock");
    let (usage, linked) = &mut *sum;
    for stat in stats {
        let kind = EntryType::of_mode(stat.st_mode);
        if kind != EntryType::Directory && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        usage.entries += 1;
        usage.disk_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if kind == EntryType::File {
            usage.apparent_bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }
}
