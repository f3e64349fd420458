//! Which cgroup hierarchies there are, and where in each we may make cgroups of our own.
//!
//! | layout | what is mounted | limits | lifecycle (clone into, kill, freeze) |
//! |---|---|---|---|
//! | unified | version 2 with all controllers | version 2 | version 2 |
//! | hybrid | version 2 without controllers, and version 1 | version 1 | version 2 |
//! | legacy | version 1 alone | version 1 | version 1: moved by process id, the freezer, signals |
//! | none | nothing, or nothing that we may write | refused | none needed |
//!
//! Our cgroups lie below the *base*: the highest cgroup on the path from the mount point down to our own that we
//! may write. For root that is the top. For a user it is what systemd delegated, usually `user@UID.service`:
//! moving a process needs the right to write to the common ancestor of both ends (cgroup-v2.rst, "Delegation
//! Containment"), and the highest writable one is the common ancestor of all that we may use.

use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use rootling_backends::{Result, mount_table, small_file};

use super::settings::{Controller, Version};

/// The directory in each hierarchy's base in which our cgroups lie.
pub(super) const DIRECTORY: &str = "rootling";

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Version 1: what it controls. Version 2 says so in each cgroup.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// Our own cgroup, below `mount`.
    pub(super) own: PathBuf,
}

/// All hierarchies that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout(pub(super) Vec<Hierarchy>);

impl Layout {
    /// Reads two files of /proc.
    pub(super) fn read() -> Result<Self> {
        let own = small_file::read_record("/proc/self/cgroup")?;
        Ok(Self::of(&mount_table::read()?, &own))
    }

    /// `own` is what proc_pid_cgroup(5) says: lines of `number:controllers:path`, number 0 being version 2.
    pub(super) fn of(mounts: &[mount_table::Mounted], own: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let version = if names.is_empty() { Version::V2 } else { Version::V1 };
            // A named hierarchy limits nothing: it is somebody's book of processes.
            if names.starts_with("name=") {
                continue;
            }
            let shows = |mounted: &&mount_table::Mounted| match version {
                Version::V2 => mounted.kind == "cgroup2",
                Version::V1 => {
                    let first = names.split(',').next().unwrap_or(names);
                    mounted.kind == "cgroup" && mounted.options.split(',').any(|option| option == first)
                }
            };
            let Some(mounted) = mounts.iter().find(shows) else { continue };
            // A mount may show a part of the hierarchy; from outside of it our own path means nothing.
            let below = Path::new(path).strip_prefix(&mounted.root).unwrap_or(Path::new(""));
            hierarchies.push(Hierarchy {
                version,
                controllers: names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
                mount: mounted.place.clone(),
                // Components, because joining nothing would leave a slash at the end.
                own: mounted
                    .place
                    .components()
                    .chain(below.strip_prefix("/").unwrap_or(below).components())
                    .collect(),
            });
        }
        hierarchies.sort_by_key(|hierarchy| hierarchy.version == Version::V1);
        Self(hierarchies)
    }

    /// Returns the hierarchy in which every one of our cgroups has a directory, and its base: by it they are found
    /// again, frozen and killed. `None` where we may make no cgroup at all.
    pub(super) fn anchor_and_base(&self) -> Option<(&Hierarchy, PathBuf)> {
        let preferred = self.unified().into_iter().chain(self.v1("freezer")).chain(&self.0);
        preferred.filter_map(|hierarchy| Some((hierarchy, hierarchy.base()?))).next()
    }

    /// Returns version 2, if mounted.
    pub(super) fn unified(&self) -> Option<&Hierarchy> {
        self.0.first().filter(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Returns the hierarchy of a controller of version 1.
    pub(super) fn v1(&self, name: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|hierarchy| hierarchy.controllers.iter().any(|controller| controller == name))
    }

    /// Returns where a controller is, and in which version.
    ///
    /// Controllers of version 1 are gone from version 2 as long as their hierarchy exists.
    pub(super) fn controller(&self, controller: Controller) -> Option<&Hierarchy> {
        self.v1(controller.name(Version::V1)).or_else(|| {
            let unified = self.unified()?;
            let all = small_file::read_record(unified.mount.join("cgroup.controllers")).ok()?;
            has_word(&all, controller.name(Version::V2)).then_some(unified)
        })
    }
}

impl Hierarchy {
    /// Returns the base: `None` where we may write nowhere.
    pub(super) fn base(&self) -> Option<PathBuf> {
        let below = self.own.strip_prefix(&self.mount).unwrap_or(Path::new(""));
        let mut candidate = self.mount.clone();
        let mut parts = below.components();
        loop {
            if self.is_ours(&candidate) {
                return Some(candidate);
            }
            candidate.push(parts.next()?);
        }
    }

    fn is_ours(&self, directory: &Path) -> bool {
        let files: &[&str] = match self.version {
            Version::V1 => &["", "cgroup.procs"],
            Version::V2 => &["", "cgroup.procs", "cgroup.subtree_control"],
        };
        // Joining nothing would leave a slash at the end, which is harmless.
        files.iter().all(|file| writable(&directory.join(file)))
    }
}

fn writable(path: &Path) -> bool {
    faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok()
}

/// Is `word` one of the words of `text`?
pub(super) fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|other| other == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(mounts: &str, own: &str) -> Layout {
        Layout::of(&mount_table::parse(mounts.as_bytes()), own)
    }

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
";

    #[test]
    fn a_hybrid_machine_has_its_limits_on_version_1() {
        let mounts = format!("{HYBRID}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let own = "9:name=systemd:/\n5:freezer:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/x\n";
        let layout = layout(&mounts, own);
        assert_eq!(layout.unified().unwrap().own, Path::new("/sys/fs/cgroup/unified/x"));
        assert_eq!(layout.v1("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(layout.v1("memory").unwrap().own, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert!(layout.v1("pids").is_none() && layout.v1("name=systemd").is_none());
    }

    #[test]
    fn a_legacy_machine_has_no_version_2() {
        let layout = layout(HYBRID, "5:freezer:/f\n4:memory:/\n1:cpu,cpuacct:/\n0::/\n");
        assert!(layout.unified().is_none());
        assert_eq!(layout.v1("freezer").unwrap().own, Path::new("/sys/fs/cgroup/freezer/f"));
    }

    #[test]
    fn a_mount_of_a_part_shows_that_part() {
        let mounts = "30 25 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(layout(mounts, "0::/docker/1/a\n").0[0].own, Path::new("/sys/fs/cgroup/a"));
        assert_eq!(layout(mounts, "0::/../2\n").0[0].own, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn without_mounts_there_is_nothing() {
        assert_eq!(layout("", "4:memory:/\n0::/\n").0, []);
        assert!(layout(HYBRID, "rubbish\n").anchor_and_base().is_none());
    }

    #[test]
    fn the_base_is_the_highest_that_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("a/b");
        std::fs::create_dir_all(&own).unwrap();
        let hierarchy = Hierarchy {
            version: Version::V2,
            controllers: vec![],
            mount: dir.path().to_owned(),
            own: own.clone(),
        };
        assert_eq!(hierarchy.base(), None);
        std::fs::write(own.join("cgroup.procs"), "").unwrap();
        assert_eq!(hierarchy.base(), None, "controllers could not be enabled in it");
        std::fs::write(own.join("cgroup.subtree_control"), "").unwrap();
        assert_eq!(hierarchy.base(), Some(own));
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        assert_eq!(hierarchy.base().as_deref(), Some(dir.path()));
    }
}
