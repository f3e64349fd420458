//! A Docker engine of our own, without a bridge, on the file system that is measured.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::command::{command, timed};

/// It ends with its value.
#[derive(Debug)]
pub(crate) struct Docker {
    engine: Child,
    run: PathBuf,
}

/// How many engines this process started so far.
static ENGINES: AtomicUsize = AtomicUsize::new(0);

impl Docker {
    /// Starts one that keeps its data in `directory`.
    pub(crate) fn start(driver: &str, directory: &Path) -> Result<Self> {
        // A path of a socket has 108 bytes.
        let number = ENGINES.fetch_add(1, Ordering::Relaxed);
        let run = PathBuf::from(format!("/run/rootling-bench-docker.{}.{number}", std::process::id()));
        std::fs::create_dir(&run).context(|| format!("mkdir({run:?})"))?;
        let mut engine = command(
            "dockerd",
            ["--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level=error"],
        );
        engine.arg("--data-root").arg(directory.join("data")).arg("--exec-root").arg(run.join("exec"));
        engine
            .arg("--pidfile")
            .arg(run.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}/socket", run.display()));
        engine.arg("--storage-driver").arg(driver).stdout(Stdio::null()).stderr(Stdio::null());
        let engine = engine.spawn().context(|| "execve(\"dockerd\")")?;
        let docker = Self { engine, run };
        docker.wait_until_it_answers()?;
        Ok(docker)
    }

    /// Returns its client with these words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = command("docker", ["--host"]);
        command.arg(format!("unix://{}/socket", self.run.display())).args(words);
        command
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        for _ in 0..150 {
            if timed(&mut self.command(&["info"])).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(Error::new(ErrorKind::Unsupported, "the Docker engine does not start here"))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Best effort: what it mounted goes with the namespace.
        drop(timed(&mut command("kill", [self.engine.id().to_string()])));
        drop(self.engine.wait());
        drop(std::fs::remove_dir_all(&self.run));
    }
}
