//! The layer that turns one tree into another, into containerd's store of blobs.
//!
//! Where both are trees of this store it knows what changed on the way from one to the other, and nothing else is looked at. Any two others
//! are mounted, attached nowhere, and compared.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use rootling_backends::{Change, Context, DiffOptions, Dir, FS, Result, compare};

use super::content::Content;
use super::mounts::Shown;
use crate::layer::{self, CreateOptions, Packed};
use crate::store::{Node, ObjectId, Store};

/// The label that says what a packed layer's digest is once it is unpacked.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Where a layer goes.
#[derive(Debug)]
pub(super) struct Destination<'a> {
    pub(super) content: &'a Content,
    /// What it is called while it is written; empty for any name.
    pub(super) reference: &'a str,
    pub(super) labels: HashMap<String, String>,
}

/// Makes the layer that turns `left` (`None`: nothing) into `right` a blob.
///
/// The trees should not change meanwhile. A blob that is there already is left as it is, and an error leaves none.
pub(super) fn compare(
    store: &Store,
    left: Option<&Shown>,
    right: &Shown,
    options: &CreateOptions,
    to: Destination<'_>,
) -> Result<Packed> {
    let root = right.open()?;
    let changes = changes(store, left, right, &root)?;
    let reference = match to.reference {
        "" => format!("rootling-diff-{}", ObjectId::random()?),
        given => given.to_owned(),
    };
    let mut ingest = to.content.write(&reference)?;
    let created = match layer::create(&changes, &root, options, &mut ingest) {
        Ok(created) => created,
        Err(error) => {
            ingest.abort();
            return Err(error);
        }
    };
    for skipped in &created.notes {
        log::warn!(
            "layer of {root}: left out {}: {}",
            String::from_utf8_lossy(&skipped.path),
            skipped.reason
        );
    }
    let packed = created.packed;
    let mut labels = to.labels;
    labels.insert(UNCOMPRESSED.to_owned(), packed.diff_id.0.to_string());
    ingest.commit(&packed.digest, &labels)?;
    Ok(packed)
}

/// Returns what differs, times included: the tree of a layer is to be as this one is.
fn changes(store: &Store, left: Option<&Shown>, right: &Shown, root: &Dir) -> Result<Vec<Change>> {
    let Some(left) = left else { return layer::whole_tree(root) };
    let options = DiffOptions { times: true };
    if let Some(new) = node_of(store, right)?
        && let Some(old) = before(store, left, &new)?
    {
        return store.diff(&old, &new, options);
    }
    compare::diff_trees(&left.open()?, root, options)
}

/// Returns the node whose tree `left` is: most often what `new` was forked from, which may share its directories with others.
fn before(store: &Store, left: &Shown, new: &Node) -> Result<Option<Node>> {
    if let Some(parent) = &new.record.parent {
        let parent = store.node(parent)?;
        if is_tree_of(store, left, &parent)? {
            return Ok(Some(parent));
        }
    }
    node_of(store, left)
}

/// Returns the node of the store whose tree this is; `None` for any other.
fn node_of(store: &Store, shown: &Shown) -> Result<Option<Node>> {
    let layers = shown.layers();
    let Some(id) = layers.first().map(|top| object_of(store, top)).transpose()?.flatten() else {
        return Ok(None);
    };
    let node = store.node(&id)?;
    Ok(is_tree_of(store, shown, &node)?.then_some(node))
}

fn is_tree_of(store: &Store, shown: &Shown, node: &Node) -> Result<bool> {
    let root = store.real_root()?;
    // The store may be known by another path, to which its own are relative.
    let real = |path: PathBuf| path.strip_prefix(store.root()).map_or(path.clone(), |below| root.join(below));
    let tree: Vec<PathBuf> = store.tree(node)?.layers().into_iter().map(real).collect();
    Ok(shown.layers().into_iter().map(real).collect::<Vec<_>>() == tree)
}

/// Returns which object of the store has this directory as its tree.
pub(super) fn object_of(store: &Store, path: &Path) -> Result<Option<ObjectId>> {
    let root = store.real_root()?;
    let Ok(below) = path.strip_prefix(&root).or_else(|_| path.strip_prefix(store.root())) else {
        return Ok(None);
    };
    let parts: Vec<Component<'_>> = below.components().collect();
    match parts.as_slice() {
        [Component::Normal(o), Component::Normal(id), Component::Normal(fs)] if *o == "o" && *fs == FS => {
            id.to_str().map(ObjectId::parse).transpose().context(|| format!("find the tree {path:?}"))
        }
        _ => Ok(None),
    }
}
