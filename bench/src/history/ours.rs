//! rootling, as the program that people run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rootling_backends::{Context, Kind, Result};

use super::keeper::{self, Keeper, Named, Stage};
use crate::command::{command, output, timed};

/// The name of the one whose snapshots walk.
pub(super) const REFLINK: &str = "rootling reflink";

const BOX: &str = "work";
const FORK: &str = "work-fork";

/// A store with one box of one backend.
#[derive(Debug)]
pub(super) struct Ours {
    name: String,
    kind: Kind,
    program: PathBuf,
    store: PathBuf,
    mounted_at: PathBuf,
    states: usize,
}

impl Ours {
    pub(super) fn boxed(stage: &Stage<'_>, kind: Kind) -> Result<Box<dyn Keeper>> {
        let built = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
        let directory = stage.subdirectory(&format!("rootling-{kind}"))?;
        let (store, mounted_at) = (directory.join("store"), directory.join("mounted"));
        std::fs::create_dir(&mounted_at).context(|| format!("mkdir({mounted_at:?})"))?;
        let ours = Self {
            name: format!("rootling {kind}"),
            kind,
            program: built.with_file_name("rootling"),
            store,
            mounted_at,
            states: 0,
        };
        timed(&mut ours.command(&["init", "--backend", kind.name()]))
            .map_err(|error| error.hint("build the program first: make release"))?;
        let mut import = ours.command(&["import"]);
        timed(import.arg(format!("dir:{}", stage.tree.display())).arg("base"))?;
        timed(&mut ours.command(&["create", "base", BOX]))?;
        Ok(Box::new(ours))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.program, ["--quiet"]);
        command.env("ROOTLING_ROOT", &self.store).env("ROOTLING_NET", "none").args(words);
        command
    }

    fn state(&self) -> String {
        format!("{BOX}@state-{}", self.states)
    }

    /// Shows the box at a directory meanwhile, as a person would who writes to it from outside.
    fn shown<T>(&self, act: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        timed(self.command(&["mount", BOX]).arg(&self.mounted_at))?;
        let acted = act(&self.mounted_at);
        timed(self.command(&["umount"]).arg(&self.mounted_at))?;
        acted
    }
}

impl Keeper for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn edit(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        self.shown(|root| keeper::append(root, files, line))
    }

    fn diff(&mut self) -> Result<Option<(Duration, Named)>> {
        let start = Instant::now();
        let text = output(&mut command_without_quiet(self.command(&["diff", BOX])))?;
        let time = start.elapsed();
        let changed = text.lines().filter_map(|line| line.strip_prefix("C /"));
        // What else changed of it than the content is told behind it.
        let paths = changed.filter_map(|line| line.split("  (").next());
        Ok(Some((time, paths.map(PathBuf::from).collect())))
    }

    fn snapshot(&mut self) -> Result<Option<Duration>> {
        self.states += 1;
        let label = format!("state-{}", self.states);
        timed(&mut self.command(&["snapshot", BOX, &label])).map(Some)
    }

    fn fork(&mut self) -> Result<Option<Duration>> {
        timed(&mut self.command(&["fork", &self.state(), FORK])).map(Some)
    }

    fn drop_fork(&mut self) -> Result<()> {
        timed(&mut self.command(&["rm", "--now", FORK])).map(drop)
    }

    fn restore(&mut self) -> Result<Option<Duration>> {
        timed(&mut self.command(&["restore", &self.state()])).map(Some)
    }

    fn check(&mut self, files: &[PathBuf], line: &str) -> Result<()> {
        self.shown(|root| keeper::check_ends(root, files, line))
    }

    fn forget(&mut self) -> Result<()> {
        if self.kind == Kind::Btrfs { crate::peers::wait_for_cleaner(&self.store) } else { Ok(()) }
    }
}

/// The change search prints what it found: `--quiet` would leave out the letters.
fn command_without_quiet(quiet: Command) -> Command {
    let mut loud = command(quiet.get_program(), quiet.get_args().filter(|word| *word != "--quiet"));
    for (name, value) in quiet.get_envs() {
        if let Some(value) = value {
            loud.env(name, value);
        }
    }
    loud
}
