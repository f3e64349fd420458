//! Freezing: the present state of a box becomes a committed node, and the box goes on, on top of it.
//!
//! A delta that nobody uses is sealed where it is, and the box gets an empty one above it. Everything else is copied by its
//! backend: a snapshot, clones, or copies of what changed.

use jiff::Timestamp;
use rootling_backends::entry::CloneMode;
use rootling_backends::{Baseline, Dir, Error, ErrorKind, FS, ForkOptions, Form, Result, Tree, flatten};

use super::draft::Draft;
use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Description, Life, Name, Node, ObjectId, Record, Role, State, Store, fault, host, index};

impl Store {
    pub(crate) fn seal_and_publish(
        &self,
        draft: Draft,
        record: Record,
        name: Option<&Name>,
        indexed: bool,
    ) -> Result<Node> {
        let tree = Tree { form: record.form, ..Tree::full(&draft.slot) };
        let backend = self.backend(record.backend)?;
        if indexed {
            index::write(&draft.slot, &index::Index::build(&tree.fs())?)?;
        }
        backend.seal(&tree)?;
        fault::point("commit.sealed");
        backend.barrier(&draft.slot)?;
        fault::point("commit.synced");
        self.publish(draft, &record, name, Durability::Synced)
    }

    /// Returns what a node's name means now, and finishes a commit of it that was cut short.
    ///
    /// Such a commit left the box's name on the node that it sealed (see `freeze_in_place`).
    pub(crate) fn settle(&self, node: &Node) -> Result<Node> {
        let Some(name) = &node.name else { return self.node(&node.id) };
        let gone = || Error::new(ErrorKind::NotFound, format!("{name} was removed meanwhile"));
        let unfinished = |node: &Node| {
            node.record.state == State::Committed && node.record.continued_by.as_ref() == Some(name)
        };
        let mut node = self.named(name)?.ok_or_else(gone)?;
        if self.settle_promotion(&node)? {
            node = self.named(name)?.ok_or_else(gone)?;
        }
        if !unfinished(&node) {
            return Ok(node);
        }
        let what = format!("box {name}");
        let _change = lock::lock_file(&self.object_dir(&node.id).join("change"), Mode::Exclusive, &what)?;
        let node = self.named(name)?.ok_or_else(gone)?;
        if !unfinished(&node) {
            return Ok(node);
        }
        let above = self.stack_on(&node, node.record.life.clone().moved_to(&node.id))?;
        self.switch(name, &above)?;
        Ok(Node { name: Some(name.clone()), ..self.node(&above)? })
    }

    /// Makes the present state of a box a committed node. The caller holds the store's lock.
    pub(crate) fn freeze(&self, node: &Node, name: Option<&Name>, description: &Description) -> Result<Node> {
        let node = self.settle(node)?;
        let what = what_is(&node);
        let change = self.object_dir(&node.id).join("change");
        let _change = lock::lock_file(&change, Mode::Exclusive, &what)?;
        // Another commit may have gone first: then the box is a node further up.
        let node = Node { name: node.name.clone(), ..self.node(&node.id)? };
        if node.record.state == State::Committed {
            let busy = node.record.continued_by.is_some();
            let message = format!("{} is committed already", node.shown());
            let error =
                Error::new(if busy { ErrorKind::Busy } else { ErrorKind::FailedPrecondition }, message);
            return Err(if busy {
                error.hint("another commit of it has just ended: try again")
            } else {
                error.hint(format!("give it another name by forking it: rootling fork {} NAME", node.label()))
            });
        }
        let alone = lock::try_lock_dir(&self.object_dir(&node.id), Mode::Exclusive)?;
        let mounted = host::is_mounted(&self.object_dir(&node.id))?;
        let restack = node.record.form == Form::Delta && node.record.outside.is_none() && node.name.is_some();
        match alone {
            Some(_alone) if restack && !mounted => self.freeze_in_place(&node, name, description),
            _ => self.freeze_by_copy(&node, name, description),
        }
    }

    /// The box's own upper directory becomes the node; the box goes on with an empty one over it. O(1).
    fn freeze_in_place(&self, node: &Node, name: Option<&Name>, description: &Description) -> Result<Node> {
        let box_name = node.name.as_ref().expect("the caller saw a name");
        let (tree, backend) = (self.tree(node)?, self.backend(node.record.backend)?);
        backend.barrier(&tree.slot)?;
        fault::point("freeze.synced");
        let record = Record {
            state: State::Committed,
            continued_by: Some(box_name.clone()),
            ..described(description, node)
        };
        let life = life_after(node, name.map(|name| (name, &node.id)));
        let above = self.stack_on(node, life)?;
        fault::point("freeze.stacked");
        record.write(&tree.slot, Durability::Synced)?;
        fault::point("freeze.recorded");
        // Only now: an active box needs what this removes.
        backend.seal(&tree)?;
        fault::point("freeze.sealed");
        // The name first: if we are cut off now, the box's name on a sealed node is mended when the box is next opened.
        let named = name.map_or(Ok(()), |name| self.link_name(name, &node.id));
        fault::point("freeze.named");
        self.switch(box_name, &above)?;
        fault::point("freeze.switched");
        named?;
        Ok(Node { id: node.id.clone(), record, name: name.cloned() })
    }

    /// Makes an unnamed empty active node on `node`, which is sealed or about to be.
    fn stack_on(&self, node: &Node, life: Life) -> Result<ObjectId> {
        let draft = self.draft()?;
        let forked = self.backend(node.record.backend)?.fork(
            &self.tree(node)?,
            &draft.slot,
            ForkOptions::default(),
        )?;
        let record = Record {
            role: node.record.role,
            form: forked.form,
            parent: Some(node.id.clone()),
            baseline: forked.baseline,
            config: node.record.config.clone(),
            life,
            cost: forked.cost,
            ..self.record(&draft, node.record.backend, State::Active)
        };
        Ok(self.publish(draft, &record, None, Durability::Synced)?.id)
    }

    pub(crate) fn switch(&self, name: &Name, id: &ObjectId) -> Result<()> {
        files::link_over(&format!("../o/{id}"), &self.name_link(name))?;
        files::sync_dir(&self.root.join("n"))
    }

    /// A copy of the box's present state becomes the node; the box stays where it is.
    fn freeze_by_copy(&self, node: &Node, name: Option<&Name>, description: &Description) -> Result<Node> {
        let (tree, backend) = (self.tree(node)?, self.backend(node.record.backend)?);
        let parent = self.parent_tree(node)?;
        let draft = self.draft()?;
        let stands_outside = node.record.outside.is_some();
        let (form, baseline, cost) = if stands_outside && node.record.form == Form::Delta {
            // What stands on the running machine would change with it: the node must stand alone.
            let target = draft.slot.join(FS);
            files::make_dir(&target)?;
            let cost =
                flatten::flatten(&tree.layers(), &Dir::open(&target)?, self.userxattr(), CloneMode::Auto)?;
            (Form::Full, None, cost)
        } else {
            let against =
                parent.as_ref().map(|parent| (parent, &node.record.baseline)).filter(|_| !stands_outside);
            let made = backend.snapshot(&tree, against, &draft.slot)?;
            (made.form, Some(made.baseline), made.cost)
        };
        fault::point("freeze.copied");
        let record = Record {
            role: node.record.role,
            form,
            parent: node.record.parent.clone(),
            follows: node.record.follows.clone(),
            message: description.message.clone(),
            config: description.config.clone().unwrap_or_else(|| node.record.config.clone()),
            cause: description.cause,
            expires: description.expires,
            cost,
            baseline: baseline_of_copy(form, baseline.as_ref(), &node.record),
            ..self.record(&draft, node.record.backend, State::Committed)
        };
        let committed = self.seal_and_publish(draft, record, name, false)?;
        let life = life_after(node, name.map(|name| (name, &committed.id)));
        if let Some(baseline) = baseline.filter(|_| node.record.form == Form::Full && !stands_outside) {
            // A full tree only remembers whom it is compared with; a delta stands where it stands.
            self.link_child(&committed.id, &node.id, Durability::Synced)?;
            fault::point("freeze.linked");
            let parent = Some(committed.id.clone());
            let record = Record { parent, baseline, follows: None, life, ..node.record.clone() };
            record.write(&tree.slot, Durability::Synced)?;
            fault::point("freeze.rebased");
            if let Some(old) = &node.record.parent {
                files::remove_if_exists(&self.child_link(old, &node.id))?;
            }
        } else if name.is_some() {
            // The snapshot lies beside the box; what came before is told by the record alone.
            let record = Record { follows: Some(committed.id.clone()), life, ..node.record.clone() };
            record.write(&tree.slot, Durability::Synced)?;
        }
        Ok(committed)
    }
}

/// The record of a box's node as that is sealed: what belongs to the box goes on with the box.
fn described(description: &Description, node: &Node) -> Record {
    Record {
        message: description.message.clone(),
        config: description.config.clone().unwrap_or_else(|| node.record.config.clone()),
        cause: description.cause,
        expires: description.expires,
        created: Timestamp::now(),
        ..node.record.clone()
    }
}

/// Returns where a search starts for what the copy of a box, made with `made`, changed against the box's parent.
fn baseline_of_copy(form: Form, made: Option<&Baseline>, original: &Record) -> Baseline {
    match (form, made, &original.baseline) {
        _ if original.parent.is_none() => Baseline::None,
        (Form::Delta, ..) => Baseline::Upper,
        // A snapshot has the inodes of its source, with the generations in which they were changed.
        (Form::Full, Some(Baseline::Generation { .. }), known @ Baseline::Generation { .. }) => known.clone(),
        (Form::Full, ..) => Baseline::None,
    }
}

/// What a box takes along once its state is `named`: nothing new where nobody can call it by a name.
fn life_after(node: &Node, named: Option<(&Name, &ObjectId)>) -> Life {
    let life = node.record.life.clone();
    let Some((name, state)) = named else { return life };
    let life = life.moved_to(state);
    match name.of_snapshot() {
        Some((_, label)) => life.labelled(&label),
        None => life,
    }
}

/// What messages call something that can change.
pub(crate) fn what_is(node: &Node) -> String {
    match node.record.role {
        Role::Root => format!("box {}", node.label()),
        Role::Volume => node.shown(),
    }
}
