//! The named states of a box: `BOX@LABEL`, committed nodes like any other.
//!
//! The name of a snapshot is a link in `n/` like that of a tree, so it keeps the node, and a program that does not know snapshots
//! sees trees of odd names. Without a label a snapshot gets the next number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use rootling_backends::{Context, DiffOptions, Dir, EntryType, Error, ErrorKind, FS, Form, Result};

use super::freeze::{Call, Freezing, Still, Taken, moving};
use super::{
    Description, KeptVolume, Label, Name, Node, ObjectId, Store, VolumeName, VolumeReference, fault,
};

/// What a snapshot says of itself.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// What it is called; `None` is the next number.
    pub label: Option<Label>,
    /// What it is and why.
    pub description: Description,
    /// Take the state that the box is in already, if there is one, whatever it says of itself: without a label it keeps its name.
    pub reuse: bool,
    /// The volumes that are kept together with it.
    pub with_volumes: BTreeSet<VolumeName>,
}

impl Store {
    /// Makes the present state of a box a committed node called `BOX@LABEL`. The box goes on, on top of it.
    ///
    /// Of a box that has not changed, as far as this can be told at once, it is one more name of the state that it is in, unless it is to
    /// say something else of itself. Durable on return. A label that is taken is an error of kind `AlreadyExists`. Costs what
    /// [`commit`](Self::commit) costs.
    pub fn snapshot(&self, node: &Node, options: &SnapshotOptions) -> Result<Node> {
        self.snapshot_still(node, options, &mut moving)
    }

    /// As [`snapshot`](Self::snapshot), of a box that may run: `still` is called once all locks are held, and what it returns is dropped
    /// once the trees are copied.
    pub fn snapshot_still(&self, node: &Node, options: &SnapshotOptions, still: Still<'_>) -> Result<Node> {
        let Some(name) = node.name.clone().filter(|name| !name.is_volume() && !name.is_snapshot()) else {
            let message = format!("{} is not a box: it has no snapshots", node.shown());
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        };
        let made = self.snapshot_named(node, &name, options, still).context(|| format!("snapshot {name}"))?;
        // What was merged leaves the box's old tree behind. Best effort: it is the sweep's, too.
        drop(self.empty_trash());
        Ok(made)
    }

    fn snapshot_named(
        &self,
        node: &Node,
        name: &Name,
        options: &SnapshotOptions,
        still: Still<'_>,
    ) -> Result<Node> {
        let _lock = self.share_to_write()?;
        if let Some(label) = &options.label {
            self.require_free(&name.snapshot(label)?)?;
            return self.snapshot_as(node, options, name, label, still);
        }
        let mut number = self.last_number(node, name)?;
        loop {
            number = number.saturating_add(1);
            match self.snapshot_as(node, options, name, &Label::numbered(number), still) {
                // Somebody else took the number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
    }

    /// Says whether a box differs from the state that came before: its last snapshot, or what it was made from.
    ///
    /// O(changes), or one stat walk with plain trees.
    pub fn differs(&self, node: &Node) -> Result<bool> {
        let options = DiffOptions::default();
        match self.predecessor(node)? {
            Some(last) if node.record.parent.as_ref() != Some(&last.id) => {
                Ok(!self.diff(&last, node, options)?.is_empty())
            }
            Some(_) => Ok(!self.changes(node, options)?.is_empty()),
            // There is nothing to compare with.
            None => Ok(true),
        }
    }

    /// Says whether a box was changed after a moment, at which it was as its last snapshot is.
    ///
    /// O(what a delta holds), or as [`differs`](Self::differs). The kernel's clock for files runs up to a tick behind: what is
    /// changed within one after the moment is not told from what was before it.
    pub fn differs_since(&self, node: &Node, moment: Timestamp) -> Result<bool> {
        if node.record.form == Form::Full {
            return self.differs(node);
        }
        let root = Dir::open(self.tree_slot(node)?.join(FS))?;
        let moment = (moment.as_second(), i64::from(moment.subsec_nanosecond()));
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            // A directory that went meanwhile has changed the one it was in.
            let Ok(dir) = root.open_deep(&path) else { continue };
            let own = dir.stat_self()?;
            if (own.st_ctime, own.st_ctime_nsec) > moment {
                return Ok(true);
            }
            for entry in dir.entries()? {
                let Some(stat) = dir.stat_if_exists(&entry.name)? else { continue };
                if (stat.st_ctime, stat.st_ctime_nsec) > moment {
                    return Ok(true);
                }
                if EntryType::of_mode(stat.st_mode) == EntryType::Directory {
                    pending.push(path.join(&entry.name));
                }
            }
        }
        Ok(false)
    }

    fn snapshot_as(
        &self,
        node: &Node,
        options: &SnapshotOptions,
        owner: &Name,
        label: &Label,
        still: Still<'_>,
    ) -> Result<Node> {
        let called = owner.snapshot(label)?;
        let call = if options.reuse && options.label.is_none() { Call::Next } else { Call::As(&called) };
        let how = Freezing { description: &options.description, call, exact: options.reuse };
        let taken = self.take(node)?;
        if options.with_volumes.is_empty() {
            return self.freeze_taken(&taken, &how, still);
        }
        // All are held before anything stands still.
        let volumes = options.with_volumes.iter().map(|name| Ok((name, self.take(&self.any_volume(name)?)?)));
        let volumes: Vec<(&VolumeName, Taken)> = volumes.collect::<Result<_>>()?;
        let _still = still()?;
        let mut description = options.description.clone();
        for (name, volume) in &volumes {
            let snapshot = self.keep_volume(name, volume, label)?;
            fault::point("snapshot.volume");
            description.volumes.push(KeptVolume { volume: (*name).clone(), snapshot: snapshot.id });
        }
        self.freeze_taken(&taken, &Freezing { description: &description, ..how }, &mut moving)
    }

    /// Returns the snapshots of a box by label. The box itself need not exist any more. O(snapshots), or where they are not noted
    /// O(names of the store).
    pub fn snapshots(&self, of: &Name) -> Result<Vec<(Label, Node)>> {
        match self.noted_snapshots(of)? {
            Some(noted) => self.labelled_nodes(noted),
            None => self.all_snapshots(of),
        }
    }

    /// As [`snapshots`](Self::snapshots), by a look at all names: for what must not miss one.
    pub(super) fn all_snapshots(&self, of: &Name) -> Result<Vec<(Label, Node)>> {
        self.labelled_nodes(self.snapshot_names(of)?)
    }

    fn labelled_nodes(&self, names: BTreeMap<Name, ObjectId>) -> Result<Vec<(Label, Node)>> {
        let nodes = self.named_nodes(names)?.into_iter();
        Ok(nodes.filter_map(|node| Some((node.name.as_ref()?.of_snapshot()?.1, node))).collect())
    }

    /// Returns the highest number among the labels of a box, or a lower one: what a box remembers is not looked for.
    pub(crate) fn last_number(&self, node: &Node, name: &Name) -> Result<u32> {
        if let Some(volume) = VolumeReference::of(name) {
            return self.last_number_of_volume(&volume.name);
        }
        match node.record.life.numbered {
            // A box of that name may have had snapshots before.
            0 => Ok(self
                .labels(name)?
                .iter()
                .filter_map(|label| label.as_str().parse().ok())
                .max()
                .unwrap_or(0)),
            number => Ok(number),
        }
    }
}

/// Returns what the snapshot of a box or volume with this number is called.
pub(crate) fn numbered(owner: &Name, number: u32) -> Result<Name> {
    let label = Label::numbered(number);
    match VolumeReference::of(owner) {
        Some(volume) => volume.name.snapshot_name(label.as_str()),
        None => owner.snapshot(&label),
    }
}
