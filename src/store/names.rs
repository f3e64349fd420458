//! Listings of names: which there are, and which a node has.
//!
//! A name is a link, so its text is had by listing `n/` alone, and what it points at by one call more for each. Nothing that lists is called
//! for each row of anything: who shows many nodes makes one [`Naming`] and passes it around.
//!
//! The other way, from a node to its names, is noted beside the node, in `o/<id>/names/`, before the name is given. Only `n/` says what
//! a name is: each note is compared with it, and one that is not true counts for nothing. Notes are not synced, so a power cut may lose
//! one of a name that is kept: then lists show the id, or another name, until fsck repairs it. Nothing is ever removed because of a note
//! that is not there.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use rayon::prelude::*;
use rootling_backends::{Context, ErrorKind, Result};

use super::{Label, Name, Node, ObjectId, Store, VolumeName, files};

/// What nodes are called: looked up node by node, or all names of a store at one moment.
#[derive(Debug)]
pub struct Naming<'a> {
    store: &'a Store,
    known: Mutex<Known>,
}

/// The names that were looked up.
#[derive(Debug, Default)]
struct Known {
    names: HashMap<ObjectId, Vec<Name>>,
    /// Are these all there are?
    is_whole: bool,
}

impl Naming<'_> {
    /// Returns the names of a node, by alphabet. Where they cannot be read there are none, and a warning.
    pub fn of(&self, id: &ObjectId) -> Vec<Name> {
        let mut known = self.known.lock().expect("nobody panics who holds it");
        if !known.is_whole && !known.names.contains_key(id) {
            known
                .look_up(self.store, id)
                .unwrap_or_else(|error| log::warn!("{id} is shown without its names: {error}"));
        }
        known.names.get(id).cloned().unwrap_or_default()
    }

    /// Returns the first name of a node by alphabet.
    pub fn first(&self, id: &ObjectId) -> Option<Name> {
        self.of(id).into_iter().next()
    }

    /// Returns what a person would call a node: its name, or else its id.
    pub fn label(&self, id: &ObjectId) -> String {
        self.first(id).map_or_else(|| id.to_string(), |name| name.to_string())
    }
}

impl Known {
    fn look_up(&mut self, store: &Store, id: &ObjectId) -> Result<()> {
        match store.noted_names(id)? {
            Some(names) => drop(self.names.insert(id.clone(), names)),
            None => *self = Self::list(store)?,
        }
        Ok(())
    }

    fn list(store: &Store) -> Result<Self> {
        let mut names: HashMap<ObjectId, Vec<Name>> = HashMap::new();
        for (name, id) in store.all_names()? {
            names.entry(id).or_default().push(name);
        }
        Ok(Self { names, is_whole: true })
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

    /// Returns the names of a volume's snapshots.
    pub(super) fn volume_snapshot_names(&self, of: &VolumeName) -> Result<BTreeMap<Name, ObjectId>> {
        let beginning = format!("{}%2F", of.node_name().encoded());
        self.names_where(|name| name.starts_with(&beginning))
    }

    /// Returns the labels of a box's snapshots. Reads the directory of names and nothing else.
    pub fn labels(&self, of: &Name) -> Result<Vec<Label>> {
        let beginning = beginning_of_snapshots(of);
        let names = files::list_where(&self.root.join("n"), |name| name.starts_with(&beginning))?.into_iter();
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

    /// Returns all names by what they point at: for whoever shows most nodes. O(names).
    pub fn naming(&self) -> Result<Naming<'_>> {
        Ok(Naming { store: self, known: Mutex::new(Known::list(self)?) })
    }

    /// Returns the names of nodes, each looked up when it is asked for: for whoever shows few of many. O(names) where a node is of a time
    /// when names were not noted.
    pub fn naming_as_asked(&self) -> Naming<'_> {
        Naming { store: self, known: Mutex::default() }
    }

    /// Returns a name of the node, if it has one: the first by alphabet. O(its names), or as [`naming_as_asked`](Self::naming_as_asked).
    pub fn name_of(&self, id: &ObjectId) -> Result<Option<Name>> {
        match self.noted_names(id)? {
            Some(names) => Ok(names.into_iter().next()),
            None => Ok(self.listed_names(id)?.into_iter().next()),
        }
    }

    /// Has the node a name? What is noted may say yes, and only the names themselves no. O(names) where there is none.
    pub(super) fn has_name(&self, id: &ObjectId) -> Result<bool> {
        let is_noted = self.noted_names(id)?.is_some_and(|names| !names.is_empty());
        Ok(is_noted || !self.listed_names(id)?.is_empty())
    }

    /// Returns the names of a node by a look at all names. O(names).
    fn listed_names(&self, id: &ObjectId) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        self.each_name(|_| true, |target| target == id, |name, _| names.push(name))?;
        names.sort();
        Ok(names)
    }

    // ---------------------------------------------------------------- notes

    fn notes(&self, id: &ObjectId) -> PathBuf {
        self.object_dir(id).join("names")
    }

    /// Notes that a node is about to have a name. One of a time when names were not noted stays without notes: they would not be all.
    pub(super) fn note_name(&self, id: &ObjectId, name: &Name) -> Result<()> {
        if let Some((of, label)) = name.of_snapshot() {
            self.note_label(&of, &label)?;
        }
        let encoded = name.encoded();
        match files::link_new(&format!("../../../n/{encoded}"), &self.notes(id).join(&encoded)) {
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => Ok(()),
            noted => noted,
        }
    }

    /// Takes back what was noted, once the name is gone from the node.
    pub(super) fn unnote_name(&self, id: &ObjectId, name: &Name) {
        // Best effort: a note that is not true costs a look at all names, and nothing else.
        if let Err(error) = files::remove_if_exists(&self.notes(id).join(name.encoded())) {
            log::debug!("{error}");
        }
    }

    /// Returns the names that are noted beside a node and are true, by alphabet; `None` where only a look at all names can tell: nothing
    /// was noted yet when it was made, or what was noted is true no more.
    fn noted_names(&self, id: &ObjectId) -> Result<Option<Vec<Name>>> {
        let notes = self.notes(id);
        let noted = match std::fs::read_dir(&notes) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            noted => noted.context(|| format!("opendir({notes:?})"))?,
        };
        let (mut names, mut is_empty) = (Vec::new(), true);
        for note in noted {
            is_empty = false;
            let file_name = note.context(|| format!("readdir({notes:?})"))?.file_name();
            let name = file_name.to_str().and_then(|name| Name::decode(name).ok());
            if let Some(name) = name
                && self.resolve_name(&name).is_ok_and(|target| target.as_ref() == Some(id))
            {
                names.push(name);
            }
        }
        names.sort();
        Ok((is_empty || !names.is_empty()).then_some(names))
    }

    /// Is a name noted beside its node? Where that has no notes at all, yes: it is looked for otherwise.
    pub(super) fn is_noted(&self, id: &ObjectId, name: &Name) -> bool {
        let notes = self.notes(id);
        !notes.exists() || notes.join(name.encoded()).is_symlink()
    }

    /// Gives nodes of a time when names were not noted their notes. The caller holds the store alone.
    pub(super) fn note_all(&self, ids: &[ObjectId]) -> Result<u64> {
        let (naming, mut count) = (self.naming()?, 0);
        for id in ids.iter().filter(|id| !self.notes(id).exists()) {
            // Whole or not at all: a node with notes is not looked for among all names.
            let temporary = self.object_dir(id).join(format!("names.{}~", std::process::id()));
            files::make_dir(&temporary)?;
            for name in naming.of(id) {
                let encoded = name.encoded();
                files::link_new(&format!("../../../n/{encoded}"), &temporary.join(&encoded))?;
            }
            files::sync_dir(&temporary)?;
            files::rename_new(&temporary, &self.notes(id))?;
            count += 1;
        }
        Ok(count)
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
        for file_name in &files::list_where(&path, wanted)? {
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
