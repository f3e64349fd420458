//! `certs.d`: a directory for each host with certificates, and containerd's `hosts.toml` with mirrors.
//!
//! ```text
//! certs.d/registry.example:5000/ca.crt            an authority to believe
//!                               client.cert .key  what to show
//!                               hosts.toml        who else may be asked, and how
//! certs.d/_default/hosts.toml                     for hosts that have none
//! ```
//!
//! Formats: [docker](https://docs.docker.com/engine/security/certificates/),
//! [containers-certs.d(5)](https://github.com/containers/image/blob/main/docs/containers-certs.d.5.md),
//! [containerd](https://github.com/containerd/containerd/blob/main/docs/hosts.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rootling_backends::{Context as _, Error, ErrorKind, Result, small_file};
use serde::Deserialize;
use toml::{Spanned, Value};

use super::{Endpoint, Purpose};
use crate::registry::transport::Trust;
use crate::registry::url::{Url, is_loopback};

/// Bytes in the largest `hosts.toml`.
const LIMIT: u64 = 1 << 20;

/// Directories that have a directory for each host.
#[derive(Debug, Clone, Default)]
pub struct CertificateDirectories {
    directories: Vec<PathBuf>,
}

/// What `hosts.toml` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    server: Option<String>,
    host: BTreeMap<Spanned<String>, Rules>,
}

/// How one server is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rules {
    capabilities: Option<Vec<String>>,
    ca: Option<Value>,
    client: Option<Value>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, Value>,
}

impl CertificateDirectories {
    /// Returns the user's, podman's, docker's and containerd's.
    pub fn of(config: Option<&Path>) -> Self {
        let own = config.iter().map(|config| config.join("containers/certs.d"));
        let system = ["/etc/containers/certs.d", "/etc/docker/certs.d", "/etc/containerd/certs.d"];
        Self { directories: own.chain(system.map(PathBuf::from)).collect() }
    }

    /// Returns these in place of the usual ones.
    pub fn in_directories(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    fn of_host<'a>(&'a self, host: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        // containerd writes `host_port_` too, as names with colons are no good elsewhere.
        let underscored = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
        let names: Vec<String> = [Some(host.to_owned()), underscored].into_iter().flatten().collect();
        self.directories.iter().flat_map(move |directory| {
            names.clone().into_iter().map(move |name| directory.join(name)).filter(|path| path.is_dir())
        })
    }

    /// Returns the certificates that lie there for a host.
    pub(crate) fn trust(&self, host: &str) -> Result<Trust> {
        let mut trust = Trust::default();
        for directory in self.of_host(host) {
            let entries = std::fs::read_dir(&directory).context(|| format!("readdir({directory:?})"))?;
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => trust.authorities.push(file),
                    Some("cert") => {
                        let key = file.with_extension("key");
                        if !key.exists() {
                            let message = format!("{} has no {} beside it", file.display(), key.display());
                            return Err(Error::new(ErrorKind::InvalidInput, message));
                        }
                        trust.client.get_or_insert((file, key));
                    }
                    _ => {}
                }
            }
        }
        Ok(trust)
    }

    /// Returns the mirrors that `hosts.toml` has for a server, and the server as it says.
    pub(super) fn endpoints(&self, mut origin: Endpoint, purpose: Purpose) -> Result<Vec<Endpoint>> {
        let by_host = self.trust(&origin.host)?;
        let by_authority =
            if origin.authority == origin.host { Trust::default() } else { self.trust(&origin.authority)? };
        origin.trust.authorities.extend(by_host.authorities.into_iter().chain(by_authority.authorities));
        origin.trust.client = by_host.client.or(by_authority.client);
        let named = self.of_host(&origin.host).map(|directory| directory.join("hosts.toml"));
        let defaults = self.directories.iter().map(|directory| directory.join("_default/hosts.toml"));
        let Some(file) = named.chain(defaults).find(|file| file.is_file()) else { return Ok(vec![origin]) };
        let read = || -> Result<Vec<Endpoint>> {
            let text = String::from_utf8(small_file::read(&file, LIMIT)?)
                .map_err(|_| Error::new(ErrorKind::InvalidInput, "it is not UTF-8"))?;
            let directory = file.parent().unwrap_or(Path::new("/"));
            let mut all = parse(&text, directory, origin, purpose)?;
            for mirror in all.iter_mut().filter(|endpoint| endpoint.namespace.is_some()) {
                let own = self.trust(&mirror.authority)?;
                mirror.trust.authorities.extend(own.authorities);
                mirror.trust.client = mirror.trust.client.take().or(own.client);
            }
            Ok(all)
        };
        read().context(|| format!("read hosts of {}", file.display()))
    }
}

/// Reads a `hosts.toml`: who is asked in place of `origin`, which comes last.
pub(super) fn parse(
    text: &str,
    directory: &Path,
    mut origin: Endpoint,
    purpose: Purpose,
) -> Result<Vec<Endpoint>> {
    let wrong =
        |error: toml::de::Error| Error::new(ErrorKind::InvalidInput, error.to_string().trim_end().to_owned());
    let written: Written = toml::from_str(text).map_err(wrong)?;
    // What stands outside of tables is about the server itself.
    let itself: Rules = toml::from_str(text).map_err(wrong)?;
    let mut endpoints = Vec::new();
    let mut hosts: Vec<(Spanned<String>, Rules)> = written.host.into_iter().collect();
    // They are asked in the order in which they are written.
    hosts.sort_by_key(|(name, _)| name.span().start);
    for (name, rules) in hosts {
        if !rules.allows(purpose) {
            continue;
        }
        let mut mirror = Endpoint {
            trust: Trust::default(),
            headers: Vec::new(),
            insecure: false,
            namespace: Some(origin.host.clone()),
            is_mirror: true,
            ..origin.clone()
        };
        rules.apply(name.get_ref(), directory, &mut mirror)?;
        endpoints.push(mirror);
    }
    let server = written.server.unwrap_or_else(|| origin.authority.clone());
    let (host, repository) = (origin.host.clone(), origin.repository.clone());
    itself.apply(&server, directory, &mut origin)?;
    // Names and credentials stay those of the registry.
    (origin.host, origin.repository) = (host, repository);
    endpoints.push(origin);
    Ok(endpoints)
}

impl Rules {
    fn allows(&self, purpose: Purpose) -> bool {
        let has = |word: &str| match &self.capabilities {
            Some(words) => words.iter().any(|known| known == word),
            // What was not said to take pushes gets none: it is a mirror.
            None => word != "push",
        };
        match purpose {
            Purpose::Tag => has("pull") && has("resolve"),
            Purpose::Digest => has("pull"),
            Purpose::Origin => has("push"),
        }
    }

    fn apply(&self, server: &str, directory: &Path, endpoint: &mut Endpoint) -> Result<()> {
        let has_scheme = server.contains("://");
        let url = Url::parse(&if has_scheme { server.to_owned() } else { format!("https://{server}") })?;
        let insecure = self.skip_verify || endpoint.insecure;
        if has_scheme && !url.secure && !insecure && !is_loopback(&url.authority) {
            // It is written there: who writes http:// means it.
            endpoint.insecure = true;
        }
        endpoint.secure = has_scheme.then_some(url.secure);
        endpoint.authority.clone_from(&url.authority);
        endpoint.host.clone_from(&url.authority);
        let path = url.path_only().trim_end_matches('/').to_owned();
        endpoint.base = match (self.override_path, path.as_str()) {
            (true, path) => path.to_owned(),
            (false, path) if path.ends_with("/v2") => path.to_owned(),
            (false, path) => format!("{path}/v2"),
        };
        endpoint.insecure |= insecure;
        endpoint.trust.anyone |= insecure;
        let below = |path: &str| directory.join(path);
        for ca in strings(self.ca.as_ref())? {
            endpoint.trust.authorities.push(below(&ca));
        }
        if let Some(client) = self.client.as_ref().map(pair).transpose()? {
            // Alone, the file holds both.
            let key = client.1.unwrap_or_else(|| client.0.clone());
            endpoint.trust.client = Some((below(&client.0), below(&key)));
        }
        for (name, value) in &self.header {
            for value in strings(Some(value))? {
                endpoint.headers.push((name.to_ascii_lowercase(), value));
            }
        }
        Ok(())
    }
}

/// Reads a string, or several in a list.
fn strings(value: Option<&Value>) -> Result<Vec<String>> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(all)) => {
            all.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(no_text)).collect()
        }
        Some(_) => Err(no_text()),
    }
}

/// Reads `"client.pem"`, `["client.pem"]`, `["client.cert", "client.key"]` or a list of such a pair.
fn pair(value: &Value) -> Result<(String, Option<String>)> {
    let value = match value {
        Value::Array(all) => match all.first() {
            Some(first @ Value::Array(_)) => first,
            _ => value,
        },
        _ => value,
    };
    let mut texts = strings(Some(value))?.into_iter();
    let certificate = texts.next().ok_or_else(no_text)?;
    Ok((certificate, texts.next().filter(|key| !key.is_empty())))
}

fn no_text() -> Error {
    Error::new(ErrorKind::InvalidInput, "a string, or a list of strings, belongs here")
}
