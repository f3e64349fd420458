//! Listings of names: which there are, and which a node has.
//!
//! A name is a link, so its text is had by listing `n/` alone, and what it points at by one call more for each. Nothing here is called
//! for each row of anything: who shows many nodes makes one [`Naming`] and passes it around.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use rayon::prelude::*;
use rootling_backends::{Context, ErrorKind, Result};

use super::{Label, Name, Node, ObjectId, Store, files};

/// All names of a store at one moment, by what they point at.
#[derive(Debug, Default)]
pub struct Naming(HashMap<ObjectId, Vec<Name>>);

impl Naming {
    /// Returns the names of a node, by alphabet.
    pub fn of(&self, id: &ObjectId) -> &[Name] {
        self.0.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns the first name of a node by alphabet.
    pub fn first(&self, id: &ObjectId) -> Option<&Name> {
        self.of(id).first()
    }

    /// Returns what a person would call a node: its name, or else its id.
    pub fn label(&self, id: &ObjectId) -> String {
        self.first(id).map_or_else(|| id.to_string(), ToString::to_string)
    }
}

/// How the file names of volumes begin.
fn is_volume(file_name: &str) -> bool {
    file_name.starts_with("_volume%2F")
}

fn is_snapshot(file_name: &str) -> bool {
    file_name.contains('@')
}

impl Store {
    /// Returns all names of boxes and trees, and what they point at; the other two kinds are
    /// [`volumes`](Self::volumes)' and [`snapshots`](Self::snapshots)' business.
    pub fn names(&self) -> Result<BTreeMap<Name, ObjectId>> {
        self.names_where(|name| !is_volume(name) && !is_snapshot(name))
    }

    /// Returns all names, those of volumes and of snapshots included.
    pub(crate) fn all_names(&self) -> Result<BTreeMap<Name, ObjectId>> {
        self.names_where(|_| true)
    }

    /// Returns the names of volumes and of their snapshots.
    pub(super) fn volume_names(&self) -> Result<BTreeMap<Name, ObjectId>> {
        self.names_where(is_volume)
    }

    /// Returns the names of a box's snapshots.
    pub(super) fn snapshot_names(&self, of: &Name) -> Result<BTreeMap<Name, ObjectId>> {
        let beginning = beginning_of_snapshots(of);
        self.names_where(|name| name.starts_with(&beginning))
    }

    /// Returns the labels of a box's snapshots. Reads the directory of names and nothing else.
    pub fn labels(&self, of: &Name) -> Result<Vec<Label>> {
        let beginning = beginning_of_snapshots(of);
        let names = files::list(&self.root.join("n"))?.into_iter();
        Ok(names.filter_map(|name| Label::parse(name.strip_prefix(&beginning)?).ok()).collect())
    }

    /// Returns the text of every name, by alphabet. Reads the directory of names and nothing else.
    pub(crate) fn name_texts(&self) -> Result<Vec<String>> {
        let names = files::list(&self.root.join("n"))?;
        Ok(names.iter().filter_map(|name| Some(Name::decode(name).ok()?.as_str().to_owned())).collect())
    }

    /// Returns how many snapshots each box has that has any, by its name. Reads the directory of names and nothing else.
    pub fn snapshot_counts(&self) -> Result<HashMap<String, usize>> {
        let mut counts = HashMap::new();
        for name in files::list(&self.root.join("n"))?.iter().filter(|name| is_snapshot(name)) {
            if let Some((of, _)) = Name::decode(name).ok().and_then(|name| name.of_snapshot()) {
                *counts.entry(of.as_str().to_owned()).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Returns all names by what they point at: for whoever shows many nodes. O(names).
    pub fn naming(&self) -> Result<Naming> {
        let mut naming = Naming::default();
        for (name, id) in self.all_names()? {
            naming.0.entry(id).or_default().push(name);
        }
        Ok(naming)
    }

    /// Returns a name of the node, if it has one: the first by alphabet. O(names), so not for many nodes: see [`naming`](Self::naming).
    pub fn name_of(&self, id: &ObjectId) -> Result<Option<Name>> {
        let mut names = Vec::new();
        self.each_name(|_| true, |target| target == id, |name, _| names.push(name))?;
        Ok(names.into_iter().min())
    }

    fn names_where(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<Name, ObjectId>> {
        let mut names = BTreeMap::new();
        self.each_name(wanted, |_| true, |name, id| drop(names.insert(name, id)))?;
        Ok(names)
    }

    /// Calls `found`, in no order, for each name whose file name and whose object are wanted.
    fn each_name(
        &self,
        wanted: impl Fn(&str) -> bool,
        wanted_object: impl Fn(&ObjectId) -> bool,
        mut found: impl FnMut(Name, ObjectId),
    ) -> Result<()> {
        let path = self.root.join("n");
        let directory = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.context(|| format!("open({path:?})"))?,
        };
        for file_name in files::list_some(&path, usize::MAX)?.iter().filter(|name| wanted(name)) {
            // Leftovers of a crash and what a meddling hand put there are fsck's business.
            if let Some(id) = target(&directory, &path, file_name)?.filter(&wanted_object)
                && let Ok(name) = Name::decode(file_name)
            {
                found(name, id);
            }
        }
        Ok(())
    }

    /// Reads the nodes of names, as they are now: what was removed since the names were listed is left out, and a box whose name has
    /// moved on to another object is that.
    pub(crate) fn named_nodes(&self, names: BTreeMap<Name, ObjectId>) -> Result<Vec<Node>> {
        let names: Vec<_> = names.into_iter().collect();
        let read = names.into_par_iter().filter_map(|(name, id)| match self.node(&id) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.named(&name).transpose(),
            node => Some(node.map(|node| Node { name: Some(name), ..node })),
        });
        read.collect()
    }
}

fn beginning_of_snapshots(of: &Name) -> String {
    format!("{}@", of.encoded())
}

/// Returns the object that a link in `n/` points at; `None` where it is no such link, or has just gone.
fn target(directory: &File, path: &Path, file_name: &str) -> Result<Option<ObjectId>> {
    match nix::fcntl::readlinkat(directory, file_name) {
        Ok(target) => {
            let id = Path::new(OsStr::from_bytes(target.as_bytes())).file_name().and_then(OsStr::to_str);
            Ok(id.and_then(|id| ObjectId::parse(id).ok()))
        }
        Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error).context(|| format!("readlinkat({path:?}, {file_name:?})")),
    }
}
