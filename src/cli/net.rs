//! The network's flags, made into a network: what is missing is said, what was asked for and cannot be had is an error.

use std::net::IpAddr;
use std::str::FromStr;

use rootling_backends::{Error, ErrorKind, Result};

use super::walls::Place;
use super::{Context, said};
use crate::build::plan::Network;
use crate::runner::net::{self, Dns, Lacking, Private, Publish, Way};
use crate::runner::{Namespace, Net, Plan};
use crate::store::Store;

/// The network, as it is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NetFlags {
    /// Network: auto (private where the tools for it are, else host), private, host, none (only loopback), box:NAME, ns:PATH
    #[arg(
        long,
        visible_alias = "network",
        value_name = "NETWORK",
        default_value = "auto",
        env = "ROOTLING_NET",
        hide_env = true
    )]
    net: Asked,

    /// Publish a port on the host, as 8080:80, 53:53/udp, 80 (a free one) or 0.0.0.0:80:80; on 127.0.0.1 unless an address is given; ranges as 80-89:80-89
    #[arg(short, long, value_name = "PORTS", value_parser = said(net::parse_ports))]
    publish: Vec<Vec<Publish>>,

    /// Name server to use instead of the host's
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,

    /// Domain to look up short names in instead of the host's; . for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
}

/// The networks, as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Auto,
    Host,
    None,
    Private(Option<Way>),
    Join(Place),
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let ways = [Way::Bridge, Way::Pasta, Way::Slirp4netns];
        Ok(match text {
            "auto" => Self::Auto,
            "host" => Self::Host,
            "none" => Self::None,
            "private" => Self::Private(None),
            _ => match ways.into_iter().find(|way| way.name() == text) {
                Some(way) => Self::Private(Some(way)),
                None => Self::Join(
                    text.parse().map_err(|_| "write auto, private, host, none, box:NAME or ns:/PATH")?,
                ),
            },
        })
    }
}

impl NetFlags {
    /// Returns the network that the steps of a build depend on: what is chosen for them is no difference to them.
    pub(super) fn of_steps(&self) -> Network {
        match &self.net {
            Asked::None => Network::None,
            Asked::Host => Network::Host,
            Asked::Auto | Asked::Private(_) | Asked::Join(_) => Network::Default,
        }
    }

    /// Settles what is used, and chooses the ports that were left open.
    pub(super) fn settle(&self, context: &Context, store: &Store) -> Result<(Net, Dns)> {
        let mut publish = self.publish.concat();
        let dns = Dns { servers: self.dns.clone(), search: self.dns_search.clone() };
        let private = match &self.net {
            Asked::Private(Some(way)) => Ok(way.check().map(|()| *way)?),
            Asked::Private(None) => Ok(Way::find()?),
            // Whoever publishes a port asked for a network that has ports.
            Asked::Auto if self.publishes() => Ok(Way::find()?),
            Asked::Auto => Way::find().map_err(|lacking| {
                say_lacking(context, &lacking);
                Net::Host
            }),
            Asked::Host => Err(Net::Host),
            Asked::None => Err(Net::None),
            Asked::Join(place) => Err(match place.find(store)? {
                Namespace::Host => Net::Host,
                Namespace::Private => Net::None,
                Namespace::Join(join) => Net::Join(join),
            }),
        };
        match (private, publish.first()) {
            (Ok(way), _) => {
                net::choose_ports(&mut publish)?;
                Ok((Net::Private(Private { way, publish }), dns))
            }
            (Err(_), Some(port)) => {
                let message = format!("publish {port}: the box has no private network of its own");
                Err(Error::new(ErrorKind::InvalidInput, message).hint("use --net private"))
            }
            (Err(net), None) => Ok((net, dns)),
        }
    }

    /// Returns the network for another runtime, which connects none: loopback, unless it is named.
    pub(super) fn named(&self, store: &Store) -> Result<(Net, Dns)> {
        let refuse = |what: &str| {
            let message = format!("{what}: no other runtime connects a network");
            Error::new(ErrorKind::Unsupported, message)
                .hint("make one beforehand and name it: --net ns:/run/netns/NAME; else --net host or none")
        };
        if let Some(port) = self.publish.iter().flatten().next() {
            return Err(refuse(&format!("--publish {port}")));
        }
        let dns = Dns { servers: self.dns.clone(), search: self.dns_search.clone() };
        let net = match &self.net {
            Asked::Auto | Asked::None => Net::None,
            Asked::Host => Net::Host,
            Asked::Private(way) => {
                return Err(refuse(&format!("--net {}", way.map_or("private", Way::name))));
            }
            Asked::Join(place) => match place.find(store)? {
                Namespace::Host => Net::Host,
                Namespace::Private => Net::None,
                Namespace::Join(join) => Net::Join(join),
            },
        };
        Ok((net, dns))
    }

    /// Says which ports were chosen, because the person could not know.
    pub(super) fn say_ports(&self, context: &Context, plan: &Plan) {
        let asked = self.publish.iter().flatten();
        let published = plan.net.iter().flat_map(|private| &private.publish);
        for (_, port) in asked.zip(published).filter(|(asked, _)| asked.host_port == 0) {
            context.output.say(format!("published {port}"));
        }
    }

    /// Are ports to be published?
    pub(super) fn publishes(&self) -> bool {
        !self.publish.is_empty()
    }

    /// Returns the first of these flags that was given; the network itself may come from the environment.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.publishes(), "--publish"),
            (!self.dns.is_empty(), "--dns"),
            (!self.dns_search.is_empty(), "--dns-search"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }

    /// Returns whose network is joined, if one is.
    pub(super) fn joined(&self) -> Option<&Place> {
        match &self.net {
            Asked::Join(place) => Some(place),
            _ => None,
        }
    }
}

fn say_lacking(context: &Context, lacking: &Lacking) {
    let Lacking { reason, fix } = lacking;
    context.output.say(format!(
        "rootling: the box uses the host's network, as a private one cannot be had: {reason} ({fix}; --net none for no network)"
    ));
}
