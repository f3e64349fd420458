//! Who does the steps of a build: contexts, trees of the store and the runner, brought together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use nix::fcntl::OFlag;
use rootling_backends::graft::Origin;
use rootling_backends::{Dir, EntryType, Error, ErrorKind, Kind, Result};

use super::again;
use super::context::{Context, Entry, Loading, Source};
use super::copy::{self, Destination, choose};
use super::execute::{At, Done, End, Outcome, Worker, begins_with, identity, reads};
use super::explain::Explainer;
use super::plan::{CopyStep, From, Ground, MountKind, Owner, RunStep, Sharing, Step, Work};
use super::run::{self, Cache, CacheWanted, Inputs, Room, Template};
use crate::image::{Digest, Platform};
use crate::runner::log::Stream;
use crate::store::{CacheMount, CacheSharing, CacheStart, CacheUse, Failure, FileHashes, Node, Store};

/// How a directory is looked for.
const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);

/// What a build has.
#[derive(Debug)]
pub struct Workshop<'a> {
    /// Where trees are.
    pub store: &'a Store,
    /// The context of the build; `None` where there is none.
    pub main: Option<&'a Files>,
    /// The contexts that were named.
    pub contexts: &'a BTreeMap<String, Named>,
    /// The images that steps name, by name and platform.
    pub images: &'a BTreeMap<(String, String), Node>,
    /// What commands have in common.
    pub template: &'a Template,
    /// How files of servers are fetched.
    pub loading: &'a Loading<'a>,
    /// Is what is written to caches kept only if the command succeeds?
    pub keeps_caches_on_success: bool,
    /// The backend that makes the trees; `None` is the store's for what is thrown away.
    pub backend: Option<Kind>,
    /// Remembers what files came to.
    pub explainer: &'a Explainer,
    /// What the keys of steps say of the files that they read; empty in the beginning.
    pub contents: Mutex<BTreeMap<(usize, String, usize), String>>,
}

/// A directory of files, with what its files came to before.
#[derive(Debug)]
pub struct Files {
    /// The files.
    pub context: Context,
    /// What they hashed to.
    pub hashes: FileHashes,
}

/// What a named context is.
#[derive(Debug)]
pub enum Named {
    /// Files.
    Files(Box<Files>),
    /// A tree of the store.
    Node(Box<Node>),
}

impl Named {
    /// Returns the files, where it is no tree.
    pub fn files(&self) -> Option<&Files> {
        match self {
            Self::Files(files) => Some(files),
            Self::Node(_) => None,
        }
    }
}

impl Workshop<'_> {
    /// Returns the files that a ground is, where it is no tree.
    fn files(&self, from: Option<&Ground>) -> Result<Option<&Files>> {
        match from {
            None => self.main.map(Some).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "the build has no context to take files from")
                    .hint("say where files are: rootling build -f - DIRECTORY")
            }),
            Some(Ground::Context(name)) => match self.contexts.get(name) {
                Some(Named::Files(files)) => Ok(Some(&**files)),
                Some(Named::Node(_)) => Ok(None),
                None => Err(Error::new(ErrorKind::NotFound, format!("there is no context {name:?}"))),
            },
            Some(_) => Ok(None),
        }
    }

    /// Returns the digest of what a step reads of one of its sources.
    fn read(&self, step: &Step, number: usize, end: Option<&End>) -> Result<String> {
        match &step.work {
            Work::Copy(copy) => self.with_source(ground_of(copy), end, |context, _, hashes| {
                let chosen = choose(copy, context, self.loading)?;
                let (digest, listing) = chosen.read(hashes)?;
                self.remember(step, &listing.sources(), hashes);
                Ok(format!("content {digest}"))
            }),
            Work::Run(run) => {
                let binds = run.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountKind::Bind { from, source, .. } => Some((from.as_ref(), source)),
                    _ => None,
                });
                let (from, source) = binds.into_iter().nth(number).expect("it was counted the same way");
                self.with_source(from, end, |context, _, hashes| {
                    let path = Path::new(source.trim_start_matches('/'));
                    let contents = context.hash_path(path, hashes)?.ok_or_else(|| {
                        let message = format!("there is no {source} in {}", context.label());
                        Error::new(ErrorKind::NotFound, message)
                    })?;
                    self.remember(step, &contents.sources, hashes);
                    Ok(format!("content {}", contents.digest))
                })
            }
            Work::Say | Work::MakeDir { .. } => Ok(String::new()),
        }
    }

    /// Fails if what a step read of a context is not any more what its key says.
    fn require_same(&self, step: &Step, sources: &[Option<End>]) -> Result<()> {
        let count = reads(&step.work).len();
        for (number, end) in sources.iter().enumerate().take(count) {
            if end.as_ref().is_some_and(|end| end.identity.is_some()) {
                continue;
            }
            let Some(before) = self.contents().get(&of(step, number)).cloned() else { continue };
            let is_same = match self.read(step, number, end.as_ref()) {
                Ok(now) => now == before,
                // What is gone by now may have been gone, in part, when it was read.
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if !is_same {
                let message = "files that it reads were changed meanwhile";
                return Err(
                    Error::new(ErrorKind::Busy, message).hint("build again when nobody writes to them")
                );
            }
        }
        Ok(())
    }

    fn contents(&self) -> MutexGuard<'_, BTreeMap<(usize, String, usize), String>> {
        self.contents.lock().expect("nobody panics who holds it")
    }

    /// Remembers what the files of a context came to, to say which of them is another the next time.
    fn remember(&self, step: &Step, read: &[(Source, Vec<Entry>)], hashes: Option<&FileHashes>) {
        let Some(hashes) = hashes else { return };
        let entries = read.iter().flat_map(|(source, entries)| {
            entries.iter().map(|entry| {
                // Nothing joined to a path would end it with a slash.
                let path: PathBuf = source.real.components().chain(entry.path.components()).collect();
                let stat = &entry.stat;
                let is = match hashes.last_read(stat).filter(|_| entry.kind() == EntryType::File) {
                    Some(sum) => Digest::from_sha256(sum).short().to_owned(),
                    None => String::new(),
                };
                (path.display().to_string(), format!("{:o} {is}", stat.st_mode))
            })
        });
        self.explainer.read(step, entries);
    }

    /// Opens the tree of an end.
    fn tree(&self, end: Option<&End>, what: &str) -> Result<Option<(Context, Origin)>> {
        let Some(node) = end.and_then(|end| end.node.as_ref()) else { return Ok(None) };
        let origin = self.store.open_origin(node)?;
        let context = Context::of_tree(origin.root().try_clone()?, what.to_owned());
        Ok(Some((context, origin)))
    }

    /// Does something with what files are read from.
    fn with_source<T>(
        &self,
        from: Option<&Ground>,
        end: Option<&End>,
        then: impl FnOnce(&Context, &Origin, Option<&FileHashes>) -> Result<T>,
    ) -> Result<T> {
        if let Some(files) = self.files(from)? {
            let origin = Origin::plain(files.context.root().try_clone()?);
            return then(&files.context, &origin, Some(&files.hashes));
        }
        let what = from.map_or_else(String::new, shown);
        match self.tree(end, &what)? {
            Some((context, origin)) => then(&context, &origin, None),
            None => Err(Error::new(ErrorKind::NotFound, format!("{what} is empty"))),
        }
    }

    fn run(
        &self,
        at: At<'_>,
        step: &RunStep,
        over: Option<&Node>,
        ends: &[Option<End>],
        said: &(dyn Fn(Stream, &[u8]) + Sync),
    ) -> Result<Outcome> {
        let fork = self.store.step_fork(over, self.backend)?;
        let inputs = Mounts { shop: self, work: &at.step().work, ends };
        let room = Room { store: self.store, template: self.template, inputs: &inputs };
        let ended = run::perform(step, &fork, room, said)?;
        for note in &ended.notes {
            log::info!("{note}");
        }
        if ended.stopped {
            return Err(asked_to_end());
        }
        if let Some(refused) = ended.refused {
            return Ok(Outcome::Failed(fork, Failure::Reason(refused.chain().join(": "))));
        }
        Ok(match (ended.status, ended.signal()) {
            (0, _) => Outcome::Made(fork, Done::default()),
            (_, Some(signal)) => Outcome::Failed(fork, Failure::Signal(signal)),
            (code, None) => Outcome::Failed(fork, Failure::Code(code.into())),
        })
    }

    fn copy(&self, step: &CopyStep, over: Option<&Node>, end: Option<&End>) -> Result<Outcome> {
        let fork = self.store.step_fork(over, self.backend)?;
        let copied = {
            let destination = Destination::of(self.store, &fork)?;
            if step.sources.is_empty() {
                let empty = Dir::open(fork.slot())?;
                let nothing = Context::of_files(empty.try_clone()?, "nothing");
                let chosen = choose(step, &nothing, self.loading)?;
                copy::perform(step, &chosen, &chosen.list()?, &Origin::plain(empty), &destination)?
            } else {
                self.with_source(ground_of(step), end, |context, origin, _| {
                    let chosen = choose(step, context, self.loading)?;
                    copy::perform(step, &chosen, &chosen.list()?, origin, &destination)
                })?
            }
        };
        for note in &copied.notes {
            log::warn!("{note}");
        }
        let cost = &copied.cost;
        let done = Done {
            files: cost.files_cloned + cost.files_copied,
            cloned_bytes: cost.bytes_cloned,
            copied_bytes: cost.bytes_copied,
        };
        Ok(Outcome::Made(fork, done))
    }

    fn make_dir(&self, path: &str, user: &str, over: Option<&Node>) -> Result<Outcome> {
        if let Some(node) = over
            && self.store.open_root(node)?.open_in_root(Path::new(path), DIRECTORY).is_ok()
        {
            return Ok(Outcome::Nothing);
        }
        let fork = self.store.step_fork(over, self.backend)?;
        let made = copy::make_dir(path, user, &Destination::of(self.store, &fork)?)?;
        Ok(if made || over.is_none() { Outcome::Made(fork, Done::default()) } else { Outcome::Nothing })
    }
}

/// What is known of one source of a step is found by its instruction.
fn of(step: &Step, number: usize) -> (usize, String, usize) {
    (step.lines.0, step.shown.clone(), number)
}

fn asked_to_end() -> Error {
    Error::new(ErrorKind::Busy, "the build was asked to end")
}

fn ground_of(step: &CopyStep) -> Option<&Ground> {
    match &step.from {
        From::MainContext => None,
        From::Ground(ground) => Some(ground),
    }
}

fn shown(ground: &Ground) -> String {
    match ground {
        Ground::Scratch => "scratch".to_owned(),
        Ground::Stage(number) => format!("stage {number}"),
        Ground::Image(name) => name.clone(),
        Ground::Context(name) => format!("context {name}"),
    }
}

impl Worker for Workshop<'_> {
    fn end(&self, ground: &Ground, platform: &Platform) -> Result<End> {
        let node = match ground {
            Ground::Scratch | Ground::Stage(_) => return Ok(End::scratch()),
            Ground::Context(name) => match self.contexts.get(name) {
                Some(Named::Node(node)) => &**node,
                _ => return Ok(End { node: None, identity: None }),
            },
            Ground::Image(name) => {
                let key = (name.clone(), platform.to_string());
                self.images.get(&key).ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, format!("image {name} was not looked for"))
                })?
            }
        };
        Ok(End { identity: Some(identity(self.store, node)?), node: Some(node.clone()) })
    }

    fn content(&self, step: &Step, number: usize, end: Option<&End>) -> Result<String> {
        let content = self.read(step, number, end)?;
        self.contents().insert(of(step, number), content.clone());
        Ok(content)
    }

    fn perform(
        &self,
        at: At<'_>,
        over: Option<&Node>,
        sources: &[Option<End>],
        said: &(dyn Fn(Stream, &[u8]) + Sync),
    ) -> Result<Outcome> {
        if self.template.stop.is_asked() {
            return Err(asked_to_end());
        }
        let outcome = match &at.step().work {
            Work::Run(step) => self.run(at, step, over, sources, said),
            Work::Copy(step) => self.copy(step, over, sources.first().and_then(Option::as_ref)),
            Work::MakeDir { path, user } => self.make_dir(path, user, over),
            Work::Say => Ok(Outcome::Nothing),
        }?;
        if matches!(outcome, Outcome::Made(..)) {
            self.require_same(at.step(), sources)?;
        }
        Ok(outcome)
    }

    fn flags(&self, step: &Step) -> BTreeMap<String, Vec<String>> {
        let Work::Run(run) = &step.work else { return BTreeMap::new() };
        again::flags(run, |from| {
            let path = self.files(from).ok().flatten()?.context.path().ok()?;
            // What was unpacked for this build is gone after it.
            (!path.starts_with(self.store.root())).then_some(path)
        })
    }

    fn stop(&self) {
        self.template.stop.ask();
    }
}

/// What the mounts of one step show.
#[derive(Debug)]
struct Mounts<'a> {
    shop: &'a Workshop<'a>,
    work: &'a Work,
    /// Of what is read, then of what caches begin as.
    ends: &'a [Option<End>],
}

impl Mounts<'_> {
    fn end_of(&self, from: Option<&Ground>) -> Option<&End> {
        let grounds = reads(self.work).into_iter().chain(begins_with(self.work).map(Some));
        let found = grounds.zip(self.ends).find(|(ground, _)| *ground == from);
        found.and_then(|(_, end)| end.as_ref())
    }
}

impl Inputs for Mounts<'_> {
    fn files(&self, from: Option<&Ground>) -> Result<run::Files> {
        if let Some(files) = self.shop.files(from)? {
            return Ok(run::Files::Directory {
                path: files.context.path()?,
                hidden: files.context.left_out()?,
            });
        }
        let node = self.end_of(from).and_then(|end| end.node.as_ref()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} is empty", from.map_or_else(String::new, shown)))
        })?;
        Ok(run::Files::Tree(self.shop.store.mount(node)?.0))
    }

    fn cache(&self, wanted: CacheWanted<'_>) -> Result<Box<dyn Cache + '_>> {
        let shop = self.shop;
        let how = CacheUse {
            sharing: match wanted.sharing {
                Sharing::Shared => CacheSharing::Shared,
                Sharing::Private => CacheSharing::Private,
                Sharing::Locked => CacheSharing::Locked,
            },
            on_success: shop.keeps_caches_on_success,
        };
        let go_on = || if shop.template.stop.is_asked() { Err(asked_to_end()) } else { Ok(()) };
        let take = |content: Option<&Dir>| {
            let Owner { uid, gid, mode } = wanted.owner;
            shop.store.take_cache(wanted.id, how, CacheStart { content, uid, gid, mode }, &go_on)
        };
        let mount = match wanted.from {
            None => take(None)?,
            Some((ground, source)) => {
                shop.with_source(Some(ground), self.end_of(Some(ground)), |context, _, _| {
                    let path = source.trim_start_matches('/');
                    let from = context.root().open_in_root(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                    take(Some(&Dir::from_fd(from, path)))
                })?
            }
        };
        Ok(Box::new(Taken { store: shop.store, mount }))
    }
}

/// A cache of the store, as a step has it.
struct Taken<'a> {
    store: &'a Store,
    mount: CacheMount,
}

impl Cache for Taken<'_> {
    fn dir(&self) -> &Path {
        self.mount.dir()
    }

    fn end(self: Box<Self>, succeeded: bool) -> Result<()> {
        self.store.end_cache(self.mount, succeeded)
    }
}
