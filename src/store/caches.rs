//! Caches of builds: volumes that stay from one build to the next, and what several that want the same one do.
//!
//! A cache is an ordinary volume, called `cache.WORDS.HEX` after what the recipe calls it; so it is listed, snapshotted, locked, exported and
//! removed as volumes are. A new one begins empty or with the content of a directory. While it is used its *turn* is held: the lock of a
//! file in `steps/turns/`, which stays where it is when another object takes the volume's name.
//!
//! | sharing | turn | who comes second |
//! |---|---|---|
//! | shared | shared | writes to the same directory |
//! | private | alone, if it is free | gets a fork, which is thrown away |
//! | locked | alone | waits |
//!
//! One that is committed only on success is worked with in a fork, which takes the place of the cache in the end; so its turn is held alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rootling_backends::entry::CloneMode;
use rootling_backends::replicate::{Options, replicate};
use rootling_backends::{Context, Cost, Dir, ErrorKind, FS, ForkOptions, Kind, Result, Tree};

use super::draft::Draft;
use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Node, Record, Role, State, Store, VolumeName, fault};
use crate::image::Digest;

/// How long it is waited before a turn is asked for again.
const PAUSE: Duration = Duration::from_millis(5);

/// How many times, before that is told.
const TOLD_AFTER: u64 = 100;

/// How the names of the volumes begin.
const PREFIX: &str = "cache.";

/// Digits of the digest in a name.
const DIGITS: usize = 10;

/// What those do that use a cache at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheSharing {
    /// All write to it.
    #[default]
    Shared,
    /// The second gets a fork of it.
    Private,
    /// The second waits.
    Locked,
}

/// What a new cache is.
#[derive(Debug, Clone, Copy)]
pub struct CacheStart<'a> {
    /// The directory whose content and attributes it has; without one it is empty, with the owner and mode below.
    pub content: Option<&'a Dir>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
}

/// How a cache is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheUse {
    /// What others do meanwhile.
    pub sharing: CacheSharing,
    /// Is what is written kept only if what wrote it succeeds?
    pub on_success: bool,
}

/// A cache that is used, until it is given back ([`Store::end_cache`]) or dropped, which throws a fork away.
#[derive(Debug)]
pub struct CacheMount {
    name: VolumeName,
    node: Node,
    work: Work,
    /// Says that the volume is in use.
    used: File,
    _turn: Option<File>,
}

/// Where it is written to.
#[derive(Debug)]
enum Work {
    /// The cache itself.
    Itself(PathBuf),
    /// A fork of it, which may take its place.
    Fork { draft: Draft, record: Box<Record>, dir: PathBuf, replaces: bool },
}

impl CacheMount {
    /// Returns the directory to mount.
    pub fn dir(&self) -> &Path {
        match &self.work {
            Work::Itself(dir) | Work::Fork { dir, .. } => dir,
        }
    }

    /// Returns the volume.
    pub fn name(&self) -> &VolumeName {
        &self.name
    }
}

impl VolumeName {
    /// Returns the name of the volume of a cache: readable as far as what the recipe calls it is, and never that of another.
    pub fn of_cache(id: &str) -> Self {
        let readable = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let text: String = id.chars().map(readable).collect();
        let words: Vec<&str> = text.split('-').filter(|word| !word.is_empty()).collect();
        let mut words = words.join("-");
        words.truncate(Self::MAX - PREFIX.len() - 1 - DIGITS);
        let digest = Digest::sha256_of(id.as_bytes());
        let text = format!("{PREFIX}{}.{}", words.trim_matches('-'), &digest.hex()[..DIGITS]);
        Self::parse(&text.replace("..", ".")).expect("all of its characters are those of a name")
    }

    /// Is it the name of a cache's volume?
    pub fn is_cache(&self) -> bool {
        let digits = self.as_str().strip_prefix(PREFIX).map(|rest| rest.rsplit('.').next().unwrap_or(rest));
        digits.is_some_and(|digits| {
            digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }
}

impl Store {
    /// Takes a cache for use; one that is missing is made, durably. Waits for its turn; `go_on` is asked now and then meanwhile, and its error
    /// ends the waiting.
    ///
    /// A fork costs what a fork of a volume costs: O(1) with btrfs, else O(files), where files can be shared. Where they cannot, or the
    /// cache changes while it is copied, the second of two private ones begins as a new one.
    pub fn take_cache(
        &self,
        id: &str,
        how: CacheUse,
        start: CacheStart<'_>,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<CacheMount> {
        let name = VolumeName::of_cache(id);
        let intent = || format!("use the cache {id:?}");
        let turn = self.turn(&name, how, go_on).context(intent)?;
        let (node, used) = self.open_cache(&name, start).context(intent)?;
        let work = if how.on_success {
            self.fork_cache(&node, true).context(intent)?
        } else if turn.is_some() {
            Work::Itself(self.object_dir(&node.id).join(FS))
        } else {
            self.private_cache(&node, start).context(intent)?
        };
        Ok(CacheMount { name, node, work, used, _turn: turn })
    }

    /// Gives a cache back. What was written to a fork for keeps takes the place of the cache if `succeeded`, durably; other forks go.
    ///
    /// A kill leaves the cache as it was, or as it shall be.
    pub fn end_cache(&self, cache: CacheMount, succeeded: bool) -> Result<()> {
        let CacheMount { name, node, work, used, _turn } = cache;
        let Work::Fork { draft, record, replaces: true, .. } = work else { return Ok(()) };
        if !succeeded {
            return Ok(());
        }
        let intent = || format!("keep what was written to cache {name}");
        drop(used);
        {
            let _lock = self.share_to_write().context(intent)?;
            let change = self.object_dir(&node.id).join("change");
            let _change = lock::lock_file(&change, Mode::Exclusive, name.as_str()).context(intent)?;
            self.require_same(&node).context(intent)?;
            // The snapshots that were made of it meanwhile gave it another parent.
            let node = Node { record: self.node(&node.id).context(intent)?.record, ..node };
            let alone = self.lock_unused(&node).context(intent)?;
            self.backend(record.backend).and_then(|backend| backend.barrier(&draft.slot)).context(intent)?;
            fault::point("cache.synced");
            let record = Record { life: node.record.life.clone(), ..*record };
            let made = self.publish(draft, &record, None, Durability::Synced).context(intent)?;
            self.put_in_place(&name, &node, &made.id, alone).context(intent)?;
        }
        self.empty_trash().map(drop).context(intent)
    }

    /// Waits for the turn; `None` where that of a private cache is somebody else's.
    fn turn(&self, name: &VolumeName, how: CacheUse, go_on: &dyn Fn() -> Result<()>) -> Result<Option<File>> {
        files::make_dir(&self.root.join("steps"))?;
        files::make_dir(&self.turns_dir())?;
        let path = self.turns_dir().join(name.as_str());
        let mode = if how.sharing == CacheSharing::Shared && !how.on_success {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        for tries in 0_u64.. {
            if let Some(turn) = lock::try_lock_file(&path, mode)? {
                // Not one that was swept since it was opened.
                if lock::is_at(&turn, &path) {
                    return Ok(Some(turn));
                }
                continue;
            }
            if how.sharing == CacheSharing::Private && !how.on_success {
                return Ok(None);
            }
            go_on()?;
            if tries == TOLD_AFTER {
                log::warn!("waiting for {name}, which another step uses");
            }
            sleep(PAUSE);
        }
        unreachable!("the numbers do not end")
    }

    fn open_cache(&self, name: &VolumeName, start: CacheStart<'_>) -> Result<(Node, File)> {
        loop {
            if let Some(node) = self.named(&name.node_name())? {
                match self.open_box(&node) {
                    // It was removed, or replaced, just now.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    opened => return opened,
                }
            }
            let _lock = self.share_to_write()?;
            match self.publish_volume_of(Some(&name.node_name()), |root, kind| start.fill(root, kind)) {
                // Somebody else was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => drop(made?),
            }
        }
    }

    /// Makes a fork of a cache in a draft.
    fn fork_cache(&self, node: &Node, replaces: bool) -> Result<Work> {
        let _lock = self.share_to_write()?;
        let kind = self.volume_backend();
        let draft = self.draft()?;
        let tree = Tree::full(self.object_dir(&node.id));
        let options = ForkOptions { ephemeral: true, ..ForkOptions::default() };
        let cost = self.backend(kind)?.fork(&tree, &draft.slot, options)?.cost;
        let record = Record { cost, ..Record::new(draft.id.clone(), kind, State::Active) };
        Ok(Work::of_draft(draft, record, replaces))
    }

    /// Makes what the second of two gets who want a cache for themselves.
    fn private_cache(&self, node: &Node, start: CacheStart<'_>) -> Result<Work> {
        if self.volume_backend() != Kind::Copy {
            match self.fork_cache(node, false) {
                Err(error) => log::info!("{} changes while it is copied: {error}", node.shown()),
                forked => return forked,
            }
        }
        let _lock = self.share_to_write()?;
        let kind = self.volume_backend();
        let draft = self.draft()?;
        self.backend(kind)?.create(&draft.slot)?;
        start.fill(&Dir::open(draft.slot.join(FS))?, kind)?;
        let record = Record::new(draft.id.clone(), kind, State::Active);
        Ok(Work::of_draft(draft, record, false))
    }

    pub(super) fn turns_dir(&self) -> PathBuf {
        self.root.join("steps").join("turns")
    }

    /// Returns the files of turns that nobody holds, of caches that are gone, each with its lock: who waits for one that is removed looks again.
    /// The caller holds the store alone.
    pub(super) fn idle_turns(&self) -> Result<Vec<(PathBuf, File)>> {
        let mut idle = Vec::new();
        for file_name in files::list(&self.turns_dir())? {
            let path = self.turns_dir().join(&file_name);
            let is_there = match VolumeName::parse(&file_name) {
                Ok(name) => self.resolve_name(&name.node_name())?.is_some(),
                Err(_) => false,
            };
            if !is_there && let Some(alone) = lock::try_lock_file(&path, Mode::Exclusive)? {
                idle.push((path, alone));
            }
        }
        Ok(idle)
    }
}

impl Work {
    fn of_draft(draft: Draft, record: Record, replaces: bool) -> Self {
        let dir = draft.slot.join(FS);
        Self::Fork { draft, record: Box::new(Record { role: Role::Volume, ..record }), dir, replaces }
    }
}

impl CacheStart<'_> {
    /// Makes an empty directory what a new cache is.
    fn fill(&self, root: &Dir, kind: Kind) -> Result<Cost> {
        if let Some(content) = self.content {
            let clone = if kind == Kind::Copy { CloneMode::Never } else { CloneMode::Auto };
            return replicate(content, root, &Options::from(clone));
        }
        root.set_owner(".", self.uid, self.gid)?;
        root.set_mode_following_symlinks(".", self.mode & 0o7777)?;
        Ok(Cost { directories: 1, ..Cost::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_have_names_that_people_can_read() {
        let name = |id: &str| VolumeName::of_cache(id).as_str().to_owned();
        assert_eq!(name("/root/.cache/go-build"), "cache.root-cache-go-build.87c284be11");
        assert_ne!(name("a/b"), name("a-b"));
        for id in ["", "/", "äöü", "..", &"x/".repeat(200)] {
            let name = VolumeName::of_cache(id);
            assert!(name.is_cache(), "{id:?}: {name}");
            assert_eq!(VolumeName::parse(name.as_str()).unwrap(), name);
        }
        for text in ["cache", "cache.x", "db", "cache.db.0123456789a"] {
            assert!(!VolumeName::parse(text).unwrap().is_cache(), "{text}");
        }
    }
}
