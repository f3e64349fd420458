//! Repositories that `ADD` takes files from.

use std::cell::OnceCell;
use std::io;

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::super::context::{Context, Entry, Loading, Place, Repository, Selection, Source};
use super::super::ignore::Patterns;
use super::super::plan::CopyStep;

/// A repository, of which a commit is fetched once: when it is copied, or for the key where it cannot be told without.
#[derive(Debug)]
pub struct Checkout {
    repository: Repository,
    text: String,
    selection: Selection,
    /// Which commit it is.
    commit: OnceCell<Option<String>>,
    files: OnceCell<Context>,
}

impl Checkout {
    /// Reads a source; `None` where it is a path.
    pub(super) fn parse(text: &str, step: &CopyStep, exclude: &Patterns) -> Option<Result<Self>> {
        // A directory may have that name, too.
        let repository = Repository::parse(text).filter(|_| !text.starts_with("github.com/"))?;
        let selection = Selection { exclude: exclude.clone(), include: None };
        Some(repository.and_then(|repository| {
            let repository = asked(repository, step)?;
            Ok(Self {
                repository,
                text: text.to_owned(),
                selection,
                commit: OnceCell::new(),
                files: OnceCell::new(),
            })
        }))
    }

    /// Returns what a key says of it: equal words, equal copies. Asks the server, unless a whole commit is named.
    pub(super) fn words(&self, loading: &Loading<'_>) -> Result<String> {
        let known = match self.commit(loading)? {
            Some(commit) => commit.to_owned(),
            None => self.files(loading)?.label().to_owned(),
        };
        let keeps = self.repository.keep_git_dir.unwrap_or(false);
        Ok(format!("{} {known} git-dir={keeps}", self.text))
    }

    fn commit(&self, loading: &Loading<'_>) -> Result<Option<&str>> {
        if self.commit.get().is_none() {
            let scratch = loading.store.scratch()?;
            let ask = || self.repository.resolve(scratch.path(), loading.means, loading.header);
            let commit = ask().context(|| format!("ask for the commit of {}", self.repository))?;
            drop(self.commit.set(commit));
        }
        Ok(self.commit.get().and_then(Option::as_deref))
    }

    /// Fetches the files, once.
    fn files(&self, loading: &Loading<'_>) -> Result<&Context> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        // What the key says is what is copied, whatever is pushed meanwhile.
        let mut repository = self.repository.clone();
        if let Some(commit) = self.commit(loading)? {
            repository.reference = Some(commit.to_owned());
        }
        let loaded = Place::Git(repository).load(loading, io::empty())?;
        Ok(self.files.get_or_init(|| loaded.context))
    }

    /// Fetches the files, and lists what is taken of them.
    pub(super) fn listed(&self, loading: &Loading<'_>) -> Result<(&Context, Source, Vec<Entry>)> {
        let files = self.files(loading)?;
        let found = files.find("".as_ref())?;
        let source =
            found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} is empty", self.text)))?;
        let entries = files.list(&source, &self.selection)?;
        Ok((files, source, entries))
    }

    /// Returns what is taken of it.
    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }
}

/// Adds what the flags of the step say to what the address says, if the two agree.
fn asked(mut repository: Repository, step: &CopyStep) -> Result<Repository> {
    let refuse = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::InvalidInput, message.to_owned()).hint(hint.to_owned()))
    };
    if !step.is_add {
        return refuse("COPY takes no repositories", "write ADD for it");
    }
    if repository.is_local() {
        return refuse("a Dockerfile may name no repository of this machine", "give it with --build-context");
    }
    if let Some(wanted) = &step.checksum {
        if repository.commit.as_ref().is_some_and(|commit| commit != wanted) {
            return refuse("--checksum and the address name two commits", "leave one of them out");
        }
        let is_commit =
            (7..=64).contains(&wanted.len()) && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_commit {
            return refuse("--checksum of a repository is a commit", "write its digits");
        }
        repository.commit = Some(wanted.clone());
    }
    if step.keep_git_dir {
        if repository.keep_git_dir == Some(false) {
            return refuse("--keep-git-dir and the address say two things of .git", "leave one of them out");
        }
        repository.keep_git_dir = Some(true);
    }
    Ok(repository)
}
