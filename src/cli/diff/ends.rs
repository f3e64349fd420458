//! Which two states are compared, and which paths of them: what the words of the command line mean.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use rootling_backends::{Change, ChangeKind, DiffOptions, Dir, Error, ErrorKind, Result};

use super::super::store;
use super::side::Side;
use crate::reference::{Range, Reference, Which};
use crate::store::{Node, State, Store};

/// What is compared with what.
#[derive(Debug)]
pub(crate) struct Ends {
    /// `None`: what `new` stands on, which may lie outside of the store, and may be nothing.
    old: Option<Node>,
    new: Node,
}

impl Ends {
    pub(crate) fn between(old: Node, new: Node) -> Self {
        Self { old: Some(old), new }
    }

    /// A node against the state before it.
    pub(crate) fn of(store: &Store, node: Node) -> Result<Self> {
        Ok(Self { old: store.predecessor(&node)?, new: node })
    }

    pub(crate) fn changes(&self, store: &Store, options: DiffOptions) -> Result<Vec<Change>> {
        match &self.old {
            Some(old) => store.diff(old, &self.new, options),
            None => store.changes(&self.new, options),
        }
    }

    /// Opens both trees for reading. An import is compared with itself: nothing came before it.
    pub(crate) fn open(&self, store: &Store) -> Result<Sides> {
        let new = store.open_root(&self.new)?;
        let old = match &self.old {
            Some(old) => store.open_root(old)?,
            None => store.open_parent(&self.new)?.map_or_else(|| new.try_clone(), Ok)?,
        };
        Ok(Sides::of(old, new))
    }
}

/// Both trees.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) old: Side,
    pub(crate) new: Side,
}

impl Sides {
    pub(crate) fn of(old: Dir, new: Dir) -> Self {
        Self { old: Side(old), new: Side(new) }
    }

    pub(crate) fn roots(&self) -> [&Dir; 2] {
        [&self.old.0, &self.new.0]
    }
}

/// Reads `REFERENCE [WORD...]`: a range, or a tree and another one, and what is left: words that must be paths.
pub(super) fn read<'a>(store: &Store, reference: &str, words: &'a [String]) -> Result<(Ends, &'a [String])> {
    let find = |reference: &Reference| store::find(store, &reference.to_string());
    let ends = match Reference::parse_range(reference)? {
        Range::Between { from: Some(from), to: Some(to) } => Ends::between(find(&from)?, find(&to)?),
        Range::Between { from: Some(from), to: None } => {
            let old = find(&from)?;
            let new = present(store, &from, &old)?;
            Ends::between(old, new)
        }
        Range::Between { from: None, to: Some(to) } => {
            let new = find(&to)?;
            let old = store.origin(&new)?.ok_or_else(|| {
                let message = format!("{} was made from nothing in this store", new.shown());
                Error::new(ErrorKind::FailedPrecondition, message).hint("say what to compare it with: A..B")
            })?;
            Ends::between(old, new)
        }
        Range::Between { from: None, to: None } => {
            let error = Error::new(ErrorKind::InvalidInput, "a range needs a beginning or an end");
            return Err(error.hint("say A..B, A.. or ..B"));
        }
        Range::One(one) => {
            let first = find(&one)?;
            match words.split_first() {
                Some((word, rest)) if !is_surely_path(word) => match second(store, word)? {
                    Some(second) => return Ok((Ends::between(first, second), rest)),
                    None => Ends::of(store, first)?,
                },
                _ => Ends::of(store, first)?,
            }
        }
    };
    Ok((ends, words))
}

fn is_surely_path(word: &str) -> bool {
    word.starts_with(['/', '.']) || word.is_empty()
}

/// Returns the node that a word means; `None` where it must be a path.
fn second(store: &Store, word: &str) -> Result<Option<Node>> {
    if Reference::parse(word).is_err() {
        return Ok(None);
    }
    match store::find(store, word) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Returns the end of `A..`: the box that A is a state of as it stands, or else the box that was used last.
fn present(store: &Store, from: &Reference, node: &Node) -> Result<Node> {
    let said = match from {
        Reference::Node { which: Which::Named(name), .. } => Some(name),
        _ => node.name.as_ref(),
    };
    if let Some(name) = said {
        let of = name.of_snapshot().map_or_else(|| name.clone(), |(of, _)| of);
        if let Some(found) = store.named(&of)?
            && found.record.state == State::Active
        {
            return Ok(found);
        }
    }
    store::find(store, "-")
}

/// The paths that were asked for; none are all.
#[derive(Debug, Default)]
pub(super) struct Paths(Vec<PathBuf>);

impl Paths {
    /// Reads paths of the trees. A word that was not marked as a path by `--` must be there on one side: it may be a mistyped name.
    pub(super) fn read(
        words: &[String],
        marked: &[PathBuf],
        sides: impl Fn() -> Result<Sides>,
    ) -> Result<Self> {
        let mut paths = marked.iter().map(|path| normal(path)).collect::<Result<Vec<_>>>()?;
        if let Some(first) = words.first() {
            let sides = sides()?;
            for word in words {
                let path = normal(Path::new(word))?;
                if sides.old.inode(&path)?.is_none() && sides.new.inode(&path)?.is_none() {
                    let message = format!("{word:?} is neither a tree nor a path in one of the two");
                    let hint = format!("`rootling ls` lists trees; a path that is in neither: -- {first:?}");
                    return Err(Error::new(ErrorKind::NotFound, message).hint(hint));
                }
                paths.push(path);
            }
        }
        Ok(Self(paths))
    }

    pub(super) fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Is the change at, below, or by hiding it all above one of the paths?
    pub(super) fn concern(&self, change: &Change) -> bool {
        let hides = change.kind == ChangeKind::Deleted || change.aspects.kind;
        self.is_all()
            || self.contain(&change.path)
            || (hides && self.0.iter().any(|path| path.starts_with(&change.path)))
    }

    /// Is it one of the paths, or below one?
    pub(super) fn contain(&self, path: &Path) -> bool {
        self.is_all() || self.0.iter().any(|asked| path.starts_with(asked))
    }
}

/// Returns a path relative to the root of a tree, whatever it began with.
fn normal(path: &Path) -> Result<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let message = format!("{path:?} does not stay in the tree");
                return Err(Error::new(ErrorKind::InvalidInput, message).hint("write it without .."));
            }
        }
    }
    Ok(normal)
}

/// Splits a path of a tree into its directory and its name; the root's name is `.`.
pub(super) fn split(path: &Path) -> (&Path, &OsStr) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        _ => (Path::new(""), OsStr::new(".")),
    }
}
