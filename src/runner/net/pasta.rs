//! A private network for users by `pasta` (package passt): a tap device inside, the user's own sockets outside.
//!
//! The box has the host's addresses and routes, and no way to the host itself: `--no-map-gw` takes the gateway's
//! address from being the host's loopback. Peers of published ports are seen by their own addresses. Only flags that the
//! version of 2023-03 (Debian 12) knows are used.

use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rootling_backends::Result;

use super::publish::{Protocol, Publish};
use super::resolv::PASTA_FORWARDS;
use super::tool::{self, Beside, Lacking, Shelf};

/// How long it may take: it took 15 ms where it was measured.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts pasta on the network namespace of a waiting process and returns once that has an interface and a route.
pub(super) fn start(process: i32, netns: OwnedFd, ports: &[Publish]) -> Result<Beside> {
    let tool = tool::find_tool("pasta").ok_or_else(|| Lacking::package("pasta is not installed", "passt"))?;
    let shelf = Shelf::new()?;
    let mut command = tool::command(&tool);
    arguments(&mut command, ports);
    let mut beside = Beside::start(&tool, &mut command, &shelf, netns)?;
    let start = Instant::now();
    while !configured(process) {
        beside.ended()?;
        if start.elapsed() > PATIENCE {
            let error = beside.complaint();
            return Err(error.context(format!("pasta made no network in {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(beside)
}

fn arguments(command: &mut Command, ports: &[Publish]) {
    command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw", "--ns-ifname", "eth0"]);
    command.arg("--dns-forward").arg(PASTA_FORWARDS.to_string());
    command.args(["--tcp-ns", "none", "--udp-ns", "none"]);
    for (flag, protocol) in [("--tcp-ports", Protocol::Tcp), ("--udp-ports", Protocol::Udp)] {
        let mut none = true;
        for port in ports.iter().filter(|port| port.protocol == protocol) {
            none = false;
            command.arg(flag).arg(specification(port));
        }
        if none {
            command.arg(flag).arg("none");
        }
    }
    command.args(["--netns", "/tmp/netns"]);
}

fn specification(port: &Publish) -> String {
    let Publish { address, host_port, box_port, .. } = port;
    match address {
        IpAddr::V6(address) if address.is_unspecified() => format!("{host_port}:{box_port}"),
        address => format!("{address}/{host_port}:{box_port}"),
    }
}

/// Has the process's network a default route? It is what pasta sets last.
fn configured(process: i32) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/net/{file}")).unwrap_or_default();
    let four = read("route").lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
    // Destination and its length, then others; unreachable defaults stand on lo.
    let six = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"00") && words.last().is_some_and(|interface| *interface != "lo")
    };
    four || read("ipv6_route").lines().any(six)
}

/// Returns why pasta and slirp4netns cannot work for lack of the device that both make interfaces with.
pub(super) fn tun() -> std::result::Result<(), Lacking> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    match opened {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Lacking::new("/dev/net/tun may not be opened by you", "as root: chmod 666 /dev/net/tun"))
        }
        Err(error) => {
            Err(Lacking::new(format!("/dev/net/tun cannot be opened ({error})"), "as root: modprobe tun"))
        }
    }
}
