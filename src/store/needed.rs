//! What is needed: which objects a set of others stands on.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use rootling_backends::{ErrorKind, Form, Result};

use super::{ObjectId, Record, State, Store};

/// The records of a store, each read once, for a question about all of them.
#[derive(Debug)]
pub(super) struct Records<'a> {
    store: &'a Store,
    /// Objects whose names are taken for let go, beside those whose records say so.
    pub(super) let_go: HashSet<ObjectId>,
    /// `None` for what is not there.
    read: HashMap<ObjectId, Option<Rc<Record>>>,
}

impl<'a> Records<'a> {
    /// Reads nothing yet. The caller keeps others from changing the store.
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, let_go: HashSet::new(), read: HashMap::new() }
    }

    /// Returns these objects, and all that they stand on. What is not there is passed over: a damaged store is fsck's business, here
    /// it only means that nothing below it can be found.
    ///
    /// A delta that somebody only shares the `fs/` of needs nothing itself.
    pub(super) fn reachable_from(
        &mut self,
        roots: impl IntoIterator<Item = ObjectId>,
    ) -> Result<HashSet<ObjectId>> {
        let (mut reached, mut shared) = (HashSet::new(), HashSet::new());
        let mut todo: Vec<(ObjectId, bool)> = roots.into_iter().map(|id| (id, false)).collect();
        while let Some((id, as_tree)) = todo.pop() {
            if reached.contains(&id) {
                continue;
            }
            let Some(record) = self.record(&id)? else { continue };
            todo.extend(record.tree.iter().map(|id| (id.clone(), true)));
            if as_tree && record.form == Form::Delta {
                shared.insert(id);
                continue;
            }
            todo.extend(self.stands_on(&record)?.map(|id| (id, false)));
            let (parent, tree) = (record.parent.as_ref(), record.tree.as_ref());
            let others = record.needs().filter(|id| Some(*id) != parent && Some(*id) != tree);
            todo.extend(others.map(|id| (id.clone(), false)));
            reached.insert(id);
        }
        reached.extend(shared);
        Ok(reached)
    }

    /// Returns what an object needs of its history: its parent; a committed whole tree none whose name was let go, but what came
    /// before that. Where the history began stays.
    pub(super) fn stands_on(&mut self, record: &Record) -> Result<Option<ObjectId>> {
        let mut above = record.parent.clone();
        if record.state == State::Active || record.form == Form::Delta {
            return Ok(above);
        }
        while let Some(id) = &above {
            let is_let_go = self.let_go.contains(id);
            let Some(record) = self.record(id)? else { break };
            if record.parent.is_none() || !(record.let_go || is_let_go) {
                break;
            }
            above.clone_from(&record.parent);
        }
        Ok(above)
    }

    /// Returns the record of an object, if it is there.
    pub(super) fn record(&mut self, id: &ObjectId) -> Result<Option<Rc<Record>>> {
        if let Some(known) = self.read.get(id) {
            return Ok(known.clone());
        }
        let record = match self.store.node(id) {
            Ok(node) => Some(Rc::new(node.record)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.context("find out what is still needed")),
        };
        self.read.insert(id.clone(), record.clone());
        Ok(record)
    }
}
