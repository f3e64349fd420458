//! Who one is at which registry: the files of podman and docker, and the helper programs that they name.
//!
//! ```text
//! 1. $REGISTRY_AUTH_FILE                            only this one, where it is set
//! 2. $XDG_RUNTIME_DIR/containers/auth.json          what `login` writes
//! 3. $XDG_CONFIG_HOME/containers/auth.json          (~/.config)
//! 4. $DOCKER_CONFIG/config.json                     (~/.docker)
//! ```
//!
//! As [containers-auth.json(5)](https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md) has it, a key of
//! `auths` is a host or a part of a repository's path, and the longest one that fits counts; helpers are by host. The first
//! file that knows anything of a repository decides.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rootling_backends::{Context as _, Error, ErrorKind, Result, small_file};
use serde_json::{Map, Value, json};

use super::helper::Helper;

/// Bytes in the largest file of credentials.
const LIMIT: u64 = 4 << 20;

/// The name by which docker's files and helpers know the hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// How one shows who one is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password (or what stands for one).
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that a token server exchanges for others (OAuth 2's refresh token).
    Identity(String),
    /// A token that is shown to the registry as it is.
    Bearer(String),
}

/// Secrets are not printed.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username:?})"),
            Self::Identity(_) => f.write_str("Identity"),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// The files of credentials, in the order in which they are asked.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    /// Where helpers are looked for, beside `PATH`.
    helpers_in: Vec<PathBuf>,
}

impl Credentials {
    /// Returns the places that the environment names; `uid` is for where there is no `XDG_RUNTIME_DIR`.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>, uid: u32) -> Self {
        let read = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = read("REGISTRY_AUTH_FILE") {
            return Self::in_files(vec![file]);
        }
        let runtime = match read("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("containers/auth.json"),
            None => PathBuf::from(format!("/run/containers/{uid}/auth.json")),
        };
        let home = read("HOME");
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let config = read("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let docker = read("DOCKER_CONFIG").or_else(|| below_home(".docker"));
        let others = [
            config.map(|config| config.join("containers/auth.json")),
            docker.map(|docker| docker.join("config.json")),
        ];
        Self::in_files([runtime].into_iter().chain(others.into_iter().flatten()).collect())
    }

    /// Returns these files in place of the environment's.
    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files, helpers_in: Vec::new() }
    }

    /// Looks for helper programs in these directories before those of `PATH`.
    #[must_use]
    pub fn with_helpers_in(self, directories: Vec<PathBuf>) -> Self {
        Self { helpers_in: directories, ..self }
    }

    /// Returns the file that `login` writes.
    pub fn written(&self) -> Option<&Path> {
        self.files.first().map(PathBuf::as_path)
    }

    /// Returns what is known for a repository of `host`; an empty `repository` is the host itself.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>> {
        for path in &self.files {
            let Some(file) = Contents::read(path)? else { continue };
            let found = file.find(host, repository, &self.helpers_in);
            if let Some(credential) = found.context(|| format!("read credentials of {host} in {path:?}"))? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    /// Keeps what is shown to `key`, a host or a part of a repository's path, in the first file or the helper that it names.
    ///
    /// The file is replaced by a rename and readable by its owner only; what else it says stays.
    pub fn store(&self, key: &str, credential: &Credential) -> Result<PathBuf> {
        let path = self.written().ok_or_else(no_file)?;
        let (host, _) = split(key);
        if let Some(helper) = Contents::read(path)?.unwrap_or_default().helper_for(host, &self.helpers_in) {
            helper.store(helper_key(key), credential)?;
            return Ok(path.to_owned());
        }
        let entry = match credential {
            Credential::Password { username, password } => {
                json!({ "auth": STANDARD.encode(format!("{username}:{password}")) })
            }
            Credential::Identity(token) => json!({ "identitytoken": token }),
            Credential::Bearer(token) => json!({ "registrytoken": token }),
        };
        change(path, |auths| {
            auths.retain(|known, _| normal(known) != key);
            auths.insert(file_key(key).to_owned(), entry);
            true
        })?;
        Ok(path.to_owned())
    }

    /// Forgets what is shown to `key`; returns the files (or the helpers' files) that knew it, none if none did.
    pub fn erase(&self, key: &str) -> Result<Vec<PathBuf>> {
        let mut from = Vec::new();
        let (host, _) = split(key);
        for path in &self.files {
            let Some(contents) = Contents::read(path)? else { continue };
            let mut knew = false;
            if let Some(helper) = contents.helper_for(host, &self.helpers_in) {
                for name in names_of(key) {
                    knew |= helper.erase(&name)?;
                }
            }
            knew |= change(path, |auths| {
                let before = auths.len();
                auths.retain(|known, _| normal(known) != key);
                auths.len() < before
            })?;
            if knew {
                from.push(path.clone());
            }
        }
        Ok(from)
    }

    /// Returns every key that is known and the name that goes with it, where there is one.
    pub fn list(&self) -> Result<BTreeMap<String, Option<String>>> {
        let mut all = BTreeMap::new();
        for path in self.files.iter().rev() {
            let Some(contents) = Contents::read(path)? else { continue };
            all.extend(contents.list(&self.helpers_in).context(|| format!("list credentials in {path:?}"))?);
        }
        Ok(all)
    }
}

fn no_file() -> Error {
    let error = Error::new(ErrorKind::NotFound, "no place for credentials: no home is known");
    error.hint("name a file: REGISTRY_AUTH_FILE=FILE")
}

/// One file, parsed.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Contents {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

/// What a file says of one key.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry")
    }
}

impl Contents {
    fn read(path: &Path) -> Result<Option<Self>> {
        match small_file::read(path, LIMIT) {
            Ok(text) if text.trim_ascii().is_empty() => Ok(None),
            Ok(text) => Ok(Some(Self::parse(&text).context(|| format!("read credentials of {path:?}"))?)),
            // A home that others may not look into is none: sudo leaves such ones in the environment.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn parse(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|error| {
            // What the parser found there may be a secret: only the place is told.
            let message =
                format!("no JSON of credentials at line {}, column {}", error.line(), error.column());
            Error::new(ErrorKind::InvalidInput, message)
        })
    }

    fn find(&self, host: &str, repository: &str, helpers_in: &[PathBuf]) -> Result<Option<Credential>> {
        if let Some(name) =
            self.cred_helpers.iter().find(|(key, _)| normal(key) == host).map(|(_, name)| name)
        {
            let helper = Helper::new(name, helpers_in)?;
            for name in names_of(host) {
                if let Some(found) = helper.get(&name)? {
                    return Ok(Some(found));
                }
            }
        }
        let whole = if repository.is_empty() { host.to_owned() } else { format!("{host}/{repository}") };
        let fits =
            |key: &str| whole == key || whole.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
        let mut entries: Vec<(String, &Entry)> =
            self.auths.iter().map(|(key, entry)| (normal(key), entry)).filter(|(key, _)| fits(key)).collect();
        entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        for (_, entry) in entries {
            if let Some(found) = entry.credential()? {
                return Ok(Some(found));
            }
        }
        // Entries that are empty stand for what the one store of all keeps.
        let Some(store) = &self.creds_store else { return Ok(None) };
        let helper = Helper::new(store, helpers_in)?;
        for name in names_of(host) {
            if let Some(found) = helper.get(&name)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn helper_for(&self, host: &str, helpers_in: &[PathBuf]) -> Option<Helper> {
        let of_host = self.cred_helpers.iter().find(|(key, _)| normal(key) == host).map(|(_, name)| name);
        of_host.or(self.creds_store.as_ref()).and_then(|name| Helper::new(name, helpers_in).ok())
    }

    fn list(&self, helpers_in: &[PathBuf]) -> Result<BTreeMap<String, Option<String>>> {
        let mut all = BTreeMap::new();
        let names: std::collections::BTreeSet<&String> =
            self.cred_helpers.values().chain(&self.creds_store).collect();
        for name in names {
            let listed = Helper::new(name, helpers_in)?.list()?;
            all.extend(listed.into_iter().map(|(key, user)| (normal(&key), Some(user))));
        }
        for (key, entry) in &self.auths {
            let user = match entry.credential()? {
                Some(Credential::Password { username, .. }) => Some(username),
                Some(_) => None,
                None => continue,
            };
            all.insert(normal(key), user);
        }
        Ok(all)
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Some(Credential::Identity(token)));
        }
        if let Some(token) = set(&self.registrytoken) {
            return Ok(Some(Credential::Bearer(token)));
        }
        let Some(auth) = set(&self.auth) else {
            let both = set(&self.username).zip(set(&self.password));
            return Ok(both.map(|(username, password)| Credential::Password { username, password }));
        };
        let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
        let (username, password) = pair
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "an auth is not NAME:PASSWORD in base64"))?;
        // Docker pads with zeros.
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credential::Password { username: username.to_owned(), password }))
    }
}

/// Returns a key as hosts and paths are written here: docker writes addresses, with paths of its API.
fn normal(key: &str) -> String {
    let without_scheme = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = split(without_scheme.unwrap_or(key).trim_end_matches('/'));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    // Only keys without a scheme are of a part of the host.
    match path {
        "" | "v1" | "v2" => host.to_owned(),
        _ if without_scheme.is_some() => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or((key, ""))
}

/// Returns the names by which helpers may know a key.
fn names_of(key: &str) -> Vec<String> {
    match key {
        "docker.io" => vec![HUB_KEY.to_owned(), key.to_owned()],
        _ => vec![key.to_owned(), format!("https://{key}")],
    }
}

fn helper_key(key: &str) -> &str {
    if key == "docker.io" { HUB_KEY } else { key }
}

/// Returns the key under which it is written: one that docker and podman both find.
fn file_key(key: &str) -> &str {
    helper_key(key)
}

/// Changes the `auths` of a file; does nothing where `with` says that nothing changed.
fn change(path: &Path, with: impl FnOnce(&mut Map<String, Value>) -> bool) -> Result<bool> {
    // What a link leads to is changed, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let context = || format!("change credentials in {path:?}");
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory).context(|| format!("mkdir({directory:?})")).context(context)?;
    // Two logins at once write one after the other.
    let held = File::open(directory).context(|| format!("open({directory:?})")).context(context)?;
    held.lock().context(|| format!("flock({directory:?})")).context(context)?;
    let mut all = match small_file::read(path, LIMIT) {
        Ok(text) if text.trim_ascii().is_empty() => json!({}),
        Ok(text) => {
            Contents::parse(&text).context(context)?;
            serde_json::from_slice(&text).unwrap_or_else(|_| json!({}))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => json!({}),
        Err(error) => return Err(error.context(context())),
    };
    let Some(fields) = all.as_object_mut() else {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no JSON object").context(context()));
    };
    let auths = fields.entry("auths").or_insert_with(|| json!({}));
    let Some(auths) = auths.as_object_mut() else {
        return Err(Error::new(ErrorKind::InvalidInput, "its auths are no JSON object").context(context()));
    };
    if !with(auths) {
        return Ok(false);
    }
    let mut text = serde_json::to_vec_pretty(&all).expect("JSON that was read is written");
    text.push(b'\n');
    replace(directory, path, &text).context(context)?;
    Ok(true)
}

fn replace(directory: &Path, path: &Path, text: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = directory.join(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write()
        .inspect_err(|_| {
            // Best effort: the first error is the one to tell.
            drop(fs::remove_file(&aside));
        })
        .context(|| format!("write({aside:?})"))
}

#[cfg(test)]
mod tests;
