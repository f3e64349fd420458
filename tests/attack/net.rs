//! From a box to what only the host may reach.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use crate::lab::{WORLD, Who, in_lab, sh};

/// CVE-2020-15257: a socket of the abstract namespace has no permissions; who shares the network may connect (unix(7)).
#[test]
fn abstract_sockets_of_the_host_are_reached_with_the_hosts_network_only() {
    in_lab(&["nft"], |lab| {
        let name = SocketAddr::from_abstract_name("rootling-test/containerd-shim").unwrap();
        let _listener = UnixListener::bind_addr(&name).unwrap();
        let reached = |from: &OwnedFd| lab.at(from, || UnixStream::connect_addr(&name).is_ok());
        // Without the wall: a box with the host's network stands where we stand.
        let host = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let shared =
            lab.ok(Who::Root, &["run", "--net", "host", "base", "--", "readlink", "/proc/self/ns/net"]);
        assert_eq!(shared.trim(), host.to_string_lossy());
        assert!(reached(&lab.host), "the attack works");
        for net in ["private", "none"] {
            let boxed = lab.start(Who::Root, &["run", "--net", net, "base"]);
            assert!(!reached(boxed.net()), "{net}");
        }
    });
}

/// CVE-2020-8558: `route_localnet`, which published ports need, lets neighbours send to 127.0.0.1.
#[test]
fn services_on_the_hosts_loopback_are_not_reached_over_the_bridge() {
    in_lab(&["nft"], |lab| {
        lab.serve(&lab.host, 6379);
        let boxed = lab.start(Who::Root, &["run", "-p", "8080:80", "base"]);
        // All that a root with every capability over its network could do.
        lab.at(boxed.net(), || {
            sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip address del 127.0.0.1/8 dev lo
                gateway=$(ip route show default | cut -d ' ' -f 3); ip route add 127.0.0.0/8 via $gateway dev eth0")
        });
        let attack = || lab.seen_as(boxed.net(), "127.0.0.1", 6379);
        assert_eq!(attack(), None);
        sh("nft flush chain ip rootling raw");
        assert!(attack().is_some(), "the attack works without the wall, so the test means something");
    });
}

/// A box that pretends to be another: what leaves with an address that is no box's is dropped.
#[test]
fn a_box_cannot_send_with_the_address_of_the_world() {
    in_lab(&["nft"], |lab| {
        let boxed = lab.start(Who::Root, &["run", "base"]);
        lab.at(boxed.net(), || sh("ip address add 198.51.100.7/32 dev eth0"));
        let datagram = |expected: bool| {
            let receiver = lab.at(&lab.world, || UdpSocket::bind("0.0.0.0:9").unwrap());
            let patience = Duration::from_millis(if expected { 5000 } else { 700 });
            receiver.set_read_timeout(Some(patience)).unwrap();
            lab.at(boxed.net(), || {
                let socket = UdpSocket::bind("198.51.100.7:0").unwrap();
                socket.send_to(b"spoofed", (WORLD, 9)).unwrap();
            });
            receiver.recv(&mut [0; 16]).is_ok()
        };
        assert!(!datagram(false));
        sh("nft flush chain ip rootling raw");
        assert!(datagram(true), "the attack works without the wall, so the test means something");
    });
}
