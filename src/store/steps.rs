//! The steps of builds: committed nodes that are found by what went into them.
//!
//! Words: a step's *key* is the digest of all that it depends on; who would do a step of the same key takes the node that is there. What
//! leads from a key to a node is a *name of a step*: a link in `steps/` ([`links`]), which no box or tree can have. A step costs no
//! sync: until all of its build is on disk its name is *tentative*, and means something only until the machine starts again. So a kill loses no step
//! that was finished, and a power cut never leaves a name that leads to half a tree.
//!
//! ```text
//! step_fork ─> work in it ─> commit_step ─┐
//!                └ failed: commit_failed ─┴─> settle_steps ─> publish_built
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `steps.rs` | looking up, forking, committing |
//! | [`links`] | names of steps: tentative and lasting, used and let go |
//! | [`record`] | what nodes say of the builds they come from |
//! | [`built`] | the end of a build as an image |
//! | [`notes`] | what builds leave for the next one to compare itself with |
//!
//! A chain of steps is not merged as the states of a box are: a build has tens of them, each is a layer, and the backend makes a whole tree
//! where one layer more could not be mounted. So what a step changed is always what its own tree says against its parent's.

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, ForkOptions, Kind, Result, Tree};

use super::boxes::tree_in;
use super::draft::Ephemeral;
use super::files::Durability;
use super::{Base, Node, Record, State, Store, fault};
use crate::image::{Digest, ImageConfig};

mod built;
mod links;
mod notes;
mod record;

pub use record::{Built, Failure, StepRecord};

impl Store {
    /// Returns the step of this key, if it was done and is there. Two calls and the reading of a record; a hit is noted once a day.
    ///
    /// It stays as long as a build runs ([`begin_build`](Self::begin_build)); else it may be swept at any time.
    pub fn step(&self, key: &Digest) -> Result<Option<Node>> {
        for link in [self.step_link(key), self.tentative_link(key)] {
            if let Some(node) = self.step_at(&link).context(|| format!("look up step {}", key.short()))? {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Makes a tree for a step to work in: a fork of `base`, or an empty tree. It holds what it stands on until it is committed or dropped.
    ///
    /// `kind` is the backend; `None` is the store's for what is thrown away. Nothing is synced: mount it volatile.
    pub fn step_fork(&self, base: Option<&Node>, kind: Option<Kind>) -> Result<Ephemeral> {
        let intent = || format!("fork {} for a step", base.map_or("nothing", Node::label));
        let _lock = self.share_to_write().context(intent)?;
        let kind = kind.unwrap_or_else(|| self.ephemeral_backend());
        let Some(base) = base else { return self.empty_fork(kind).context(intent) };
        let committed = self.committed(Base::Node(base)).context(intent)?.expect("a node was given");
        let held = self.hold(&committed).context(intent)?;
        let draft = self.draft().context(intent)?;
        let forked = self.fork_into(&draft, &committed, kind, ForkOptions::default());
        let (record, parent) = forked.context(intent)?;
        record.write_first(&draft.slot).context(intent)?;
        let tree = tree_in(&draft, &record, &parent);
        Ok(Ephemeral { draft, record, tree, parent, _base: Some(held) })
    }

    fn empty_fork(&self, kind: Kind) -> Result<Ephemeral> {
        let draft = self.draft()?;
        self.backend(kind)?.create(&draft.slot)?;
        let record = Record::new(draft.id.clone(), kind, State::Active);
        record.write_first(&draft.slot)?;
        let tree = Tree::full(&draft.slot);
        Ok(Ephemeral { draft, record, parent: tree.clone(), tree, _base: None })
    }

    /// Makes a fork that was worked in the step of its key: a committed node on what it was forked from. Nothing may be mounted of it
    /// any more.
    ///
    /// `config` is what the image says after it. Where somebody else has done the step meanwhile, that node is returned and the fork is
    /// dropped. O(1), without a sync: see [`settle_steps`](Self::settle_steps). A kill leaves the step as it is, or rubbish for the sweep.
    pub fn commit_step(&self, fork: Ephemeral, step: StepRecord, config: ImageConfig) -> Result<Node> {
        let intent = || format!("commit step {}", fork.id());
        let _lock = self.share_to_write().context(intent)?;
        if let Some(node) = self.step(&step.key).context(intent)? {
            return Ok(node);
        }
        let (id, key) = (fork.id().clone(), step.key.clone());
        let intent = || format!("commit step {id}");
        let node = self.publish_step(fork, step, config).context(intent)?;
        self.name_step(&key, node).context(intent)
    }

    /// As [`commit_step`](Self::commit_step), where a step of the key that is there is not what is wanted: the key leads to this one then.
    pub fn commit_step_anew(&self, fork: Ephemeral, step: StepRecord, config: ImageConfig) -> Result<Node> {
        let id = fork.id().clone();
        let intent = || format!("commit step {id}");
        let _lock = self.share_to_write().context(intent)?;
        let key = step.key.clone();
        let node = self.publish_step(fork, step, config).context(intent)?;
        self.rename_step(&key, &node).context(intent)?;
        Ok(node)
    }

    /// Makes a fork in which a step failed a committed node, which is found as the latest failure. As [`commit_step`](Self::commit_step)
    /// otherwise; of older failures some are kept, the rest is let go.
    pub fn commit_failed(&self, fork: Ephemeral, step: StepRecord, config: ImageConfig) -> Result<Node> {
        let id = fork.id().clone();
        let intent = || format!("keep step {id}, which failed");
        let node = {
            let _lock = self.share_to_write().context(intent)?;
            let node = self.publish_step(fork, step, config).context(intent)?;
            self.name_failure(&node).context(intent)?;
            self.let_failures_go().context(intent)?;
            node
        };
        self.empty_trash().context(intent)?;
        Ok(node)
    }

    /// Makes the present state of a box, or a committed node, the result of a step that stands on `over`: a tree that was repaired by hand.
    ///
    /// It shares the tree. What else is as with [`commit_step`](Self::commit_step), but that a step of the same key is replaced.
    pub fn adopt_step(
        &self,
        adopted: &Node,
        over: Option<&Node>,
        step: StepRecord,
        config: ImageConfig,
    ) -> Result<Node> {
        self.take_step(adopted, over, StepRecord { adopted: true, ..step }, config)
    }

    /// Makes a committed node the result of a step: one that was done elsewhere, and came as a layer. As [`adopt_step`](Self::adopt_step), which says
    /// that somebody's hands made it.
    pub fn take_step(
        &self,
        adopted: &Node,
        over: Option<&Node>,
        step: StepRecord,
        config: ImageConfig,
    ) -> Result<Node> {
        let intent = || format!("take {} as the result of a step", adopted.shown());
        let _lock = self.share_to_write().context(intent)?;
        let state = self.committed(Base::Node(adopted)).context(intent)?.expect("a node was given");
        let _held = self.hold(&state).context(intent)?;
        let draft = self.draft().context(intent)?;
        let key = step.key.clone();
        let before = over.map(|node| node.id.clone());
        let record = Record {
            follows: before.filter(|id| Some(id) != state.record.parent.as_ref()),
            ..self.sharing(&draft, &state)
        };
        let record = step.in_record(record, config);
        links::mark_unsettled(&draft.slot).context(intent)?;
        let node = self.publish(draft, &record, None, Durability::Lazy).context(intent)?;
        self.rename_step(&key, &node).context(intent)?;
        Ok(node)
    }

    fn publish_step(&self, fork: Ephemeral, step: StepRecord, config: ImageConfig) -> Result<Node> {
        let Ephemeral { draft, record, tree, parent: _, _base } = fork;
        let record = step.in_record(record, config);
        self.backend(record.backend)?.seal(&tree)?;
        fault::point("step.sealed");
        links::mark_unsettled(&draft.slot)?;
        let node = self.publish(draft, &record, None, Durability::Lazy)?;
        fault::point("step.published");
        Ok(node)
    }

    /// Returns the record of a committed node in the draft that has the tree of another.
    pub(super) fn sharing(&self, draft: &super::draft::Draft, with: &Node) -> Record {
        let own = &with.record;
        Record {
            form: own.form,
            parent: own.parent.clone(),
            tree: Some(own.tree.clone().unwrap_or_else(|| with.id.clone())),
            baseline: own.baseline.clone(),
            ..Record::new(draft.id.clone(), own.backend, State::Committed)
        }
    }

    /// Returns the steps that failed and are kept, the latest first.
    pub fn failures(&self) -> Result<Vec<Node>> {
        let mut failures = Vec::new();
        for name in self.failure_links()? {
            failures.extend(self.step_at(&name)?);
        }
        Ok(failures)
    }

    /// Returns the step that failed last, or as many failures before that.
    pub fn failure(&self, before: u32) -> Result<Node> {
        let found = self.failures()?.into_iter().nth(before as usize);
        found.ok_or_else(|| {
            let message = match before {
                0 => "no step of a build has failed".to_owned(),
                _ => format!("there are not {} failures of steps", u64::from(before) + 1),
            };
            Error::new(ErrorKind::NotFound, message).hint("`rootling ls --builds` lists the steps there are")
        })
    }
}

impl StepRecord {
    /// Makes the record of a fork that of a step.
    fn in_record(self, record: Record, config: ImageConfig) -> Record {
        Record {
            state: State::Committed,
            created: Timestamp::now(),
            message: Some(self.shown.clone()),
            config,
            step: Some(self.shortened()),
            ..record
        }
    }
}
