//! Mounts of a runtime configuration: the kernel's own file systems as our runner mounts them, then what the person asked for, nearer to the
//! root first, then generated files.

use std::path::{Path, PathBuf};

use rootling_backends::{Error, Result};
use serde::Serialize;

use super::{cannot, file_name, text};
use crate::runner::spec::{Bind, Namespace, Owners, Restrictions, Spec, Tmpfs, Userns};

/// One of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The path inside.
    pub destination: String,
    /// The kind of file system.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is mounted.
    pub source: String,
    /// How.
    pub options: Vec<String>,
}

impl Mount {
    fn new(destination: &str, kind: &'static str, options: &str) -> Self {
        let options = options.split(',').map(str::to_owned).collect();
        Self { destination: destination.to_owned(), kind, source: kind.to_owned(), options }
    }

    /// Does a restriction hold for all that is mounted in the source?
    pub(super) fn is_recursive(&self) -> bool {
        let words = ["rro", "rnosuid", "rnodev", "rnoexec"];
        self.options.iter().any(|option| words.contains(&option.as_str()))
    }
}

/// What stands on `/proc`, `/sys` and `/dev` of every box.
const QUIET: &str = "nosuid,noexec,nodev";

pub(super) fn mounts(spec: &Spec, files: &Path) -> Result<Vec<Mount>> {
    let mut mounts = of_the_kernel(spec);
    let tmpfs = spec.tmpfs.iter().map(|tmpfs| Ok((tmpfs.target.clone(), memory(tmpfs)?)));
    let binds = spec.binds.iter().map(|bind| Ok((bind.target.clone(), shown(bind)?)));
    let mut wanted: Vec<(PathBuf, Mount)> = tmpfs.chain(binds).collect::<Result<_>>()?;
    wanted.sort_by_key(|(target, _)| target.components().count());
    mounts.extend(wanted.into_iter().map(|(_, mount)| mount));
    for file in &spec.files {
        let source = files.join(file_name(&file.target));
        let restrictions = restricted(file.restrictions, false);
        mounts.push(bound(&source, &file.target, ["bind", "rprivate"], restrictions)?);
    }
    Ok(mounts)
}

fn of_the_kernel(spec: &Spec) -> Vec<Mount> {
    let all = &spec.namespaces;
    let has_own_users = spec.userns != Userns::Host;
    let sys = if spec.security.writable_sys { "nosuid,noexec,nodev,rw" } else { "nosuid,noexec,nodev,ro" };
    let host = |path: &str, more: &str| Mount {
        source: path.to_owned(),
        ..Mount::new(path, "bind", &format!("rbind,rprivate,{more}"))
    };
    // Whoever owns the box's users owns none of these, and mounts no new one.
    let new_or_hosts = |is_own: bool, path: &str, kind, options: &str| {
        if is_own || !has_own_users { Mount::new(path, kind, options) } else { host(path, options) }
    };
    let gid = match &spec.userns {
        // Group 5 is tty; a user namespace need not have it.
        Userns::Private { gid_map, .. } => {
            gid_map.iter().any(|map| map.inside <= 5 && 5 - map.inside < map.count)
        }
        _ => true,
    };
    let pts = "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620";
    let shm_size = spec.shm_bytes.map_or_else(|| "65536k".to_owned(), |bytes| bytes.to_string());
    let shm = match all.ipc {
        // Whoever shares semaphores shares memory.
        Namespace::Host => host("/dev/shm", QUIET),
        _ => Mount {
            source: "shm".to_owned(),
            ..Mount::new("/dev/shm", "tmpfs", &format!("{QUIET},mode=1777,size={shm_size}"))
        },
    };
    let mut mounts = vec![
        new_or_hosts(all.pid != Namespace::Host, "/proc", "proc", QUIET),
        Mount::new("/dev", "tmpfs", "nosuid,noexec,strictatime,mode=755,size=65536k"),
        Mount::new("/dev/pts", "devpts", &if gid { format!("{pts},gid=5") } else { pts.to_owned() }),
        shm,
    ];
    if all.ipc == Namespace::Private || !has_own_users {
        mounts.push(Mount::new("/dev/mqueue", "mqueue", QUIET));
    }
    mounts.push(new_or_hosts(all.net.namespace() == Namespace::Private, "/sys", "sysfs", sys));
    mounts.push(Mount::new("/sys/fs/cgroup", "cgroup", &format!("{sys},relatime")));
    mounts
}

fn memory(tmpfs: &Tmpfs) -> Result<Mount> {
    let mut options = vec![format!("mode={:04o}", tmpfs.mode & 0o7777)];
    options.extend(tmpfs.size_bytes.map(|size| format!("size={size}")));
    options.extend(restricted(tmpfs.restrictions, false));
    let destination = text(tmpfs.target.as_os_str())?;
    Ok(Mount { destination, kind: "tmpfs", source: "tmpfs".to_owned(), options })
}

fn shown(bind: &Bind) -> Result<Mount> {
    let refuse = |option: &str, hint: &'static str| -> Error {
        cannot(&format!("{option:?} of {:?}", bind.target), hint)
    };
    if bind.tree.is_some() || bind.below.is_some() {
        return Err(refuse("volume-subpath", "mount the whole volume, or a directory by its path"));
    }
    if bind.is_layered() {
        return Err(refuse("O", "mount it with ro, or make a volume of it: rootling volume create"));
    }
    if bind.give {
        return Err(refuse("U", "give the directory to the user beforehand: chown"));
    }
    if bind.owners == Owners::Mapped {
        return Err(refuse("idmap", "leave it out: the box has the host's users"));
    }
    let propagation = if bind.follows_host { "rslave" } else { "rprivate" };
    let how = [if bind.recursive { "rbind" } else { "bind" }, propagation];
    bound(&bind.source, &bind.target, how, restricted(bind.restrictions, bind.recursive))
}

fn bound(source: &Path, target: &Path, how: [&str; 2], restrictions: Vec<String>) -> Result<Mount> {
    Ok(Mount {
        destination: text(target.as_os_str())?,
        kind: "bind",
        source: text(source.as_os_str())?,
        options: how.iter().map(|word| (*word).to_owned()).chain(restrictions).collect(),
    })
}

/// The words for what may not be done; for a directory with all that is mounted in it also those for all of it, which a runtime of before 1.1
/// does not know: so the plain ones stay, and hold for the directory itself.
fn restricted(restrictions: Restrictions, recursive: bool) -> Vec<String> {
    let words = [
        (restrictions.read_only, "ro"),
        (restrictions.no_suid, "nosuid"),
        (restrictions.no_devices, "nodev"),
        (restrictions.no_exec, "noexec"),
    ];
    let given: Vec<&str> = words.iter().filter(|(given, _)| *given).map(|(_, word)| *word).collect();
    let all = given.iter().filter(|_| recursive).map(|word| format!("r{word}"));
    given.iter().map(|word| (*word).to_owned()).chain(all).collect()
}
