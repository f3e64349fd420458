//! A process that goes on when its caller has gone: fork, a session of its own, no terminal.
//!
//! The caller waits until the other process either lets it go ([`Announcer::announce`]) or ends, and then ends in the
//! same way. Until then both share the caller's standard files, so that failures are told where they were caused.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, getpid, getppid, setsid};
use rootling_backends::{Context, Result};

use super::sys;

/// Which of the two processes [`detach`] returned in.
#[derive(Debug)]
pub enum Detached {
    /// The old one, with the exit code it should end with.
    Caller(u8),
    /// The new one.
    Supervisor(Announcer),
}

/// How the new process lets the old one go.
#[derive(Debug)]
pub struct Announcer {
    pipe: OwnedFd,
}

/// Makes the process that stays; every descriptor but the standard ones is closed in it.
///
/// Must be called with a single thread, and before anything is opened that is to be kept. If the caller is killed
/// before it is let go, so is the new process.
pub fn detach() -> Result<Detached> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")?;
    let parent = getpid();
    match sys::fork_single_threaded().context(|| "fork()")? {
        ForkResult::Parent { child } => {
            drop(writer);
            wait_for(child, &reader).map(Detached::Caller)
        }
        ForkResult::Child => {
            // keep_only closes them: nobody else may.
            sys::leave(reader);
            let pipe = sys::keep_only(sys::leave(writer)).context(|| "close_range()")?;
            let pipe = sys::own_received(std::os::fd::AsRawFd::as_raw_fd(&pipe));
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
                .context(|| "prctl(PR_SET_PDEATHSIG)")?;
            if getppid() != parent {
                sys::exit(125);
            }
            setsid().context(|| "setsid()")?;
            fill_standard_files()?;
            Ok(Detached::Supervisor(Announcer { pipe }))
        }
    }
}

/// A caller may have closed some of its standard files: what is opened next must not take their numbers.
fn fill_standard_files() -> Result<()> {
    loop {
        let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .context(|| "open(/dev/null)")?;
        if std::os::fd::AsRawFd::as_raw_fd(&null) > 2 {
            return Ok(());
        }
        sys::leave(null);
    }
}

fn wait_for(child: Pid, pipe: &OwnedFd) -> Result<u8> {
    loop {
        match nix::unistd::read(pipe, &mut [0]) {
            Err(Errno::EINTR) => {}
            Ok(0) => break,
            Ok(_) => return Ok(0),
            Err(errno) => return Err(rootling_backends::Error::call("read(supervisor)", errno)),
        }
    }
    let status = sys::wait_for(child.as_raw()).context(|| format!("waitpid({child})"))?;
    Ok(sys::shell_status(status))
}

impl Announcer {
    /// Gives up the caller's standard files and its directory, and lets it end with success.
    pub fn announce(self) -> Result<()> {
        let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .context(|| "open(/dev/null)")?;
        for number in 0..3 {
            sys::duplicate_as(null.as_fd(), number).context(|| format!("dup2(/dev/null, {number})"))?;
        }
        nix::unistd::chdir("/").context(|| "chdir(/)")?;
        sys::prctl(libc::PR_SET_PDEATHSIG, 0).context(|| "prctl(PR_SET_PDEATHSIG)")?;
        // Best effort: a caller that is gone need not be let go.
        nix::unistd::write(&self.pipe, b"!").ok();
        Ok(())
    }
}
