//! Freezing: the present state of a box becomes a committed node, and the box goes on, on top of it.
//!
//! A delta that nobody uses is sealed where it is, and the box gets an empty one above it. Everything else is copied by its
//! backend: a snapshot, clones, or copies of what changed.

use std::any::Any;
use std::fs::File;

use jiff::Timestamp;
use rootling_backends::backend::Snapshotted;
use rootling_backends::entry::CloneMode;
use rootling_backends::{
    Baseline, Dir, Error, ErrorKind, FS, ForkOptions, Form, Result, Tree, flatten, overlay,
};

use super::chain::Due;
use super::draft::Draft;
use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::snapshots::numbered;
use super::{
    Becoming, Cause, Description, Life, Name, Node, ObjectId, Record, Role, State, Store, fault, host, index,
};

/// How a box is frozen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freezing<'a> {
    /// What the node says of itself.
    pub(crate) description: &'a Description,
    pub(crate) call: Call<'a>,
    /// Find out whether the box is in a state that exists already, and then take that, whatever it says of itself.
    pub(crate) exact: bool,
}

/// What a state is called.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    /// Nothing: something is about to stand on it.
    Nothing,
    /// This, which nothing is called yet.
    As(&'a Name),
    /// The next snapshot of the box; a state that has a name keeps it.
    Next,
}

impl Call<'_> {
    fn names<'a>(&self, id: &'a ObjectId) -> Option<&'a ObjectId> {
        (!matches!(self, Self::Nothing)).then_some(id)
    }
}

impl Freezing<'_> {
    /// Would a node of its own say the same as this state?
    fn may_share(&self, node: &Node, state: &Node) -> bool {
        let Description { message, author, config, expires, volumes, .. } = self.description;
        let same_words = (message.is_none() || *message == state.record.message)
            && (author.is_none() || *author == state.record.author);
        let lasting = expires.is_none() && state.record.expires.is_none();
        let same_config = *config.as_ref().unwrap_or(&node.record.config) == state.record.config;
        // What is forked of a state that has a name begins as the box did.
        let settled =
            matches!(self.call, Call::Nothing) || node.record.life.settings == state.record.life.settings;
        let same_volumes = volumes.is_empty() || *volumes == state.record.volumes;
        match self.description.cause {
            // What volumes hold is kept all the same, under names of their own.
            Cause::Safety => true,
            _ => same_volumes && (self.exact || same_words && lasting && same_config && settled),
        }
    }
}

/// A box that nobody else changes or moves as long as this is kept.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) node: Node,
    /// Its use lock, where nobody uses it.
    pub(crate) alone: Option<File>,
    _change: File,
}

/// Stops what runs in a box until the value it returns is dropped.
pub type Still<'a> = &'a mut dyn FnMut() -> Result<Box<dyn Any>>;

/// Stops nothing.
pub(crate) fn moving() -> Result<Box<dyn Any>> {
    Ok(Box::new(()))
}

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

    /// Takes a box so that nobody else changes or moves it. The caller holds the store's lock.
    ///
    /// What is committed is an error of kind `FailedPrecondition`.
    pub(crate) fn take(&self, node: &Node) -> Result<Taken> {
        loop {
            let node = self.settle(node)?;
            if node.record.state == State::Committed {
                let message = format!("{} is committed already", node.shown());
                return Err(Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
                    "make a box of it: rootling create {0} NAME; or give it one name more: rootling tag {0} NAME",
                    node.label()
                )));
            }
            let place = self.object_dir(&node.id);
            let is_moved = || match &node.name {
                Some(name) => Ok(self.resolve_name(name)?.as_ref() != Some(&node.id)),
                None => Ok::<_, Error>(false),
            };
            let change = match lock::lock_file(&place.join("change"), Mode::Exclusive, &what_is(&node)) {
                Err(error) if error.kind() == ErrorKind::NotFound && is_moved()? => continue,
                locked => locked?,
            };
            // While we waited a commit may have sealed it, or a restore put another tree in its place.
            if is_moved()? {
                continue;
            }
            let node = Node { name: node.name.clone(), ..self.node(&node.id)? };
            if node.record.state == State::Active && node.record.becoming.is_none() {
                let alone = lock::try_lock_dir(&place, Mode::Exclusive)?;
                return Ok(Taken { node, alone, _change: change });
            }
        }
    }

    /// Makes the present state of a box a committed node, or returns the one that it is in already. The caller holds the
    /// store's lock.
    pub(crate) fn freeze(&self, node: &Node, how: &Freezing<'_>) -> Result<Node> {
        self.freeze_taken(&self.take(node)?, how, &mut moving)
    }

    /// As [`freeze`](Self::freeze), of a box that was taken. `still` is called before the tree of one that is in use is copied.
    pub(crate) fn freeze_taken(&self, taken: &Taken, how: &Freezing<'_>, still: Still<'_>) -> Result<Node> {
        let node = &taken.node;
        if let Some(state) = self.present_state(node, how.exact, false)? {
            if how.may_share(node, &state) {
                return self.reuse(node, &state, how);
            }
            // Beside the box: its own stack does not grow by a layer that holds nothing.
            return self.freeze_by_copy(node, how, still);
        }
        if self.can_be_sealed(taken)? {
            self.freeze_in_place(node, how)
        } else {
            self.freeze_by_copy(node, how, still)
        }
    }

    /// Can the box's own tree become a committed node, because nobody uses it?
    pub(crate) fn can_be_sealed(&self, taken: &Taken) -> Result<bool> {
        let record = &taken.node.record;
        let restack = record.form == Form::Delta && record.outside.is_none() && taken.node.name.is_some();
        Ok(taken.alone.is_some() && restack && !host::is_mounted(&self.object_dir(&taken.node.id))?)
    }

    /// Gives a state of a box the next number for a name. Durable on return.
    pub(crate) fn link_next(&self, node: &Node, state: &ObjectId) -> Result<Name> {
        let owner = node.name.as_ref().expect("only what has a name has snapshots");
        let mut number = self.last_number(node, owner)?;
        loop {
            number = number.saturating_add(1);
            let name = numbered(owner, number)?;
            match self.link_name(&name, state) {
                // Somebody else took the number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    files::sync_dir(&self.root.join("n"))?;
                    return Ok(name);
                }
            }
        }
    }

    /// The box's own upper directory becomes the node; the box goes on with an empty one over it. O(1).
    fn freeze_in_place(&self, node: &Node, how: &Freezing<'_>) -> Result<Node> {
        let box_name = node.name.as_ref().expect("the caller saw a name");
        if let Some(due) = self.due_on(node)? {
            return self.freeze_merged(node, how, &due);
        }
        let shedding = self.begin_shedding(node);
        self.backend(node.record.backend)?.barrier(&self.object_dir(&node.id))?;
        if let Some(shedding) = shedding {
            shedding.finish();
        }
        fault::point("freeze.synced");
        let name = if let Call::As(name) = how.call { Some(name) } else { None };
        let above = self.stack_on(node, life_after(node, how.call.names(&node.id)).called(name))?;
        fault::point("freeze.stacked");
        let sealed = self.seal_in_place(node, how)?;
        // The name first: if we are cut off now, the box's name on a sealed node is mended when the box is next opened.
        let named = self.call(&sealed, how.call);
        fault::point("freeze.named");
        self.switch(box_name, &above)?;
        fault::point("freeze.switched");
        Ok(Node { name: named?, ..sealed })
    }

    /// Returns what a box's own upper directory is to be merged with once it becomes a state.
    fn due_on(&self, node: &Node) -> Result<Option<Due>> {
        let Some(parent) = &node.record.parent else { return Ok(None) };
        let due = self.due(&self.node(parent)?)?;
        Ok(match due {
            Some(due) if self.writes_kernel_marks(node.record.backend, &self.tree(node)?)? => Some(due),
            _ => None,
        })
    }

    /// The box's own upper directory and the deltas beneath it become the node, merged; the box goes on with an empty one over it.
    /// O(what these deltas hold).
    fn freeze_merged(&self, node: &Node, how: &Freezing<'_>, due: &Due) -> Result<Node> {
        let box_name = node.name.as_ref().expect("the caller saw a name");
        let draft = self.draft()?;
        let cost = self.merge_due(self.tree(node)?.fs(), due, &draft)?;
        fault::point("freeze.merged");
        let copy = Snapshotted { form: Form::Delta, baseline: Baseline::Upper, cost };
        let record = self.record_of_copy(node, &draft, how, &copy, Some(due));
        let committed = self.publish_state(node, draft, record, how.call)?;
        let _held = self.hold(&committed)?;
        let life = life_after(node, how.call.names(&committed.id)).called(committed.name.as_ref());
        let above = self.fork_as(node, &committed, life, None)?;
        fault::point("freeze.stacked");
        self.switch(box_name, &above)?;
        fault::point("freeze.switched");
        self.discard(&node.id, node.record.parent.as_ref(), None)?;
        Ok(committed)
    }

    /// Seals the box's own upper directory. The caller moves the box's name on, or [`settle`](Self::settle) does.
    pub(crate) fn seal_in_place(&self, node: &Node, how: &Freezing<'_>) -> Result<Node> {
        let (tree, backend) = (self.own_tree(node)?, self.backend(node.record.backend)?);
        let record = Record {
            state: State::Committed,
            continued_by: node.name.clone(),
            ..described(how.description, node)
        };
        for kept in &record.volumes {
            self.link_child(&kept.snapshot, &node.id, Durability::Synced)?;
        }
        record.write(&tree.slot, Durability::Synced)?;
        fault::point("freeze.recorded");
        // Only now: an active box needs what this removes.
        backend.seal(&tree)?;
        fault::point("freeze.sealed");
        Ok(Node { record, ..node.clone() })
    }

    /// Gives a state of a box the name that was asked for.
    pub(crate) fn call(&self, node: &Node, call: Call<'_>) -> Result<Option<Name>> {
        match call {
            Call::Nothing => Ok(None),
            Call::Next => self.link_next(node, &node.id).map(Some),
            Call::As(name) => {
                self.link_name(name, &node.id)?;
                files::sync_dir(&self.root.join("n"))?;
                Ok(Some(name.clone()))
            }
        }
    }

    /// Makes an unnamed empty active node on `node`, which is sealed or about to be.
    pub(crate) fn stack_on(&self, node: &Node, life: Life) -> Result<ObjectId> {
        self.fork_as(node, node, life, None)
    }

    /// Makes an unnamed fork of `state` that goes on as the box `node` does.
    pub(crate) fn fork_as(
        &self,
        node: &Node,
        state: &Node,
        life: Life,
        becoming: Option<Becoming>,
    ) -> Result<ObjectId> {
        let draft = self.draft()?;
        let (record, _) = self.fork_into(&draft, state, node.record.backend, ForkOptions::default())?;
        let record = Record { life, becoming, other: node.record.other.clone(), ..record };
        Ok(self.publish(draft, &record, None, Durability::Synced)?.id)
    }

    pub(crate) fn switch(&self, name: &Name, id: &ObjectId) -> Result<()> {
        let before = self.resolve_name(name)?.filter(|before| before != id);
        self.note_name(id, name)?;
        files::link_over(&format!("../o/{id}"), &self.name_link(name))?;
        files::sync_dir(&self.root.join("n"))?;
        if let Some(before) = before {
            self.unnote_name(&before, name);
        }
        Ok(())
    }

    /// A copy of the box's present state becomes the node; the box stays where it is.
    pub(crate) fn freeze_by_copy(&self, node: &Node, how: &Freezing<'_>, still: Still<'_>) -> Result<Node> {
        let draft = self.draft()?;
        let (copy, is_beside) = self.copy_state(node, &draft, still)?;
        fault::point("freeze.copied");
        // What another program holds stays on what that has put it on: the copy is beside it.
        let stays = node.record.held.is_some();
        if is_beside && node.record.form == Form::Full && !stays {
            let parent = self.node(node.record.parent.as_ref().expect("a delta was written against it"))?;
            if how.may_share(node, &parent) {
                // The walk found nothing: where the next one starts is all that is new.
                self.rewrite(node, |record| record.baseline = copy.baseline)?;
                return self.reuse(
                    &Node { record: self.node(&node.id)?.record, ..node.clone() },
                    &parent,
                    how,
                );
            }
        }
        let due = match &node.record.parent {
            Some(parent) if is_delta_of_plain(node, &copy) && !is_beside => self.due(&self.node(parent)?)?,
            _ => None,
        };
        let (draft, copy) = match &due {
            Some(due) => {
                let merged = self.draft()?;
                let cost = self.merge_due(draft.slot.join(FS), due, &merged)?;
                fault::point("freeze.merged");
                (merged, Snapshotted { cost, ..copy })
            }
            None => (draft, copy),
        };
        let record = self.record_of_copy(node, &draft, how, &copy, due.as_ref());
        let committed = self.publish_state(node, draft, record, how.call)?;
        let life = life_after(node, how.call.names(&committed.id)).called(committed.name.as_ref());
        if stays {
            return Ok(committed);
        }
        if node.record.form == Form::Full && node.record.outside.is_none() && !is_beside {
            self.stand_on(node, &committed, copy.baseline, life)?;
        } else if committed.name.is_some() {
            // The snapshot lies beside the box; what came before is told by the record alone.
            let full = node.record.form == Form::Full && node.record.outside.is_none();
            self.rewrite(node, |record| {
                record.follows = Some(committed.id.clone());
                record.life = life;
                if full {
                    record.baseline = copy.baseline;
                }
            })?;
        }
        Ok(committed)
    }

    /// Returns the record of a state that is a copy of a box, or merged with what was `due`.
    fn record_of_copy(
        &self,
        node: &Node,
        draft: &Draft,
        how: &Freezing<'_>,
        copy: &Snapshotted,
        due: Option<&Due>,
    ) -> Record {
        let own = &node.record;
        Record {
            role: own.role,
            form: copy.form,
            parent: due.map(|due| due.beneath.id.clone()).or_else(|| own.parent.clone()),
            // The state before is not what a merged one stands on.
            follows: if due.is_some() { own.predecessor().cloned() } else { own.follows.clone() },
            steps: due.map(|due| due.steps),
            // What is forked of it starts as the box does; its past and future are the box's.
            life: Life { settings: own.life.settings.clone(), ..Life::default() },
            message: how.description.message.clone(),
            author: how.description.author.clone(),
            config: how.description.config.clone().unwrap_or_else(|| own.config.clone()),
            cause: how.description.cause,
            expires: how.description.expires,
            volumes: how.description.volumes.clone(),
            cost: copy.cost.clone(),
            baseline: baseline_of_copy(copy.form, &copy.baseline, own),
            ..Record::new(draft.id.clone(), own.backend, State::Committed)
        }
    }

    /// Publishes a state of a box, and gives it the name that was asked for.
    fn publish_state(&self, node: &Node, draft: Draft, record: Record, call: Call<'_>) -> Result<Node> {
        let name = if let Call::As(name) = call { Some(name) } else { None };
        let mut committed = self.seal_and_publish(draft, record, name, false)?;
        if let Call::Next = call {
            committed.name = Some(self.link_next(node, &committed.id)?);
        }
        Ok(committed)
    }

    /// Copies a box's tree into the draft. The second value says that the box is not to stand on the copy: it holds nothing.
    fn copy_state(&self, node: &Node, draft: &Draft, still: Still<'_>) -> Result<(Snapshotted, bool)> {
        let (tree, backend) = (self.tree(node)?, self.backend(node.record.backend)?);
        let parent = self.parent_tree(node)?;
        let _still = still()?;
        fault::point("freeze.still");
        if node.record.outside.is_none() {
            let against = parent.as_ref().map(|parent| (parent, &node.record.baseline));
            let made = backend.snapshot(&tree, against, &draft.slot)?;
            let says_nothing = match (made.form, &parent) {
                (Form::Delta, Some(parent)) => {
                    let delta = Tree::delta(&draft.slot, parent);
                    let holds_files = made.cost.files_cloned + made.cost.files_copied > 0;
                    overlay::says_nothing(&delta)?
                        || (!holds_files && self.changes_nothing(&delta, parent)?)
                }
                _ => false,
            };
            return Ok((made, says_nothing));
        }
        if node.record.form == Form::Full {
            return Ok((backend.snapshot(&tree, None, &draft.slot)?, false));
        }
        // What stands on the running machine would change with it: the node must stand alone.
        let target = draft.slot.join(FS);
        files::make_dir(&target)?;
        let cost = flatten::flatten(&tree.layers(), &Dir::open(&target)?, self.userxattr(), CloneMode::Auto)?;
        Ok((Snapshotted { form: Form::Full, baseline: Baseline::None, cost }, false))
    }

    /// Makes a full tree, which only remembers whom it is compared with, remember another.
    pub(crate) fn stand_on(&self, node: &Node, state: &Node, baseline: Baseline, life: Life) -> Result<()> {
        let _held = self.hold(state)?;
        self.link_child(&state.id, &node.id, Durability::Synced)?;
        fault::point("freeze.linked");
        self.rewrite(node, |record| {
            record.parent = Some(state.id.clone());
            record.baseline = baseline;
            record.follows = None;
            record.becoming = None;
            record.life = life;
        })?;
        fault::point("freeze.rebased");
        match &node.record.parent {
            Some(old) if *old != state.id => {
                files::remove_if_exists(&self.child_link(old, &node.id)).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Changes the record of a box that was taken. Durable on return.
    pub(crate) fn rewrite(&self, node: &Node, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = node.record.clone();
        change(&mut record);
        record.write(&self.object_dir(&node.id), Durability::Synced)
    }
}

/// The record of a box's node as that is sealed: what belongs to the box goes on with the box.
fn described(description: &Description, node: &Node) -> Record {
    Record {
        message: description.message.clone(),
        author: description.author.clone(),
        config: description.config.clone().unwrap_or_else(|| node.record.config.clone()),
        cause: description.cause,
        expires: description.expires,
        volumes: description.volumes.clone(),
        created: Timestamp::now(),
        ..node.record.clone()
    }
}

/// Does a copy of a plain tree say what changed in it, instead of all there is?
fn is_delta_of_plain(node: &Node, copy: &Snapshotted) -> bool {
    node.record.form == Form::Full && node.record.outside.is_none() && copy.form == Form::Delta
}

/// Returns where a search starts for what the copy of a box, made with `made`, changed against the box's parent.
fn baseline_of_copy(form: Form, made: &Baseline, original: &Record) -> Baseline {
    match (form, made, &original.baseline) {
        _ if original.parent.is_none() => Baseline::None,
        (Form::Delta, ..) => Baseline::Upper,
        // A snapshot has the inodes of its source, with the generations in which they were changed.
        (Form::Full, Baseline::Generation { .. }, known @ Baseline::Generation { .. }) => known.clone(),
        (Form::Full, ..) => Baseline::None,
    }
}

/// What a box takes along once its state is `named`: nothing new where nobody can call it by a name.
pub(crate) fn life_after(node: &Node, named: Option<&ObjectId>) -> Life {
    let mut life = node.record.life.clone();
    life.origin = life.origin.or_else(|| node.record.parent.clone());
    match named {
        Some(state) => life.moved_to(state),
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
