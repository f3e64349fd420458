//! Names of steps: links from what a step depends on to its node.
//!
//! ```text
//! steps/<hex of the key>             a step that is on disk
//! steps/failed-<when>-<id>           a step that failed; <when> in microseconds, sixteen digits, so that the latest is the last
//! steps/<boot id>/<either>           the same, tentative: true until the machine starts again
//! ```
//!
//! Only the last part of a link's target counts. A link that leads to nothing counts for nothing. The time of a link says when the step
//! was last used, to the day.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::UtimensatFlags;
use nix::sys::time::TimeSpec;
use rootling_backends::{Context, Dir, Error, ErrorKind, Result, fence};

use super::super::{Node, ObjectId, State, Store, fault, files};
use crate::image::Digest;

/// How the names of steps that failed begin.
const FAILED: &str = "failed-";

/// How many failures are kept.
const KEPT_FAILURES: usize = 5;

/// How often a use is noted at most.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    fn steps_dir(&self) -> PathBuf {
        self.root.join("steps")
    }

    /// Returns the directory of the names that are true until the machine starts again.
    fn tentative_dir(&self) -> Result<PathBuf> {
        Ok(self.steps_dir().join(boot_id()?))
    }

    pub(super) fn step_link(&self, key: &Digest) -> PathBuf {
        self.steps_dir().join(key.hex())
    }

    pub(super) fn tentative_link(&self, key: &Digest) -> Result<PathBuf> {
        Ok(self.tentative_dir()?.join(key.hex()))
    }

    /// Returns the node that a link leads to, if there is one that is whole, and notes that it was used.
    pub(super) fn step_at(&self, link: &Path) -> Result<Option<Node>> {
        let Some(id) = target(link)? else { return Ok(None) };
        match self.node(&id) {
            Ok(node) if node.record.state == State::Committed => {
                note_use(link);
                Ok(Some(node))
            }
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                log::debug!("{link:?} leads to nothing: {error:?}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a node that was just made its tentative name. Where another has the name, that is returned, and ours goes. The caller holds the
    /// store's lock.
    pub(super) fn name_step(&self, key: &Digest, node: Node) -> Result<Node> {
        let link = self.tentative_link(key)?;
        let linked = self.link_tentative(&link, &node.id);
        fault::point("step.named");
        let Err(error) = linked else { return Ok(node) };
        if error.kind() != ErrorKind::AlreadyExists {
            return Err(error);
        }
        match self.step_at(&link)? {
            Some(other) => {
                self.discard(&node.id, node.record.parent.as_ref(), None)?;
                self.empty_trash()?;
                Ok(other)
            }
            None => {
                files::link_over(&target_of(&node.id), &link)?;
                Ok(node)
            }
        }
    }

    /// Makes a key lead to this node, whatever it led to.
    pub(super) fn rename_step(&self, key: &Digest, node: &Node) -> Result<()> {
        let link = self.tentative_link(key)?;
        match self.link_tentative(&link, &node.id) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                files::link_over(&target_of(&node.id), &link)?;
            }
            linked => linked?,
        }
        fault::point("step.renamed");
        // The lasting name is looked at first.
        files::remove_if_exists(&self.step_link(key)).map(drop)
    }

    /// Notes that a second key leads to a step: what it read was the same, by another way. A key that leads somewhere stays.
    pub fn note_alias(&self, key: &Digest, node: &Node) -> Result<()> {
        let intent = || format!("note {} as a key of step {}", key.short(), node.id);
        let _lock = self.share_to_write().context(intent)?;
        if self.step(key).context(intent)?.is_some() {
            return Ok(());
        }
        let link = self.tentative_link(key).context(intent)?;
        match self.link_tentative(&link, &node.id) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                files::link_over(&target_of(&node.id), &link).context(intent)
            }
            linked => linked.context(intent),
        }
    }

    pub(super) fn name_failure(&self, node: &Node) -> Result<()> {
        let when = node.record.created.as_microsecond();
        let link = self.tentative_dir()?.join(format!("{FAILED}{when:016}-{}", node.id));
        self.link_tentative(&link, &node.id)?;
        fault::point("step.failed");
        Ok(())
    }

    fn link_tentative(&self, link: &Path, id: &ObjectId) -> Result<()> {
        match files::link_new(&target_of(id), link) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                files::make_dir(&self.steps_dir())?;
                files::make_dir(&self.tentative_dir()?)?;
                files::link_new(&target_of(id), link)
            }
            linked => linked,
        }
    }

    /// Makes all steps that were done, and noted, durable, and their names lasting: with one sync, and none where there is nothing new. For
    /// the end of a build, however it ends. A kill leaves names that are tentative still.
    pub fn settle_steps(&self) -> Result<()> {
        let intent = || "make the steps of a build durable";
        let directory = self.tentative_dir().context(intent)?;
        // Before the sync: what is named later may not be covered by it.
        let names = files::list(&directory).context(intent)?;
        if names.is_empty() {
            return Ok(());
        }
        let _lock = self.share_to_write().context(intent)?;
        Dir::open(self.root.join("o")).and_then(|dir| dir.sync_file_system()).context(intent)?;
        fault::point("steps.synced");
        for name in names.iter().filter(|name| !files::is_leftover(name)) {
            self.settle_name(&directory.join(name), &self.steps_dir().join(name)).context(intent)?;
            fault::point("steps.settled");
        }
        files::sync_dir(&self.steps_dir()).context(intent)?;
        fault::point("steps.done");
        Ok(())
    }

    fn settle_name(&self, tentative: &Path, lasting: &Path) -> Result<()> {
        match files::rename_new(tentative, lasting) {
            // Another build was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if self.step_at(lasting)?.is_some() {
                    return files::remove_if_exists(tentative).map(drop);
                }
                match fs::rename(tentative, lasting) {
                    Err(error) if error.kind() == IoKind::NotFound => Ok(()),
                    renamed => renamed.context(|| format!("rename({tentative:?}, {lasting:?})")),
                }
            }
            renamed => renamed,
        }
    }

    /// Makes durable what a record is about to stand on, where that is a step whose build has not ended.
    pub(in super::super) fn settle_needed<'a>(
        &self,
        mut needed: impl Iterator<Item = &'a ObjectId>,
    ) -> Result<()> {
        let directory = self.tentative_dir()?;
        let names = files::list(&directory)?;
        if names.is_empty() {
            return Ok(());
        }
        let unsettled: Vec<ObjectId> =
            names.iter().filter_map(|name| target(&directory.join(name)).ok().flatten()).collect();
        if needed.any(|id| unsettled.contains(id)) { self.settle_steps() } else { Ok(()) }
    }

    /// Returns the links to the steps that failed, the latest first.
    pub(super) fn failure_links(&self) -> Result<Vec<PathBuf>> {
        let mut links = Vec::new();
        for directory in [self.steps_dir(), self.tentative_dir()?] {
            let names = files::list_where(&directory, |name| name.starts_with(FAILED))?.into_iter();
            links.extend(names.map(|name| directory.join(name)));
        }
        links.sort_by(|one, other| other.file_name().cmp(&one.file_name()));
        Ok(links)
    }

    /// Lets the older failures go.
    pub(super) fn let_failures_go(&self) -> Result<()> {
        for link in self.failure_links()?.into_iter().skip(KEPT_FAILURES) {
            let id = target(&link)?;
            files::remove_if_exists(&link)?;
            fault::point("step.forgot");
            let Some(id) = id else { continue };
            // Best effort: what uses it keeps it; else the sweep finds it.
            if let Some((node, alone)) = self.unneeded(&id)? {
                self.discard(&node.id, node.record.parent.as_ref(), Some(alone))?;
            }
        }
        Ok(())
    }

    /// Returns every name of a step that is true, and what it leads to, if anything.
    pub(in super::super) fn step_links(&self) -> Result<Vec<(PathBuf, ObjectId)>> {
        let mut links = Vec::new();
        for directory in [self.steps_dir(), self.tentative_dir()?] {
            for name in files::list(&directory)?.into_iter().filter(|name| !files::is_leftover(name)) {
                let link = directory.join(name);
                // Directories stand among them, and somebody may remove one at this moment.
                if let Ok(Some(id)) = target(&link) {
                    links.push((link, id));
                }
            }
        }
        Ok(links)
    }

    /// Does a name of a step lead to this object? O(names of steps).
    pub(in super::super) fn is_step(&self, id: &ObjectId) -> Result<bool> {
        Ok(self.step_links()?.iter().any(|(_, target)| target == id))
    }
}

/// Returns the machine's present boot id, read once.
fn boot_id() -> Result<&'static str> {
    static READ: OnceLock<String> = OnceLock::new();
    if let Some(known) = READ.get() {
        return Ok(known);
    }
    let read = fence::boot_id()?;
    Ok(READ.get_or_init(|| read))
}

fn target_of(id: &ObjectId) -> String {
    format!("../o/{id}")
}

/// Returns the object that a link leads to; `None` where there is no link.
fn target(link: &Path) -> Result<Option<ObjectId>> {
    match fs::read_link(link) {
        Ok(target) => {
            Ok(target.file_name().and_then(|id| id.to_str()).and_then(|id| ObjectId::parse(id).ok()))
        }
        Err(error) if error.kind() == IoKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("readlink({link:?})"), error)),
    }
}

/// Sets the time of a link, unless that was done today.
fn note_use(link: &Path) {
    let noted = fs::symlink_metadata(link).and_then(|found| found.modified());
    let is_old = |noted: SystemTime| noted.elapsed().is_ok_and(|age| age > A_DAY);
    if !noted.is_ok_and(is_old) {
        return;
    }
    let now = TimeSpec::UTIME_NOW;
    // Best effort: a step that is thought to be older than it is goes earlier.
    if let Err(error) = nix::sys::stat::utimensat(AT_FDCWD, link, &now, &now, UtimensatFlags::NoFollowSymlink)
    {
        log::debug!("utimensat({link:?}): {error}");
    }
}
