//! Repositories that `ADD` takes files from.

use std::io;
use std::sync::Arc;

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::super::context::{Context, Entry, Loading, Place, Repository, Selection, Source};
use super::super::ignore::Patterns;
use super::super::plan::CopyStep;

/// A repository. A commit of it is fetched when it is copied, or for the key where that cannot be told without.
#[derive(Debug)]
pub struct Checkout {
    repository: Repository,
    text: String,
    selection: Selection,
}

impl Checkout {
    /// Reads a source; `None` where it is a path.
    pub(super) fn parse(text: &str, step: &CopyStep, exclude: &Patterns) -> Option<Result<Self>> {
        // A directory may have that name, too.
        let repository = Repository::parse(text).filter(|_| !text.starts_with("github.com/"))?;
        let selection = Selection { exclude: exclude.clone(), include: None };
        Some(repository.and_then(|repository| {
            let repository = asked(repository, step)?;
            Ok(Self { repository, text: text.to_owned(), selection })
        }))
    }

    /// Returns what a key says of it: equal words, equal copies. Asks the server, unless a whole commit is named.
    pub(super) fn words(&self, loading: &Loading<'_>) -> Result<String> {
        let commit = self.commit(loading)?;
        let known = match &*commit {
            Some(commit) => commit.clone(),
            None => self.files(loading)?.label().to_owned(),
        };
        Ok(format!("{} {known}", self.name()))
    }

    /// Returns what is the same for all that mean the same files of the same commit.
    fn name(&self) -> String {
        let wanted = self.repository.commit.as_deref().unwrap_or_default();
        format!("{} {wanted} git-dir={}", self.text, self.repository.keep_git_dir.unwrap_or(false))
    }

    fn commit(&self, loading: &Loading<'_>) -> Result<Arc<Option<String>>> {
        let ask = || {
            let scratch = loading.store.scratch()?;
            let commit = self.repository.resolve(scratch.path(), loading.means, loading.header);
            commit.context(|| format!("ask for the commit of {}", self.repository))
        };
        loading.gathered.commits.get(&self.name(), ask)
    }

    /// Fetches the files, once in a build.
    fn files(&self, loading: &Loading<'_>) -> Result<Arc<Context>> {
        // What the key says is what is copied, whatever is pushed meanwhile.
        let commit = self.commit(loading)?;
        let mut repository = self.repository.clone();
        if let Some(commit) = &*commit {
            repository.reference = Some(commit.clone());
        }
        let load = || Ok(Place::Git(repository).load(loading, io::empty())?.context);
        loading.gathered.checkouts.get(&self.name(), load)
    }

    /// Fetches the files, and lists what is taken of them.
    pub(super) fn listed(&self, loading: &Loading<'_>) -> Result<(Arc<Context>, Source, Vec<Entry>)> {
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
