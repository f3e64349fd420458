//! Reading what trees occupy, or measuring it: parents before their children, on all cores.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use rootling_backends::footprint;
use rootling_backends::{Context, Dir, Error, ErrorKind, Extents, Footprint, Form, Result};

use super::Known;
use super::holders::{Bytes, Holder};
use crate::store::{Node, ObjectId, State, Store, extents};

/// Reads what each node's tree occupies, or measures it where nothing is remembered that can be believed, or where `fresh` asks for it.
///
/// Nodes that are removed meanwhile hold nothing.
pub(super) fn load(store: &Store, nodes: &[Node], fresh: bool) -> Result<Vec<Loaded>> {
    let loader = Loader::new(store, nodes, fresh);
    rayon::scope(|scope| loader.first().into_iter().for_each(|node| loader.visit(scope, node, None)));
    loader.finish()
}

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

/// A node.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) holder: Holder,
    pub(super) added: Extents,
    pub(super) known: Known,
    /// Its footprint without the sets.
    pub(super) rest: Footprint,
}

struct Loader<'a> {
    store: &'a Store,
    nodes: &'a [Node],
    fresh: bool,
    parents: Vec<Option<usize>>,
    /// The object whose tree, and nothing else, a node has.
    twins: Vec<Option<usize>>,
    /// The object that holds a node's `fs/`.
    trees: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    loaded: Mutex<Vec<Loaded>>,
    failure: Mutex<Option<Error>>,
}

impl<'a> Loader<'a> {
    fn new(store: &'a Store, nodes: &'a [Node], fresh: bool) -> Self {
        let places: HashMap<&ObjectId, usize> =
            nodes.iter().enumerate().map(|(place, node)| (&node.id, place)).collect();
        let place = |id: &Option<ObjectId>| places.get(id.as_ref()?).copied();
        let trees: Vec<Option<usize>> = nodes.iter().map(|node| place(&node.record.tree)).collect();
        // What has another's tree, on the same parent, stands on that one, and adds nothing.
        let twin = |node: &Node, tree: &Option<usize>| {
            tree.filter(|&tree| nodes[tree].record.parent == node.record.parent)
        };
        let twins: Vec<Option<usize>> =
            nodes.iter().zip(&trees).map(|(node, tree)| twin(node, tree)).collect();
        let parents: Vec<Option<usize>> = nodes
            .iter()
            .zip(&twins)
            .map(|(node, twin)| twin.or_else(|| place(&node.record.parent)))
            .collect();
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
            twins,
            trees,
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

    /// Loads a node, and then what was made from it.
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
        if let (Some(_), Some(parent)) = (self.twins[place], parent) {
            return self.load_twin(place, parent);
        }
        let is_delta = node.record.form == Form::Delta;
        let (mut found, is_remembered) = self
            .footprint(node, parent.filter(|_| !is_delta))
            .context(|| format!("measure {}", node.label()))?;
        let beside = footprint::beside(&Dir::open(self.store.object_dir(&node.id))?)?;
        let own_bytes = found.own_bytes + beside;
        let shares = self.trees[place];
        let mut holder = Holder {
            is_delta: is_delta && parent.is_some(),
            // What is in no set is that object's.
            own_bytes: if shares.is_some() { beside } else { own_bytes },
            shares,
            elsewhere: std::mem::take(&mut found.elsewhere),
            ..Holder::default()
        };
        let mut base = Base { set: std::mem::take(&mut found.extents), hash: OnceLock::new(), own_bytes };
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
        let needs = Bytes::of(base.own_bytes, &base.set);
        let known = Known {
            needs,
            is_remembered,
            entries: found.entries,
            apparent_bytes: found.apparent_bytes,
            ..Known::default()
        };
        Ok((Loaded { holder, added, known, rest: found }, base))
    }

    /// Loads a node that is another under a second name: it holds what that one holds, and what is beside it.
    fn load_twin(&self, place: usize, twin: &Base) -> Result<(Loaded, Base)> {
        let beside = footprint::beside(&Dir::open(self.store.object_dir(&self.nodes[place].id))?)?;
        let holder =
            Holder { parent: self.parents[place], is_delta: true, own_bytes: beside, ..Holder::default() };
        let base = Base { set: twin.set.clone(), hash: OnceLock::new(), own_bytes: twin.own_bytes + beside };
        let known = Known { needs: Bytes::of(base.own_bytes, &base.set), ..Known::default() };
        Ok((Loaded { holder, known, ..Loaded::default() }, base))
    }

    /// Returns what a node's own directory occupies, and whether that was remembered.
    fn footprint(&self, node: &Node, base: Option<&Base>) -> Result<(Footprint, bool)> {
        let (store, slot) = (self.store, self.store.object_dir(&node.id));
        let stamp = store.backend(node.record.backend)?.stamp(&store.own_tree(node)?)?;
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
pub(super) fn remember(written: &Result<()>, node: &Node) {
    if let Err(error) = written {
        log::debug!("the size of {} is not remembered: {error:?}", node.label());
    }
}
