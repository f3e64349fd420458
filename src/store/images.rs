//! Images: a manifest, a configuration and layers become a node with a name.
//!
//! The layers become nodes of their own, each on the one before ([`stack`](super::stack)); the image is one more node, which has the tree
//! of the uppermost and says what the documents say. Two images of equal layers share all trees.
//!
//! Nothing is found until all of it is on disk: everything is made in drafts, one sync makes all of it durable, blobs included, then the
//! drafts are moved in, then the image has its names: the commit point.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootling_backends::{Context, Cost, Dir, Error, ErrorKind, Form, Result, Tree};

use super::blobs::Synced;
use super::draft::Draft;
use super::files::{self, Durability};
use super::layers::{Image, Layer};
use super::lock::{self, Mode};
use super::stack::{Stack, Wanted};
use super::{Blobs, Name, Node, Record, State, Store, fault, format};
use crate::image::{ChainId, Configuration, Descriptor, Digest, Document, Manifest, Parsed};

mod list;

pub use list::ImageEntry;

/// What an image is made of, beside its layers.
#[derive(Debug, Clone)]
pub struct ImageParts {
    /// The manifest.
    pub manifest: Document,
    /// The configuration, as it came.
    pub config: Vec<u8>,
    /// The index that the manifest was chosen from.
    pub index: Option<Document>,
    /// What was asked for.
    pub reference: Option<String>,
}

/// What is told of bytes of a packed layer that were unpacked.
pub type Progress = Arc<dyn Fn(&Digest, u64) + Send + Sync>;

/// Where layers come from that have to be unpacked.
#[derive(Clone)]
pub struct Supply<'a> {
    /// Brings a blob among those that it is added with, and returns once it is there. Called by several threads; never for a layer that is
    /// there as a tree.
    pub fetch: &'a (dyn Fn(&Descriptor) -> Result<()> + Sync),
    /// Returns a manifest, index or configuration, verified: asked only to repair one.
    pub document: &'a (dyn Fn(&Digest) -> Result<Vec<u8>> + Sync),
    /// Is told how many more bytes of a blob were read.
    pub progress: Option<Progress>,
}

impl Supply<'static> {
    /// All blobs are there: one that is not is an error of kind `NotFound`.
    pub fn none() -> Self {
        Self { fetch: &|blob| Err(gone(&blob.digest)), document: &|digest| Err(gone(digest)), progress: None }
    }
}

fn gone(digest: &Digest) -> Error {
    Error::new(ErrorKind::NotFound, format!("blob {digest} is not there")).hint("pull the image again")
}

impl std::fmt::Debug for Supply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supply").finish_non_exhaustive()
    }
}

/// An image that was added.
#[derive(Debug)]
pub struct AddedImage {
    /// Its node, by the first of its names.
    pub node: Node,
    /// Was it there already, so that it only got names?
    pub was_there: bool,
    /// Layers that were unpacked; the others were there.
    pub unpacked: usize,
    /// What that cost.
    pub cost: Cost,
}

impl Store {
    /// Makes an image of its parts a node, and gives it names; no name leaves it to the sweep.
    ///
    /// Layers that are there, whatever image brought them, are not unpacked again, nor is their blob asked for. A name that another image has moves;
    /// that one goes unless something is made from it or it has other names. A name of anything but an image is an error of
    /// kind `AlreadyExists`. What another process adds at the same time is waited for, not done twice.
    ///
    /// Durable on return. A kill leaves drafts and nodes without a name: what was finished is used by the next attempt, the rest is the sweep's.
    pub fn add_image(
        &self,
        blobs: &Blobs<'_>,
        names: &[Name],
        parts: &ImageParts,
        supply: &Supply<'_>,
    ) -> Result<AddedImage> {
        let what = || {
            format!("add image {}", names.first().map_or(parts.manifest.digest.to_string(), Name::to_string))
        };
        let added = self.add_parts(blobs, names, parts, supply).context(what)?;
        self.empty_trash().context(what)?;
        Ok(added)
    }

    fn add_parts(
        &self,
        blobs: &Blobs<'_>,
        names: &[Name],
        parts: &ImageParts,
        supply: &Supply<'_>,
    ) -> Result<AddedImage> {
        let (manifest, config) = parts.read()?;
        names.iter().try_for_each(|name| self.require_free_or_image(name))?;
        let documents = [Some(&parts.manifest), parts.index.as_ref()].into_iter().flatten();
        for document in documents {
            let expected = Some((&document.digest, document.bytes.len() as u64));
            blobs.put(document.bytes.as_slice(), expected, Durability::Lazy)?;
        }
        let expected = Some((&manifest.config.digest, manifest.config.size));
        blobs.put(parts.config.as_slice(), expected, Durability::Lazy)?;
        fault::point("image.documents");
        let wanted = wanted(manifest, &config);
        let chains = config.chain_ids();
        let _making = self.lock_making(&chains, &parts.manifest.digest)?;
        let image = Image {
            manifest: parts.manifest.digest.clone(),
            media_type: parts.manifest.media_type.clone(),
            config: manifest.config.digest.clone(),
            index: parts.index.as_ref().map(|index| index.digest.clone()),
            reference: parts.reference.clone(),
            platform: Some(config.platform()),
            created: config.created_at(),
        };
        let begun = {
            let _lock = self.share_to_write()?;
            format::Format::require(&self.root, format::SHARED_TREES)?;
            let (known, below) = self.known_stack(&chains)?;
            self.note_blobs(below.as_ref(), &wanted[..known], blobs)?;
            match self.existing_image(
                names,
                below.as_ref().filter(|_| known == wanted.len()),
                &image.manifest,
            )? {
                Some(node) => Err((self.hold(&node)?, node)),
                None => Ok(self.begin_stack(below, &wanted[known..])?),
            }
        };
        fault::point("image.begun");
        let mut stack = match begun {
            Ok(stack) => stack,
            Err((_held, node)) => {
                blobs.settle(Synced::No)?;
                let node = self.name_image(&node, names)?;
                return Ok(AddedImage { node, was_there: true, unpacked: 0, cost: Cost::default() });
            }
        };
        self.fill_stack(&mut stack, blobs, supply)?;
        fault::point("image.filled");
        let mut cost = Cost::default();
        let mut unpacked = 0;
        for step in stack.steps.iter().filter(|step| step.record.tree.is_none()) {
            unpacked += 1;
            cost.files_copied += step.record.cost.files_copied;
            cost.bytes_copied += step.record.cost.bytes_copied;
        }
        let node = self.publish_image(blobs, stack, image, config)?;
        let node = self.name_image(&node, names)?;
        Ok(AddedImage { node, was_there: false, unpacked, cost })
    }

    // ------------------------------------------------------------ one at a time

    /// Waits until nobody else makes what is missing, and keeps others from it.
    fn lock_making(&self, chains: &[ChainId], manifest: &Digest) -> Result<Making> {
        for directory in ["c", "d"] {
            files::make_dir(&self.root.join(directory))?;
        }
        let first_missing = || -> Result<String> {
            let _lock = self.share()?;
            let (known, _) = self.known_stack(chains)?;
            Ok(chains.get(known).map_or(manifest.hex(), |chain| chain.0.hex()).to_owned())
        };
        loop {
            let key = first_missing()?;
            let path = self.root.join("c").join(format!("{key}.lock"));
            let making = Making { lock: lock::wait_for_file(&path, &format!("image {manifest}"))?, path };
            // While we waited somebody may have made it. The look at the lock comes last: whoever sweeps idle ones is done by then.
            if first_missing()? == key && making.is_ours() {
                return Ok(making);
            }
        }
    }

    /// Is this a lock of something that nobody makes? The caller holds the store alone.
    pub(super) fn is_idle_lock(&self, path: &Path) -> Result<bool> {
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        Ok(is_lock && lock::try_lock_file(path, Mode::Exclusive)?.is_some())
    }

    // ------------------------------------------------------------ what is there

    /// Returns the node of an image that is there already.
    fn existing_image(&self, names: &[Name], top: Option<&Node>, manifest: &Digest) -> Result<Option<Node>> {
        let is_it = |node: &Node| node.record.image.as_ref().is_some_and(|image| image.manifest == *manifest);
        if let Some(top) = top
            && let Some(node) = self.children(&top.id)?.into_iter().find(is_it)
        {
            return Ok(Some(node));
        }
        for name in names {
            if let Some(node) = self.named(name)?.filter(is_it) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Notes in the nodes of layers that are there which blobs they came as this time, where those are kept.
    fn note_blobs(&self, top: Option<&Node>, wanted: &[Wanted], blobs: &Blobs<'_>) -> Result<()> {
        let mut at = top.cloned();
        for wanted in wanted.iter().rev() {
            let Some(mut node) = at else { return Ok(()) };
            if node.record.layer.is_none() && self.is_held_chain(&node.record, &wanted.chain_id) {
                node = self.note_layer(&node, wanted)?;
            }
            at = node.record.parent.as_ref().map(|id| self.node(id)).transpose()?;
            let knows = |layer: &Layer| layer.blobs.iter().any(|blob| blob.digest == wanted.blob.digest);
            let is_it = |layer: &&Layer| layer.chain_id == wanted.chain_id;
            let Some(layer) = node.record.layer.as_ref().filter(is_it) else { return Ok(()) };
            if knows(layer) || !blobs.has(&wanted.blob.digest, wanted.blob.size)? {
                continue;
            }
            self.note_blob(&node, &wanted.blob)?;
        }
        Ok(())
    }

    /// Notes that a layer is kept as this blob, too. Durable on return; a second call does nothing.
    pub fn note_blob(&self, node: &Node, blob: &Descriptor) -> Result<()> {
        let slot = self.object_dir(&node.id);
        let _change = lock::lock_file(&slot.join("change"), Mode::Exclusive, &node.shown())?;
        let mut record = Record::read(&slot)?;
        let Some(layer) = &mut record.layer else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{} is no layer", node.shown())));
        };
        if layer.blobs.iter().all(|known| known.digest != blob.digest) {
            layer.blobs.push(Descriptor { data: None, ..blob.clone() });
            record.write(&slot, Durability::Synced)?;
        }
        Ok(())
    }

    // ------------------------------------------------------------ publishing

    /// Makes the image's node, and moves all drafts in. Durable on return, and found by hints; without a name.
    fn publish_image(
        &self,
        blobs: &Blobs<'_>,
        mut stack: Stack,
        image: Image,
        config: Configuration,
    ) -> Result<Node> {
        let _lock = self.share_to_write()?;
        let mut draft = self.draft()?;
        let made = Record::new(draft.id.clone(), stack.kind, State::Committed);
        let source = image.reference.clone();
        let said = Record { image: Some(image), config: config.config, source, ..made };
        let record = match stack.top() {
            Some(top) => Record {
                backend: top.backend,
                form: top.form,
                parent: top.parent.clone(),
                tree: Some(top.id.clone()),
                baseline: top.baseline.clone(),
                ..said
            },
            // No layer at all: it is empty.
            None => {
                let backend = self.backend(stack.kind)?;
                backend.create(&draft.slot)?;
                backend.seal(&Tree::full(&draft.slot))?;
                said
            }
        };
        let mut drafts: Vec<(&Draft, &Record)> =
            stack.steps.iter().map(|step| (&step.draft, &step.record)).collect();
        drafts.push((&draft, &record));
        self.complete(&drafts)?;
        fault::point("image.complete");
        Dir::open(self.root.join("o"))?.sync_file_system()?;
        fault::point("image.synced");
        blobs.settle(Synced::Yes)?;
        for step in &mut stack.steps {
            self.move_in(&mut step.draft)?;
        }
        self.move_in(&mut draft)?;
        files::sync_dir(&self.root.join("o"))?;
        fault::point("image.moved");
        for step in &stack.steps {
            let layer = step.record.layer.as_ref().expect("it is the node of a layer");
            self.hint(&self.chain_hint(&layer.chain_id), &step.record.id)?;
            if step.record.tree.is_none() && step.record.form == Form::Delta && step.is_alone {
                self.hint(&self.diff_hint(&layer.diff_id), &step.record.id)?;
            }
            fault::point("image.hinted");
        }
        Ok(Node { id: record.id.clone(), record, name: None })
    }

    // ------------------------------------------------------------ names

    /// Refuses a name that something other than an image has.
    pub(super) fn require_free_or_image(&self, name: &Name) -> Result<()> {
        match self.named(name)? {
            Some(node) if !node.record.is_image() => Err(self.taken(name)),
            Some(node) => node.require_unlocked(),
            None => Ok(()),
        }
    }

    /// Gives an image these names, one after the other; each that another image has moves in one step. Durable on return.
    pub fn name_image(&self, node: &Node, names: &[Name]) -> Result<Node> {
        let _lock = self.share_to_write()?;
        let _held = self.hold(node)?;
        for name in names {
            let before = self.move_image_name(node, name)?;
            fault::point("image.named");
            let Some(before) = before else { continue };
            // Best effort: what stands on it, or uses it, keeps it; else the sweep finds it.
            if let Some((before, alone)) = self.unneeded(&before.id)? {
                self.discard(&before.id, before.record.parent.as_ref(), Some(alone))?;
            }
        }
        Ok(Node { name: names.first().cloned(), ..node.clone() })
    }

    /// Gives an image a name, and returns the image that had it.
    fn move_image_name(&self, node: &Node, name: &Name) -> Result<Option<Node>> {
        loop {
            let Some(before) = self.named(name)? else {
                match self.link_name(name, &node.id) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    linked => linked?,
                }
                files::sync_dir(&self.root.join("n"))?;
                return Ok(None);
            };
            if before.id == node.id {
                return Ok(None);
            }
            if !before.record.is_image() {
                return Err(self.taken(name));
            }
            let change = self.object_dir(&before.id).join("change");
            let locked = lock::lock_file(&change, Mode::Exclusive, &before.shown());
            // While we waited it may have been removed, or have another name.
            if self.resolve_name(name)?.as_ref() != Some(&before.id) {
                continue;
            }
            let _change = locked?;
            // Somebody may have locked it since it was read.
            let before = Node { record: self.node(&before.id)?.record, ..before };
            before.require_unlocked()?;
            self.switch(name, &node.id)?;
            return Ok(Some(before));
        }
    }
}

/// The lock of what is being made. It is removed once it is made.
#[derive(Debug)]
struct Making {
    lock: File,
    path: PathBuf,
}

impl Making {
    /// Is there nobody else who holds it? Those who waited have the file that was removed.
    fn is_ours(&self) -> bool {
        lock::is_at(&self.lock, &self.path)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Best effort: what stays is swept.
        if self.is_ours()
            && let Err(error) = files::remove_if_exists(&self.path)
        {
            log::debug!("{error}");
        }
    }
}

impl ImageParts {
    /// Returns what the documents say; what does not fit together is an error.
    fn read(&self) -> Result<(&Manifest, Configuration)> {
        let Parsed::Manifest(manifest) = &self.manifest.parsed else {
            let message = format!("{} is an index: it is several images", self.manifest.digest);
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("choose one of its platforms"));
        };
        if !manifest.is_image() {
            let message = format!("{} is no image", self.manifest.digest);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        manifest.config.verify(&self.config)?;
        let config = Configuration::parse(&self.config)?;
        config.check(manifest)?;
        Ok((manifest, config))
    }
}

/// Returns the layers of an image, the lowest first.
fn wanted(manifest: &Manifest, config: &Configuration) -> Vec<Wanted> {
    let chains = config.chain_ids().into_iter();
    let history = config.layer_history();
    let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids).zip(chains).zip(history);
    let layers = layers.map(|(((blob, diff_id), chain_id), made)| Wanted {
        diff_id: diff_id.clone(),
        chain_id,
        blob: blob.clone(),
        message: made.map(|made| made.created_by.clone()).filter(|command| !command.is_empty()),
    });
    layers.collect()
}
