//! podman and a Docker engine: `commit` keeps a state, `diff` tells it from the image, `create` forks it. Neither goes back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rootling_backends::{Context, Result};

use super::keeper::{self, Keeper, Named, Stage};
use crate::command::{command, output, timed};
use crate::contender::Contender;
use crate::docker::Docker as Engine;
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

/// A Docker engine with one box.
#[derive(Debug)]
pub(super) struct Docker {
    name: String,
    engine: Engine,
    scratch: PathBuf,
}

impl Docker {
    pub(super) fn boxed(stage: &Stage<'_>, driver: &str) -> Result<Box<dyn Keeper>> {
        let directory = stage.subdirectory(&format!("docker-{driver}"))?;
        let scratch = directory.join("edits");
        std::fs::create_dir(&scratch).context(|| format!("mkdir({scratch:?})"))?;
        let engine = Engine::start(driver, &directory)?;
        let docker = Self { name: format!("docker {driver}"), engine, scratch };
        timed(docker.command(&["import"]).arg(&stage.archive.path).arg(IMAGE))?;
        timed(&mut docker.command(&["create", "--name", BOX, "--net=none", IMAGE, "/bin/true"]))?;
        Ok(Box::new(docker))
    }

    fn command(&self, words: &[&str]) -> Command {
        self.engine.command(words)
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
