//! The loop of the forks: each contender's fork is made, proved, written to, edited, searched and deleted, round after round.
//!
//! In each round every contender has one turn, and each round another one begins: what the machine does meanwhile (a stolen processor, a
//! flush of the host's) falls on all alike. Round 0 warms up and is not counted. Before every timed step the file system is synced, so that nobody
//! pays for what somebody else left dirty. A contender that has used up its time sits out the other rounds: its n says so.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootling_backends::{Backend, Context, Dir, Error, ErrorKind, Kind, Result, Tree, btrfs::Btrfs};
use walkdir::WalkDir;

use crate::cases::{CHANGES, DELETE, DURABLE, FIRST_WRITE, FORK};
use crate::command::{command, output};
use crate::contender::{Contender, Found};
use crate::edits::Edits;
use crate::fixture::{FileSystem, Loop};
use crate::load;
use crate::options::Options;
use crate::ours::Ours;
use crate::peers::{BareIoctl, BtrfsProgs, Cp};
use crate::podman::Podman;
use crate::proof::{Inventory, Strictness, below};
use crate::report;
use crate::samples::{Key, Samples};
use crate::trees::Archive;

/// What one contender may take of one file system and tree, proofs included, once it has this many rounds.
const TIME: Duration = Duration::from_secs(12);
const LEAST_ROUNDS: usize = 3;

/// The peers that walk instead of asking, on the forks that rootling made.
const WALK: &str = "stat walk";
const FIND: &str = "find -cnewer";

/// Measures all trees on one file system.
pub(crate) fn all(
    fixture: &Loop,
    archives: &[Archive],
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    archives.iter().try_for_each(|archive| Stage::set(fixture, archive)?.measure(options, samples))
}

/// One file system with one tree on it.
struct Stage<'a> {
    fixture: &'a Loop,
    archive: &'a Archive,
    directory: PathBuf,
    plain: Tree,
    /// The same tree as a sealed subvolume.
    subvolume: Option<Tree>,
    inventory: Inventory,
    edits: Edits,
}

impl<'a> Stage<'a> {
    fn set(fixture: &'a Loop, archive: &'a Archive) -> Result<Self> {
        report::progress(&format!("{} {}: unpacking the tree", fixture.kind(), archive.name));
        let directory = fixture.directory(archive.name)?;
        let plain = Tree::full(make(&directory, "plain")?);
        std::fs::create_dir(plain.fs()).context(|| format!("mkdir({:?})", plain.fs()))?;
        archive.unpack(&plain.fs())?;
        let inventory = Inventory::take(&plain.fs())?;
        let subvolume = match fixture.kind() {
            FileSystem::Btrfs => Some(subvolume(&directory, archive, &inventory)?),
            _ => None,
        };
        Dir::open(&directory)?.sync_file_system()?;
        let edits = Edits::choose(&inventory)?;
        Ok(Self { fixture, archive, directory, plain, subvolume, inventory, edits })
    }

    fn key(&self, case: &'static str, contender: &str) -> Key {
        let (file_system, tree) = (self.fixture.kind().name(), self.archive.name);
        Key { case, file_system, tree, contender: contender.to_owned() }
    }

    fn measure(&self, options: &Options, samples: &mut Samples) -> Result<()> {
        let mut turns: Vec<_> = self.contenders(samples)?.into_iter().map(Turn::new).collect();
        for round in 0..=options.fork_rounds(self.inventory.len()) {
            report::progress(&format!("{} {}: round {round}", self.fixture.kind(), self.archive.name));
            samples.processors.push(load::processors());
            let count = turns.len();
            turns.rotate_left(usize::from(count > 1));
            for turn in &mut turns {
                self.turn(turn, round, samples)?;
            }
        }
        samples.proofs.push(format!(
            "{} {}: {} entries, {} bytes; paths, modes, owners, sizes, times of every fork, bytes of the first of each",
            self.fixture.kind(),
            self.archive.name,
            self.inventory.len(),
            self.inventory.bytes
        ));
        Ok(())
    }

    /// Gives one contender its turn; a peer that fails is noted and out, rootling's failure is ours.
    fn turn(&self, turn: &mut Turn, round: usize, samples: &mut Samples) -> Result<()> {
        if turn.is_out || (round > LEAST_ROUNDS && turn.used > TIME) {
            return Ok(());
        }
        let start = Instant::now();
        let name = turn.contender.name().to_owned();
        let lived = self.live(turn.contender.as_mut(), round, samples);
        turn.used += start.elapsed();
        match lived {
            Err(error) if turn.contender.is_ours() => {
                Err(error.context(format!("{name} on {} {}", self.fixture.kind(), self.archive.name)))
            }
            Err(error) => {
                samples.fail(self.key(FORK.id, &name), &error);
                turn.is_out = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// One life of one fork.
    fn live(&self, contender: &mut dyn Contender, round: usize, samples: &mut Samples) -> Result<()> {
        let name = contender.name().to_owned();
        let mut add = |case: &'static str, contender: &str, time: Duration| {
            if round > 0 {
                samples.add(self.key(case, contender), round, time.as_secs_f64() * 1e3);
            }
        };
        self.sync()?;
        let forked = contender.fork()?;
        let synced = self.sync()?;
        add(FORK.id, &name, forked);
        add(DURABLE.id, &name, forked + synced);
        let view = contender.view()?;
        let strictness =
            if name.starts_with("podman") { Strictness::WithAdditions } else { Strictness::Exact };
        let place = self.fixture.quietly(view.path());
        self.inventory.check(&place, strictness)?;
        if round == 0 {
            self.inventory.check_bytes(&place, strictness)?;
        }
        self.sync()?;
        let marker = self.marker()?;
        add(FIRST_WRITE.id, &name, self.edits.first_write(&place)?);
        self.edits.make_rest(&place)?;
        if contender.is_ours() {
            for (walker, time) in self.walk(&place, &marker)? {
                add(CHANGES.id, &format!("{walker} of the fork by {name}"), time);
            }
        }
        let changes = contender.changes()?;
        if contender.is_ours() && place != view.path() {
            stat_walk(view.path(), &marker)?;
            if let Some((time, found)) = contender.changes()? {
                self.edits.check_exact(&found)?;
                add(CHANGES.id, &format!("{name}, all directories read before"), time);
            }
        }
        drop(view);
        self.sync()?;
        add(DELETE.id, &name, contender.delete()?);
        contender.settle()?;
        let Some((time, found)) = changes else { return Ok(()) };
        if contender.is_ours() {
            self.edits.check_exact(&found)?;
            add(CHANGES.id, &name, time);
        } else {
            match self.edits.check_found(&found, true) {
                Ok(()) => add(CHANGES.id, &name, time),
                Err(error) if round == 0 => samples.fail(self.key(CHANGES.id, &name), &error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Writes out what is dirty; returns how long that took.
    fn sync(&self) -> Result<Duration> {
        let directory = Dir::open(&self.directory)?;
        let start = Instant::now();
        directory.sync_file_system()?;
        Ok(start.elapsed())
    }

    /// Makes a file between the fork and the edits, with a tick of the clock on both sides.
    fn marker(&self) -> Result<PathBuf> {
        let path = self.directory.join("marker");
        let tick = Duration::from_millis(20);
        std::thread::sleep(tick);
        std::fs::write(&path, "").context(|| format!("write {path:?}"))?;
        std::thread::sleep(tick);
        Ok(path)
    }

    /// Finds the edits by walking the fork: once by ourselves, once by find(1).
    fn walk(&self, fork: &Path, marker: &Path) -> Result<[(&'static str, Duration); 2]> {
        let (walk, found) = stat_walk(fork, marker)?;
        self.edits.check_found(&found, false)?;
        // What /proc calls self is another one there.
        let path = match fork.strip_prefix("/proc/self") {
            Ok(rest) => Path::new("/proc").join(std::process::id().to_string()).join(rest),
            Err(_) => fork.to_owned(),
        };
        let mut find = command("find", ["-H"]);
        find.arg(path).args(["-mindepth", "1", "-cnewer"]).arg(marker);
        let find_walk = timed_find(&mut find)?;
        if find_walk.1 != found.len() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("find found {} entries, our own walk {}", find_walk.1, found.len()),
            ));
        }
        Ok([(WALK, walk), (FIND, find_walk.0)])
    }

    /// Returns who takes part on this file system; who cannot is noted.
    fn contenders(&self, samples: &mut Samples) -> Result<Vec<Box<dyn Contender>>> {
        let kind = self.fixture.kind();
        let forks = make(&self.directory, "forks")?;
        let mut all: Vec<Box<dyn Contender>> = Vec::new();
        let ours: &[Kind] = match kind {
            FileSystem::Ext4 => &[Kind::Overlay, Kind::Copy],
            FileSystem::Xfs => &[Kind::Overlay, Kind::Reflink],
            FileSystem::Btrfs => &[Kind::Overlay, Kind::Reflink, Kind::Btrfs],
        };
        for kind in ours {
            let parent = match (kind, &self.subvolume) {
                (Kind::Btrfs, Some(subvolume)) => subvolume,
                _ => &self.plain,
            };
            all.push(Box::new(Ours::new(*kind, parent.clone(), forks.join(kind.name()))?));
        }
        if kind.clones() {
            all.push(Box::new(Cp::cloning(self.plain.fs(), forks.join("cp-reflink"))));
        } else {
            all.push(Box::new(Cp::copying(self.plain.fs(), forks.join("cp"))));
        }
        if let Some(subvolume) = &self.subvolume {
            all.push(Box::new(BtrfsProgs::new(subvolume.fs(), forks.join("btrfs-progs"))));
            all.push(Box::new(BareIoctl::new(&subvolume.fs(), &make(&forks, "bare")?)?));
        }
        let drivers: &[&str] =
            if kind == FileSystem::Btrfs { &["overlay", "btrfs"] } else { &["overlay", "vfs"] };
        for driver in drivers {
            if self.inventory.len() > 20_000 {
                let reason = "left out with the large tree: it does what it does with the small one, slowly";
                let error = Error::new(ErrorKind::Unsupported, reason);
                samples.fail(self.key(FORK.id, &Podman::name_of(driver)), &error);
                continue;
            }
            let directory = make(&self.directory, &format!("podman-{driver}"))?;
            match Podman::new(driver, directory, self.archive) {
                Ok(podman) => all.push(Box::new(podman)),
                Err(error) => samples.fail(self.key(FORK.id, &Podman::name_of(driver)), &error),
            }
        }
        Ok(all)
    }
}

/// A contender and what it has used of its time.
struct Turn {
    contender: Box<dyn Contender>,
    used: Duration,
    is_out: bool,
}

impl Turn {
    fn new(contender: Box<dyn Contender>) -> Self {
        Self { contender, used: Duration::ZERO, is_out: false }
    }
}

fn make(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    std::fs::create_dir(&path).context(|| format!("mkdir({path:?})")).map(|()| path)
}

fn subvolume(directory: &Path, archive: &Archive, inventory: &Inventory) -> Result<Tree> {
    let (tree, backend) = (Tree::full(make(directory, "subvolume")?), Btrfs::new(false));
    backend.create(&tree.slot)?;
    archive.unpack(&tree.fs())?;
    backend.seal(&tree)?;
    inventory.check(&tree.fs(), Strictness::Exact)?;
    Ok(tree)
}

/// One thread, one lstat for each entry: the least that a search without help of the file system can do.
fn stat_walk(root: &Path, marker: &Path) -> Result<(Duration, Found)> {
    use std::os::unix::fs::MetadataExt;
    let ctime = |stat: &std::fs::Metadata| (stat.ctime(), stat.ctime_nsec());
    let start = Instant::now();
    let after = ctime(&marker.symlink_metadata().context(|| format!("lstat({marker:?})"))?);
    let mut found = Found::new();
    for entry in WalkDir::new(root).min_depth(1) {
        let entry = entry.map_err(std::io::Error::from).context(|| format!("walk {root:?}"))?;
        let stat = entry.metadata().map_err(std::io::Error::from).context(|| "lstat")?;
        if ctime(&stat) > after {
            found.insert(('?', below(root, entry.path())));
        }
    }
    Ok((start.elapsed(), found))
}

fn timed_find(find: &mut std::process::Command) -> Result<(Duration, usize)> {
    let start = Instant::now();
    let text = output(find)?;
    Ok((start.elapsed(), text.lines().count()))
}
