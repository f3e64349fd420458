//! Crashes: the built program is killed at every fault point and at random moments, and the disk loses its power.
//!
//! Trials: `fault/file-system/operation` and `forks/file-system/verb` (all points of it), `states/file-system/operation` (the same for the states of a
//! box) `images/file-system/operation` (for images) and `steps/file-system/operation` (for builds), `random/file-system/backend` (random changes, restored), `merge/file-system/backend-backend` (random changes, merged), `kill/file-system`, `powercut/file-system`,
//! and of what another program holds `held/file-system/backend/operation` and `held-powercut/file-system/backend`.
//! `ROOTLING_REQUIRE`, `ROOTLING_SEED` and `ROOTLING_CRASH_ROUNDS` are read from the environment. Fault points exist in
//! builds with debug assertions.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed trial")]

mod fault;
mod forks;
mod held;
#[path = "../held/holding.rs"]
#[expect(dead_code, reason = "part of it is the other tests'")]
mod holding;
mod images;
mod kill;
#[path = "../support/oci.rs"]
#[expect(dead_code, reason = "part of it is the other tests'")]
mod oci;
mod powercut;
mod random;
mod scenario;
mod states;
mod steps;
mod store;
mod stress;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "part of it is the conformance kit's")]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use rootling_backends::Kind;

use crate::support::host::{FileSystem, Host};
use crate::support::require::{Outcome, completion, missing};

const FILE_SYSTEMS: [FileSystem; 3] = [FileSystem::Btrfs, FileSystem::Xfs, FileSystem::Ext4];

type Ground = Result<PathBuf, String>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        let nowhere = |_, _: &str| Err("only listed".to_owned());
        return libtest_mimic::run(&arguments, trials(nowhere, Path::new("/"))).exit_code();
    }
    // Before any thread is made: the mount namespace belongs to all of them.
    let host = Host::enter();
    let scratch = host.as_ref().map_or_else(|_| PathBuf::new(), |host| host.path("scratch"));
    let ground = |sort: FileSystem, name: &str| -> Ground {
        host.as_ref().map_err(Clone::clone)?.file_system(sort, name, 4 << 30)
    };
    let conclusion = libtest_mimic::run(&arguments, trials(ground, &scratch));
    drop(host);
    conclusion.exit_code()
}

fn trials(ground: impl Fn(FileSystem, &str) -> Ground, scratch: &Path) -> Vec<Trial> {
    let mut trials = Vec::new();
    // What can clone an image at one moment.
    let outer = ground(FileSystem::Xfs, "outer");
    for sort in FILE_SYSTEMS {
        let place = ground(sort, sort.name());
        for operation in fault::OPERATIONS {
            let name = format!("fault/{sort}/{}", operation.name);
            trials.push(trial(name, sort, &place, scratch, |place, scratch| {
                fault::run(*operation, place, scratch)
            }));
        }
        for verb in forks::VERBS {
            let name = format!("forks/{sort}/{}", verb.name);
            trials
                .push(trial(name, sort, &place, scratch, |place, scratch| forks::run(*verb, place, scratch)));
        }
        for operation in states::OPERATIONS {
            let name = format!("states/{sort}/{}", operation.name);
            trials.push(trial(name, sort, &place, scratch, |place, scratch| {
                states::run(*operation, place, scratch)
            }));
        }
        for operation in images::OPERATIONS {
            let name = format!("images/{sort}/{}", operation.name);
            trials.push(trial(name, sort, &place, scratch, |place, scratch| {
                images::run(*operation, place, scratch)
            }));
        }
        for operation in steps::OPERATIONS {
            let name = format!("steps/{sort}/{}", operation.name);
            trials.push(trial(name, sort, &place, scratch, |place, scratch| {
                images::run(*operation, place, scratch)
            }));
        }
        let kinds: &[Kind] = match sort {
            FileSystem::Btrfs => &Kind::ALL,
            FileSystem::Xfs => &[Kind::Reflink, Kind::Overlay, Kind::Copy],
            _ => &[Kind::Overlay, Kind::Copy],
        };
        let pairs: &[Kind] = match sort {
            FileSystem::Btrfs => &[Kind::Btrfs, Kind::Overlay],
            FileSystem::Xfs => &[Kind::Reflink, Kind::Overlay],
            _ => &[Kind::Copy, Kind::Overlay],
        };
        for kind in pairs.iter().copied() {
            for operation in held::OPERATIONS {
                let name = format!("held/{sort}/{kind}/{}", operation.name);
                trials.push(trial(name, sort, &place, scratch, move |place, scratch| {
                    held::run(*operation, kind, place, scratch)
                }));
            }
            let name = format!("held-powercut/{sort}/{kind}");
            trials.push(trial(name, sort, &outer, scratch, move |outer, scratch| {
                held::powercut(sort, kind, outer, scratch)
            }));
        }
        for (kind, other) in kinds.iter().zip(kinds.iter().cycle().skip(1)) {
            trials.push(trial(format!("random/{sort}/{kind}"), sort, &place, scratch, |place, scratch| {
                random::run(*kind, *other, place, scratch)
            }));
        }
        for (kind, other) in kinds.iter().zip(kinds).chain(kinds.iter().zip(kinds.iter().cycle().skip(1))) {
            let name = format!("merge/{sort}/{kind}-{other}");
            trials.push(trial(name, sort, &place, scratch, |place, scratch| {
                random::merge(*kind, *other, place, scratch)
            }));
        }
        for kind in kinds.iter().copied().filter(|kind| *kind != Kind::Copy || sort == FileSystem::Ext4) {
            trials.push(trial(
                format!("stress/{sort}/{kind}"),
                sort,
                &place,
                scratch,
                move |place, scratch| stress::run(kind, place, scratch),
            ));
        }
        trials.push(trial(format!("kill/{sort}"), sort, &place, scratch, kill::run));
        let cut = move |outer: &Path, scratch: &Path| powercut::run(sort, outer, scratch);
        trials.push(trial(format!("powercut/{sort}"), sort, &outer, scratch, cut));
    }
    trials
}

/// Makes a trial with directories of its own on the file system and beside it.
fn trial(
    name: String,
    sort: FileSystem,
    place: &Ground,
    scratch: &Path,
    run: impl FnOnce(&Path, &Path) -> Outcome + Send + 'static,
) -> Trial {
    let part = name.replace('/', "-");
    let (place, scratch) = (place.clone(), scratch.join(&part));
    Trial::ignorable_test(name, move || match place {
        Err(reason) => missing(sort, &reason),
        Ok(place) => {
            let place = place.join(part);
            std::fs::create_dir_all(&place).map_err(|error| format!("mkdir {place:?}: {error}"))?;
            completion(run(&place, &scratch))
        }
    })
}
