//! Restoring: a box becomes what another state is, as a whole or in part, and nothing of what it was is lost.
//!
//! What the box holds becomes a snapshot first, unless it is in a state that exists already. Then, where a fork costs nothing, a
//! new object is made on the state and takes the box's name; a plain tree is changed in place, and so is every tree of which
//! only some paths are restored. What is changed in place is written into the box's record before, so that
//! [`settle`](Store::settle) can finish it.

use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::files::Durability;
use super::freeze::{Call, Freezing, Taken, life_after, moving};
use super::snapshots::numbered;
use super::{Base, Becoming, Cause, Description, KeptVolume, Life, Node, Part, Record, Store, fault};

/// What a restore, an undo or a redo did to a box.
#[derive(Debug, Clone)]
pub struct Moved {
    /// The box as it is now.
    pub node: Node,
    /// The state that it is in, or that its paths were taken from.
    pub state: Node,
    /// What it was before: a committed node with a name.
    pub before: Node,
    /// Was that snapshotted just now, because it was in no state that exists already?
    pub is_kept: bool,
}

/// What is restored of a box.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Only what is at these paths, relative to the root, and below; empty: all of it.
    pub paths: Vec<PathBuf>,
    /// The volumes that were kept together with the state, too.
    pub with_volumes: bool,
}

/// What a box was found to be before it is changed.
#[derive(Debug)]
pub(crate) struct Present {
    pub(crate) before: Node,
    /// Its own tree is to be sealed as that state.
    pub(crate) seals: bool,
    /// Is that a new state?
    pub(crate) is_kept: bool,
}

/// Where a box goes.
#[derive(Debug)]
pub(crate) struct Journey {
    pub(crate) target: Node,
    /// The volumes that go with it.
    pub(crate) volumes: Vec<KeptVolume>,
    /// What belongs to the box once it is there.
    pub(crate) life: Life,
}

/// Returns a path relative to the root of the tree.
pub(super) fn relative(path: &Path) -> Result<PathBuf> {
    let text = path.to_str();
    let plain = |component: &Component<'_>| !matches!(component, Component::ParentDir | Component::Prefix(_));
    if text.is_none() || !path.components().all(|component| plain(&component)) {
        let message = format!("{path:?} cannot be restored by itself");
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("name what is to be restored from the root of the box on, without `..`, in UTF-8; or the directory it is in"));
    }
    Ok(path.components().filter(|component| matches!(component, Component::Normal(_))).collect())
}

impl Store {
    /// Gives a box the content of another state, or of another box as it stands now; or only what is at some paths.
    ///
    /// The box stays on its backend. What it held before is a snapshot afterwards, whose number is the next one, unless it was in a
    /// state that exists already. One that is in use is an error of kind `Busy`. Durable on return; a kill leaves the box as it was,
    /// or its next use finishes the restore. Costs what a fork and a snapshot cost; a plain tree one walk and a clone of what differs.
    pub fn restore(&self, node: &Node, to: &Node, options: &RestoreOptions) -> Result<Moved> {
        let intent = || format!("restore {} to {}", node.shown(), to.shown());
        let moved = {
            let _lock = self.share_to_write().context(intent)?;
            if to.id == node.id {
                let message = format!("{} cannot be restored to itself", node.shown());
                return Err(Error::new(ErrorKind::InvalidInput, message).hint(
                    "name a state of it: `rootling log` lists them, or undo its changes: rootling undo",
                ));
            }
            let target = self.committed(Base::Node(to)).context(intent)?.expect("a node has a state");
            self.restore_to(node, &target, options).context(intent)?
        };
        self.empty_trash().context(intent)?;
        Ok(moved)
    }

    fn restore_to(&self, node: &Node, target: &Node, options: &RestoreOptions) -> Result<Moved> {
        let _held = self.hold(target)?;
        let taken = self.take_unused(node)?;
        let paths: Vec<PathBuf> = options.paths.iter().map(|path| relative(path)).collect::<Result<_>>()?;
        self.require_any(&taken.node, target, &paths)?;
        let volumes = if options.with_volumes { target.record.volumes.clone() } else { Vec::new() };
        let present = self.keep_present(&taken, None, &volumes)?;
        if paths.is_empty() {
            let life = self.life_at(&taken, &present)?.moved_to(&target.id);
            let life = Life { merging: None, ..life };
            return self.travel(&taken, present, Journey { target: target.clone(), volumes, life });
        }
        self.restore_in_place(&taken, present, target, Part::Paths(paths), volumes)
    }

    /// Refuses a path that is neither in the box nor in the state: it is more likely a slip.
    pub(super) fn require_any(&self, node: &Node, target: &Node, paths: &[PathBuf]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let roots = [self.open_root(node)?, self.open_root(target)?];
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        for path in paths {
            if roots
                .iter()
                .all(|root| !path.as_os_str().is_empty() && root.open_beneath(path, flags).is_err())
            {
                let message = format!("neither {} nor {} has {path:?}", node.shown(), target.shown());
                return Err(Error::new(ErrorKind::NotFound, message).hint(format!(
                    "see what differs: rootling diff {} {}",
                    target.label(),
                    node.label()
                )));
            }
        }
        Ok(())
    }

    /// Takes a box that nobody uses; one that is entered or mounted is an error of kind `Busy`.
    pub(crate) fn take_unused(&self, node: &Node) -> Result<Taken> {
        if node.name.as_ref().is_none_or(|name| name.is_volume() || name.is_snapshot()) {
            let message = format!("{} is not a box: nothing can be restored in it", node.shown());
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint(format!("make a box of it: rootling create {} NAME", node.label())));
        }
        let mut taken = self.take(node)?;
        // Released first: the check below takes it again, and says who has it.
        drop(taken.alone.take());
        let unused = self.lock_unused(&taken.node).map_err(|error| match error.first_hint() {
            Some(hint) if hint.starts_with("rootling umount") => error,
            _ => error.hint(format!("end what runs in it: rootling stop {}", taken.node.label())),
        })?;
        taken.alone = Some(unused);
        Ok(taken)
    }

    /// Moves a box that was taken to another state.
    pub(crate) fn travel(&self, taken: &Taken, present: Present, journey: Journey) -> Result<Moved> {
        let node = &taken.node;
        let Present { before, seals, is_kept } = present;
        let Journey { target, volumes, life } = journey;
        let _held = self.hold(&target)?;
        if before.id == target.id && volumes.is_empty() {
            // It is there already.
            let node = Node { name: node.name.clone(), ..self.node(&node.id)? };
            self.rewrite(&node, |record| record.life = life)?;
            return self.arrive(taken, before, target, is_kept);
        }
        if !self.backend(node.record.backend)?.capabilities().constant_time_fork {
            // The snapshot gave it another parent.
            let node = Node { name: node.name.clone(), ..self.node(&node.id)? };
            self.intend(&node, Becoming { state: target.id.clone(), part: Part::All, volumes, life })?;
            return self.arrive(taken, before, target, is_kept);
        }
        let becoming = (!volumes.is_empty()).then(|| Becoming {
            state: target.id.clone(),
            part: Part::Nothing,
            volumes,
            life: life.clone(),
        });
        let new = self.fork_as(node, &target, life, becoming)?;
        fault::point("restore.forked");
        let before = if seals { self.seal_for_safety(node, &before)? } else { before };
        self.switch(node.name.as_ref().expect("only what has a name is taken"), &new)?;
        fault::point("restore.switched");
        if !seals {
            // A snapshot may have given it another parent.
            let parent = self.node(&node.id)?.record.parent;
            self.discard(&node.id, parent.as_ref(), None)?;
        }
        self.arrive(taken, before, target, is_kept)
    }

    /// Changes a part of a box that was taken, where it is.
    fn restore_in_place(
        &self,
        taken: &Taken,
        present: Present,
        target: &Node,
        part: Part,
        volumes: Vec<KeptVolume>,
    ) -> Result<Moved> {
        let life = self.life_at(taken, &present)?;
        let Present { before, seals, is_kept } = present;
        let becoming = Becoming { state: target.id.clone(), part, volumes, life: life.clone() };
        if seals {
            let above = self.fork_as(&taken.node, &taken.node, life, Some(becoming))?;
            fault::point("restore.forked");
            let before = self.seal_for_safety(&taken.node, &before)?;
            self.switch(taken.node.name.as_ref().expect("only what has a name is taken"), &above)?;
            fault::point("restore.switched");
            return self.arrive(taken, before, target.clone(), is_kept);
        }
        let node = Node { name: taken.node.name.clone(), ..self.node(&taken.node.id)? };
        self.intend(&node, becoming)?;
        self.arrive(taken, before, target.clone(), is_kept)
    }

    /// Returns what belongs to a box that is about to leave its present state.
    fn life_at(&self, taken: &Taken, present: &Present) -> Result<Life> {
        let life = life_after(&taken.node, Some(&present.before.id));
        self.counted(taken, present, life)
    }

    /// Notes the number that the present state has, or is about to get.
    pub(crate) fn counted(&self, taken: &Taken, present: &Present, life: Life) -> Result<Life> {
        if !present.seals {
            return Ok(life.called(present.before.name.as_ref()));
        }
        let owner = taken.node.name.as_ref().expect("only what has a name is taken");
        let number = self.last_number(&taken.node, owner)?.saturating_add(1);
        Ok(life.called(Some(&numbered(owner, number)?)))
    }

    /// Makes sure that what a box holds is a state with a name, or says that its own tree is to become that. `known` is the state
    /// that it is known to be in; the present state of `volumes` is kept with one that is made.
    pub(crate) fn keep_present(
        &self,
        taken: &Taken,
        known: Option<Node>,
        volumes: &[KeptVolume],
    ) -> Result<Present> {
        let node = &taken.node;
        let mut description = Description { cause: Cause::Safety, ..Description::default() };
        let how = Freezing { description: &description, call: Call::Next, exact: true };
        let known = if known.is_some() { known } else { self.present_state(node, true, false)? };
        if let Some(state) = known {
            let before = self.reuse(node, &state, &how)?;
            return Ok(Present { before, seals: false, is_kept: false });
        }
        description.volumes = self.keep_volumes(volumes.iter().map(|kept| &kept.volume))?;
        if self.can_be_sealed(taken)? {
            self.backend(node.record.backend)?.barrier(&self.object_dir(&node.id))?;
            fault::point("restore.synced");
            let record = Record { volumes: description.volumes, ..node.record.clone() };
            return Ok(Present { before: Node { record, ..node.clone() }, seals: true, is_kept: true });
        }
        let how = Freezing { description: &description, call: Call::Next, exact: true };
        let before = self.freeze_by_copy(node, &how, &mut moving)?;
        fault::point("restore.kept");
        let is_kept = node.record.parent.as_ref() != Some(&before.id);
        Ok(Present { before, seals: false, is_kept })
    }

    /// Seals a box's own tree as what it was `before`.
    pub(crate) fn seal_for_safety(&self, node: &Node, before: &Node) -> Result<Node> {
        let volumes = before.record.volumes.clone();
        let description = Description { cause: Cause::Safety, volumes, ..Description::default() };
        let how = Freezing { description: &description, call: Call::Next, exact: true };
        let sealed = self.seal_in_place(node, &how)?;
        let name = self.call(&sealed, how.call)?;
        fault::point("restore.sealed");
        Ok(Node { name, ..sealed })
    }

    /// Writes down what a box is about to become. From here on it will.
    fn intend(&self, node: &Node, becoming: Becoming) -> Result<()> {
        let intended = Record { becoming: Some(becoming), ..node.record.clone() };
        for needed in intended.needs() {
            self.link_child(needed, &node.id, Durability::Synced)?;
        }
        intended.write(&self.object_dir(&node.id), Durability::Synced)?;
        fault::point("restore.intended");
        Ok(())
    }

    /// Does what a box's record says it is about to become; `was` is the state that it is in, where that is known. The caller has it
    /// alone.
    pub(crate) fn finish_taken(&self, node: &Node, was: Option<&Node>) -> Result<()> {
        let Some(becoming) = node.record.becoming.clone() else { return Ok(()) };
        let Becoming { state, part, volumes, life } = becoming;
        let state = self.node(&state)?;
        match &part {
            Part::Nothing => {}
            Part::All => self.change_tree(node, &state, &[], was)?,
            Part::Paths(paths) => self.change_tree(node, &state, paths, was)?,
        }
        for kept in &volumes {
            self.restore_volume_to(&kept.volume, &self.node(&kept.snapshot)?)?;
            fault::point("restore.volume");
        }
        if part == Part::All {
            let baseline = self.backend(node.record.backend)?.baseline(&self.tree(node)?)?;
            fault::point("restore.fenced");
            self.stand_on(node, &state, baseline, life)?;
        } else {
            self.rewrite(node, |record| {
                record.becoming = None;
                record.life = life;
            })?;
        }
        fault::point("restore.done");
        Ok(())
    }

    fn arrive(&self, taken: &Taken, before: Node, target: Node, is_kept: bool) -> Result<Moved> {
        let node = self.named(taken.node.name.as_ref().expect("only what has a name is taken"))?;
        let node = node.ok_or_else(|| Error::new(ErrorKind::NotFound, "the box was removed meanwhile"))?;
        if node.id == taken.node.id && node.record.becoming.is_some() {
            self.finish_taken(&node, Some(&before))?;
        }
        let node = self.settle(&node)?;
        let state = Node { name: self.name_of(&target.id)?, ..target };
        Ok(Moved { node, state, before, is_kept })
    }
}
