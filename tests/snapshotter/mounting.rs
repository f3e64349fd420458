//! Mounts as containerd does them: mount(2) with flags and one page of options.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rootling::containerd::api::types::Mount;

const PAGE: usize = 4096;

/// What is mounted; dropped, it is unmounted.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts all, one after the other, at a directory that is made for it.
    pub(crate) fn all(mounts: &[Mount], at: &Path) -> Self {
        assert!(!mounts.is_empty());
        std::fs::create_dir_all(at).unwrap();
        let mounted = Self(at.to_owned());
        for mount in mounts {
            do_mount(mount, at).unwrap_or_else(|errno| panic!("{mount:?}: {errno}"));
        }
        mounted
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..100 {
            // A child that was just forked may still hold a file of it open.
            match umount2(&self.0, MntFlags::empty()) {
                Err(nix::errno::Errno::EBUSY) => std::thread::sleep(std::time::Duration::from_millis(5)),
                _ => return,
            }
        }
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap_or_default();
    }
}

fn do_mount(asked: &Mount, at: &Path) -> nix::Result<()> {
    assert!(asked.target.is_empty(), "{asked:?}");
    let mut options: Vec<String> = asked.options.clone();
    let mut directory = None;
    if asked.r#type == "overlay" && options.iter().map(String::len).sum::<usize>() >= PAGE - 512 {
        directory = compact(&mut options);
    }
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in &options {
        match option.as_str() {
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => flags &= !MsFlags::MS_RDONLY,
            other => data.push(other),
        }
    }
    let data = data.join(",");
    assert!(data.len() <= PAGE, "mount options is too long: {} bytes", data.len());
    let (sort, source) = (Some(asked.r#type.as_str()), Some(asked.source.as_str()));
    let data = Some(data.as_str());
    match directory {
        None => mount(source, at, sort, flags, data)?,
        // The directory is a thread's own after CLONE_FS.
        Some(directory) => std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS)?;
                nix::unistd::chdir(directory.as_str())?;
                mount(source, at, sort, flags, data)
            });
            there.join().unwrap()
        })?,
    }
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        mount(None::<&str>, at, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)?;
    }
    Ok(())
}

/// Shortens the layers by the directory that all are in, and returns it.
fn compact(options: &mut Vec<String>) -> Option<String> {
    let at = options.iter().position(|option| option.starts_with("lowerdir="))?;
    let layers: Vec<&str> = options[at]["lowerdir=".len()..].split(':').collect();
    let (least, most) = (layers.iter().min()?, layers.iter().max()?);
    let common = least.bytes().zip(most.bytes()).take_while(|(one, other)| one == other).count();
    let directory = format!("{}/", &least[..least[..common].rfind('/')?]);
    let short: Vec<&str> = layers.iter().map(|layer| &layer[directory.len()..]).collect();
    let short = format!("lowerdir={}", short.join(":"));
    options.remove(at);
    options.push(short);
    Some(directory)
}
