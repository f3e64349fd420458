//! The flags of what is mounted in a box: `-v`, `--mount`, `--tmpfs`, `--add-host`. Settled when the box starts.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use rootling_backends::{Dir, Error, ErrorKind, FS, Result};

use super::said;
use crate::runner::{Bind, Net, Tmpfs};
use crate::store::{Store, VolumeName};

mod syntax;

use syntax::{Address, Host, Mount, Wanted};

/// What is mounted besides the tree.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Mounts (settled when the box starts)")]
pub(super) struct MountFlags {
    /// Show a directory or file of the host, or a volume: options are ro, bind, idmap, noidmap, U, O, noexec, suid, dev, rslave, nocopy
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTION,...]", value_parser = said(syntax::volume))]
    volume: Vec<Wanted>,

    /// The same in words: type=bind|volume|tmpfs,source=SOURCE,target=TARGET,readonly,...
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = said(syntax::mount))]
    mount: Vec<Mount>,

    /// A directory in memory: options are size=, mode=, exec, ro
    #[arg(long, value_name = "TARGET[:OPTION,...]", value_parser = said(syntax::tmpfs))]
    tmpfs: Vec<Tmpfs>,

    /// A line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = said(syntax::host))]
    add_host: Vec<Host>,
}

/// What is to be mounted, with what must be kept as long as it is.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) binds: Vec<Bind>,
    pub(super) tmpfs: Vec<Tmpfs>,
    /// The use locks of volumes.
    pub(super) used: Vec<File>,
}

impl Mounts {
    /// Returns where something is mounted, and whether it is what the host has at the same path.
    pub(super) fn shown(&self) -> Vec<(PathBuf, bool)> {
        let binds = self.binds.iter().map(|bind| {
            let is_same = bind.source == bind.target && bind.below.is_none();
            (bind.target.clone(), is_same)
        });
        binds.chain(self.tmpfs.iter().map(|tmpfs| (tmpfs.target.clone(), false))).collect()
    }
}

impl MountFlags {
    /// Returns the first of these flags that was given, for a box that runs already.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (!self.volume.is_empty(), "--volume"),
            (!self.mount.is_empty(), "--mount"),
            (!self.tmpfs.is_empty(), "--tmpfs"),
            (!self.add_host.is_empty(), "--add-host"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }

    /// Returns the volumes that are named.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &VolumeName> {
        let mounted = self.mount.iter().filter_map(|mount| match mount {
            Mount::Shown(wanted) => wanted.volume.as_ref(),
            Mount::Tmpfs(_) => None,
        });
        self.volume.iter().filter_map(|wanted| wanted.volume.as_ref()).chain(mounted)
    }

    /// Opens the volumes, making those that are not there and filling those that are empty from `root`, the tree, if there is one.
    ///
    /// Makes and opens nothing where it is only printed what would be done.
    pub(super) fn open(&self, store: &Store, root: Option<&Dir>, dry_run: bool) -> Result<Mounts> {
        let mut mounts = Mounts { tmpfs: self.tmpfs.clone(), ..Mounts::default() };
        let mut shown: Vec<&Wanted> = self.volume.iter().collect();
        for mount in &self.mount {
            match mount {
                Mount::Shown(wanted) => shown.push(wanted),
                Mount::Tmpfs(tmpfs) => mounts.tmpfs.push(tmpfs.clone()),
            }
        }
        for wanted in shown {
            let source = match &wanted.volume {
                None => {
                    refuse_store(store, &wanted.bind)?;
                    wanted.bind.source.clone()
                }
                Some(name) if dry_run => PathBuf::from(format!("volume {name}")),
                Some(name) => {
                    super::run::start_quiet_workers();
                    let content =
                        root.filter(|_| wanted.copy).and_then(|root| content_at(root, &wanted.bind));
                    let (node, used) = store.use_volume(name, content.as_ref())?;
                    mounts.used.push(used);
                    store.slot(&node).join(FS)
                }
            };
            mounts.binds.push(Bind { source, ..wanted.bind.clone() });
        }
        Ok(mounts)
    }

    /// Returns the lines of `/etc/hosts`.
    pub(super) fn hosts(&self, net: &Net) -> Result<Vec<(String, IpAddr)>> {
        let address = |host: &Host| match (&host.address, net) {
            (Address::Ip(address), _) => Ok(*address),
            // The box is on the machine's own network.
            (Address::HostGateway, Net::Host) => Ok(Ipv4Addr::LOCALHOST.into()),
            (Address::HostGateway, _) => {
                let message = format!("{}: no gateway to the host is known in this network", host.name);
                Err(Error::new(ErrorKind::InvalidInput, message).hint("write the address, or use --net host"))
            }
        };
        self.add_host.iter().map(|host| Ok((host.name.clone(), address(host)?))).collect()
    }
}

/// What the tree has where a volume will be: a directory, found as a process inside would find it.
fn content_at(root: &Dir, bind: &Bind) -> Option<Dir> {
    // A part of a volume is never filled: the volume has other parts.
    let file: OwnedFd = match bind.below {
        Some(_) => return None,
        None => root.open_in_root(&bind.target, OFlag::O_RDONLY | OFlag::O_DIRECTORY).ok()?,
    };
    Some(Dir::from_fd(file, root.path().join(bind.target.strip_prefix("/").unwrap_or(&bind.target))))
}

/// Whoever can write to the store can write to every tree in it.
fn refuse_store(store: &Store, bind: &Bind) -> Result<()> {
    // One that cannot be found is the runner's to report; what is shown is what the runner opens.
    let Ok(source) = bind.source.canonicalize() else { return Ok(()) };
    if source.starts_with(store.root()) {
        let message = format!("{:?} is in the store: it is not shown in boxes", bind.source);
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("for data that boxes share, make a volume: rootling volume create NAME"));
    }
    if store.root().starts_with(&source) && !bind.restrictions.read_only && !bind.throw_away {
        log::warn!("{:?} holds the store {:?}: what runs inside can change it", bind.source, store.root());
    }
    Ok(())
}
