//! A socket for a step, behind which an ssh agent is.
//!
//! The agent's own socket could not be shown: it belongs to the caller, whom the box does not have, and an agent turns away those who are
//! somebody else. So a thread of the build listens on a socket of the step's own and talks to the agent in the caller's name.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rootling_backends::{Context as _, Dir, Result};

use super::Users;
use crate::build::plan::Owner;

/// How many may talk to the agent at once; more wait.
const AT_ONCE: usize = 64;

/// How long one may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that somebody listens on; closed when dropped.
#[derive(Debug)]
pub(super) struct Forward {
    /// Closed, it ends the thread.
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Listens as `name` in the directory `place`; `owner` counts as inside.
    pub(super) fn listen(
        place: &Path,
        name: &str,
        agent: &Path,
        owner: Owner,
        users: &Users,
    ) -> Result<Self> {
        let dir = Dir::open(place)?;
        // A socket's path has room for 108 bytes, and a store may lie deep.
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd()));
        let listener = UnixListener::bind(&path).context(|| format!("bind({:?})", place.join(name)))?;
        let userns = users.userns();
        // A tree whose owners are mapped has on disk the numbers that count inside.
        let (uid, gid) = match userns.outside(owner.uid, owner.gid) {
            Some(outside) if !userns.maps_tree() => outside,
            _ => (owner.uid, owner.gid),
        };
        chown(&path, Some(uid), Some(gid)).context(|| format!("chown({name:?}, {uid}, {gid})"))?;
        let mode = std::fs::Permissions::from_mode(owner.mode & 0o777);
        std::fs::set_permissions(&path, mode).context(|| format!("chmod({name:?}, {:o})", owner.mode))?;
        let (alive, watched) = UnixStream::pair().context(|| "socketpair(AF_UNIX, SOCK_STREAM)")?;
        let agent = agent.to_owned();
        let thread = std::thread::spawn(move || {
            // A failure here is one that the step's own ssh tells of.
            serve(&listener, &watched, &agent).unwrap_or_default();
        });
        Ok(Self { alive: Some(alive), thread: Some(thread) })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked is no reason to fail: the step has ended.
            drop(thread.join());
        }
    }
}

/// Somebody in the box, and the agent.
#[derive(Debug)]
struct Talk {
    inside: UnixStream,
    agent: UnixStream,
}

fn serve(listener: &UnixListener, alive: &UnixStream, agent: &Path) -> io::Result<()> {
    let mut talks: Vec<Talk> = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut files = vec![PollFd::new(alive.as_fd(), PollFlags::POLLIN)];
        for talk in &talks {
            files.extend([&talk.inside, &talk.agent].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        }
        if talks.len() < AT_ONCE {
            files.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> =
            files.iter().map(|file| file.revents().is_some_and(|events| !events.is_empty())).collect();
        if ready[0] {
            return Ok(());
        }
        let listening = talks.len() * 2 + 1;
        let mut ends = ready[1..].chunks(2);
        talks.retain_mut(|talk| {
            let ready = ends.next().unwrap_or_default();
            let one = !ready[0] || pass(&mut talk.inside, &mut talk.agent, &mut buffer);
            one && (!ready[1] || pass(&mut talk.agent, &mut talk.inside, &mut buffer))
        });
        if ready.get(listening).is_some_and(|ready| *ready)
            && let Ok((inside, _)) = listener.accept()
            // An agent that has gone: the other end sees that nobody answers.
            && let Ok(agent) = UnixStream::connect(agent)
        {
            inside.set_write_timeout(Some(PATIENCE))?;
            agent.set_write_timeout(Some(PATIENCE))?;
            talks.push(Talk { inside, agent });
        }
    }
}

/// Passes on what there is; false when the talk is over.
fn pass(from: &mut UnixStream, to: &mut UnixStream, buffer: &mut [u8]) -> bool {
    match from.read(buffer) {
        Ok(0) | Err(_) => {
            // What is on its way back has been passed on already: whoever ends a talk with an agent waits for nothing more.
            to.shutdown(Shutdown::Both).unwrap_or_default();
            false
        }
        Ok(length) => to.write_all(&buffer[..length]).is_ok(),
    }
}
