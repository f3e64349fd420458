//! Private networks: other people's programs move the packets; ours finds them, starts them, and ends them.
//!
//! | way | for | by | module |
//! |---|---|---|---|
//! | bridge | root | `ip`, and `nft` or `iptables` | `bridge`, `range`, `firewall`, `table` |
//! | pasta | users | `pasta` | `pasta` |
//! | slirp4netns | users who have no pasta | `slirp4netns` | `slirp` |
//!
//! All three act from outside on the network namespace of a box whose first process waits. Ports are taken before it exists
//! (`Ready::new`), the connection is made while it waits (`Ready::connect`), and dropping the `Connected` undoes it. If we
//! are killed, the namespace goes with the box and takes its interface along, pasta and slirp4netns are killed by the kernel
//! (`PR_SET_PDEATHSIG`), locks end with us, and the rules of published ports are removed by the next box.
//!
//! This module never joins a box to anything it did not ask for, and never touches rules, links or files that are not named
//! after rootling.

use std::fs::File;
use std::os::fd::OwnedFd;

use rootling_backends::{Context, Error, ErrorKind, Result, small_file};
use serde::{Deserialize, Serialize};

mod bridge;
mod firewall;
mod pasta;
mod probe;
mod publish;
mod range;
mod resolv;
mod slirp;
mod table;
mod tool;

pub use probe::{forwards, probe, probe_for_users};
pub use publish::{Protocol, Publish, choose as choose_ports, parse as parse_ports};
pub use resolv::{Dns, Resolv, resolv};
pub use tool::{Lacking, find_tool};

/// A network of the box's own, connected to the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// How it is connected.
    pub way: Way,
    /// Ports of the host that lead into the box.
    pub publish: Vec<Publish>,
}

/// What connects a private network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A pair of interfaces, a bridge and address translation; root only.
    Bridge,
    /// `pasta`, of the package passt.
    Pasta,
    /// `slirp4netns`.
    Slirp4netns,
}

/// Who can connect a private network here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// Root of the host, or of a container that has the host's users.
    Root,
    /// Root of a user namespace.
    User,
}

impl Caller {
    fn find() -> Self {
        // user_namespaces(7): the first namespace's map is all ids onto themselves, and cannot be forged.
        let map = small_file::read_record("/proc/self/uid_map").unwrap_or_default();
        let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
        if all && super::is_root() { Self::Root } else { Self::User }
    }
}

impl Way {
    /// Returns the best way that works here, or what is lacking; looks for files only, starts nothing.
    pub fn find() -> std::result::Result<Self, Lacking> {
        match Caller::find() {
            Caller::Root => Self::Bridge.check().map(|()| Self::Bridge),
            Caller::User if find_tool("pasta").is_some() => Self::Pasta.check().map(|()| Self::Pasta),
            Caller::User if find_tool("slirp4netns").is_some() => {
                Self::Slirp4netns.check().map(|()| Self::Slirp4netns)
            }
            Caller::User => Err(Lacking::package("neither pasta nor slirp4netns is installed", "passt")),
        }
    }

    /// Does this way work here? Looks for files only.
    pub fn check(self) -> std::result::Result<(), Lacking> {
        match (self, Caller::find()) {
            (Self::Bridge, Caller::User) => Err(Lacking::new(
                "only root can connect a bridge",
                "use --net private: pasta, else slirp4netns",
            )),
            (Self::Bridge, Caller::Root) if !may_administer_networks() => Err(Lacking::new(
                "this root has no capability CAP_NET_ADMIN",
                "give it to the container that this runs in, or use --net host",
            )),
            (Self::Bridge, Caller::Root) => bridge::lacking(),
            // It gives up root's identity before it opens the namespace, which it then may not.
            (Self::Pasta, Caller::Root) => {
                Err(Lacking::new("pasta does not work for root", "use --net bridge, or run as a user"))
            }
            (Self::Pasta, Caller::User) if find_tool("pasta").is_none() => {
                Err(Lacking::package("pasta is not installed", "passt"))
            }
            (Self::Slirp4netns, _) if find_tool("slirp4netns").is_none() => {
                Err(Lacking::package("slirp4netns is not installed", "slirp4netns"))
            }
            (Self::Pasta | Self::Slirp4netns, _) => pasta::tun(),
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }
}

fn may_administer_networks() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let status = small_file::read_record("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & CAP_NET_ADMIN != 0)
}

/// What is taken before the box exists.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    private: Option<&'a Private>,
    held: Vec<publish::Held>,
}

/// A box's connection to the world; dropped, nothing is left of it.
#[derive(Debug)]
pub(super) struct Connected {
    _link: Link,
    /// The host's ports that the kernel leads to the box: nobody else may have them.
    _held: Vec<publish::Held>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they are kept to be dropped")]
enum Link {
    Bridge(bridge::Link),
    Beside(tool::Beside),
}

impl<'a> Ready<'a> {
    /// Takes the host's ports; one that is in use is an error of kind `Busy` that names it.
    pub(super) fn new(private: Option<&'a Private>) -> Result<Self> {
        let Some(private) = private else { return Ok(Self { private: None, held: Vec::new() }) };
        if let Some(port) = private.publish.iter().find(|port| port.host_port == 0) {
            let message = format!("publish {port}: no port of the host was chosen");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        private.way.check().map_err(Error::from).map_err(not_for_lack_of_users)?;
        let mut held = publish::hold(&private.publish)?;
        if private.way != Way::Bridge {
            // pasta and slirp4netns listen themselves; the box's first process would hold a copy of these.
            held.clear();
        }
        Ok(Self { private: Some(private), held })
    }

    /// Connects the network namespace of a process that waits meanwhile; returns when it can be used.
    ///
    /// Costs one process and 4 ms for a bridge, one process and 15 ms for pasta (measured on two cores); the first bridge of a
    /// host costs three more.
    pub(super) fn connect(self, process: i32) -> Result<Option<Connected>> {
        let Some(private) = self.private else { return Ok(None) };
        let path = format!("/proc/{process}/ns/net");
        let netns = OwnedFd::from(File::open(&path).context(|| format!("open({path})"))?);
        let ports = &private.publish;
        let link = match private.way {
            Way::Bridge => bridge::connect(process, &netns, ports).map(Link::Bridge),
            Way::Pasta => pasta::start(process, netns, ports).map(|pasta| Link::Beside(pasta.serves())),
            Way::Slirp4netns => slirp::start(netns, ports).map(|slirp| Link::Beside(slirp.serves())),
        };
        let link = link.map_err(|error| {
            let error = not_for_lack_of_users(error);
            let error = error.context(format!("connect the box by {}", private.way.name()));
            match error.first_hint() {
                Some(_) => error,
                None => error.hint("use --net host or none; ROOTLING_NET sets what is used without a flag"),
            }
        })?;
        Ok(Some(Connected { _link: link, _held: self.held }))
    }
}

/// `Unsupported` is what a run says that may work with other users; a network does not get better by that.
fn not_for_lack_of_users(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported => error.with_kind(ErrorKind::FailedPrecondition),
        _ => error,
    }
}
