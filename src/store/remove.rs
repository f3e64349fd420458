//! Removing nodes, and the sweep that removes what a crash left.
//!
//! Removing for good is unlinking the name. What nothing holds any more is renamed into `trash/`, which is instant, and
//! destroyed there without any lock held. What can be brought back is `removed`'s.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use rootling_backends::{Baseline, Context, Error, ErrorKind, Form, Result, reap};
use serde::Serialize;

use super::files::Durability;
use super::lock::{self, Mode};
use super::needed::Records;
use super::{Doomed, Name, Node, ObjectId, Record, Role, State, Store, fault, files, host};

/// What [`Store::prune`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Names that were let go: of snapshots that a policy does not keep or that have expired, and of what was removed.
    pub names: u64,
    /// Objects that no name leads to.
    pub objects: u64,
    /// Drafts whose process died.
    pub drafts: u64,
    /// Blobs that no image and no layer names, what was left of downloads included.
    pub blobs: u64,
    /// Bytes of these.
    pub blob_bytes: u64,
    /// Entries of `trash/`, those two included.
    pub trash: u64,
    /// Inodes unlinked.
    pub entries: u64,
    /// Subvolumes destroyed.
    pub subvolumes: u64,
    /// Bytes that came free on the store's file system meanwhile (others may write there too).
    pub bytes_freed: u64,
}

/// What becomes of what is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It can be brought back.
    Kept,
    /// It is gone.
    Destroyed,
}

impl Store {
    /// Returns how many bytes are free on the store's file system for whoever owns it.
    pub fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.root)
    }

    /// Removes a name so that it can be brought back (see [`undelete`](Self::undelete)), and with a box its snapshots and its home, if that
    /// is a volume of its own; nothing is destroyed.
    ///
    /// A box that is in use is an error of kind `Busy`, and so is a committed node unless `force` is given; what others were made from
    /// stays for them. Durable on return. A kill leaves a box with some of its snapshots, or nothing of it but its home.
    pub fn retire(&self, node: &Node, force: bool) -> Result<()> {
        self.take_away(node, force, Fate::Kept)
    }

    /// Removes a name for good, and with it everything that only the name held: of a box its snapshots and its home, too.
    ///
    /// What is in use, also by a fork that is thrown away later, is an error of kind `Busy`; a tree that others were made from is
    /// refused. With `force`, and of snapshots always, the name of a committed node goes all the same, and its tree stays as long as
    /// they need it. Durable on return; a kill leaves rubbish for `prune`.
    pub fn remove(&self, node: &Node, force: bool) -> Result<()> {
        self.take_away(node, force, Fate::Destroyed)?;
        self.empty_trash().map(drop).context(|| format!("remove {}", node.shown()))
    }

    fn take_away(&self, node: &Node, force: bool, fate: Fate) -> Result<()> {
        let Some(name) = &node.name else {
            return Err(self.nothing_to_remove(node)?);
        };
        let intent = || format!("remove {name}");
        let _lock = self.share_to_write().context(intent)?;
        // A box before its states: whoever changes a box takes their locks after its own.
        let owner = name.of_snapshot().map(|(owner, _)| owner);
        let _owner = owner.map(|owner| self.lock_named(&owner)).transpose().context(intent)?;
        let node = self.settle(node).context(intent)?;
        let change = self.object_dir(&node.id).join("change");
        let _change = lock::lock_file(&change, Mode::Exclusive, &name.to_string()).context(intent)?;
        self.require_same(&node).context(intent)?;
        let force = force || name.is_snapshot();
        let alone = match self.lock_unused(&node) {
            // What is committed stays where it is, under those who use it; only the name goes.
            Err(error)
                if error.kind() == ErrorKind::Busy && force && node.record.state == State::Committed =>
            {
                None
            }
            other => Some(other.context(intent)?),
        };
        let along = self.taken_along(&node).context(intent)?;
        for node in along.iter().chain([&node]) {
            // Each may have been locked since it was read.
            let node = Node { record: self.node(&node.id).context(intent)?.record, ..node.clone() };
            node.require_unlocked().context(intent)?;
        }
        let (home, snapshots): (Vec<Node>, Vec<Node>) =
            along.into_iter().partition(|node| node.record.role == Role::Volume);
        let home: Result<Vec<(Node, Option<File>)>> = home
            .into_iter()
            .map(|part| match self.lock_unused(&part) {
                Err(error) if error.kind() == ErrorKind::Busy && part.record.state == State::Committed => {
                    Ok((part, None))
                }
                alone => Ok((part, Some(alone?))),
            })
            .collect();
        let home = home.context(intent)?;
        let mut changes = Vec::new();
        for (part, _) in home.iter().filter(|(part, _)| part.record.state == State::Active) {
            let change = self.object_dir(&part.id).join("change");
            changes.push(lock::lock_file(&change, Mode::Exclusive, &part.shown()).context(intent)?);
            self.require_same(part).context(intent)?;
        }
        if fate == Fate::Kept {
            // The box before its home: one that is there has its home.
            let nodes = snapshots.iter().chain([&node]).chain(home.iter().map(|(part, _)| part));
            let names: Vec<Name> = nodes.filter_map(|node| node.name.clone()).collect();
            return self.move_to_removed(&names).map(drop).context(intent);
        }
        if !force && self.has_children(&node.id).context(intent)? {
            return Err(self.refuse_with_children(name, &node.id)?).context(intent);
        }
        for snapshot in &snapshots {
            let change = self.object_dir(&snapshot.id).join("change");
            let _change = lock::lock_file(&change, Mode::Exclusive, &snapshot.shown()).context(intent)?;
            // Somebody may have locked it since we looked at all of them.
            let record = self.node(&snapshot.id).context(intent)?.record;
            Node { record, ..snapshot.clone() }.require_unlocked().context(intent)?;
            // What follows it goes as well.
            self.destroy(snapshot, self.lock_unused(snapshot).ok(), || Ok(())).context(intent)?;
        }
        self.destroy(&node, alone, || self.lead_followers_past(&node)).context(intent)?;
        home.into_iter().try_for_each(|(part, alone)| self.destroy(&part, alone, || Ok(()))).context(intent)
    }

    /// Takes the change lock of what a name leads to, if it leads to anything.
    fn lock_named(&self, name: &Name) -> Result<Option<File>> {
        while let Some(id) = self.resolve_name(name)? {
            let locked =
                lock::lock_file(&self.object_dir(&id).join("change"), Mode::Exclusive, &name.to_string());
            let is_same = self.resolve_name(name)?.as_ref() == Some(&id);
            match locked {
                Ok(lock) if is_same => return Ok(Some(lock)),
                Err(error) if is_same || error.kind() != ErrorKind::NotFound => return Err(error),
                // While we waited another tree took its place.
                _ => {}
            }
        }
        Ok(None)
    }

    /// Returns what is removed with a box or tree: its snapshots, and the volume of its own with the snapshots of that, unless
    /// something else is started with it. O(names), with such a volume O(objects).
    pub fn taken_along(&self, node: &Node) -> Result<Vec<Node>> {
        let Some(name) = node.name.as_ref().filter(|name| !name.is_volume() && !name.is_snapshot()) else {
            return Ok(Vec::new());
        };
        let mut along: Vec<Node> = self.all_snapshots(name)?.into_iter().map(|(_, node)| node).collect();
        let own = node.record.life.settings.own_volume().filter(|_| node.record.state == State::Active);
        let Some(own) = own else { return Ok(along) };
        let is_ours = |other: &Node| other.id == node.id || along.iter().any(|node| node.id == other.id);
        if self.needing(own)?.iter().all(is_ours) {
            along.extend(self.volume_snapshots(own)?.into_iter().map(|(_, node)| node));
            along.extend(self.named(&own.node_name())?);
        }
        Ok(along)
    }

    /// Unlinks the name of a node, and moves the node to the trash where nothing else keeps it and nobody uses it; `before` that
    /// happens.
    fn destroy(&self, node: &Node, alone: Option<File>, before: impl FnOnce() -> Result<()>) -> Result<()> {
        let name = node.name.as_ref().expect("the caller has seen a name");
        if name.is_snapshot() {
            self.note_let_go(&node.id)?;
            fault::point("remove.noted");
        }
        self.unlink_name(name)?;
        self.unnote_name(&node.id, name);
        fault::point("remove.unnamed");
        // A box has one name only (names of boxes are moved, never copied), so nobody need look at all names.
        let is_needed = match node.record.state {
            State::Active => self.has_children(&node.id)?,
            State::Committed => self.is_needed(&node.id)?,
        };
        if alone.is_some() && !is_needed {
            before()?;
            self.discard(&node.id, node.record.parent.as_ref(), alone)?;
        }
        Ok(())
    }

    /// Makes the states of a box that came right after one of its snapshots follow what came before that. The caller holds the box's
    /// change lock, and the snapshot's.
    fn lead_followers_past(&self, node: &Node) -> Result<()> {
        let Some((owner, _)) = node.name.as_ref().and_then(Name::of_snapshot) else { return Ok(()) };
        let states = self.all_snapshots(&owner)?.into_iter().map(|(_, state)| state);
        for state in states.chain(self.named(&owner)?) {
            if state.record.follows.as_ref() != Some(&node.id) {
                continue;
            }
            let slot = self.object_dir(&state.id);
            let is_box = state.name.as_ref() == Some(&owner);
            // Later states of one history: whoever removes those does not wait for this one.
            let change = || lock::lock_file(&slot.join("change"), Mode::Exclusive, &state.shown());
            let _change = (!is_box).then(change).transpose()?;
            let record = Record::read(&slot)?;
            if record.follows.as_ref() == Some(&node.id) {
                let before = node.record.predecessor().filter(|id| Some(*id) != record.parent.as_ref());
                Record { follows: before.cloned(), ..record }.write(&slot, Durability::Synced)?;
                fault::point("remove.led");
            }
        }
        Ok(())
    }

    /// Refuses a node whose name leads to another object since it was read, with kind `Busy`.
    pub(super) fn require_same(&self, node: &Node) -> Result<()> {
        match &node.name {
            Some(name) if self.resolve_name(name)?.as_ref() != Some(&node.id) => {
                let message = format!("{name} has changed meanwhile");
                Err(Error::new(ErrorKind::Busy, message).hint("try again"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the error for a node that others were made from, some of whom it names.
    fn refuse_with_children(&self, name: &Name, id: &ObjectId) -> Result<Error> {
        const SHOWN: usize = 5;
        let (children, naming) = (self.children(id)?, self.naming_as_asked());
        let mut names: Vec<String> = children.iter().map(|child| naming.label(&child.id)).collect();
        names.sort();
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let mut names = names.join(", ");
        if more > 0 {
            names.push_str(&format!(" and {more} more"));
        }
        Ok(Error::new(ErrorKind::FailedPrecondition, format!("{names} was made from {name}"))
            .hint(format!("rm --now --force {name} removes the name and keeps what they need")))
    }

    /// Takes the use lock of a node alone. One that is entered, mounted, being forked or stood on by an ephemeral fork is an
    /// error of kind `Busy`.
    pub(crate) fn lock_unused(&self, node: &Node) -> Result<File> {
        let slot = self.object_dir(&node.id);
        let alone = self.lock_alone(&slot, &node.shown())?;
        // Of one that is damaged, whatever lies in its own slot.
        if let Some(place) = host::mounted_at(&self.tree_slot(node).unwrap_or(slot))?.first() {
            let message = format!("{} is mounted at {place:?}", node.shown());
            return Err(
                Error::new(ErrorKind::Busy, message).hint(format!("rootling umount {}", place.display()))
            );
        }
        Ok(alone)
    }

    /// A lock that nobody is seen to hold was let go just now, or is about to be: by a process that was forked of its holder and has not
    /// yet become another program.
    fn lock_alone(&self, slot: &Path, what: &str) -> Result<File> {
        for _ in 0..20 {
            if let Some(alone) = lock::try_lock_dir(slot, Mode::Exclusive)? {
                return Ok(alone);
            }
            let dir = File::open(slot).context(|| format!("open({slot:?})"))?;
            if lock::is_seen_to_be_held(&dir) {
                return Err(lock::busy(&dir, what));
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let dir = File::open(slot).context(|| format!("open({slot:?})"))?;
        Err(lock::busy(&dir, what))
    }

    fn unlink_name(&self, name: &Name) -> Result<()> {
        files::remove_if_exists(&self.name_link(name))?;
        files::sync_dir(&self.root.join("n"))
    }

    /// Moves an object to the trash, and what only it needed: each parent that nothing else holds, and the object that has its tree.
    ///
    /// `alone` is the object's use lock: whoever forks it takes that too, so that nobody forks what is on its way out.
    pub(crate) fn discard(
        &self,
        id: &ObjectId,
        parent: Option<&ObjectId>,
        alone: Option<File>,
    ) -> Result<()> {
        // Best effort: what has the tree of one whose record is damaged is left to the sweep.
        let tree = Record::read(&self.object_dir(id)).ok().and_then(|record| record.tree);
        let mut doomed = vec![(id.clone(), parent.cloned(), tree, alone)];
        while let Some((id, parent, tree, alone)) = doomed.pop() {
            self.to_trash(&self.object_dir(&id), &id)?;
            fault::point("remove.moved");
            drop(alone);
            for above in tree.into_iter().chain(parent) {
                files::remove_if_exists(&self.child_link(&above, &id))?;
                if let Some((node, alone)) = self.unneeded(&above)? {
                    doomed.push((node.id, node.record.parent, node.record.tree, Some(alone)));
                }
            }
        }
        Ok(())
    }

    /// Returns an object that nothing needs any more, with its use lock; `None` where something does, or somebody uses it.
    pub(super) fn unneeded(&self, id: &ObjectId) -> Result<Option<(Node, File)>> {
        if self.is_needed(id)? {
            return Ok(None);
        }
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Somebody may be entering it, or building on it, right now: then it is the sweep's, later.
        let Ok(held) = self.lock_unused(&node) else { return Ok(None) };
        // Once more: a fork may have been published before the lock was ours.
        let is_needed = self.is_needed(id)? || self.is_base_of_a_draft(id)?;
        Ok((!is_needed).then_some((node, held)))
    }

    fn is_needed(&self, id: &ObjectId) -> Result<bool> {
        // The cheap looks first: most parents have a child, and names cost a look at all of them.
        Ok(self.has_children(id)?
            || self.is_held(id)?
            || self.has_name(id)?
            || self.is_removed(id)?
            || self.is_step(id)?)
    }

    fn to_trash(&self, place: &Path, id: &ObjectId) -> Result<()> {
        let trash = self.root.join("trash").join(id.as_str());
        match files::rename_new(place, &trash) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Returns the ids of drafts, and whether the process that builds each is alive.
    fn drafts(&self) -> Result<Vec<(ObjectId, bool)>> {
        let directory = self.root.join("tmp");
        let mut drafts = Vec::new();
        for id in files::list(&directory)? {
            let Ok(id) = ObjectId::parse(&id) else { continue };
            match lock::try_lock_dir(&directory.join(id.as_str()), Mode::Exclusive) {
                Ok(lock) => drafts.push((id, lock.is_none())),
                // Published or discarded since the listing.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(drafts)
    }

    /// Returns the ids and directories of drafts that a living process builds or runs.
    pub(crate) fn drafts_in_use(&self) -> Result<Vec<(ObjectId, std::path::PathBuf)>> {
        let alive = self.drafts()?.into_iter().filter(|(_, alive)| *alive);
        Ok(alive.map(|(id, _)| (id.clone(), self.root.join("tmp").join(id.as_str()))).collect())
    }

    /// Locks the directory of drafts, so that one process at a time gives a name to its own.
    pub(crate) fn name_a_fork(&self) -> Result<File> {
        lock::lock_dir(&self.root.join("tmp"), Mode::Exclusive, "the names of what runs")
    }

    /// Is a fork that somebody runs right now standing on this node?
    fn is_base_of_a_draft(&self, id: &ObjectId) -> Result<bool> {
        Ok(self.draft_parents()?.contains(id))
    }

    pub(crate) fn draft_parents(&self) -> Result<HashSet<ObjectId>> {
        let mut parents = HashSet::new();
        for (id, _) in self.drafts()?.into_iter().filter(|(_, alive)| *alive) {
            // A draft without a record is younger than the lock we hold, or is about to be published under it.
            if let Ok(record) = Record::read(&self.root.join("tmp").join(id.as_str())) {
                parents.extend(record.needs().cloned());
            }
        }
        Ok(parents)
    }

    /// Returns what is kept for its own sake: what a name leads to, one that was removed and can be brought back, that of a step of a build, what
    /// another program holds, or a living draft.
    pub(super) fn roots(&self) -> Result<impl Iterator<Item = ObjectId>> {
        let steps = self.step_links()?.into_iter().map(|(_, id)| id);
        Ok(self.named_roots()?.chain(steps))
    }

    /// As [`roots`](Self::roots), without the steps of builds.
    pub(super) fn named_roots(&self) -> Result<impl Iterator<Item = ObjectId>> {
        let removed = self.removed()?.into_iter().map(|removed| removed.id);
        let held = self.held_links()?.into_iter().map(|(_, id)| id);
        Ok(self.all_names()?.into_values().chain(removed).chain(held).chain(self.draft_parents()?))
    }

    /// Returns everything that is kept.
    pub(crate) fn reachable(&self) -> Result<HashSet<ObjectId>> {
        Records::new(self).reachable_from(self.roots()?)
    }

    /// Leads the histories of what stays past what goes. The caller holds the store alone.
    fn lead_past(&self, reachable: &HashSet<ObjectId>) -> Result<()> {
        let goes = |id: &Option<ObjectId>| id.as_ref().is_some_and(|id| !reachable.contains(id));
        for id in reachable {
            let record = self.node(id)?.record;
            if !goes(&record.parent) && !goes(&record.follows) {
                continue;
            }
            if record.form == Form::Delta && record.layer.is_some() && goes(&record.parent) {
                // Others have its tree, on something else; nothing reads it on what goes.
                Record { parent: None, ..record }.write(&self.object_dir(id), Durability::Synced)?;
                fault::point("prune.parted");
                continue;
            }
            let parent = Records::new(self).stands_on(&record)?;
            let mut follows = record.follows.clone();
            while let Some(gone) = follows.clone().filter(|id| !reachable.contains(id)) {
                follows = self.node(&gone).ok().and_then(|node| node.record.predecessor().cloned());
            }
            if let Some(parent) = parent.as_ref().filter(|_| parent != record.parent) {
                self.link_child(parent, id, Durability::Synced)?;
            }
            fault::point("prune.linked");
            let follows = follows.filter(|id| Some(id) != parent.as_ref());
            let old = record.parent.clone();
            // What it changed was known against what goes.
            let baseline = if parent == old { record.baseline.clone() } else { Baseline::None };
            let record = Record { parent, follows, baseline, ..record };
            record.write(&self.object_dir(id), Durability::Synced)?;
            fault::point("prune.led");
            if let Some(old) = old.filter(|old| Some(old) != record.parent.as_ref()) {
                files::remove_if_exists(&self.child_link(&old, id))?;
            }
        }
        Ok(())
    }

    /// Notes that the name of a committed node was let go, for the sweep. The caller keeps others from changing the record.
    pub(super) fn note_let_go(&self, id: &ObjectId) -> Result<()> {
        let slot = self.object_dir(id);
        let record = Record::read(&slot)?;
        if record.let_go || record.state == State::Active {
            return Ok(());
        }
        Record { let_go: true, ..record }.write(&slot, Durability::Synced)
    }

    /// Forgets these names (see [`doomed`](Self::doomed)), and removes what nothing needs: objects without a name, drafts of dead
    /// processes, the trash.
    ///
    /// Holds the store alone only while it marks and renames, never while it deletes. A second call, or one after a kill, goes on
    /// where the first stopped.
    pub fn prune(&self, doomed: &[Doomed]) -> Result<Pruned> {
        let intent = || format!("prune store {:?}", self.root);
        // What has no name any more afterwards must not have to be made durable.
        self.settle_steps().context(intent)?;
        let free = free_bytes(&self.root).context(intent)?;
        let mut pruned = self.sweep(doomed).context(intent)?;
        let removed = self.empty_trash().context(intent)?;
        (pruned.trash, pruned.entries, pruned.subvolumes) =
            (removed.trash, removed.entries, removed.subvolumes);
        pruned.bytes_freed = free_bytes(&self.root).context(intent)?.saturating_sub(free);
        Ok(pruned)
    }

    fn sweep(&self, doomed: &[Doomed]) -> Result<Pruned> {
        self.format.require_writable(&self.root)?;
        let what = format!("store {:?}", self.root);
        let _alone = lock::lock_file(&self.root.join("lock"), Mode::Exclusive, &what)?;
        self.finish_renaming()?;
        let mut pruned = Pruned::default();
        for doomed in doomed {
            pruned.names += u64::from(self.forget(doomed)?);
            fault::point("prune.forgot");
        }
        if pruned.names > 0 {
            files::sync_dir(&self.root.join("n"))?;
        }
        self.sweep_steps()?;
        self.tidy_removed()?;
        self.tidy_labels()?;
        let mut reachable = self.reachable()?;
        let mut used = HashSet::new();
        for id in self.ids()?.into_iter().filter(|id| !reachable.contains(id)) {
            let place = self.object_dir(&id);
            if lock::try_lock_dir(&place, Mode::Exclusive)?.is_none() || host::is_mounted(&place)? {
                used.insert(id);
            }
        }
        // What such a tree stands on is looked at through it.
        reachable.extend(Records::new(self).reachable_from(used.iter().cloned())?);
        self.lead_past(&reachable)?;
        let goes = |id: &ObjectId| !reachable.contains(id) && !used.contains(id);
        for id in self.ids()?.into_iter().filter(goes) {
            let place = self.object_dir(&id);
            let needed = Record::read(&place).map(|record| record.needs().cloned().collect::<Vec<_>>());
            self.to_trash(&place, &id)?;
            fault::point("prune.moved");
            // Best effort: of a damaged record nothing is known, and a link to what is gone means nothing.
            for needed in needed.unwrap_or_default() {
                files::remove_if_exists(&self.child_link(&needed, &id))?;
            }
            pruned.objects += 1;
        }
        (pruned.blobs, pruned.blob_bytes) = self.sweep_blobs()?;
        self.sweep_hints()?;
        pruned.drafts += self.sweep_drafts()?;
        for directory in ["", "n"] {
            let directory = self.root.join(directory);
            for leftover in files::list(&directory)?.into_iter().filter(|name| files::is_leftover(name)) {
                files::remove_if_exists(&directory.join(leftover))?;
            }
        }
        Ok(pruned)
    }

    /// Moves the drafts of processes that died to the trash. The caller holds the store alone.
    pub(super) fn sweep_drafts(&self) -> Result<u64> {
        let mut swept = 0;
        for (id, _) in self.drafts()?.into_iter().filter(|(_, alive)| !*alive) {
            self.to_trash(&self.root.join("tmp").join(id.as_str()), &id)?;
            fault::point("draft.swept");
            swept += 1;
        }
        Ok(swept)
    }

    pub(crate) fn empty_trash(&self) -> Result<Pruned> {
        let trash = self.root.join("trash");
        let mut pruned = Pruned::default();
        for id in files::list(&trash)? {
            let removed = match reap::reap(&trash.join(&id)) {
                // Somebody else empties the trash too, and was faster here.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                removed => removed?,
            };
            fault::point("trash.reaped");
            pruned.trash += 1;
            pruned.entries += removed.entries;
            pruned.subvolumes += removed.subvolumes;
        }
        Ok(pruned)
    }
}

fn free_bytes(path: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path).context(|| format!("statvfs({path:?})"))?;
    Ok(stat.blocks_free() * stat.fragment_size())
}
