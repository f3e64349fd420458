//! The layers of an image become nodes: each stands on the one before, and is found again by the name of its stack.
//!
//! Where trees are deltas, a layer says what it changes whatever lies beneath it: all of them are unpacked at once, each alone, and one
//! that is there already, under another stack, is not unpacked again but shared. A layer that cannot be understood alone (an entry in a
//! directory of which it says nothing, a hard link to a file that it does not hold) is noticed, and unpacked over what lies beneath it once that is there.
//! Where trees are whole, one layer is unpacked after the other, each into a fork of the one before.
//!
//! Everything happens in drafts, whose records say from the beginning what they stand on; nothing is locked but that.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rootling_backends::overlay::layer_limit;
use rootling_backends::{
    Access, Baseline, Context, Dir, Error, ErrorKind, FS, ForkOptions, Form, Kind, Result, Tree, reap,
};

use super::draft::Draft;
use super::files::{self, Durability};
use super::images::{Progress, Supply};
use super::index::{self, Digests, Index};
use super::layers::Layer;
use super::unpack::{self, Into, Unpacked};
use super::{Blobs, Node, ObjectId, Record, State, Store, fault};
use crate::image::{ChainId, Descriptor, DiffId, Digest};
use crate::layer::Applied;

/// A layer that is to become a node.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) diff_id: DiffId,
    pub(super) chain_id: ChainId,
    pub(super) blob: Descriptor,
    /// The command that made it.
    pub(super) message: Option<String>,
}

/// A layer on its way.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) wanted: Wanted,
    pub(super) draft: Draft,
    pub(super) record: Record,
    /// The slot that holds its `fs/`: the draft's, or that of the node it shares.
    pub(super) slot: PathBuf,
    /// What came of unpacking it alone.
    pub(super) unpacked: Option<Unpacked>,
    /// Is its tree a delta that is the same whatever lies beneath it?
    pub(super) is_alone: bool,
}

/// What a layer is unpacked over.
struct Ground {
    tree: Tree,
    /// What the files in the tree's own directory hold, as far as that is known.
    digests: Arc<Digests>,
}

/// Layers on their way, each on the one before.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) kind: Kind,
    /// What the first of them stands on.
    pub(super) below: Option<Node>,
    pub(super) steps: Vec<Step>,
    /// The use locks of what is there already.
    pub(super) _held: Vec<File>,
}

impl Stack {
    /// Returns the record of the uppermost layer.
    pub(super) fn top(&self) -> Option<&Record> {
        self.steps.last().map(|step| &step.record).or(self.below.as_ref().map(|node| &node.record))
    }
}

impl Store {
    /// Returns the backend that makes the trees of layers: deltas where forks that are thrown away are deltas.
    fn kind_of_layers(&self) -> Kind {
        self.ephemeral_backend()
    }

    /// Returns how many of these stacks, which grow by a layer each, are there, and the node of the highest of them.
    pub(super) fn known_stack(&self, chains: &[ChainId]) -> Result<(usize, Option<Node>)> {
        for (below, chain) in chains.iter().enumerate().rev() {
            if let Some(node) = self.chain_node(chain)? {
                return Ok((below + 1, Some(node)));
            }
        }
        Ok((0, None))
    }

    /// Makes a draft for each layer. The caller holds the store's lock; once this returns, the drafts' records keep what they stand on.
    pub(super) fn begin_stack(&self, below: Option<Node>, wanted: &[Wanted]) -> Result<Stack> {
        let kind = self.kind_of_layers();
        let mut held: Vec<File> = below.iter().map(|node| self.hold(node)).collect::<Result<_>>()?;
        let mut steps: Vec<Step> = Vec::with_capacity(wanted.len());
        let mut depth =
            below.as_ref().map_or(Ok(0), |node| self.tree(node).map(|tree| tree.layers().len()))?;
        for wanted in wanted {
            let parent = steps.last().map(|step| &step.record.id).or(below.as_ref().map(|node| &node.id));
            let is_delta = kind == Kind::Overlay && parent.is_some() && depth < layer_limit();
            let shared = if is_delta { self.diff_node(&wanted.diff_id)? } else { None };
            let shared = shared.filter(|node| held_or_gone(self, node, &mut held));
            let draft = self.draft()?;
            let layer = Layer {
                says_root: shared.as_ref().is_some_and(says_root),
                size: shared
                    .as_ref()
                    .and_then(|node| node.record.layer.as_ref())
                    .map_or(0, |layer| layer.size),
                diff_id: wanted.diff_id.clone(),
                chain_id: wanted.chain_id.clone(),
                blobs: vec![plain(&wanted.blob)],
            };
            let record = Record {
                parent: parent.cloned(),
                tree: shared.as_ref().map(|node| node.id.clone()),
                layer: Some(layer),
                form: if is_delta { Form::Delta } else { Form::Full },
                baseline: if is_delta { Baseline::Upper } else { Baseline::None },
                message: wanted.message.clone(),
                ..Record::new(draft.id.clone(), kind, State::Committed)
            };
            record.write_first(&draft.slot)?;
            let slot = shared.map_or_else(|| draft.slot.clone(), |node| self.object_dir(&node.id));
            depth = if is_delta { depth + 1 } else { 1 };
            steps.push(Step { wanted: wanted.clone(), draft, record, slot, unpacked: None, is_alone: false });
        }
        Ok(Stack { kind, below, steps, _held: held })
    }

    /// Unpacks the layers. Nothing is synced.
    pub(super) fn fill_stack(&self, stack: &mut Stack, blobs: &Blobs<'_>, supply: &Supply<'_>) -> Result<()> {
        let filled = self.fill_steps(stack, Opener { blobs, supply });
        filled.inspect_err(|error| {
            if error.kind() != ErrorKind::Corrupt {
                return;
            }
            // What is no longer what its name says goes, so that it is fetched anew.
            for step in &stack.steps {
                let digest = &step.wanted.blob.digest;
                // Best effort: the error that brought us here is the one to tell.
                if let Ok(true) = self.remove_damaged_blob(digest) {
                    log::warn!("blob {digest} was damaged: it is removed");
                }
            }
        })
    }

    fn fill_steps(&self, stack: &mut Stack, opener: Opener<'_>) -> Result<()> {
        self.unpack_alone(stack, opener)?;
        fault::point("image.alone");
        let mut beneath = stack.below.as_ref().map(|node| self.ground(node)).transpose()?;
        // The next layer does not wait for what is written down of the one before.
        std::thread::scope(|scope| {
            let mut indexing = Vec::with_capacity(stack.steps.len());
            for step in &mut stack.steps {
                let digest = step.wanted.blob.digest.clone();
                let what = || format!("unpack layer {digest}");
                let ground = self.fill_step(stack.kind, step, beneath.as_ref(), opener).context(what)?;
                fault::point("image.layer");
                if step.record.tree.is_none() {
                    let (slot, digests) = (step.slot.clone(), Arc::clone(&ground.digests));
                    indexing.push(scope.spawn(move || {
                        index::write(&slot, &Index::build_knowing(&slot.join(FS), &digests)?)
                    }));
                }
                beneath = Some(ground);
            }
            indexing.into_iter().try_for_each(|indexing| {
                indexing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// Returns a node as something that layers are unpacked over.
    fn ground(&self, node: &Node) -> Result<Ground> {
        let index = self.index(node).ok().flatten();
        let digests = index.as_ref().map(Index::digests).unwrap_or_default();
        Ok(Ground { tree: self.tree(node)?, digests: Arc::new(digests) })
    }

    /// Unpacks all layers that can be understood alone, on all cores: deltas, and the lowest.
    fn unpack_alone(&self, stack: &mut Stack, opener: Opener<'_>) -> Result<()> {
        let userxattr = self.userxattr();
        let is_alone = |step: &Step| match step.record.form {
            Form::Delta => step.record.tree.is_none(),
            Form::Full => step.record.parent.is_none(),
        };
        let kind = stack.kind;
        let alone: Vec<&mut Step> = stack.steps.iter_mut().filter(|step| is_alone(step)).collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(alone.len());
        let backend = self.backend(kind)?;
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let alone: Vec<Mutex<&mut Step>> = alone.into_iter().map(Mutex::new).collect();
        let work = || {
            while let Some(step) = alone.get(next.fetch_add(1, Ordering::Relaxed)) {
                let step = &mut *step.lock().expect("each is one thread's");
                let digest = step.wanted.blob.digest.clone();
                let mut unpack = || -> Result<()> {
                    backend.create(&step.slot)?;
                    let root = Dir::open(step.slot.join(FS))?;
                    let blob = &step.wanted.blob;
                    let into = match step.record.form {
                        Form::Delta => Into::Delta { userxattr },
                        Form::Full => Into::Tree,
                    };
                    step.unpacked = unpack::unpack(
                        || opener.open(blob),
                        blob,
                        &root,
                        into,
                        &step.wanted.diff_id,
                        Digests::default(),
                    )?;
                    Ok(())
                };
                if let Err(error) = unpack().context(|| format!("unpack layer {digest}")) {
                    // The others end with the layer they are at.
                    next.store(alone.len(), Ordering::Relaxed);
                    failure.lock().expect("nobody panics who holds it").get_or_insert(error);
                    return;
                }
            }
        };
        std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
        failure.into_inner().expect("nobody panics who holds it").map_or(Ok(()), Err)
    }

    /// Finishes one layer over what lies beneath it, and returns its tree, sealed.
    fn fill_step(
        &self,
        kind: Kind,
        step: &mut Step,
        beneath: Option<&Ground>,
        opener: Opener<'_>,
    ) -> Result<Ground> {
        if step.record.tree.is_some() {
            let beneath = &beneath.expect("a delta has something beneath it").tree;
            if self.fits_here(kind, step, beneath)? {
                return Ok(Ground { tree: Tree::delta(&step.slot, beneath), digests: Arc::default() });
            }
            step.record.tree = None;
            step.slot.clone_from(&step.draft.slot);
        }
        let unpacked = match (step.unpacked.take(), beneath) {
            (Some(unpacked), Some(beneath))
                if self.fit(kind, &unpacked.fitting, &step.slot, &beneath.tree)? =>
            {
                step.is_alone = true;
                unpacked
            }
            (Some(unpacked), None) => unpacked,
            (_, beneath) => self.unpack_over(kind, step, beneath, opener)?,
        };
        let tree = match (step.record.form, beneath) {
            (Form::Delta, Some(beneath)) => Tree::delta(&step.slot, &beneath.tree),
            _ => Tree::full(&step.slot),
        };
        self.backend(kind)?.seal(&tree)?;
        let layer = step.record.layer.as_mut().expect("it is the node of a layer");
        (layer.size, layer.says_root) = (unpacked.size, unpacked.fitting.root_is_told);
        step.record.cost = unpacked.cost;
        Ok(Ground { tree, digests: Arc::new(unpacked.digests) })
    }

    /// Does the delta that a layer shares show over this tree what the layer says?
    fn fits_here(&self, kind: Kind, step: &Step, beneath: &Tree) -> Result<bool> {
        let Some(index) = index::read(&step.slot)? else { return Ok(false) };
        let fitting = Applied {
            whiteout_directories: index.whiteout_directories(),
            root_is_told: step.record.layer.as_ref().is_some_and(|layer| layer.says_root),
            ..Applied::default()
        };
        fitting.fits(&open_fs(&step.slot)?, &self.backend(kind)?.open_root(beneath)?)
    }

    /// Makes what was unpacked alone show over this tree what the layer says; `false` where it cannot.
    fn fit(&self, kind: Kind, fitting: &Applied, slot: &Path, beneath: &Tree) -> Result<bool> {
        let (upper, lower) = (open_fs(slot)?, self.backend(kind)?.open_root(beneath)?);
        if !fitting.root_is_told {
            unpack::imitate_root(&upper, &lower)?;
        }
        fitting.fits(&upper, &lower)
    }

    /// Unpacks one layer over the tree beneath it.
    fn unpack_over(
        &self,
        kind: Kind,
        step: &mut Step,
        beneath: Option<&Ground>,
        opener: Opener<'_>,
    ) -> Result<Unpacked> {
        let backend = self.backend(kind)?;
        // What was begun alone.
        reap::reap(&step.slot.join(FS))?;
        let mut digests = Digests::default();
        let tree = match beneath {
            None => {
                backend.create(&step.slot)?;
                Tree::full(&step.slot)
            }
            Some(Ground { tree: beneath, digests: known }) => {
                let options = ForkOptions { ephemeral: true, ..ForkOptions::default() };
                let forked = backend.fork(beneath, &step.slot, options)?;
                (step.record.form, step.record.baseline) = (forked.form, forked.baseline);
                match forked.form {
                    Form::Full => {
                        // What the layer does not touch is as it was.
                        digests = Digests::clone(known);
                        Tree::full(&step.slot)
                    }
                    Form::Delta => Tree::delta(&step.slot, beneath),
                }
            }
        };
        let root = backend.mount(&tree, Access::ReadWrite, false).open_root_for(Access::ReadWrite)?;
        let blob = &step.wanted.blob;
        unpack::unpack(|| opener.open(blob), blob, &root, Into::Tree, &step.wanted.diff_id, digests)?
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it cannot be understood"))
    }

    /// Notes beside each thing that drafts need that they do, and completes them: all that is left is a sync, and to move them in.
    pub(super) fn complete(&self, drafts: &[(&Draft, &Record)]) -> Result<()> {
        let slots: HashMap<&ObjectId, &Path> =
            drafts.iter().map(|(draft, _)| (&draft.id, draft.slot.as_path())).collect();
        for (draft, _) in drafts {
            files::make_dir(&draft.slot.join("by"))?;
            files::make_dir(&draft.slot.join("names"))?;
        }
        for (draft, record) in drafts {
            record.write(&draft.slot, Durability::Lazy)?;
            for needed in record.needs() {
                match slots.get(needed) {
                    Some(slot) => {
                        files::link_new(
                            &format!("../../{}", draft.id),
                            &slot.join("by").join(draft.id.as_str()),
                        )?;
                    }
                    None => self.link_child(needed, &draft.id, Durability::Synced)?,
                }
            }
        }
        Ok(())
    }
}

/// Takes the use lock of a node that is to be shared; one that is on its way out is not.
fn held_or_gone(store: &Store, node: &Node, held: &mut Vec<File>) -> bool {
    let lock = store.hold(node);
    let is_held = lock.is_ok();
    held.extend(lock);
    is_held
}

fn says_root(node: &Node) -> bool {
    node.record.layer.as_ref().is_some_and(|layer| layer.says_root)
}

/// What is kept of a descriptor: where it came from, and whatever it brought along, is the manifest's.
fn plain(blob: &Descriptor) -> Descriptor {
    Descriptor { data: None, ..blob.clone() }
}

fn open_fs(slot: &Path) -> Result<Dir> {
    Dir::open(slot.join(FS))
}

/// Where packed layers are had.
#[derive(Clone, Copy)]
struct Opener<'a> {
    blobs: &'a Blobs<'a>,
    supply: &'a Supply<'a>,
}

impl Opener<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Counted> {
        if !self.blobs.has(&blob.digest, blob.size)? {
            (self.supply.fetch)(blob)?;
        }
        let file = self.blobs.open(&blob.digest)?;
        Ok(Counted { file, digest: blob.digest.clone(), progress: self.supply.progress.clone() })
    }
}

/// A blob that tells how much of it was read.
struct Counted {
    file: File,
    digest: Digest,
    progress: Option<Progress>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(progress) = &self.progress {
            progress(&self.digest, read as u64);
        }
        Ok(read)
    }
}
