//! Credential helpers: programs `docker-credential-NAME` that keep secrets elsewhere, spoken to by
//! [docker's protocol](https://github.com/docker/docker-credential-helpers): one word as argument, JSON by the standard streams.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde_json::json;

use super::credentials::Credential;

/// The user name that says: the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Bytes that a helper may answer.
const LIMIT: u64 = 4 << 20;

/// A helper program.
#[derive(Debug)]
pub(super) struct Helper {
    /// The name that messages have.
    program: String,
    path: PathBuf,
}

/// What a helper knows of one server.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Known {
    username: String,
    secret: String,
}

impl Helper {
    /// Names come from files: what is no plain word is no program.
    pub(super) fn new(name: &str, directories: &[PathBuf]) -> Result<Self> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_part) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{name:?} names no credential helper")));
        }
        let program = format!("docker-credential-{name}");
        let path = directories.iter().map(|directory| directory.join(&program)).find(|path| path.exists());
        Ok(Self { path: path.unwrap_or_else(|| PathBuf::from(&program)), program })
    }

    /// Returns what it knows of a server.
    pub(super) fn get(&self, server: &str) -> Result<Option<Credential>> {
        let answer = match self.run("get", server.as_bytes())? {
            Ok(answer) => answer,
            Err(why) if is_unknown(&why) => return Ok(None),
            Err(why) => return Err(self.failed("get", &why)),
        };
        let known: Known = serde_json::from_slice(&answer).map_err(|_| self.failed("get", "no JSON"))?;
        if known.secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(match known.username.as_str() {
            TOKEN_USER => Credential::Identity(known.secret),
            _ => Credential::Password { username: known.username, password: known.secret },
        }))
    }

    /// Gives it something to keep.
    pub(super) fn store(&self, server: &str, credential: &Credential) -> Result<()> {
        let (username, secret) = match credential {
            Credential::Password { username, password } => (username.as_str(), password),
            Credential::Identity(token) | Credential::Bearer(token) => (TOKEN_USER, token),
        };
        let known = json!({ "ServerURL": server, "Username": username, "Secret": secret });
        self.run("store", known.to_string().as_bytes())?.map(drop).map_err(|why| self.failed("store", &why))
    }

    /// Makes it forget a server; returns whether it knew it.
    pub(super) fn erase(&self, server: &str) -> Result<bool> {
        // Some helpers succeed at what they never knew.
        if self.get(server)?.is_none() {
            return Ok(false);
        }
        match self.run("erase", server.as_bytes())? {
            Ok(_) => Ok(true),
            Err(why) if is_unknown(&why) => Ok(false),
            Err(why) => Err(self.failed("erase", &why)),
        }
    }

    /// Returns the servers that it knows, and the names that go with them.
    pub(super) fn list(&self) -> Result<BTreeMap<String, String>> {
        let answer = self.run("list", b"")?.map_err(|why| self.failed("list", &why))?;
        serde_json::from_slice(&answer).map_err(|_| self.failed("list", "no JSON"))
    }

    fn failed(&self, action: &str, why: &str) -> Error {
        Error::new(ErrorKind::Io, format!("{} {action}: {}", self.program, why.trim()))
    }

    /// Runs it; the inner error is what it said when it failed.
    fn run(&self, action: &str, input: &[u8]) -> Result<Result<Vec<u8>, String>> {
        let call = || format!("run {} {action}", self.program);
        let spawned = Command::new(&self.path)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = spawned.context(call).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                error.hint(format!("install {}, or take it out of the file of credentials", self.program))
            }
            _ => error,
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that reads nothing tells why by its status.
            drop(stdin.write_all(input));
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LIMIT).read_to_end(&mut answer).context(call)?;
        }
        let status = child.wait().context(call)?;
        if status.success() {
            return Ok(Ok(answer));
        }
        let said = String::from_utf8_lossy(&answer).into_owned();
        Ok(Err(if said.trim().is_empty() { status.to_string() } else { said }))
    }
}

/// What all helpers say of a server that they do not know.
fn is_unknown(said: &str) -> bool {
    let said = said.trim();
    said.starts_with("credentials not found") || said.contains("no credentials server URL")
}
