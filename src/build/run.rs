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

use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rootling_backends::{Error, Mount, Result};

use super::plan::{Ground, Owner, Sharing};
use crate::runner::log::Stream;
use crate::runner::net::Dns;
use crate::runner::{Device, Limits, Net, Security, Userns};
use crate::store::Store;

mod given;
mod stop;

pub use given::{DEFAULT_AGENT, Given, SecretFlag, SshFlag, parse_secret, parse_ssh};
pub use stop::Stop;

/// What all commands of a build have in common.
#[derive(Debug)]
pub struct Template {
    /// Our program: `/proc/self/exe`, unless it is somebody else who builds.
    pub program: PathBuf,
    /// The user namespace.
    pub userns: Userns,
    /// May it be done without a user namespace where the tree's file system cannot map owners?
    pub optional_userns: bool,
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
    /// Bytes of `/dev/shm`; `None` for what boxes have.
    pub shm_size: Option<u64>,
    /// What steps may ask for.
    pub allow: Allow,
    /// Secrets and agents.
    pub given: Given,
    /// What ends the build before its time.
    pub stop: Arc<Stop>,
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
    fn cache(&self, wanted: CacheWanted<'_>) -> Result<Box<dyn Cache>>;
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
