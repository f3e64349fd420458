//! A private network for root: a bridge on the host, a pair of interfaces for each box, and address translation.
//!
//! ```text
//!   box          | host
//!   eth0 --------|-- rootling17 --+
//!   10.200.236.17|                +-- rootling0 (10.200.236.1/22) -- translation -- the host's interfaces
//!                |   rootling18 --+
//! ```
//!
//! `ip` makes the links; the box's own end is configured by three ioctls on a socket of its namespace. The pair is gone
//! when the box's network namespace is, also after a kill. What is for all boxes stays until the host is restarted or
//! somebody says `ip link del rootling0`: making and removing it costs more than the box does. It is made with the first
//! box: the bridge, its rules (see `firewall`), `net.ipv4.ip_forward` on where it was off, and for the bridge alone
//! `route_localnet` on (ports published on 127.0.0.1 need it) and IPv6 off (a box cannot pretend to be the host's router,
//! CVE-2020-13401). Boxes have IPv4 only: forwarding IPv6 would make the host forget the routes that its router announces
//! (`accept_ra`, ip-sysctl).

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::super::sys;
use super::firewall::{BRIDGE, Firewall};
use super::probe;
use super::publish::Publish;
use super::range::{PREFIX, Range, State, Taken, networks};
use super::tool::{self, Lacking};

/// A box's connection; dropped, its rules are gone and its address is free.
#[derive(Debug)]
pub(super) struct Link {
    taken: Taken,
    /// What wrote rules for its ports, and the file that says so.
    rules: Option<(Firewall, PathBuf)>,
}

/// Returns what root lacks for a bridge.
pub(super) fn lacking() -> std::result::Result<(), Lacking> {
    if tool::find_tool("ip").is_none() {
        return Err(Lacking::package("ip is not installed", "iproute2"));
    }
    Firewall::find().map(drop)
}

/// Connects the network namespace of a waiting process.
pub(super) fn connect(process: i32, netns: &OwnedFd, ports: &[Publish]) -> Result<Link> {
    if let Some(port) = ports.iter().find(|port| matches!(port.address, IpAddr::V6(_))) {
        let error =
            Error::new(ErrorKind::Unsupported, format!("publish {port}: boxes of root have IPv4 only"));
        return Err(error.hint("publish on an IPv4 address"));
    }
    let ip = tool::find_tool("ip").ok_or_else(|| Lacking::package("ip is not installed", "iproute2"))?;
    let firewall = Firewall::find()?;
    let state = State::open()?;
    sweep(&state);
    let control = control_socket()?;
    let range = ensure_bridge(&state, &control, &ip, &firewall)?;
    // A box that is just being taken down may still have the name.
    let is_free = |number| sys::interface_address(control.as_fd(), &name(number)) == Err(Errno::ENODEV);
    let taken = state.take(is_free)?;
    let (number, address) = (taken.number, range.address(taken.number));
    let mtu = mtu(&control);
    let name = name(number);
    let pair = format!(
        "link add {name} mtu {mtu} master {BRIDGE} up type veth peer name eth0 mtu {mtu} netns {process}\n"
    );
    tool::feed(&ip, &["-batch", "-"], &pair).context(|| format!("connect {name} to {BRIDGE}"))?;
    configure(netns, address, range).context(|| format!("give the box the address {address}"))?;
    let mut link = Link { taken, rules: None };
    if !ports.is_empty() {
        let note = link.taken.state.directory.join(format!("{number}.{}", firewall.name()));
        File::create(&note).context(|| format!("create({note:?})"))?;
        link.rules = Some((firewall.clone(), note));
        firewall.publish(number, address, ports)?;
    }
    Ok(link)
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some((firewall, note)) = &self.rules {
            // Best effort: with the note left, the next box tries again.
            if firewall.withdraw(self.taken.number).is_ok() {
                drop(fs::remove_file(note));
            }
        }
        self.taken.state.unlock(self.taken.number);
    }
}

fn name(number: u16) -> String {
    format!("rootling{number}")
}

/// Removes the rules of boxes whose process was killed.
fn sweep(state: &State) {
    let Ok(entries) = fs::read_dir(&state.directory) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let parts = file.to_str().and_then(|name| name.split_once('.'));
        let Some((number, firewall)) =
            parts.and_then(|(number, tool)| Some((number.parse().ok()?, Firewall::named(tool)?)))
        else {
            continue;
        };
        if matches!(state.try_lock(number), Ok(true)) {
            // Best effort: with the note left, the next box tries again.
            if firewall.withdraw(number).is_ok() {
                drop(fs::remove_file(entry.path()));
            }
            state.unlock(number);
        }
    }
}

/// A socket that is there to be asked about interfaces.
fn control_socket() -> Result<OwnedFd> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context(|| "socket(AF_INET, SOCK_DGRAM)")
}

/// Finds the bridge or makes it; an address is the last thing it gets, so one without is half made.
fn ensure_bridge(
    state: &State,
    control: &OwnedFd,
    ip: &std::path::Path,
    firewall: &Firewall,
) -> Result<Range> {
    let look = || sys::interface_address(control.as_fd(), BRIDGE);
    if let Ok(address) = look()
        && firewall.protects()?
    {
        return Ok(Range::of(address));
    }
    let _locked = state.lock()?;
    let half_made = match look() {
        Ok(address) => {
            let range = Range::of(address);
            if !firewall.protects()? {
                firewall.protect(range)?;
            }
            return Ok(range);
        }
        Err(errno) => errno != Errno::ENODEV,
    };
    let routes = tool::ask(ip, &["-4", "route", "show", "table", "all"])?;
    let range = Range::choose(&networks(&routes)).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "no private range of addresses is free for boxes")
            .hint("use --net host, or remove a route from 10.0.0.0/8 or 172.16.0.0/12")
    })?;
    let remove = if half_made { format!("link del {BRIDGE}\n") } else { String::new() };
    // Without an address of its own a bridge takes that of a port: it would change as boxes come and go, and others would
    // send to the old one until their tables forget it.
    let [a, b, c, d] = range.gateway().octets();
    let mac = format!("02:72:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    let add = format!("{remove}link add {BRIDGE} address {mac} type bridge\n");
    tool::feed(ip, &["-batch", "-"], &add).context(|| format!("make the bridge {BRIDGE}"))?;
    let set = format!("link set {BRIDGE} up\naddress add {}/{PREFIX} dev {BRIDGE}\n", range.gateway());
    let made = set_switches().and_then(|()| firewall.protect(range)).and_then(|()| {
        tool::feed(ip, &["-batch", "-"], &set).context(|| format!("set up the bridge {BRIDGE}"))
    });
    if made.is_err() {
        // Best effort: the next box finds it without an address and makes it anew.
        drop(tool::feed(ip, &["-batch", "-"], &format!("link del {BRIDGE}\n")));
    }
    made.map(|()| log::info!("made the bridge {BRIDGE} with the addresses {range}"))?;
    Ok(range)
}

/// The kernel's switches (Documentation/networking/ip-sysctl.rst).
fn set_switches() -> Result<()> {
    let write = |name: &str, value: &str| {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).context(|| format!("write({path}, {value})"))
    };
    // A kernel without IPv6 has nothing to be switched off.
    match write(&format!("ipv6/conf/{BRIDGE}/disable_ipv6"), "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(&format!("ipv4/conf/{BRIDGE}/route_localnet"), "1")?;
    if !probe::forwards() {
        write("ipv4/ip_forward", "1").map_err(|error| error.hint("as root: sysctl net.ipv4.ip_forward=1"))?;
        log::info!("switched net.ipv4.ip_forward on: this host forwards packets between its networks now");
    }
    Ok(())
}

/// The size of packets that the way out can take, where it is less than usual (a VPN, a tunnel).
fn mtu(control: &OwnedFd) -> u32 {
    const USUAL: u32 = 1500;
    let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let out = routes.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let interface = words.next()?;
        (words.next()? == "00000000").then_some(interface)
    });
    let sizes = out.filter_map(|interface| sys::interface_mtu(control.as_fd(), interface).ok());
    // IPv4 needs 68 (RFC 791), and IPv6 on the link 1280; what says less is no size.
    sizes.min().unwrap_or(USUAL).clamp(576, USUAL)
}

/// Gives the box's end its address and the way out.
fn configure(netns: &OwnedFd, address: Ipv4Addr, range: Range) -> Result<()> {
    let inside = socket_in(netns)?;
    let inside = inside.as_fd();
    sys::set_interface_address(inside, "eth0", address, PREFIX).context(|| "ioctl(eth0, SIOCSIFADDR)")?;
    sys::interface_up(inside, "eth0").context(|| "ioctl(eth0, SIOCSIFFLAGS)")?;
    sys::add_default_route(inside, range.gateway()).context(|| "ioctl(SIOCADDRT)")
}

/// Makes a socket in another network namespace; it stays there, the thread comes back.
fn socket_in(netns: &OwnedFd) -> Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    let ours = File::open(path).context(|| format!("open({path})"))?;
    setns(netns, CloneFlags::CLONE_NEWNET).context(|| "setns(CLONE_NEWNET)")?;
    let made = control_socket();
    setns(&ours, CloneFlags::CLONE_NEWNET).context(|| "setns(CLONE_NEWNET, back)")?;
    made
}
