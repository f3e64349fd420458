//! Is what is on disk still what was put there, and how it is put there again.
//!
//! The index of a tree says what each of its files was when it was unpacked, so damage is found without the blob, and named file by file. A
//! layer that is damaged is unpacked once more, aside, from its blob, and takes the place of the damaged tree in one step. Trees that nobody
//! unpacked (boxes, their states) have no index: what they wrote themselves is known to nobody else.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;

use rootling_backends::{Baseline, Context, Error, ErrorKind, FS, Form, Result};
use serde::Serialize;

use super::files::{self, Durability};
use super::images::Supply;
use super::lock;
use super::stack::{Stack, Step, Wanted};
use super::{Blobs, Image, Index, Node, ObjectId, Record, State, Store, fault};
use crate::image::Digest;

/// What a look at trees and blobs found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// Trees that were compared with their index.
    pub trees: u64,
    /// Trees that have none: nobody knows what should be in them.
    pub unknown: u64,
    /// Blobs whose bytes were read.
    pub blobs: u64,
    /// Trees that are not what they were.
    pub damaged: Vec<Damage>,
    /// Blobs that are missing or not what their name says, and what became of each.
    pub damaged_blobs: Vec<(Digest, Fate)>,
}

/// A tree that is not what it was.
#[derive(Debug, Clone, Serialize)]
pub struct Damage {
    /// Its object.
    pub id: ObjectId,
    /// The layer that it is, by the digest of its tar.
    pub layer: Option<Digest>,
    /// The paths in it that differ.
    #[serde(serialize_with = "as_text")]
    pub paths: Vec<PathBuf>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of something damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is as it was found.
    Left,
    /// It is whole again.
    Repaired,
    /// It could not be repaired: why.
    Failed(String),
}

impl Verified {
    /// Is everything that was looked at as it should be now?
    pub fn is_whole(&self) -> bool {
        let mut fates = self
            .damaged
            .iter()
            .map(|damage| &damage.fate)
            .chain(self.damaged_blobs.iter().map(|(_, fate)| fate));
        fates.all(|fate| *fate == Fate::Repaired)
    }
}

impl Store {
    /// Compares a node's tree, all that it was made from, and the blobs of these with what they were. Reads every byte.
    pub fn verify(&self, node: &Node) -> Result<Verified> {
        let intent = || format!("verify {}", node.shown());
        let _lock = self.share().context(intent)?;
        let line = self.line_of_trees(node).context(intent)?;
        let mut verified = Verified::default();
        for node in &line {
            let damage = self.look_at_tree(node, &mut verified).context(intent)?;
            verified.damaged.extend(damage);
        }
        for digest in self.blobs_of(node, &line) {
            if !self.is_blob_whole(&digest, &mut verified)? {
                verified.damaged_blobs.push((digest, Fate::Left));
            }
        }
        Ok(verified)
    }

    /// As [`verify`](Self::verify), and repairs what it can: damaged blobs are fetched again, damaged layers unpacked again from theirs, the
    /// lowest first.
    ///
    /// Whatever runs or is mounted on a damaged layer is in the way. A kill leaves each layer as it was, or whole.
    pub fn repair(&self, node: &Node, blobs: &Blobs<'_>, supply: &Supply<'_>) -> Result<Verified> {
        let intent = || format!("repair {}", node.shown());
        let line = self.line_of_trees(node).context(intent)?;
        let mut verified = Verified::default();
        for digest in self.blobs_of(node, &line) {
            if !self.is_blob_whole(&digest, &mut verified)? {
                let fate = fate_of(self.repair_blob(&digest, &line, blobs, supply));
                verified.damaged_blobs.push((digest, fate));
            }
        }
        blobs.settle(super::Synced::No).context(intent)?;
        for node in &line {
            let damage = {
                let _lock = self.share().context(intent)?;
                self.look_at_tree(node, &mut verified).context(intent)?
            };
            let Some(damage) = damage else { continue };
            let fate = fate_of(self.unpack_again(node, blobs, supply));
            verified.damaged.push(Damage { fate, ..damage });
        }
        self.empty_trash().context(intent)?;
        Ok(verified)
    }

    /// Returns the paths at which a tree is not what its index says; `None` without an index.
    pub(super) fn damaged_paths(&self, node: &Node) -> Result<Option<Vec<PathBuf>>> {
        let Some(index) = self.index(node)? else { return Ok(None) };
        let now = Index::build(&self.tree_slot(node)?.join(FS))?;
        Ok(Some(index.differences(&now)))
    }

    /// Returns the committed nodes whose own trees a node's tree was made from, its own included, the lowest first.
    fn line_of_trees(&self, node: &Node) -> Result<Vec<Node>> {
        let (mut line, mut seen, mut at) = (Vec::new(), HashSet::new(), Some(node.clone()));
        while let Some(node) = at {
            at = node.record.parent.as_ref().map(|id| self.node(id)).transpose()?;
            let mut owner = node;
            while let Some(id) = owner.record.tree.clone() {
                owner = self.node(&id)?;
            }
            if owner.record.state == State::Committed && seen.insert(owner.id.clone()) {
                line.push(owner);
            }
        }
        line.reverse();
        Ok(line)
    }

    fn look_at_tree(&self, node: &Node, verified: &mut Verified) -> Result<Option<Damage>> {
        let found = match self.damaged_paths(node) {
            // An index that cannot be read tells nothing, and a tree that is gone is damaged as a whole.
            Err(error) if error.kind() == ErrorKind::Corrupt => None,
            Err(error) if error.kind() == ErrorKind::NotFound => Some(vec![PathBuf::new()]),
            found => found?,
        };
        let Some(paths) = found else {
            verified.unknown += 1;
            return Ok(None);
        };
        verified.trees += 1;
        let layer = node.record.layer.as_ref().map(|layer| layer.diff_id.0.clone());
        Ok((!paths.is_empty()).then(|| Damage { id: node.id.clone(), layer, paths, fate: Fate::Left }))
    }

    // ------------------------------------------------------------ blobs

    /// Returns the blobs that must be there: an image's documents; and those of layers that are.
    fn blobs_of(&self, node: &Node, line: &[Node]) -> Vec<Digest> {
        let documents = node.record.image.iter().flat_map(Image::documents).cloned();
        let layers = line.iter().flat_map(|node| &node.record.layer).flat_map(|layer| &layer.blobs);
        let layers = layers.map(|blob| blob.digest.clone());
        let there = layers.filter(|digest| self.blob_path(digest).exists());
        let mut seen = HashSet::new();
        documents.chain(there).filter(|digest| seen.insert(digest.clone())).collect()
    }

    fn is_blob_whole(&self, digest: &Digest, verified: &mut Verified) -> Result<bool> {
        verified.blobs += 1;
        match self.verify_blob(digest) {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Io) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches a blob again: of a layer, or a document of the image.
    fn repair_blob(
        &self,
        digest: &Digest,
        line: &[Node],
        blobs: &Blobs<'_>,
        supply: &Supply<'_>,
    ) -> Result<()> {
        let layers = line.iter().flat_map(|node| &node.record.layer);
        let mut known = layers.flat_map(|layer| &layer.blobs);
        if let Some(blob) = known.find(|blob| blob.digest == *digest) {
            // One whose layer is there as a tree is not needed, and may as well be gone.
            files::remove_if_exists(&self.blob_path(digest))?;
            return (supply.fetch)(blob);
        }
        let bytes = (supply.document)(digest)?;
        files::remove_if_exists(&self.blob_path(digest))?;
        let size = bytes.len() as u64;
        blobs.put(bytes.as_slice(), Some((digest, size)), super::Durability::Lazy).map(drop)
    }

    // ------------------------------------------------------------ layers

    /// Unpacks a layer again, aside, and puts it in the place of what is there.
    fn unpack_again(&self, node: &Node, blobs: &Blobs<'_>, supply: &Supply<'_>) -> Result<()> {
        let mut stack = self.stack_of_one(node)?;
        self.fill_stack(&mut stack, blobs, supply)?;
        fault::point("repair.unpacked");
        let [step] = stack.steps.as_slice() else { unreachable!("it was made of one") };
        self.backend(stack.kind)?.barrier(&step.draft.slot)?;
        fault::point("repair.synced");
        self.put_in_place_of(node, step)
    }

    /// Makes a draft for a layer that is there already.
    fn stack_of_one(&self, node: &Node) -> Result<Stack> {
        let _lock = self.share_to_write()?;
        let Some(layer) = &node.record.layer else {
            let message = format!("{} is no layer that came from somewhere", node.shown());
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("import it again"));
        };
        let is_there = |digest: &Digest| self.blob_path(digest).exists();
        let blob = layer.blobs.iter().find(|blob| is_there(&blob.digest)).or(layer.blobs.first());
        let Some(blob) = blob.cloned() else {
            let message = format!("nothing is known that layer {} could be unpacked from", layer.diff_id);
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let below = match &node.record.parent {
            Some(parent) => Some(self.node(parent)?),
            // Of a delta that is only shared, what one of those who do has it on.
            None if node.record.form == Form::Delta => {
                let sharer = self.children(&node.id)?.into_iter().find_map(|child| child.record.parent);
                sharer.map(|id| self.node(&id)).transpose()?
            }
            None => None,
        };
        let held: Vec<File> = below.iter().map(|node| self.hold(node)).collect::<Result<_>>()?;
        let draft = self.draft()?;
        let record = Record { id: draft.id.clone(), ..node.record.clone() };
        record.write_first(&draft.slot)?;
        let wanted = Wanted {
            diff_id: layer.diff_id.clone(),
            chain_id: layer.chain_id.clone(),
            blob,
            message: node.record.message.clone(),
        };
        let slot = draft.slot.clone();
        let step = Step { wanted, draft, record, slot, unpacked: None, is_alone: false };
        Ok(Stack { kind: node.record.backend, below, steps: vec![step], _held: held })
    }

    /// Puts a tree that was made again in the place of a damaged one. Nothing may use it, nor what stands on it.
    fn put_in_place_of(&self, node: &Node, step: &Step) -> Result<()> {
        let _lock = self.share_to_write()?;
        let mut locks = Vec::new();
        let mut standing = vec![node.clone()];
        let mut next = 0;
        let mut seen = HashSet::from([node.id.clone()]);
        while let Some(node) = standing.get(next).cloned() {
            next += 1;
            let change = self.object_dir(&node.id).join("change");
            // Not waited for: others take these locks in another order.
            locks.push(lock::try_lock_file(&change, lock::Mode::Exclusive)?.ok_or_else(|| {
                let message = format!("{} is being changed", node.shown());
                Error::new(ErrorKind::Busy, message).hint("try again")
            })?);
            let others = self.children(&node.id)?.into_iter();
            standing.extend(others.filter(|child| seen.insert(child.id.clone())));
        }
        for node in &standing {
            locks.push(self.lock_unused(node)?);
        }
        let slot = self.object_dir(&node.id);
        if step.record.form != node.record.form {
            let message = format!("layer {} came out in another form than before", step.wanted.diff_id);
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        for child in &standing[1..] {
            self.know_less(child, &node.id)?;
        }
        let record = Record { baseline: step.record.baseline.clone(), ..self.node(&node.id)?.record };
        self.backend(node.record.backend)?.exchange(&slot, &step.draft.slot)?;
        fault::point("repair.exchanged");
        record.write(&slot, Durability::Synced)?;
        // What it holds is what it held; a measurement is not.
        std::fs::rename(step.draft.slot.join("index"), slot.join("index"))
            .context(|| format!("rename(index of {})", node.id))?;
        files::remove_if_exists(&slot.join("extents"))?;
        files::sync_dir(&slot)?;
        fault::point("repair.done");
        Ok(())
    }

    /// Notes in a node that what it was made from is about to be another tree of the same content: inodes are no longer the same.
    fn know_less(&self, node: &Node, changed: &ObjectId) -> Result<()> {
        let slot = self.object_dir(&node.id);
        let record = Record::read(&slot)?;
        let stands = record.parent.as_ref() == Some(changed) || record.tree.as_ref() == Some(changed);
        if stands && record.form == Form::Full && record.baseline != Baseline::None {
            let baseline = match record.baseline.clone() {
                Baseline::Generation { generation, .. } if record.tree.is_none() => {
                    Baseline::Generation { generation, parted: None }
                }
                Baseline::Generation { .. } => Baseline::None,
                other => other,
            };
            Record { baseline, ..record }.write(&slot, Durability::Synced)?;
        }
        Ok(())
    }
}

/// Text has no room for all that a path can be.
fn as_text<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

fn fate_of(result: Result<()>) -> Fate {
    match result {
        Ok(()) => Fate::Repaired,
        Err(error) => Fate::Failed(format!("{error:?}")),
    }
}
