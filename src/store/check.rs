//! fsck: is everything on disk what the format says it is?

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use rootling_backends::{Context, ErrorKind, FS, Form, Result};
use serde::Serialize;
use walkdir::WalkDir;

use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{HeldKind, Image, Index, Name, Node, ObjectId, Role, State, Store, index};
use crate::image::{Descriptor, Digest, media_type};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// What a crash leaves: harmless, and `prune` or the next use of the object removes it.
    Note,
    /// Something is not as it should be.
    Problem,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The object or name it is about.
    pub object: String,
    /// What is wrong, as a lowercase fragment.
    pub problem: String,
    /// Was it put right?
    pub repaired: bool,
}

/// What a check looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Objects looked at.
    pub objects: u64,
    /// Names looked at.
    pub names: u64,
    /// Blobs looked at.
    pub blobs: u64,
    /// Trees compared with their index.
    pub verified: u64,
    /// What was found.
    pub problems: Vec<Problem>,
}

impl Checked {
    /// Is nothing wrong that was not put right? Notes do not count.
    pub fn is_clean(&self) -> bool {
        self.problems.iter().all(|found| found.severity == Severity::Note || found.repaired)
    }

    fn add(&mut self, severity: Severity, object: impl ToString, problem: impl ToString, repaired: bool) {
        self.problems.push(Problem {
            severity,
            object: object.to_string(),
            problem: problem.to_string(),
            repaired,
        });
    }
}

/// Everything an object's directory may hold.
const KNOWN: [&str; 20] = [
    "meta.json",
    "index",
    "extents",
    "fs",
    "work",
    "by",
    "names",
    "change",
    "base",
    "blanks",
    "dirs",
    "running.json",
    "host.json",
    "log",
    "log.1",
    "attach",
    "autosnap",
    "paused",
    "unsettled",
    "usage",
];

/// What a backend makes beside a tree for a moment; its next operation there removes or replaces it.
const MOMENTARY: [&str; 3] = ["fence", "dirs.new", "view"];

impl Store {
    /// Checks names, records, links and trees; with `verify`, also every byte of the trees that have an index.
    ///
    /// `repair` puts right what can be derived from the rest, and never removes a tree or a name that leads to one. Waits for
    /// other operations to end and holds the store alone: half a commit looks like damage.
    pub fn check(&self, repair: bool, verify: bool) -> Result<Checked> {
        let intent = || format!("check store {:?}", self.root);
        let what = format!("store {:?}", self.root);
        let _lock = lock::lock_file(&self.root.join("lock"), Mode::Exclusive, &what).context(intent)?;
        self.finish_renaming().context(intent)?;
        let mut checked = Checked::default();
        let mut nodes = Vec::new();
        for file_name in files::list(&self.root.join("o")).context(intent)? {
            checked.objects += 1;
            match ObjectId::parse(&file_name) {
                Ok(id) => nodes.extend(self.check_record(&id, &mut checked)),
                Err(_) => checked.add(Severity::Problem, &file_name, "is in o/ and is not an object", false),
            }
        }
        self.check_names(repair, &mut checked).context(intent)?;
        self.check_removed(repair, &mut checked).context(intent)?;
        self.check_held(repair, &mut checked).context(intent)?;
        if repair {
            let ids: Vec<ObjectId> = nodes.iter().map(|node| node.id.clone()).collect();
            self.note_all(&ids).context(intent)?;
            self.make_labels().context(intent)?;
        }
        let reachable = self.reachable().context(intent)?;
        for node in &nodes {
            self.check_node(node, &reachable, repair, &mut checked).context(intent)?;
            if verify && node.record.state == State::Committed && node.record.tree.is_none() {
                self.check_content(node, &mut checked).context(intent)?;
            }
        }
        self.check_blobs(&nodes, repair, verify, &mut checked).context(intent)?;
        self.check_repositories(&mut checked).context(intent)?;
        self.check_hints(&mut checked).context(intent)?;
        self.check_steps(&mut checked).context(intent)?;
        self.check_slots(&mut checked);
        for directory in ["tmp", "trash"] {
            for id in files::list(&self.root.join(directory)).context(intent)? {
                let place = self.root.join(directory).join(&id);
                if lock::try_lock_dir(&place, Mode::Exclusive).is_ok_and(|lock| lock.is_some()) {
                    checked.add(
                        Severity::Note,
                        format!("{directory}/{id}"),
                        "was left behind: prune removes it",
                        false,
                    );
                }
            }
        }
        Ok(checked)
    }

    fn check_record(&self, id: &ObjectId, checked: &mut Checked) -> Option<Node> {
        match self.node(id) {
            Ok(node) => Some(node),
            Err(_) if self.was_cut_off(id) => {
                checked.add(Severity::Note, id, "is a step that a power cut took: prune removes it", false);
                None
            }
            Err(error) => {
                checked.add(Severity::Problem, id, format!("has no readable record: {error:?}"), false);
                None
            }
        }
    }

    fn check_names(&self, repair: bool, checked: &mut Checked) -> Result<()> {
        let directory = self.root.join("n");
        for file_name in files::list(&directory)? {
            if files::is_leftover(&file_name) {
                checked.add(
                    Severity::Note,
                    format!("n/{file_name}"),
                    "was left behind: prune removes it",
                    false,
                );
                continue;
            }
            checked.names += 1;
            let Ok(name) = Name::decode(&file_name) else {
                checked.add(Severity::Problem, format!("n/{file_name}"), "is not a name", false);
                continue;
            };
            match self.named(&name) {
                Ok(Some(node)) => {
                    self.check_unfinished(&name, &node, checked);
                    if let Some((of, label)) = name.of_snapshot()
                        && !self.is_label_noted(&of, &label)
                    {
                        let repaired = repair && self.note_label(&of, &label).is_ok();
                        let problem = format!("is not noted as a snapshot of {of}, whose list lacks it");
                        checked.add(Severity::Problem, &name, problem, repaired);
                    }
                    if !self.is_noted(&node.id, &name) {
                        let repaired = repair && self.note_name(&node.id, &name).is_ok();
                        let problem = format!("is not noted beside {}, which lists show without it", node.id);
                        checked.add(Severity::Note, &name, problem, repaired);
                    }
                    if name.is_volume() != (node.record.role == Role::Volume) {
                        let problem = "is a tree's name on a volume, or a volume's on a tree";
                        checked.add(Severity::Problem, name, problem, false);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    // A link to nothing leads to no tree: removing it loses nothing.
                    let dangling = fs::metadata(directory.join(&file_name))
                        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                    let repaired =
                        repair && dangling && files::remove_if_exists(&directory.join(&file_name))?;
                    checked.add(
                        Severity::Problem,
                        name,
                        format!("leads to nothing usable: {error:?}"),
                        repaired,
                    );
                }
            }
        }
        Ok(())
    }

    fn check_removed(&self, repair: bool, checked: &mut Checked) -> Result<()> {
        let removed = self.removed()?;
        for removed in &removed {
            checked.names += 1;
            if let Err(error) = self.node(&removed.id) {
                let repaired =
                    repair && error.kind() == ErrorKind::NotFound && self.forget_removed(removed)?;
                let problem = format!("was removed and leads to nothing usable: {error:?}");
                checked.add(Severity::Problem, &removed.name, problem, repaired);
            }
        }
        let known: HashSet<PathBuf> = removed.iter().map(|removed| self.removed_link(removed)).collect();
        let directory = self.root.join("removed");
        let removals = files::list(&directory)?.into_iter().map(|when| directory.join(when));
        for removal in removals {
            if !removal.is_dir() {
                checked.add(Severity::Problem, removal.display(), "is no removal", false);
                continue;
            }
            let links = files::list(&removal)?.into_iter().map(|name| removal.join(name));
            for place in links.filter(|place| !known.contains(place)) {
                checked.add(Severity::Problem, place.display(), "is nothing that was removed", false);
            }
        }
        Ok(())
    }

    /// Checks the links of what another program holds.
    fn check_held(&self, repair: bool, checked: &mut Checked) -> Result<()> {
        let mut keys = HashSet::new();
        let mut parents = Vec::new();
        for (link, id) in self.held_links()? {
            checked.names += 1;
            let place = format!("held/{link}");
            let record = match self.node(&id) {
                Ok(node) => node.record,
                Err(error) => {
                    // It leads to no tree: removing it loses nothing.
                    let is_gone = error.kind() == ErrorKind::NotFound;
                    let repaired = repair && is_gone && files::remove_if_exists(&self.root.join(&place))?;
                    let problem = format!("leads to nothing usable: {error:?}");
                    checked.add(Severity::Problem, place, problem, repaired);
                    continue;
                }
            };
            let Some(held) = self.held_as(&id, &record)? else {
                checked.add(
                    Severity::Problem,
                    place,
                    format!("leads to {id}, which says nothing of it"),
                    false,
                );
                continue;
            };
            if record.held.as_ref().is_some_and(|known| known.key != held.key) {
                let problem = "is a commit that was cut short: who serves containerd next finishes it";
                checked.add(Severity::Note, &id, problem, false);
            }
            parents.extend(Some((id, held.parent)).filter(|(_, parent)| !parent.is_empty()));
            keys.insert(held.key);
        }
        for (id, parent) in parents.into_iter().filter(|(_, parent)| !keys.contains(parent)) {
            checked.add(Severity::Problem, id, format!("was made on {parent:?}, which is not held"), false);
        }
        Ok(())
    }

    /// Checks the names of steps. One that is not true costs a build, and nothing else.
    fn check_steps(&self, checked: &mut Checked) -> Result<()> {
        let turns = self.idle_turns()?.into_iter().map(|(turn, _)| turn);
        for lost in self.lost_steps()?.into_iter().chain(turns) {
            let place = lost.strip_prefix(&self.root).unwrap_or(&lost).display().to_string();
            checked.add(Severity::Note, place, "is no name of a step any more: prune removes it", false);
        }
        for (name, id, _) in self.all_steps()? {
            checked.names += 1;
            match self.node(&id) {
                Ok(node) if node.record.state == State::Active => {
                    checked.add(
                        Severity::Problem,
                        name,
                        format!("leads to {id}, which is not committed"),
                        false,
                    );
                }
                // Damage is told of with the object, and what is gone above.
                _ => {}
            }
        }
        Ok(())
    }

    fn check_unfinished(&self, name: &Name, node: &Node, checked: &mut Checked) {
        if node.record.state == State::Committed && node.record.continued_by.as_ref() == Some(name) {
            checked.add(
                Severity::Note,
                name,
                "is a box whose commit was cut short: its next use finishes it",
                false,
            );
        }
    }

    fn check_node(
        &self,
        node: &Node,
        reachable: &HashSet<ObjectId>,
        repair: bool,
        checked: &mut Checked,
    ) -> Result<()> {
        let id = &node.id;
        if !reachable.contains(id) {
            checked.add(Severity::Note, id, "has no name and nothing needs it: prune removes it", false);
            return Ok(());
        }
        if let Some(parent) = &node.record.parent {
            match self.node(parent) {
                Ok(above) if above.record.state == State::Active => {
                    checked.add(
                        Severity::Problem,
                        id,
                        format!("stands on {parent}, which is not committed"),
                        false,
                    );
                }
                Ok(_) if !self.child_link(parent, id).is_symlink() => {
                    if repair {
                        self.link_child(parent, id, Durability::Synced)?;
                    }
                    checked.add(
                        Severity::Problem,
                        id,
                        format!("is not noted as a child of {parent}"),
                        repair,
                    );
                }
                Ok(_) => {}
                Err(_) if node.record.form == Form::Full => {
                    // It is whole without it; only the history is cut.
                    checked.add(
                        Severity::Problem,
                        id,
                        format!("was made from {parent}, which is gone"),
                        false,
                    );
                }
                Err(_) => {
                    checked.add(Severity::Problem, id, format!("stands on {parent}, which is gone"), false)
                }
            }
        }
        if let Some(tree) = &node.record.tree {
            self.check_shared(node, tree, repair, checked)?;
        }
        let sealed = node.record.state == State::Committed;
        let is_parted =
            node.record.form == Form::Delta && node.record.layer.is_some() && node.record.parent.is_none();
        // Such a delta is only shared, by nodes whose trees are looked at.
        let tree = if is_parted { self.own_tree(node) } else { self.tree(node) };
        let is_becoming = !sealed && self.held(node)?.is_some_and(|held| held.kind == HeldKind::Committed);
        match (tree, self.backend(node.record.backend)) {
            // Half of what seals it may be done; of that is told above.
            (Ok(_), Ok(_)) if is_becoming => {}
            (Ok(tree), Ok(backend)) => {
                for found in backend.check(&tree, sealed)? {
                    let problem = format!("{:?} {}", found.path, found.problem);
                    let repaired = repair && sealed && tree.fs().is_dir() && {
                        backend.seal(&tree)?;
                        backend.check(&tree, sealed)?.is_empty()
                    };
                    checked.add(Severity::Problem, id, problem, repaired);
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                checked.add(Severity::Problem, id, format!("{error:?}"), false)
            }
        }
        if let Err(error) = index::read(&self.object_dir(id)) {
            let rebuilt = repair && error.kind() == ErrorKind::Corrupt && self.rebuild_index(node)?;
            checked.add(Severity::Problem, id, format!("has a damaged index: {error:?}"), rebuilt);
        }
        Ok(())
    }

    /// Checks a node that has another's tree.
    fn check_shared(&self, node: &Node, tree: &ObjectId, repair: bool, checked: &mut Checked) -> Result<()> {
        let id = &node.id;
        let mut problem = |text: String, repaired| checked.add(Severity::Problem, id, text, repaired);
        match self.node(tree) {
            Err(_) => problem(format!("has the tree of {tree}, which is gone"), false),
            Ok(other) if other.record.state == State::Active => {
                problem(format!("has the tree of {tree}, which is not committed"), false);
            }
            Ok(other) if other.record.form != node.record.form => {
                problem(format!("has the tree of {tree}, which is of another form"), false);
            }
            Ok(_) if !self.child_link(tree, id).is_symlink() => {
                if repair {
                    self.link_child(tree, id, Durability::Synced)?;
                }
                problem(format!("is not noted beside {tree}, whose tree it has"), repair);
            }
            Ok(_) => {}
        }
        if self.object_dir(id).join(FS).symlink_metadata().is_ok() {
            problem(format!("has the tree of {tree}, and one of its own"), false);
        }
        Ok(())
    }

    fn rebuild_index(&self, node: &Node) -> Result<bool> {
        if node.record.form == Form::Delta {
            return files::remove_if_exists(&self.object_dir(&node.id).join("index"));
        }
        let slot = self.object_dir(&node.id);
        index::write(&slot, &Index::build(&slot.join(FS))?)?;
        Ok(true)
    }

    /// Compares a tree with its index; one that is not there was told of.
    fn check_content(&self, node: &Node, checked: &mut Checked) -> Result<()> {
        let Ok(Some(paths)) = self.damaged_paths(node) else { return Ok(()) };
        checked.verified += 1;
        let (was, repairs) = match &node.record.layer {
            Some(_) => ("unpacked", ": `rootling verify --repair` unpacks it again"),
            None => ("imported", ""),
        };
        for path in paths {
            let problem = format!("{path:?} is not what was {was}{repairs}");
            checked.add(Severity::Problem, &node.id, problem, false);
        }
        Ok(())
    }

    /// Checks that the documents of images are there, and with `verify` every byte of every blob. A layer's blob that is damaged is removed
    /// by a repair: the layer is there as a tree, and what was pushed can be pushed again.
    fn check_blobs(&self, nodes: &[Node], repair: bool, verify: bool, checked: &mut Checked) -> Result<()> {
        for node in nodes {
            for digest in node.record.image.iter().flat_map(Image::documents) {
                if self.blob_size(digest)?.is_none() {
                    let problem = format!("is an image whose document {digest} is gone");
                    checked.add(Severity::Problem, &node.id, problem, false);
                }
            }
        }
        let documents: HashSet<&Digest> =
            nodes.iter().filter_map(|node| node.record.image.as_ref()).flat_map(Image::documents).collect();
        for (digest, _) in self.all_blobs()? {
            checked.blobs += 1;
            if verify && self.verify_blob(&digest).is_err() {
                let repaired = repair && !documents.contains(&digest) && self.remove_damaged_blob(&digest)?;
                checked.add(Severity::Problem, &digest, "is a blob that is not what its name says", repaired);
            }
        }
        Ok(())
    }

    /// Checks that what was pushed can be read and has its blobs. Those of what was fetched come when they are asked for.
    fn check_repositories(&self, checked: &mut Checked) -> Result<()> {
        for name in self.repositories()? {
            let repository = self.repository(&name)?;
            for digest in repository.manifests()? {
                let object = format!("{name}@{digest}");
                let read = repository.manifest(&digest).and_then(|pushed| {
                    Ok((repository.document(&digest)?, pushed.is_some_and(|pushed| pushed.from.is_some())))
                });
                let (document, is_fetched) = match read {
                    Ok(read) => read,
                    Err(error) => {
                        let problem = format!("was pushed and cannot be read: {error:?}");
                        checked.add(Severity::Problem, object, problem, false);
                        continue;
                    }
                };
                let is_elsewhere =
                    |blob: &Descriptor| media_type::is_foreign(&blob.media_type) || !blob.urls.is_empty();
                for blob in document.children().into_iter().filter(|blob| !is_fetched && !is_elsewhere(blob))
                {
                    if self.blob_size(&blob.digest)?.is_none() {
                        let problem = format!("was pushed and lacks blob {}: push it again", blob.digest);
                        checked.add(Severity::Problem, &object, problem, false);
                    }
                }
            }
        }
        Ok(())
    }

    fn check_hints(&self, checked: &mut Checked) -> Result<()> {
        for path in self.lost_hints()? {
            checked.add(Severity::Note, path.display(), "was left behind: prune removes it", false);
        }
        Ok(())
    }

    fn check_slots(&self, checked: &mut Checked) {
        let below = WalkDir::new(self.root.join("o")).min_depth(2).max_depth(2);
        for entry in below.into_iter().filter_map(|entry| entry.ok()) {
            let name = entry.file_name().to_string_lossy();
            let known = KNOWN.contains(&name.as_ref());
            let path: PathBuf =
                entry.path().components().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
            if files::is_leftover(&name) || MOMENTARY.contains(&name.as_ref()) {
                checked.add(Severity::Note, path.display(), "was left behind by a crash", false);
            } else if !known {
                checked.add(Severity::Problem, path.display(), "is nothing that belongs there", false);
            }
        }
    }
}
