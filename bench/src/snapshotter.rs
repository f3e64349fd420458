//! Trees kept for containerd: rootling's snapshotter beside containerd's own, all of them through containerd.
//!
//! | file | idea |
//! |---|---|
//! | `daemons` | who keeps the trees, and a containerd of our own that asks them |
//! | `client` | containerd's client: one call after the other |
//!
//! In each round everybody has one turn, on a file system that was made for it. A turn makes a thousand trees on one, looks at them, commits
//! them and removes them; commits a large layer; pulls an image and starts containers on it.

mod client;
mod daemons;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Dir, Error, ErrorKind, Result};

use self::client::{Client, Shown};
use self::daemons::{Contender, Daemons};
use crate::cases::snapshotter::{COMMIT, LAYER, PREPARE, PULL, REMOVE, START, USAGE, WALK};
use crate::command::timed;
use crate::fixture::Scratch;
use crate::images::{FIRST, Registry, layout};
use crate::options::Options;
use crate::proof::{Inventory, Strictness};
use crate::report;
use crate::samples::Samples;
use crate::trees::Archive;
use crate::turns::{Game, Turn};

/// How much is made.
struct Size {
    snapshots: usize,
    layer: usize,
    starts: usize,
}

const FULL: Size = Size { snapshots: 1000, layer: 50_000, starts: 50 };
const QUICK: Size = Size { snapshots: 100, layer: 5000, starts: 5 };

/// What the parent of the thousand holds: as many files as a program of one's own has, since `native` copies all of it each time.
const BASE_FILES: usize = 50;

/// How often all are listed in a turn.
const WALKS: usize = 5;

/// Measures the smallest of the trees on each file system: only pulls and starts have to do with it.
pub(crate) fn all(
    archives: &[Archive],
    scratch: &Scratch,
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let Some(archive) = archives.first() else { return Ok(()) };
    keep_shims_apart()?;
    let size = if options.quick { QUICK } else { FULL };
    let stage = Stage::set(archive, size, scratch, samples)?;
    let (case, rounds) = (PREPARE, options.snapshotter_rounds());
    let game = Game { what: "containerd's trees", tree: archive.name, case, rounds, scratch };
    game.play(options, Contender::of, samples, |contender, turn| stage.turn(*contender, turn))
}

/// containerd's shims have their sockets at a path that is no setting: here one of this mount namespace.
fn keep_shims_apart() -> Result<()> {
    let place = Path::new("/run/containerd");
    std::fs::create_dir_all(place).context(|| format!("mkdir({place:?})"))?;
    timed(crate::command::command("mount", ["-t", "tmpfs", "bench-snapshotter"]).arg(place)).map(drop)
}

/// The image, and where it is served.
struct Stage {
    size: Size,
    registry: Registry,
    inventory: Inventory,
}

impl Stage {
    fn set(archive: &Archive, size: Size, scratch: &Scratch, samples: &mut Samples) -> Result<Self> {
        report::progress(&format!("{}: cutting it into layers", archive.name));
        let directory = scratch.path().join("snapshotter");
        let tree = directory.join("tree");
        std::fs::create_dir_all(&tree).context(|| format!("mkdir({tree:?})"))?;
        archive.unpack(&tree)?;
        let inventory = Inventory::take(&tree)?;
        let layout = layout::make(&tree, &directory)?;
        let registry = Registry::start(&directory.join("registry"))?;
        registry.take(&layout.path, FIRST)?;
        std::fs::remove_dir_all(&layout.path).context(|| format!("rmdir({:?})", layout.path))?;
        samples.proofs.push(format!(
            "containerd's trees: {} on a parent of {BASE_FILES} files, of which the first and the last are looked into; a layer of {} files, of which \
             every one must be in what is prepared on it; {} entries of {} after a pull, with mode, owner, size and time; nothing may be left \
             of what was removed",
            size.snapshots,
            size.layer,
            inventory.len(),
            archive.name,
        ));
        Ok(Self { size, registry, inventory })
    }

    fn turn(&self, contender: Contender, turn: &mut Turn<'_>) -> Result<()> {
        let directory = turn.file_system.directory("containerd")?;
        let daemons = Daemons::start(contender, &directory)?;
        let client = Client::connect(&daemons.socket(), &daemons.namespace, daemons.snapshotter)?;
        let mut here = Here { stage: self, daemons: &daemons, client, directory: &directory };
        here.many(turn)?;
        here.layer(turn)?;
        here.image(turn)
    }
}

/// A turn of somebody.
struct Here<'a> {
    stage: &'a Stage,
    daemons: &'a Daemons,
    client: Client,
    directory: &'a Path,
}

impl Here<'_> {
    fn sync(&self) -> Result<Duration> {
        let directory = Dir::open(self.directory)?;
        let start = Instant::now();
        directory.sync_file_system()?;
        Ok(start.elapsed())
    }

    fn show(&mut self, key: &str) -> Result<(Shown, PathBuf)> {
        let mounts = self.client.mounts(key)?;
        let place = self.directory.join("shown");
        Ok((Shown::at(&mounts, &place)?, place))
    }

    /// A thousand on one: made, counted, listed, committed, removed.
    fn many(&mut self, turn: &mut Turn<'_>) -> Result<()> {
        let count = self.stage.size.snapshots;
        self.client.prepare("base", "")?;
        {
            let (_shown, place) = self.show("base")?;
            write_files(&place, BASE_FILES)?;
        }
        self.client.commit("parent", "base")?;
        self.sync()?;

        let all: Vec<usize> = (0..count).collect();
        let start = Instant::now();
        for number in &all {
            self.client.prepare(&format!("key-{number}"), "parent")?;
        }
        turn.add(PREPARE, each(start.elapsed(), count));
        // Everybody has something of its own, so that there is something to commit.
        for number in &all {
            let (_shown, place) = self.show(&format!("key-{number}"))?;
            let check = *number == 0 || number + 1 == count;
            if check && count_files(&place)? != BASE_FILES {
                return Err(corrupt(format!("key-{number} does not show its parent")));
            }
            let file = place.join("own");
            std::fs::write(&file, number.to_string()).context(|| format!("write {file:?}"))?;
        }
        self.sync()?;

        let start = Instant::now();
        for number in &all {
            self.client.usage(&format!("key-{number}"))?;
        }
        turn.add(USAGE, each(start.elapsed(), count));
        for _ in 0..WALKS {
            let start = Instant::now();
            let walked = self.client.walk()?;
            turn.add(WALK, each(start.elapsed(), 1));
            if walked != count + 1 {
                return Err(corrupt(format!("{walked} are listed of {}", count + 1)));
            }
        }

        let start = Instant::now();
        for number in &all {
            self.client.commit(&format!("name-{number}"), &format!("key-{number}"))?;
        }
        let returned = start.elapsed();
        turn.add(COMMIT[0], each(returned, count));
        turn.add(COMMIT[1], each(returned + self.sync()?, count));

        let start = Instant::now();
        for number in &all {
            self.client.remove(&format!("name-{number}"))?;
        }
        self.client.remove("parent")?;
        self.daemons.collect()?;
        self.daemons.wait_until_gone()?;
        turn.add(REMOVE, each(start.elapsed(), count));
        if self.client.walk()? != 0 {
            return Err(corrupt("what was removed is listed".to_owned()));
        }
        Ok(())
    }

    /// A large layer, once written long ago and once just now.
    fn layer(&mut self, turn: &mut Turn<'_>) -> Result<()> {
        let count = self.stage.size.layer;
        for (case, is_dirty) in [(LAYER[0], false), (LAYER[1], true)] {
            let (key, name) = (format!("writing-{is_dirty}"), format!("layer-{is_dirty}"));
            self.client.prepare(&key, "")?;
            self.sync()?;
            {
                let (_shown, place) = self.show(&key)?;
                write_files(&place, count)?;
            }
            if !is_dirty {
                self.sync()?;
            }
            let start = Instant::now();
            self.client.commit(&name, &key)?;
            let returned = start.elapsed();
            turn.add(case, each(if is_dirty { returned + self.sync()? } else { returned }, 1));
            let mounts = self.client.view("looked-at", &name)?;
            let place = self.directory.join("shown");
            let shown = Shown::at(&mounts, &place)?;
            let found = count_files(&place)?;
            drop(shown);
            if found != count {
                return Err(corrupt(format!("{found} files of {count} are in the layer")));
            }
            self.client.remove("looked-at")?;
            self.client.remove(&name)?;
        }
        self.daemons.collect()
    }

    /// An image, and what is started on it.
    fn image(&mut self, turn: &mut Turn<'_>) -> Result<()> {
        let reference = self.stage.registry.reference(FIRST);
        let snapshotter = format!("--snapshotter={}", self.daemons.snapshotter);
        self.sync()?;
        let returned =
            timed(&mut self.daemons.ctr(&["images", "pull", "--plain-http", &snapshotter, &reference]))?;
        turn.add(PULL[0], each(returned, 1));
        turn.add(PULL[1], each(returned + self.sync()?, 1));
        let place = self.directory.join("image");
        std::fs::create_dir(&place).context(|| format!("mkdir({place:?})"))?;
        timed(self.daemons.ctr(&["images", "mount", &snapshotter, &reference]).arg(&place))?;
        let checked = self.stage.inventory.check(&place, Strictness::ExactBelowRoot);
        timed(self.daemons.ctr(&["images", "unmount", "--rm", &snapshotter]).arg(&place))?;
        checked?;
        let start = Instant::now();
        for number in 0..self.stage.size.starts {
            let id = format!("start-{number}");
            timed(&mut self.daemons.ctr(&["run", "--rm", &snapshotter, &reference, &id, "/bin/true"]))?;
        }
        turn.add(START, each(start.elapsed(), self.stage.size.starts));
        Ok(())
    }
}

/// Writes so many small files, a hundred in a directory.
fn write_files(root: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let directory = root.join(format!("d{}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir(&directory).context(|| format!("mkdir({directory:?})"))?;
        }
        let file = directory.join(format!("f{number}"));
        std::fs::write(&file, format!("this is file {number}\n")).context(|| format!("write {file:?}"))?;
    }
    Ok(())
}

fn count_files(root: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.map_err(std::io::Error::from).context(|| "walk the tree")?;
        count += usize::from(entry.file_type().is_file());
    }
    Ok(count)
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Returns the milliseconds of one of so many.
fn each(time: Duration, count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "thousands at most")]
    let count = count.max(1) as f64;
    time.as_secs_f64() * 1e3 / count
}
