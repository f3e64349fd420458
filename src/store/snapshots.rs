//! The named states of a box: `BOX@LABEL`, committed nodes like any other.
//!
//! The name of a snapshot is a link in `n/` like that of a tree, so it keeps the node, and a program that does not know snapshots
//! sees trees of odd names. Without a label a snapshot gets the next number.

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::{Description, Label, Name, Node, Store};

/// What a snapshot says of itself.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// What it is called; `None` is the next number.
    pub label: Option<Label>,
    /// What it is and why.
    pub description: Description,
}

impl Store {
    /// Makes the present state of a box a committed node called `BOX@LABEL`. The box goes on, on top of it.
    ///
    /// Durable on return. A label that is taken is an error of kind `AlreadyExists`. Costs what [`commit`](Self::commit) costs.
    pub fn snapshot(&self, node: &Node, options: &SnapshotOptions) -> Result<Node> {
        let Some(name) = node.name.clone().filter(|name| !name.is_volume() && !name.is_snapshot()) else {
            let message = format!("{} is not a box: it has no snapshots", node.shown());
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        };
        if let Some(label) = &options.label {
            let made = self.commit(node, &name.snapshot(label)?, &options.description);
            return made.context(|| format!("snapshot {name}"));
        }
        let mut number = self.last_number(node, &name)?;
        loop {
            number = number.saturating_add(1);
            match self.commit(node, &name.snapshot(&Label::numbered(number))?, &options.description) {
                // Somebody else took the number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.context(|| format!("snapshot {name}")),
            }
        }
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
}
