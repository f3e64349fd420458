//! Which servers answer for a repository: itself and its mirrors, how they are reached and whom they trust.
//!
//! ```text
//! docker.io/library/alpine
//!   │  registries.conf: aliases, blocked, prefix -> location, mirrors        (podman's files)
//!   ▼
//! mirror.example/hub/library/alpine, docker.io/library/alpine
//!   │  certs.d/HOST/hosts.toml: mirrors with ?ns=, certs.d/HOST/*.crt …       (docker's and containerd's)
//!   ▼
//! endpoints, in the order in which they are asked
//! ```
//!
//! Files are read once, when the client is made, and those of certificates when a host is first spoken to.

use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};

use super::transport::Trust;
use super::url;

mod certs;
mod registries;

pub use certs::CertificateDirectories;
pub use registries::Registries;

/// The host of the hub as names have it, and the one that speaks for it.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A manifest by its tag.
    Tag,
    /// A manifest or blob by its digest.
    Digest,
    /// Anything that writes, or lists: only the registry itself is asked.
    Origin,
}

/// One server that may be asked for a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The host, as in names of images: credentials are found by it.
    pub host: String,
    /// The host and port that are connected to.
    pub authority: String,
    /// The scheme, where it was said; else https, and http where that is allowed.
    pub secure: Option<bool>,
    /// What stands before the repository in paths; `/v2` unless overridden.
    pub base: String,
    /// The repository as this server calls it.
    pub repository: String,
    /// The registry that a mirror is asked to stand in for.
    pub namespace: Option<String>,
    /// Plain http and certificates of anybody will do.
    pub insecure: bool,
    /// Certificates.
    pub trust: Trust,
    /// Headers that are sent with each request.
    pub headers: Vec<(String, String)>,
    /// Is it not the registry itself?
    pub is_mirror: bool,
}

impl Endpoint {
    /// Returns `host/repository`, for messages.
    pub(super) fn name(&self) -> String {
        let slash = if self.repository.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.host, self.repository)
    }
}

/// What the configuration says of all hosts.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// podman's files.
    pub registries: Registries,
    /// Directories with a directory for each host.
    pub certificates: CertificateDirectories,
    /// Hosts that were called insecure by the caller.
    pub insecure: Vec<String>,
}

impl Hosts {
    /// Reads what the environment and the usual places have.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let read = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = read("XDG_CONFIG_HOME").or_else(|| read("HOME").map(|home| home.join(".config")));
        let named = read("CONTAINERS_REGISTRIES_CONF").or_else(|| read("REGISTRIES_CONFIG_PATH"));
        Ok(Self {
            registries: Registries::read(named.as_deref(), config.as_deref())?,
            certificates: CertificateDirectories::of(config.as_deref()),
            insecure: Vec::new(),
        })
    }

    /// Returns what an alias makes of the name of an image; names with a host, and others, stay as they are.
    pub fn qualify(&self, text: &str) -> String {
        let end = text.find(['@', ':']).unwrap_or(text.len());
        match self.registries.alias(&text[..end]) {
            Some(full) => format!("{full}{}", &text[end..]),
            None => text.to_owned(),
        }
    }

    /// Returns whom to ask for a repository of `host`, the nearest first; the registry itself is the last.
    pub fn endpoints(&self, host: &str, repository: &str, purpose: Purpose) -> Result<Vec<Endpoint>> {
        let whole = if repository.is_empty() { host.to_owned() } else { format!("{host}/{repository}") };
        let sources = self.registries.sources(&whole, purpose).ok_or_else(|| {
            let error =
                Error::new(ErrorKind::PermissionDenied, format!("{whole} is blocked by registries.conf"));
            error.hint("ask who set blocked = true there")
        })?;
        let mut endpoints = Vec::new();
        for source in sources {
            let (host, repository) = source.name.split_once('/').unwrap_or((&source.name, ""));
            if !url::is_authority(host) {
                let message = format!("{:?} is no registry", source.name);
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .hint("a registry is HOST or HOST:PORT, also in registries.conf"));
            }
            let authority = if host == HUB.0 { HUB.1 } else { host };
            let insecure = source.insecure || self.insecure.iter().any(|known| known == host);
            let origin = Endpoint {
                host: host.to_owned(),
                authority: authority.to_owned(),
                secure: None,
                base: "/v2".to_owned(),
                repository: repository.to_owned(),
                namespace: None,
                insecure,
                trust: Trust { anyone: insecure, ..Trust::default() },
                headers: Vec::new(),
                is_mirror: source.is_mirror,
            };
            endpoints.extend(self.certificates.endpoints(origin, purpose)?);
        }
        Ok(endpoints)
    }

    /// Returns how a host is reached that answers for no repository: token servers, the ends of redirects.
    pub(super) fn trust(&self, authority: &str) -> Result<Trust> {
        let host = if authority == HUB.1 { HUB.0 } else { authority };
        let anyone = self.insecure.iter().any(|known| known == host) || self.registries.is_insecure(host);
        Ok(Trust { anyone, ..self.certificates.trust(authority)? })
    }
}

#[cfg(test)]
mod tests;
