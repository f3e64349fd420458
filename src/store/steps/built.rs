//! The end of a build as an image: a node that has the tree of the last step, and says what the recipe said.

use rootling_backends::{Context, Result, Tree};

use super::super::files::Durability;
use super::super::{Name, Node, Record, State, Store, format};
use super::record::Built;
use crate::image::{Digest, ImageConfig};

impl Store {
    /// Makes what a build ends with an image, and gives it names; each that another image has moves.
    ///
    /// `top` is the last step, or the image it was built on where no step changed files; `None` is an empty tree. An image that is there
    /// already and says the same only gets the names. One without names is found as a step is, and goes as one does.
    /// The steps are made durable first ([`settle_steps`](Self::settle_steps)); durable on return. A kill leaves the names as they
    /// were, or the first few moved.
    pub fn publish_built(
        &self,
        top: Option<&Node>,
        names: &[Name],
        config: ImageConfig,
        built: Built,
    ) -> Result<Node> {
        let intent = || match names.first() {
            Some(name) => format!("make the image {name}"),
            None => "make an image".to_owned(),
        };
        names.iter().try_for_each(|name| self.require_free_or_image(name)).context(intent)?;
        self.settle_steps().context(intent)?;
        let (node, _held) = {
            let _lock = self.share_to_write().context(intent)?;
            format::Format::require(&self.root, format::SHARED_TREES).context(intent)?;
            let key = key_of(top, &config, &built);
            let node = match self.built_before(top, names, &key, &config, &built).context(intent)? {
                Some(node) => node,
                None => self.make_built(top, config, built).context(intent)?,
            };
            let held = self.hold(&node).context(intent)?;
            (node, held)
        };
        let node = self.name_image(&node, names).context(intent)?;
        if names.is_empty() {
            let key = key_of(top, &node.record.config, node.record.built.as_ref().expect("it was built"));
            self.note_alias(&key, &node).context(intent)?;
            self.settle_steps().context(intent)?;
        }
        self.empty_trash().context(intent)?;
        Ok(node)
    }

    /// Returns the state that a node's tree was made as: of an image its last step or layer, which says how it was made; any other itself.
    pub fn last_state(&self, node: &Node) -> Result<Node> {
        let Some(tree) = node.record.tree.as_ref().filter(|_| node.record.is_image()) else {
            return Ok(node.clone());
        };
        // A step that was adopted has the tree of another.
        let last = node.record.built.as_ref().and_then(|built| built.steps.last());
        let last = last.map_or(Ok(None), |id| self.node_if_exists(id))?;
        if let Some(step) = last.filter(|step| step.record.tree.as_ref() == Some(tree)) {
            return Ok(step);
        }
        let state = self.node(tree)?;
        // The tree of a layer may be that of another stack.
        Ok(if state.record.predecessor() == node.record.predecessor() { state } else { node.clone() })
    }

    /// Returns what the build began with that a step, or an image, is of: the first state before it that is no step. `None` where that is
    /// nothing.
    pub fn ground_of_build(&self, node: &Node) -> Result<Option<Node>> {
        let mut at = self.predecessor(node)?;
        while let Some(step) = at.take_if(|before| before.record.step.is_some()) {
            at = self.predecessor(&step)?;
        }
        Ok(at)
    }

    /// Returns the image that has the tree of `top` and says the same, if one of these names or the key leads to it.
    fn built_before(
        &self,
        top: Option<&Node>,
        names: &[Name],
        key: &Digest,
        config: &ImageConfig,
        built: &Built,
    ) -> Result<Option<Node>> {
        let tree = top.map(|top| top.record.tree.as_ref().unwrap_or(&top.id));
        let is_it = |node: &Node| {
            let record = &node.record;
            let same_tree = top.is_some() && record.tree.as_ref() == tree;
            same_tree && record.config == *config && record.built.as_ref() == Some(built)
        };
        for name in names {
            if let Some(node) = self.named(name)?.filter(is_it) {
                return Ok(Some(node));
            }
        }
        Ok(self.step(key)?.filter(is_it))
    }

    fn make_built(&self, top: Option<&Node>, config: ImageConfig, built: Built) -> Result<Node> {
        let draft = self.draft()?;
        let _held = top.map(|top| self.hold(top)).transpose()?;
        let record = match top {
            Some(top) => self.sharing(&draft, top),
            None => {
                let kind = self.default_backend();
                let backend = self.backend(kind)?;
                backend.create(&draft.slot)?;
                backend.seal(&Tree::full(&draft.slot))?;
                backend.barrier(&draft.slot)?;
                Record::new(draft.id.clone(), kind, State::Committed)
            }
        };
        let follows = top.and_then(|top| top.record.follows.clone());
        let record = Record { config, built: Some(built), follows, ..record };
        self.publish(draft, &record, None, Durability::Synced)
    }
}

/// Returns the key by which an image without a name is found.
fn key_of(top: Option<&Node>, config: &ImageConfig, built: &Built) -> Digest {
    let tree = top.map(|top| top.record.tree.as_ref().unwrap_or(&top.id));
    let said = serde_json::to_vec(&("built", tree, config, built));
    Digest::sha256_of(&said.expect("none of it has a map with keys that are not text"))
}
