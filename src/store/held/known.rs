//! What people are told of held trees: which a node is, and by which key one is found.

use rayon::prelude::*;
use rootling_backends::{Context, Error, ErrorKind, Form, Result};

use super::super::{Node, ObjectId, Record, State, Store};
use super::record::Held;

impl Store {
    /// Returns what another program holds a node as, if one does.
    pub fn held(&self, node: &Node) -> Result<Option<Held>> {
        self.held_as(&node.id, &node.record)
    }

    /// Returns all that is held, each with what it is held as. A record that cannot be read is left out: it is fsck's business. O(held), in
    /// parallel.
    pub fn all_held(&self) -> Result<Vec<(ObjectId, Held)>> {
        let links = self.held_links()?.into_par_iter();
        let held = links.filter_map(|(_, id)| {
            let record = Record::read(&self.object_dir(&id)).ok()?;
            self.held_as(&id, &record).transpose().map(|held| held.map(|held| (id, held)))
        });
        held.collect()
    }

    /// Returns the node that is held as `key`, or as something that ends in `/` and that: containerd puts its namespace and a number before
    /// what it shows. None is an error of kind `NotFound`, several of kind `InvalidInput`.
    pub fn held_by_key(&self, key: &str) -> Result<Node> {
        let intent = || format!("find containerd:{key}");
        let _lock = self.share().context(intent)?;
        let exact = self.held_target(&super::links::file_name(key)).context(intent)?;
        if let Some(node) = exact.map(|id| self.node(&id)).transpose().context(intent)? {
            return Ok(node);
        }
        let ending = format!("/{key}");
        let mut found = self.all_held().context(intent)?;
        found.retain(|(_, held)| held.key.ends_with(&ending));
        match found.as_slice() {
            [(id, _)] => self.node(id).context(intent),
            [] => Err(Error::new(ErrorKind::NotFound, format!("containerd holds no {key:?} here"))
                .hint("`rootling ls --all` lists what it holds")),
            several => {
                let keys: Vec<_> = several.iter().map(|(_, held)| format!("{:?}", held.key)).collect();
                let message = format!("{key:?} is the end of several: {}", keys.join(", "));
                Err(Error::new(ErrorKind::InvalidInput, message).hint("write more of it"))
            }
        }
    }

    /// Refuses to write to a delta that another program holds: it may be mounted for it, where nobody here sees that, and OverlayFS does not
    /// survive two mounts of one upper directory.
    pub(in super::super) fn require_not_held(&self, node: &Node) -> Result<()> {
        if node.record.form == Form::Full || node.record.state == State::Committed {
            return Ok(());
        }
        let Some(held) = self.held(node)? else { return Ok(()) };
        let message = format!("{} is mounted by containerd alone, as {:?}", node.label(), held.key);
        Err(Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
            "fork it as it is now: rootling fork {0} NAME; or for one command: rootling run {0}",
            node.label()
        )))
    }

    /// Returns the error for a node without a name that is to be removed.
    pub(in super::super) fn nothing_to_remove(&self, node: &Node) -> Result<Error> {
        let Some(held) = self.held(node)? else {
            let message = format!("{} has no name to remove", node.id);
            return Ok(Error::new(ErrorKind::FailedPrecondition, message)
                .hint("it goes when nothing needs it any more"));
        };
        let message = format!("{} is held by containerd as {:?}", node.id, held.key);
        Ok(Error::new(ErrorKind::FailedPrecondition, message)
            .hint("remove it there: its container, its image, or `ctr snapshots rm`"))
    }
}
