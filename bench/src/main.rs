//! Measures rootling beside its peers.
//!
//! | file | idea |
//! |---|---|
//! | `options` | what may be said on the command line |
//! | `fixture` | loop file systems in a private mount namespace |
//! | `trees` | real Debian trees: made once as archives, unpacked onto each file system |
//! | `command` | other programs, run and timed |
//! | `contender` | what can fork a tree: the contract |
//! | `ours`, `peers`, `podman` | who does: rootling's backends, small tools, podman's storage drivers |
//! | `docker` | a Docker engine of our own |
//! | `life` | the loop: fork, prove, write, edit, find the edits, delete; interleaved rounds |
//! | `proof` | equal work or no number: entries and bytes of every fork |
//! | `edits` | ten edits, and whether they were found |
//! | `cases` | what is measured and what makes it fair or unfair |
//! | `enter` | what starts in a tree: who, in which namespaces, how fast, with how many calls and how much memory |
//! | `history` | states of a box: kept, told apart, forked, gone back to |
//! | `images` | images from a registry and back |
//! | `build` | Dockerfiles: small steps, a compiler, files |
//! | `snapshotter` | trees kept for containerd |
//! | `turns` | rounds in which everybody has a turn on a file system of its own: `images`, `build`, `snapshotter` |
//! | `scale` | a store that holds much: deep, wide, and forks that come and go |
//! | `load` | how much of the machine could be had meanwhile |
//! | `samples`, `stats` | every number, and what is said of many |
//! | `aims` | what rootling wants to be, and whether it is |
//! | `facts`, `report`, `plot` | the machine, the tables, the picture |

mod aims;
mod build;
mod cases;
mod command;
mod contender;
mod docker;
mod edits;
mod enter;
mod facts;
mod fixture;
mod history;
mod images;
mod life;
mod load;
mod options;
mod ours;
mod peers;
mod plot;
mod podman;
mod proof;
mod report;
mod samples;
mod scale;
mod snapshotter;
mod stats;
mod trees;
mod turns;

use std::process::ExitCode;

use rootling_backends::{Context, Result};

use crate::facts::Facts;
use crate::fixture::{FileSystem, Scratch};
use crate::options::{Options, Part};
use crate::samples::Samples;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| measure(&options)) {
        Ok(code) => code,
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Does everything; the file systems come one after the other, so that nothing competes for the disk.
fn measure(options: &Options) -> Result<ExitCode> {
    if !options.inside {
        return fixture::run_again_in_private_namespace();
    }
    let scratch = Scratch::make(&options.scratch)?;
    let mut facts = Facts::gather(options);
    let mut samples = Samples::new(scratch.path());
    let sizes = trees::archives(options, &scratch)?;
    let guests = options.wants(Part::Starts).then(|| enter::prepare(&scratch, &mut samples)).transpose()?;
    for kind in FileSystem::ALL {
        if !options.wants_file_system(kind.name())
            || matches!(options.part, Some(Part::Images | Part::Build | Part::Snapshotter))
        {
            continue;
        }
        report::progress(&format!("{}: making the file system", kind.name()));
        let fixture = fixture::Loop::make(kind, &scratch)?;
        if options.wants(Part::Forks) {
            life::all(&fixture, &sizes, options, &mut samples)
                .context(|| format!("measure forks on {kind}"))?;
        }
        if options.wants(Part::History) {
            history::all(&fixture, &sizes, options, &mut samples)
                .context(|| format!("measure states on {kind}"))?;
        }
        if options.wants(Part::Scale) {
            scale::all(&fixture, options, &mut samples).context(|| format!("measure scale on {kind}"))?;
        }
        if let Some(guests) = &guests {
            enter::all(&fixture, &sizes, guests, options, &mut samples)
                .context(|| format!("measure starts on {kind}"))?;
        }
    }
    if options.wants(Part::Images) {
        images::all(&sizes, &scratch, options, &mut samples).context(|| "measure images")?;
    }
    if options.wants(Part::Build) {
        build::all(&sizes, &scratch, options, &mut samples).context(|| "measure builds")?;
    }
    if options.wants(Part::Snapshotter) {
        snapshotter::all(&sizes, &scratch, options, &mut samples).context(|| "measure containerd's trees")?;
    }
    facts.finish();
    let directory = report::write(&facts, &samples, options)?;
    report::print(&facts, &samples, &directory);
    Ok(ExitCode::SUCCESS)
}
