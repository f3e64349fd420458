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
        loop {
            let label = match &options.label {
                Some(label) => label.clone(),
                None => self.next_label_of(&name)?,
            };
            match self.commit(node, &name.snapshot(&label)?, &options.description) {
                // Somebody else took the number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && options.label.is_none() => {}
                made => return made.context(|| format!("snapshot {name}")),
            }
        }
    }

    /// Returns the snapshots of a box by label. The box itself need not exist any more. O(names of the store).
    pub fn snapshots(&self, of: &Name) -> Result<Vec<(Label, Node)>> {
        let mut names = self.all_names()?;
        names.retain(|name, _| name.of_snapshot().is_some_and(|(owner, _)| owner == *of));
        let nodes = self.named_nodes(names)?.into_iter();
        Ok(nodes.filter_map(|node| Some((node.name.as_ref()?.of_snapshot()?.1, node))).collect())
    }

    pub(super) fn next_label_of(&self, of: &Name) -> Result<Label> {
        let names = self.all_names()?;
        let labels = names.keys().filter_map(Name::of_snapshot).filter(|(owner, _)| owner == of);
        let numbers = labels.filter_map(|(_, label)| label.as_str().parse::<u32>().ok());
        Ok(Label::numbered(numbers.max().unwrap_or(0).saturating_add(1)))
    }
}
