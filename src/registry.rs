//! A client of registries: the [distribution specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md)
//! and what docker's registries had before it, by blocking calls.
//!
//! Words: a *registry* is a host; a *repository* holds the tags, manifests and blobs of one name; a *mirror* answers in place of
//! a registry; an *endpoint* is a server that is asked, the registry or a mirror.
//!
//! ```text
//! Client ── pull, push ── upload, catalog, login   what a caller asks for
//!   │            │
//!   │         client::send                      one request: retries, redirects, 401
//!   │          ├─ hosts                         which endpoints there are, whom they trust
//!   │          ├─ auth ── challenge, scope      tokens
//!   │          │    └─ credentials ── helper    who one is
//!   │          ├─ retry                         when to try again
//!   │          └─ transport                     one exchange: ureq, rustls
//!   └─ progress                                 what is told meanwhile
//! ```
//!
//! **Invariants.** Bytes are never taken on trust: manifests and blobs are compared with their digests, and lengths have limits.
//! A token goes to the host it was asked for and nowhere else; credentials go to the host or to its realm. Nothing goes in the
//! clear except to loopback and hosts called insecure. Whatever may block looks at [`Settings::cancel`]. The module knows
//! nothing of a store: a caller gives a file, or reads. It reads no environment: the caller hands that over.

mod auth;
mod catalog;
pub mod challenge;
mod client;
pub mod credentials;
mod error;
mod file;
mod helper;
pub mod hosts;
mod login;
mod progress;
mod pull;
mod push;
mod retry;
mod scope;
mod settings;
mod transport;
mod upload;
mod url;

pub use catalog::Found;
pub use client::{Client, RateLimit};
pub use credentials::{Credential, Credentials};
pub use file::RemoteFile;
pub use hosts::{Endpoint, Hosts};
pub use progress::{Ended, Progress, Silent};
pub use pull::{Blob, Head};
pub use push::Content;
pub use retry::Patience;
pub use settings::Settings;
pub use transport::{Proxies, Timeouts, Trust};
pub use url::Url;
pub(crate) use url::unescaped;
