//! What a client is told: where things lie, how patient it is, who listens.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rootling_backends::Result;

use super::credentials::{Credential, Credentials};
use super::hosts::Hosts;
use super::progress::{Progress, Silent};
use super::retry::Patience;
use super::transport::{Proxies, Timeouts};

/// Bytes of one piece of an upload that cannot go whole.
const CHUNK: u64 = 16 << 20;

/// What the client is told.
#[derive(Clone)]
pub struct Settings {
    /// Mirrors, certificates, insecure hosts.
    pub hosts: Hosts,
    /// The files of credentials.
    pub credentials: Credentials,
    /// What is shown to all hosts in place of what files say: `--creds`.
    pub given: Option<Credential>,
    /// How long to wait for servers.
    pub timeouts: Timeouts,
    /// Proxies.
    pub proxies: Proxies,
    /// How often to try again.
    pub patience: Patience,
    /// Bytes of one piece of an upload that cannot go whole.
    pub chunk: u64,
    /// Who is told how transfers move on.
    pub progress: Arc<dyn Progress>,
    /// Once true, everything ends with an error soon: between two reads, within a wait.
    pub cancel: Arc<AtomicBool>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the files of the usual places; `variable` is the environment, `uid` who asks.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>, uid: u32) -> Result<Self> {
        Ok(Self {
            hosts: Hosts::of(variable)?,
            credentials: Credentials::of(variable, uid),
            given: None,
            timeouts: Timeouts::default(),
            proxies: Proxies::of(variable),
            patience: Patience::default(),
            chunk: CHUNK,
            progress: Arc::new(Silent),
            cancel: Arc::default(),
        })
    }
}
