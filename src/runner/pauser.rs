//! Who stops a running box for a moment: a process of its own, so that the box goes on when we are killed, interrupted or crash.
//!
//! It waits for words on a pipe, and the end of the pipe is one of them. What it stopped is written to the file `paused` beside
//! the box first, with a lock on it: who finds that file without the lock finds a box that stands still for nobody, and lets it go on.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{ForkResult, Pid, getpid, getppid, setsid};
use rootling_backends::{Context, Dir, Error, ErrorKind, Result};

use super::cgroup::Stopped;
use super::running::Running;
use super::sys;

/// The file beside a box.
const NOTE: &str = "paused";

/// Stops a box and lets it go on, as it is told.
#[derive(Debug)]
pub struct Pauser {
    words: Option<PipeWriter>,
    answers: PipeReader,
    process: Pid,
}

/// A box that stands still; dropped, it goes on.
#[derive(Debug)]
pub struct Paused {
    words: PipeWriter,
    answers: PipeReader,
}

impl Pauser {
    /// Starts it, for a box that runs in `slot`. Must be called with a single thread.
    pub fn new(running: &Running, slot: &Path) -> Result<Self> {
        let pipe = || std::io::pipe().context(|| "pipe()");
        let ((words, words_ours), (answers_ours, answers)) = (pipe()?, pipe()?);
        match sys::fork_single_threaded().context(|| "fork()")? {
            ForkResult::Parent { child } => {
                Ok(Self { words: Some(words_ours), answers: answers_ours, process: child })
            }
            ForkResult::Child => {
                // Ours alone to close: else the end of the pipe would never come.
                drop((words_ours, answers_ours));
                attend(running, slot, words, answers);
                sys::exit(0)
            }
        }
    }

    /// Stops everything that runs in the box, and writes out what its file system holds in memory.
    ///
    /// An error says why it cannot be stopped, and then nothing stands still.
    pub fn pause(&mut self) -> Result<Paused> {
        let gone = || Error::new(ErrorKind::Io, "who was to stop the box is gone");
        let words = self.words.as_mut().ok_or_else(gone)?;
        words.write_all(b"S").map_err(|_| gone())?;
        let answer = read_answer(&mut self.answers)?;
        if !answer.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, answer));
        }
        let clone = || -> std::io::Result<_> { Ok((words.try_clone()?, self.answers.try_clone()?)) };
        let (words, answers) = clone().context(|| "dup()")?;
        Ok(Paused { words, answers })
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Best effort: where nobody hears it any more, they have let the box go on already.
        if self.words.write_all(b"G").is_ok()
            && let Ok(answer) = read_answer(&mut self.answers)
            && !answer.is_empty()
        {
            log::warn!("the box stands still, and its next command lets it go on: {answer}");
        }
    }
}

impl Drop for Pauser {
    fn drop(&mut self) {
        drop(self.words.take());
        // Best effort: how it ended says nothing.
        sys::wait_for(self.process.as_raw()).ok();
    }
}

/// One line, empty where it worked.
fn read_answer(answers: &mut PipeReader) -> Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        match answers.read(&mut byte).context(|| "read(answers)")? {
            0 => return Err(Error::new(ErrorKind::Io, "who was to stop the box is gone")),
            _ if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&text).into_owned()),
            _ => text.push(byte[0]),
        }
    }
}

/// The other process, to its end.
fn attend(running: &Running, slot: &Path, mut words: PipeReader, mut answers: PipeWriter) {
    // An interrupt ends our caller, and that is what ends us. The group is our caller's: what is sent to it is not meant for us.
    sys::set_signal_mask(u64::MAX);
    setsid().ok();
    let mut stopped: Option<(Stopped, File)> = None;
    let mut word = [0];
    while words.read(&mut word).is_ok_and(|count| count == 1) {
        let done = match (word[0], stopped.take()) {
            (b'S', None) => stop(running, slot).map(|begun| stopped = Some(begun)),
            (_, Some((what, _lock))) => go_on(&what, slot),
            (_, None) => Ok(()),
        };
        let answer = done.err().map(|error| error.chain().join(": ").replace('\n', " ")).unwrap_or_default();
        if answers.write_all(format!("{answer}\n").as_bytes()).is_err() {
            break;
        }
    }
    if let Some((what, _lock)) = stopped {
        // Nobody listens any more; the file stays where it fails.
        drop(go_on(&what, slot));
    }
}

fn stop(running: &Running, slot: &Path) -> Result<(Stopped, File)> {
    let root = Dir::open(format!("/proc/{}/root", running.pid))?;
    // Once while it still runs, so that little is left for the moment in which it does not.
    root.sync_file_system()?;
    let path = slot.join(NOTE);
    let file = open_note(&path, true)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "the box is gone"))?;
    file.try_lock().map_err(|_| Error::new(ErrorKind::Busy, "somebody else stops it just now"))?;
    let name = format!("pause-{}-{}", running.pid, std::process::id());
    let mut stopped = Stopped::plan(running.cgroup.as_ref(), running.pid, &name)?;
    let note = |stopped: &Stopped| {
        let text = serde_json::to_vec(stopped).expect("plain fields");
        let written = file.set_len(0).and_then(|()| file.write_all_at(&text, 0));
        written.context(|| format!("write({path:?})"))
    };
    let done = stopped.stop(|| without_us(running.members()?), note).and_then(|()| root.sync_file_system());
    match done {
        Ok(()) => Ok((stopped, file)),
        Err(error) => {
            // Best effort: the first error says more.
            drop(go_on(&stopped, slot));
            Err(error)
        }
    }
}

/// Refuses to stop who lets the box go on, or all of the machine: a box that shares the host's processes may descend from the first of
/// them, because its runner has just died, and we may run in it ourselves.
fn without_us(members: Vec<i32>) -> Result<Vec<i32>> {
    let ours = [1, getpid().as_raw(), getppid().as_raw()];
    if members.iter().any(|pid| ours.contains(pid)) {
        let message = "who stops it is one of its own processes";
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    Ok(members)
}

fn go_on(stopped: &Stopped, slot: &Path) -> Result<()> {
    stopped.go_on()?;
    let path = slot.join(NOTE);
    std::fs::remove_file(&path).context(|| format!("unlink({path:?})"))
}

fn open_note(path: &PathBuf, make: bool) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(make).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("open({path:?})"), error)),
    }
}

/// Lets a box go on that stands still for somebody who was killed. One call where it does not.
///
/// Returns whether it did.
pub fn heal_pause(slot: &Path) -> Result<bool> {
    let path = slot.join(NOTE);
    let Some(file) = open_note(&path, false)? else { return Ok(false) };
    if file.try_lock().is_err() {
        return Ok(false);
    }
    let metadata = file.metadata().context(|| format!("fstat({path:?})"))?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        // What it names would be moved with our rights.
        log::warn!("{path:?} is another user's: what it says is not done");
        return Ok(false);
    }
    let text = small_text(&file).context(|| format!("read({path:?})"))?;
    let Ok(stopped) = serde_json::from_slice::<Stopped>(&text) else {
        // Killed before anything was stopped.
        std::fs::remove_file(&path).context(|| format!("unlink({path:?})"))?;
        return Ok(false);
    };
    go_on(&stopped, slot).map(|()| true)
}

fn small_text(mut file: &File) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_stops_themselves_or_the_machine() {
        let other = i32::MAX;
        assert_eq!(without_us(vec![other]).unwrap(), [other]);
        for pid in [1, getpid().as_raw(), getppid().as_raw()] {
            assert_eq!(without_us(vec![other, pid]).unwrap_err().kind(), ErrorKind::FailedPrecondition);
        }
    }

    #[test]
    fn what_another_user_noted_is_not_done() {
        let slot = tempfile::tempdir().unwrap();
        let path = slot.path().join(NOTE);
        std::fs::write(&path, "killed before anything was stopped").unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(!heal_pause(slot.path()).unwrap());
            assert!(path.exists(), "it was taken for ours");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        assert!(!heal_pause(slot.path()).unwrap());
        assert!(!path.exists());
    }
}
