//! `serve`: the store as a registry, until it is told to end.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rootling_backends::{Context as _, Result};

use super::output::{Format, Output};
use super::places::RegistryFlags;
use super::{Context, output};
use crate::registry::Client;
use crate::serve::http::Tls;
use crate::serve::{Access, Mirror, Passwords, Server, Settings};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Address and port to listen on; port 0 takes any that is free
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Take no pushes and remove nothing
    #[arg(long, conflicts_with = "allow_push")]
    read_only: bool,

    /// Let everybody push and delete who can connect
    #[arg(long)]
    allow_push: bool,

    /// Certificate to show, with its chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Ask for a name and a password of this file (`htpasswd -B`); who has one may push
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,

    /// Offer boxes, trees and snapshots too: NAME as NAME:latest, NAME@LABEL as NAME:LABEL
    #[arg(long, conflicts_with = "read_only")]
    boxes: bool,

    /// Fetch what is not here from this registry, and keep it
    #[arg(long, value_name = "URL", conflicts_with = "read_only")]
    mirror: Option<String>,

    /// Let other machines connect without TLS or without passwords
    #[arg(long)]
    unprotected: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let settings = Settings {
        address: arguments.listen,
        read_only: arguments.read_only,
        allow_push: arguments.allow_push,
        unprotected: arguments.unprotected,
        with_boxes: arguments.boxes,
    };
    let passwords = arguments.htpasswd.as_deref().map(Passwords::read).transpose()?;
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::read(certificate, key)?),
        _ => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mirror = match &arguments.mirror {
        Some(url) => {
            let client = Client::new(RegistryFlags::default().settings(context, None)?);
            Some(Mirror::new(client, url)?)
        }
        None => None,
    };
    let server = Server::new(context.store()?, settings, passwords, tls, mirror)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Before there is a thread that could get them.
    signals.thread_block().context(|| "sigprocmask")?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
    let stop = stop.context(|| "signalfd")?;
    let listener = server.bind()?;
    let address = listener.local_addr().context(|| "getsockname(listener)")?;
    if arguments.unprotected && !address.ip().is_loopback() {
        log::warn!("{address} is open to everybody who can connect");
    }
    let pushes = if server.takes_pushes() { "takes pushes" } else { "takes no pushes" };
    context.output.say(format!("serving {scheme}://{address}, {pushes}"));
    let output = context.output;
    server.run(&listener, stop.as_fd(), &|access| tell(output, access))
}

/// Tells of a request: a line of JSON, or one for people.
fn tell(output: Output, access: &Access) {
    if output.format == Format::Json {
        let mut line = serde_json::to_vec(access).expect("plain fields");
        line.push(b'\n');
        return output.raw(&line);
    }
    let Access { time, peer, user, method, path, status, bytes, milliseconds } = access;
    let user = output::plain_text(user.as_deref().unwrap_or("-").as_ref());
    let path = output::plain_text(path.as_ref());
    let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
    output.say(format!("{time:.0} {peer} {user} {method} {path} {status} {bytes} {milliseconds}ms"));
}
