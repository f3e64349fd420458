//! One HTTP exchange at a time: connections, TLS, proxies, timeouts. The only file that knows ureq and rustls.
//!
//! There is one agent, with its pool of connections, for each host and way to trust it. Redirects, credentials and retries
//! are not decided here: an exchange returns whatever the server said.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rootling_backends::{Context as _, Error, ErrorKind, Result, small_file};
use rustls::crypto::ring;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Proxy, SendBody, http};

use super::url::{self, Url};

/// Bytes of headers that a server may send.
const HEADER_LIMIT: usize = 64 << 10;

/// Bytes in the largest file of certificates.
const CERTIFICATES_LIMIT: u64 = 4 << 20;

/// How long to wait for servers.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a connection and its TLS handshake.
    pub connect: Duration,
    /// For the answer to what changes something: registries verify what was uploaded before they answer.
    pub answer: Duration,
    /// For the next byte, whichever direction. A whole blob may take as long as it takes.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(30), answer: seconds(300), idle: seconds(60) }
    }
}

/// Which proxies to go through: what the usual variables of the environment say.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    https: Option<String>,
    http: Option<String>,
    except: Vec<String>,
}

impl Proxies {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in small letters too, which win.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let read = |name: &str| {
            let set = variable(&name.to_lowercase()).or_else(|| variable(name));
            set.filter(|value| !value.trim().is_empty())
        };
        let all = read("ALL_PROXY");
        let except = read("NO_PROXY").unwrap_or_default();
        Self {
            https: read("HTTPS_PROXY").or_else(|| all.clone()),
            http: read("HTTP_PROXY").or(all),
            except: except.split(',').map(|entry| entry.trim().to_owned()).collect(),
        }
    }

    fn proxy(&self, url: &Url) -> Result<Option<Proxy>, Failure> {
        let Some(address) = (if url.secure { &self.https } else { &self.http }) else { return Ok(None) };
        // As Go's clients have it: what is on this machine is never asked for elsewhere.
        if url::is_loopback(&url.authority) || self.except.iter().any(|entry| covers(entry, url.host())) {
            return Ok(None);
        }
        let strange =
            |why: String| Failure { fault: Fault::Setup, text: format!("proxy {address:?}: {why}") };
        let proxy = Proxy::new(address).map_err(|error| strange(error.to_string()))?;
        match proxy.protocol() {
            ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(Some(proxy)),
            other => Err(strange(format!("{other:?} is not spoken here"))),
        }
    }
}

/// Does an entry of `NO_PROXY` (`*`, `host`, `.domain`, `*.domain`) name this host?
fn covers(entry: &str, host: &str) -> bool {
    let domain = entry.trim_start_matches('*').trim_start_matches('.');
    let below = || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    entry == "*" || (!domain.is_empty() && (host.eq_ignore_ascii_case(domain) || below()))
}

/// Whom to believe, and as whom to come: certificates of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Trust {
    /// Files of certificate authorities, beside the system's.
    pub authorities: Vec<PathBuf>,
    /// Certificate and key to show to the server.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Believe every certificate.
    pub anyone: bool,
}

/// What is done to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// Returns the word of the protocol.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What is sent.
pub(super) enum Body<'a> {
    Empty,
    Bytes(&'a [u8]),
    /// Exactly `length` bytes of a reader.
    Reader(&'a mut dyn Read, u64),
}

/// The server's word.
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Box<dyn Read + Send>,
}

impl Response {
    /// Returns the first header of that name, which is in small letters.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// Returns all headers of that name.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads the whole body; `None` if it is longer than `limit`.
    pub(super) fn read(&mut self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        (&mut self.body).take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64 <= limit).then_some(bytes))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection: refused, unreachable, no such host.
    Connect,
    /// The server did not speak TLS.
    NotTls,
    /// The server's certificate is not believed, or ours was not.
    Certificate,
    /// Too slow.
    Timeout,
    /// The connection ended in the middle.
    Cut,
    /// It could not even be tried: what this side was told makes no sense.
    Setup,
}

/// An exchange without an answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) text: String,
}

impl Failure {
    /// Is it worth trying again?
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.fault, Fault::Connect | Fault::Timeout | Fault::Cut)
    }
}

/// The connections to all hosts.
pub(super) struct Transport {
    agents: Mutex<HashMap<(bool, String, Trust), Agent>>,
    timeouts: Timeouts,
    proxies: Proxies,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("timeouts", &self.timeouts).finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new(timeouts: Timeouts, proxies: Proxies) -> Self {
        Self { agents: Mutex::default(), timeouts, proxies }
    }

    /// Sends a request and returns the answer, whatever its status; redirects are not followed.
    pub(super) fn exchange(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&str, &str)],
        body: Body<'_>,
        trust: &Trust,
    ) -> Result<Response, Failure> {
        let agent = self.agent(url, trust)?;
        let mut request = http::Request::builder().method(method.as_str()).uri(url.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let setup = |error: http::Error| Failure { fault: Fault::Setup, text: error.to_string() };
        let answer = self.timeouts.answer;
        let sent = match body {
            Body::Empty if matches!(method, Method::Get | Method::Head) => {
                agent.run(request.body(()).map_err(setup)?)
            }
            Body::Empty if method == Method::Delete => {
                agent.run(patient(&agent, request.body(()).map_err(setup)?, answer))
            }
            Body::Empty => agent.run(patient(&agent, request.body(&[][..]).map_err(setup)?, answer)),
            Body::Bytes(bytes) => agent.run(patient(&agent, request.body(bytes).map_err(setup)?, answer)),
            Body::Reader(reader, length) => {
                let request = request.header("content-length", length);
                // ureq wants the reader to end where the body does.
                let reader = &mut reader.take(length);
                let request = request.body(SendBody::from_reader(reader)).map_err(setup)?;
                agent.run(patient(&agent, request, answer))
            }
        };
        let (parts, body) = sent.map_err(failure)?.into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok(Response {
            status: parts.status.as_u16(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), text(value)))
                .collect(),
            body: Box::new(body.into_reader()),
        })
    }

    fn agent(&self, url: &Url, trust: &Trust) -> Result<Agent, Failure> {
        let key = (url.secure, url.authority.clone(), trust.clone());
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rootling/", env!("CARGO_PKG_VERSION")))
            .accept("")
            // Bytes have digests: nobody may recompress them on the way.
            .accept_encoding("identity")
            .max_response_header_size(HEADER_LIMIT)
            .input_buffer_size(256 << 10)
            .output_buffer_size(256 << 10)
            .max_idle_connections_per_host(16)
            .timeout_connect(Some(self.timeouts.connect))
            .timeout_recv_response(Some(self.timeouts.answer))
            .timeout_per_read(Some(self.timeouts.idle))
            .timeout_per_write(Some(self.timeouts.idle))
            .proxy(self.proxies.proxy(url)?);
        let config = if url.secure { config.tls_config(tls(trust)?) } else { config };
        let agent: Agent = config.build().into();
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

/// Gives the server this long for its answer.
fn patient<S: ureq::AsSendBody>(
    agent: &Agent,
    request: http::Request<S>,
    answer: Duration,
) -> http::Request<S> {
    agent.configure_request(request).timeout_per_read(Some(answer)).build()
}

fn tls(trust: &Trust) -> Result<TlsConfig, Failure> {
    let setup = |error: Error| Failure { fault: Fault::Setup, text: format!("{error:?}") };
    let builder = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .disable_verification(trust.anyone);
    let mut roots = system_roots().to_vec();
    for path in &trust.authorities {
        roots.extend(certificates(path).map_err(setup)?);
    }
    let client = trust.client.as_ref().map(|(certificate, key)| client(certificate, key)).transpose();
    Ok(builder.root_certs(RootCerts::from(roots)).client_cert(client.map_err(setup)?).build())
}

/// Returns the certificate authorities of the system, read once.
fn system_roots() -> &'static [Certificate<'static>] {
    static ROOTS: OnceLock<Vec<Certificate<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        // A damaged one among many is no reason to believe none; where none is left, handshakes fail and say so.
        found.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect()
    })
}

fn pem(path: &Path) -> Result<Vec<PemItem<'static>>> {
    let text = small_file::read(path, CERTIFICATES_LIMIT)?;
    let items: Result<Vec<_>, _> = ureq::tls::parse_pem(&text).collect();
    items.map_err(|error| Error::new(ErrorKind::InvalidInput, format!("{}: {error}", path.display())))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let of_pem = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = pem(path)?.into_iter().filter_map(of_pem).collect();
    if found.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("no certificate in {}", path.display())));
    }
    Ok(found)
}

fn client(certificate: &Path, key: &Path) -> Result<ClientCert> {
    let chain = certificates(certificate).context(|| "read the client's certificate")?;
    let of_pem = |item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    };
    let found: Option<PrivateKey<'static>> = pem(key)?.into_iter().find_map(of_pem);
    let found = found
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("no private key in {}", key.display())))?;
    // ureq takes for granted that they fit, and panics where not.
    let fits = rustls::pki_types::PrivateKeyDer::try_from(found.der())
        .is_ok_and(|key| ring::default_provider().key_provider.load_private_key(key.clone_key()).is_ok());
    if !fits {
        return Err(Error::new(ErrorKind::InvalidInput, format!("unusable private key {}", key.display())));
    }
    Ok(ClientCert::new_with_certs(&chain, found))
}

/// Sorts what ureq says by what a caller may do about it.
fn failure(error: ureq::Error) -> Failure {
    let fault = match &error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => {
            Fault::Connect
        }
        ureq::Error::Timeout(_) => Fault::Timeout,
        ureq::Error::Rustls(error) => tls_fault(error),
        ureq::Error::Io(error) => io_fault(error),
        ureq::Error::Protocol(_) | ureq::Error::BodyStalled => Fault::Cut,
        _ => Fault::Setup,
    };
    let text = match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Rustls(error) => error.to_string(),
        other => other.to_string(),
    };
    Failure { fault, text }
}

fn io_fault(error: &io::Error) -> Fault {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_fault(error);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable => Fault::Connect,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Fault::Timeout,
        io::ErrorKind::PermissionDenied => Fault::Setup,
        _ => Fault::Cut,
    }
}

fn tls_fault(error: &rustls::Error) -> Fault {
    match error {
        rustls::Error::InvalidMessage(_) => Fault::NotTls,
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::NoCertificatesPresented
        | rustls::Error::AlertReceived(_) => Fault::Certificate,
        _ => Fault::Setup,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_those_of_the_environment() {
        let variable = |name: &str| match name {
            "https_proxy" => Some("http://one:3128".to_owned()),
            "HTTPS_PROXY" => Some("http://two:3128".to_owned()),
            "NO_PROXY" => Some(".internal, exact.example,*.wild.example".to_owned()),
            _ => None,
        };
        let proxies = Proxies::of(&variable);
        let host = |text: &str| {
            let proxy = proxies.proxy(&Url::parse(text).unwrap()).unwrap();
            proxy.map(|proxy| proxy.host().to_owned())
        };
        assert_eq!(host("https://r.example/").as_deref(), Some("one"));
        assert_eq!(host("http://r.example/"), None);
        for direct in ["https://a.internal/", "https://exact.example:5000/", "https://x.wild.example/"] {
            assert_eq!(host(direct), None, "{direct}");
        }
        assert_eq!(host("https://notexact.example/").as_deref(), Some("one"));
        assert_eq!(host("https://127.0.0.1:5000/"), None);
        let all = Proxies::of(&|name| (name == "ALL_PROXY").then(|| "socks5://s:1".to_owned()));
        assert!(all.proxy(&Url::parse("http://r.example/").unwrap()).unwrap_err().text.contains("Socks5"));
    }
}
