//! What runs, and what ran last: the notes that lie beside trees, and finding them by name.
//!
//! The process that runs something keeps its note locked. The note outlives the run in a box, with how it ended in it; beside a
//! fork that is thrown away it goes with the fork, but whoever waits has it open.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::store;
use crate::runner::{self, Running};
use crate::store::{Ephemeral, Name, Node, State, Store};

/// The file in an object's directory that says which process runs it.
const NOTE: &str = "running.json";

/// The largest note that is read.
const LIMIT: u64 = 1 << 20;

/// What a run leaves beside its tree. Of an older program there is only the first field.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    /// The command's process and the walls around it.
    #[serde(flatten)]
    pub(super) running: Running,
    /// What a fork that is thrown away is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<Name>,
    /// The command.
    #[serde(default)]
    pub(super) command: Vec<String>,
    /// When it started.
    #[serde(default)]
    pub(super) started: Option<Timestamp>,
    /// Does it run without its caller?
    #[serde(default)]
    pub(super) detached: bool,
    /// Has it a terminal of its own?
    #[serde(default)]
    pub(super) terminal: bool,
    /// The signal that asks it to end, if it says one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) stop_signal: String,
    /// What further commands in the box get.
    #[serde(default)]
    pub(super) inherited: Inherited,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<Ended>,
}

/// What commands in a box get unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inherited {
    /// Variables.
    pub(super) env: Vec<String>,
    /// The directory.
    pub(super) workdir: Option<PathBuf>,
    /// The user.
    pub(super) user: Option<String>,
    /// The user on the host that the command is run as, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) me: Option<u32>,
    /// Where something is mounted, and whether it is what the host has at the same path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) shown: Vec<(PathBuf, bool)>,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ended {
    /// When.
    pub(super) time: Timestamp,
    /// As a shell shows it.
    pub(super) status: u8,
}

/// Reads a note. One that somebody else wrote is an error of kind `PermissionDenied`: it could name any process.
fn read(file: &File) -> Result<Option<Note>> {
    let found = file.metadata().context(|| format!("fstat({NOTE})"))?;
    let owner = found.uid();
    let ours = nix::unistd::geteuid().as_raw();
    if owner != ours {
        let message = format!("what runs there was started by user {owner}, and you are {ours}");
        return Err(Error::new(ErrorKind::PermissionDenied, message).hint("do it as that user"));
    }
    // Room for all of it: two reads instead of eight.
    let mut text = Vec::with_capacity(usize::try_from(found.len().min(LIMIT)).unwrap_or(0) + 1);
    let mut file = file;
    let read = file.rewind().and_then(|()| file.take(LIMIT).read_to_end(&mut text));
    read.context(|| format!("read({NOTE})"))?;
    // Empty, or just being written.
    Ok(serde_json::from_slice(&text).ok())
}

fn open(slot: &Path) -> Result<Option<File>> {
    let path = slot.join(NOTE);
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("open({path:?})"), error)),
    }
}

/// Returns what runs, or ran last, beside the tree in `slot`.
pub(super) fn note_in(slot: &Path) -> Result<Option<Note>> {
    match open(slot)? {
        Some(file) => read(&file).context(|| format!("read {:?}", slot.join(NOTE))),
        None => Ok(None),
    }
}

// ---------------------------------------------------------------- finding

/// Something that runs or ran.
#[derive(Debug)]
pub(super) struct Found {
    /// Its name, or its id.
    pub(super) label: String,
    /// Where its note is.
    pub(super) slot: PathBuf,
    /// A box, or a fork that is thrown away?
    pub(super) is_box: bool,
    /// Its id.
    pub(super) id: String,
    pub(super) note: Option<Note>,
}

impl Found {
    /// Returns what runs in it; that nothing does is an error.
    pub(super) fn alive(&self) -> Result<&Note> {
        self.note.as_ref().filter(|note| note.running.is_alive()).ok_or_else(|| {
            let error = Error::new(ErrorKind::FailedPrecondition, format!("{} does not run", self.label));
            error.hint("`rootling ps -a` lists what runs and what ran")
        })
    }

    /// Opens its note, to wait for its end.
    pub(super) fn open(&self) -> Result<File> {
        open(&self.slot)?.ok_or_else(|| {
            Error::new(ErrorKind::FailedPrecondition, format!("{} has never run", self.label))
                .hint(format!("start it: rootling start {} COMMAND", self.label))
        })
    }
}

/// Finds a fork that runs by its name or id, else a box or tree by any reference.
pub(super) fn find(store: &Store, text: &str) -> Result<Found> {
    let named = |found: &Found| {
        let name = found.note.as_ref().and_then(|note| note.name.as_ref());
        name.is_some_and(|name| name.as_str() == text) || found.id == text
    };
    if let Some(found) = forks(store)?.into_iter().find(named) {
        return Ok(found);
    }
    let node = store::find(store, text)?;
    of_node(store, &node)
}

pub(super) fn of_node(store: &Store, node: &Node) -> Result<Found> {
    let slot = store.slot(node);
    let note = note_in(&slot).context(|| format!("find out what runs in {}", node.label()))?;
    if note.is_some() && runner::heal_pause(&slot)? {
        log::warn!("{} stood still for a snapshot that was cut short, and goes on now", node.label());
    }
    Ok(Found { label: node.label().to_owned(), is_box: true, id: node.id.to_string(), slot, note })
}

/// Returns the forks that run right now.
fn forks(store: &Store) -> Result<Vec<Found>> {
    let drafts = store.drafts_in_use()?.into_iter();
    Ok(drafts
        .filter_map(|(id, slot)| {
            // One that another user runs is none that we could do anything with.
            let note = note_in(&slot).ok()??;
            let label = note.name.as_ref().map_or_else(|| id.to_string(), ToString::to_string);
            Some(Found { label, slot, is_box: false, id: id.to_string(), note: Some(note) })
        })
        .collect())
}

/// Returns all that runs or ran, boxes first, by name.
pub(super) fn all(store: &Store) -> Result<Vec<Found>> {
    let boxes = store.nodes()?.into_iter().filter(|node| node.record.state == State::Active);
    let mut found: Vec<Found> =
        boxes.filter_map(|node| of_node(store, &node).ok()).filter(|found| found.note.is_some()).collect();
    found.extend(forks(store)?.into_iter().filter(|fork| fork.note.is_some()));
    Ok(found)
}

// ---------------------------------------------------------------- running

/// The right to run something in a tree, as long as it is kept.
#[derive(Debug)]
pub(super) struct Claimed {
    file: File,
    note: Option<Box<Note>>,
    /// Bytes in the file, where that is known.
    length: Option<u64>,
}

/// Who runs a box.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nobody: we do.
    Ours(Claimed),
    /// Somebody else does.
    Runs(Box<Note>),
}

fn open_to_claim(slot: &Path) -> Result<File> {
    let note = slot.join(NOTE);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(&note).context(|| format!("open({note:?}, O_CREAT)"))
}

/// Finds out who runs a box, and takes the right to where nobody does.
pub(super) fn claim(slot: &Path) -> Result<Claim> {
    let file = open_to_claim(slot)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Claim::Ours(Claimed { file, note: None, length: None })),
            Err(TryLockError::Error(error)) => return Err(Error::io(format!("flock({NOTE})"), error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(note) = read(&file)?
            && note.running.is_alive()
        {
            return Ok(Claim::Runs(Box::new(note)));
        }
        // It is just starting, or just ending.
        if start.elapsed() > Duration::from_secs(10) {
            let message = format!("somebody holds {:?} and runs nothing", slot.join(NOTE));
            return Err(
                Error::new(ErrorKind::Busy, message).hint("it is starting or ending: try again in a moment")
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes the right to run a fork, and its name: one that a box or another fork has is an error of kind `AlreadyExists`.
pub(super) fn claim_fork(store: &Store, fork: &Ephemeral, name: Option<&Name>) -> Result<Claimed> {
    let file = open_to_claim(fork.slot())?;
    file.try_lock().map_err(|error| Error::io(format!("flock({NOTE})"), error.into()))?;
    let claimed = Claimed { file, note: None, length: name.is_none().then_some(0) };
    let Some(name) = name else { return Ok(claimed) };
    // The names of forks are in their notes: one at a time may look and write.
    let _alone = store.name_a_fork()?;
    require_free(store, name)?;
    let text = serde_json::to_vec(&serde_json::json!({ "name": name })).expect("plain fields");
    claimed.file.write_all_at(&text, 0).context(|| format!("write({NOTE})"))?;
    Ok(claimed)
}

/// Refuses a name that a box or a fork has.
pub(super) fn require_free(store: &Store, name: &Name) -> Result<()> {
    if is_taken(store, name)? { Err(taken(name)) } else { Ok(()) }
}

/// Refuses a name that a fork has. That a box has it is for the caller to say.
pub(super) fn require_no_fork(store: &Store, name: &Name) -> Result<()> {
    if names_of_forks(store)?.contains(name) { Err(taken(name)) } else { Ok(()) }
}

fn taken(name: &Name) -> Error {
    let error = Error::new(ErrorKind::AlreadyExists, format!("the name {name} is taken"));
    error.hint("choose another name")
}

/// Has a box or a fork this name?
pub(super) fn is_taken(store: &Store, name: &Name) -> Result<bool> {
    Ok(store.resolve_name(name)?.is_some() || names_of_forks(store)?.contains(name))
}

/// Returns the names that forks have which are thrown away.
pub(super) fn names_of_forks(store: &Store) -> Result<HashSet<Name>> {
    Ok(store.drafts_in_use()?.iter().filter_map(|(_, slot)| name_in(slot)).collect())
}

/// The name of a fork, also of one that is just starting.
fn name_in(slot: &Path) -> Option<Name> {
    #[derive(Deserialize)]
    struct Named {
        name: Name,
    }
    serde_json::from_slice::<Named>(&std::fs::read(slot.join(NOTE)).ok()?).ok().map(|named| named.name)
}

impl Claimed {
    /// Writes down what runs. Without that others cannot find it, and say so.
    pub(super) fn started(&mut self, note: Note) {
        self.note = Some(Box::new(note));
        self.write();
    }

    /// Writes down how it ended.
    pub(super) fn ended(&mut self, status: u8) {
        if let Some(note) = &mut self.note {
            note.ended = Some(Ended { time: Timestamp::now(), status });
            self.write();
        }
    }

    /// Takes the note away before its object goes; whoever waits has it open.
    pub(super) fn unlink(&self, slot: &Path) {
        // Best effort: it goes with the object.
        std::fs::remove_file(slot.join(NOTE)).unwrap_or_default();
    }

    fn write(&mut self) {
        let text = serde_json::to_vec(&self.note).expect("plain fields");
        let length = text.len() as u64;
        let longer = self.length.is_none_or(|before| before > length);
        let cut = || if longer { self.file.set_len(length) } else { Ok(()) };
        let written = self.file.write_all_at(&text, 0).and_then(|()| cut());
        self.length = written.is_ok().then_some(length);
        // Best effort: the command runs, whoever may find it.
        if let Err(error) = written {
            log::warn!("others cannot find what runs here: write({NOTE}): {error}");
        }
    }
}

/// Waits until whoever runs it has written down how it ended and has cleaned up; `None` where they were killed before they could.
pub(super) fn wait_for_end(file: &File) -> Result<Option<Ended>> {
    file.lock_shared().context(|| format!("flock({NOTE})"))?;
    Ok(read(file)?.and_then(|note| note.ended))
}

/// As [`wait_for_end`], but not for longer than `timeout`; false where that was not enough.
pub(super) fn has_ended_within(file: &File, timeout: Duration) -> Result<bool> {
    let start = Instant::now();
    loop {
        match file.try_lock_shared() {
            Ok(()) => {
                file.unlock().context(|| format!("flock({NOTE}, LOCK_UN)"))?;
                return Ok(true);
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(format!("flock({NOTE})"), error)),
            Err(TryLockError::WouldBlock) if start.elapsed() >= timeout => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
