//! A containerd of our own for each turn, with rootling's snapshotter beside it or one of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Kind, Result};

use crate::command::{command, spawn, timed};
use crate::fixture::FileSystem;
use crate::turns::Party;

/// Who keeps the trees.
#[derive(Debug, Clone, Copy)]
pub(super) enum Contender {
    Ours(Kind),
    Theirs(&'static str),
}

impl Contender {
    /// Returns who takes part on a file system.
    pub(super) fn of(kind: FileSystem) -> Vec<Self> {
        let own: &[Self] = match kind {
            FileSystem::Ext4 => &[Self::Ours(Kind::Overlay)],
            FileSystem::Xfs => &[Self::Ours(Kind::Overlay), Self::Ours(Kind::Reflink)],
            FileSystem::Btrfs => &[Self::Ours(Kind::Btrfs), Self::Ours(Kind::Overlay), Self::Theirs("btrfs")],
        };
        [own, &[Self::Theirs("overlayfs"), Self::Theirs("native")]].concat()
    }
}

impl Party for Contender {
    fn name(&self) -> String {
        match self {
            Self::Ours(kind) => format!("rootling {kind}"),
            Self::Theirs(name) => format!("containerd {name}"),
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}

/// How many of these this process started so far.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// containerd, and rootling where it keeps the trees; both end with the value.
#[derive(Debug)]
pub(super) struct Daemons {
    /// What containerd calls who keeps the trees.
    pub(super) snapshotter: &'static str,
    /// containerd's own namespace, and the cgroup of its containers.
    pub(super) namespace: String,
    /// Apart from the rest: a path of a socket has 108 bytes.
    run: PathBuf,
    /// In the order in which they end.
    started: Vec<Child>,
    /// The directory of who keeps the trees.
    trees: PathBuf,
}

impl Daemons {
    /// Starts them with all that they keep in `directory`.
    pub(super) fn start(contender: Contender, directory: &Path) -> Result<Self> {
        let name =
            format!("rootling-bench-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let run = Path::new("/run").join(&name);
        std::fs::create_dir(&run).context(|| format!("mkdir({run:?})"))?;
        let (snapshotter, trees) = match contender {
            Contender::Ours(_) => ("rootling", directory.join("store")),
            // Where it names them, each by a number.
            Contender::Theirs(name) => {
                (name, directory.join(format!("containerd/io.containerd.snapshotter.v1.{name}")))
            }
        };
        let mut daemons = Self { snapshotter, namespace: name, run, started: Vec::new(), trees };
        if let Contender::Ours(kind) = contender {
            daemons.start_ours(kind, &directory.join("store"))?;
        }
        daemons.start_containerd(&directory.join("containerd"))?;
        Ok(daemons)
    }

    fn start_ours(&mut self, kind: Kind, store: &Path) -> Result<()> {
        let program = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
        let program = program.with_file_name("rootling");
        let mut init = command(&program, ["--quiet", "init", "--backend", &kind.to_string()]);
        timed(init.arg(store)).map_err(|error| error.hint("build the program first: make release"))?;
        let mut serve = command(&program, ["--quiet", "--root"]);
        serve.arg(store).args(["snapshotter", "--address"]).arg(self.run.join("ours"));
        let (_, child) = spawn(serve.stdout(Stdio::null()).stderr(Stdio::null()))?;
        self.started.push(child);
        wait_for("rootling's snapshotter", || self.run.join("ours").exists())
    }

    fn start_containerd(&mut self, root: &Path) -> Result<()> {
        let configuration = self.run.join("config.toml");
        let text = format!(
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[proxy_plugins.rootling]\ntype = \"snapshot\"\naddress = {:?}\n",
            self.run.join("ours")
        );
        std::fs::write(&configuration, text).context(|| format!("write {configuration:?}"))?;
        let mut containerd = command("containerd", ["--log-level=error", "--config"]);
        containerd.arg(configuration).arg("--root").arg(root);
        containerd.arg("--state").arg(self.run.join("state")).arg("--address").arg(self.socket());
        let (_, child) = spawn(containerd.stdout(Stdio::null()).stderr(Stdio::null()))?;
        self.started.insert(0, child);
        wait_for("containerd", || timed(&mut self.ctr(&["version"])).is_ok())
    }

    /// Returns containerd's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.run.join("socket")
    }

    /// Returns a command of `ctr`.
    pub(super) fn ctr(&self, words: &[&str]) -> Command {
        let mut command = command("ctr", ["--address"]);
        command.arg(self.socket()).args(["--namespace", &self.namespace]).args(words);
        command
    }

    /// Has containerd collect its garbage, and waits for that.
    pub(super) fn collect(&self) -> Result<()> {
        timed(&mut self.ctr(&["content", "prune", "references"])).map(drop)
    }

    /// Waits until no tree is there any more.
    pub(super) fn wait_until_gone(&self) -> Result<()> {
        for _ in 0..6000 {
            if self.count_trees()? == 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let message = format!("{} trees are left below {:?}", self.count_trees()?, self.trees);
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    /// Returns how many names of trees there are, those on their way out included.
    fn count_trees(&self) -> Result<usize> {
        let places: &[&str] = match self.snapshotter {
            "rootling" => &["o", "trash"],
            // It has a directory for each kind.
            "btrfs" => &["active", "view", "snapshots"],
            _ => &["snapshots"],
        };
        let count = |place: &&str| -> Result<usize> {
            let place = self.trees.join(place);
            Ok(std::fs::read_dir(&place).context(|| format!("opendir({place:?})"))?.count())
        };
        places.iter().map(count).sum()
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        // Best effort: what they mounted goes with the namespace.
        for child in &mut self.started {
            drop(timed(&mut command("kill", [child.id().to_string()])));
            drop(child.wait());
        }
        drop(std::fs::remove_dir_all(&self.run));
        // Containers ran in a cgroup of this name in each hierarchy; they removed their own below it.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            drop(std::fs::remove_dir(hierarchy.path().join(&self.namespace)));
        }
    }
}

fn wait_for(what: &str, answers: impl Fn() -> bool) -> Result<()> {
    for _ in 0..150 {
        if answers() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{what} does not start here")))
}
