//! `buildah bud` and `podman build`, with layers, and without a runtime: steps run in a chroot in both.

use std::path::Path;
use std::time::Duration;

use rootling_backends::Result;

use super::builder::Builder;
use crate::command::{output, timed};
use crate::podman::Podman;
use crate::trees::Archive;

/// Which of the two.
#[derive(Debug, Clone, Copy)]
pub(super) enum Program {
    Buildah,
    Podman,
}

impl Program {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman build",
        }
    }
}

/// One storage driver of containers/storage.
#[derive(Debug)]
pub(super) struct Buildah {
    program: Program,
    storage: Podman,
}

impl Buildah {
    pub(super) fn open(
        program: Program,
        driver: &'static str,
        directory: &Path,
        archive: &Archive,
    ) -> Result<Self> {
        Ok(Self { program, storage: Podman::new(driver, directory.to_owned(), archive)? })
    }
}

impl Builder for Buildah {
    fn build(&mut self, context: &Path, image: &str) -> Result<Duration> {
        let mut command = match self.program {
            Program::Buildah => self.storage.buildah_command(["bud"]),
            Program::Podman => self.storage.command(["build"]),
        };
        command.args(["--layers", "--isolation=chroot", "--pull-never", "--quiet", "--tag"]);
        timed(command.arg(format!("localhost/{image}")).arg(context))
    }

    fn look(&mut self, image: &str, check: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
        let image = format!("localhost/{image}");
        let root = output(self.storage.command(["image", "mount"]).arg(&image))?;
        let checked = check(Path::new(root.trim()));
        timed(self.storage.command(["image", "unmount"]).arg(&image))?;
        checked
    }
}
