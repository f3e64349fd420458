//! States of a box: kept, told apart, forked and gone back to, by rootling's own program beside everyone who can do some of it.
//!
//! | file | idea |
//! |---|---|
//! | `keeper` | the contract: who keeps states of one tree that people write to |
//! | `ours` | the program, once for each backend |
//! | `engines` | podman and a Docker engine: `commit`, `diff`, `create` |
//! | `tools` | btrfs-progs, snapper, LXC |
//! | `walk` | the least that a search without help of the file system can do |
//!
//! In each round every keeper has one turn: so many files are written to, the change is asked for, kept, forked; the files are written to again, and
//! what was kept is restored. Round 0 is not counted. Everybody's time is that of whole processes, and of the sync of the file
//! system after them where they leave anything dirty, so that what was kept is on the disk.

mod engines;
mod keeper;
mod ours;
mod tools;
mod walk;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rootling_backends::{Context, Dir, Kind, Result};

use self::keeper::{Keeper, Stage};
pub(crate) use self::keeper::{append, is_plain};
use crate::cases::history::{DIFF, FORK, RESTORE, SNAPSHOT, WRITTEN};
use crate::fixture::{FileSystem, Loop};
use crate::load;
use crate::options::Options;
use crate::podman::Podman;
use crate::proof::Inventory;
use crate::report;
use crate::samples::{Key, Samples};
use crate::trees::Archive;

/// How many files are written to, and which of a case's two rows that is.
const COUNTS: [usize; 2] = [10, 1000];

/// What one keeper may take of one file system, once it has this many rounds.
const TIME: Duration = Duration::from_secs(40);
const LEAST_ROUNDS: usize = 3;

/// Measures the largest of the trees on one file system.
pub(crate) fn all(
    fixture: &Loop,
    archives: &[Archive],
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let Some(archive) = archives.last() else { return Ok(()) };
    let stage = set(fixture, archive)?;
    let mut turns: Vec<Turn> = keepers(&stage, samples)
        .into_iter()
        .map(|keeper| Turn { keeper, used: Duration::ZERO, is_out: false })
        .collect();
    for round in 0..=options.history_rounds() {
        report::progress(&format!("{} {}: states, round {round}", fixture.kind(), archive.name));
        samples.processors.push(load::processors());
        let count = turns.len();
        turns.rotate_left(usize::from(count > 1));
        for turn in &mut turns {
            stage.turn(turn, round, samples)?;
        }
    }
    let (kind, name) = (fixture.kind(), archive.name);
    samples.proofs.push(format!(
        "{kind} {name}: {} entries; every search must name each of the files that were written to by its path, and what was \
         restored must be what was kept, byte for byte, in every tenth of them",
        stage.inventory.len()
    ));
    Ok(())
}

fn set<'a>(fixture: &'a Loop, archive: &'a Archive) -> Result<Stage<'a>> {
    report::progress(&format!("{} {}: unpacking the tree for states", fixture.kind(), archive.name));
    let directory = fixture.directory("history")?;
    let tree = directory.join("tree");
    std::fs::create_dir(&tree).context(|| format!("mkdir({tree:?})"))?;
    archive.unpack(&tree)?;
    let inventory = Inventory::take(&tree)?;
    let files = inventory.single_files()?.into_iter().map(|(path, _)| path);
    let files = files.filter(|path| keeper::is_plain(path)).collect();
    Ok(Stage { fixture, archive, directory, tree, files, inventory })
}

/// Returns who takes part on this file system; who cannot is noted.
fn keepers(stage: &Stage<'_>, samples: &mut Samples) -> Vec<Box<dyn Keeper>> {
    let kind = stage.fixture.kind();
    let ours: &[Kind] = match kind {
        FileSystem::Ext4 => &[Kind::Overlay],
        FileSystem::Xfs => &[Kind::Overlay, Kind::Reflink],
        FileSystem::Btrfs => &[Kind::Btrfs, Kind::Overlay, Kind::Reflink],
    };
    let mut made: Vec<(String, Result<Box<dyn Keeper>>)> = Vec::new();
    for kind in ours {
        made.push((format!("rootling {kind}"), ours::Ours::boxed(stage, *kind)));
    }
    let drivers: &[(&str, &str)] = if kind == FileSystem::Btrfs {
        &[("btrfs", "btrfs"), ("overlay", "overlay2")]
    } else {
        &[("overlay", "overlay2")]
    };
    for (podman, docker) in drivers {
        made.push((Podman::name_of(podman), engines::PodmanKeeper::boxed(stage, podman)));
        made.push((format!("docker {docker}"), engines::Docker::boxed(stage, docker)));
    }
    if kind == FileSystem::Btrfs {
        made.push((tools::BTRFS.to_owned(), tools::BtrfsProgs::boxed(stage)));
        made.push((tools::SNAPPER.to_owned(), tools::Snapper::boxed(stage)));
    }
    made.push((tools::LXC.to_owned(), tools::Lxc::boxed(stage)));
    made.into_iter()
        .filter_map(|(name, keeper)| {
            keeper.map_err(|error| samples.fail(stage.key(SNAPSHOT[0].id, &name), &error)).ok()
        })
        .collect()
}

struct Turn {
    keeper: Box<dyn Keeper>,
    used: Duration,
    is_out: bool,
}

impl Stage<'_> {
    fn key(&self, case: &'static str, contender: &str) -> Key {
        let (file_system, tree) = (self.fixture.kind().name(), self.archive.name);
        Key { case, file_system, tree, contender: contender.to_owned() }
    }

    /// Gives one keeper its turn; a peer that fails is noted and out, rootling's failure is ours.
    fn turn(&self, turn: &mut Turn, round: usize, samples: &mut Samples) -> Result<()> {
        if turn.is_out || (round > LEAST_ROUNDS && turn.used > TIME) {
            return Ok(());
        }
        let start = Instant::now();
        let name = turn.keeper.name().to_owned();
        let lived =
            (0..COUNTS.len()).try_for_each(|row| self.live(turn.keeper.as_mut(), row, round, samples));
        turn.used += start.elapsed();
        match lived {
            Err(error) if turn.keeper.is_ours() => {
                Err(error.context(format!("{name} on {}", self.fixture.kind())))
            }
            Err(error) => {
                samples.fail(self.key(SNAPSHOT[0].id, &name), &error);
                turn.is_out = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// One state: made, found, kept, forked, left and gone back to.
    fn live(&self, keeper: &mut dyn Keeper, row: usize, round: usize, samples: &mut Samples) -> Result<()> {
        let name = keeper.name().to_owned();
        let files = self.spread(COUNTS[row]);
        let mut add = |case: &'static str, value: f64| {
            if round > 0 {
                samples.add(self.key(case, &name), round, value);
            }
        };
        let kept = format!("kept in round {round}\n");
        keeper.edit(&files, &kept)?;
        self.sync()?;
        if let Some((time, named)) = keeper.diff()? {
            keeper::check_named(&named, &files)?;
            add(DIFF[row].id, milliseconds(time));
        }
        self.sync()?;
        let before = self.fixture.sectors_written()?;
        if let Some(time) = keeper.snapshot()? {
            let time = time + self.sync()?;
            add(SNAPSHOT[row].id, milliseconds(time));
            add(WRITTEN[row].id, (self.fixture.sectors_written()? - before) as f64 / 2.0);
        }
        if name == ours::REFLINK {
            walk::stat_all(&self.tree)?;
            let start = Instant::now();
            walk::stat_all(&self.tree)?;
            let time = milliseconds(start.elapsed());
            if round > 0 {
                samples.add(self.key(SNAPSHOT[row].id, walk::NAME), round, time);
            }
        }
        let mut add = |case: &'static str, value: f64| {
            if round > 0 {
                samples.add(self.key(case, &name), round, value);
            }
        };
        if let Some(time) = keeper.fork()? {
            let time = time + self.sync()?;
            add(FORK[row].id, milliseconds(time));
            keeper.drop_fork()?;
        }
        keeper.edit(&files, &format!("written over in round {round}\n"))?;
        self.sync()?;
        if let Some(time) = keeper.restore()? {
            let time = time + self.sync()?;
            keeper.check(&files, &kept)?;
            add(RESTORE[row].id, milliseconds(time));
        }
        keeper.forget()
    }

    /// Returns so many of the tree's files, spread over all of it.
    fn spread(&self, count: usize) -> Vec<PathBuf> {
        let count = count.min(self.files.len());
        (0..count).map(|number| self.files[number * self.files.len() / count].clone()).collect()
    }

    fn sync(&self) -> Result<Duration> {
        let directory = Dir::open(&self.directory)?;
        let start = Instant::now();
        directory.sync_file_system()?;
        Ok(start.elapsed())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
