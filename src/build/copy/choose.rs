//! Sources of a step: found, listed, fetched; what is missing, and what may have been meant.

use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rootling_backends::{Context as _, EntryType, Error, ErrorKind, Result};

use super::super::context::{Context, Entry, Loading, Selection, Source};
use super::super::glob;
use super::super::ignore::Patterns;
use super::super::plan::CopyStep;
use super::checkout::Checkout;
use super::remote::Remote;
use crate::image::{Algorithm, Digest, Hasher};
use crate::near;
use crate::store::FileHashes;

/// What a step reads.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// Where local sources were looked for.
    pub context: &'a Context,
    /// What was found, in the order of the step.
    pub parts: Vec<Part>,
    /// What a person may want to know, each a lowercase fragment.
    pub notes: Vec<String>,
    pub(super) loading: &'a Loading<'a>,
}

/// What one source of a step means.
#[derive(Debug)]
pub enum Part {
    /// Files of the context.
    Local(Local),
    /// A file of a server.
    Remote(Remote),
    /// A commit of a repository.
    Repository(Checkout),
}

/// Files of the context.
#[derive(Debug)]
pub struct Local {
    /// Where they are.
    pub sources: Vec<Source>,
    /// What is taken of them.
    pub selection: Selection,
    /// As it was typed.
    text: String,
    /// What must be among it, relative to a source.
    required: Option<PathBuf>,
}

/// What was listed: for each part, for each of its sources, what is taken of it.
#[derive(Debug, Default)]
pub struct Listing {
    pub(super) parts: Vec<Vec<(Source, Vec<Entry>)>>,
}

impl Listing {
    /// Returns all that was listed, to be hashed.
    pub fn sources(&self) -> Vec<(Source, Vec<Entry>)> {
        self.parts.iter().flatten().cloned().collect()
    }
}

/// Finds all that a step reads of its context, and reads what else it names. Nothing is fetched yet.
///
/// A source that is missing is an error of kind `NotFound` that names it, what may have been meant, and the file that leaves it out; a pattern
/// that means nothing is a note.
pub fn choose<'a>(step: &CopyStep, context: &'a Context, loading: &'a Loading<'a>) -> Result<Chosen<'a>> {
    let mut chosen = Chosen { context, parts: Vec::new(), notes: Vec::new(), loading };
    let exclude = Patterns::of(&step.exclude).context(|| "read --exclude")?;
    for text in &step.sources {
        let repository = Checkout::parse(text, step, &exclude).map(|read| read.map(Part::Repository));
        let part = match repository.or_else(|| Some(Remote::parse(text, step)?.map(Part::Remote))) {
            Some(part) => part,
            None if step.parents => chosen.with_parents(text, &exclude).map(Part::Local),
            None => chosen.local(text, &exclude).map(Part::Local),
        };
        let part = part.context(|| format!("{} {text}", super::keyword(step)))?;
        chosen.parts.push(part);
    }
    if step.checksum.is_some() && !matches!(chosen.parts.as_slice(), [Part::Remote(_) | Part::Repository(_)])
    {
        let message = "--checksum is for one source that is fetched, and nothing else";
        return Err(
            Error::new(ErrorKind::InvalidInput, message).hint("leave it out, or ADD that source alone")
        );
    }
    Ok(chosen)
}

impl Chosen<'_> {
    /// Lists what is taken.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for part in &self.parts {
            let mut listed = Vec::new();
            if let Part::Local(local) = part {
                for source in &local.sources {
                    listed.push((source.clone(), self.context.list(source, &local.selection)?));
                }
                self.require(local, &listed)?;
            }
            listing.parts.push(listed);
        }
        Ok(listing)
    }

    /// Lists what is taken, and returns what it comes to: equal digests, equal copies. Fetches what has no `--checksum`.
    ///
    /// `known` is what files hashed to before, as in [`Context::contents`].
    pub fn read(&self, known: Option<&FileHashes>) -> Result<(Digest, Listing)> {
        let (mut listing, mut whole) = (Listing::default(), Hasher::new(Algorithm::Sha256));
        for part in &self.parts {
            let (words, listed) = match part {
                Part::Remote(remote) => (remote.words(self.loading)?, Vec::new()),
                Part::Repository(checkout) => (checkout.words(self.loading)?, Vec::new()),
                Part::Local(local) => {
                    let contents = self.context.contents(&local.sources, &local.selection, known)?;
                    self.require(local, &contents.sources)?;
                    (contents.digest.to_string(), contents.sources)
                }
            };
            // No two lists of words are the same bytes.
            whole.update(format!("{} {words}\n", words.len()).as_bytes());
            listing.parts.push(listed);
        }
        Ok((whole.finish(), listing))
    }

    /// Fails if a path that was named with `--parents` is not there.
    fn require(&self, local: &Local, listed: &[(Source, Vec<Entry>)]) -> Result<()> {
        let Some(required) = &local.required else { return Ok(()) };
        match listed.iter().find(|(_, entries)| !entries.iter().any(|entry| entry.path == *required)) {
            None => Ok(()),
            Some((source, _)) => {
                Err(self.missing(&source.path.join(required)).context(format!("COPY {}", local.text)))
            }
        }
    }

    fn local(&mut self, text: &str, exclude: &Patterns) -> Result<Local> {
        let selection = Selection { exclude: exclude.clone(), include: None };
        let sources = self.context.sources(text, &selection)?;
        if sources.is_empty() {
            let is_excluded = !self.context.sources(text, &Selection::default())?.is_empty();
            if is_excluded {
                self.notes.push(format!("--exclude leaves out all that {text} means"));
            } else {
                self.nothing(text)?;
            }
        }
        Ok(Local { sources, selection, text: text.to_owned(), required: None })
    }

    /// What is before `/./` is where paths begin; all that comes after it is kept.
    fn with_parents(&mut self, text: &str, exclude: &Patterns) -> Result<Local> {
        let (base, rest) = text.split_once("/./").unwrap_or(("/", text));
        let base = if base.is_empty() { "/" } else { base };
        let rest = glob::clean(&[b"/", rest.as_bytes()].concat())[1..].to_vec();
        let rest = String::from_utf8_lossy(&rest).into_owned();
        let include = (!rest.is_empty()).then(|| Patterns::of(&[&rest])).transpose()?;
        let sources = self.context.sources(base, &Selection::default())?;
        if sources.is_empty() {
            self.nothing(base)?;
        }
        let is_pattern = glob::has_wildcards(text.as_bytes());
        let required = (!is_pattern && include.is_some()).then(|| rest.into());
        let selection = Selection { exclude: exclude.clone(), include };
        Ok(Local { sources, selection, text: text.to_owned(), required })
    }

    fn nothing(&mut self, text: &str) -> Result<()> {
        if !glob::has_wildcards(text.as_bytes()) {
            return Err(self.missing(Path::new(text)));
        }
        self.notes.push(format!("{text} means nothing in {}", self.context.label()));
        Ok(())
    }

    /// Returns the error for a source that is not there.
    fn missing(&self, path: &Path) -> Error {
        let context = self.context;
        let path: PathBuf = path.strip_prefix("/").unwrap_or(path).into();
        let shown = path.display();
        let error = |message| Error::new(ErrorKind::NotFound, message);
        let is_there = context.root().open_in_root(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW).is_ok();
        if let Some(file) = context.ignore_file().filter(|_| is_there) {
            return error(format!("{file} leaves {shown} out of {}", context.label()))
                .hint(format!("take it back with a line !{shown} in {file}"));
        }
        if is_there {
            return error(format!("{shown} of {} is a link that leads to nothing in it", context.label()))
                .hint("name what it should lead to");
        }
        let error = error(format!("there is no {shown} in {}", context.label()));
        match meant(context, &path) {
            Some(names) => error.hint(format!("did you mean {names}?")),
            None => error,
        }
    }
}

/// Is a directory listed only for what is in it?
pub(super) fn is_on_the_way(selection: &Selection, entry: &Entry) -> bool {
    let means = |include: &Patterns| include.matches(&entry.path);
    entry.kind() == EntryType::Directory && selection.include.as_ref().is_some_and(|include| !means(include))
}

/// Returns what beside a path has nearly its name.
fn meant(context: &Context, path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let above = context.find(path.parent()?).ok()??;
    let dir = context.root().open_deep(&above.real).ok()?;
    let names: Vec<String> =
        dir.entries().ok()?.into_iter().filter_map(|entry| entry.name.into_string().ok()).collect();
    let is_visible = |name: &&str| !context.ignored().matches(&above.real.join(name));
    let near = near::near(name, names.iter().map(String::as_str).filter(is_visible));
    let shown: Vec<String> = near.iter().map(|name| above.path.join(name).display().to_string()).collect();
    (!shown.is_empty()).then(|| shown.join(" or "))
}
