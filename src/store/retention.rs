//! Which names `prune` lets go, and what that would free: a plan that can be shown before it is carried out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rootling_backends::{Context, Result};
use serde::Serialize;

use super::needed::Records;
use super::{Cause, Keep, Name, Node, ObjectId, Removed, State, Store, files};

/// What is to be let go.
#[derive(Debug, Clone)]
pub struct Housekeeping {
    /// The present.
    pub now: Timestamp,
    /// Whose hours, days and weeks policies mean.
    pub zone: TimeZone,
    /// What was removed before this.
    pub removed_before: Timestamp,
    /// Which steps of builds.
    pub builds: Builds,
    /// Keep this of the snapshots of boxes, instead of what their policies say.
    pub keep: Option<Keep>,
    /// Only the snapshots of these boxes; of all, where it is empty.
    pub boxes: Vec<Name>,
}

/// Which steps of builds are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builds {
    /// Those that no build has used since.
    UnusedSince(Timestamp),
    /// Those that nothing with a name stands on, whenever they were used, and the others as above.
    Unneeded(Timestamp),
    /// All. What images and boxes stand on stays for them, and is no longer found by builds.
    All,
}

/// Why a name is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It was removed long enough ago.
    Removed,
    /// It was made to be there until a time that has come.
    Expired,
    /// The policy of its box does not keep it.
    Policy,
    /// Room is needed, and nobody asked for it to be made.
    Room,
    /// No build has used it for a while.
    Unused,
    /// It can be made again: it is a step of a build.
    Cache,
}

/// A name that is to be let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doomed {
    /// The name.
    pub name: Name,
    /// What it leads to.
    pub id: ObjectId,
    /// Why.
    pub why: Why,
    /// When it was removed, for what can be brought back until now.
    #[serde(rename = "removed")]
    pub removed_at: Option<Timestamp>,
    /// When a build used it last, for the step of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Timestamp>,
}

impl Doomed {
    fn of_removed(removed: Removed) -> Self {
        Self {
            name: removed.name,
            id: removed.id,
            why: Why::Removed,
            removed_at: Some(removed.at),
            used: None,
        }
    }

    fn of_snapshot(node: &Node, why: Why) -> Option<Self> {
        Some(Self { name: node.name.clone()?, id: node.id.clone(), why, removed_at: None, used: None })
    }
}

impl Store {
    /// Returns the names that are to be let go: what was removed long enough ago, what has expired, and what the policy of its box
    /// does not keep. Never a box, never what is locked. Changes nothing.
    pub fn doomed(&self, what: &Housekeeping) -> Result<Vec<Doomed>> {
        let intent = || "find what can go";
        let _lock = self.share().context(intent)?;
        let removed = self.removed().context(intent)?.into_iter();
        let mut doomed: Vec<Doomed> =
            removed.filter(|removed| removed.at < what.removed_before).map(Doomed::of_removed).collect();
        let mut by_box: BTreeMap<Name, Vec<Node>> = BTreeMap::new();
        for node in self.named_nodes(self.all_names().context(intent)?).context(intent)? {
            if node.record.state == State::Active || node.record.marks().locked {
                continue;
            }
            if node.record.expires.is_some_and(|expires| expires <= what.now) {
                doomed.extend(Doomed::of_snapshot(&node, Why::Expired));
            } else if let Some((owner, _)) = node.name.as_ref().and_then(Name::of_snapshot) {
                by_box.entry(owner).or_default().push(node);
            }
        }
        for (owner, snapshots) in by_box {
            if !what.boxes.is_empty() && !what.boxes.contains(&owner) {
                continue;
            }
            let policy = || self.named(&owner).map(|node| node?.record.life.policy);
            let keep = match what.keep {
                Some(keep) => Some(keep),
                None => policy().context(intent)?.map(|policy| policy.keep),
            };
            let Some(keep) = keep else { continue };
            doomed.extend(not_kept(&snapshots, keep, &what.zone));
        }
        doomed.extend(self.doomed_steps(what.builds).context(intent)?);
        Ok(doomed)
    }

    /// Returns the steps of builds that are to be let go, first those that were not used for the longest time.
    fn doomed_steps(&self, which: Builds) -> Result<Vec<Doomed>> {
        let Some(_alone) = self.no_build_runs()? else { return Ok(Vec::new()) };
        let needed = match which {
            Builds::UnusedSince(_) => None,
            Builds::Unneeded(_) => Some(Records::new(self).reachable_from(self.named_roots()?)?),
            Builds::All => Some(HashSet::new()),
        };
        let mut doomed = Vec::new();
        for (name, id, used) in self.all_steps()? {
            let is_old = match which {
                Builds::UnusedSince(since) | Builds::Unneeded(since) => used < since,
                Builds::All => false,
            };
            let is_free = needed.as_ref().is_some_and(|needed| !needed.contains(&id));
            if is_old || is_free {
                let why = if is_old { Why::Unused } else { Why::Cache };
                doomed.push(Doomed { name, id, why, removed_at: None, used: Some(used) });
            }
        }
        doomed.sort_by_key(|doomed| doomed.used);
        Ok(doomed)
    }

    /// Returns what may go to make room, first what is missed least: what was removed, then steps of builds, then what nobody asked for, each oldest first.
    /// Never what somebody asked for or labelled, or what is locked. Changes nothing.
    pub fn expendable(&self) -> Result<Vec<Doomed>> {
        let intent = || "find what can go to make room";
        let _lock = self.share().context(intent)?;
        let mut doomed: Vec<Doomed> =
            self.removed().context(intent)?.into_iter().map(Doomed::of_removed).collect();
        let steps = self.doomed_steps(Builds::All).context(intent)?.into_iter();
        doomed.extend(steps.map(|step| Doomed { why: Why::Room, ..step }));
        let mut nodes = self.named_nodes(self.all_names().context(intent)?).context(intent)?;
        nodes.retain(|node| {
            let unasked = matches!(node.record.cause, Cause::Automatic | Cause::Safety);
            let plain = node.name.as_ref().is_some_and(is_numbered);
            unasked && plain && node.record.state == State::Committed && !node.record.marks().locked
        });
        // What was kept for safety's sake goes after what was made as a habit.
        nodes.sort_by_key(|node| (node.record.cause == Cause::Safety, node.record.created));
        doomed.extend(nodes.iter().filter_map(|node| Doomed::of_snapshot(node, Why::Room)));
        Ok(doomed)
    }

    /// Returns the objects that would go with these names, with those that nothing needs already, and for each name whose object would stay, what keeps it.
    pub fn outcome(&self, doomed: &[Doomed]) -> Result<Outcome> {
        let _lock = self.share()?;
        let mut prospect = Prospect::new(self)?;
        doomed.iter().for_each(|doomed| prospect.let_go(doomed));
        prospect.outcome(self)
    }

    /// Lets the groups of names go one after the other, in thought, as long as `go_on` says so: it is told how many groups went, from none
    /// on, and which objects would go with them. Returns the [`outcome`](Self::outcome) of those that went. Reads the store once.
    pub fn outcome_while(
        &self,
        doomed: &[&[Doomed]],
        mut go_on: impl FnMut(usize, &[ObjectId]) -> bool,
    ) -> Result<Outcome> {
        let _lock = self.share()?;
        let mut prospect = Prospect::new(self)?;
        let mut left = doomed.iter();
        while go_on(doomed.len() - left.len(), &prospect.goes()?)
            && let Some(next) = left.next()
        {
            next.iter().for_each(|doomed| prospect.let_go(doomed));
        }
        prospect.outcome(self)
    }

    /// Returns the nearest name that keeps an object: its own, or that of what was made from it.
    fn who_stands_on(&self, id: &ObjectId, roots: &HashMap<&ObjectId, String>) -> Result<String> {
        let (mut level, mut seen) = (vec![id.clone()], BTreeSet::new());
        while !level.is_empty() {
            if let Some(name) = level.iter().find_map(|id| roots.get(id)) {
                return Ok(name.clone());
            }
            let mut next = Vec::new();
            for id in level.into_iter().filter(|id| seen.insert(id.clone())) {
                next.extend(self.children(&id)?.into_iter().map(|child| child.id));
            }
            level = next;
        }
        Ok("something that has no name".to_owned())
    }

    /// Lets a name go, unless it leads elsewhere by now or was locked. The caller holds the store alone, and syncs.
    pub(super) fn forget(&self, doomed: &Doomed) -> Result<bool> {
        if let Some(at) = doomed.removed_at {
            let removed = Removed { name: doomed.name.clone(), id: doomed.id.clone(), at };
            if !self.is_still_removed(&removed)? {
                // Brought back since the plan was made.
                return Ok(false);
            }
            if doomed.name.is_snapshot() && self.named(&doomed.name)?.is_none_or(|node| node.id != doomed.id)
            {
                self.note_let_go(&doomed.id)?;
            }
            return self.forget_removed(&removed);
        }
        if doomed.name.is_step() {
            return self.forget_step(&doomed.name, &doomed.id);
        }
        match self.named(&doomed.name)? {
            Some(node) if node.id == doomed.id && !node.record.marks().locked => {
                self.note_let_go(&doomed.id)?;
                let was_there = files::remove_if_exists(&self.name_link(&doomed.name))?;
                self.unnote_name(&doomed.id, &doomed.name);
                Ok(was_there)
            }
            _ => Ok(false),
        }
    }
}

/// What letting names go would do.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Objects that nothing would need any more, or needs already.
    pub goes: Vec<ObjectId>,
    /// Objects that stay, with the name that keeps each.
    pub stays: BTreeMap<ObjectId, String>,
    /// Blobs that nothing would name any more.
    pub blobs: u64,
    /// Bytes of these.
    pub blob_bytes: u64,
}

/// What would be left of a store if names were let go: all that was read of it, and what is thought to have gone.
#[derive(Debug)]
struct Prospect<'a> {
    /// Every object there is.
    ids: Vec<ObjectId>,
    /// The names that are left. Those with a time were removed then.
    names: BTreeMap<(Name, Option<Timestamp>), ObjectId>,
    /// What another program holds, and as what.
    held: HashMap<ObjectId, String>,
    /// What forks that run stand on.
    in_use: HashSet<ObjectId>,
    /// What is read, with the objects that a name led to which went.
    records: Records<'a>,
}

impl<'a> Prospect<'a> {
    /// Reads what there is. The caller keeps others from pruning.
    fn new(store: &'a Store) -> Result<Self> {
        let removed = store.removed()?.into_iter();
        let removed = removed.map(|removed| ((removed.name, Some(removed.at)), removed.id));
        let steps = store.all_steps()?.into_iter().map(|(name, id, _)| (name, id));
        let names = store.all_names()?.into_iter().chain(steps).map(|(name, id)| ((name, None), id));
        let held = store.all_held()?.into_iter();
        Ok(Self {
            held: held.map(|(id, held)| (id, format!("{} (containerd)", held.key))).collect(),
            ids: store.ids()?,
            names: names.chain(removed).collect(),
            in_use: store.draft_parents()?,
            records: Records::new(store),
        })
    }

    fn let_go(&mut self, doomed: &Doomed) {
        self.names.remove(&(doomed.name.clone(), doomed.removed_at));
        // Nothing is led past a step: what stands on one is a layer over it.
        if !doomed.name.is_step() {
            self.records.let_go.insert(doomed.id.clone());
        }
    }

    /// Returns the objects that nothing needs.
    fn goes(&mut self) -> Result<Vec<ObjectId>> {
        let needed = self.needed()?;
        Ok(self.ids.iter().filter(|id| !needed.contains(id)).cloned().collect())
    }

    fn outcome(mut self, store: &Store) -> Result<Outcome> {
        let needed = self.needed()?;
        let (roots, mut stays) = (self.roots(), BTreeMap::new());
        for id in self.records.let_go.iter().filter(|id| needed.contains(id)) {
            stays.insert(id.clone(), store.who_stands_on(id, &roots)?);
        }
        let goes = self.ids.iter().filter(|id| !needed.contains(id)).cloned().collect();
        let kept = needed.iter().map(|id| self.records.record(id));
        let kept: Vec<_> = kept.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let unneeded = store.unneeded_blobs(kept.iter().map(|record| &**record))?;
        let blob_bytes = unneeded.iter().map(|(_, size)| size).sum();
        Ok(Outcome { goes, stays, blobs: unneeded.len() as u64, blob_bytes })
    }

    /// What keeps objects, as it is told to a person: where there are several, a name rather than what was removed.
    fn roots(&self) -> HashMap<&ObjectId, String> {
        let in_use = self.in_use.iter().map(|id| (id, "a fork that runs".to_owned()));
        let removed = self.names.iter().filter(|((_, removed), _)| removed.is_some());
        let removed = removed.map(|((name, _), id)| (id, format!("{name} (removed)")));
        let names = self.names.iter().filter(|((_, removed), _)| removed.is_none());
        let held = self.held.iter().map(|(id, key)| (id, key.clone()));
        in_use.chain(held).chain(removed).chain(names.map(|((name, _), id)| (id, name.to_string()))).collect()
    }

    /// Returns what the names that are left lead to, and all that it stands on.
    fn needed(&mut self) -> Result<HashSet<ObjectId>> {
        let roots = self.names.values().chain(&self.in_use).chain(self.held.keys());
        let roots: Vec<ObjectId> = roots.cloned().collect();
        self.records.reachable_from(roots)
    }
}

/// The snapshots of a box that a policy does not keep. One that says when it expires stays until then.
fn not_kept(snapshots: &[Node], keep: Keep, zone: &TimeZone) -> Vec<Doomed> {
    let governed = snapshots.iter().filter(|node| node.record.expires.is_none());
    let governed = governed.filter(|node| !keep.labelled || node.name.as_ref().is_some_and(is_numbered));
    let governed: Vec<&Node> = governed.collect();
    let made: Vec<Timestamp> = governed.iter().map(|node| node.record.created).collect();
    let kept = keep.kept(&made, zone);
    let goes = governed.iter().zip(kept).filter(|(_, kept)| !kept);
    goes.filter_map(|(node, _)| Doomed::of_snapshot(node, Why::Policy)).collect()
}

/// Is it a snapshot whose label nobody chose?
fn is_numbered(name: &Name) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    name.of_snapshot().is_some_and(|(_, label)| digits(label.as_str()))
}
