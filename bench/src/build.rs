//! Builds of Dockerfiles: many small steps, stages with a compiler, and files that are copied, by rootling's own program beside everyone who reads
//! the same file.
//!
//! | file | idea |
//! |---|---|
//! | `recipes` | what is built, and what must come of it |
//! | `packages` | the packages of a compiler, fetched once, so that no build waits for a network |
//! | `builder` | the contract: who builds |
//! | `ours`, `buildah`, `buildkit` | who does |
//!
//! In each round everybody has one turn, on a file system that was made for it and has the contexts, and the base image in a store of one's own. Times
//! are those of whole processes and of the sync of the file system after them, so that what was built is on the disk.

mod buildah;
mod builder;
mod buildkit;
mod ours;
mod packages;
mod recipes;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Dir, Error, ErrorKind, Result};

use self::builder::{Builder, Contender};
use self::recipes::{Recipes, STEPS};
use crate::cases::build::{
    BIG, BIG_KNOWN, BIG_USED, CHANGED, FILES, STAGES, STAGES_CACHED, STEPS_CACHED, STEPS_COLD,
};
use crate::command::{command, output};
use crate::fixture::Scratch;
use crate::options::Options;
use crate::proof::{Inventory, Strictness};
use crate::report;
use crate::samples::{Key, Samples};
use crate::trees::Archive;
use crate::turns::{Game, Turn};

/// How often what is cached is built again in a turn.
const AGAIN: usize = 3;

/// Measures the smallest of the trees on each file system: what it holds matters to no build but by its size on the way in.
pub(crate) fn all(
    archives: &[Archive],
    scratch: &Scratch,
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let Some(archive) = archives.first() else { return Ok(()) };
    let stage = Stage::set(archive, scratch, options, samples)?;
    let (case, rounds) = (STEPS_COLD, options.build_rounds());
    let game = Game { what: "builds", tree: archive.name, case, rounds, scratch };
    game.play(options, Contender::of, samples, |contender, turn| stage.turn(*contender, turn))
}

/// What everybody begins with.
struct Stage<'a> {
    archive: &'a Archive,
    /// What lies below `usr` of the base image.
    programs: Inventory,
    /// The packages of a compiler; `None` where they could not be fetched.
    packages: Option<PathBuf>,
}

impl<'a> Stage<'a> {
    fn set(
        archive: &'a Archive,
        scratch: &Scratch,
        options: &Options,
        samples: &mut Samples,
    ) -> Result<Self> {
        report::progress(&format!("{}: unpacking the tree for builds", archive.name));
        let tree = scratch.path().join("build-tree");
        std::fs::create_dir(&tree).context(|| format!("mkdir({tree:?})"))?;
        archive.unpack(&tree)?;
        let programs = Inventory::take(&tree.join("usr"))?;
        report::progress(&format!("{}: fetching the packages of a compiler", archive.name));
        let packages = packages::fetch(&tree, options.cache.as_deref().unwrap_or(scratch.path()));
        let packages = match packages {
            Ok(directory) => Some(directory),
            Err(error) => {
                let key = Key {
                    case: STAGES.id,
                    file_system: "any",
                    tree: archive.name,
                    contender: "everybody".to_owned(),
                };
                samples.fail(key, &error);
                None
            }
        };
        samples.proofs.push(format!(
            "builds on {}: every image must have the {} entries of the base below usr with mode, owner, size and time, what each of {STEPS} steps wrote, \
             what the compiled program says, every copied file with mode, owner, size and time, and of the large one every byte",
            archive.name,
            programs.len(),
        ));
        Ok(Self { archive, programs, packages })
    }

    fn turn(&self, contender: Contender, turn: &mut Turn<'_>) -> Result<()> {
        let file_system = turn.file_system;
        let (contexts, clones) = (file_system.directory("contexts")?, file_system.kind().clones());
        let recipes = Recipes::make(contexts, self.packages.as_deref(), clones)?;
        let directory = file_system.directory("store")?;
        let mut builds = Builds {
            builder: contender.open(&directory, self.archive)?,
            directory: Dir::open(&directory)?,
            turn,
            stage: self,
        };
        builds.steps(&recipes)?;
        builds.stages(&recipes)?;
        builds.files(&recipes)?;
        builds.big(&recipes)
    }
}

/// What one builds of all that there is to be built.
struct Builds<'a, 'b> {
    builder: Box<dyn Builder>,
    directory: Dir,
    turn: &'a mut Turn<'b>,
    stage: &'a Stage<'a>,
}

impl Builds<'_, '_> {
    fn steps(&mut self, recipes: &Recipes) -> Result<()> {
        let context = recipes.steps();
        let time = self.build(&context, "steps")?;
        self.look("steps", &recipes::check_steps)?;
        self.turn.add(STEPS_COLD, time);
        for _ in 0..AGAIN {
            let time = self.build(&context, "steps")?;
            self.turn.add(STEPS_CACHED, time);
        }
        self.look("steps", &recipes::check_steps)
    }

    fn stages(&mut self, recipes: &Recipes) -> Result<()> {
        let Some(context) = recipes.stages() else { return Ok(()) };
        let time = self.build(&context, "stages")?;
        self.look("stages", &recipes::check_stages)?;
        self.turn.add(STAGES, time);
        for _ in 0..AGAIN {
            let time = self.build(&context, "stages")?;
            self.turn.add(STAGES_CACHED, time);
        }
        Ok(())
    }

    fn files(&mut self, recipes: &Recipes) -> Result<()> {
        let context = recipes.files();
        let time = self.build(&context, "files")?;
        self.look("files", &|root| recipes.check_files(root))?;
        self.turn.add(FILES, time);
        recipes.change_one()?;
        let time = self.build(&context, "files")?;
        self.look("files", &|root| recipes.check_files(root))?;
        self.turn.add(CHANGED, time);
        Ok(())
    }

    fn big(&mut self, recipes: &Recipes) -> Result<()> {
        let Some(context) = recipes.big() else { return Ok(()) };
        self.directory.sync_file_system()?;
        let before = self.used_mib()?;
        let time = self.build(&context, "big")?;
        let used = self.used_mib()? - before;
        self.look("big", &|root| recipes.check_big(root, "srv"))?;
        self.turn.add(BIG, time);
        self.turn.add(BIG_USED, used);
        recipes.put_big_at("opt")?;
        let time = self.build(&context, "big-again")?;
        self.look("big-again", &|root| recipes.check_big(root, "opt"))?;
        self.turn.add(BIG_KNOWN, time);
        Ok(())
    }

    /// Builds where nothing is dirty, until it is on the disk.
    fn build(&mut self, context: &Path, image: &str) -> Result<f64> {
        self.directory.sync_file_system()?;
        let time = self.builder.build(context, image)?;
        let start = Instant::now();
        self.directory.sync_file_system()?;
        Ok(milliseconds(time + start.elapsed()))
    }

    fn look(&mut self, image: &str, check: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
        let programs = &self.stage.programs;
        self.builder.look(image, &|root| {
            programs.check(&root.join("usr"), Strictness::WithAdditions)?;
            check(root)
        })
    }

    /// Returns what is in use on the file system.
    fn used_mib(&self) -> Result<f64> {
        let text = output(command("df", ["--output=used", "--block-size=1K"]).arg(self.directory.path()))?;
        let number = text.lines().nth(1).and_then(|line| line.trim().parse::<f64>().ok());
        number
            .map(|kib| kib / 1024.0)
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("df says {text:?}")))
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
