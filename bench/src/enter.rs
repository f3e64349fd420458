//! What starts in a tree: rootling beside everyone who can start a process in a root file system, as root and as a user.
//!
//! | file | idea |
//! |---|---|
//! | `runner` | the contract: a command that runs given words |
//! | `guest` | ordinary users that exist for the bench only |
//! | `ours`, `peers`, `bundle` | who takes part |
//! | `running` | boxes that run already, for the commands that join them |
//! | `namespaces` | equal work or no number: which namespaces each makes |
//! | `rounds` | the loop: times, one after the other and a hundred at once |
//! | `memory`, `calls` | what does not depend on who else is busy |

mod bundle;
mod calls;
mod guest;
mod memory;
mod namespaces;
mod ours;
mod peers;
mod rounds;
mod runner;
mod running;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rootling_backends::{Context, Result};

use self::guest::{Guest, Guests};
use self::ours::Net;
use self::runner::Runner;
use crate::cases::{EXEC, RUN, START};
use crate::command::{command, timed};
use crate::fixture::{FileSystem, Loop, Scratch};
use crate::options::Options;
use crate::podman::Podman;
use crate::report;
use crate::samples::{Key, Samples};
use crate::trees::Archive;

/// Readies this mount namespace for all file systems; nothing of it is seen outside.
pub(crate) fn prepare(scratch: &Scratch, samples: &mut Samples) -> Result<Guests> {
    // Users go through it to their homes.
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), mode)
        .context(|| format!("chmod({:?}, 0755)", scratch.path()))?;
    samples.proofs.extend(bundle::hide_hybrid_controllers(scratch)?);
    Ok(Guests::introduce(scratch))
}

/// Where it is measured, and what everybody finds there.
pub(crate) struct Place {
    file_system: FileSystem,
    archive: Archive,
    /// Everything below it is the bench's.
    directory: PathBuf,
    /// The tree in which those work who fork nothing.
    root: PathBuf,
    /// A tmpfs for what others keep in `/run`.
    run: PathBuf,
    /// The program, where everybody may run it.
    program: PathBuf,
    guests: Vec<Guest>,
}

/// Measures the first tree on one file system: what it costs to enter does not depend on its size.
pub(crate) fn all(
    fixture: &Loop,
    archives: &[Archive],
    guests: &Guests,
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let Some(archive) = archives.first() else { return Ok(()) };
    report::progress(&format!("{} {}: starts", fixture.kind(), archive.name));
    let mut place = Place::make(fixture, archive)?;
    match guests.at(&place.directory) {
        Ok(guests) => place.guests = guests,
        Err(error) => samples.fail(place.key(START.id, "an ordinary user"), &error),
    }
    let podman = Podman::new("overlay", place.subdirectory("podman")?, archive).map(Rc::new);
    if let Err(error) = &podman {
        for case in [START.id, RUN.id] {
            samples.fail(place.key(case, "podman run"), error);
        }
    }
    let podman = podman.ok();

    let mut starts = ours::runners(&place, Net::None)?;
    starts.extend(peers::without_network(&place, podman.as_ref(), samples));
    let starts = namespaces::equal(starts, START.id, &place, samples)?;
    rounds::one_by_one(&starts, START.id, &place, options, samples)?;

    let mut runs = ours::runners(&place, Net::Host)?;
    runs.extend(peers::in_host_network(&place.root, podman.as_ref()));
    let mut runs = namespaces::equal(runs, RUN.id, &place, samples)?;
    rounds::one_by_one(&runs, RUN.id, &place, options, samples)?;

    let boxes = running::start_all(&place, podman.as_ref(), samples)?;
    let (mut boxes, joins): (Vec<_>, Vec<_>) = boxes.into_iter().unzip();
    let joins = namespaces::equal(joins, EXEC.id, &place, samples)?;
    rounds::one_by_one(&joins, EXEC.id, &place, options, samples)?;

    runs.retain(|runner| runner.is_ours() || runner.name == "bwrap");
    runs.iter_mut().for_each(|runner| runner.name.push_str(", host network"));
    for runners in [&starts, &runs, &joins] {
        calls::count(runners, &place, samples)?;
    }
    running::still_up(&mut boxes)?;
    drop(boxes);
    rounds::at_once(&starts, &place, options, samples)?;
    memory::weigh(&starts, &place, samples)
}

impl Place {
    fn make(fixture: &Loop, archive: &Archive) -> Result<Self> {
        let directory = fixture.directory("enter")?;
        let make = |name: &str| -> Result<_> {
            let path = directory.join(name);
            std::fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
            Ok(path)
        };
        let (root, run, bin) = (make("root")?, make("run")?, make("bin")?);
        archive.unpack(&root)?;
        timed(command("mount", ["-t", "tmpfs", "-o", "mode=755", "bench-run"]).arg(&run))?;
        let built = std::env::current_exe().context(|| "readlink(\"/proc/self/exe\")")?;
        let built = built.with_file_name("rootling");
        let program = bin.join("rootling");
        std::fs::copy(&built, &program)
            .context(|| format!("copy {built:?}"))
            .map_err(|error| error.hint("build the program first: make release"))?;
        let place = Self {
            file_system: fixture.kind(),
            archive: archive.clone(),
            directory,
            root,
            run,
            program,
            guests: Vec::new(),
        };
        Ok(place)
    }

    fn key(&self, case: &'static str, contender: &str) -> Key {
        let (file_system, tree) = (self.file_system.name(), self.archive.name);
        Key { case, file_system, tree, contender: contender.to_owned() }
    }

    fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
        Ok(path)
    }

    /// Those who map one id do so as this user.
    fn single(&self) -> Option<&Guest> {
        self.guests.iter().find(|guest| !guest.has_range())
    }

    /// Returns where somebody keeps what is theirs: root, or a user.
    fn home<'a>(&'a self, guest: Option<&'a Guest>) -> &'a Path {
        guest.map_or(&self.directory, Guest::home)
    }
}
