//! Rules of the kernel's firewall for the bridge and for published ports, by `nft` or, without it, by `iptables`.
//!
//! | | nft | iptables |
//! |---|---|---|
//! | for the bridge | table `ip rootling` | chains `ROOTLING` in raw, filter and nat, and a jump to each |
//! | for the ports of box 17 | table `ip rootling-17` | chain `ROOTLING-17` in nat, and two jumps to it |
//!
//! Nothing else is read or written. What the rules do:
//!
//! - Boxes are seen outside by the host's address; the range is seen by nobody.
//! - Nothing from outside reaches a box but answers and what is published.
//! - Nothing from a box reaches the host's 127.0.0.0/8, which `route_localnet` would allow (CVE-2020-8558 was that), nor
//!   leaves with an address that is not a box's.
//! - A published port keeps the peer's address. The host itself is seen as the gateway, never as 127.0.0.1, which a service
//!   would trust (CVE-2021-20199).

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rootling_backends::{Context, Result};

use super::publish::{Protocol, Publish};
use super::range::Range;
use super::table;
use super::tool::{self, Lacking};

/// The bridge.
pub(super) const BRIDGE: &str = "rootling0";

/// A program that writes rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Firewall {
    Nft(PathBuf),
    Iptables(PathBuf),
}

impl Firewall {
    /// The one that is here; nft is asked first, because it does everything or nothing.
    pub(super) fn find() -> std::result::Result<Self, Lacking> {
        let nft = tool::find_tool("nft").map(Self::Nft);
        nft.or_else(|| tool::find_tool("iptables-restore").map(Self::Iptables))
            .ok_or_else(|| Lacking::package("neither nft nor iptables is installed", "nftables"))
    }

    /// As it is called in the names of files.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Nft(_) => "nft",
            Self::Iptables(_) => "iptables",
        }
    }

    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "nft" => tool::find_tool("nft").map(Self::Nft),
            "iptables" => tool::find_tool("iptables-restore").map(Self::Iptables),
            _ => None,
        }
    }

    fn feed(&self, script: &str) -> Result<()> {
        let (tool, arguments) = self.call();
        tool::feed(tool, arguments, script)
    }

    /// The program, and how it is told to read rules.
    pub(super) fn call(&self) -> (&Path, &'static [&'static str]) {
        match self {
            Self::Nft(tool) => (tool, &["-f", "-"]),
            // -w: others who change rules at the same moment are waited for.
            Self::Iptables(tool) => (tool, &["-w", "--noflush"]),
        }
    }

    /// All sorts of rules that boxes need, to be tried in a network namespace that is thrown away.
    pub(super) fn sample(&self) -> String {
        let range = Range::of(Ipv4Addr::new(192, 0, 2, 1));
        let port = Publish {
            address: Ipv4Addr::UNSPECIFIED.into(),
            host_port: 1,
            box_port: 1,
            protocol: Protocol::Tcp,
        };
        match self {
            Self::Nft(_) => nft_bridge(range) + &nft_ports(1, range.gateway(), &[port]),
            Self::Iptables(_) => iptables_bridge(range) + &iptables_ports(1, range.gateway(), &[port]),
        }
    }

    /// Writes the bridge's rules, in place of any that are there.
    pub(super) fn protect(&self, range: Range) -> Result<()> {
        match self {
            Self::Nft(_) => {
                self.feed(&nft_bridge(range)).context(|| "write the table rootling")?;
                accept_where_all_is_dropped()
            }
            Self::Iptables(_) => {
                // Best effort: the first time there is nothing to be removed.
                for (table, from) in [("raw", "PREROUTING"), ("filter", "FORWARD"), ("nat", "POSTROUTING")] {
                    drop(self.feed(&format!("*{table}\n-D {from} -j ROOTLING\nCOMMIT\n")));
                }
                self.feed(&iptables_bridge(range)).context(|| "write the chains ROOTLING")
            }
        }
    }

    /// Are the bridge's rules there? Somebody may have emptied the firewall (`systemctl restart nftables` does).
    pub(super) fn protects(&self) -> Result<bool> {
        match self {
            Self::Nft(_) => table::exists("rootling"),
            Self::Iptables(_) => Ok(tool::find_tool("iptables").is_some_and(|iptables| {
                tool::ask(&iptables, &["-w", "-t", "nat", "-S", "ROOTLING"]).is_ok()
            })),
        }
    }

    /// Leads published ports to a box.
    pub(super) fn publish(&self, number: u16, address: Ipv4Addr, ports: &[Publish]) -> Result<()> {
        let script = match self {
            Self::Nft(_) => nft_ports(number, address, ports),
            Self::Iptables(_) => iptables_ports(number, address, ports),
        };
        self.feed(&script).context(|| format!("publish the ports of {address}"))
    }

    /// Takes the rules of [`publish`](Self::publish) away; those that are gone already are no error.
    pub(super) fn withdraw(&self, number: u16) -> Result<()> {
        match self {
            // `delete` alone fails on a table that is not there; adding one that is changes nothing.
            Self::Nft(_) => {
                let table = format!("ip rootling-{number}");
                self.feed(&format!("add table {table}\ndelete table {table}\n"))
            }
            Self::Iptables(_) => {
                for from in ["PREROUTING", "OUTPUT"] {
                    // Best effort: if the process was killed between the two there is only one.
                    drop(self.feed(&format!("*nat\n-D {from} {}\nCOMMIT\n", jump(number))));
                }
                let chain = format!("ROOTLING-{number}");
                self.feed(&format!("*nat\n:{chain} - [0:0]\n-F {chain}\n-X {chain}\nCOMMIT\n"))
            }
        }
        .context(|| format!("remove the rules of box {number}"))
    }
}

fn nft_bridge(range: Range) -> String {
    format!(
        r#"add table ip rootling
delete table ip rootling
table ip rootling {{
    chain raw {{
        type filter hook prerouting priority -300; policy accept;
        iifname "{BRIDGE}" ip daddr 127.0.0.0/8 drop
        iifname "{BRIDGE}" ip saddr != {range} drop
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname "{BRIDGE}" accept
        oifname "{BRIDGE}" ct state established,related accept
        oifname "{BRIDGE}" ct status dnat accept
        oifname "{BRIDGE}" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        ip saddr {range} oifname != "{BRIDGE}" masquerade
        ip saddr 127.0.0.0/8 oifname "{BRIDGE}" masquerade
        ip saddr {range} oifname "{BRIDGE}" ct status dnat masquerade
    }}
}}
"#
    )
}

fn nft_ports(number: u16, box_address: Ipv4Addr, ports: &[Publish]) -> String {
    let mut rules = String::new();
    for Publish { address, host_port, box_port, protocol } in ports {
        let whom =
            whom(*address).map_or_else(|| "fib daddr type local".into(), |to| format!("ip daddr {to}"));
        rules += &format!("        {whom} {protocol} dport {host_port} dnat to {box_address}:{box_port}\n");
    }
    let chain = |hook: &str| {
        format!(
            "    chain {hook} {{\n        type nat hook {hook} priority -100; policy accept;\n{rules}    }}\n"
        )
    };
    let table = format!("ip rootling-{number}");
    let chains = chain("prerouting") + &chain("output");
    format!("add table {table}\ndelete table {table}\ntable {table} {{\n{chains}}}\n")
}

const FILTER: &str = "*filter
:ROOTLING - [0:0]
-A ROOTLING -i rootling0 -j ACCEPT
-A ROOTLING -o rootling0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ROOTLING -o rootling0 -m conntrack --ctstate DNAT -j ACCEPT
-A ROOTLING -o rootling0 -j DROP
-I FORWARD 1 -j ROOTLING
COMMIT
";

fn iptables_bridge(range: Range) -> String {
    format!(
        "*raw
:ROOTLING - [0:0]
-A ROOTLING -i {BRIDGE} -d 127.0.0.0/8 -j DROP
-A ROOTLING -i {BRIDGE} ! -s {range} -j DROP
-I PREROUTING 1 -j ROOTLING
COMMIT
{FILTER}*nat
:ROOTLING - [0:0]
-A ROOTLING -s {range} ! -o {BRIDGE} -j MASQUERADE
-A ROOTLING -s 127.0.0.0/8 -o {BRIDGE} -j MASQUERADE
-A ROOTLING -s {range} -o {BRIDGE} -m conntrack --ctstate DNAT -j MASQUERADE
-A POSTROUTING -j ROOTLING
COMMIT
"
    )
}

fn iptables_ports(number: u16, box_address: Ipv4Addr, ports: &[Publish]) -> String {
    let mut script = format!("*nat\n:ROOTLING-{number} - [0:0]\n");
    for Publish { address, host_port, box_port, protocol } in ports {
        let whom = whom(*address).map_or_else(String::new, |to| format!("-d {to} "));
        let from = format!("-A ROOTLING-{number} {whom}-p {protocol} --dport {host_port}");
        script += &format!("{from} -j DNAT --to-destination {box_address}:{box_port}\n");
    }
    let jump = jump(number);
    script + &format!("-A PREROUTING {jump}\n-A OUTPUT {jump}\nCOMMIT\n")
}

fn jump(number: u16) -> String {
    format!("-m addrtype --dst-type LOCAL -j ROOTLING-{number}")
}

/// The one address that is published on; `None` for all.
fn whom(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified()).then_some(address)
}

/// A packet that one table accepts, another may still drop: where the host's FORWARD policy is DROP (docker makes it so),
/// a chain of ours goes there too.
fn accept_where_all_is_dropped() -> Result<()> {
    let (Some(iptables), Some(restore)) = (tool::find_tool("iptables"), tool::find_tool("iptables-restore"))
    else {
        return Ok(());
    };
    // Best effort: an iptables that cannot even list has no rules that drop.
    let rules = tool::ask(&iptables, &["-w", "-S", "FORWARD"]).unwrap_or_default();
    let drops = rules.lines().any(|line| line == "-P FORWARD DROP");
    let ours = rules.lines().any(|line| line == "-A FORWARD -j ROOTLING");
    if !drops || ours {
        return Ok(());
    }
    Firewall::Iptables(restore).feed(FILTER).context(|| "accept what is forwarded for boxes")
}

#[cfg(test)]
mod tests {
    use super::super::publish::parse;
    use super::*;

    #[test]
    fn a_port_is_led_to_the_box_from_the_address_it_was_published_on() {
        let ports = [parse("8080:80").unwrap(), parse("0.0.0.0:53:5353/udp").unwrap()].concat();
        let address = Ipv4Addr::new(10, 200, 236, 17);
        let rules = nft_ports(17, address, &ports);
        assert!(rules.contains("ip daddr 127.0.0.1 tcp dport 8080 dnat to 10.200.236.17:80\n"), "{rules}");
        assert!(rules.contains("fib daddr type local udp dport 53 dnat to 10.200.236.17:5353\n"), "{rules}");
        let rules = iptables_ports(17, address, &ports);
        assert!(rules.contains(
            "-A ROOTLING-17 -d 127.0.0.1 -p tcp --dport 8080 -j DNAT --to-destination 10.200.236.17:80\n"
        ));
        assert!(
            rules.contains("-A ROOTLING-17 -p udp --dport 53 -j DNAT --to-destination 10.200.236.17:5353\n")
        );
    }
}
