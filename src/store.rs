//! What is on disk and true: nodes, their records and names.
//!
//! The file system is the database: one directory for each object, holding its tree and its record; names are
//! symbolic links; every change of state is one rename or one link. [`FORMAT.md`](format_text) describes every byte.
//!
//! | file | what it is for |
//! |---|---|
//! | `store.rs` | opening, reading: nodes, names, trees |
//! | `format` `record` `index` | the files that are read and written |
//! | `id` `name` | the two ways to say which |
//! | `names` `labels` | listings of names; what is noted so that few have to be read |
//! | `draft` | building an object aside and publishing it |
//! | `boxes` | import, create, fork: what makes nodes |
//! | `imported` | what was made of the same source before |
//! | `freeze` | the present state of a box becomes a committed node |
//! | `unchanged` | boxes that are in a state which exists already |
//! | `restore` `undo` | a box becomes what another state is; back and forth along its states |
//! | `in_place` | a tree is changed where it is |
//! | `settle` | what was cut short is finished |
//! | `snapshots` `life` | the named states of a box, and what of it goes on from one to the next |
//! | `forks` `identity` | many boxes at once; what tells one machine from another |
//! | `promote` `trying` | a box takes the name of another, or the place of what it was forked from |
//! | `settings` | what a box is started with; its home |
//! | `bundles` `mounted` | boxes made for other runtimes; what is mounted where, and who runs in it |
//! | `chain` `shed` | how chains of deltas, and records, stay short |
//! | `three_way` `merging` | changes of one line of states taken over to another |
//! | `blobs` | bytes known by their digest: written, verified, kept, swept |
//! | `images` `layers` | manifests and layers become nodes with a name; what these say of themselves |
//! | `stack` `unpack` | layers, each on the one before: what is missing is unpacked, what is there is shared |
//! | `steps` | the steps of builds, found by what went into them; images that were built |
//! | `repositories` | what was pushed to the store as a registry, not unpacked; what tags mean |
//! | `verify` | is it still what was unpacked; repairing it from its blob |
//! | `volumes` | trees that are mounted in boxes: volumes and their snapshots |
//! | `held` | trees that another program names and removes itself: containerd's snapshots |
//! | `hashes` | what files of the host hashed to, so that contexts of builds need not be read again |
//! | `caches` | volumes that builds write to, one after the other or together |
//! | `home` | a volume that begins as a directory of the host |
//! | `line` | the states that become layers when a node leaves the store |
//! | `pulled` | states that came as layers, as snapshots again |
//! | `host` `host_changes` | a fork of the machine it runs on; what was done there, done to the machine and taken back |
//! | `remove` `removed` | removing for good, and the sweep; removing so that it can be brought back |
//! | `rename` `marks` | other names; locks, notes and further names |
//! | `policy` `retention` | which snapshots are made by themselves, and which stay (plans of prune) |
//! | `sizes` `extents` | what nodes occupy, and what their removal would free; what is remembered of it |
//! | `check` | fsck |
//! | `lock` `files` `envelope` `fault` | what the above stand on |
//!
//! **Invariants.** A name points at an object that is whole. A committed object never changes. An object in `o/` has a
//! record; its parent exists as long as it does. Nothing here talks to a network or starts a process.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use rayon::prelude::*;
use rootling_backends::probe::{self, Abilities};
use rootling_backends::{Backend, Context, Error, ErrorKind, Form, Kind, Result, Tree, private};

mod blobs;
mod boxes;
mod bundles;
mod caches;
mod chain;
mod check;
mod diff;
mod draft;
mod envelope;
mod extents;
pub(crate) mod fault;
mod files;
mod forks;
mod format;
mod freeze;
mod hashes;
mod held;
mod home;
mod host;
mod host_changes;
mod id;
mod identity;
mod images;
mod imported;
mod in_place;
mod index;
mod labels;
mod layers;
mod life;
mod line;
mod lock;
mod marks;
mod merging;
mod mounted;
mod name;
mod names;
mod needed;
mod path_text;
mod policy;
mod promote;
mod pulled;
mod record;
mod remove;
mod removed;
mod rename;
mod repositories;
mod restore;
mod retention;
mod settings;
mod settle;
mod shed;
mod sizes;
mod snapshots;
mod stack;
mod steps;
mod three_way;
mod trying;
mod unchanged;
mod undo;
mod unpack;
mod verify;
mod volumes;

pub use blobs::{Blobs, Partial, Synced, Upload};
pub use boxes::{CreateOptions, Description};
pub use caches::{CacheMount, CacheSharing, CacheStart, CacheUse};
pub use check::{Checked, Problem, Severity};
pub use draft::{Ephemeral, Scratch};
pub use files::Durability;
pub use format::{Features, Format};
pub use freeze::Still;
pub use hashes::FileHashes;
pub use held::{Held, HeldInfo, HeldKind, HeldMount, HeldTrees, HeldUsage};
pub use host_changes::{HostReview, HostUndone};
pub use id::ObjectId;
pub use identity::Identity;
pub use images::{AddedImage, ImageEntry, ImageParts, Progress, Supply};
pub use index::{Entry, Index};
pub use layers::{Image, Layer};
pub use life::Life;
pub use line::{Documents, Line, LineState, PackedState};
pub use marks::Marks;
pub use merging::{Merged, Merging, Range, Sides};
pub use mounted::{MountedTrees, process_rooted_in};
pub use name::{Label, Name};
pub use names::Naming;
pub use policy::{Keep, Policy, Trigger};
pub use promote::{Promoted, Promotion};
pub use pulled::StateOfImage;
pub use record::{Becoming, Cause, KeptVolume, Part, Record, Role, State};
pub use remove::Pruned;
pub use removed::Removed;
pub use repositories::{Kept, Push, Pushed, PushedTag, Repository, Tagged, canonical, is_tag, repository_of};
pub use restore::{Moved, RestoreOptions};
pub use retention::{Builds, Doomed, Housekeeping, Outcome, Why};
pub use settings::{BoxSettings, Home, HomeMode};
pub use sizes::{Size, Sizes};
pub use snapshots::SnapshotOptions;
pub use steps::{Built, Failure, StepRecord};
pub use three_way::{Conflict, Decision, decide};
pub use trying::{Applied, Replaceable};
pub use verify::{Damage, Fate, Verified};
pub use volumes::{RemoveVolume, VolumeName, VolumeReference};

#[doc = include_str!("store/FORMAT.md")]
pub mod format_text {}

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    format: Format,
    backends: [OnceLock<Box<dyn Backend>>; 4],
}

/// An object with its record and one of its names.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is called on disk.
    pub id: ObjectId,
    /// What the store knows of it.
    pub record: Record,
    /// A name of it, if it has one; the first by alphabet.
    pub name: Option<Name>,
}

impl Node {
    /// Returns the name, or the id of a node without one.
    pub fn label(&self) -> &str {
        self.name.as_ref().map_or(self.id.as_str(), Name::as_str)
    }

    /// Returns what messages call it: a volume and its snapshots by the names that people give them.
    pub(crate) fn shown(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), Name::to_string)
    }
}

/// What a materialization stands on.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// A node of this store.
    Node(&'a Node),
    /// The running machine.
    Host,
}

/// How many records at most say that another object has their tree, one after the other.
const MOST_STEPS_TO_A_TREE: usize = 4;

/// Directories of a store, in the order in which they are made.
const DIRECTORIES: [&str; 5] = ["o", "n", "labels", "tmp", "trash"];

impl Store {
    // ------------------------------------------------------------ opening

    /// Makes a store at `root`, an empty or missing directory, and opens it. Nobody but its owner can enter it.
    ///
    /// `backend` becomes its default; `None` chooses by what the file system can do. An existing store is an error of kind
    /// `AlreadyExists`. A crash leaves a directory without `format`, which a second call completes.
    pub fn init(root: &Path, backend: Option<Kind>) -> Result<Self> {
        let intent = || format!("make store {root:?}");
        if Format::exists(root) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{root:?} is a store already")));
        }
        private::make_dirs(root).context(intent)?;
        let strange: Vec<String> = files::list(root)
            .context(intent)?
            .into_iter()
            .filter(|name| !DIRECTORIES.contains(&name.as_str()) && name != "lock" && name != "lost+found")
            .collect();
        if let Some(name) = strange.first() {
            let message = format!("{root:?} is neither empty nor a store: it holds {name:?}");
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("choose an empty directory"));
        }
        let abilities = probe::probe(root).context(intent)?;
        let format = Format {
            version: format::VERSION,
            features: Features::default(),
            created: Timestamp::now(),
            backend,
            abilities,
        };
        if let Some(kind) = backend {
            drop(probe::open(kind, &format.abilities).context(intent)?);
        }
        for directory in DIRECTORIES {
            files::make_dir(&root.join(directory)).context(intent)?;
        }
        let lock = root.join("lock");
        let made = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
        made.context(|| format!("open({lock:?}, O_CREAT)")).context(intent)?;
        files::sync_dir(root).context(intent)?;
        fault::point("init.directories");
        format.write(root).context(intent)?;
        fault::point("init.format");
        Self::open(root)
    }

    /// Opens the store at `root`.
    ///
    /// No store there is an error of kind `NotFound`; one of a version or with features unknown to this program is
    /// refused with kind `Unsupported`. Costs one small read.
    pub fn open(root: &Path) -> Result<Self> {
        let format = Format::read(root).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("there is no store at {root:?}"))
                .hint(format!("make one: rootling init {}", root.display())),
            _ => error,
        })?;
        let root = std::path::absolute(root).context(|| format!("getcwd(), for {root:?}"))?;
        // Stores were made open to all once; the set-user-id programs of the trees are those of the host.
        if let Err(error) = private::close_to_others(&root) {
            log::warn!("other users can run what lies in the store: {error}");
        }
        Ok(Self { root, format, backends: Default::default() })
    }

    /// Opens the store at `root`, making it first where there is none.
    pub fn open_or_init(root: &Path) -> Result<Self> {
        if Format::exists(root) {
            return Self::open(root);
        }
        match Self::init(root, None) {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::open(root),
            other => other,
        }
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the store's directory without symbolic links, to compare it with paths of the machine.
    pub(crate) fn real_root(&self) -> Result<PathBuf> {
        self.root.canonicalize().context(|| format!("realpath({:?})", self.root))
    }

    /// Returns the format file as read.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Returns what the store's file system can do.
    pub fn abilities(&self) -> &Abilities {
        &self.format.abilities
    }

    /// Does OverlayFS keep its marks in `user.` here?
    pub(crate) fn userxattr(&self) -> bool {
        self.format.abilities.userxattr
    }

    /// Returns a backend of this store; one that does not work here is an error of kind `Unsupported` with the reason.
    pub fn backend(&self, kind: Kind) -> Result<&dyn Backend> {
        let slot = &self.backends[kind as usize];
        if let Some(backend) = slot.get() {
            return Ok(backend.as_ref());
        }
        let opened = probe::open(kind, &self.format.abilities)
            .context(|| format!("use backend {kind} in store {:?}", self.root))?;
        Ok(slot.get_or_init(|| opened).as_ref())
    }

    /// Returns the backend for what lives long: the store's own choice, or the best one here.
    pub fn default_backend(&self) -> Kind {
        self.format.backend.unwrap_or_else(|| probe::auto_persistent(&self.format.abilities))
    }

    /// Returns the backend for what is thrown away: the store's own choice, or the fastest one here.
    pub fn ephemeral_backend(&self) -> Kind {
        self.format.backend.unwrap_or_else(|| probe::auto_ephemeral(&self.format.abilities))
    }

    // ------------------------------------------------------------ places

    fn object_dir(&self, id: &ObjectId) -> PathBuf {
        self.root.join("o").join(id.as_str())
    }

    fn name_link(&self, name: &Name) -> PathBuf {
        match name.as_str().strip_prefix(Name::STEPS) {
            Some(step) => self.root.join("steps").join(step),
            None => self.root.join("n").join(name.encoded()),
        }
    }

    fn child_link(&self, parent: &ObjectId, child: &ObjectId) -> PathBuf {
        self.object_dir(parent).join("by").join(child.as_str())
    }

    fn share(&self) -> Result<fs::File> {
        let what = format!("store {:?}", self.root);
        let lock = lock::lock_file(&self.root.join("lock"), lock::Mode::Shared, &what)?;
        self.finish_renaming()?;
        Ok(lock)
    }

    fn share_to_write(&self) -> Result<fs::File> {
        self.format.require_writable(&self.root)?;
        self.share()
    }

    // ------------------------------------------------------------ reading

    /// Returns the object that a name points at.
    pub fn resolve_name(&self, name: &Name) -> Result<Option<ObjectId>> {
        let link = self.name_link(name);
        match fs::read_link(&link) {
            Ok(target) => {
                let id = target.file_name().and_then(|id| id.to_str()).unwrap_or_default();
                ObjectId::parse(id).map(Some).context(|| format!("name {name} of store {:?}", self.root))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("readlink({link:?})"), error)),
        }
    }

    /// Returns the node with an id. One that does not exist is an error of kind `NotFound`.
    pub fn node(&self, id: &ObjectId) -> Result<Node> {
        let place = self.object_dir(id);
        let record = Record::read(&place).context(|| format!("read node {id}")).map_err(|error| {
            let is_gone = error.kind() == ErrorKind::NotFound && !place.exists();
            if is_gone {
                Error::new(ErrorKind::NotFound, format!("there is no node {id} any more"))
            } else {
                error
            }
        })?;
        if record.id != *id {
            let message = format!("node {id} holds the record of {}", record.id);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Node { id: id.clone(), record, name: None })
    }

    /// Returns the node that a name points at, or `None`.
    pub fn named(&self, name: &Name) -> Result<Option<Node>> {
        while let Some(id) = self.resolve_name(name)? {
            match self.node(&id) {
                // Another object has taken its place, or the name is gone by now.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && self.resolve_name(name)?.as_ref() != Some(&id) => {}
                node => {
                    let node = node.context(|| format!("read what {name} is"))?;
                    return Ok(Some(Node { name: Some(name.clone()), ..node }));
                }
            }
        }
        Ok(None)
    }

    /// Returns the ids of all objects.
    pub fn ids(&self) -> Result<Vec<ObjectId>> {
        Ok(files::list(&self.root.join("o"))?.iter().filter_map(|id| ObjectId::parse(id).ok()).collect())
    }

    /// Returns all trees that have a name, each with that name, sorted by it; no volumes.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        let _lock = self.share()?;
        self.named_nodes(self.names()?)
    }

    /// Returns every node of the store, volumes and what has no name included, by id and without names. O(nodes), read in parallel.
    ///
    /// A record that cannot be read is warned of and left out: it is fsck's business, and hides nothing else.
    pub fn all_nodes(&self) -> Result<Vec<Node>> {
        let _lock = self.share()?;
        let read = self.ids()?.into_par_iter().filter_map(|id| match self.node(&id) {
            Ok(node) => Some(node),
            // Removed since they were listed.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                log::warn!("node {id} is left out: {error}");
                None
            }
        });
        Ok(read.collect())
    }

    /// Returns the nodes made from `id`, or that need it for another reason, that still exist. O(children).
    pub fn children(&self, id: &ObjectId) -> Result<Vec<Node>> {
        let children = files::list(&self.object_dir(id).join("by"))?.into_par_iter();
        children.filter_map(|child| self.child(id, &child).transpose()).collect()
    }

    /// Was anything made from `id` that still exists? Looks no further than the first.
    pub(crate) fn has_children(&self, id: &ObjectId) -> Result<bool> {
        for child in files::list(&self.object_dir(id).join("by"))? {
            if self.child(id, &child)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the ids of up to `limit` nodes made from `id`; any of them may have been removed, by a crash that left its link.
    pub fn some_child_ids(&self, id: &ObjectId, limit: usize) -> Result<Vec<ObjectId>> {
        let ids = files::list_some(&self.object_dir(id).join("by"), limit)?;
        Ok(ids.iter().filter_map(|id| ObjectId::parse(id).ok()).collect())
    }

    fn child(&self, id: &ObjectId, file_name: &str) -> Result<Option<Node>> {
        let Ok(child) = ObjectId::parse(file_name) else { return Ok(None) };
        match self.node(&child) {
            // A link is made before its child and may outlive it: only the child's own word counts.
            Ok(node) => Ok(Some(node).filter(|node| node.record.needs().any(|needed| needed == id))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt && self.was_cut_off(&child) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the slot that holds a node's `fs/`: its own, or that of the object whose tree it has too.
    ///
    /// Whatever looks into a tree begins here; `object_dir` is where a node's record and locks are.
    pub(crate) fn tree_slot(&self, node: &Node) -> Result<PathBuf> {
        self.slot_of_tree(&node.id, node.record.tree.as_ref())
    }

    fn slot_of_tree(&self, id: &ObjectId, tree: Option<&ObjectId>) -> Result<PathBuf> {
        let mut slot = self.object_dir(tree.unwrap_or(id));
        let Some(mut at) = tree.cloned() else { return Ok(slot) };
        // An image has the tree of a layer's node, and that may have another's: only a damaged record goes on.
        for _ in 0..MOST_STEPS_TO_A_TREE {
            let ground = Record::read_ground(&slot).context(|| format!("find the tree of {id} at {at}"))?;
            let Some(next) = ground.tree else { return Ok(slot) };
            (slot, at) = (self.object_dir(&next), next);
        }
        Err(Error::new(ErrorKind::Corrupt, format!("the tree of {id} is not found beyond {at}")))
    }

    /// Returns the node's tree as far as it is its own layer, for whoever looks at nothing beneath it.
    pub(crate) fn own_tree(&self, node: &Node) -> Result<Tree> {
        Ok(Tree { slot: self.tree_slot(node)?, form: node.record.form, lowers: Vec::new() })
    }

    /// Returns the node's tree: its slot, and for a delta all directories beneath it. O(length of its chain of deltas).
    pub fn tree(&self, node: &Node) -> Result<Tree> {
        let slot = self.tree_slot(node)?;
        if node.record.form == Form::Full {
            return Ok(Tree::full(slot));
        }
        if node.record.outside.is_some() {
            return Ok(Tree::delta(&slot, &host::parent_tree(&slot)));
        }
        let mut lowers = Vec::new();
        let mut below = node.record.parent.clone();
        while let Some(id) = below.take() {
            let slot = self.object_dir(&id);
            let read = || -> Result<_> {
                let ground = Record::read_ground(&slot)?;
                let slot = self.slot_of_tree(&id, ground.tree.as_ref())?;
                Ok((ground, slot))
            };
            let (ground, slot) = read()
                .context(|| format!("read node {id}"))
                .context(|| format!("find what {} stands on", node.label()))?;
            lowers.push(slot.join(rootling_backends::FS));
            if ground.form == Form::Delta {
                below = ground.parent;
            }
        }
        if lowers.is_empty() {
            let message = format!("node {} is a delta without a parent", node.label());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Tree { slot, form: Form::Delta, lowers })
    }

    /// Returns the tree that the node was forked from.
    pub fn parent_tree(&self, node: &Node) -> Result<Option<Tree>> {
        if node.record.outside.is_some() {
            return Ok(Some(host::parent_tree(&self.object_dir(&node.id))));
        }
        let Some(parent) = &node.record.parent else { return Ok(None) };
        self.tree(&self.node(parent)?).map(Some)
    }

    /// Returns the index of a committed node's content, if one was written.
    pub fn index(&self, node: &Node) -> Result<Option<Index>> {
        index::read(&self.tree_slot(node)?)
    }
}
