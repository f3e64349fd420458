//! States of a box that came as layers of an image become its snapshots again.

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::files::Durability;
use super::{Marks, Name, Node, Record, State, Store};
use crate::image::ImageConfig;

/// What a state says of itself that came with an image.
#[derive(Debug, Clone, Default)]
pub struct StateOfImage {
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What it is, in the words of who committed it.
    pub message: Option<String>,
    /// The note on it.
    pub note: Option<String>,
    /// How it is run.
    pub config: ImageConfig,
}

impl Store {
    /// Makes a named node of the tree that ends with a layer; `layer` is the layer's node.
    ///
    /// `None` where the name has that tree already; the name of anything else is an error of kind `AlreadyExists`. Durable on return.
    pub fn name_state(&self, layer: &Node, name: &Name, state: StateOfImage) -> Result<Option<Node>> {
        let intent = || format!("call a layer of the image {name}");
        let _lock = self.share_to_write().context(intent)?;
        let _held = self.hold(layer).context(intent)?;
        if let Some(known) = self.named(name).context(intent)? {
            let is_it = known.id == layer.id || known.record.tree.as_ref() == Some(&layer.id);
            return if is_it { Ok(None) } else { Err(taken(name)).context(intent) };
        }
        let draft = self.draft().context(intent)?;
        let own = &layer.record;
        let made = Record::new(draft.id.clone(), own.backend, State::Committed);
        let record = Record {
            form: own.form,
            parent: own.parent.clone(),
            tree: Some(layer.id.clone()),
            baseline: own.baseline.clone(),
            created: state.created.unwrap_or(made.created),
            message: state.message,
            marks: Marks { note: state.note, ..Marks::default() },
            config: state.config,
            ..made
        };
        self.publish(draft, &record, Some(name), Durability::Synced).map(Some).context(intent)
    }
}

fn taken(name: &Name) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{name} is another state here"))
        .hint(format!("rename it: rootling rename {name} NAME"))
}
