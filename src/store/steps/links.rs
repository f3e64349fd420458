//! Names of steps: links from what a step depends on to its node.
//!
//! ```text
//! steps/<hex of the key>             a step that is on disk
//! steps/failed-<when>-<id>           a step that failed; <when> in microseconds, sixteen digits, so that the latest is the last
//! steps/<boot id>/<either>           the same, tentative: true until the machine starts again
//! ```
//!
//! An object that is not known to be on disk has a mark beside its record, `unsettled`, whose target is the boot id: where its record turns out to
//! be damaged after a power cut, nothing is lost that anybody was told of. The mark says nothing else.
//!
//! Only the last part of a link's target counts. A link that leads to nothing counts for nothing. The time of a link says when the step
//! was last used, to the day.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::UtimensatFlags;
use nix::sys::time::TimeSpec;
use rayon::prelude::*;
use rootling_backends::{Context, Dir, Error, ErrorKind, Result, fence};

use super::super::{Name, Node, ObjectId, State, Store, fault, files, lock};
use crate::image::Digest;

/// Marks an object that was published without a sync.
const UNSETTLED: &str = "unsettled";

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
    fn tentative_dir(&self) -> PathBuf {
        self.steps_dir().join(boot_id())
    }

    pub(super) fn step_link(&self, key: &Digest) -> PathBuf {
        self.steps_dir().join(key.hex())
    }

    pub(super) fn tentative_link(&self, key: &Digest) -> PathBuf {
        self.tentative_dir().join(key.hex())
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
        let link = self.tentative_link(key);
        let linked = self.link_tentative(&link, &node.id);
        fault::point("step.named");
        let other = match linked {
            // The end of another build may have made the name of its step lasting, and so the tentative one free, since we looked.
            Ok(()) => match self.step_at(&self.step_link(key))? {
                Some(other) => {
                    files::remove_if_exists(&link)?;
                    Some(other)
                }
                None => return Ok(node),
            },
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Err(_) => self.step_at(&link)?,
        };
        match other {
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
        let link = self.tentative_link(key);
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
        let link = self.tentative_link(key);
        match self.link_tentative(&link, &node.id) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                files::link_over(&target_of(&node.id), &link).context(intent)
            }
            linked => linked.context(intent),
        }
    }

    /// As [`note_alias`](Self::note_alias), where what the key leads to is not what is wanted any more.
    pub fn renew_alias(&self, key: &Digest, node: &Node) -> Result<()> {
        let intent = || format!("note {} as a key of step {}", key.short(), node.id);
        let _lock = self.share_to_write().context(intent)?;
        self.rename_step(key, node).context(intent)
    }

    pub(super) fn name_failure(&self, node: &Node) -> Result<()> {
        let when = node.record.created.as_microsecond();
        let link = self.tentative_dir().join(format!("{FAILED}{when:016}-{}", node.id));
        self.link_tentative(&link, &node.id)?;
        fault::point("step.failed");
        Ok(())
    }

    fn link_tentative(&self, link: &Path, id: &ObjectId) -> Result<()> {
        match files::link_new(&target_of(id), link) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                files::make_dir(&self.steps_dir())?;
                files::make_dir(&self.tentative_dir())?;
                files::link_new(&target_of(id), link)
            }
            linked => linked,
        }
    }

    /// Makes all steps that were done, and noted, durable, and their names lasting: with one sync, and none where there is nothing new. For
    /// the end of a build, however it ends. A kill leaves names that are tentative still.
    pub fn settle_steps(&self) -> Result<()> {
        let intent = || "make the steps of a build durable";
        let directory = self.tentative_dir();
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

    /// Was the object never known to be on disk, and the machine has started again since?
    pub(in super::super) fn was_cut_off(&self, id: &ObjectId) -> bool {
        let mark = fs::read_link(self.object_dir(id).join(UNSETTLED));
        mark.is_ok_and(|boot| boot != Path::new(boot_id()))
    }

    fn settle_name(&self, tentative: &Path, lasting: &Path) -> Result<()> {
        if let Some(id) = target(tentative)? {
            files::remove_if_exists(&self.object_dir(&id).join(UNSETTLED))?;
        }
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
        let directory = self.tentative_dir();
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
        for directory in [self.steps_dir(), self.tentative_dir()] {
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
        for directory in [self.steps_dir(), self.tentative_dir()] {
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

    /// Returns all names of steps that are true, what each leads to, and when a build used it last.
    pub(in super::super) fn all_steps(&self) -> Result<Vec<(Name, ObjectId, Timestamp)>> {
        let links = self.step_links()?.into_iter();
        Ok(links
            .filter_map(|(link, id)| {
                let name = Name::of_step(link.file_name()?.to_str()?).ok()?;
                let used = fs::symlink_metadata(&link).and_then(|found| found.modified()).ok()?;
                Some((name, id, Timestamp::try_from(used).ok()?))
            })
            .collect())
    }

    /// Returns the steps of builds that can be found, each with the time when a build used it last; those that failed are among them. O(steps).
    pub fn steps_of_builds(&self) -> Result<Vec<(Node, Timestamp)>> {
        let _lock = self.share()?;
        let mut used: BTreeMap<ObjectId, Timestamp> = BTreeMap::new();
        for (_, id, time) in self.all_steps()? {
            let known = used.entry(id).or_insert(time);
            *known = time.max(*known);
        }
        let read = used.into_par_iter().filter_map(|(id, used)| match self.node(&id) {
            Ok(node) => Some(Ok((node, used))),
            // What leads to nothing is no step.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => None,
            Err(error) => Some(Err(error)),
        });
        read.collect()
    }

    /// Says that a build runs, as long as what is returned is kept: no step of any build is let go meanwhile.
    pub fn begin_build(&self) -> Result<File> {
        self.share_to_write()?;
        files::make_dir(&self.steps_dir())?;
        lock::lock_dir(&self.steps_dir(), lock::Mode::Shared, "the steps of builds")
    }

    /// Returns the right to let steps go; `None` while a build runs, or where there never was one.
    pub(in super::super) fn no_build_runs(&self) -> Result<Option<File>> {
        if !self.steps_dir().exists() {
            return Ok(None);
        }
        let alone = lock::try_lock_dir(&self.steps_dir(), lock::Mode::Exclusive)?;
        if alone.is_none() {
            log::warn!("a build runs: no step of a build is let go meanwhile");
        }
        Ok(alone)
    }

    /// Lets a name of a step go, unless it leads elsewhere by now, somebody uses the step right now, or a build runs.
    pub(in super::super) fn forget_step(&self, name: &Name, id: &ObjectId) -> Result<bool> {
        let Some(_alone) = lock::try_lock_dir(&self.steps_dir(), lock::Mode::Exclusive)? else {
            return Ok(false);
        };
        let link = self.name_link(name);
        let slot = self.object_dir(id);
        let is_used = slot.exists() && lock::try_lock_dir(&slot, lock::Mode::Exclusive)?.is_none();
        if is_used || target(&link)?.as_ref() != Some(id) {
            return Ok(false);
        }
        files::remove_if_exists(&link)
    }

    /// Removes the names of steps that are not true: those of the time before the machine last started, those that lead to nothing, and what
    /// a kill left. The caller holds the store alone.
    pub(in super::super) fn sweep_steps(&self) -> Result<()> {
        for lost in self.lost_steps()? {
            if lost.is_dir() && !lost.is_symlink() {
                fs::remove_dir_all(&lost).context(|| format!("remove {lost:?}"))?;
            } else {
                files::remove_if_exists(&lost)?;
            }
            fault::point("prune.step");
        }
        Ok(())
    }

    /// Returns the names of steps that are not true, directories of them included. The caller holds the store alone.
    pub(in super::super) fn lost_steps(&self) -> Result<Vec<PathBuf>> {
        let mut lost = self.idle_turns()?;
        let ours = [self.tentative_dir(), self.notes_dir(), self.turns_dir()];
        for directory in [self.steps_dir(), self.tentative_dir(), self.notes_dir()] {
            for name in files::list(&directory)? {
                let path = directory.join(&name);
                let is_lost = if files::is_leftover(&name) {
                    true
                } else if path.is_symlink() {
                    target(&path)?.is_none_or(|id| !self.object_dir(&id).exists())
                } else {
                    directory == self.steps_dir() && !ours.contains(&path)
                };
                if is_lost {
                    lost.push(path);
                }
            }
        }
        Ok(lost)
    }

    /// Does a name of a step lead to this object? O(names of steps).
    pub(in super::super) fn is_step(&self, id: &ObjectId) -> Result<bool> {
        Ok(self.step_links()?.iter().any(|(_, target)| target == id))
    }
}

/// Returns the machine's present boot id, read once. Where it cannot be read, what this process does is true for this process.
fn boot_id() -> &'static str {
    static READ: OnceLock<String> = OnceLock::new();
    READ.get_or_init(|| fence::boot_id().unwrap_or_else(|_| format!("process-{}", std::process::id())))
}

/// Notes in a draft that nothing of it is on disk for sure.
pub(super) fn mark_unsettled(slot: &Path) -> Result<()> {
    files::link_new(boot_id(), &slot.join(UNSETTLED))
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
