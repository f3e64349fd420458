//! `snapshotter`: the store as containerd's snapshotter, until it is told to end.

use std::ffi::OsString;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rootling_backends::{Context as _, Error, ErrorKind, Kind, Result};

use super::{BackendChoice, Context, said};
use crate::containerd::{Moment, Place, Server, Setup, Socket};
use crate::runner::{self, Entered};
use crate::store::{HeldTrees, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Socket to listen on; containerd's configuration names it
    #[arg(long, default_value = "/run/rootling/snapshotter.sock", value_name = "PATH")]
    address: PathBuf,

    /// Socket that containerd listens on: layers are read from it, and written to it
    #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "PATH")]
    containerd: PathBuf,

    /// Backend that makes the trees [default: the store's for what is thrown away]
    #[arg(long, value_enum)]
    backend: Option<BackendChoice>,

    /// Where Prometheus can read what was counted: unix:PATH, or an address of this machine
    #[arg(long, value_name = "unix:PATH|ADDRESS:PORT", value_parser = said(Place::parse))]
    metrics: Option<Place>,

    /// Print what sets up the machine, with the paths of this command filled in, and serve nothing
    #[arg(long, value_enum, value_name = "WHAT")]
    print: Option<Print>,
}

/// What sets up a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Print {
    /// The unit of a service
    Systemd,
    /// The unit of a socket, for a service that starts when it is needed
    SystemdSocket,
    /// What goes into containerd's configuration
    Containerd,
}

impl Arguments {
    /// Does it only print?
    pub(super) fn only_prints(&self) -> bool {
        self.print.is_some()
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    if let Some(print) = arguments.print {
        return show(context, arguments, print);
    }
    if context.entered != Entered::Root {
        let message = "containerd mounts what it is given as root, and could not mount what others made";
        return Err(Error::new(ErrorKind::PermissionDenied, message)
            .hint("run it as root, or in the user namespace of a rootless containerd"));
    }
    let given = given_socket()?;
    let held = HeldTrees::open(context.store()?, arguments.backend.and_then(BackendChoice::kind))?;
    let root = held.store().root().to_owned();
    let server = Server::new(held, &absolute(&arguments.containerd)?)?;
    let (socket, at) = match given {
        Some(listener) => (Socket::given(listener), "the socket of its service manager".to_owned()),
        None => {
            let address = absolute(&arguments.address)?;
            (Socket::bind(&address)?, address.display().to_string())
        }
    };
    let metrics = arguments.metrics.as_ref().map(Place::listen).transpose()?;
    if let Some(metrics) = &metrics {
        context.output.say(format!("metrics at {}", metrics.place()?));
    }
    let manager = Manager::of_environment();
    server.run(socket, metrics, &|moment| match moment {
        Moment::Ready => {
            context.output.say(format!("serving {} at {at}", root.display()));
            manager.tell("READY=1");
        }
        Moment::Stopping => manager.tell("STOPPING=1"),
    })
}

fn show(context: &Context, arguments: &Arguments, print: Print) -> Result<()> {
    let (root, address) = (absolute(&context.store_path()?)?, absolute(&arguments.address)?);
    // What a store is able to that is yet to be made is not known, and not promised.
    let rebases = Store::open(&root).is_ok_and(|store| can_rebase(&store, arguments));
    let command = command(context, arguments)?;
    let setup = Setup { command: &command, root: &root, address: &address, rebases };
    let text = match print {
        Print::Systemd => setup.service()?,
        Print::SystemdSocket => setup.socket()?,
        Print::Containerd => setup.containerd()?,
    };
    context.output.raw(text.as_bytes());
    Ok(())
}

/// Is it wise to unpack layers on nothing, and to lay them on each other afterwards? OverlayFS gives all subvolumes one device number, so
/// that files of two of them may look like one to whoever copies a tree: trees of btrfs are not laid on each other.
fn can_rebase(store: &Store, arguments: &Arguments) -> bool {
    let kind = arguments.backend.and_then(BackendChoice::kind).unwrap_or_else(|| store.ephemeral_backend());
    store.abilities().overlay.works && kind != Kind::Btrfs
}

/// Returns the command that serves as this one would, from any directory.
fn command(context: &Context, arguments: &Arguments) -> Result<Vec<OsString>> {
    let program = std::env::current_exe().context(|| "readlink(/proc/self/exe)")?;
    let mut words = vec![program.into_os_string()];
    // The default store is made on first use, one that is named is not.
    if let Some(root) = &context.root {
        words.extend(["--root".into(), absolute(root)?.into_os_string()]);
    }
    words.extend(["snapshotter".into(), "--address".into(), absolute(&arguments.address)?.into_os_string()]);
    words.extend(["--containerd".into(), absolute(&arguments.containerd)?.into_os_string()]);
    if let Some(backend) = arguments.backend.and_then(|backend| backend.to_possible_value()) {
        words.extend(["--backend".into(), backend.get_name().into()]);
    }
    if let Some(metrics) = &arguments.metrics {
        let place = match metrics {
            Place::Unix(path) => Place::Unix(absolute(path)?),
            Place::Loopback(_) => metrics.clone(),
        };
        words.extend(["--metrics".into(), place.to_string().into()]);
    }
    Ok(words)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("getcwd(), for {path:?}"))
}

/// Returns the socket that a service manager has made and left open for this process (sd_listen_fds(3)).
fn given_socket() -> Result<Option<UnixListener>> {
    /// The first descriptor that is handed over.
    const FIRST: i32 = 3;
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => {
            let file = runner::take_inherited(FIRST).context(|| "fcntl(3, F_SETFD)")?;
            let listener = UnixListener::from(file);
            listener.local_addr().context(|| "getsockname(3)").context(|| "take the socket of LISTEN_FDS")?;
            Ok(Some(listener))
        }
        Some(several) => {
            let message = format!("LISTEN_FDS hands over {several} sockets, and one is served");
            Err(Error::new(ErrorKind::InvalidInput, message))
        }
    }
}

/// The service manager, if it wants to know (sd_notify(3)).
struct Manager(Option<std::ffi::OsString>);

impl Manager {
    fn of_environment() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()))
    }

    fn tell(&self, what: &str) {
        let Some(path) = &self.0 else { return };
        if let Err(error) = send(path, what) {
            log::warn!("tell {what} to {path:?}: {error}");
        }
    }
}

fn send(path: &std::ffi::OsStr, what: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(what.as_bytes(), &address).map(drop)
}
