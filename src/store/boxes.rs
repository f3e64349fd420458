//! What makes nodes: import, create, fork, and the forks that are thrown away.

use std::path::PathBuf;

use jiff::Timestamp;
use rootling_backends::entry::CloneMode;
use rootling_backends::{
    Access, Context, Cost, Dir, Error, ErrorKind, FS, ForkOptions, Form, Kind, Mount, Result, Tree, flatten,
};

use super::draft::{Draft, Ephemeral};
use super::files::{self, Durability};
use super::freeze::{Call, Freezing, what_is};
use super::lock::{self, Mode};
use super::{
    Base, BoxSettings, Cause, Identity, KeptVolume, Life, Name, Node, Record, RemoveVolume, State, Store,
    VolumeReference, fault, host,
};
use crate::image::{Digest, ImageConfig};

/// How to make a box.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The backend; `None` is the store's choice.
    pub backend: Option<Kind>,
    /// Fail instead of copying a file that cannot be cloned.
    pub always_clone: bool,
    /// For boxes: whether they are other machines than what they are forked from.
    pub identity: Identity,
    /// For imports: how the tree wants to be run.
    pub config: ImageConfig,
    /// For imports: what those have in common that make the same tree.
    pub source_key: Option<Digest>,
    /// For boxes: the directory of the runtime bundle that it is made for.
    pub bundle: Option<PathBuf>,
    /// For boxes: what it is started with; `None` is what is forked, with a fork of its home.
    pub settings: Option<BoxSettings>,
}

/// What a commit says of itself.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// What it is, in the words of who commits it.
    pub message: Option<String>,
    /// Who commits it.
    pub author: Option<String>,
    /// How it wants to be run; `None` as the box does.
    pub config: Option<ImageConfig>,
    /// Why it is committed.
    pub cause: Cause,
    /// When it may be removed without being asked for.
    pub expires: Option<Timestamp>,
    /// The volumes that were kept together with it.
    pub volumes: Vec<KeptVolume>,
}

impl Node {
    /// Refuses a committed node, with kind `FailedPrecondition`: nothing runs in it, because nothing changes it.
    pub fn require_box(&self) -> Result<()> {
        if self.record.state == State::Active {
            return Ok(());
        }
        let message = format!("{} is committed: it cannot be changed", self.label());
        Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint(format!("make a box of it: rootling create {} NAME", self.label())))
    }
}

impl Store {
    /// Makes a committed node of what `fill` writes into an empty tree, and names it.
    ///
    /// Durable on return. When `fill` fails, or the process is killed, nothing is left but what the sweep removes.
    pub fn import(
        &self,
        name: &Name,
        source: &str,
        options: CreateOptions,
        fill: impl FnOnce(&Dir) -> Result<Cost>,
    ) -> Result<Node> {
        let intent = || format!("import {source} as {name}");
        let _lock = self.share_to_write().context(intent)?;
        self.require_free(name).context(intent)?;
        let kind = options.backend.unwrap_or_else(|| self.default_backend());
        let draft = self.draft().context(intent)?;
        let start = std::time::Instant::now();
        self.backend(kind)?.create(&draft.slot).context(intent)?;
        let root = Dir::open(draft.slot.join(FS)).context(intent)?;
        let mut cost = fill(&root).context(intent)?;
        fault::point("import.filled");
        cost.elapsed = start.elapsed();
        let record = Record {
            source: Some(source.to_owned()),
            source_key: options.source_key,
            config: options.config,
            cost,
            ..Record::new(draft.id.clone(), kind, State::Committed)
        };
        self.seal_and_publish(draft, record, Some(name), true).context(intent)
    }

    /// Makes a committed node that is an independent copy of the running machine's root file system.
    pub fn import_host(&self, name: &Name, options: CreateOptions) -> Result<Node> {
        let blanks = {
            let _lock = self.share_to_write()?;
            self.draft()?
        };
        let clone = if options.always_clone { CloneMode::Always } else { CloneMode::Auto };
        self.import(name, "host:/", options, |target| self.copy_host(&blanks, target, clone))
    }

    /// Copies the running machine's root file system; what stays out is blanked by a layer in `draft`.
    fn copy_host(&self, draft: &Draft, target: &Dir, clone: CloneMode) -> Result<Cost> {
        let blanks = draft.slot.join("blanks");
        host::blank(&blanks, &self.real_root()?, self.userxattr())?;
        flatten::flatten(&[blanks, host::root().to_owned()], target, self.userxattr(), clone)
    }

    /// Makes a box on a committed node, on the present state of a box, or on the running machine.
    ///
    /// Durable on return.
    pub fn create(&self, base: Base<'_>, name: &Name, options: CreateOptions) -> Result<Node> {
        let intent = || match base {
            Base::Node(node) => format!("fork {} as {name}", node.shown()),
            Base::Host => format!("fork host:/ as {name}"),
        };
        let _lock = self.share_to_write().context(intent)?;
        self.require_free(name).context(intent)?;
        let Some(settings) = options.settings.clone() else {
            let settings = self.inherited_settings(base, name, true).context(intent)?;
            let made = self.fork_named(base, name, options, settings.clone()).context(intent);
            return made.inspect_err(|_| self.discard_home(&settings));
        };
        self.fork_named(base, name, options, settings).context(intent)
    }

    /// Removes the volume of its own of a box that was not made after all.
    pub(super) fn discard_home(&self, settings: &BoxSettings) {
        let Some(volume) = settings.own_volume().cloned() else { return };
        let how = RemoveVolume { for_good: true, force: true };
        // Best effort: it was made for nothing, nothing needs it, and the first error is the one to tell.
        if let Err(error) = self.remove_volume(&VolumeReference { name: volume, label: None }, how) {
            log::warn!("{error}");
        }
    }

    /// Forks under a name, with these settings. The caller holds the store's lock.
    fn fork_named(
        &self,
        base: Base<'_>,
        name: &Name,
        options: CreateOptions,
        settings: BoxSettings,
    ) -> Result<Node> {
        let committed = self.committed(base)?;
        let _held = committed.as_ref().map(|node| self.hold(node)).transpose()?;
        let base = committed.as_ref().map_or(base, Base::Node);
        let (draft, record) = self.draft_of_box(base, name, &options)?;
        fault::point("create.forked");
        let record =
            Record { life: Life { settings, bundle: options.bundle.clone(), ..record.life }, ..record };
        self.publish(draft, &record, Some(name), Durability::Synced)
    }

    /// Makes the box that will be called `name` in a draft.
    pub(super) fn draft_of_box(
        &self,
        base: Base<'_>,
        name: &Name,
        options: &CreateOptions,
    ) -> Result<(Draft, Record)> {
        let draft = self.draft()?;
        let fork = ForkOptions { always_clone: options.always_clone, ..ForkOptions::default() };
        let (record, parent) = match base {
            Base::Node(node) => {
                let kind = options.backend.unwrap_or_else(|| self.default_backend());
                self.fork_into(&draft, node, kind, fork)?
            }
            Base::Host => self.fork_host_into(&draft, options.backend, fork)?,
        };
        let tree = tree_in(&draft, &record, &parent);
        self.give_identity(&draft, &record, &tree, name, options.identity)?;
        Ok((draft, record))
    }

    /// Makes a fork that is thrown away; it holds its parents until it is dropped.
    pub fn ephemeral(&self, base: Base<'_>, options: CreateOptions) -> Result<Ephemeral> {
        let intent = || match base {
            Base::Node(node) => format!("fork {} for one run", node.label()),
            Base::Host => "fork host:/ for one run".to_owned(),
        };
        let _lock = self.share_to_write().context(intent)?;
        let committed = self.committed(base).context(intent)?;
        let held = committed.as_ref().map(|node| self.hold(node)).transpose().context(intent)?;
        let base = committed.as_ref().map_or(base, Base::Node);
        let draft = self.draft().context(intent)?;
        let fork =
            ForkOptions { always_clone: options.always_clone, ephemeral: true, ..ForkOptions::default() };
        let (record, parent) = match base {
            Base::Node(node) => {
                let kind = options.backend.unwrap_or_else(|| self.ephemeral_backend());
                self.fork_into(&draft, node, kind, fork)
            }
            Base::Host => self.fork_host_into(&draft, options.backend, fork),
        }
        .context(intent)?;
        // The record says what the draft stands on: the sweep keeps that while the draft's lock is held.
        record.write_first(&draft.slot).context(intent)?;
        let tree = tree_in(&draft, &record, &parent);
        Ok(Ephemeral { draft, record, tree, parent, _base: held })
    }

    /// Makes an ephemeral fork a box. Durable on return.
    ///
    /// A name that was taken since the fork was made is no reason to lose it: then it is called `NAME-2`, and so on.
    pub fn keep(&self, ephemeral: Ephemeral, name: &Name) -> Result<Node> {
        let id = ephemeral.draft.id.clone();
        let intent = || format!("keep the fork {id} as {name}");
        let _lock = self.share_to_write().context(intent)?;
        self.backend(ephemeral.record.backend)?.barrier(&ephemeral.draft.slot).context(intent)?;
        fault::point("keep.synced");
        let record = Record { created: Timestamp::now(), ..ephemeral.record.clone() };
        let node = self.publish(ephemeral.draft, &record, None, Durability::Synced).context(intent)?;
        let (mut called, mut number) = (name.clone(), 1_u32);
        while let Err(error) = self.link_name(&called, &node.id) {
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(error).context(intent);
            }
            number += 1;
            called = Name::parse(&format!("{name}-{number}")).context(intent)?;
        }
        fault::point("keep.named");
        files::sync_dir(&self.root.join("n")).context(intent)?;
        Ok(Node { name: Some(called), ..node })
    }

    /// Seals what changed in a box as a committed node on its parent, and names that. The box goes on, on top of it.
    ///
    /// Durable on return. O(1) with btrfs, and with overlay while the box is not in use; else O(changed files).
    pub fn commit(&self, node: &Node, name: &Name, description: &Description) -> Result<Node> {
        let intent = || format!("commit {} as {name}", node.shown());
        let _lock = self.share_to_write().context(intent)?;
        self.require_free(name).context(intent)?;
        self.freeze(node, &Freezing { description, call: Call::As(name), exact: false }).context(intent)
    }

    /// Returns where the node is mounted in this mount namespace.
    pub fn mounted_at(&self, node: &Node) -> Result<Vec<std::path::PathBuf>> {
        host::mounted_at(&self.tree_slot(node)?)
    }

    /// Is a tree of this store mounted at `place` in this mount namespace? One look at the mounts, however many nodes there are.
    pub fn shows_at(&self, place: &std::path::Path) -> Result<bool> {
        let ids = host::objects_mounted_at(place)?;
        Ok(ids.iter().any(|id| self.object_dir(id).exists()))
    }

    /// Returns the directory of the object, where a runner may leave a note of what runs in it.
    pub fn slot(&self, node: &Node) -> std::path::PathBuf {
        self.object_dir(&node.id)
    }

    /// Returns how to show a node: a box for reading and writing, a committed node for reading.
    pub fn mount(&self, node: &Node) -> Result<(Mount, Access)> {
        let access = if node.record.state == State::Active { Access::ReadWrite } else { Access::ReadOnly };
        let tree = self.tree(node)?;
        Ok((self.backend(node.record.backend)?.mount(&tree, access, false), access))
    }

    /// Returns the box's node, ready to be written to, with a lock that says it is in use.
    ///
    /// A committed node is an error of kind `FailedPrecondition`.
    pub fn open_box(&self, node: &Node) -> Result<(Node, std::fs::File)> {
        let _lock = self.share_to_write()?;
        loop {
            let node = self.settle(node)?;
            node.require_box()?;
            self.require_not_held(&node)?;
            let what = what_is(&node);
            let used = match lock::lock_dir(&self.object_dir(&node.id), Mode::Shared, &what) {
                // Another tree has taken its place already.
                Err(error) if error.kind() == ErrorKind::NotFound && node.name.is_some() => continue,
                locked => locked?,
            };
            // While we waited for the lock a commit may have sealed it, or a restore put another tree in its place.
            let moved = match &node.name {
                Some(name) => self.resolve_name(name)?.as_ref() != Some(&node.id),
                None => false,
            };
            if !moved && self.node(&node.id)?.record.state == State::Active {
                return Ok((node, used));
            }
        }
    }

    /// Says whether the box is entered or mounted through a lock right now.
    pub fn is_in_use(&self, node: &Node) -> Result<bool> {
        Ok(lock::try_lock_dir(&self.object_dir(&node.id), Mode::Exclusive)?.is_none())
    }

    // ------------------------------------------------------------ the steps

    /// Returns the committed node that a fork of `base` stands on, as it is now: of a box, its present state.
    pub(crate) fn committed(&self, base: Base<'_>) -> Result<Option<Node>> {
        let Base::Node(node) = base else { return Ok(None) };
        if node.record.state == State::Committed {
            // For ever; whether it is still there shows when it is held.
            return Ok(Some(node.clone()));
        }
        let now = match (self.node(&node.id), &node.name) {
            // Another tree has taken its place since it was looked up.
            (Err(error), Some(name)) if error.kind() == ErrorKind::NotFound => {
                self.named(name)?.ok_or(error)?
            }
            (found, name) => Node { name: name.clone(), ..found? },
        };
        if now.record.state == State::Active {
            if !self.backend(now.record.backend)?.capabilities().live_snapshot && self.held(&now)?.is_some() {
                log::warn!(
                    "{} is containerd's: files that change together just now may show two moments",
                    now.label()
                );
            }
            let description = Description { cause: Cause::Fork, ..Description::default() };
            self.freeze(node, &Freezing { description: &description, call: Call::Nothing, exact: false })
                .map(Some)
        } else {
            Ok(Some(now))
        }
    }

    /// Keeps a committed node from being removed as long as the lock is held: something is about to stand on it.
    pub(crate) fn hold(&self, node: &Node) -> Result<std::fs::File> {
        let slot = self.object_dir(&node.id);
        let held = lock::lock_dir(&slot, Mode::Shared, &node.shown())?;
        // It may have been moved to the trash while we waited.
        if !slot.exists() {
            return Err(lock::gone(&node.shown()));
        }
        Ok(held)
    }

    /// Forks a node into the draft; returns the record of an active node and the tree it was forked from.
    pub(crate) fn fork_into(
        &self,
        draft: &Draft,
        node: &Node,
        kind: Kind,
        options: ForkOptions,
    ) -> Result<(Record, Tree)> {
        let parent = self.tree(node)?;
        let forked = self.backend(kind)?.fork(&parent, &draft.slot, options)?;
        let record = Record {
            role: node.record.role,
            form: forked.form,
            parent: Some(node.id.clone()),
            baseline: forked.baseline,
            config: node.record.config.clone(),
            cost: forked.cost,
            ..Record::new(draft.id.clone(), kind, State::Active)
        };
        Ok((record, parent))
    }

    /// Forks the running machine into the draft: a snapshot of its root subvolume where the store shares its btrfs, an overlay
    /// over `/` elsewhere, and a copy where that does not work either, or another backend was asked for.
    fn fork_host_into(
        &self,
        draft: &Draft,
        asked: Option<Kind>,
        options: ForkOptions,
    ) -> Result<(Record, Tree)> {
        let chosen = asked.or(self.format.backend);
        if chosen.is_none_or(|kind| kind == Kind::Btrfs) && self.backend(Kind::Btrfs).is_ok() {
            match self.snapshot_host_into(draft, options) {
                Err(error) if error.kind() == ErrorKind::CrossDevice => {}
                other => return other,
            }
        }
        let overlay_works = self.backend(Kind::Overlay).is_ok();
        let kind =
            chosen.unwrap_or_else(|| if overlay_works { Kind::Overlay } else { self.default_backend() });
        let backend = self.backend(kind)?;
        let parent = self.host_parent(draft)?;
        let record = Record::new(draft.id.clone(), kind, State::Active);
        if backend.capabilities().fork_form == Form::Delta {
            let forked = backend.fork(&parent, &draft.slot, options)?;
            host::blank(&draft.slot.join(FS), &self.real_root()?, self.userxattr())?;
            let outside = Some(host::root().to_owned());
            let (form, baseline, cost) = (forked.form, forked.baseline, forked.cost);
            return Ok((Record { form, outside, baseline, cost, ..record }, parent));
        }
        let clone = if options.always_clone { CloneMode::Always } else { CloneMode::Auto };
        backend.create(&draft.slot)?;
        let cost = self.copy_host(draft, &Dir::open(draft.slot.join(FS))?, clone)?;
        Ok((Record { cost, ..record }, parent))
    }

    fn snapshot_host_into(&self, draft: &Draft, options: ForkOptions) -> Result<(Record, Tree)> {
        let parent = self.host_parent(draft)?;
        let options = ForkOptions { outermost_only: true, ..options };
        let forked = self.backend(Kind::Btrfs)?.fork(&parent, &draft.slot, options)?;
        host::empty(&draft.slot.join(FS), &self.real_root()?)?;
        let record = Record {
            outside: Some(host::root().to_owned()),
            baseline: forked.baseline,
            cost: forked.cost,
            ..Record::new(draft.id.clone(), Kind::Btrfs, State::Active)
        };
        Ok((record, parent))
    }

    fn host_parent(&self, draft: &Draft) -> Result<Tree> {
        host::make_base(&draft.slot, host::root())?;
        Ok(host::parent_tree(&draft.slot))
    }
}

/// The tree that was forked from `parent` into the draft.
pub(super) fn tree_in(draft: &Draft, record: &Record, parent: &Tree) -> Tree {
    if record.form == Form::Full { Tree::full(&draft.slot) } else { Tree::delta(&draft.slot, parent) }
}
