//! rootling, as the program that people run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rootling_backends::{Context, Kind, Result};

use super::builder::Builder;
use super::recipes::BASE;
use crate::command::{command, timed};
use crate::trees::Archive;

/// A store of one backend.
#[derive(Debug)]
pub(super) struct Ours {
    kind: Kind,
    program: PathBuf,
    store: PathBuf,
    mounted_at: PathBuf,
}

impl Ours {
    pub(super) fn open(kind: Kind, directory: &Path, archive: &Archive) -> Result<Self> {
        let built = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
        let (store, mounted_at) = (directory.join("store"), directory.join("mounted"));
        std::fs::create_dir(&mounted_at).context(|| format!("mkdir({mounted_at:?})"))?;
        let ours = Self { kind, program: built.with_file_name("rootling"), store, mounted_at };
        timed(&mut ours.command(&["init", "--backend", kind.name()]))
            .map_err(|error| error.hint("build the program first: make release"))?;
        let mut import = ours.command(&["import"]);
        timed(import.arg(format!("tar:{}", archive.path.display())).arg(BASE))?;
        Ok(ours)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.program, ["--quiet"]);
        command.env("ROOTLING_ROOT", &self.store).env("ROOTLING_NET", "host").args(words);
        command
    }
}

impl Builder for Ours {
    fn build(&mut self, context: &Path, image: &str) -> Result<Duration> {
        let words = ["build", "--backend", self.kind.name(), "--tag", image];
        timed(self.command(&words).arg(context))
    }

    fn look(&mut self, image: &str, check: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
        timed(self.command(&["mount", image]).arg(&self.mounted_at))?;
        let checked = check(&self.mounted_at);
        timed(self.command(&["umount"]).arg(&self.mounted_at))?;
        checked
    }
}
