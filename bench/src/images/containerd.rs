//! A containerd of our own, without the parts for Kubernetes, and its `ctr images pull`. It cannot make an image of a box.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::cost::{self, Cost};
use super::engine::{Engine, Visit};
use crate::command::{command, timed};

const SNAPSHOTTER: &str = "--snapshotter=overlayfs";

/// The daemon, which ends with its value.
#[derive(Debug)]
pub(super) struct Containerd {
    daemon: Child,
    /// Apart from the rest: a path of a socket has 108 bytes.
    run: PathBuf,
    directory: PathBuf,
}

/// How many daemons this process started so far.
static STARTED: AtomicUsize = AtomicUsize::new(0);

impl Containerd {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let run = PathBuf::from(format!("/run/rootling-bench-containerd.{}.{number}", std::process::id()));
        std::fs::create_dir(&run).context(|| format!("mkdir({run:?})"))?;
        let configuration = run.join("config.toml");
        std::fs::write(&configuration, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
            .context(|| format!("write {configuration:?}"))?;
        let mut containerd = command("containerd", ["--log-level=error", "--config"]);
        containerd.arg(configuration).arg("--root").arg(directory.join("root"));
        containerd.arg("--state").arg(run.join("state")).arg("--address").arg(run.join("socket"));
        let daemon = containerd.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let daemon = match daemon {
            Ok(daemon) => daemon,
            Err(error) => {
                drop(std::fs::remove_dir_all(&run));
                return Err(Error::io("execve(\"containerd\")", error));
            }
        };
        let containerd = Self { daemon, run, directory: directory.to_owned() };
        containerd.wait_until_it_answers()?;
        Ok(containerd)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command("ctr", ["--address"]);
        command.arg(self.run.join("socket")).args(words);
        command
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        for _ in 0..150 {
            if timed(&mut self.command(&["version"])).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(Error::new(ErrorKind::Unsupported, "containerd does not start here"))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Best effort: what it mounted goes with the namespace.
        drop(timed(&mut command("kill", [self.daemon.id().to_string()])));
        drop(self.daemon.wait());
        drop(std::fs::remove_dir_all(&self.run));
    }
}

impl Engine for Containerd {
    fn pull(&mut self, reference: &str, _tag: &str) -> Result<Cost> {
        let mut pull = self.command(&["images", "pull", "--plain-http", SNAPSHOTTER, reference]);
        cost::measure_with_daemon(&mut pull, self.daemon.id())
    }

    fn look(&mut self, reference: &str, tag: &str, check: Visit<'_>) -> Result<()> {
        let mounted_at = self.directory.join(format!("shown-{tag}"));
        std::fs::create_dir(&mounted_at).context(|| format!("mkdir({mounted_at:?})"))?;
        timed(self.command(&["images", "mount", SNAPSHOTTER, reference]).arg(&mounted_at))?;
        let checked = check(&mounted_at);
        timed(&mut command("umount", [&mounted_at]))?;
        checked
    }

    fn change(&mut self, _reference: &str, _tag: &str, _write: Visit<'_>) -> Result<bool> {
        Ok(false)
    }

    fn push(&mut self, _reference: &str) -> Result<Cost> {
        Err(Error::new(ErrorKind::Unsupported, "ctr makes no image of a box"))
    }
}
