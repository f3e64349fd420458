//! Taking changes over from one line of states to another, three ways and by file: apply, revert, rebase.
//!
//! ```text
//!            from ---- what is taken over ----> to
//!              \
//!               `--- what the other side did ---> ours + what is taken over = a new state, to which the box goes
//! ```
//!
//! | verb | from | to | ours |
//! |---|---|---|---|
//! | apply A..B | A | B | the box |
//! | revert A..B | B | A | the box |
//! | rebase BOX onto NODE | what both come from | the box | NODE |
//!
//! The new state is a committed node, made beside everything else, so that a kill leaves it whole or not at all; then the box goes
//! there as it goes to any other state ([`restore`](Store::restore)), and what it was is the state before. A path that both sides changed,
//! each its own way, keeps what ours has and gets what the other has beside it, as `PATH.theirs`: the box's record lists those until
//! they are settled or the merge is given up.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rootling_backends::compare::compare_entries;
use rootling_backends::replicate::Options;
use rootling_backends::{
    Access, Baseline, Change, ChangeKind, CloneMode, Context, DiffOptions, Dir, Error, ErrorKind,
    ForkOptions, Form, Kind, Result, Tree, aside, patch, within,
};
use serde::{Deserialize, Serialize};

use super::files::Durability;
use super::freeze::{Call, Freezing, life_after};
use super::restore::Journey;
use super::{
    Base, Cause, Conflict, Description, Life, Moved, Node, ObjectId, Record, RestoreOptions, SnapshotOptions,
    State, Store, decide, fault, path_text,
};

/// What the other side of a conflict is called: the path and this.
const THEIRS: &str = ".theirs";

/// What is taken over.
#[derive(Debug, Clone)]
pub struct Range {
    /// The state before the changes.
    pub from: Node,
    /// The state with them.
    pub to: Node,
}

/// A merge that left conflicts, as the box keeps it until it is ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merging {
    /// What was done, in a few words: the message of the state that ends it.
    pub message: String,
    /// The state that the box was in before.
    pub before: ObjectId,
    /// The state with both sides of each conflict.
    pub state: ObjectId,
    /// What is to be settled.
    pub conflicts: Vec<Sides>,
}

/// A conflict and where its other side is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides {
    /// The path, and what was done there.
    #[serde(flatten)]
    pub conflict: Conflict,
    /// Where their side lies in the box; nothing where they deleted it.
    #[serde(with = "path_text::optional", default)]
    pub theirs_at: Option<PathBuf>,
}

/// What a merge did.
#[derive(Debug, Clone)]
pub struct Merged {
    /// The box, where it went, and what it was; `None` where there was nothing to take over.
    pub moved: Option<Moved>,
    /// How many changes were taken over.
    pub taken: usize,
    /// What is to be settled.
    pub conflicts: Vec<Sides>,
}

impl Store {
    /// Makes the changes of a range to a box, those at and below `paths` only, if there are any.
    ///
    /// A box that is in use is an error of kind `Busy`, one with an unfinished merge of kind `FailedPrecondition`, a path that neither end of
    /// the range has of kind `NotFound`. Durable on return; a
    /// kill leaves the box as it was. O(what changed in the range and in the box since), see [`diff`](Self::diff).
    pub fn apply(&self, node: &Node, range: &Range, paths: &[PathBuf], message: &str) -> Result<Merged> {
        let intent = || format!("apply {}..{} to {}", range.from.shown(), range.to.shown(), node.shown());
        let paths = &relative(paths).context(intent)?;
        self.require_any(&range.from, &range.to, paths).context(intent)?;
        self.merge(node, message, |before| {
            let state =
                |node: &Node| Ok::<_, Error>(self.committed(Base::Node(node))?.expect("a node has a state"));
            let range = Range { from: state(&range.from)?, to: state(&range.to)? };
            Ok((range, before.clone(), paths.as_slice()))
        })
        .context(intent)
    }

    /// Puts what a box changed since it parted from the line of `onto` on top of that node. As [`apply`](Self::apply) otherwise.
    ///
    /// The box becomes one state on `onto`; the states that led to what it was stay as they are. Two nodes that have nothing in common are an
    /// error of kind `FailedPrecondition`.
    pub fn rebase(&self, node: &Node, onto: &Node, message: &str) -> Result<Merged> {
        let intent = || format!("rebase {} onto {}", node.shown(), onto.shown());
        self.merge(node, message, |before| {
            let onto = self.committed(Base::Node(onto))?.expect("a node has a state");
            let from = self.common(before, &onto)?;
            Ok((Range { from, to: before.clone() }, onto, &[][..]))
        })
        .context(intent)
    }

    /// Returns the nearest node that both come from.
    fn common(&self, one: &Node, other: &Node) -> Result<Node> {
        let mut line = BTreeSet::new();
        let mut at = Some(one.clone());
        while let Some(node) = at {
            at = self.predecessor_of(&node)?;
            line.insert(node.id);
        }
        let mut at = Some(other.clone());
        while let Some(node) = at {
            if line.contains(&node.id) {
                return Ok(node);
            }
            at = self.predecessor_of(&node)?;
        }
        let message = format!("{} and {} have no state in common", one.shown(), other.shown());
        Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint("take over what changed between two states: rootling apply A..B --to BOX"))
    }

    /// Does the merge that `plan` makes of the state that the box is in: what is taken over, onto what, at which paths.
    fn merge<'p>(
        &self,
        node: &Node,
        message: &str,
        plan: impl FnOnce(&Node) -> Result<(Range, Node, &'p [PathBuf])>,
    ) -> Result<Merged> {
        let merged = {
            let _lock = self.share_to_write()?;
            let taken = self.take_unused(node)?;
            if let Some(merging) = taken.node.record.life.unfinished() {
                return Err(self.is_merging(&taken.node, merging));
            }
            let name = taken.node.name.clone();
            drop(taken);
            let description = Description { cause: Cause::Safety, ..Description::default() };
            let how = Freezing { description: &description, call: Call::Next, exact: true };
            let before = self.freeze(node, &how)?;
            fault::point("merge.kept");
            let (range, onto, paths) = plan(&before)?;
            let Some(built) = self.build(node, &before, &range, &onto, paths, message)? else {
                return Ok(Merged { moved: None, taken: 0, conflicts: Vec::new() });
            };
            let node = Node { name, ..node.clone() };
            let moved = self.go_to(&node, &before, &built, message)?;
            Merged { moved: Some(moved), taken: built.taken, conflicts: built.conflicts }
        };
        self.empty_trash()?;
        Ok(merged)
    }

    fn is_merging(&self, node: &Node, merging: &Merging) -> Error {
        let message =
            format!("{} has {} conflicts of `{}`", node.shown(), merging.conflicts.len(), merging.message);
        let name = node.label();
        Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
            "settle them and say: rootling apply --continue {name}; or give it up: rootling apply --abort {name}"
        ))
    }

    /// Moves the box to the state that was built.
    fn go_to(&self, node: &Node, before: &Node, built: &Built, message: &str) -> Result<Moved> {
        let taken = self.take_unused(node)?;
        let present = self.keep_present(&taken, None, &[])?;
        if present.before.id != before.id {
            let message = format!("{} has changed meanwhile", node.shown());
            return Err(Error::new(ErrorKind::Busy, message).hint("try again"));
        }
        let merging = (!built.conflicts.is_empty()).then(|| Merging {
            message: message.to_owned(),
            before: before.id.clone(),
            state: built.node.id.clone(),
            conflicts: built.conflicts.clone(),
        });
        let life = life_after(&taken.node, Some(&before.id)).moved_to(&built.node.id);
        let life = Life { merging, ..life };
        self.travel(&taken, present, Journey { target: built.node.clone(), volumes: Vec::new(), life })
    }

    // ------------------------------------------------------------ the new state

    /// Makes the merged state, a snapshot of the box; `None` where there is nothing to do.
    fn build(
        &self,
        node: &Node,
        before: &Node,
        range: &Range,
        onto: &Node,
        paths: &[PathBuf],
        message: &str,
    ) -> Result<Option<Built>> {
        let times = DiffOptions { times: true };
        let (to, ours) = (self.open_root(&range.to)?, self.open_root(onto)?);
        let mut theirs = self.diff(&range.from, &range.to, times)?;
        if !paths.is_empty() {
            let from = self.open_root(&range.from)?;
            theirs = within::within(theirs, paths, &from)?;
        }
        let changed = self.diff(&range.from, onto, times)?;
        let decision = decide(&theirs, &changed, |path| is_same(&to, &ours, path))?;
        let is_rebase = onto.id != before.id;
        if !is_rebase && decision.conflicts.is_empty() && decision.take.iter().all(Change::is_time_only) {
            return Ok(None);
        }
        let _held = self.hold(onto)?;
        let draft = self.draft()?;
        let (record, _) = self.fork_into(&draft, onto, self.kind_of_merge(node), ForkOptions::default())?;
        let beneath = self.tree(onto)?;
        let tree = match record.form {
            Form::Full => Tree::full(&draft.slot),
            Form::Delta => Tree::delta(&draft.slot, &beneath),
        };
        let conflicts = self.write_merged(&tree, record.backend, &to, &decision.take, &decision.conflicts)?;
        fault::point("merge.written");
        // A plain tree's fence is its own fork's, and not kept.
        let baseline = if record.form == Form::Full && record.backend != Kind::Btrfs {
            Baseline::None
        } else {
            record.baseline
        };
        let record = Record {
            state: State::Committed,
            follows: Some(before.id.clone()),
            message: Some(message.to_owned()),
            config: before.record.config.clone(),
            baseline,
            ..record
        };
        let built = self.seal_and_publish(draft, record, None, false)?;
        fault::point("merge.published");
        let owner = Node { name: node.name.clone(), ..before.clone() };
        let name = self.link_next(&owner, &built.id)?;
        let node = Node { name: Some(name), ..built };
        Ok(Some(Built {
            node,
            taken: decision.take.iter().filter(|change| !change.is_time_only()).count(),
            conflicts,
        }))
    }

    /// A merged state holds little beside what it stands on: a delta where the box's own backend would make everything anew.
    fn kind_of_merge(&self, node: &Node) -> Kind {
        let own = node.record.backend;
        let is_cheap = self.backend(own).is_ok_and(|backend| backend.capabilities().constant_time_fork);
        if is_cheap || self.backend(Kind::Overlay).is_err() { own } else { Kind::Overlay }
    }

    /// Writes what is taken over into the new tree, and the other sides of conflicts.
    fn write_merged(
        &self,
        tree: &Tree,
        kind: Kind,
        to: &Dir,
        take: &[Change],
        conflicts: &[Conflict],
    ) -> Result<Vec<Sides>> {
        let root =
            self.backend(kind)?.mount(tree, Access::ReadWrite, false).open_root_for(Access::ReadWrite)?;
        patch::patch(take, to, &root, &Options::from(CloneMode::Auto))?;
        let aside = |conflict: &Conflict| {
            let theirs_at = match conflict.theirs {
                ChangeKind::Deleted => None,
                // Of the root only attributes can differ: ours stay.
                _ if conflict.path.as_os_str().is_empty() => None,
                _ => Some(aside::put_aside(to, &conflict.path, &root, THEIRS)?),
            };
            Ok(Sides { conflict: conflict.clone(), theirs_at })
        };
        conflicts.iter().map(aside).collect()
    }

    // ------------------------------------------------------------ ending it

    /// Ends a merge whose conflicts are settled: the present state becomes a snapshot, with this message or that of the merge.
    ///
    /// Where another side still lies beside its path, or nothing is to be ended, it is an error of kind `FailedPrecondition`.
    pub fn continue_merge(&self, node: &Node, message: Option<&str>) -> Result<Node> {
        let intent = || format!("end the merge in {}", node.shown());
        let node = self.settle(node).context(intent)?;
        let merging = self.merging(&node).context(intent)?;
        let root = self.open_root(&node).context(intent)?;
        let mut left = Vec::new();
        for path in merging.conflicts.iter().filter_map(|sides| sides.theirs_at.as_ref()) {
            if exists(&root, path).context(intent)? {
                left.push(path.display().to_string());
            }
        }
        if !left.is_empty() {
            let are = if left.len() == 1 { "is" } else { "are" };
            let message = format!("{} is not settled: {} {are} still there", node.shown(), left.join(", "));
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
                "merge each with the file beside it in `rootling enter {}`, and remove it",
                node.label()
            )))
            .context(intent);
        }
        let description = Description {
            message: Some(message.unwrap_or(&merging.message).to_owned()),
            ..Description::default()
        };
        let made = self.snapshot(&node, &SnapshotOptions { description, ..SnapshotOptions::default() })?;
        self.forget_merge(&node).context(intent)?;
        Ok(made)
    }

    /// Takes a box back to what it was before a merge that left conflicts; what it is now stays as a snapshot, where it is new.
    pub fn abort_merge(&self, node: &Node) -> Result<Moved> {
        let intent = || format!("give up the merge in {}", node.shown());
        let node = self.settle(node).context(intent)?;
        let before = self.merging(&node).context(intent)?.before.clone();
        let before = self.node(&before).context(intent)?;
        // Whoever restores a box gives up what it was merging.
        self.restore(&node, &before, &RestoreOptions::default())
    }

    fn merging<'n>(&self, node: &'n Node) -> Result<&'n Merging> {
        node.record.life.unfinished().ok_or_else(|| {
            let message = format!("{} has no conflicts to settle", node.shown());
            Error::new(ErrorKind::FailedPrecondition, message)
                .hint(format!("`rootling log {}` shows its states", node.label()))
        })
    }

    fn forget_merge(&self, node: &Node) -> Result<()> {
        let _lock = self.share_to_write()?;
        let taken = self.take(node)?;
        if taken.node.record.life.merging.is_none() {
            return Ok(());
        }
        let life = Life { merging: None, ..taken.node.record.life.clone() };
        let record = Record { life, ..taken.node.record.clone() };
        record.write(&self.object_dir(&taken.node.id), Durability::Synced)
    }
}

/// A state that was made.
struct Built {
    node: Node,
    taken: usize,
    conflicts: Vec<Sides>,
}

/// Returns paths as changes have them: relative to the root of the tree.
fn relative(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths.iter().map(|path| super::restore::relative(path)).collect()
}

/// Is the entry at a path the same in both trees, times aside?
fn is_same(one: &Dir, other: &Dir, path: &Path) -> Result<bool> {
    let (Some(one), Some(other)) = (parent_of(one, path)?, parent_of(other, path)?) else { return Ok(false) };
    let name = path.file_name().unwrap_or(OsStr::new("."));
    if one.stat_if_exists(name)?.is_none() || other.stat_if_exists(name)?.is_none() {
        return Ok(false);
    }
    Ok(compare_entries((&one, name), (&other, name), DiffOptions::default())?.is_empty())
}

/// Opens the directory that holds a path; `None` where the tree has none.
fn parent_of(root: &Dir, path: &Path) -> Result<Option<Dir>> {
    let mut dir = root.try_clone()?;
    for component in path.parent().unwrap_or(Path::new("")).components() {
        match dir.open_dir(component.as_os_str()) {
            Ok(below) => dir = below,
            // Not there, or something else there.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(dir))
}

fn exists(root: &Dir, path: &Path) -> Result<bool> {
    let Some(parent) = parent_of(root, path)? else { return Ok(false) };
    Ok(parent.stat_if_exists(path.file_name().unwrap_or(OsStr::new(".")))?.is_some())
}
