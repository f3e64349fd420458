//! What differs between nodes.
//!
//! Any two nodes can be compared. Where they are connected, through parents up to a node that both come from, each *step* on the way
//! says what it may have changed, and only that is compared between the two ends:
//!
//! | step from a node to its parent | what it may have changed |
//! |---|---|
//! | a delta | what its upper directory holds |
//! | snapshots of btrfs, one of the other, however many | one search from the generation in which the first parted |
//! | a plain box | what lies behind its fence |
//! | anything else (a full copy that was committed) | is not known: both ends are compared whole |
//!
//! The `follows` of a record plays no part: it is history, while `parent` is what a tree really stands on or was made from.

use std::collections::HashMap;
use std::path::PathBuf;

use rootling_backends::candidates::Candidates;
use rootling_backends::graft::Origin;
use rootling_backends::{
    Baseline, Change, Context, DiffOptions, Dir, Error, ErrorKind, FS, Form, Kind, Result, Tree, compare,
};

use super::draft::Ephemeral;
use super::{Node, ObjectId, Record, State, Store, host};

/// What leads from a node to its parent, or past several.
#[derive(Debug)]
enum Step<'a> {
    /// An upper directory.
    Layer(PathBuf),
    /// A search in `node` for what changed since it was what `ancestor` is.
    Search { node: &'a Node, ancestor: &'a Node, baseline: &'a Baseline },
}

impl Store {
    /// Returns what changed in a node since it was forked, and nothing for a node without a parent.
    ///
    /// O(changes) with btrfs and overlay, one parallel stat walk with reflink and copy.
    pub fn changes(&self, node: &Node, options: DiffOptions) -> Result<Vec<Change>> {
        let _lock = self.share()?;
        let node = &self.settle(node)?;
        let intent = || format!("find the changes of {}", node.shown());
        let Some(parent) = self.parent_tree(node).context(intent)? else { return Ok(Vec::new()) };
        self.changes_against(&node.record, &self.tree(node)?, &parent, options).context(intent)
    }

    /// Returns what changed in a fork that will be thrown away.
    pub fn ephemeral_changes(&self, fork: &Ephemeral, options: DiffOptions) -> Result<Vec<Change>> {
        self.changes_against(&fork.record, &fork.tree, &fork.parent, options)
    }

    /// In a fork of the host, what was blanked is no change of it.
    fn changes_against(
        &self,
        record: &Record,
        tree: &Tree,
        parent: &Tree,
        options: DiffOptions,
    ) -> Result<Vec<Change>> {
        let backend = self.backend(record.backend)?;
        if record.outside.is_none() {
            return backend.changes(tree, parent, &record.baseline, options);
        }
        // Not compared and then passed over: it may hold much, and further names of files that are in the fork.
        let mut candidates = Candidates::default();
        if record.form == Form::Delta {
            candidates.add_layer(&Dir::open(tree.fs())?)?;
        } else {
            let mut found = backend.changes(tree, parent, &record.baseline, options)?;
            found.retain(|change| !change.is_links_only());
            candidates.add_changes(&found);
        }
        let root = self.real_root()?;
        candidates.leave_out(|path| host::stays_out(path, &root));
        candidates.compare(&backend.open_root(parent)?, &backend.open_root(tree)?, options)
    }

    /// Returns what turns `old` into `new`, whatever the two are, boxes as they stand at the moment: exact, sorted by the bytes of the
    /// path, parents first. Equals [`compare::diff_trees`].
    ///
    /// O(what changed on the way from one to the other through the nodes they were made from) and one record for each of these nodes; in a
    /// plain box one parallel stat walk more. Where they are not connected, or a step on the way does not know what it changed, both trees are
    /// walked and files of equal size read.
    pub fn diff(&self, old: &Node, new: &Node, options: DiffOptions) -> Result<Vec<Change>> {
        let _lock = self.share()?;
        let (old, new) = (self.settle(old)?, self.settle(new)?);
        if self.first_of_tree(&old)? == self.first_of_tree(&new)? {
            return Ok(Vec::new());
        }
        self.compare(&old, &new, options).context(|| format!("compare {} with {}", old.shown(), new.shown()))
    }

    fn compare(&self, old: &Node, new: &Node, options: DiffOptions) -> Result<Vec<Change>> {
        let Some((up, down)) = self.lines(old, new)? else { return self.compare_all(old, new, options) };
        let (Some(up), Some(down)) = (self.steps(&up)?, self.steps(&down)?) else {
            return self.compare_all(old, new, options);
        };
        if let ([], [only @ Step::Search { .. }]) = (up.as_slice(), down.as_slice()) {
            return self.search(only, options);
        }
        let mut candidates = Candidates::default();
        for step in up.iter().chain(&down) {
            match step {
                Step::Layer(upper) => candidates.add_layer(&Dir::open(upper)?)?,
                Step::Search { .. } => candidates.add_changes(&self.search(step, options)?),
            }
        }
        candidates.compare(&self.open_root(old)?, &self.open_root(new)?, options)
    }

    fn compare_all(&self, old: &Node, new: &Node, options: DiffOptions) -> Result<Vec<Change>> {
        compare::diff_trees(&self.open_root(old)?, &self.open_root(new)?, options)
    }

    fn search(&self, step: &Step<'_>, options: DiffOptions) -> Result<Vec<Change>> {
        let Step::Search { node, ancestor, baseline } = step else { return Ok(Vec::new()) };
        let backend = self.backend(node.record.backend)?;
        backend.changes(&self.tree(node)?, &self.tree(ancestor)?, baseline, options)
    }

    /// Returns both nodes' lines of parents up to the nearest node that is in both, which ends them; `None` where there is none.
    fn lines(&self, old: &Node, new: &Node) -> Result<Option<(Vec<Node>, Vec<Node>)>> {
        let mut lines = [vec![new.clone()], vec![old.clone()]];
        let first = |node| Ok::<_, Error>(HashMap::from([(self.first_of_tree(node)?, 0_usize)]));
        let mut places: [HashMap<ObjectId, usize>; 2] = [first(new)?, first(old)?];
        // In turns, so that two that are near each other are found wherever the beginning of all is.
        loop {
            let mut ended = true;
            for side in [0, 1] {
                let at = lines[side].last().expect("it begins with one");
                let Some(parent) = self.parent(at)? else { continue };
                let tree = self.first_of_tree(&parent)?;
                if let Some(place) = places[1 - side].get(&tree).copied() {
                    lines[1 - side].truncate(place + 1);
                    lines[side].push(parent);
                    let [new, old] = lines;
                    return Ok(Some((old, new)));
                }
                // Only a damaged record leads back to where it came from.
                if places[side].insert(tree, lines[side].len()).is_none() {
                    lines[side].push(parent);
                    ended = false;
                }
            }
            if ended {
                return Ok(None);
            }
        }
    }

    /// Returns the first of the nodes that have one tree: a node that has another's, on the same parent, is that one under another name.
    fn first_of_tree(&self, node: &Node) -> Result<ObjectId> {
        let (mut id, mut tree) = (node.id.clone(), node.record.tree.clone());
        while let Some(other) = tree.take().map(|id| self.node_if_exists(&id)).transpose()?.flatten() {
            if other.record.parent == node.record.parent {
                (id, tree) = (other.id, other.record.tree);
            }
        }
        Ok(id)
    }

    /// Returns the node that a node was made from; `None` where there was none, or a hand has removed it.
    fn parent(&self, node: &Node) -> Result<Option<Node>> {
        node.record.parent.as_ref().map_or(Ok(None), |id| self.node_if_exists(id))
    }

    pub(super) fn node_if_exists(&self, id: &ObjectId) -> Result<Option<Node>> {
        match self.node(id) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Returns the steps along a line of parents; `None` where one of them does not know what it changed.
    fn steps<'a>(&self, line: &'a [Node]) -> Result<Option<Vec<Step<'a>>>> {
        let (mut steps, mut at) = (Vec::new(), 0);
        while at + 1 < line.len() {
            let node = &line[at];
            let mut last = at;
            let step = match &node.record.baseline {
                _ if node.record.form == Form::Delta => Step::Layer(self.tree_slot(node)?.join(FS)),
                Baseline::Generation { .. } => {
                    while is_snapshot(node) && last + 2 < line.len() && is_snapshot(&line[last + 1]) {
                        last += 1;
                    }
                    Step::Search { node, ancestor: &line[last + 1], baseline: &line[last].record.baseline }
                }
                baseline @ Baseline::Fence { .. } if node.record.state == State::Active => {
                    Step::Search { node, ancestor: &line[at + 1], baseline }
                }
                _ => return Ok(None),
            };
            steps.push(step);
            at = last + 1;
        }
        Ok(Some(steps))
    }

    /// Returns the state that came before a node's: of a box, what it was last snapshotted as or made from. `None` for an import.
    ///
    /// One that was removed is passed over for the node's parent, which exists as long as the node.
    pub fn predecessor(&self, node: &Node) -> Result<Option<Node>> {
        let _lock = self.share()?;
        self.predecessor_of(&self.settle(node)?)
    }

    /// As [`predecessor`](Self::predecessor), of a node that is settled. The caller holds the store's lock.
    pub(super) fn predecessor_of(&self, node: &Node) -> Result<Option<Node>> {
        let follows = node.record.follows.as_ref().map_or(Ok(None), |id| self.node_if_exists(id))?;
        follows.map_or_else(|| self.parent(node), |node| Ok(Some(node)))
    }

    /// Returns what the box that a node is a state of was made from: the first node before it that is no state of the same box. `None` where
    /// all of its history is the box's own, as with a fork of the host.
    pub fn origin(&self, node: &Node) -> Result<Option<Node>> {
        let _lock = self.share()?;
        let node = self.settle(node)?;
        let of = node.name.as_ref().map(|name| name.of_snapshot().map_or_else(|| name.clone(), |(of, _)| of));
        let life = match of.as_ref().map(|name| self.named(name)).transpose()?.flatten() {
            Some(of) => of.record.life,
            None => node.record.life.clone(),
        };
        let mut own: Vec<ObjectId> = life.past.into_iter().chain(life.future).collect();
        if let Some(of) = &of {
            own.extend(self.snapshot_names(of)?.into_values());
        }
        let mut at = node;
        while let Some(before) = self.predecessor_of(&at)? {
            if !own.contains(&before.id) {
                return Ok(Some(before));
            }
            at = before;
        }
        Ok(None)
    }

    /// Opens what [`changes`](Self::changes) compares a node with; `None` where that is nothing.
    pub fn open_parent(&self, node: &Node) -> Result<Option<Dir>> {
        let Some(parent) = self.parent_tree(node)? else { return Ok(None) };
        self.backend(node.record.backend)?.open_root(&parent).map(Some)
    }

    /// Opens the root of a node's tree for reading.
    pub fn open_root(&self, node: &Node) -> Result<Dir> {
        let tree = self.tree(node)?;
        self.backend(node.record.backend)?.open_root(&tree)
    }

    /// Opens a committed node's tree to be copied from: its files can be cloned, those of a stack out of its layers.
    pub fn open_origin(&self, node: &Node) -> Result<Origin> {
        let tree = self.tree(node)?;
        let root = self.backend(node.record.backend)?.open_root(&tree)?;
        if tree.form == Form::Full {
            return Ok(Origin::plain(root));
        }
        let layers = tree.layers().iter().map(Dir::open).collect::<Result<_>>()?;
        Ok(Origin::stacked(root, layers))
    }
}

/// Does the node have the inodes of its parent? Then so has a snapshot of it, and one search finds what changed in both.
fn is_snapshot(node: &Node) -> bool {
    node.record.backend == Kind::Btrfs
        && node.record.form == Form::Full
        && matches!(node.record.baseline, Baseline::Generation { parted: Some(_), .. })
}
