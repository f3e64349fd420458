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
//!
//! Tentative names are made, replaced and made lasting by one process at a time: the lock of their directory. So what becomes lasting is what
//! the sync before it covered, and a step that was just named is nobody else's.

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
        let Some(other) = self.name_unless_named(key, &node.id)? else { return Ok(node) };
        self.discard(&node.id, node.record.parent.as_ref(), None)?;
        self.empty_trash()?;
        Ok(other)
    }

    /// Gives a node a tentative name, or returns the step that the key leads to.
    fn name_unless_named(&self, key: &Digest, id: &ObjectId) -> Result<Option<Node>> {
        let _names = self.lock_tentative()?;
        // The end of another build may have made the name of its step lasting since the caller looked.
        if let Some(other) = self.step(key)? {
            return Ok(Some(other));
        }
        self.link_tentative(&self.tentative_link(key), id)?;
        fault::point("step.named");
        Ok(None)
    }

    /// Makes a key lead to this node, whatever it led to.
    pub(super) fn rename_step(&self, key: &Digest, node: &Node) -> Result<()> {
        let _names = self.lock_tentative()?;
        self.link_tentative(&self.tentative_link(key), &node.id)?;
        fault::point("step.renamed");
        // The lasting name is looked at first.
        files::remove_if_exists(&self.step_link(key)).map(drop)
    }

    /// Notes that a second key leads to a step: what it read was the same, by another way. A key that leads somewhere stays.
    pub fn note_alias(&self, key: &Digest, node: &Node) -> Result<()> {
        let intent = || format!("note {} as a key of step {}", key.short(), node.id);
        let _lock = self.share_to_write().context(intent)?;
        self.name_unless_named(key, &node.id).map(drop).context(intent)
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
        let _names = self.lock_tentative()?;
        self.link_tentative(&link, &node.id)?;
        fault::point("step.failed");
        Ok(())
    }

    /// Keeps others from making tentative names, and from making them lasting.
    fn lock_tentative(&self) -> Result<File> {
        let directory = self.tentative_dir();
        let lock = || lock::lock_dir(&directory, lock::Mode::Exclusive, "the names of steps");
        match lock() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                files::make_dir(&self.steps_dir())?;
                files::make_dir(&directory)?;
                lock()
            }
            locked => locked,
        }
    }

    /// Makes a tentative name, in place of whatever it led to. The caller has locked the names.
    fn link_tentative(&self, link: &Path, id: &ObjectId) -> Result<()> {
        match files::link_new(&target_of(id), link) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => files::link_over(&target_of(id), link),
            linked => linked,
        }
    }

    /// Returns the tentative names, and what each leads to.
    fn tentative_names(&self) -> Result<Vec<(String, ObjectId)>> {
        let directory = self.tentative_dir();
        let mut names = Vec::new();
        for name in files::list(&directory)?.into_iter().filter(|name| !files::is_leftover(name)) {
            // Another process may have made it lasting since.
            let id = target(&directory.join(&name))?;
            names.extend(id.map(|id| (name, id)));
        }
        Ok(names)
    }

    /// Makes all steps that were done, and noted, durable, and their names lasting: with one sync, and none where there is nothing new. For
    /// the end of a build, however it ends. A kill leaves names that are tentative still.
    pub fn settle_steps(&self) -> Result<()> {
        let intent = || "make the steps of a build durable";
        // Before the sync: what is named later, or leads elsewhere by then, may not be covered by it.
        let names = self.tentative_names().context(intent)?;
        if names.is_empty() {
            return Ok(());
        }
        let _lock = self.share_to_write().context(intent)?;
        Dir::open(self.root.join("o")).and_then(|dir| dir.sync_file_system()).context(intent)?;
        fault::point("steps.synced");
        let _names = self.lock_tentative().context(intent)?;
        for (name, id) in &names {
            self.settle_name(name, id).context(intent)?;
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

    /// Makes a name lasting that still leads to what was synced. The caller has locked the names.
    fn settle_name(&self, name: &str, id: &ObjectId) -> Result<()> {
        let (tentative, lasting) = (self.tentative_dir().join(name), self.steps_dir().join(name));
        files::remove_if_exists(&self.object_dir(id).join(UNSETTLED))?;
        // Another build was faster, or has something else for the name, and settles that.
        if target(&tentative)?.as_ref() != Some(id) {
            return Ok(());
        }
        if self.step_at(&lasting)?.is_some() {
            return files::remove_if_exists(&tentative).map(drop);
        }
        fs::rename(&tentative, &lasting).context(|| format!("rename({tentative:?}, {lasting:?})"))
    }

    /// Makes durable what a record is about to stand on, where that is a step whose build has not ended.
    pub(in super::super) fn settle_needed<'a>(
        &self,
        mut needed: impl Iterator<Item = &'a ObjectId>,
    ) -> Result<()> {
        let unsettled = self.tentative_names()?;
        let is_unsettled = |needed: &ObjectId| unsettled.iter().any(|(_, id)| id == needed);
        if needed.any(is_unsettled) { self.settle_steps() } else { Ok(()) }
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
        for (turn, _alone) in self.idle_turns()? {
            files::remove_if_exists(&turn)?;
            fault::point("prune.turn");
        }
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
        let mut lost = Vec::new();
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
