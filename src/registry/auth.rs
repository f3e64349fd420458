//! Being let in: what a host wants is asked once, and tokens are kept until they end.
//!
//! Words: a *challenge* is what the host wants to see; a *realm* is the address of the server that gives tokens; a *scope* is
//! what a token is good for. Credentials are shown to the host (basic) or to its realm (bearer) and to nobody else; a token
//! only to the host it was asked for.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde::Deserialize;

use super::challenge::Challenge;
use super::client::Client;
use super::credentials::Credential;
use super::error::Refusal;
use super::hosts::Endpoint;
use super::scope::Scope;
use super::transport::{Method, Response};
use super::url::{Url, escaped};

/// How long what was found in files, or said by a helper program, is shown without looking again.
const KNOWN: Duration = Duration::from_secs(300);

/// How long a token is good that does not say so, by the specification.
const UNSAID: Duration = Duration::from_secs(60);

/// Bytes of the largest answer of a token server: tokens of big clouds have some ten thousand.
const LIMIT: u64 = 1 << 20;

/// The name by which token servers know this program.
const CLIENT: &str = "rootling";

/// What one host wants, and what it was given.
pub(super) struct Session {
    /// The address of the host's root, and with it the scheme.
    pub(super) root: OnceLock<Url>,
    /// Held by the thread that finds out: the others wait, and take its failure for theirs. When it failed last, and how.
    finding: Mutex<Option<(Instant, Error)>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: Wanted,
    tokens: HashMap<Vec<Scope>, Token>,
}

#[derive(Default, Clone)]
enum Wanted {
    #[default]
    Nothing,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

/// What is shown for some scopes.
struct Token {
    /// The header `Authorization`.
    header: String,
    /// When it is better to ask for another.
    stale: Instant,
}

impl Token {
    fn known(header: String) -> Self {
        Self { header, stale: Instant::now() + KNOWN }
    }
}

/// What token servers answer.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    token: String,
    access_token: String,
    expires_in: Option<u64>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new() -> Self {
        Self { root: OnceLock::new(), finding: Mutex::default(), state: Mutex::default() }
    }

    /// Returns the root, and what it answered is learnt; `find` is called by one thread at a time, until it succeeds.
    pub(super) fn root(&self, find: impl FnOnce() -> Result<(Url, Response)>) -> Result<&Url> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let asked = Instant::now();
        let mut failed = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(retold(error));
        }
        let found = find().and_then(|(root, response)| {
            self.learn(&response, &root).context(|| root.shown())?;
            Ok(root)
        });
        match found {
            // Last: whoever sees it knows the rest.
            Ok(root) => Ok(self.root.get_or_init(|| root)),
            Err(error) => {
                *failed = Some((Instant::now(), retold(&error)));
                Err(error)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from an answer what the host wants.
    fn learn(&self, response: &Response, root: &Url) -> Result<()> {
        let wanted = wanted(response, root)?;
        self.state().wanted = wanted;
        Ok(())
    }

    pub(super) fn wants_something(&self) -> bool {
        !matches!(self.state().wanted, Wanted::Nothing)
    }

    /// Returns the header `Authorization` for these scopes; `None` where the host wants none, or nothing is known to show it.
    ///
    /// Threads that want the same token wait for the first one's.
    pub(super) fn authorization(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        scopes: &[Scope],
    ) -> Result<Option<String>> {
        let mut state = self.state();
        if matches!(state.wanted, Wanted::Nothing) {
            return Ok(None);
        }
        let mut key = scopes.to_vec();
        key.sort();
        key.dedup();
        if let Some(token) = state.tokens.get(&key).filter(|token| token.stale > Instant::now()) {
            return Ok(Some(token.header.clone()));
        }
        let token = match (state.wanted.clone(), client.credential(endpoint)?) {
            (_, Some(Credential::Bearer(token))) => Token::known(format!("Bearer {token}")),
            (Wanted::Basic, Some(Credential::Password { username, password })) => {
                Token::known(basic(&username, &password))
            }
            (Wanted::Bearer { realm, service }, credential) => {
                let asking = Asking { client, endpoint, realm, service: service.as_deref(), scopes: &key };
                asking.token(credential.as_ref())?
            }
            (Wanted::Basic | Wanted::Nothing, _) => return Ok(None),
        };
        let header = token.header.clone();
        state.tokens.insert(key, token);
        Ok(Some(header))
    }

    /// Makes the next request with these scopes ask for a new token; returns the scopes that the answer asked for.
    pub(super) fn refused(&self, root: &Url, scopes: &[Scope], response: &Response) -> Result<Vec<Scope>> {
        self.learn(response, root)?;
        let asked = response.headers("www-authenticate").flat_map(Challenge::parse);
        let asked = asked.filter_map(|challenge| challenge.parameter("scope").map(str::to_owned));
        let mut scopes = scopes.to_vec();
        for scope in asked.flat_map(|scope| scope.split_whitespace().map(str::to_owned).collect::<Vec<_>>()) {
            if !scopes.iter().any(|known| known.to_string() == scope) {
                scopes.push(Scope::Asked(scope));
            }
        }
        self.state().tokens.clear();
        Ok(scopes)
    }
}

/// Returns the same for another thread.
fn retold(error: &Error) -> Error {
    Error::retold(error.kind(), error.chain(), error.first_hint().map(str::to_owned))
}

/// Returns what the challenges of an answer come to; bearer goes before basic, as docker has it.
fn wanted(response: &Response, root: &Url) -> Result<Wanted> {
    if response.status != 401 {
        return Ok(Wanted::Nothing);
    }
    let challenges: Vec<Challenge> =
        response.headers("www-authenticate").flat_map(Challenge::parse).collect();
    if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
        let realm = bearer.parameter("realm").ok_or_else(|| strange("its bearer challenge has no realm"))?;
        let realm = root.join(realm)?;
        // A host that is reached safely sends nobody to where all can listen.
        if root.secure && !realm.secure {
            return Err(strange(&format!("it wants credentials sent to {} in the clear", realm.shown())));
        }
        return Ok(Wanted::Bearer { realm, service: bearer.parameter("service").map(str::to_owned) });
    }
    if challenges.iter().any(|challenge| challenge.scheme == "basic") {
        return Ok(Wanted::Basic);
    }
    match challenges.first() {
        // Some proxies want nothing at the root that they could name.
        None => Ok(Wanted::Nothing),
        Some(other) => Err(strange(&format!("it wants {:?}, which is not known", other.scheme))),
    }
}

fn strange(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, why.to_owned())
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// One question to a token server.
struct Asking<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    realm: Url,
    service: Option<&'a str>,
    scopes: &'a [Scope],
}

impl Asking<'_> {
    /// Asks as whom the credential is, or as nobody.
    ///
    /// Identity tokens go by [OAuth 2](https://distribution.github.io/distribution/spec/auth/oauth/), the others by
    /// [the older way](https://distribution.github.io/distribution/spec/auth/token/), which all token servers have.
    fn token(&self, credential: Option<&Credential>) -> Result<Token> {
        let context = || format!("get a token for {} from {}", self.endpoint.name(), self.realm.shown());
        let answer = match credential {
            Some(Credential::Identity(token)) => {
                self.post(&[("grant_type", "refresh_token"), ("refresh_token", token)])
            }
            Some(Credential::Password { username, password }) => match self.get(Some((username, password))) {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => {
                    self.post(&[("grant_type", "password"), ("username", username), ("password", password)])
                }
                Err(error) => Err(error),
            },
            Some(Credential::Bearer(_)) | None => {
                self.get(None).and_then(|answer| answer.ok_or_else(|| strange("it gives none by GET")))
            }
        };
        answer.and_then(Answer::token).context(context)
    }

    /// Asks by GET; `None` if the server does not have this way.
    fn get(&self, who: Option<(&str, &str)>) -> Result<Option<Answer>> {
        let mut url = self.realm.clone();
        if let Some(service) = self.service {
            url = url.with("service", service);
        }
        for scope in self.scopes {
            url = url.with("scope", &scope.to_string());
        }
        if let Some((username, _)) = who {
            url = url.with("account", username).with("client_id", CLIENT);
        }
        let header = who.map(|(username, password)| basic(username, password));
        let headers: Vec<(&str, &str)> =
            header.iter().map(|header| ("authorization", header.as_str())).collect();
        let mut response = self.client.ask(Method::Get, &url, &headers, &[], self.endpoint)?;
        match response.status {
            404 | 405 if who.is_some() => Ok(None),
            _ => self.read(Method::Get, &url, &mut response).map(Some),
        }
    }

    fn post(&self, fields: &[(&str, &str)]) -> Result<Answer> {
        let scopes: Vec<String> = self.scopes.iter().map(ToString::to_string).collect();
        let scopes = scopes.join(" ");
        let mut all = fields.to_vec();
        all.extend([("client_id", CLIENT), ("access_type", "offline"), ("scope", scopes.as_str())]);
        all.extend(self.service.map(|service| ("service", service)));
        let form: Vec<String> =
            all.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let form = form.join("&");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let mut response =
            self.client.ask(Method::Post, &self.realm, &headers, form.as_bytes(), self.endpoint)?;
        self.read(Method::Post, &self.realm, &mut response)
    }

    fn read(&self, method: Method, url: &Url, response: &mut Response) -> Result<Answer> {
        if response.status != 200 {
            return Err(Refusal::read(response).error(method, url, &self.endpoint.host));
        }
        let body = response.read(LIMIT).context(|| "read the token")?;
        let answer = body.and_then(|body| serde_json::from_slice(&body).ok());
        answer.ok_or_else(|| strange("the answer is no token"))
    }
}

impl Answer {
    fn token(self) -> Result<Token> {
        let text = if self.token.is_empty() { self.access_token } else { self.token };
        // It becomes a header: nothing may end the line.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(strange("the answer has no token"));
        }
        let life = self.expires_in.map_or(UNSAID, Duration::from_secs).max(Duration::from_secs(1));
        // The registry's clock may be ahead, and a request takes time.
        let stale = Instant::now() + life.mul_f64(0.8).min(Duration::from_secs(24 * 3600));
        Ok(Token { header: format!("Bearer {text}"), stale })
    }
}
