//! `RUN`: a command in a fork, with its mounts.
//!
//! What runs a box acts on its whole process (signals, namespaces, cgroups), and steps run beside each other. So each is a process of our
//! own program that is given a [`runner::Spec`](crate::runner::Spec) by an inherited file and leaves there what came of it: nothing of it
//! is to be seen in arguments or environments, because secrets are among it.
//!
//! | module | what it is for |
//! |---|---|
//! | `given` | secrets and ssh agents, as the flags name them |
//! | `stop` | what ends a build before its time |
//! | `boxed` | what a step asks for, made into what the runner takes |
//! | `mounts` | its mounts: what must be opened, made and given back |
//! | `bind` | files of a context, stage or image, without what is ignored, and writable where that is thrown away |
//! | `agent` | a socket for a step, behind which an ssh agent is |
//! | `watch` | the process of a step, from outside |
//! | `program` | the same from inside: what our program does when it is such a process |
//! | `message` | what the two say to each other |

use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rootling_backends::{Access, Context as _, Error, ErrorKind, Mount, Result};

use super::plan::{Ground, Owner, RunStep, Sharing};
use crate::runner::log::Stream;
use crate::runner::net::Dns;
use crate::runner::{Bind, Device, Limits, Net, Security, Spec, Tmpfs, Userns};
use crate::store::{Ephemeral, Store};
use mounts::Mounts;

mod agent;
mod bind;
mod boxed;
mod given;
mod message;
mod mounts;
mod program;
mod stop;
mod watch;

pub use given::{DEFAULT_AGENT, Given, SecretFlag, SshFlag, parse_secret, parse_ssh};
pub use program::{NAME as PROGRAM_NAME, program};
pub use stop::Stop;

/// What all commands of a build have in common.
#[derive(Debug)]
pub struct Template {
    /// Our program: `/proc/self/exe`, unless it is somebody else who builds.
    pub program: PathBuf,
    /// Who exists inside.
    pub users: Users,
    /// What commands may not do; `RUN --security=insecure` may do all.
    pub security: Security,
    /// What each command may use at most.
    pub limits: Limits,
    /// Devices of the host shown to commands.
    pub devices: Vec<Device>,
    /// The network of `RUN --network=default`.
    pub net: Net,
    /// Name servers instead of the host's.
    pub dns: Dns,
    /// Further lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// The name of the machine as steps see it; `None` for the one that BuildKit's see.
    pub hostname: Option<String>,
    /// Kernel parameters of each step's own namespaces.
    pub sysctls: Vec<(String, String)>,
    /// What each step sees of the host besides its own mounts.
    pub binds: Vec<Bind>,
    /// Directories in memory that each step has.
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of `/dev/shm`; `None` for what boxes have.
    pub shm_size: Option<u64>,
    /// What steps may ask for.
    pub allow: Allow,
    /// Secrets and agents.
    pub given: Given,
    /// What ends the build before its time.
    pub stop: Arc<Stop>,
}

/// Who exists in the boxes of a build.
#[derive(Debug)]
pub struct Users {
    userns: Userns,
    optional: bool,
    given_up: AtomicBool,
    only_root: Option<(String, String)>,
}

impl Users {
    /// Takes a user namespace; with `optional` it is done without where the trees' file system cannot map owners.
    pub fn new(userns: Userns, optional: bool) -> Self {
        Self { userns, optional, given_up: AtomicBool::new(false), only_root: None }
    }

    /// Says why there is nobody inside but root, and what helps.
    #[must_use]
    pub fn only_root(self, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { only_root: Some((reason.into(), fix.into())), ..self }
    }

    fn userns(&self) -> Userns {
        if self.given_up.load(Ordering::Relaxed) { Userns::Host } else { self.userns.clone() }
    }

    /// Goes without from here on; true the first time.
    fn give_up(&self) -> bool {
        !self.given_up.swap(true, Ordering::Relaxed)
    }
}

/// What steps may ask for that goes beyond the walls: `--allow`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allow {
    /// `security.insecure`.
    pub insecure: bool,
    /// `network.host`, where the network of the build is another.
    pub host_network: bool,
}

/// Where the files of a mount are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// A directory of the host.
    Directory {
        /// Where.
        path: PathBuf,
        /// Paths in it that do not show: the uppermost ones that `.dockerignore` leaves out.
        hidden: Vec<PathBuf>,
    },
    /// A tree of the store.
    Tree(Mount),
}

/// A cache that a step mounts.
#[derive(Debug, Clone, Copy)]
pub struct CacheWanted<'a> {
    /// Which.
    pub id: &'a str,
    /// What two steps at once do.
    pub sharing: Sharing,
    /// Owner and mode of a new one.
    pub owner: Owner,
    /// What a new one begins as, and the path below that.
    pub from: Option<(&'a Ground, &'a str)>,
}

/// A cache that is taken; given back when dropped.
pub trait Cache {
    /// Returns the directory.
    fn dir(&self) -> &Path;

    /// Gives it back; `succeeded` says whether the command did.
    fn end(self: Box<Self>, succeeded: bool) -> Result<()>;
}

/// What a build has for the mounts of its steps.
pub trait Inputs: Sync + Debug {
    /// Returns where files are: of a stage, an image or a context, the build's own if there is no `from`.
    fn files(&self, from: Option<&Ground>) -> Result<Files>;

    /// Takes a cache; waits where it is locked.
    fn cache(&self, wanted: CacheWanted<'_>) -> Result<Box<dyn Cache + '_>>;
}

/// Who hears what a command says: whole pieces, in the order in which they are read.
pub type Sink<'a> = dyn Fn(Stream, &[u8]) + Sync + 'a;

/// What a step runs with.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// Where its fork is.
    pub store: &'a Store,
    /// What all have in common.
    pub template: &'a Template,
    /// What its mounts show.
    pub inputs: &'a dyn Inputs,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// As a shell shows it: 128 and the number of the signal, 126 or 127 where `refused` says why.
    pub status: u8,
    /// Why it could not be executed.
    pub refused: Option<Error>,
    /// What was left out of its surroundings, in words.
    pub notes: Vec<String>,
    /// From the first moment to the last.
    pub took: Duration,
    /// Was it asked to end, because the build is to?
    pub stopped: bool,
}

impl Ended {
    /// Returns the signal that a shell would say ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.checked_sub(128).filter(|signal| (1..=64).contains(signal)).map(i32::from)
    }
}

/// Runs a command in a fork, and hears it to its end; what it did stays in the fork, whatever came of it.
///
/// An error means that it never ran. Once the build is to end nothing runs any more: what does is asked to, and killed after ten seconds or
/// when it is asked a second time. Nothing of what was mounted stays in the tree, mount points and their directories' times included; if
/// this process is killed, so is the command, and empty mount points may stay. May be called by many threads at once; the caller's thread
/// waits, and calls `sink`.
///
/// Costs one process of our own program besides the box itself, and one more for a private network.
pub fn perform(step: &RunStep, fork: &Ephemeral, room: Room<'_>, sink: &Sink<'_>) -> Result<Ended> {
    let began = Instant::now();
    let template = room.template;
    let tree = fork.mount(room.store, Access::ReadWrite, true)?;
    let root = fork.open_parent(room.store)?;
    let mounts = Mounts::open(step, room)?;
    let spec = boxed::spec(step, &mounts, tree, &root, template)?;
    drop(root);
    let ended = match watch::run(template, &spec, sink) {
        Err(error) if template.users.optional && error.kind() == ErrorKind::Unsupported => {
            let note = template.users.give_up().then(|| {
                format!("root inside is root outside, because the tree's owners cannot be mapped: {error:?}")
            });
            watch::run(template, &Spec { userns: Userns::Host, ..spec }, sink).map(|mut ended| {
                ended.notes.extend(note);
                ended
            })
        }
        ended => ended,
    };
    let given_back = mounts.end(ended.as_ref().is_ok_and(|ended| ended.status == 0));
    let ended = ended?;
    given_back.context(|| "give back what was mounted")?;
    Ok(Ended { took: began.elapsed(), ..ended })
}
