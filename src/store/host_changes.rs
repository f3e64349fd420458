//! What was done in a fork of the running machine, done to the machine itself, and taken back.
//!
//! Before anything of the machine is touched, what stands at each path that is about to change is copied into a committed node
//! called `host@N`, and a journal beside that says what will be done. A kill in the middle leaves some paths changed and a journal
//! that says so: [`undo_host`](Store::undo_host) brings all of them back. What it takes away it keeps in the same manner.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;
use rootling_backends::compare::{added_recursively, sort};
use rootling_backends::entry::CloneMode;
use rootling_backends::patch::patch;
use rootling_backends::replicate::Options;
use rootling_backends::{
    Aspects, Change, ChangeKind, Context, Dir, EntryType, Error, ErrorKind, FS, Result, mount_table,
};
use serde::{Deserialize, Serialize};

use super::draft::Ephemeral;
use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Cause, Label, Name, Node, ObjectId, Record, State, Store, fault, host};

/// The journal, in the object's directory.
const JOURNAL: &str = "host.json";

/// What the nodes are called that hold what the machine had.
const HOST: &str = "host";

/// Bytes in the largest journal that is read.
const LIMIT: u64 = 1 << 30;

/// How much earlier than a fork's record something may have been written that the fork has not seen: the kernel's clock for files
/// moves in steps.
const BLUR_NS: i128 = 20_000_000;

/// Why some changes cannot be applied to the machine as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostReview {
    /// Paths that lie on other file systems than the root, or hold one: never applied.
    pub mounted: Vec<PathBuf>,
    /// Paths that somebody has changed on the machine since it was forked: what they wrote would be replaced.
    pub changed: Vec<PathBuf>,
}

/// What undoing did.
#[derive(Debug, Clone)]
pub struct HostUndone {
    /// What the machine was brought back to.
    pub node: Node,
    /// What was taken away for that.
    pub kept: Node,
    /// How many paths changed.
    pub paths: usize,
}

/// How far the changes of a journal have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Progress {
    /// Some may have been made.
    Begun,
    /// All were made.
    Applied,
    /// They were taken back.
    Undone,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journal {
    progress: Progress,
    /// Whose changes these took back.
    undoes: Option<ObjectId>,
    /// Parents first.
    paths: Vec<Touched>,
}

/// A path that was changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Touched {
    /// Bytes: file names need not be text.
    path: Vec<u8>,
    /// What was there; nothing, where it was added.
    was: Option<EntryType>,
    /// Did all that was below go as well?
    replaced: bool,
    /// What was put there: inode and change time. Known once all is done.
    now: Option<(u64, i64, i64)>,
}

impl Touched {
    fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }
}

/// Returns what is at a path, not following links; `None` where there is nothing.
fn look(root: &Dir, path: &Path) -> Result<Option<FileStat>> {
    let Some(name) = path.file_name() else { return root.stat_self().map(Some) };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match root.open_beneath(parent, OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Ok(fd) => Dir::from_fd(fd, root.path().join(parent)).stat_if_exists(name),
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Does what stands below go with the change?
fn replaces(change: &Change) -> bool {
    change.kind == ChangeKind::Deleted || change.aspects.kind
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

impl Store {
    /// Returns what stands in the way of applying the changes of a fork of the machine.
    pub fn review_host(&self, fork: &Ephemeral, changes: &[Change]) -> Result<HostReview> {
        let root = Dir::open(host::root())?;
        let mounts = mount_table::read()?;
        let places: Vec<&Path> = mounts
            .iter()
            .filter_map(|mounted| mounted.place.strip_prefix("/").ok())
            .filter(|place| !place.as_os_str().is_empty())
            .collect();
        let elapsed = i128::try_from(fork.record.cost.elapsed.as_nanos()).unwrap_or(0);
        let forked = fork.record.created.as_nanosecond() - elapsed - BLUR_NS;
        let mut review = HostReview::default();
        for change in changes {
            let path = &change.path;
            let on_mount =
                |place: &&Path| path.starts_with(place) || replaces(change) && place.starts_with(path);
            if places.iter().any(on_mount) {
                review.mounted.push(path.clone());
            } else if self.has_changed_since(&root, change, forked)? {
                review.changed.push(path.clone());
            }
        }
        Ok(review)
    }

    /// Was something written at the path of a change after a moment?
    fn has_changed_since(&self, root: &Dir, change: &Change, then: i128) -> Result<bool> {
        let later = |stat: &FileStat| nanoseconds(stat.st_ctime, stat.st_ctime_nsec) >= then;
        let Some(stat) = look(root, &change.path)? else {
            // Somebody else has deleted what was changed here; what both deleted is no conflict.
            return Ok(change.kind == ChangeKind::Modified);
        };
        if EntryType::of_mode(stat.st_mode) != EntryType::Directory {
            return Ok(later(&stat));
        }
        if !replaces(change) {
            // Its own time moves with every name in it.
            return Ok(change.kind == ChangeKind::Added && change.entry_type != EntryType::Directory);
        }
        let mut below = added_recursively(root, &change.path)?.into_iter();
        below.try_fold(false, |found, entry| {
            Ok(found || look(root, &entry.path)?.is_some_and(|stat| later(&stat)))
        })
    }

    /// Makes the machine, at these paths, what a fork of it is; returns the node that holds what was there.
    ///
    /// What is mounted in the way is an error of kind `Busy` before anything is touched. Durable on return; after a kill some paths
    /// are changed, and [`undo_host`](Self::undo_host) brings all of them back. Costs a copy of what is replaced, cloned where that
    /// can be, and of what replaces it.
    pub fn apply_to_host(&self, fork: &Ephemeral, changes: &[Change], message: &str) -> Result<Node> {
        let intent = || "apply the changes to host:/".to_owned();
        let _lock = self.share_to_write().context(intent)?;
        let _host = self.lock_host().context(intent)?;
        let source = self.backend(fork.record.backend)?.open_root(&fork.tree).context(intent)?;
        self.change_host(&source, changes, message, None).context(intent)
    }

    /// Takes back what was last applied to the machine, or what of it a kill left.
    ///
    /// A path that somebody has changed since is an error of kind `FailedPrecondition`, unless `force`; nothing to take back is one of
    /// kind `NotFound`. What is taken away is kept as the next `host@N`. A second call takes back what was applied before that.
    pub fn undo_host(&self, force: bool) -> Result<HostUndone> {
        let intent = || "undo the last changes of host:/".to_owned();
        let _lock = self.share_to_write().context(intent)?;
        // Before we look which changes are the last: whoever undoes at the same time takes back those before them.
        let _host = self.lock_host().context(intent)?;
        let (node, journal) = self.last_applied().context(intent)?;
        let root = Dir::open(host::root()).context(intent)?;
        let changed = changed_since(&root, &journal).context(intent)?;
        if let Some(first) = changed.first().filter(|_| !force) {
            let message =
                format!("/{} and {} more paths have changed since", first.display(), changed.len() - 1);
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint("--force brings them back all the same, and keeps what is there now"))
            .context(intent);
        }
        let before = self.open_root(&node).context(intent)?;
        let changes = inverse(&journal, &before, &root).context(intent)?;
        let message = format!("before undo of {}", node.label());
        let kept = self.change_host(&before, &changes, &message, Some(&node.id)).context(intent)?;
        let undone = Journal { progress: Progress::Undone, ..journal };
        undone.write(&self.object_dir(&node.id)).context(intent)?;
        fault::point("host.undone");
        Ok(HostUndone { node, kept, paths: changes.len() })
    }

    fn lock_host(&self) -> Result<std::fs::File> {
        lock::lock_file(&self.root.join("host"), Mode::Exclusive, "host:/")
    }

    /// Keeps what is there, then changes the machine. The caller holds the lock of the host.
    fn change_host(
        &self,
        source: &Dir,
        changes: &[Change],
        message: &str,
        undoes: Option<&ObjectId>,
    ) -> Result<Node> {
        let root = Dir::open(host::root())?;
        let mut paths = Vec::with_capacity(changes.len());
        for change in changes {
            let was = look(&root, &change.path)?.map(|stat| EntryType::of_mode(stat.st_mode));
            let path = change.path.as_os_str().as_bytes().to_vec();
            paths.push(Touched { path, was, replaced: replaces(change), now: None });
        }
        let mut journal = Journal { progress: Progress::Begun, undoes: undoes.cloned(), paths };
        let kept = self.keep_host(&root, &journal, message)?;
        let slot = self.object_dir(&kept.id);
        fault::point("host.kept");
        let name = self.name_host(&kept.id)?;
        fault::point("host.named");
        patch(changes, source, &root, &Options::from(CloneMode::Auto)).map_err(|error| {
            error.hint("some paths may be changed: rootling undo host:/ brings them back")
        })?;
        fault::point("host.patched");
        root.sync_file_system()?;
        fault::point("host.synced");
        journal.progress = Progress::Applied;
        for touched in &mut journal.paths {
            touched.now = look(&root, touched.path())?.as_ref().map(mark);
        }
        journal.write(&slot)?;
        fault::point("host.applied");
        Ok(Node { name: Some(name), ..kept })
    }

    /// Makes a node of what the machine has at the paths of a journal, with that beside it.
    fn keep_host(&self, root: &Dir, journal: &Journal, message: &str) -> Result<Node> {
        let kind = self.default_backend();
        let draft = self.draft()?;
        self.backend(kind)?.create(&draft.slot)?;
        let kept = Dir::open(draft.slot.join(FS))?;
        let cost = patch(&present(root, journal)?, root, &kept, &Options::from(CloneMode::Auto))?;
        fault::point("host.copied");
        journal.write(&draft.slot)?;
        let record = Record {
            source: Some("host:/".to_owned()),
            message: Some(message.to_owned()),
            cause: Cause::Safety,
            cost,
            ..Record::new(draft.id.clone(), kind, State::Committed)
        };
        self.seal_and_publish(draft, record, None, false)
    }

    /// Gives the node the next number. Durable on return.
    fn name_host(&self, id: &ObjectId) -> Result<Name> {
        let host = Name::parse(HOST)?;
        let labels = self.labels(&host)?.into_iter();
        let mut number = labels.filter_map(|label| label.as_str().parse::<u32>().ok()).max().unwrap_or(0);
        loop {
            number = number.saturating_add(1);
            let name = host.snapshot(&Label::numbered(number))?;
            match self.link_name(&name, id) {
                // A box may be called so, too.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => {
                    linked?;
                    files::sync_dir(&self.root.join("n"))?;
                    return Ok(name);
                }
            }
        }
    }

    fn last_applied(&self) -> Result<(Node, Journal)> {
        let mut applied: Vec<(Node, Journal)> = Vec::new();
        for (_, node) in self.all_snapshots(&Name::parse(HOST)?)? {
            if let Some(journal) = Journal::read(&self.object_dir(&node.id))?
                && journal.progress != Progress::Undone
                && journal.undoes.is_none()
            {
                applied.push((node, journal));
            }
        }
        applied.sort_by_key(|(node, _)| node.record.created);
        applied.pop().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "nothing was applied to host:/ that could be undone")
                .hint("what `rootling try host:/` applies can be")
        })
    }
}

impl Journal {
    fn read(slot: &Path) -> Result<Option<Self>> {
        let path = slot.join(JOURNAL);
        let text = match files::read(&path, LIMIT) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let metadata = std::fs::symlink_metadata(&path).context(|| format!("lstat({path:?})"))?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            let message = format!("journal {path:?} is another user's: the machine is not changed by it");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("journal {path:?} is damaged: {error}")))
    }

    fn write(&self, slot: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).expect("plain fields");
        files::replace(&slot.join(JOURNAL), &text, Durability::Synced)
    }
}

fn mark(stat: &FileStat) -> (u64, i64, i64) {
    (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec)
}

/// Returns the paths of a journal at which the machine is not any more what was put there. Of a directory only that it is one counts.
fn changed_since(root: &Dir, journal: &Journal) -> Result<Vec<PathBuf>> {
    if journal.progress == Progress::Begun {
        return Ok(Vec::new());
    }
    let known: HashSet<&Path> = journal.paths.iter().map(Touched::path).collect();
    let new: HashSet<&Path> =
        journal.paths.iter().filter(|touched| touched.was.is_none()).map(Touched::path).collect();
    let mut changed = Vec::new();
    for touched in &journal.paths {
        let now = look(root, touched.path())?;
        let is_directory = now.is_some_and(|stat| EntryType::of_mode(stat.st_mode) == EntryType::Directory);
        let same = match (now.as_ref().map(mark), touched.now) {
            (Some(now), Some(then)) => now == then || is_directory && now.0 == then.0,
            (now, then) => now.is_none() && then.is_none(),
        };
        if !same {
            changed.push(touched.path().to_owned());
        }
        let is_in_new = touched.path().parent().is_some_and(|above| new.contains(above));
        if touched.was.is_none() && is_directory && !is_in_new {
            // What others have put into a directory that goes.
            let below = added_recursively(root, touched.path())?.into_iter().map(|entry| entry.path);
            changed.extend(below.filter(|path| !known.contains(path.as_path())));
        }
    }
    changed.sort();
    changed.dedup();
    Ok(changed)
}

fn directory(path: &Path, kind: ChangeKind) -> Change {
    Change { path: path.to_owned(), kind, entry_type: EntryType::Directory, aspects: Aspects::default() }
}

/// Returns what makes an empty tree what the machine is at the paths of a journal, with the directories that lead there.
fn present(root: &Dir, journal: &Journal) -> Result<Vec<Change>> {
    let mut found: BTreeMap<PathBuf, Change> = BTreeMap::new();
    for touched in &journal.paths {
        let Some(was) = touched.was else { continue };
        let path = touched.path();
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            found.entry(parent.to_owned()).or_insert_with(|| directory(parent, ChangeKind::Added));
        }
        if path.as_os_str().is_empty() {
            found.insert(PathBuf::new(), directory(path, ChangeKind::Modified));
        } else if was == EntryType::Directory && touched.replaced {
            found.extend(added_recursively(root, path)?.into_iter().map(|entry| (entry.path.clone(), entry)));
            found.entry(path.to_owned()).or_insert_with(|| directory(path, ChangeKind::Added));
        } else {
            let change = Change { entry_type: was, ..directory(path, ChangeKind::Added) };
            found.insert(path.to_owned(), change);
        }
    }
    let mut found: Vec<Change> = found.into_values().collect();
    sort(&mut found);
    Ok(found)
}

/// Returns what brings the machine back to what a journal's node holds.
fn inverse(journal: &Journal, before: &Dir, root: &Dir) -> Result<Vec<Change>> {
    let mut changes: BTreeMap<PathBuf, Change> = BTreeMap::new();
    for touched in &journal.paths {
        let path = touched.path();
        let now = look(root, path)?.map(|stat| EntryType::of_mode(stat.st_mode));
        match (touched.was, now) {
            (None, None) => {}
            (None, Some(now)) => {
                // It goes with the directory that it is in.
                let goes = |change: &Change| {
                    change.kind == ChangeKind::Deleted || change.entry_type != EntryType::Directory
                };
                let gone = |above: &Path| changes.get(above).is_some_and(goes);
                if !path.ancestors().skip(1).any(gone) {
                    let change = Change { entry_type: now, ..directory(path, ChangeKind::Deleted) };
                    changes.insert(path.to_owned(), change);
                }
            }
            (Some(EntryType::Directory), now) if touched.replaced || now != Some(EntryType::Directory) => {
                let below = added_recursively(before, path)?.into_iter();
                changes.extend(below.map(|entry| (entry.path.clone(), entry)));
                let aspects = Aspects { kind: now.is_some(), ..Aspects::default() };
                let kind = if now.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                changes.insert(path.to_owned(), Change { aspects, ..directory(path, kind) });
            }
            (Some(EntryType::Directory), _) => {
                let aspects = Aspects { mode: true, owner: true, xattrs: true, ..Aspects::default() };
                changes.insert(path.to_owned(), Change { aspects, ..directory(path, ChangeKind::Modified) });
            }
            (Some(was), now) => {
                let kind = if now.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                let differs = now.is_some();
                let aspects =
                    Aspects { content: differs, kind: differs && now != Some(was), ..Aspects::default() };
                changes.insert(path.to_owned(), Change { entry_type: was, aspects, ..directory(path, kind) });
            }
        }
    }
    let mut changes: Vec<Change> = changes.into_values().collect();
    sort(&mut changes);
    Ok(changes)
}
