//! `/etc/resolv.conf` for a box (resolv.conf(5)): the host's, as far as it is of use in the box's network.

use std::net::{IpAddr, Ipv4Addr};

use rootling_backends::Dir;
use serde::{Deserialize, Serialize};

use super::super::spec::{Join, Net};
use super::super::user;
use super::Way;

/// What was asked for instead of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried for short names; `.` alone for none.
    pub search: Vec<String>,
}

/// The address at which pasta is told to answer for the host's own name server: link-local, so it is nobody's.
pub(super) const PASTA_FORWARDS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The address at which slirp4netns always does.
const SLIRP_FORWARDS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Where systemd-resolved lists the servers behind its stub at 127.0.0.53.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// A file for the box, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolv {
    /// What it holds.
    pub content: String,
    /// What will not work, in words.
    pub note: Option<&'static str>,
}

/// Makes the file; `None` where the host has none and nothing was asked for.
///
/// A joined network's is that of the box that is joined, or what ip-netns(8) keeps in `/etc/netns`, else the host's.
pub fn resolv(net: &Net, dns: &Dns) -> Option<Resolv> {
    let joined = match net {
        Net::Join(join) => of_joined(join),
        _ => None,
    };
    let wanted = *net != Net::None || *dns != Dns::default();
    let hosts = || wanted.then(|| std::fs::read_to_string("/etc/resolv.conf").ok()).flatten();
    let host = joined.or_else(hosts);
    make(net, dns, host.as_deref(), || std::fs::read_to_string(BEHIND_THE_STUB).ok())
}

fn of_joined(join: &Join) -> Option<String> {
    match join {
        // The box may have made it a link to anywhere: it is looked up in the box's own root.
        Join::Box(running) => {
            let root = Dir::open(format!("/proc/{}/root", running.pid)).ok()?;
            user::read(&root, "etc/resolv.conf").ok().filter(|text| !text.is_empty())
        }
        Join::Path(path) => {
            let name =
                path.strip_prefix("/run/netns").or_else(|_| path.strip_prefix("/var/run/netns")).ok()?;
            std::fs::read_to_string(std::path::Path::new("/etc/netns").join(name).join("resolv.conf")).ok()
        }
    }
}

fn make(net: &Net, dns: &Dns, host: Option<&str>, behind: impl FnOnce() -> Option<String>) -> Option<Resolv> {
    if matches!(net, Net::Host | Net::Join(_)) && *dns == Dns::default() {
        return host.map(|content| Resolv { content: content.to_owned(), note: None });
    }
    let (servers, note) = match (&*dns.servers, net) {
        ([], Net::None) => (Vec::new(), None),
        ([], Net::Private(private)) => servers(private.way, host.unwrap_or_default(), behind),
        ([], _) => (name_servers(host.unwrap_or_default()), None),
        (asked, _) => (asked.to_vec(), None),
    };
    let mut content: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    match &*dns.search {
        [] if matches!(net, Net::None) => {}
        [] => content.extend(lines(host.unwrap_or_default(), "search").map(|line| format!("{line}\n"))),
        [dot] if dot == "." => {}
        domains => content.push_str(&format!("search {}\n", domains.join(" "))),
    }
    if !matches!(net, Net::None) {
        content.extend(lines(host.unwrap_or_default(), "options").map(|line| format!("{line}\n")));
    }
    Some(Resolv { content, note })
}

/// The servers that a box can reach.
fn servers(
    way: Way,
    host: &str,
    behind: impl FnOnce() -> Option<String>,
) -> (Vec<IpAddr>, Option<&'static str>) {
    let all = name_servers(host);
    match way {
        Way::Slirp4netns => return (vec![SLIRP_FORWARDS.into()], None),
        // pasta forwards a server of the same family only, but also one that only the host can reach.
        Way::Pasta if all.iter().any(IpAddr::is_ipv4) => return (vec![PASTA_FORWARDS.into()], None),
        Way::Pasta | Way::Bridge => {}
    }
    let reached = |server: &IpAddr| match server {
        IpAddr::V4(server) => !server.is_loopback() && !server.is_unspecified(),
        IpAddr::V6(server) => way == Way::Pasta && !server.is_loopback(),
    };
    let mut servers: Vec<IpAddr> = all.into_iter().filter(reached).collect();
    if servers.is_empty() {
        servers = name_servers(&behind().unwrap_or_default()).into_iter().filter(reached).collect();
    }
    let note = servers
        .is_empty()
        .then_some("no name server of the host's can be reached from a private network: name one with --dns");
    (servers, note)
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    let words = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    // A zone (`fe80::1%eth0`) names an interface of the host's: such a server is left out.
    lines(text, "nameserver").filter_map(words).filter_map(|word| word.parse().ok()).collect()
}

fn lines<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter(move |line| line.split_whitespace().next() == Some(word))
}

#[cfg(test)]
mod tests {
    use super::super::Private;
    use super::*;

    fn content(net: &Net, dns: &Dns, host: &str, behind: &str) -> String {
        make(net, dns, Some(host), || Some(behind.to_owned())).unwrap().content
    }

    fn private(way: Way) -> Net {
        Net::Private(Private { way, publish: vec![] })
    }

    const STUB: &str = "nameserver 127.0.0.53\noptions edns0\nsearch lan\n";

    #[test]
    fn the_host_network_gets_the_hosts_file_and_none_gets_no_server() {
        let dns = Dns::default();
        assert_eq!(content(&Net::Host, &dns, STUB, ""), STUB);
        assert_eq!(content(&Net::None, &dns, STUB, ""), "");
        assert!(make(&Net::Host, &dns, None, || None).is_none());
    }

    #[test]
    fn a_stub_is_replaced_by_what_the_box_can_reach() {
        let dns = Dns::default();
        let rest = "search lan\noptions edns0\n";
        let behind = "nameserver 192.0.2.1\nnameserver 2001:db8::1\n";
        assert_eq!(
            content(&private(Way::Bridge), &dns, STUB, behind),
            format!("nameserver 192.0.2.1\n{rest}")
        );
        assert_eq!(
            content(&private(Way::Pasta), &dns, STUB, behind),
            format!("nameserver 169.254.1.1\n{rest}")
        );
        assert_eq!(
            content(&private(Way::Slirp4netns), &dns, STUB, behind),
            format!("nameserver 10.0.2.3\n{rest}")
        );
        let only_six = "nameserver ::1\nnameserver fe80::1%eth0\nnameserver 2001:db8::2\n";
        assert_eq!(content(&private(Way::Pasta), &dns, only_six, behind), "nameserver 2001:db8::2\n");
        assert_eq!(content(&private(Way::Bridge), &dns, only_six, behind), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn a_server_nobody_can_reach_is_said() {
        let made = make(&private(Way::Bridge), &Dns::default(), Some(STUB), || None).unwrap();
        assert!(made.note.is_some_and(|note| note.contains("--dns")));
    }

    #[test]
    fn what_was_asked_for_wins() {
        let dns = Dns { servers: vec!["192.0.2.9".parse().unwrap()], search: vec!["a".into(), "b".into()] };
        for net in [Net::Host, private(Way::Pasta)] {
            assert_eq!(content(&net, &dns, STUB, ""), "nameserver 192.0.2.9\nsearch a b\noptions edns0\n");
        }
        assert_eq!(content(&Net::None, &dns, STUB, ""), "nameserver 192.0.2.9\nsearch a b\n");
        let none = Dns { search: vec![".".into()], ..Dns::default() };
        assert_eq!(content(&Net::Host, &none, STUB, ""), "nameserver 127.0.0.53\noptions edns0\n");
    }
}
