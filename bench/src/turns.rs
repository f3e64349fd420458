//! Turns: in each round everybody has one, on a file system that was made for it.

use rootling_backends::Result;

use crate::cases::Case;
use crate::fixture::{FileSystem, Loop, Scratch};
use crate::load;
use crate::options::Options;
use crate::report;
use crate::samples::{Key, Samples};

/// Someone who takes part.
pub(crate) trait Party {
    /// Returns what tables call it.
    fn name(&self) -> String;

    /// Is it rootling?
    fn is_ours(&self) -> bool;
}

/// What is done in a turn.
#[derive(Debug)]
pub(crate) struct Game<'a> {
    /// What it is called while it goes on.
    pub(crate) what: &'static str,
    /// The tree that it is about.
    pub(crate) tree: &'static str,
    /// Where it is noted that somebody could not.
    pub(crate) case: Case,
    /// How often everybody has a turn.
    pub(crate) rounds: usize,
    pub(crate) scratch: &'a Scratch,
}

/// Someone's turn in a round, on a file system where nothing else was done.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) file_system: &'a Loop,
    pub(crate) name: String,
    pub(crate) round: usize,
    pub(crate) tree: &'static str,
    pub(crate) samples: &'a mut Samples,
}

impl Turn<'_> {
    /// Notes a number.
    pub(crate) fn add(&mut self, case: Case, value: f64) {
        let key = Key {
            case: case.id,
            file_system: self.file_system.kind().name(),
            tree: self.tree,
            contender: self.name.clone(),
        };
        self.samples.add(key, self.round, value);
    }
}

impl Game<'_> {
    /// Plays it on each file system that is wanted; a peer that fails is noted and out, rootling's failure is ours.
    pub(crate) fn play<P: Party>(
        &self,
        options: &Options,
        parties: fn(FileSystem) -> Vec<P>,
        samples: &mut Samples,
        mut turn: impl FnMut(&P, &mut Turn<'_>) -> Result<()>,
    ) -> Result<()> {
        for kind in FileSystem::ALL {
            if !options.wants_file_system(kind.name()) {
                continue;
            }
            let mut parties = parties(kind);
            for round in 1..=self.rounds {
                samples.processors.push(load::processors());
                parties.rotate_left(1);
                let mut left = Vec::new();
                for party in parties {
                    let name = party.name();
                    report::progress(&format!("{kind} {}: {}, round {round}, {name}", self.tree, self.what));
                    let file_system = Loop::make(kind, self.scratch)?;
                    let (file_system, tree) = (&file_system, self.tree);
                    let mut its = Turn { file_system, name: name.clone(), round, tree, samples };
                    match turn(&party, &mut its) {
                        Ok(()) => left.push(party),
                        Err(error) if party.is_ours() => {
                            return Err(error.context(format!("{name} on {kind}")));
                        }
                        Err(error) => {
                            let (case, file_system) = (self.case.id, kind.name());
                            samples.fail(Key { case, file_system, tree, contender: name }, &error);
                        }
                    }
                }
                parties = left;
            }
        }
        Ok(())
    }
}
