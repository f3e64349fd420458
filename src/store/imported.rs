//! What was made of the same source before, so that it need not be made again.

use rootling_backends::Result;

use super::{CreateOptions, Node, Role, State, Store};

impl Store {
    /// Returns the newest tree that was imported with the key in `options`, and says the same of how it is run; one of another
    /// backend only if none is asked for.
    ///
    /// It may have no name, and may be swept away before it is given one. O(nodes), read in parallel.
    pub fn imported(&self, options: &CreateOptions) -> Result<Option<Node>> {
        let Some(key) = &options.source_key else { return Ok(None) };
        let is_same = |node: &Node| {
            let record = &node.record;
            record.source_key.as_ref() == Some(key)
                && record.state == State::Committed
                && record.role == Role::Root
                && record.config == options.config
                && options.backend.is_none_or(|backend| backend == record.backend)
        };
        Ok(self.all_nodes()?.into_iter().filter(is_same).max_by_key(|node| node.record.created))
    }
}
