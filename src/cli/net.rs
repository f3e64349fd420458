//! The network's flags, made into a network: what is missing is said, what was asked for and cannot be had is an error.

use std::net::IpAddr;
use std::str::FromStr;

use rootling_backends::{Error, ErrorKind, Result};

use super::{Context, said};
use crate::runner::Net;
use crate::runner::net::{self, Dns, Lacking, Private, Publish, Way};

/// The network, as it is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NetFlags {
    /// Network: auto (private where the tools for it are, else the host's), private, host, none
    ///
    /// private is a network of its own that reaches what the host reaches: bridge for root, pasta or slirp4netns for users, who may
    /// also be named.
    #[arg(long, value_name = "NET", env = "ROOTLING_NET", default_value = "auto", hide_env_values = true)]
    net: Asked,

    /// Publish a port of a private network on the host: [IP:][HOST:]PORT[/udp], ranges as 8000-8009:8000-8009
    ///
    /// On 127.0.0.1 unless an address is given (0.0.0.0 shows it to everybody); on a free port unless one is given.
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
                None => return Err("say auto, private, host, none, bridge, pasta or slirp4netns".into()),
            },
        })
    }
}

impl NetFlags {
    /// Settles what is used, chooses ports that were left open, and says both where the person could not know.
    pub(super) fn settle(&self, context: &Context) -> Result<(Net, Dns)> {
        let mut publish = self.publish.concat();
        let dns = Dns { servers: self.dns.clone(), search: self.dns_search.clone() };
        let way = match (&self.net, Way::find()) {
            (Asked::Private(Some(way)), _) => way.check().map(|()| *way)?,
            (Asked::Private(None), found) => found?,
            // Whoever publishes a port asked for a network that has ports.
            (Asked::Auto, found) if !publish.is_empty() => found?,
            (Asked::Auto, Ok(way)) => way,
            (Asked::Auto, Err(lacking)) => {
                say_lacking(context, &lacking);
                return Ok((Net::Host, dns));
            }
            (Asked::Host | Asked::None, _) => {
                if let Some(port) = publish.first() {
                    let message = format!("publish {port}: the network is not a private one");
                    return Err(Error::new(ErrorKind::InvalidInput, message).hint("use --net private"));
                }
                return Ok((if self.net == Asked::Host { Net::Host } else { Net::None }, dns));
            }
        };
        let open: Vec<usize> = (0..publish.len()).filter(|index| publish[*index].host_port == 0).collect();
        net::choose_ports(&mut publish)?;
        for index in open {
            context.output.say(format!("published {}", publish[index]));
        }
        Ok((Net::Private(Private { way, publish }), dns))
    }
}

fn say_lacking(context: &Context, lacking: &Lacking) {
    let Lacking { reason, fix } = lacking;
    context.output.say(format!(
        "rootling: the box uses the host's network, for a private one is not to be had: {reason} ({fix}; --net none for no network)"
    ));
}
