//! rootling's backends as contenders, called as the library that they are.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rootling_backends::{
    Access, Backend, Baseline, Context, DiffOptions, ForkOptions, Form, Kind, Mount, Result, Tree, probe,
};

use crate::contender::{Contender, Found, View};

/// One backend, with the tree that it forks.
#[derive(Debug)]
pub(crate) struct Ours {
    name: String,
    backend: Box<dyn Backend>,
    parent: Tree,
    slot: PathBuf,
    fork: Option<(Tree, Baseline)>,
}

impl Ours {
    /// `slot` must not exist; its directory decides what the file system can do.
    pub(crate) fn new(kind: Kind, parent: Tree, slot: PathBuf) -> Result<Self> {
        let directory = slot.parent().expect("a slot lies in a directory");
        let backend = probe::open(kind, &probe::probe(directory)?)?;
        Ok(Self { name: format!("rootling {kind}"), backend, parent, slot, fork: None })
    }

    fn alive(&self) -> &(Tree, Baseline) {
        self.fork.as_ref().expect("the loop forks first")
    }
}

impl Contender for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn fork(&mut self) -> Result<Duration> {
        let start = Instant::now();
        std::fs::create_dir(&self.slot).context(|| format!("mkdir({:?})", self.slot))?;
        let always_clone = self.backend.kind() == Kind::Reflink;
        let options = ForkOptions { always_clone, ..ForkOptions::default() };
        let forked = self.backend.fork(&self.parent, &self.slot, options)?;
        let time = start.elapsed();
        let tree = match forked.form {
            Form::Full => Tree::full(&self.slot),
            Form::Delta => Tree::delta(&self.slot, &self.parent),
        };
        self.fork = Some((tree, forked.baseline));
        Ok(time)
    }

    fn view(&self) -> Result<View> {
        match self.backend.mount(&self.alive().0, Access::ReadWrite, false) {
            Mount::Bind { source } => Ok(View::directory(source)),
            mount => mount.open(Access::ReadWrite).map(View::mounted),
        }
    }

    fn changes(&mut self) -> Result<Option<(Duration, Found)>> {
        let (tree, baseline) = self.alive();
        let start = Instant::now();
        let changes = self.backend.changes(tree, &self.parent, baseline, DiffOptions::default())?;
        let time = start.elapsed();
        let found = changes.into_iter().map(|change| (change.kind.letter(), change.path));
        Ok(Some((time, found.collect())))
    }

    fn delete(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.backend.reap(&self.slot)?;
        let time = start.elapsed();
        self.fork = None;
        Ok(time)
    }

    fn settle(&mut self) -> Result<()> {
        if self.backend.kind() == Kind::Btrfs { crate::peers::wait_for_cleaner(&self.slot) } else { Ok(()) }
    }
}
