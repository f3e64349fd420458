//! Images: pulled from a registry on loopback and unpacked, with nothing and with most layers there, and pushed after a small change.
//!
//! | file | idea |
//! |---|---|
//! | `layout` | the image: a tree cut into layers, by tar and gzip alone |
//! | `registry` | docker's registry, started here, and what was pushed to it |
//! | `cost` | time and memory of a command |
//! | `engine` | the contract: who pulls and pushes |
//! | `ours`, `podman`, `umoci`, `containerd` | who does |
//!
//! In each round everybody has one turn, on a file system that was made for it, so that every store is new and nobody clears up
//! what somebody else left. A turn pulls the image, then another that has its own last layer only, then changes ten files of a box and
//! pushes that. Times are those of whole processes; what is on the disk in the end counts a sync of the file system, too.

mod containerd;
mod cost;
mod engine;
pub(crate) mod layout;
mod ours;
mod podman;
mod registry;
mod umoci;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rootling_backends::{Context, Dir, Error, ErrorKind, Result};

use self::cost::Cost;
use self::engine::Contender;
pub(crate) use self::registry::Registry;
use crate::cases::Case;
use crate::cases::images::{COLD, PUSH, SHARED};
use crate::command::{command, timed};
use crate::fixture::{Loop, Scratch};
use crate::history::{append, is_plain};
use crate::options::Options;
use crate::proof::{Inventory, Strictness};
use crate::report;
use crate::samples::Samples;
use crate::trees::Archive;
use crate::turns::{Game, Party as _, Turn};

/// The image that is pulled first, and the one that has all but the last of its layers.
pub(crate) const FIRST: &str = "first";
pub(crate) const SECOND: &str = "second";

/// How many files of the box are written to.
const CHANGED: usize = 10;

/// Of so many files the bytes of one are compared.
const SAMPLED: usize = 20;

/// Measures the largest of the trees on each file system.
pub(crate) fn all(
    archives: &[Archive],
    scratch: &Scratch,
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let Some(archive) = archives.last() else { return Ok(()) };
    let stage = Stage::set(archive, scratch, samples)?;
    let (case, rounds) = (COLD[0], options.image_rounds());
    let game = Game { what: "image", tree: archive.name, case, rounds, scratch };
    game.play(options, Contender::of, samples, |contender, turn| stage.turn(*contender, turn))
}

/// The image, where it is served, and what it holds.
struct Stage {
    registry: Registry,
    tree: PathBuf,
    inventory: Inventory,
    /// Files whose bytes are compared, and those that are written to.
    sampled: Vec<PathBuf>,
    changed: Vec<PathBuf>,
}

impl Stage {
    fn set(archive: &Archive, scratch: &Scratch, samples: &mut Samples) -> Result<Self> {
        let name = archive.name;
        report::progress(&format!("{name}: unpacking the tree for images"));
        let directory = scratch.path().join("images");
        let tree = directory.join("tree");
        std::fs::create_dir_all(&tree).context(|| format!("mkdir({tree:?})"))?;
        archive.unpack(&tree)?;
        let inventory = Inventory::take(&tree)?;
        let files: Vec<PathBuf> = inventory.single_files()?.into_iter().map(|(path, _)| path).collect();
        let sampled: Vec<PathBuf> = files.iter().step_by(SAMPLED).cloned().collect();
        let plain: Vec<PathBuf> = files.into_iter().filter(|path| is_plain(path)).collect();
        let changed: Vec<PathBuf> =
            (0..CHANGED.min(plain.len())).map(|at| plain[at * plain.len() / CHANGED].clone()).collect();
        report::progress(&format!("{name}: cutting it into layers"));
        let layout = layout::make(&tree, &directory)?;
        let registry = Registry::start(&directory.join("registry"))?;
        for tag in [FIRST, SECOND] {
            registry.take(&layout.path, tag)?;
        }
        std::fs::remove_dir_all(&layout.path).context(|| format!("rmdir({:?})", layout.path))?;
        keep_podmans_cache_apart()?;
        samples.proofs.push(format!(
            "image of {name}: {} entries of {:.0} MB in {} layers of {:.0} MB gzip; after each pull every entry must be there with its mode, owner, \
             size and time, and of {} files every byte; what was pushed must have {} changed files, and in one of them what was written",
            inventory.len(),
            inventory.bytes as f64 / 1e6,
            layout::LAYERS,
            layout.packed_bytes as f64 / 1e6,
            sampled.len(),
            changed.len()
        ));
        Ok(Self { registry, tree, inventory, sampled, changed })
    }

    fn turn(&self, contender: Contender, turn: &mut Turn<'_>) -> Result<()> {
        let (file_system, round) = (turn.file_system, turn.round);
        let directory = file_system.directory("images")?;
        let mut engine = contender.open(&directory)?;
        let mut add = |cases: &[Case; 4], spent: Spent| {
            let numbers = [spent.on_disk, spent.returned, spent.peak, spent.written];
            for (case, number) in cases.iter().zip(numbers) {
                turn.add(*case, number);
            }
        };
        let (first, second) = (self.registry.reference(FIRST), self.registry.reference(SECOND));
        let spent = spend(file_system, &directory, || engine.pull(&first, FIRST))?;
        engine.look(&first, FIRST, &|root| self.check(root, Strictness::ExactBelowRoot))?;
        add(&COLD, spent);
        let spent = spend(file_system, &directory, || engine.pull(&second, SECOND))?;
        engine.look(&second, SECOND, &|root| self.check_second(root))?;
        add(&SHARED, spent);
        let line = format!("written in round {round}\n");
        if !engine.change(&second, SECOND, &|root| append(root, &self.changed, &line))? {
            return Ok(());
        }
        let tag = format!("{}-{}-{round}", contender.name().replace([' ', '+'], "-"), file_system.kind());
        let to = self.registry.reference(&tag);
        let spent = spend(file_system, &directory, || engine.push(&to))?;
        self.registry.check_pushed(&tag, &self.changed, &line)?;
        add(&PUSH, spent);
        Ok(())
    }

    fn check(&self, root: &Path, strictness: Strictness) -> Result<()> {
        self.inventory.check(root, strictness)?;
        for path in &self.sampled {
            let read = |root: &Path| std::fs::read(root.join(path)).context(|| format!("read {path:?}"));
            if read(root)? != read(&self.tree)? {
                return Err(Error::new(ErrorKind::Corrupt, format!("{path:?} has other bytes")));
            }
        }
        Ok(())
    }

    fn check_second(&self, root: &Path) -> Result<()> {
        self.check(root, Strictness::WithAdditions)?;
        let path = root.join(layout::MORE);
        std::fs::symlink_metadata(&path).context(|| format!("lstat({path:?})")).map(drop)
    }
}

/// podman and skopeo know from a cache outside their storage which registry has which blob: here from one of this mount
/// namespace, so that what other runs put there helps nobody.
fn keep_podmans_cache_apart() -> Result<()> {
    let place = Path::new("/var/lib/containers/cache");
    if !place.exists() {
        return Ok(());
    }
    timed(command("mount", ["-t", "tmpfs", "bench-images"]).arg(place)).map(drop)
}

/// What something took: milliseconds until it returned and until it was on the disk, and MiB.
struct Spent {
    on_disk: f64,
    returned: f64,
    peak: f64,
    written: f64,
}

/// Does something on a file system where nothing is dirty.
fn spend(fixture: &Loop, directory: &Path, act: impl FnOnce() -> Result<Cost>) -> Result<Spent> {
    let directory = Dir::open(directory)?;
    directory.sync_file_system()?;
    let before = fixture.sectors_written()?;
    let cost = act()?;
    let start = Instant::now();
    directory.sync_file_system()?;
    let synced = start.elapsed();
    let written = (fixture.sectors_written()? - before) as f64 / 2048.0;
    let returned = cost.time.as_secs_f64() * 1e3;
    Ok(Spent {
        on_disk: returned + synced.as_secs_f64() * 1e3,
        returned,
        peak: cost.peak_kib as f64 / 1024.0,
        written,
    })
}
