//! The loop of the commands: `run TREE -- /bin/true` beside everyone who can start a process in a root file system.
//!
//! Before anything is timed, each contender shows which namespaces it makes; rootling and bwrap must make the same.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Kind, Result};

use crate::cases::{RUN, SYSCALLS};
use crate::command::{command, output, timed};
use crate::fixture::{FileSystem, Loop};
use crate::options::Options;
use crate::podman::Podman;
use crate::report;
use crate::samples::{Key, Samples};
use crate::trees::Archive;

/// The namespaces that a process can have of its own, as `/proc/self/ns` has them.
const NAMESPACES: [&str; 7] = ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"];
/// What rootling and bwrap both make here.
const OURS: [&str; 5] = ["mnt", "pid", "ipc", "uts", "cgroup"];

/// What one contender may take in all; its n tells how many rounds that were.
const TIME: Duration = Duration::from_secs(6);

/// Makes the command that runs these words in the tree.
type Start = Box<dyn Fn(&[&'static str]) -> Command>;

/// Somebody who runs a command.
struct Runner {
    name: String,
    start: Start,
}

impl Runner {
    fn new(name: impl Into<String>, start: impl Fn(&[&'static str]) -> Command + 'static) -> Self {
        Self { name: name.into(), start: Box::new(start) }
    }
}

/// Measures the first tree on one file system: what it costs to enter does not depend on its size.
pub(crate) fn all(
    fixture: &Loop,
    archives: &[Archive],
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let Some(archive) = archives.first() else { return Ok(()) };
    let place = Place { file_system: fixture.kind(), tree: archive.name };
    report::progress(&format!("{} {}: commands", place.file_system, place.tree));
    let directory = fixture.directory("enter")?;
    let mut runners = ours(place.file_system, &directory, archive)?;
    runners.extend(peers(&directory, archive)?);
    match podman(&directory, archive) {
        Ok(podman) => runners.push(podman),
        Err(error) => samples.fail(place.key(RUN.id, "podman run"), &error),
    }
    let runners = able(runners, &place, samples)?;
    let mut used = vec![Duration::ZERO; runners.len()];
    for round in 0..=options.command_rounds() {
        for turn in 0..runners.len() {
            let index = (turn + round) % runners.len();
            let runner = &runners[index];
            if used[index] > TIME {
                continue;
            }
            let time = timed(&mut (runner.start)(&["/bin/true"])).context(|| runner.name.clone())?;
            used[index] += time;
            if round > 0 {
                samples.add(place.key(RUN.id, &runner.name), round, time.as_secs_f64() * 1e3);
            }
        }
    }
    count_calls(&runners, &place, &directory, samples)
}

struct Place {
    file_system: FileSystem,
    tree: &'static str,
}

impl Place {
    fn key(&self, case: &'static str, contender: &str) -> Key {
        let file_system = self.file_system.name();
        Key { case, file_system, tree: self.tree, contender: contender.to_owned() }
    }
}

// ---------------------------------------------------------------- who

fn ours(file_system: FileSystem, directory: &Path, archive: &Archive) -> Result<Vec<Runner>> {
    let program = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
    let program = program.with_file_name("rootling");
    let kinds: &[Kind] = match file_system {
        FileSystem::Btrfs => &[Kind::Overlay, Kind::Btrfs],
        _ => &[Kind::Overlay],
    };
    let mut runners = Vec::new();
    for kind in kinds {
        let store = directory.join(format!("store-{kind}"));
        let words = |words: &[&str]| {
            let mut command = command(&program, ["--quiet", "--root"]);
            command.arg(&store).args(words);
            command
        };
        timed(words(&["init", "--backend", kind.name()]).arg(&store))
            .map_err(|error| error.hint("build the program first: cargo build --release"))?;
        let archive = format!("tar:{}", archive.path.display());
        timed(words(&["import"]).arg(archive).arg("base"))?;
        let program = program.clone();
        runners.push(Runner::new(format!("rootling {kind}"), move |inside| {
            let mut command = command(&program, ["--quiet", "--root"]);
            command.arg(&store).args(["run", "--net", "host", "base", "--"]).args(inside);
            command
        }));
    }
    Ok(runners)
}

fn peers(directory: &Path, archive: &Archive) -> Result<Vec<Runner>> {
    let root = directory.join("root");
    std::fs::create_dir(&root).context(|| format!("mkdir({root:?})"))?;
    archive.unpack(&root)?;
    let with_root = |name: &str, start: fn(&Path) -> Command| {
        let root: PathBuf = root.clone();
        Runner::new(name, move |inside| {
            let mut command = start(&root);
            command.args(inside);
            command
        })
    };
    Ok(vec![
        with_root("bwrap", |root| {
            let mut command = command("bwrap", ["--unshare-pid", "--unshare-ipc", "--unshare-uts"]);
            command.args(["--unshare-cgroup", "--bind"]).arg(root);
            command.args(["/", "--proc", "/proc", "--dev", "/dev", "--"]);
            command
        }),
        with_root("unshare + chroot", |root| {
            let mut proc = std::ffi::OsString::from("--mount-proc=");
            proc.push(root.join("proc"));
            let mut command =
                command("unshare", ["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork"]);
            command.arg(proc).args(["chroot"]).arg(root);
            command
        }),
        with_root("systemd-nspawn", |root| {
            let mut command = command("systemd-nspawn", ["--quiet", "--register=no", "--keep-unit"]);
            command.arg("--directory").arg(root).arg("--");
            command
        }),
        with_root("systemd-nspawn --ephemeral", |root| {
            let flags = ["--quiet", "--register=no", "--keep-unit", "--ephemeral"];
            let mut command = command("systemd-nspawn", flags);
            command.arg("--directory").arg(root).arg("--");
            command
        }),
    ])
}

fn podman(directory: &Path, archive: &Archive) -> Result<Runner> {
    let directory = directory.join("podman");
    std::fs::create_dir(&directory).context(|| format!("mkdir({directory:?})"))?;
    let podman = Podman::new("overlay", directory, archive)?;
    Ok(Runner::new("podman run", move |inside| podman.run_command(inside)))
}

// ---------------------------------------------------------------- whether

/// Keeps those who can run a command here, and notes which namespaces they make.
fn able(runners: Vec<Runner>, place: &Place, samples: &mut Samples) -> Result<Vec<Runner>> {
    let mut able = Vec::new();
    for runner in runners {
        match namespaces(&runner) {
            Ok(made) => {
                let must_be_equal = runner.name.starts_with("rootling") || runner.name == "bwrap";
                if must_be_equal && made != OURS {
                    let message = format!("{} makes the namespaces {made:?}, not {OURS:?}", runner.name);
                    return Err(Error::new(ErrorKind::FailedPrecondition, message));
                }
                let made = made.join(" ");
                samples
                    .proofs
                    .push(format!("{}: {} makes the namespaces {made}", place.file_system, runner.name));
                able.push(runner);
            }
            Err(error) if runner.name.starts_with("rootling") => return Err(error.context(runner.name)),
            Err(error) => samples.fail(place.key(RUN.id, &runner.name), &error),
        }
    }
    Ok(able)
}

/// Returns the namespaces that are not this process's.
fn namespaces(runner: &Runner) -> Result<Vec<&'static str>> {
    const READ: [&str; 8] = [
        "/bin/readlink",
        "/proc/self/ns/mnt",
        "/proc/self/ns/pid",
        "/proc/self/ns/ipc",
        "/proc/self/ns/uts",
        "/proc/self/ns/cgroup",
        "/proc/self/ns/net",
        "/proc/self/ns/user",
    ];
    let text = output(&mut (runner.start)(&READ))?;
    let inside: Vec<_> = text.lines().map(str::trim).filter(|line| line.contains(":[")).collect();
    let mut made = Vec::new();
    for name in NAMESPACES {
        let path = format!("/proc/self/ns/{name}");
        let ours = std::fs::read_link(&path).context(|| format!("readlink({path:?})"))?;
        if !inside.iter().any(|id| ours.as_os_str() == *id) {
            made.push(name);
        }
    }
    if inside.len() == NAMESPACES.len() {
        return Ok(made);
    }
    let message = format!("the command inside said {:?}", text.trim());
    Err(Error::new(ErrorKind::FailedPrecondition, message))
}

// ---------------------------------------------------------------- how many calls

/// Counts system calls, of all processes, three times each.
fn count_calls(runners: &[Runner], place: &Place, directory: &Path, samples: &mut Samples) -> Result<()> {
    let report = directory.join("strace");
    for runner in runners {
        for round in 1..=3 {
            let traced = (runner.start)(&["/bin/true"]);
            let mut strace = command("strace", ["-f", "-c", "-o"]);
            strace.arg(&report).arg("--").arg(traced.get_program()).args(traced.get_args());
            strace.envs(traced.get_envs().filter_map(|(name, value)| Some((name, value?))));
            if let Err(error) = timed(&mut strace) {
                samples.fail(place.key(SYSCALLS.id, &runner.name), &error);
                break;
            }
            let text = std::fs::read_to_string(&report).context(|| format!("read({report:?})"))?;
            match total(&text) {
                Some(calls) => samples.add(place.key(SYSCALLS.id, &runner.name), round, calls),
                None => return Err(Error::new(ErrorKind::Corrupt, "strace -c printed no total")),
            }
        }
    }
    Ok(())
}

/// Reads the last line of `strace -c`: share, seconds, usecs per call, calls, errors, `total`; some columns may be empty.
fn total(text: &str) -> Option<f64> {
    let line = text.lines().rfind(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().filter(|word| !word.contains('.')).nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_calls_are_read_whether_or_not_some_failed() {
        let with_errors = "100.00    0.001234           4       239        12 total\n";
        assert_eq!(super::total(with_errors), Some(239.0));
        assert_eq!(super::total("100.00    0.000000           0        40           total"), Some(40.0));
        assert_eq!(super::total("strace: nothing"), None);
    }
}
