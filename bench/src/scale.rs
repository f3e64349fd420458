//! A store that holds much: a thousand states on each other, ten thousand boxes beside each other, a thousand forks come and gone.
//!
//! The program is run as a person runs it, on a tree of one static program. What is deep lies in one store with what is not; what
//! is wide has a store of its own, beside one that is not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::cases::{SCALE_ENTER, SCALE_FORK, SCALE_LEAK, SCALE_LOG, SCALE_LS, SCALE_RM};
use crate::command::{command, timed, timed_at_once};
use crate::fixture::{FileSystem, Loop};
use crate::load;
use crate::options::Options;
use crate::peers;
use crate::report;
use crate::samples::{Key, Samples};

const TREE: &str = "busybox";

/// States on each other; a box is kept at each of these depths. And boxes beside each other.
struct Size {
    depths: &'static [usize],
    widths: [usize; 2],
    /// Forks that come and go.
    churn: usize,
}

const FULL: Size = Size { depths: &[1, 100, 400, 1000], widths: [10, 10_000], churn: 1000 };
const QUICK: Size = Size { depths: &[1, 20, 100], widths: [10, 1000], churn: 100 };

/// Forks and removals before the free space is looked at for the first time.
const WARM: usize = 50;

/// Measures all backends of one file system.
pub(crate) fn all(fixture: &Loop, options: &Options, samples: &mut Samples) -> Result<()> {
    let backends: &[&str] = match fixture.kind() {
        FileSystem::Ext4 => &["overlay"],
        FileSystem::Xfs => &["overlay", "reflink"],
        FileSystem::Btrfs => &["btrfs"],
    };
    let place = fixture.directory("scale")?;
    let root = make_root(&place)?;
    let size = if options.quick { QUICK } else { FULL };
    for backend in backends {
        let here = Here { backend, file_system: fixture.kind(), root: &root, place: &place };
        here.deep(size.depths, options, samples)?;
        here.wide(size.widths, options, samples)?;
        here.churn(size.churn, samples)?;
    }
    Ok(())
}

/// A root file system of one static program.
fn make_root(place: &Path) -> Result<PathBuf> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "busybox is not installed").hint("it must be the static one")
    })?;
    let root = place.join("root");
    std::fs::create_dir_all(root.join("bin")).context(|| format!("mkdir({root:?})"))?;
    for name in ["busybox", "true", "sh"] {
        let path = root.join("bin").join(name);
        std::fs::copy(busybox, &path).context(|| format!("copy({busybox:?}, {path:?})"))?;
    }
    Ok(root)
}

struct Here<'a> {
    backend: &'static str,
    file_system: FileSystem,
    root: &'a Path,
    place: &'a Path,
}

impl Here<'_> {
    fn key(&self, case: &'static str, what: &str) -> Key {
        let contender = format!("{} {what}", self.backend);
        Key { case, file_system: self.file_system.name(), tree: TREE, contender }
    }

    /// Makes a store with `base`.
    fn store(&self, name: &str) -> Result<Store> {
        report::progress(&format!("{} {}: {name}", self.file_system, self.backend));
        let program = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
        let path = self.place.join(format!("{}-{name}", self.backend));
        let store = Store { program: program.with_file_name("rootling"), path };
        timed(store.command(&["init", "--backend", self.backend]).arg(&store.path))
            .map_err(|error| error.hint("build the program first: make release"))?;
        timed(&mut store.command(&["import", &format!("dir:{}", self.root.display()), "base"]))?;
        Ok(store)
    }

    fn deep(&self, depths: &[usize], options: &Options, samples: &mut Samples) -> Result<()> {
        let store = self.store("deep")?;
        store.does(&["create", "base", "deep"])?;
        let (mut boxes, mut depth) = (Vec::new(), 0);
        for wanted in depths {
            let what = format!("{wanted} deep");
            if let Err(error) = store
                .grow("deep", depth, *wanted)
                .and_then(|()| store.does(&["fork", "deep", &format!("at{wanted}")]))
            {
                // Deeper than it can go: said once, for what would have been measured.
                for case in [SCALE_ENTER, SCALE_FORK] {
                    samples.fail(self.key(case.id, &what), &error);
                }
                break;
            }
            depth = *wanted;
            boxes.push((what, format!("at{wanted}"), &store));
        }
        self.rounds(&boxes, options, samples)?;
        let everything = format!("{depth} deep, everything");
        self.lists(&store, &everything, &["log"], options, samples)
    }

    fn wide(&self, widths: [usize; 2], options: &Options, samples: &mut Samples) -> Result<()> {
        let mut stores = Vec::new();
        for width in widths {
            let store = self.store(&format!("{width}-wide"))?;
            store.fill(width)?;
            stores.push((width, store));
        }
        let boxes: Vec<_> =
            stores.iter().map(|(width, store)| (format!("{width} wide"), "box0".to_owned(), store)).collect();
        self.rounds(&boxes, options, samples)?;
        for (width, store) in &stores {
            let everything = format!("{width} wide, everything");
            self.lists(store, &everything, &["log"], options, samples)?;
            self.lists(store, &everything, &["ls"], options, samples)?;
        }
        Ok(())
    }

    /// Times every command in every box, in turn.
    fn rounds(
        &self,
        boxes: &[(String, String, &Store)],
        options: &Options,
        samples: &mut Samples,
    ) -> Result<()> {
        for round in 0..=options.command_rounds() {
            if round % 10 == 1 {
                samples.processors.push(load::processors());
            }
            for (what, name, store) in boxes {
                let exec = ["exec", "--net", "none", name, "--", "/bin/true"];
                let cases: [(&str, &[&str]); 5] = [
                    (SCALE_ENTER.id, &exec),
                    (SCALE_FORK.id, &["fork", name, "fork"]),
                    (SCALE_RM.id, &["rm", "--now", "fork"]),
                    (SCALE_LOG.id, &["log", "-n", "20", name]),
                    (SCALE_LS.id, &["ls", name]),
                ];
                for (case, words) in cases {
                    let time = timed(&mut store.command(words)).context(|| format!("{what}: {words:?}"))?;
                    self.add(samples, case, what, round, time);
                }
            }
        }
        Ok(())
    }

    /// Times what lists all of a store.
    fn lists(
        &self,
        store: &Store,
        what: &str,
        words: &[&str],
        options: &Options,
        samples: &mut Samples,
    ) -> Result<()> {
        let case = if words == ["ls"] { SCALE_LS.id } else { SCALE_LOG.id };
        for round in 0..=options.command_rounds().min(10) {
            self.add(samples, case, what, round, timed(&mut store.command(words))?);
        }
        Ok(())
    }

    /// Notes a time, but for that of the first round.
    fn add(&self, samples: &mut Samples, case: &'static str, what: &str, round: usize, time: Duration) {
        if round > 0 {
            samples.add(self.key(case, what), round, time.as_secs_f64() * 1e3);
        }
    }

    /// Forks and removes, of a tree and of a box in turn, and looks at what is free.
    fn churn(&self, count: usize, samples: &mut Samples) -> Result<()> {
        let store = self.store("churn")?;
        store.does(&["create", "base", "dev"])?;
        for (round, base) in [(1, "base"), (2, "dev")] {
            store.fork_and_remove(base, WARM)?;
            let before = self.free()?;
            store.fork_and_remove(base, count)?;
            let lost = before - self.free()?;
            let key = self.key(
                SCALE_LEAK.id,
                &format!("{count} forks of a {}", if base == "dev" { "box" } else { "tree" }),
            );
            samples.add(key, round, lost / 1024.0);
        }
        Ok(())
    }

    /// Free bytes once nothing is on its way out.
    fn free(&self) -> Result<f64> {
        if self.file_system == FileSystem::Btrfs {
            peers::wait_for_cleaner(&self.place.join("any"))?;
        }
        timed(command("sync", ["--file-system"]).arg(self.place))?;
        let stat = command("stat", ["--file-system", "--format=%f %S"]).arg(self.place).output();
        let stat = stat.context(|| "execve(\"stat\")")?;
        let text = String::from_utf8_lossy(&stat.stdout).into_owned();
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [blocks, size] => Ok(blocks * size),
            _ => Err(Error::new(ErrorKind::Corrupt, format!("stat said {text:?}"))),
        }
    }
}

struct Store {
    program: PathBuf,
    path: PathBuf,
}

impl Store {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.program, ["--quiet", "--root"]);
        command.arg(&self.path).args(words);
        command
    }

    fn does(&self, words: &[&str]) -> Result<()> {
        timed(&mut self.command(words)).map(drop).context(|| format!("{words:?}"))
    }

    /// Changes a file and makes a state of that, until there are so many.
    fn grow(&self, name: &str, from: usize, to: usize) -> Result<()> {
        for state in from..to {
            let change = format!("echo {state} > /state");
            self.does(&["exec", "--net", "none", name, "--", "/bin/sh", "-c", &change])?;
            self.does(&["commit", name, &format!("{name}-{state}")])?;
        }
        Ok(())
    }

    /// Makes so many boxes, a few at a time.
    fn fill(&self, count: usize) -> Result<()> {
        for first in (0..count).step_by(8) {
            let names: Vec<String> =
                (first..count.min(first + 8)).map(|number| format!("box{number}")).collect();
            let mut commands: Vec<Command> =
                names.iter().map(|name| self.command(&["create", "base", name])).collect();
            timed_at_once(&mut commands)?;
        }
        Ok(())
    }

    fn fork_and_remove(&self, base: &str, count: usize) -> Result<()> {
        for _ in 0..count {
            self.does(&["fork", base, "gone"])?;
            self.does(&["rm", "--now", "gone"])?;
        }
        Ok(())
    }
}
