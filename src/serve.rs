//! The store as a registry: the [distribution specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md), 1.1, to
//! read and to write.
//!
//! ```text
//! listen ── a thread for each connection, TLS, the end
//!   └─ http ── requests and answers
//!        └─ Server::exchange ── auth, then route:
//!             ├─ blobs, uploads ── Store::begin_upload, Blobs
//!             ├─ manifests, tags, referrers ── Repository (what was pushed)
//!             ├─ mirror ── what is not here, from another registry
//!             ├─ making ── images of boxes and snapshots, if they are offered
//!             └─ shelf ── what was pushed, and the images of the store by their names
//! ```
//!
//! What is served: every image of the store that has a name, and what clients push, which becomes blobs and names (`store/FORMAT.md`) and is
//! unpacked when it is run. Nothing is there twice: a blob is read from the file that `pull` or a push put there.
//!
//! **Invariants.** A blob is verified before it has its name, and a manifest is taken in only when all is here that it names. What was
//! acknowledged is on disk. No path of the file system is made of what a client says, but of digests, tags and names of repositories that
//! were checked. Nothing is written for whoever may not write. Whoever listens beyond loopback without protection was asked.

mod auth;
mod blobs;
pub mod http;
mod listen;
mod making;
mod manifests;
mod mirror;
mod referrers;
mod route;
mod shelf;
mod tags;
mod trouble;
mod uploads;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::Serialize;

pub use auth::Passwords;
use http::{Answer, Body, Head, Method, Refusal, Tls, Wire};
pub use mirror::Mirror;
use route::Route;
use shelf::Shelf;
use trouble::{Answered, Code, Trouble, refuse, says};

use crate::image::Digest;
use crate::store::{Store, canonical};

/// The line that says which content an answer has.
const DIGEST: &str = "Docker-Content-Digest";

/// How often uploads are looked for that nobody goes on with.
const SWEEP: Duration = Duration::from_secs(3600);

/// How a store is served.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// May nobody write?
    pub read_only: bool,
    /// May everybody write?
    pub allow_push: bool,
    /// Are boxes, trees and snapshots offered too? Whoever asks for one has an image made of it.
    pub with_boxes: bool,
    /// May others than this machine connect without TLS and passwords?
    pub unprotected: bool,
}

/// A store that is served.
pub struct Server {
    store: Store,
    settings: Settings,
    passwords: Option<Passwords>,
    tls: Option<Tls>,
    mirror: Option<Mirror>,
    taken: uploads::Taken,
    connections: listen::Connections,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// One request that was answered.
#[derive(Debug, Clone, Serialize)]
pub struct Access {
    /// When the answer was sent.
    pub time: Timestamp,
    /// Who asked, from where.
    pub peer: SocketAddr,
    /// Who that is, if they said so and proved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What was to be done; empty if that could not be read.
    pub method: &'static str,
    /// To what.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body; `null` if it could not be sent.
    pub bytes: Option<u64>,
    /// How long it took.
    pub milliseconds: u64,
}

impl Server {
    /// Takes a store to serve. What is not protected and was not asked for is an error of kind `FailedPrecondition`.
    pub fn new(
        store: Store,
        settings: Settings,
        passwords: Option<Passwords>,
        tls: Option<Tls>,
        mirror: Option<Mirror>,
    ) -> Result<Self> {
        if !settings.address.ip().is_loopback() && !settings.unprotected {
            let missing = match (&tls, &passwords) {
                (Some(_), Some(_)) => None,
                (None, Some(_)) => Some("passwords and images could be read on the way: there is no TLS"),
                (Some(_), None) => Some("everybody could read: there are no passwords"),
                (None, None) => Some("there is neither TLS nor a password"),
            };
            if let Some(missing) = missing {
                let message = format!("others could reach {}, and {missing}", settings.address);
                return Err(Error::new(ErrorKind::FailedPrecondition, message)
                    .hint("give --tls-cert, --tls-key and --htpasswd, or say --unprotected"));
            }
        }
        let (taken, connections) = Default::default();
        Ok(Self { store, settings, passwords, tls, mirror, taken, connections })
    }

    /// Binds the address.
    pub fn bind(&self) -> Result<TcpListener> {
        let address = self.settings.address;
        TcpListener::bind(address).context(|| format!("listen on {address}")).map_err(|error| {
            match error.kind() {
                ErrorKind::PermissionDenied => error.hint("ports below 1024 are root's"),
                _ => error.hint("choose another: --listen 127.0.0.1:0 takes any that is free"),
            }
        })
    }

    /// May somebody write?
    pub fn takes_pushes(&self) -> bool {
        !self.settings.read_only && (self.settings.allow_push || self.passwords.is_some())
    }

    /// Serves until `stop` can be read; then requests that have begun are answered for up to ten seconds. `told` hears of every request.
    pub fn run(
        &self,
        listener: &TcpListener,
        stop: BorrowedFd<'_>,
        told: &(dyn Fn(&Access) + Sync),
    ) -> Result<()> {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            if !self.settings.read_only {
                scope.spawn(move || self.sweep_until(&end));
            }
            let listened = listen::listen(self, listener, stop, told);
            drop(ended);
            listened
        })
    }

    fn sweep_until(&self, end: &std::sync::mpsc::Receiver<()>) {
        loop {
            match self.store.sweep_uploads() {
                Ok((0, _)) => {}
                Ok((count, bytes)) => {
                    log::info!("removed {count} uploads that nobody went on with, {bytes} bytes")
                }
                Err(error) => log::warn!("sweep uploads: {error}"),
            }
            if end.recv_timeout(SWEEP) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Answers one request; says whether another may follow on the connection.
    fn exchange(
        &self,
        wire: &mut Wire,
        head: Result<Head, Refusal>,
        peer: SocketAddr,
        told: &(dyn Fn(&Access) + Sync),
    ) -> bool {
        let begun = Instant::now();
        let (mut access, answer, keeps) = match &head {
            Err(Refusal { status, why }) => {
                let access = access(peer, "", String::new());
                (access, Some(says(*status, Code::Unsupported, *why)), false)
            }
            Ok(head) => {
                let user = self.passwords.as_ref().and_then(|passwords| passwords.who(head));
                let mut body = Body::of(wire, head);
                let answer = self.answer(head, user.is_some(), &mut body);
                let answer = self.settle(answer, head, peer);
                let keeps = answer.is_some() && body.finish() && head.keeps;
                (Access { user, ..access(peer, head.method.name(), head.path.clone()) }, answer, keeps)
            }
        };
        let Some(answer) = answer else {
            access.milliseconds = millis(begun);
            told(&access);
            return false;
        };
        let answer = answer.line("Docker-Distribution-Api-Version", "registry/2.0");
        access.status = answer.status;
        let method = head.as_ref().ok().map(|head| head.method);
        let sent = answer.send(wire, method, keeps);
        access.bytes = sent.as_ref().ok().copied();
        access.milliseconds = millis(begun);
        told(&access);
        keeps && sent.is_ok()
    }

    /// Returns what is sent, if there is anybody to send it to.
    fn settle(&self, answer: Answered, head: &Head, peer: SocketAddr) -> Option<Answer> {
        let what = || format!("{peer}: {} {}", head.method.name(), head.path);
        match answer {
            Ok(answer) | Err(Trouble::Refused(answer)) => Some(answer),
            Err(Trouble::Failed(error)) => {
                log::warn!("{}: {}", what(), error.chain().join(": "));
                Some(trouble::of_failure(&error))
            }
            Err(Trouble::Cut(error)) => {
                log::debug!("{}: {error}", what());
                match error.kind() {
                    std::io::ErrorKind::InvalidData => Some(says(400, Code::Unsupported, error.to_string())),
                    std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
                        Some(says(408, Code::Unsupported, "the body came too slowly"))
                    }
                    _ => None,
                }
            }
        }
    }

    fn answer(&self, head: &Head, is_known: bool, body: &mut Body<'_>) -> Answered {
        if self.passwords.is_some() && !is_known {
            let said = says(401, Code::Unauthorized, "a name and a password are needed");
            return Ok(said.line("WWW-Authenticate", "Basic realm=\"rootling\""));
        }
        let Some(route) = Route::of(&head.path) else {
            return refuse(404, Code::Unsupported, "there is no such endpoint");
        };
        if !head.method.only_reads() {
            self.require_writer(head)?;
        }
        let Some(name) = route.repository() else {
            return match (head.method, route) {
                (Method::Get | Method::Head, Route::Catalog) => tags::catalog(&self.store, head),
                (Method::Get | Method::Head, _) => {
                    Ok(Answer::json(200, "application/json", &serde_json::json!({})))
                }
                _ => unsupported(),
            };
        };
        let Ok(repository) = self.store.repository(canonical(name)) else {
            return refuse(400, Code::NameInvalid, "that is no name of a repository");
        };
        let shelf = Shelf::new(&self.store, repository, self.settings.with_boxes);
        match (head.method, route) {
            (Method::Get | Method::Head, Route::Tags(_)) => tags::list(&shelf, head),
            (Method::Get | Method::Head, Route::Manifest(_, reference)) => {
                manifests::get(&shelf, self.mirror.as_ref(), reference, head)
            }
            (Method::Put, Route::Manifest(_, reference)) => manifests::put(&shelf, reference, head, body),
            (Method::Delete, Route::Manifest(_, reference)) => manifests::delete(&shelf, reference),
            (Method::Get | Method::Head, Route::Blob(_, digest)) => {
                blobs::get(&shelf, self.mirror.as_ref(), digest, head)
            }
            (Method::Delete, Route::Blob(_, digest)) => blobs::delete(&shelf, digest),
            (Method::Post, Route::Uploads(_)) => uploads::post(&shelf, &self.taken, head, body),
            (Method::Get, Route::Upload(_, id)) => uploads::get(&shelf, id),
            (Method::Patch, Route::Upload(_, id)) => uploads::patch(&shelf, &self.taken, id, head, body),
            (Method::Put, Route::Upload(_, id)) => uploads::put(&shelf, &self.taken, id, head, body),
            (Method::Delete, Route::Upload(_, id)) => uploads::delete(&shelf, &self.taken, id),
            (Method::Get | Method::Head, Route::Referrers(_, subject)) => {
                referrers::list(&shelf, subject, head)
            }
            _ => unsupported(),
        }
    }

    fn require_writer(&self, head: &Head) -> Answered<()> {
        if self.settings.read_only {
            return refuse(405, Code::Unsupported, "the registry is read-only");
        }
        if !self.takes_pushes() {
            return refuse(
                403,
                Code::Denied,
                "the registry takes no pushes: start it with --allow-push or --htpasswd",
            );
        }
        // Only browsers say where a page came from, and no page has a reason to write here.
        if head.line("origin").is_some() {
            return refuse(403, Code::Denied, "a web page may not write");
        }
        Ok(())
    }
}

fn unsupported() -> Answered {
    refuse(405, Code::Unsupported, "that cannot be done here")
}

/// Reads a digest of a path or a query.
fn digest(text: &str) -> Answered<Digest> {
    Digest::parse(text).or_else(|error| refuse(400, Code::DigestInvalid, error.to_string()))
}

fn access(peer: SocketAddr, method: &'static str, path: String) -> Access {
    let (status, bytes, milliseconds) = (0, None, 0);
    Access { time: Timestamp::now(), peer, user: None, method, path, status, bytes, milliseconds }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
