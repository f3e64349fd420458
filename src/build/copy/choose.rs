//! Sources of a step: found and listed.

use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rootling_backends::{Context as _, EntryType, Error, ErrorKind, Result};

use super::super::context::{Context, Entry, Selection, Source, is_unchanged};
use super::super::glob;
use super::super::ignore::Patterns;
use super::super::plan::CopyStep;
use crate::near;

/// What a step reads.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// Where it was looked for.
    pub context: &'a Context,
    /// What was found, in the order of the step.
    pub items: Vec<Item>,
    /// What a person may want to know, each a lowercase fragment.
    pub notes: Vec<String>,
}

/// One source.
#[derive(Debug)]
pub struct Item {
    /// Where it is.
    pub source: Source,
    /// What is taken of it, itself first.
    pub entries: Vec<Entry>,
    /// `--parents`: what was asked for, where directories on the way are listed, too.
    pub(super) include: Option<Patterns>,
}

/// Finds and lists all that a step reads of its context.
///
/// A source that is missing is an error of kind `NotFound` that names it, what may have been meant, and the file that leaves it out; a pattern
/// that means nothing is a note.
pub fn choose<'a>(step: &CopyStep, context: &'a Context) -> Result<Chosen<'a>> {
    let mut chosen = Chosen { context, items: Vec::new(), notes: Vec::new() };
    let exclude = Patterns::of(&step.exclude).context(|| "read --exclude")?;
    for text in &step.sources {
        let add = if step.parents { Chosen::add_with_parents } else { Chosen::add };
        let name = if step.is_add { "ADD" } else { "COPY" };
        add(&mut chosen, text, &exclude).context(|| format!("{name} {text}"))?;
    }
    Ok(chosen)
}

impl Chosen<'_> {
    /// Returns what was listed, to be hashed.
    pub fn listed(&self) -> Vec<(Source, Vec<Entry>)> {
        self.items.iter().map(|item| (item.source.clone(), item.entries.clone())).collect()
    }

    /// Is everything still what it was when it was chosen? Who copies what was hashed asks afterwards. Costs a list.
    pub fn is_still(&self, step: &CopyStep) -> Result<bool> {
        let now = choose(step, self.context)?;
        let same_entry = |(a, b): (&Entry, &Entry)| a.path == b.path && is_unchanged(&a.stat, &b.stat);
        let same = |(a, b): (&Item, &Item)| {
            a.entries.len() == b.entries.len() && a.entries.iter().zip(&b.entries).all(same_entry)
        };
        Ok(now.items.len() == self.items.len() && now.items.iter().zip(&self.items).all(same))
    }

    fn add(&mut self, text: &str, exclude: &Patterns) -> Result<()> {
        let selection = Selection { exclude: exclude.clone(), include: None };
        let sources = self.context.sources(text, &selection)?;
        if sources.is_empty() {
            let is_excluded = !self.context.sources(text, &Selection::default())?.is_empty();
            return if is_excluded { self.excluded(text) } else { self.nothing(text) };
        }
        for source in sources {
            self.list(source, &selection)?;
        }
        Ok(())
    }

    /// What is before `/./` is where paths begin; all that comes after it is kept.
    fn add_with_parents(&mut self, text: &str, exclude: &Patterns) -> Result<()> {
        let (base, rest) = text.split_once("/./").unwrap_or(("/", text));
        let base = if base.is_empty() { "/" } else { base };
        let rest = glob::clean(&[b"/", rest.as_bytes()].concat())[1..].to_vec();
        let rest = String::from_utf8_lossy(&rest).into_owned();
        let include = (!rest.is_empty()).then(|| Patterns::of(&[&rest])).transpose()?;
        let selection = Selection { exclude: exclude.clone(), include };
        let sources = self.context.sources(base, &Selection::default())?;
        if sources.is_empty() {
            return self.nothing(base);
        }
        let is_pattern = glob::has_wildcards(text.as_bytes());
        for source in sources {
            let real = source.real.join(&rest);
            let listed = self.list(source, &selection)?;
            if !is_pattern
                && selection.include.is_some()
                && !listed.iter().any(|entry| entry.path == Path::new(&rest))
            {
                return Err(missing(self.context, &real));
            }
        }
        Ok(())
    }

    fn list(&mut self, source: Source, selection: &Selection) -> Result<&[Entry]> {
        let entries = self.context.list(&source, selection)?;
        self.items.push(Item { source, entries, include: selection.include.clone() });
        Ok(self.items.last().map_or(&[], |item| &item.entries))
    }

    fn excluded(&mut self, text: &str) -> Result<()> {
        self.notes.push(format!("--exclude leaves out all that {text} means"));
        Ok(())
    }

    fn nothing(&mut self, text: &str) -> Result<()> {
        if !glob::has_wildcards(text.as_bytes()) {
            return Err(missing(self.context, Path::new(text)));
        }
        self.notes.push(format!("{text} means nothing in {}", self.context.label()));
        Ok(())
    }
}

impl Item {
    /// Is it copied by its content?
    pub fn is_dir(&self) -> bool {
        self.source.is_dir()
    }

    /// Is a directory listed only for what is in it?
    pub(super) fn is_on_the_way(&self, entry: &Entry) -> bool {
        entry.kind() == EntryType::Directory
            && self.include.as_ref().is_some_and(|include| !include.matches(&entry.path))
    }
}

/// Returns the error for a source that is not there.
fn missing(context: &Context, path: &Path) -> Error {
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
