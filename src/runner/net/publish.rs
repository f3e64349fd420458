//! Published ports: how they are written, and how they are held before anything else is tried.
//!
//! ```text
//! [IP:][HOST:]BOX[/tcp|/udp]      8080:80   127.0.0.1:53:53/udp   [::1]:8080:80   8000-8009:9000-9009   80
//! ```
//!
//! Without an address a port is published on 127.0.0.1 only: a box is a developer's, and its ports are nobody else's.
//! `0.0.0.0:8080:80` shows it to everybody. Without a host port, or with 0, a free one is chosen.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, socket};
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// A port of the host that leads into the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The host's address that listens; `0.0.0.0` and `::` are all.
    pub address: IpAddr,
    /// The host's port; 0 until one is chosen.
    pub host_port: u16,
    /// The port inside.
    pub box_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.address, self.host_port);
        write!(f, "{host} -> {}/{}", self.box_port, self.protocol)
    }
}

/// Ports in one range: each costs a descriptor or a rule.
const MOST: u16 = 500;

/// Reads what a person wrote after `-p`; a range makes several.
pub fn parse(text: &str) -> Result<Vec<Publish>> {
    let wrong = |why: String| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} does not publish a port: {why}"))
            .hint("write [IP:][HOST:]PORT[/tcp|/udp], such as 8080:80 or 0.0.0.0:53:53/udp")
    };
    let (ports, protocol) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(wrong(format!("{other:?} is neither tcp nor udp"))),
    };
    let (rest, inside) = ports.rsplit_once(':').map_or((None, ports), |(rest, inside)| (Some(rest), inside));
    let (first, last) = range(inside).map_err(&wrong)?;
    if first == 0 {
        return Err(wrong("there is no port 0 inside".into()));
    }
    let (address, host) = match rest {
        None => (None, ""),
        Some(rest) => split_address(rest),
    };
    let address = match address {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(address) => address.parse().map_err(|_| wrong(format!("{address:?} is no IP address")))?,
    };
    let count = last - first;
    if count >= MOST {
        return Err(wrong(format!("at most {MOST} ports in one range")));
    }
    let (host_first, host_last) = if host.is_empty() { (0, 0) } else { range(host).map_err(&wrong)? };
    let chosen_later = host_first == 0 && host_last == 0;
    if !chosen_later && (host_first == 0 || host_last - host_first != count) {
        return Err(wrong(format!("{host:?} and {inside:?} are not equally many")));
    }
    let one = |offset: u16| Publish {
        address,
        host_port: if chosen_later { 0 } else { host_first + offset },
        box_port: first + offset,
        protocol,
    };
    Ok((0..=count).map(one).collect())
}

/// `IP:PORT`, `IP:`, `[IP]:PORT` or `PORT`: the address, where there is one, and the port.
fn split_address(text: &str) -> (Option<&str>, &str) {
    match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, port)) => (Some(address), port.strip_prefix(':').unwrap_or(port)),
        None => match text.rsplit_once(':') {
            Some((address, port)) => (Some(address), port),
            None if text.contains('.') => (Some(text), ""),
            None => (None, text),
        },
    }
}

fn range(text: &str) -> std::result::Result<(u16, u16), String> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{text:?} runs backwards"));
    }
    Ok((first, last))
}

/// Chooses a free port for each that has none yet.
///
/// The port is not kept: until the box starts somebody else may take it, and the start says so.
pub fn choose(ports: &mut [Publish]) -> Result<()> {
    // All at once: one that is let go could be chosen a second time.
    let mut held = Vec::new();
    for port in ports.iter_mut().filter(|port| port.host_port == 0) {
        let taken = Held::take(port)?;
        port.host_port = taken.port()?;
        held.push(taken);
    }
    Ok(())
}

/// Takes every port; one that is in use is an error that names it.
pub(super) fn hold(ports: &[Publish]) -> Result<Vec<Held>> {
    ports.iter().map(Held::take).collect()
}

/// A port of the host that nobody else can take. Nobody is served here: the kernel, or a tool, does that.
#[derive(Debug)]
pub(super) struct Held(OwnedFd);

impl Held {
    fn take(port: &Publish) -> Result<Self> {
        let address = SocketAddr::new(port.address, port.host_port);
        let taken = match (bind_only(address, port.protocol), port.protocol) {
            // Perhaps only the remains of connections (TIME_WAIT), which a socket that listens may share a port with.
            (Err(Errno::EADDRINUSE), Protocol::Tcp) => TcpListener::bind(address).map(OwnedFd::from),
            (bound, _) => bound.map_err(std::io::Error::from),
        };
        taken.map(Self).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => "choose another port: somebody has this one",
                std::io::ErrorKind::AddrNotAvailable => "publish on an address that this host has",
                std::io::ErrorKind::PermissionDenied => {
                    "choose a port from 1024 on (net.ipv4.ip_unprivileged_port_start)"
                }
                _ => "choose another port",
            };
            let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
            let error = Error::io(format!("publish {port}"), error).hint(hint);
            if in_use { error.with_kind(ErrorKind::Busy) } else { error }
        })
    }

    fn port(&self) -> Result<u16> {
        let address = getsockname::<SockaddrStorage>(self.0.as_raw_fd()).context(|| "getsockname()")?;
        let four = address.as_sockaddr_in().map(|address| address.port());
        Ok(four.or_else(|| address.as_sockaddr_in6().map(|address| address.port())).unwrap_or(0))
    }
}

/// A socket that does not listen: whoever connects before the box is there is refused, instead of waiting for nobody. It does
/// not allow others to reuse its address either, so it excludes them all (socket(7)).
fn bind_only(address: SocketAddr, protocol: Protocol) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        parse(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_are_written_as_in_docker_and_published_on_loopback() {
        assert_eq!(shown("8080:80"), ["127.0.0.1:8080 -> 80/tcp"]);
        assert_eq!(shown("0.0.0.0:53:5353/udp"), ["0.0.0.0:53 -> 5353/udp"]);
        assert_eq!(shown("[::1]:8080:80/tcp"), ["[::1]:8080 -> 80/tcp"]);
        assert_eq!(shown("80"), ["127.0.0.1:0 -> 80/tcp"]);
        assert_eq!(shown("192.0.2.1::80"), ["192.0.2.1:0 -> 80/tcp"]);
        assert_eq!(shown("192.0.2.1:80"), ["192.0.2.1:0 -> 80/tcp"]);
        assert_eq!(shown("0:80"), ["127.0.0.1:0 -> 80/tcp"]);
        assert_eq!(
            shown("8000-8001:9000-9001"),
            ["127.0.0.1:8000 -> 9000/tcp", "127.0.0.1:8001 -> 9001/tcp"]
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (text, why) in [
            ("", "is no port"),
            ("x:80", "\"x\" is no port"),
            ("80:x", "\"x\" is no port"),
            ("8080:0", "no port 0 inside"),
            ("80:80/sctp", "neither tcp nor udp"),
            ("1-2:1-3", "not equally many"),
            ("0-1:1-2", "not equally many"),
            ("2-1:2-1", "runs backwards"),
            ("1-1000:1-1000", "at most 500"),
            ("300.1.1.1:1:1", "no IP address"),
            ("65536:1", "is no port"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_in_use_is_named_and_chosen_ones_differ() {
        let mut ports = [parse("80").unwrap(), parse("81").unwrap()].concat();
        choose(&mut ports).unwrap();
        assert!(ports[0].host_port != 0 && ports[0].host_port != ports[1].host_port);
        let held = hold(&ports).unwrap();
        let somebody = std::net::TcpListener::bind(SocketAddr::new(ports[0].address, ports[0].host_port));
        assert!(somebody.is_err(), "it is held");
        let error = hold(&ports).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Busy, format!("publish {}", ports[0])));
        drop(held);
        hold(&ports).unwrap();
    }
}
