//! podman and a Docker engine: `commit` keeps a state, `diff` tells it from the image, `create` forks it. Neither goes back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::keeper::{self, Keeper, Named, Stage};
use crate::command::{command, output, timed};
use crate::contender::Contender;
use crate::podman::Podman;

const IMAGE: &str = "localhost/bench-tree";
const STATE: &str = "localhost/bench-state";
const BOX: &str = "bench-work";
const FORK: &str = "bench-work-fork";

/// What `diff` of both prints: a letter and a path.
fn named(text: &str) -> Named {
    let path = |line: &str| line.strip_prefix("C /").or_else(|| line.strip_prefix("A /")).map(PathBuf::from);
    text.lines().filter_map(path).collect()
}

/// One storage driver of podman's.
#[derive(Debug)]
pub(super) struct PodmanKeeper {
    podman: Podman,
}

impl PodmanKeeper {
    pub(super) fn boxed(stage: &Stage<'_>, driver: &'static str) -> Result<Box<dyn Keeper>> {
        let directory = stage.subdirectory(&format!("podman-{driver}"))?;
        let podman = Podman::new(driver, directory, stage.archive)?;
        timed(&mut podman.command(["create", "--name", BOX, "--net=host", IMAGE, "/bin/true"]))?;
        Ok(Box::new(Self { podman }))
    }
}

impl Keeper for PodmanKeeper {
    fn name(&self) -> &str {
        self.podman.name()
    }

    fn edit(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        let root = output(&mut self.podman.command(["mount", BOX]))?;
        keeper::append(Path::new(root.trim()), files, line)?;
        timed(&mut self.podman.command(["umount", BOX])).map(drop)
    }

    fn diff(&mut self) -> Result<Option<(Duration, Named)>> {
        let start = Instant::now();
        let text = output(&mut self.podman.command(["diff", BOX]))?;
        Ok(Some((start.elapsed(), named(&text))))
    }

    fn snapshot(&mut self) -> Result<Option<Duration>> {
        timed(&mut self.podman.command(["commit", "--quiet", BOX, STATE])).map(Some)
    }

    fn fork(&mut self) -> Result<Option<Duration>> {
        timed(&mut self.podman.command(["create", "--name", FORK, "--net=host", STATE, "/bin/true"]))
            .map(Some)
    }

    fn drop_fork(&mut self) -> Result<()> {
        timed(&mut self.podman.command(["rm", "--force", FORK])).map(drop)
    }

    fn forget(&mut self) -> Result<()> {
        timed(&mut self.podman.command(["rmi", STATE])).map(drop)
    }
}

/// A Docker engine of our own, without network, on the file system that is measured.
#[derive(Debug)]
pub(super) struct Docker {
    name: String,
    engine: Child,
    run: PathBuf,
    scratch: PathBuf,
}

impl Docker {
    pub(super) fn boxed(stage: &Stage<'_>, driver: &str) -> Result<Box<dyn Keeper>> {
        let directory = stage.subdirectory(&format!("docker-{driver}"))?;
        // A path of a socket has 108 bytes.
        let run = PathBuf::from(format!("/run/rootling-bench-docker.{}.{driver}", std::process::id()));
        std::fs::create_dir(&run).context(|| format!("mkdir({run:?})"))?;
        let scratch = directory.join("edits");
        std::fs::create_dir(&scratch).context(|| format!("mkdir({scratch:?})"))?;
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
        let docker = Self { name: format!("docker {driver}"), engine, run, scratch };
        docker.wait_until_it_answers()?;
        timed(docker.command(&["import"]).arg(&stage.archive.path).arg(IMAGE))?;
        timed(&mut docker.command(&["create", "--name", BOX, "--net=none", IMAGE, "/bin/true"]))?;
        Ok(Box::new(docker))
    }

    fn command(&self, words: &[&str]) -> Command {
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

impl Keeper for Docker {
    fn name(&self) -> &str {
        &self.name
    }

    /// Its trees are its own: files go in by `docker cp`.
    fn edit(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        let (list, archive) = (self.scratch.join("list"), self.scratch.join("edits.tar"));
        let mut names =
            files.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>().join("\n");
        names.push('\n');
        std::fs::write(&list, names).context(|| format!("write {list:?}"))?;
        let text = "set -e; cd \"$0\"; rm -rf tree; mkdir tree; xargs -d '\\n' -a list -I{} install -D /dev/null 'tree/{}'; \
                    xargs -d '\\n' -a list -I{} sh -c 'printf %s \"$0\" > \"tree/$1\"' \"$1\" {}; tar -C tree -cf edits.tar .";
        timed(command("bash", ["-c", text]).arg(&self.scratch).arg(line))?;
        let input = std::fs::File::open(&archive).context(|| format!("open {archive:?}"))?;
        timed(self.command(&["cp", "-", &format!("{BOX}:/")]).stdin(input)).map(drop)
    }

    fn diff(&mut self) -> Result<Option<(Duration, Named)>> {
        let start = Instant::now();
        let text = output(&mut self.command(&["diff", BOX]))?;
        Ok(Some((start.elapsed(), named(&text))))
    }

    fn snapshot(&mut self) -> Result<Option<Duration>> {
        timed(&mut self.command(&["commit", BOX, STATE])).map(Some)
    }

    fn fork(&mut self) -> Result<Option<Duration>> {
        timed(&mut self.command(&["create", "--name", FORK, "--net=none", STATE, "/bin/true"])).map(Some)
    }

    fn drop_fork(&mut self) -> Result<()> {
        timed(&mut self.command(&["rm", "--force", FORK])).map(drop)
    }

    fn forget(&mut self) -> Result<()> {
        timed(&mut self.command(&["rmi", STATE])).map(drop)
    }
}
