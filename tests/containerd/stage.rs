//! Where a test plays: a file system, a registry with images, and a containerd whose every process lives in the mount namespace
//! of the test, so that nothing is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use super::daemons::{Containerd, Snapshotter};
use crate::environment::{Environment, Ran, found, is_root, ran, skip};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::lab::eventually;
use crate::oci::{Tar, write_layout};
use crate::registry::server::Registry;

/// What containerd calls us, as a configuration would.
pub(super) const OURS: &str = "rootling";

/// What a container can do is busybox's.
const APPLETS: [&str; 16] = [
    "sh", "cat", "ls", "echo", "rm", "mkdir", "ln", "chmod", "chown", "mv", "cp", "sleep", "true", "touch",
    "stat", "dd",
];

/// The number of the next namespace of containerd: names of cgroups are the machine's.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A registry with images, for all file systems of a test.
pub(super) struct Images {
    registry: Registry,
    layouts: TempDir,
}

impl Images {
    /// Serves `app:1` and `app:2`, which differ in their last layer, and `pause:1`, which is the first of them alone; `None` where that cannot be run here.
    pub(super) fn serve() -> Option<Self> {
        if !is_root() {
            return None;
        }
        if let Some(missing) = ["containerd", "ctr", "runc"].into_iter().find(|tool| !found(tool)) {
            skip(&format!("{missing} is not installed"));
            return None;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let Some(busybox) = busybox else {
            skip("busybox-static is not installed");
            return None;
        };
        let registry = Registry::plain()?;
        let layouts = TempDir::new().unwrap();
        let mut base = Tar::default().dir("bin/").program("bin/busybox", fs::read(busybox).unwrap());
        for applet in APPLETS {
            base = base.symlink(&format!("bin/{applet}"), "busybox");
        }
        let base = base.dir("etc/").file("etc/motd", "welcome\n").file("etc/old", "old\n");
        let base = base.dir("srv/").dir("srv/a/").file("srv/a/hidden", "hidden\n").end();
        // A file gone, a directory emptied, a link to what the layer below has.
        let middle = Tar::default().dir("etc/").file("etc/.wh.old", "").dir("srv/").dir("srv/a/");
        let middle =
            middle.file("srv/a/.wh..wh..opq", "").file("srv/a/seen", "seen\n").link("srv/b", "srv/a/seen");
        let middle = middle.end();
        let images = Self { registry, layouts };
        for (tag, last) in [("1", "first\n"), ("2", "second\n")] {
            let last = Tar::default().dir("etc/").file("etc/version", last).end();
            images.push("app", tag, &["/bin/sh"], &[base.clone(), middle.clone(), last]);
        }
        images.push("pause", "1", &["/bin/sleep", "3600"], &[base]);
        Some(images)
    }

    /// Serves an image of these layers, which does this unless told otherwise.
    pub(super) fn push(&self, name: &str, tag: &str, command: &[&str], layers: &[Vec<u8>]) {
        let layout = self.layouts.path().join(format!("{name}-{tag}"));
        let config = json!({ "Cmd": command, "Env": ["PATH=/bin"] });
        write_layout(&layout, layers, &config);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci:{}", layout.display()));
        let pushed = ran(skopeo.arg(format!("docker://{}", self.reference(name, tag))).output().unwrap());
        assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    }

    /// Returns what an image is called here.
    pub(super) fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/team/{name}:{tag}", self.registry.host)
    }
}

/// One file system with everything on it.
pub(super) struct Stage<'a> {
    pub(super) images: &'a Images,
    pub(super) environment: &'a Environment,
    pub(super) containerd: Containerd,
    /// The name of containerd's namespace, and of a cgroup that is swept in the end.
    pub(super) namespace: String,
    /// Ours; none where containerd's own are asked for.
    pub(super) ours: Option<Snapshotter>,
}

/// Plays on btrfs, XFS and ext4 in turn, with rootling as the snapshotter.
pub(super) fn on_stages(test: impl Fn(&mut Stage<'_>) + Sync) {
    let Some(images) = Images::serve() else { return };
    on_file_systems(|environment, _| Stage::play(&images, environment, OURS, &test));
}

/// As [`on_stages`], on one file system and with any snapshotter.
pub(super) fn on_stage(wanted: FileSystem, snapshotter: &str, test: impl Fn(&mut Stage<'_>) + Sync) {
    let Some(images) = Images::serve() else { return };
    on_file_systems(|environment, sort| {
        if sort == wanted {
            Stage::play(&images, environment, snapshotter, &test);
        }
    });
}

impl<'a> Stage<'a> {
    /// Called in a mount namespace of the test's own.
    fn play(
        images: &'a Images,
        environment: &'a Environment,
        snapshotter: &str,
        test: impl Fn(&mut Stage<'_>),
    ) {
        // containerd, its shims and runc keep sockets there, at paths that are no setting.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
        let namespace = format!("rootling-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let _swept = Swept { namespace: namespace.clone() };
        let ours = (snapshotter == OURS).then(|| Snapshotter::start(environment, &[]));
        let containerd = Containerd::start(&environment.path("containerd"), snapshotter, &namespace);
        test(&mut Stage { images, environment, containerd, namespace, ours });
    }

    pub(super) fn image(&self, tag: &str) -> String {
        self.images.reference("app", tag)
    }

    pub(super) fn pull(&self, tag: &str) {
        let image = self.image(tag);
        self.containerd.ok(&[
            "images",
            "pull",
            "--plain-http",
            "--snapshotter",
            &self.containerd.snapshotter,
            &image,
        ]);
    }

    /// Runs a script in a new container.
    pub(super) fn run(&self, tag: &str, flags: &[&str], id: &str, script: &str) -> Ran {
        let image = self.image(tag);
        let snapshotter = ["--snapshotter", self.containerd.snapshotter.as_str()];
        self.containerd
            .ctr(&[&["run"], &snapshotter[..], flags, &[&image, id, "/bin/sh", "-c", script]].concat())
    }

    pub(super) fn run_ok(&self, tag: &str, flags: &[&str], id: &str, script: &str) -> String {
        let ran = self.run(tag, flags, id, script);
        assert_eq!(ran.code, 0, "{script}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// `ctr snapshots` with these words.
    pub(super) fn snapshots(&self, words: &[&str]) -> String {
        let before = ["snapshots", "--snapshotter", self.containerd.snapshotter.as_str()];
        self.containerd.ok(&[&before[..], words].concat())
    }

    /// Returns the lines of `ctr snapshots ls`, without the title, as words.
    pub(super) fn listed(&self) -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        self.snapshots(&["ls"]).lines().skip(1).map(words).collect()
    }
}

impl Stage<'_> {
    /// Nothing is left of what was held: no key, no tree, nothing on its way out; and the store is sound.
    pub(super) fn assert_nothing_is_held(&self) {
        let list = |directory: &str| {
            let entries = fs::read_dir(self.environment.store().join(directory));
            entries.map_or(0, Iterator::count)
        };
        for directory in ["held", "o", "tmp", "trash"] {
            eventually(&format!("{directory} is empty"), || list(directory) == 0);
        }
        self.environment.ok(["fsck"]);
    }
}

/// Ends, when dropped, every process in the mount namespace of this thread and all that they started, and removes their cgroups.
///
/// Containers and their shims outlive containerd, as they should.
struct Swept {
    namespace: String,
}

impl Drop for Swept {
    fn drop(&mut self) {
        let here = fs::read_link("/proc/thread-self/ns/mnt").unwrap_or_default();
        let mut wanted: Vec<i32> = Vec::new();
        // A test program's own namespace is that of its first thread, which is another.
        let all = processes();
        wanted.extend(all.iter().map(|(id, _)| *id).filter(|id| {
            fs::read_link(format!("/proc/{id}/ns/mnt")).is_ok_and(|namespace| namespace == here)
        }));
        loop {
            let more: Vec<i32> = all
                .iter()
                .filter(|(id, parent)| wanted.contains(parent) && !wanted.contains(id))
                .map(|(id, _)| *id)
                .collect();
            if more.is_empty() {
                break;
            }
            wanted.extend(more);
        }
        for id in wanted {
            // Best effort: it may have ended meanwhile.
            kill(Pid::from_raw(id), Signal::SIGKILL).unwrap_or_default();
        }
        remove_cgroups(&self.namespace);
    }
}

/// All processes and their parents.
fn processes() -> Vec<(i32, i32)> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |id: &i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    numbers.filter_map(|id| Some((id, parent(&id)?))).collect()
}

/// Removes the cgroups of a namespace of containerd in every hierarchy, once the processes in them are gone.
fn remove_cgroups(namespace: &str) {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = hierarchies.map(|entry| entry.path().join(namespace)).collect();
    places.push(Path::new("/sys/fs/cgroup").join(namespace));
    for place in places.iter().filter(|place| place.is_dir()) {
        for _ in 0..100 {
            let below = fs::read_dir(place).into_iter().flatten().flatten();
            for entry in below.filter(|entry| entry.path().is_dir()) {
                drop(fs::remove_dir(entry.path()));
            }
            if fs::remove_dir(place).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
