//! The named states of a box: `BOX@LABEL`, committed nodes like any other.
//!
//! The name of a snapshot is a link in `n/` like that of a tree, so it keeps the node, and a program that does not know snapshots
//! sees trees of odd names. Without a label a snapshot gets the next number.

use std::collections::BTreeSet;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::freeze::{Call, Freezing, Still, Taken, moving};
use super::{Description, KeptVolume, Label, Name, Node, Store, VolumeName, VolumeReference, fault};

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
        let intent = || format!("snapshot {name}");
        let _lock = self.share_to_write().context(intent)?;
        loop {
            let label = match &options.label {
                Some(label) => label.clone(),
                None => self.next_label_of(node, &name).context(intent)?,
            };
            let called = name.snapshot(&label).context(intent)?;
            self.require_free(&called).context(intent)?;
            match self.snapshot_as(node, options, &label, &called, still) {
                // Somebody else took the number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && options.label.is_none() => {}
                made => return made.context(intent),
            }
        }
    }

    fn snapshot_as(
        &self,
        node: &Node,
        options: &SnapshotOptions,
        label: &Label,
        called: &Name,
        still: Still<'_>,
    ) -> Result<Node> {
        let call = if options.reuse && options.label.is_none() { Call::Next } else { Call::As(called) };
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

    /// Returns the snapshots of a box by label. The box itself need not exist any more. O(names of the store).
    pub fn snapshots(&self, of: &Name) -> Result<Vec<(Label, Node)>> {
        let nodes = self.named_nodes(self.snapshot_names(of)?)?.into_iter();
        Ok(nodes.filter_map(|node| Some((node.name.as_ref()?.of_snapshot()?.1, node))).collect())
    }

    /// Returns the highest number among the labels of a box, or a lower one: what a box remembers is not looked for.
    fn last_number(&self, node: &Node, name: &Name) -> Result<u32> {
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

    /// Returns the name that a snapshot without a label gets now.
    pub(crate) fn next_snapshot_name(&self, node: &Node, of: &Name) -> Result<Name> {
        match VolumeReference::of(of) {
            Some(volume) => self.next_volume_snapshot(&volume.name),
            None => of.snapshot(&self.next_label_of(node, of)?),
        }
    }

    fn next_label_of(&self, node: &Node, of: &Name) -> Result<Label> {
        let mut number = self.last_number(node, of)?;
        loop {
            number = number.saturating_add(1);
            let label = Label::numbered(number);
            if self.resolve_name(&of.snapshot(&label)?)?.is_none() {
                return Ok(label);
            }
        }
    }
}
