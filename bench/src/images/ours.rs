//! rootling, as the program that people run.

use std::path::{Path, PathBuf};
use std::process::Command;

use rootling_backends::{Context, Kind, Result};

use super::cost::{self, Cost};
use super::engine::{Engine, Visit};
use crate::command::{command, timed};

const BOX: &str = "work";

/// A store of one backend.
#[derive(Debug)]
pub(super) struct Ours {
    program: PathBuf,
    store: PathBuf,
    mounted_at: PathBuf,
}

impl Ours {
    pub(super) fn open(kind: Kind, directory: &Path) -> Result<Self> {
        let built = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
        let (store, mounted_at) = (directory.join("store"), directory.join("mounted"));
        std::fs::create_dir(&mounted_at).context(|| format!("mkdir({mounted_at:?})"))?;
        let ours = Self { program: built.with_file_name("rootling"), store, mounted_at };
        timed(&mut ours.command(&["init", "--backend", kind.name()]))
            .map_err(|error| error.hint("build the program first: make release"))?;
        Ok(ours)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.program, ["--quiet"]);
        command.env("ROOTLING_ROOT", &self.store).env("ROOTLING_NET", "none").args(words);
        command
    }

    fn shown(&self, name: &str, visit: Visit<'_>) -> Result<()> {
        timed(self.command(&["mount", name]).arg(&self.mounted_at))?;
        let visited = visit(&self.mounted_at);
        timed(self.command(&["umount"]).arg(&self.mounted_at))?;
        visited
    }
}

impl Engine for Ours {
    fn pull(&mut self, reference: &str, tag: &str) -> Result<Cost> {
        cost::measure(&mut self.command(&["pull", reference, tag]))
    }

    fn look(&mut self, _reference: &str, tag: &str, check: Visit<'_>) -> Result<()> {
        self.shown(tag, check)
    }

    fn change(&mut self, _reference: &str, tag: &str, write: Visit<'_>) -> Result<bool> {
        timed(&mut self.command(&["create", tag, BOX]))?;
        self.shown(BOX, write)?;
        Ok(true)
    }

    fn push(&mut self, reference: &str) -> Result<Cost> {
        cost::measure(&mut self.command(&["push", BOX, reference]))
    }
}
