//! BuildKit, in a Docker engine of our own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rootling_backends::{Context, Result};

use super::builder::Builder;
use super::recipes::BASE;
use crate::command::{command, timed};
use crate::docker::Docker;
use crate::trees::Archive;

const BOX: &str = "bench-look";

/// One storage driver of the engine's.
#[derive(Debug)]
pub(super) struct BuildKit {
    docker: Docker,
    shown_at: PathBuf,
}

impl BuildKit {
    pub(super) fn open(driver: &str, directory: &Path, archive: &Archive) -> Result<Self> {
        let docker = Docker::start(driver, directory)?;
        timed(docker.command(&["import"]).arg(&archive.path).arg(BASE))?;
        Ok(Self { docker, shown_at: directory.join("shown") })
    }

    /// Unpacks the tree of an image: the engine shows it to nobody.
    fn unpack(&self, image: &str) -> Result<()> {
        std::fs::create_dir(&self.shown_at).context(|| format!("mkdir({:?})", self.shown_at))?;
        timed(&mut self.docker.command(&["create", "--name", BOX, "--net=none", image, "/bin/true"]))?;
        let archive = self.shown_at.with_extension("tar");
        let file = std::fs::File::create(&archive).context(|| format!("open({archive:?}, O_CREAT)"))?;
        let mut export = self.docker.command(&["export", BOX]);
        crate::command::written_to(&mut export, file)?;
        let flags = ["--numeric-owner", "-xpf"];
        timed(command("tar", flags).arg(&archive).arg("-C").arg(&self.shown_at))?;
        std::fs::remove_file(&archive).context(|| format!("unlink({archive:?})"))?;
        timed(&mut self.docker.command(&["rm", BOX])).map(drop)
    }
}

impl Builder for BuildKit {
    fn build(&mut self, context: &Path, image: &str) -> Result<Duration> {
        let mut command = self.docker.command(&["build", "--network=host", "--quiet", "--tag", image]);
        timed(command.arg(context).env("DOCKER_BUILDKIT", "1"))
    }

    fn look(&mut self, image: &str, check: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
        self.unpack(image)?;
        let checked = check(&self.shown_at);
        std::fs::remove_dir_all(&self.shown_at).context(|| format!("rmdir({:?})", self.shown_at))?;
        checked
    }
}
