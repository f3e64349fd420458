//! What nodes occupy: alone, together, and with what else is on the file system.
//!
//! Every node *holds* a set of bytes on disk (backends: [`Extents`]): what its own directory refers to and, for a delta, what its parent
//! holds. A byte comes free when the last node that holds it goes, provided that nobody outside the store does. To find out for many nodes at
//! once, each set is taken apart into the difference from its parent's:
//!
//! ```text
//!   holds(node) = holds(parent) - removed(node) + added(node)
//! ```
//!
//! What a node added is *introduced* by it. So the holders of a byte are the node that introduced it and, down from there, every child
//! that did not remove it: one walk along the tree of nodes, whose cost follows what changed. Where several nodes introduced the same byte
//! (clones between unrelated trees) all of them are walked. Nodes outside the store are one more that introduces.
//!
//! O(what all trees hold) for reading, O(what changed) for each question; nothing here is quadratic in the number of nodes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use rayon::prelude::*;
use rootling_backends::extents::METADATA;
use rootling_backends::footprint::{self, Surroundings};
use rootling_backends::{Context, Dir, Error, ErrorKind, Extents, Footprint, Form, Result, Tree};
use serde::Serialize;

use super::{Node, ObjectId, State, Store, extents};

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
    holders: Vec<Holder>,
    /// Sets with all that introduced them; those held outside are left out, nothing can free them.
    introduced: Vec<(Vec<usize>, Extents)>,
    /// For each holder, which of them.
    by_holder: Vec<Vec<usize>>,
    /// Data and metadata items that are held at least once.
    held: (u64, u64),
    used_bytes: u64,
    /// Bytes on disk for each byte of metadata items.
    metadata_factor: f64,
}

/// A node among the others.
#[derive(Debug, Default)]
struct Holder {
    /// The node whose set this one's is a difference from.
    parent: Option<usize>,
    children: Vec<usize>,
    /// The node that it was made from, and how many were made from it.
    made_from: Option<usize>,
    made: usize,
    /// Cannot be read without its parent.
    is_delta: bool,
    /// A name leads to it, or something that runs stands on it.
    is_root: bool,
    entries: u64,
    apparent_bytes: u64,
    own_bytes: u64,
    /// Bytes that it needs: own ones, data, metadata items.
    needs: (u64, u64, u64),
    removed: Extents,
    elsewhere: Extents,
    /// Was this read from a file, so that `elsewhere` may be old?
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
        let loader = Loader::new(self, &nodes, fresh);
        rayon::scope(|scope| {
            loader.first().into_iter().for_each(|node| loader.visit(scope, node, None));
        });
        let loaded = loader.finish().context(intent)?;
        let footprints = loaded.iter().map(|(_, _, footprint)| footprint);
        let surroundings = footprint::surroundings(&root, footprints).context(intent)?;
        let mut sizes = Sizes::new(&nodes, &roots, loaded, &surroundings);
        sizes.look_again(self, &nodes).context(intent)?;
        Ok(sizes)
    }

    /// Returns all objects, and those that must stay as they are.
    fn to_measure(&self) -> Result<(Vec<Node>, BTreeSet<ObjectId>)> {
        let _lock = self.share()?;
        let roots = self.all_names()?.into_values().chain(self.draft_parents()?).collect();
        let mut nodes = Vec::new();
        for id in self.ids()? {
            match self.node(&id) {
                // Removed since the listing, or without a record: fsck's business.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {}
                node => nodes.push(node?),
            }
        }
        Ok((nodes, roots))
    }

    fn measure(&self, node: &Node) -> Result<Footprint> {
        self.backend(node.record.backend)?.footprint(&self.own_tree(node))
    }

    /// Returns the tree as far as it is its own: measuring looks at nothing beneath.
    fn own_tree(&self, node: &Node) -> Tree {
        Tree { slot: self.object_dir(&node.id), form: node.record.form, lowers: Vec::new() }
    }
}

// ---------------------------------------------------------------- reading

/// What the children of a node are compared with.
struct Base {
    set: Extents,
    hash: OnceLock<u128>,
    /// What a delta above it needs of it that is not in the set.
    own_bytes: u64,
}

impl Base {
    fn known(&self) -> extents::Base<'_> {
        (&self.set, *self.hash.get_or_init(|| extents::hash(&self.set)))
    }
}

/// A holder, what it added, and the rest of its footprint.
type Loaded = (Holder, Extents, Footprint);

/// Reads or measures nodes, parents before their children, on all cores.
struct Loader<'a> {
    store: &'a Store,
    nodes: &'a [Node],
    fresh: bool,
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    loaded: Mutex<Vec<Loaded>>,
    failure: Mutex<Option<Error>>,
}

impl<'a> Loader<'a> {
    fn new(store: &'a Store, nodes: &'a [Node], fresh: bool) -> Self {
        let places: HashMap<&ObjectId, usize> =
            nodes.iter().enumerate().map(|(place, node)| (&node.id, place)).collect();
        let parents: Vec<Option<usize>> =
            nodes.iter().map(|node| places.get(node.record.parent.as_ref()?).copied()).collect();
        let mut children = vec![Vec::new(); nodes.len()];
        for (child, parent) in parents.iter().enumerate() {
            parent.iter().for_each(|&parent| children[parent].push(child));
        }
        let loaded = nodes.iter().map(|_| Loaded::default()).collect();
        let mut loader = Self {
            store,
            nodes,
            fresh,
            parents,
            children,
            loaded: Mutex::new(loaded),
            failure: Mutex::new(None),
        };
        loader.small_ones_last();
        loader
    }

    fn first(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|place| self.parents[*place].is_none()).collect()
    }

    /// Sorts children by how much hangs on them: what is spawned last is done first, so that a set is seldom kept while a long
    /// line of descendants is worked on.
    fn small_ones_last(&mut self) {
        let mut descendants = vec![1_usize; self.nodes.len()];
        let mut order = self.first();
        let mut next = 0;
        while let Some(&place) = order.get(next) {
            order.extend(&self.children[place]);
            next += 1;
        }
        for &place in order.iter().rev() {
            if let Some(parent) = self.parents[place] {
                descendants[parent] += descendants[place];
            }
        }
        for children in &mut self.children {
            children.sort_by_key(|child| std::cmp::Reverse(descendants[*child]));
        }
    }

    fn visit<'s>(&'s self, scope: &rayon::Scope<'s>, place: usize, parent: Option<Arc<Base>>) {
        scope.spawn(move |scope| {
            if self.failure.lock().expect("no thread panics while it holds the lock").is_some() {
                return;
            }
            match self.load(place, parent.as_deref()) {
                Ok((loaded, base)) => {
                    self.loaded.lock().expect("no thread panics while it holds the lock")[place] = loaded;
                    drop(parent);
                    let base = Arc::new(base);
                    for &child in &self.children[place] {
                        self.visit(scope, child, Some(Arc::clone(&base)));
                    }
                }
                // Removed meanwhile: nothing stands on it any more.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let mut failure = self.failure.lock().expect("no thread panics while it holds the lock");
                    failure.get_or_insert(error);
                }
            }
        });
    }

    fn load(&self, place: usize, parent: Option<&Base>) -> Result<(Loaded, Base)> {
        let node = &self.nodes[place];
        let is_delta = node.record.form == Form::Delta;
        let (found, is_remembered) = self
            .footprint(node, parent.filter(|_| !is_delta))
            .context(|| format!("measure {}", node.label()))?;
        let beside = footprint::beside(&Dir::open(self.store.object_dir(&node.id))?)?;
        let own_bytes = found.own_bytes + beside;
        let mut holder = Holder {
            is_delta: is_delta && parent.is_some(),
            entries: found.entries,
            apparent_bytes: found.apparent_bytes,
            own_bytes,
            is_remembered,
            ..Holder::default()
        };
        let rest = Footprint { extents: Extents::default(), elsewhere: Extents::default(), ..found };
        holder.elsewhere = found.elsewhere;
        let mut base = Base { set: found.extents, hash: OnceLock::new(), own_bytes };
        let added = match parent {
            None => base.set.clone(),
            Some(parent) if is_delta => {
                holder.parent = self.parents[place];
                let added = base.set.minus(&parent.set);
                base.set = parent.set.or(&added);
                base.own_bytes += parent.own_bytes;
                added
            }
            Some(parent) => {
                let (added, removed) = (base.set.minus(&parent.set), parent.set.minus(&base.set));
                // Of one set with something else in it, a difference would be longer than the set.
                if added.ranges().len() + removed.ranges().len() < base.set.ranges().len() {
                    (holder.parent, holder.removed) = (self.parents[place], removed);
                    added
                } else {
                    base.set.clone()
                }
            }
        };
        holder.needs = (base.own_bytes, base.set.data_bytes(), base.set.metadata_bytes());
        Ok(((holder, added, rest), base))
    }

    /// Returns what a node's own directory occupies, and whether that was remembered.
    fn footprint(&self, node: &Node, base: Option<&Base>) -> Result<(Footprint, bool)> {
        let (store, slot) = (self.store, self.store.object_dir(&node.id));
        let stamp = store.backend(node.record.backend)?.stamp(&store.own_tree(node))?;
        let stays = stamp.is_some() || node.record.state == State::Committed;
        let base = base.filter(|_| stamp.is_some()).map(Base::known);
        if stays
            && !self.fresh
            && let Some(found) = extents::read(&slot, stamp, base)
        {
            return Ok((found, true));
        }
        let found = store.measure(node)?;
        // Inodes are not remembered, and who searches the surroundings needs them.
        if stays && found.inodes.is_empty() {
            remember(&extents::write(&slot, stamp, base, &found), node);
        }
        Ok((found, false))
    }

    fn finish(self) -> Result<Vec<Loaded>> {
        match self.failure.into_inner().expect("no thread panics while it holds the lock") {
            Some(error) => Err(error),
            None => Ok(self.loaded.into_inner().expect("no thread panics while it holds the lock")),
        }
    }
}

/// Best effort: a store that cannot be written is measured again next time.
fn remember(written: &Result<()>, node: &Node) {
    if let Err(error) = written {
        log::debug!("the size of {} is not remembered: {error:?}", node.label());
    }
}

// ---------------------------------------------------------------- adding up

impl Sizes {
    fn new(
        nodes: &[Node],
        roots: &BTreeSet<ObjectId>,
        loaded: Vec<Loaded>,
        surroundings: &Surroundings,
    ) -> Self {
        let (mut holders, mut added) = (Vec::new(), Vec::new());
        for (node, (mut holder, set, _)) in nodes.iter().zip(loaded) {
            holder.is_root = roots.contains(&node.id);
            holders.push(holder);
            added.push(set);
        }
        let places: HashMap<ObjectId, usize> =
            nodes.iter().enumerate().map(|(place, node)| (node.id.clone(), place)).collect();
        for child in 0..holders.len() {
            if let Some(parent) = holders[child].parent {
                holders[parent].children.push(child);
            }
            let made_from =
                nodes[child].record.parent.as_ref().and_then(|parent| places.get(parent).copied());
            holders[child].made_from = made_from;
            made_from.into_iter().for_each(|parent| holders[parent].made += 1);
        }
        let swept = Swept::sweep(&added, &surroundings.outside);
        let mut by_holder = vec![Vec::new(); holders.len()];
        for (place, (introducers, _)) in swept.introduced.iter().enumerate() {
            introducers.iter().for_each(|&holder| by_holder[holder].push(place));
        }
        let items = swept.held.1 + swept.outside_items;
        Self {
            places,
            holders,
            introduced: swept.introduced,
            by_holder,
            held: swept.held,
            used_bytes: surroundings.used_bytes,
            #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
            metadata_factor: match surroundings.metadata_bytes {
                Some(bytes) if items > 0 => bytes as f64 / items as f64,
                _ => 1.0,
            },
        }
    }

    /// Measures anew the nodes that would be said to share with somebody outside because they did when they were measured: it may have been
    /// a node that is gone.
    fn look_again(&mut self, store: &Store, nodes: &[Node]) -> Result<()> {
        let depends = |&place: &usize| {
            let holder = &self.holders[place];
            holder.is_remembered
                && !holder.elsewhere.is_empty()
                && self.by_holder[place].iter().any(|&set| {
                    let (introducers, set) = &self.introduced[set];
                    let alone = |other: usize| other == place;
                    introducers.len() == 1
                        && !self.left_by(place, set.and(&holder.elsewhere), &alone).is_empty()
                })
        };
        let doubtful: Vec<usize> = (0..nodes.len()).filter(depends).collect();
        let looked: Result<Vec<(usize, Extents)>> = doubtful
            .into_par_iter()
            .filter_map(|place| match store.measure(&nodes[place]) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => Some(Err(error)),
                Ok(found) => {
                    let stamp = store.backend(nodes[place].record.backend);
                    let stamp = stamp.and_then(|backend| backend.stamp(&store.own_tree(&nodes[place])));
                    let slot = store.object_dir(&nodes[place].id);
                    let written = stamp.and_then(|stamp| extents::write(&slot, stamp, None, &found));
                    remember(&written, &nodes[place]);
                    Some(Ok((place, found.elsewhere)))
                }
            })
            .collect();
        for (place, elsewhere) in looked? {
            self.holders[place].elsewhere = elsewhere;
        }
        Ok(())
    }

    /// Returns what a node occupies; `None` for what was not there when it was measured.
    pub fn of(&self, id: &ObjectId) -> Option<Size> {
        let place = *self.places.get(id)?;
        let holder = &self.holders[place];
        let goes = self.goes_with(place);
        let exclusive_bytes = self.frees(&goes);
        // What only those beneath hold is no part of what the node itself needs, and goes with it.
        let beneath = self.frees(&goes[1..]);
        let (own, data, items) = holder.needs;
        let total_bytes = own + data + self.on_disk(items) + beneath;
        Some(Size {
            entries: holder.entries,
            apparent_bytes: holder.apparent_bytes,
            total_bytes,
            exclusive_bytes: exclusive_bytes.min(total_bytes),
            shared_bytes: total_bytes.saturating_sub(exclusive_bytes),
            metadata_bytes: own + self.on_disk(items),
        })
    }

    /// Returns how many bytes come free if these nodes are removed together, and no others. O(what they introduced and what became of it).
    ///
    /// What they were made from without a name of its own counts only where it is among them. Unknown ids count nothing.
    pub fn would_free(&self, ids: &[ObjectId]) -> u64 {
        let places: BTreeSet<usize> = ids.iter().filter_map(|id| self.places.get(id).copied()).collect();
        self.frees(&places.into_iter().collect::<Vec<_>>())
    }

    /// Returns the bytes on disk that the nodes of the store hold, each counted once.
    pub fn held_bytes(&self) -> u64 {
        let own: u64 = self.holders.iter().map(|holder| holder.own_bytes).sum();
        own + self.held.0 + self.on_disk(self.held.1)
    }

    /// Returns the bytes that are in use on the file system, in its own words.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Returns a node and the nameless ones beneath it that nothing else needs: they go with it.
    fn goes_with(&self, place: usize) -> Vec<usize> {
        let mut goes = vec![place];
        let mut at = &self.holders[place];
        // Something else was made from the node itself: it stays.
        let mut left = 0;
        while at.made == left
            && let Some(beneath) = at.made_from
            && !self.holders[beneath].is_root
            && self.holders[beneath].made == 1
        {
            goes.push(beneath);
            (at, left) = (&self.holders[beneath], 1);
        }
        goes
    }

    fn frees(&self, places: &[usize]) -> u64 {
        let group: HashSet<usize> = places.iter().copied().collect();
        let among = |place: usize| group.contains(&place);
        let (mut own, mut data, mut items) = (0, 0, 0);
        for &place in places {
            if !self.is_stood_on(place, &among) {
                own += self.holders[place].own_bytes;
            }
            for &set in &self.by_holder[place] {
                let (introducers, set) = &self.introduced[set];
                if introducers[0] != place || !introducers.iter().all(|&other| among(other)) {
                    continue;
                }
                let left = introducers.iter().fold(set.clone(), |set, &by| self.left_by(by, set, &among));
                let left =
                    if introducers.len() == 1 { self.not_elsewhere(place, left, &among) } else { left };
                data += left.data_bytes();
                items += left.metadata_bytes();
            }
        }
        own + data + self.on_disk(items)
    }

    /// Does a delta outside the group need this node, directly or not?
    fn is_stood_on(&self, place: usize, among: &impl Fn(usize) -> bool) -> bool {
        let mut children = self.holders[place].children.iter().filter(|&&child| self.holders[child].is_delta);
        children.any(|&child| !among(child) || self.is_stood_on(child, among))
    }

    /// Returns the part of `set`, which the node holds, that no descendant outside the group has from it.
    fn left_by(&self, place: usize, mut set: Extents, among: &impl Fn(usize) -> bool) -> Extents {
        let children = &self.holders[place].children;
        for &child in children.iter().filter(|&&child| !among(child)) {
            if set.is_empty() {
                return set;
            }
            set = set.and(&self.holders[child].removed);
        }
        for &child in children.iter().filter(|&&child| among(child)) {
            let removed = &self.holders[child].removed;
            let passed_on = self.left_by(child, set.minus(removed), among);
            set = set.and(removed).or(&passed_on);
        }
        set
    }

    /// Returns the part of `set`, which this node alone introduced, that the file system did not call shared; what descendants in the
    /// group hold too is shared with them.
    fn not_elsewhere(&self, place: usize, set: Extents, among: &impl Fn(usize) -> bool) -> Extents {
        let mut shared = set.and(&self.holders[place].elsewhere);
        for &child in self.holders[place].children.iter().filter(|&&child| among(child)) {
            shared = shared.and(&self.holders[child].removed);
        }
        set.minus(&shared)
    }

    #[expect(clippy::cast_precision_loss, reason = "a size with an estimate in it")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and no disk is as large"
    )]
    fn on_disk(&self, items: u64) -> u64 {
        (items as f64 * self.metadata_factor) as u64
    }
}

/// Who introduced what.
#[derive(Default)]
struct Swept {
    introduced: Vec<(Vec<usize>, Extents)>,
    /// Data and metadata items that at least one node introduced.
    held: (u64, u64),
    /// Metadata items that only others have.
    outside_items: u64,
}

impl Swept {
    /// Goes once over all addresses.
    fn sweep(added: &[Extents], outside: &Extents) -> Self {
        let others = added.len();
        let sets = added.iter().chain([outside]).enumerate();
        let mut edges: Vec<(u64, bool, usize)> = sets
            .flat_map(|(by, set)| {
                set.ranges().iter().flat_map(move |&(start, end)| [(start, true, by), (end, false, by)])
            })
            .collect();
        edges.sort_unstable();
        let (mut swept, mut at) = (Self::default(), 0);
        let mut open: BTreeSet<usize> = BTreeSet::new();
        let mut found: HashMap<Vec<usize>, Vec<(u64, u64)>> = HashMap::new();
        for (address, opens, by) in edges {
            if address > at && !open.is_empty() {
                let length = address - at;
                match (open.first() == Some(&others), at < METADATA) {
                    (true, true) => {}
                    (true, false) => swept.outside_items += length,
                    (false, true) => swept.held.0 += length,
                    (false, false) => swept.held.1 += length,
                }
                if !open.contains(&others) {
                    let introducers: Vec<usize> = open.iter().copied().collect();
                    found.entry(introducers).or_default().push((at, address));
                }
            }
            at = address;
            if opens {
                open.insert(by)
            } else {
                open.remove(&by)
            };
        }
        swept.introduced = found.into_iter().map(|(by, ranges)| (by, Extents::of(ranges))).collect();
        swept
    }
}
