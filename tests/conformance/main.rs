//! The conformance kit: every backend on every file system against the one contract, `rootling_backends::Backend`.
//!
//! Trials are named `backend/file-system/case`. A pair that cannot exist is one trial, ignored with the reason; so is each trial
//! whose file system this machine cannot make, unless `ROOTLING_REQUIRE=btrfs,xfs,ext4,tmpfs` (or `all`) asks for it.
//! What differs between backends comes from `Backend::capabilities`, never from their names. `ROOTLING_SEED` repeats a random case.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed trial, and shows the whole error chain")]

mod cases;
mod chains;
mod changes;
mod commands;
mod concurrency;
mod errors;
mod fidelity;
mod layers;
mod lifecycle;
mod nested;
mod open;
mod patch;
mod patch_alone;
mod random;
mod removal;
mod setup;
mod stacks;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rootling_backends::{Backend, Kind};

use crate::cases::Case;
use crate::setup::Setup;
use crate::support::host::{FileSystem, Host};
use crate::support::require::{completion, missing};

/// A file system under test: where it is and which backends work there, or why it is not there.
type Ground = Result<Place, String>;

#[derive(Clone)]
struct Place {
    root: PathBuf,
    backends: HashMap<Kind, Result<Arc<dyn Backend>, String>>,
}

fn main() -> ExitCode {
    if let Some(code) = patch_alone::run_if_asked() {
        return code;
    }
    let arguments = Arguments::from_args();
    if arguments.list {
        let nowhere = |_| Err("only listed".to_owned());
        return libtest_mimic::run(&arguments, trials(nowhere, Path::new("/"))).exit_code();
    }
    // Before any thread is made: the mount namespace belongs to all of them.
    let host = Host::enter();
    let scratch = host.as_ref().map_or_else(|_| PathBuf::new(), |host| host.path("scratch"));
    let ground = |sort: FileSystem| -> Ground {
        let host = host.as_ref().map_err(Clone::clone)?;
        let root = host.file_system(sort, sort.name(), 3 << 30)?;
        Ok(Place { backends: open::backends(&root), root })
    };
    let conclusion = libtest_mimic::run(&arguments, trials(ground, &scratch));
    drop(host);
    conclusion.exit_code()
}

fn trials(ground: impl Fn(FileSystem) -> Ground, scratch: &Path) -> Vec<Trial> {
    let mut trials = Vec::new();
    for file_system in FileSystem::ALL {
        let ground = ground(file_system);
        for kind in Kind::ALL {
            if let Some(reason) = impossible(kind, file_system) {
                let name = format!("{kind}/{file_system}/cannot");
                trials.push(Trial::ignorable_test(name, move || Ok(Completion::ignored_with(reason))));
                continue;
            }
            trials.extend(cases::all().map(|case| trial(case, kind, file_system, ground.clone(), scratch)));
        }
    }
    trials
}

/// Says which pairs no kernel offers.
fn impossible(kind: Kind, file_system: FileSystem) -> Option<&'static str> {
    match kind {
        Kind::Btrfs if file_system != FileSystem::Btrfs => Some("subvolumes exist on btrfs only"),
        Kind::Reflink if !file_system.clones_files() => Some("files cannot be cloned on this file system"),
        _ => None,
    }
}

fn trial(case: Case, kind: Kind, file_system: FileSystem, ground: Ground, scratch: &Path) -> Trial {
    let name = format!("{kind}/{file_system}/{}", case.name);
    let part = format!("{kind}-{}", case.name);
    let scratch = scratch.join(format!("{file_system}-{part}"));
    Trial::ignorable_test(name, move || match ground {
        Err(reason) => missing(file_system, &reason),
        Ok(place) => run(case, kind, file_system, &place, &part, scratch),
    })
}

fn run(
    case: Case,
    kind: Kind,
    file_system: FileSystem,
    place: &Place,
    part: &str,
    scratch: PathBuf,
) -> Result<Completion, Failed> {
    let backend = match &place.backends[&kind] {
        Ok(backend) => Arc::clone(backend),
        Err(reason) => return missing(file_system, reason),
    };
    let all = place.backends.values().filter_map(|backend| backend.as_ref().ok()).cloned().collect();
    let setup = Setup::new(backend, all, file_system, place.root.join(part), scratch);
    completion((case.run)(&setup))
}
