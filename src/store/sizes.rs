//! What nodes occupy: alone, together, and with what else is on the file system.
//!
//! Every node holds a set of bytes on disk (backends: [`Extents`]): what its own directory refers to and, for a delta, what its parent
//! holds. A byte comes free when the last node that holds it goes, provided that nobody outside the store does.
//!
//! | file | what it is for |
//! |---|---|
//! | `load` | reading or measuring the sets |
//! | `holders` | who holds what, and what comes free |
//!
//! O(what all trees hold) for reading, O(what changed) for each question; nothing here is quadratic in the number of nodes.

mod holders;
mod load;

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;
use rootling_backends::footprint::{self, Surroundings};
use rootling_backends::{Context, Dir, ErrorKind, Extents, Footprint, Result};
use serde::Serialize;

use self::holders::{Bytes, Holders};
use self::load::Loaded;
use super::{Node, ObjectId, Store, extents};

/// What a node occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Inodes in its own directory.
    pub entries: u64,
    /// Sum of the sizes of the files in its own directory.
    pub apparent_bytes: u64,
    /// Bytes on disk that it needs, with what it stands on.
    pub total_bytes: u64,
    /// Those that come free if only this node is removed, with the nameless ones that would go with it.
    pub exclusive_bytes: u64,
    /// Those that stay then.
    pub shared_bytes: u64,
    /// Of the total, what is not the content of files: inodes, directories, attributes, records.
    pub metadata_bytes: u64,
}

/// What all nodes of a store occupy, at one moment.
#[derive(Debug)]
pub struct Sizes {
    places: HashMap<ObjectId, usize>,
    known: Vec<Known>,
    /// For each node what it was made from, and the one whose tree it has.
    needs: Vec<Vec<usize>>,
    holders: Holders,
    used_bytes: u64,
    /// Bytes on disk for each byte of metadata items.
    metadata_factor: f64,
}

/// What is known of a node beside what it holds.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// How many were made from it, or need it for another reason.
    made: usize,
    /// A name leads to it, or something that runs stands on it.
    is_root: bool,
    entries: u64,
    apparent_bytes: u64,
    /// What it holds.
    needs: Bytes,
    /// Was it read from a file, so that what others hold may have changed since?
    is_remembered: bool,
}

impl Store {
    /// Measures every object of the store, named or not, after a sync of its file system.
    ///
    /// What did not change since the last time is read from the objects' files `extents`; `fresh` measures all again. Objects that are
    /// removed meanwhile are left out.
    pub fn sizes(&self, fresh: bool) -> Result<Sizes> {
        let intent = || format!("measure store {:?}", self.root);
        let root = Dir::open(&self.root).context(intent)?;
        root.sync_file_system().context(intent)?;
        let (nodes, roots) = self.to_measure().context(intent)?;
        let loaded = load::load(self, &nodes, fresh).context(intent)?;
        let footprints = loaded.iter().map(|loaded| &loaded.rest);
        let surroundings = footprint::surroundings(&root, footprints).context(intent)?;
        let mut sizes = Sizes::new(&nodes, &roots, loaded, &surroundings);
        sizes.look_again(self, &nodes).context(intent)?;
        Ok(sizes)
    }

    /// Returns all objects, and those that a name or something that runs holds.
    fn to_measure(&self) -> Result<(Vec<Node>, BTreeSet<ObjectId>)> {
        let nodes = self.all_nodes()?;
        Ok((nodes, self.roots()?.collect()))
    }

    fn measure(&self, node: &Node) -> Result<Footprint> {
        self.backend(node.record.backend)?.footprint(&self.own_tree(node)?)
    }

    /// Returns what a node's tree shares with somebody, measured now and remembered; `None` for one that is gone.
    fn shared_elsewhere(&self, node: &Node) -> Result<Option<Extents>> {
        let found = match self.measure(node) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let stamp = self.backend(node.record.backend)?.stamp(&self.own_tree(node)?)?;
        load::remember(&extents::write(&self.object_dir(&node.id), stamp, None, &found), node);
        Ok(Some(found.elsewhere))
    }
}

impl Sizes {
    fn new(
        nodes: &[Node],
        roots: &BTreeSet<ObjectId>,
        loaded: Vec<Loaded>,
        surroundings: &Surroundings,
    ) -> Self {
        let places: HashMap<ObjectId, usize> =
            nodes.iter().enumerate().map(|(place, node)| (node.id.clone(), place)).collect();
        let (mut known, added): (Vec<Known>, Vec<_>) =
            loaded.into_iter().map(|loaded| (loaded.known, (loaded.holder, loaded.added))).unzip();
        for (place, node) in nodes.iter().enumerate() {
            known[place].is_root = roots.contains(&node.id);
            for needed in node.record.needs().filter_map(|needed| places.get(needed).copied()) {
                known[needed].made += 1;
            }
        }
        let needs = nodes.iter().map(|node| {
            let needed = node.record.tree.iter().chain(&node.record.parent);
            needed.filter_map(|id| places.get(id).copied()).collect()
        });
        let needs = needs.collect();
        let holders = Holders::new(added, &surroundings.outside);
        let items = holders.held.items + holders.outside_items;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
        let metadata_factor = match surroundings.metadata_bytes {
            Some(bytes) if items > 0 => bytes as f64 / items as f64,
            _ => 1.0,
        };
        Self { places, known, needs, holders, used_bytes: surroundings.used_bytes, metadata_factor }
    }

    /// Measures anew the nodes that would be said to share with somebody outside because they did when they were measured: it may have
    /// been a node that is gone.
    fn look_again(&mut self, store: &Store, nodes: &[Node]) -> Result<()> {
        let doubtful: Vec<usize> = (0..nodes.len())
            .filter(|&place| self.known[place].is_remembered && self.holders.depends_on_elsewhere(place))
            .collect();
        let looked: Result<Vec<Option<Extents>>> =
            doubtful.par_iter().map(|&place| store.shared_elsewhere(&nodes[place])).collect();
        for (place, elsewhere) in doubtful.into_iter().zip(looked?) {
            self.holders.holders[place].elsewhere = elsewhere.unwrap_or_default();
        }
        Ok(())
    }

    /// Returns what a node occupies; `None` for what was not there when it was measured.
    pub fn of(&self, id: &ObjectId) -> Option<Size> {
        let place = *self.places.get(id)?;
        let known = &self.known[place];
        let goes = self.goes_with(place);
        let exclusive_bytes = self.on_disk(self.holders.frees(&goes));
        // What only those beneath hold is no part of what the node itself needs, and goes with it.
        let beneath = self.on_disk(self.holders.frees(&goes[1..]));
        let total_bytes = self.on_disk(known.needs) + beneath;
        Some(Size {
            entries: known.entries,
            apparent_bytes: known.apparent_bytes,
            total_bytes,
            exclusive_bytes: exclusive_bytes.min(total_bytes),
            shared_bytes: total_bytes.saturating_sub(exclusive_bytes),
            metadata_bytes: self.on_disk(Bytes { data: 0, ..known.needs }),
        })
    }

    /// Returns how many bytes come free if these nodes are removed together, and no others. O(what they introduced and what became of it).
    ///
    /// What they were made from without a name of its own counts only where it is among them. Unknown ids count nothing.
    pub fn would_free(&self, ids: &[ObjectId]) -> u64 {
        let places: BTreeSet<usize> = ids.iter().filter_map(|id| self.places.get(id).copied()).collect();
        self.on_disk(self.holders.frees(&places.into_iter().collect::<Vec<_>>()))
    }

    /// Returns the bytes on disk that the nodes of the store hold, each counted once.
    pub fn held_bytes(&self) -> u64 {
        self.on_disk(self.holders.held)
    }

    /// Returns the bytes that are in use on the file system, in its own words.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Returns a node and the nameless ones beneath it that nothing else needs: they go with it.
    fn goes_with(&self, place: usize) -> Vec<usize> {
        let mut goes = vec![place];
        if self.known[place].made > 0 {
            // Something else was made from the node itself: it stays.
            return goes;
        }
        let (mut let_go, mut next) = (HashMap::<usize, usize>::new(), 0);
        while let Some(&at) = goes.get(next) {
            next += 1;
            for &needed in &self.needs[at] {
                let gone = let_go.entry(needed).or_default();
                *gone += 1;
                if *gone == self.known[needed].made && !self.known[needed].is_root {
                    goes.push(needed);
                }
            }
        }
        goes
    }

    #[expect(clippy::cast_precision_loss, reason = "a size with an estimate in it")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and no disk is as large"
    )]
    fn on_disk(&self, bytes: Bytes) -> u64 {
        bytes.own + bytes.data + (bytes.items as f64 * self.metadata_factor) as u64
    }
}
