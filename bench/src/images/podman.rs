//! podman: `pull`, and `commit` with `push` after it.

use std::path::Path;

use rootling_backends::Result;

use super::cost::{self, Cost};
use super::engine::{Engine, Visit};
use crate::command::{output, timed};
use crate::podman::Podman;

const BOX: &str = "bench-work";
const STATE: &str = "localhost/bench-state";

/// One storage driver of podman's.
#[derive(Debug)]
pub(super) struct PodmanEngine(Podman);

impl PodmanEngine {
    pub(super) fn open(driver: &'static str, directory: &Path) -> Self {
        Self(Podman::empty(driver, directory.to_owned()))
    }
}

impl Engine for PodmanEngine {
    fn pull(&mut self, reference: &str, _tag: &str) -> Result<Cost> {
        cost::measure(self.0.command(["pull", "--quiet", "--tls-verify=false"]).arg(reference))
    }

    fn look(&mut self, reference: &str, _tag: &str, check: Visit<'_>) -> Result<()> {
        let root = output(self.0.command(["image", "mount"]).arg(reference))?;
        let checked = check(Path::new(root.trim()));
        timed(self.0.command(["image", "unmount"]).arg(reference))?;
        checked
    }

    fn change(&mut self, reference: &str, _tag: &str, write: Visit<'_>) -> Result<bool> {
        timed(self.0.command(["create", "--name", BOX, "--net=host"]).arg(reference).arg("/bin/true"))?;
        let root = output(&mut self.0.command(["mount", BOX]))?;
        let written = write(Path::new(root.trim()));
        timed(&mut self.0.command(["umount", BOX]))?;
        written.map(|()| true)
    }

    fn push(&mut self, reference: &str) -> Result<Cost> {
        let commit = cost::measure(&mut self.0.command(["commit", "--quiet", BOX, STATE]))?;
        let mut push = self.0.command(["push", "--quiet", "--tls-verify=false", STATE]);
        Ok(commit.then(cost::measure(push.arg(format!("docker://{reference}")))?))
    }
}
