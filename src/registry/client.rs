//! The client: one request with all that belongs to it (scheme, token, redirects, retries), and whom to ask.
//!
//! ```text
//! send ── for each try ─ once ── authorization, exchange ── 401: a new token, once more
//!            │                                           └─ redirect: followed, without authorization elsewhere
//!            └─ passing failure: wait as long as asked or doubled, and again
//! ```

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rootling_backends::{Error, ErrorKind, Result};

use super::auth::Session;
use super::credentials::Credential;
use super::error::{Refusal, cancelled, unanswered};
use super::hosts::{Endpoint, Purpose};
use super::retry;
use super::scope::Scope;
use super::settings::Settings;
use super::transport::{Body, Failure, Fault, Method, Response, Transport, Trust};
use super::url::{self, Url};

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// Times that a host is tried that nobody answers for.
const CONNECTS: u32 = 3;

/// How many pulls a registry still gives, as the hub's headers have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Pulls in one window.
    pub limit: u64,
    /// Those that are left.
    pub remaining: u64,
    /// Seconds of the window, where it was said.
    pub window_seconds: Option<u64>,
}

/// Authority, scheme, trust and base: what makes two endpoints one server with one way in.
type SessionKey = (String, Option<bool>, Trust, String);

/// A client of registries: cheap to share between threads, and to be kept, as it keeps connections and tokens.
#[derive(Debug)]
pub struct Client {
    pub(super) settings: Settings,
    transport: Transport,
    sessions: Mutex<HashMap<SessionKey, Arc<Session>>>,
    rates: Mutex<HashMap<String, RateLimit>>,
}

/// A request as operations have it.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) to: To<'a>,
    pub(super) headers: Vec<(&'a str, String)>,
    /// Sent again with each try.
    pub(super) bytes: &'a [u8],
    pub(super) scopes: Vec<Scope>,
    /// Statuses that are answers and no errors, beside 2xx.
    pub(super) answers: &'a [u16],
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) enum To<'a> {
    /// Below the repository: `manifests/latest`.
    Repository(&'a str),
    /// Below the base: `_catalog`.
    Base(&'a str),
    /// Where the server said.
    Address(&'a Url),
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, to: To<'a>, scopes: Vec<Scope>) -> Self {
        Self { method, to, headers: Vec::new(), bytes: &[], scopes, answers: &[] }
    }

    pub(super) fn answers(self, answers: &'a [u16]) -> Self {
        Self { answers, ..self }
    }

    pub(super) fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Why one try came to nothing.
pub(super) enum Trouble {
    /// No answer.
    Unanswered(Failure, Option<Url>),
    /// An answer that is an error.
    Refused(Refusal, Url, Option<Duration>),
    /// It is no use to go on.
    Final(Error),
}

impl Client {
    /// Returns a client; connects to nobody.
    pub fn new(settings: Settings) -> Self {
        let transport = Transport::new(settings.timeouts, settings.proxies.clone());
        Self { settings, transport, sessions: Mutex::default(), rates: Mutex::default() }
    }

    /// Returns what a host last said of how many pulls are left.
    pub fn rate_limit(&self, host: &str) -> Option<RateLimit> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// Calls off everything that goes on, and all that is asked later: see [`Settings::cancel`].
    pub fn call_off(&self) {
        self.settings.cancel.store(true, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.settings.cancel.load(Ordering::Relaxed) { Err(cancelled()) } else { Ok(()) }
    }

    pub(super) fn credential(&self, endpoint: &Endpoint) -> Result<Option<Credential>> {
        match &self.settings.given {
            // What was given is for the registry that was named, not for its mirrors.
            Some(given) if !endpoint.is_mirror => Ok(Some(given.clone())),
            _ => self.settings.credentials.find(&endpoint.host, &endpoint.repository),
        }
    }

    /// Returns the registry itself, for what mirrors do not do.
    pub(super) fn origin(&self, host: &str, repository: &str) -> Result<Endpoint> {
        let mut endpoints = self.settings.hosts.endpoints(host, repository, Purpose::Origin)?;
        Ok(endpoints.remove(0))
    }

    /// Does `with` at the first endpoint that can; the registry's own failure is the one that is reported.
    pub(super) fn at_first<T>(
        &self,
        host: &str,
        repository: &str,
        purpose: Purpose,
        mut with: impl FnMut(&Endpoint) -> Result<T>,
    ) -> Result<T> {
        let endpoints = self.settings.hosts.endpoints(host, repository, purpose)?;
        let mut last = None;
        for endpoint in &endpoints {
            match with(endpoint) {
                Ok(done) => return Ok(done),
                Err(error) if endpoint.is_mirror => {
                    self.check()?;
                    log::warn!("mirror {} of {host}/{repository}: {error:?}", endpoint.authority);
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::NotFound, format!("{host} has no endpoint"))))
    }

    fn session(&self, endpoint: &Endpoint) -> Result<Arc<Session>> {
        let Endpoint { authority, secure, trust, base, .. } = endpoint;
        let key = (authority.clone(), *secure, trust.clone(), base.clone());
        let session = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.entry(key).or_insert_with(|| Arc::new(Session::new())).clone()
        };
        session.root(|| self.probe(endpoint))?;
        Ok(session)
    }

    /// Finds out which scheme a host speaks and what it wants to be shown, by asking for its root.
    fn probe(&self, endpoint: &Endpoint) -> Result<(Url, Response)> {
        let is_loopback = url::is_loopback(&endpoint.authority);
        let schemes: &[bool] = match endpoint.secure {
            Some(true) => &[true],
            Some(false) if endpoint.insecure || is_loopback => &[false],
            Some(false) => {
                let message = format!("{} speaks plain http", endpoint.authority);
                return Err(Error::new(ErrorKind::FailedPrecondition, message));
            }
            // Servers of tests and of the own machine rarely have certificates, and some wait for ever on a handshake.
            None if is_loopback => &[false, true],
            None if endpoint.insecure => &[true, false],
            None => &[true],
        };
        self.persist(&endpoint.host, endpoint.is_mirror, || self.probe_once(endpoint, schemes))
            .map_err(|trouble| self.final_error(trouble, Method::Get, &endpoint.host))
    }

    /// Tries the schemes; of two failures the one is told that may pass.
    fn probe_once(&self, endpoint: &Endpoint, schemes: &[bool]) -> Result<(Url, Response), Trouble> {
        let mut failure: Option<(Failure, Url)> = None;
        let mut refused = None;
        for secure in schemes {
            self.check().map_err(Trouble::Final)?;
            let root = Url::of_host(*secure, &endpoint.authority);
            let url = namespaced(root.at(&format!("{}/", endpoint.base)), endpoint);
            let sent = self.transport.exchange(
                Method::Get,
                &url,
                &headers_of(endpoint),
                Body::Empty,
                &endpoint.trust,
            );
            match sent {
                // This is what a server of https says to http.
                Ok(response) if response.status == 400 && !secure => refused = Some((root, response)),
                Ok(response) => return Ok((root, response)),
                Err(found) if found.fault == Fault::Certificate => {
                    return Err(Trouble::Unanswered(found, Some(url)));
                }
                Err(found) => {
                    if failure.as_ref().is_none_or(|(known, _)| !known.is_passing()) {
                        failure = Some((found, url));
                    }
                }
            }
        }
        match (refused, failure) {
            (Some(refused), _) => Ok(refused),
            (None, Some((failure, url))) => Err(Trouble::Unanswered(failure, Some(url))),
            (None, None) => Err(Trouble::Final(cancelled())),
        }
    }

    /// Sends a request as often as it takes.
    pub(super) fn send(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Response> {
        self.persist(&endpoint.host, endpoint.is_mirror, || self.once(endpoint, call, None))
            .map_err(|trouble| self.final_error(trouble, call.method, &endpoint.host))
    }

    /// Sends one request, with authorization. What comes from a reader is sent once and never again.
    pub(super) fn once(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        reader: Option<(&mut dyn Read, u64)>,
    ) -> Result<Response, Trouble> {
        let session = self.session(endpoint).map_err(Trouble::Final)?;
        let root = session.root.get().ok_or_else(|| Trouble::Final(cancelled()))?;
        let url = match call.to {
            To::Repository(path) => root.at(&format!("{}/{}/{path}", endpoint.base, endpoint.repository)),
            To::Base(path) => root.at(&format!("{}/{path}", endpoint.base)),
            To::Address(url) => url.clone(),
        };
        let url = namespaced(url, endpoint);
        let at_home = url.same_origin(root);
        let authorization = |scopes: &[Scope]| match at_home {
            true => session.authorization(self, endpoint, scopes).map_err(Trouble::Final),
            false => Ok(None),
        };
        let first = authorization(&call.scopes)?;
        let had_reader = reader.is_some();
        let (sent, from_home) = self.follow(endpoint, call, url.clone(), first.as_deref(), root, reader)?;
        // Whom we were led to has no say in where credentials go.
        if sent.status != 401 || !from_home {
            return self.judge(Ok(sent), &url, call.answers);
        }
        let scopes = session.refused(root, &call.scopes, &sent).map_err(Trouble::Final)?;
        let second = authorization(&scopes)?;
        // Without anything else to show, the answer is this one.
        if had_reader || second == first {
            return self.judge(Ok(sent), &url, call.answers);
        }
        let (sent, _) = self.follow(endpoint, call, url.clone(), second.as_deref(), root, None)?;
        self.judge(Ok(sent), &url, call.answers)
    }

    /// Sends one request and follows where the answer leads; tells also whether the answer is the endpoint's own.
    fn follow(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        mut url: Url,
        authorization: Option<&str>,
        root: &Url,
        mut reader: Option<(&mut dyn Read, u64)>,
    ) -> Result<(Response, bool), Trouble> {
        for _ in 0..=REDIRECTS {
            let at_home = url.same_origin(root);
            let mut headers: Vec<(&str, &str)> =
                call.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            if at_home {
                headers.extend(headers_of(endpoint));
                headers.extend(authorization.map(|value| ("authorization", value)));
            }
            let trust = match at_home {
                true => endpoint.trust.clone(),
                false => self.settings.hosts.trust(&url.authority).map_err(Trouble::Final)?,
            };
            let body = match reader.take() {
                Some((reader, length)) => Body::Reader(reader, length),
                None if call.bytes.is_empty() => Body::Empty,
                None => Body::Bytes(call.bytes),
            };
            self.check().map_err(Trouble::Final)?;
            let sent = self.transport.exchange(call.method, &url, &headers, body, &trust);
            let response = sent.map_err(|failure| Trouble::Unanswered(failure, Some(url.clone())))?;
            self.note_rate(endpoint, &response);
            let Some(location) = redirect(&response, call.method) else {
                return Ok((response, at_home));
            };
            let next = url.join(location).map_err(Trouble::Final)?;
            if url.secure && !next.secure {
                let message = format!("{} leads to {}, in the clear", url.shown(), next.shown());
                return Err(Trouble::Final(Error::new(ErrorKind::PermissionDenied, message)));
            }
            url = next;
        }
        let message = format!("{} leads from one address to another", url.shown());
        Err(Trouble::Final(Error::new(ErrorKind::Io, message)))
    }

    /// Gets what lies at an address that is no registry's, without showing anything: a foreign layer.
    pub(super) fn anonymous(&self, url: &Url, call: &Call<'_>) -> Result<Response, Trouble> {
        let trust = self.settings.hosts.trust(&url.authority).map_err(Trouble::Final)?;
        let nobody = Endpoint { trust, ..Endpoint::default() };
        let (sent, _) = self.follow(&nobody, call, url.clone(), None, url, None)?;
        self.judge(Ok(sent), url, call.answers)
    }

    /// Sends one request to a server of tokens; redirects are not followed, as credentials would go along.
    pub(super) fn ask(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&str, &str)],
        bytes: &[u8],
        endpoint: &Endpoint,
    ) -> Result<Response> {
        let trust = self.settings.hosts.trust(&url.authority)?;
        let is_its_own = endpoint.insecure && url.host() == url::host_of(&endpoint.authority);
        if !(url.secure || trust.anyone || is_its_own || url.is_loopback()) {
            let message = format!("{} leads to {}, in the clear", endpoint.authority, url.shown());
            return Err(Error::new(ErrorKind::PermissionDenied, message)
                .hint(format!("call {} insecure if you trust the way there", url.authority)));
        }
        let trying = || {
            self.check().map_err(Trouble::Final)?;
            let body = if bytes.is_empty() { Body::Empty } else { Body::Bytes(bytes) };
            let sent = self.transport.exchange(method, url, headers, body, &trust);
            self.judge(sent, url, &[301, 302, 303, 307, 308, 400, 401, 403, 404, 405])
        };
        let host = &endpoint.host;
        self.persist(host, false, trying).map_err(|trouble| self.final_error(trouble, method, host))
    }

    /// Sorts an answer: what the caller waits for, or trouble.
    fn judge(
        &self,
        sent: Result<Response, Failure>,
        url: &Url,
        answers: &[u16],
    ) -> Result<Response, Trouble> {
        let mut response = sent.map_err(|failure| Trouble::Unanswered(failure, Some(url.clone())))?;
        if (200..300).contains(&response.status) || answers.contains(&response.status) {
            return Ok(response);
        }
        let asked =
            response.header("retry-after").and_then(|value| retry::retry_after(value, Timestamp::now()));
        Err(Trouble::Refused(Refusal::read(&mut response), url.clone(), asked))
    }

    /// Tries until it works, the trouble is not a passing one, or patience ends.
    pub(super) fn persist<T>(
        &self,
        host: &str,
        is_mirror: bool,
        mut trying: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut failed = 0;
        loop {
            let trouble = match trying() {
                Ok(done) => return Ok(done),
                Err(trouble) => trouble,
            };
            failed += 1;
            // There is another one to ask.
            if is_mirror && failed == 2 {
                return Err(trouble);
            }
            match self.wait(host, failed, &trouble) {
                Ok(true) => {}
                Ok(false) => return Err(trouble),
                Err(error) => return Err(Trouble::Final(error)),
            }
        }
    }

    /// Waits before the next try; false if there is none.
    pub(super) fn wait(&self, host: &str, failed: u32, trouble: &Trouble) -> Result<bool> {
        let (why, asked) = match trouble {
            // Names that lead nowhere are mostly typed wrong.
            Trouble::Unanswered(failure, _) if failure.fault == Fault::Connect && failed >= CONNECTS => {
                return Ok(false);
            }
            Trouble::Unanswered(failure, _) if failure.is_passing() => (failure.text.clone(), None),
            Trouble::Refused(refusal, _, asked) if retry::is_passing(refusal.status) => {
                (format!("status {}", refusal.status), *asked)
            }
            _ => return Ok(false),
        };
        let Some(wait) = self.settings.patience.wait(failed, asked) else { return Ok(false) };
        log::info!("{host}: {why}: trying again in {wait:?}");
        self.settings.progress.waiting(host, wait, &why);
        match retry::sleep(wait, &self.settings.cancel) {
            true => Ok(true),
            false => Err(cancelled()),
        }
    }

    /// Returns the address that a `Link` or a `Location` of this endpoint's leads to.
    ///
    /// A registry behind a proxy that does TLS for it may not know that it is reached by https: its own http becomes https.
    pub(super) fn address(&self, endpoint: &Endpoint, link: &str) -> Result<Url> {
        let session = self.session(endpoint)?;
        let root = session.root.get().ok_or_else(cancelled)?;
        let mut address = root.join(link)?;
        if root.secure && !address.secure {
            if address.authority != root.authority {
                let message = format!("{} leads to {}, in the clear", root.shown(), address.shown());
                return Err(Error::new(ErrorKind::PermissionDenied, message));
            }
            address.secure = true;
        }
        Ok(address)
    }

    /// Returns where an answer says that it goes on.
    pub(super) fn location(&self, endpoint: &Endpoint, answer: &Response) -> Result<Url> {
        let location = answer.header("location").ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("{} does not say where to upload to", endpoint.authority))
        })?;
        self.address(endpoint, location)
    }

    /// Does a host want to be shown something?
    pub(super) fn wants_credentials(&self, endpoint: &Endpoint) -> Result<bool> {
        Ok(self.session(endpoint)?.wants_something())
    }

    pub(super) fn final_error(&self, trouble: Trouble, method: Method, host: &str) -> Error {
        match trouble {
            Trouble::Unanswered(failure, url) => unanswered(failure, method, url.as_ref(), host),
            Trouble::Refused(refusal, url, _) => refusal.error(method, &url, host),
            Trouble::Final(error) => error,
        }
    }

    /// Remembers `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600`.
    fn note_rate(&self, endpoint: &Endpoint, response: &Response) {
        let read = |name| response.header(name).map(parse_rate);
        let (Some((Some(limit), window)), Some((Some(remaining), _))) =
            (read("ratelimit-limit"), read("ratelimit-remaining"))
        else {
            return;
        };
        let rate = RateLimit { limit, remaining, window_seconds: window };
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint.host.clone(), rate);
    }
}

fn parse_rate(value: &str) -> (Option<u64>, Option<u64>) {
    let (number, rest) = value.split_once(';').unwrap_or((value, ""));
    let window = rest.split(';').find_map(|part| part.trim().strip_prefix("w="));
    (number.trim().parse().ok(), window.and_then(|window| window.parse().ok()))
}

fn headers_of(endpoint: &Endpoint) -> Vec<(&str, &str)> {
    endpoint.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn namespaced(url: Url, endpoint: &Endpoint) -> Url {
    match &endpoint.namespace {
        Some(namespace) => url.with("ns", namespace),
        None => url,
    }
}

/// Returns where an answer leads, if requests of this sort follow.
fn redirect(response: &Response, method: Method) -> Option<&str> {
    let follows = match response.status {
        301..=303 => matches!(method, Method::Get | Method::Head),
        307 | 308 => matches!(method, Method::Get | Method::Head | Method::Delete),
        _ => false,
    };
    if follows { response.header("location") } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        assert_eq!(parse_rate("100;w=21600"), (Some(100), Some(21600)));
        assert_eq!(parse_rate("76"), (Some(76), None));
        assert_eq!(parse_rate("many;w="), (None, None));
    }
}
