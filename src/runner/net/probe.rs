//! What `doctor` says about networks: tried where trying leaves nothing, in a network namespace that goes with the program
//! that is run in it.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use super::firewall::{BRIDGE, Firewall};
use super::tool::{self, Lacking, find_tool};
use super::{Caller, Way, pasta};

/// Returns the way that private networks of the caller are connected, once the kernel has shown that it can.
///
/// Costs two processes for root.
pub fn probe() -> std::result::Result<Way, Lacking> {
    let way = Way::find()?;
    if way == Way::Bridge {
        try_bridge()?;
    }
    Ok(way)
}

/// Returns how users who are not root would be connected; asked by root, whom nothing is refused.
pub fn probe_for_users() -> std::result::Result<Way, Lacking> {
    let way = match (find_tool("pasta"), find_tool("slirp4netns")) {
        (Some(_), _) => Way::Pasta,
        (None, Some(_)) => Way::Slirp4netns,
        (None, None) => return Err(Lacking::package("neither pasta nor slirp4netns is installed", "passt")),
    };
    if Caller::find() == Caller::User {
        return pasta::tun().map(|()| way);
    }
    let node = std::fs::metadata("/dev/net/tun").ok().filter(|node| node.file_type().is_char_device());
    match node {
        None => Err(Lacking::new("/dev/net/tun does not exist", "as root: modprobe tun")),
        Some(node) if node.permissions().mode() & 0o006 != 0o006 => {
            Err(Lacking::new("/dev/net/tun is root's alone", "as root: chmod 666 /dev/net/tun"))
        }
        Some(_) => Ok(way),
    }
}

/// Does this host forward packets? Where it does not, the first box of root's with a private network makes it.
pub fn forwards() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() != "0")
}

fn try_bridge() -> std::result::Result<(), Lacking> {
    let failed = |what: &str, error: rootling_backends::Error| {
        Lacking::new(
            format!("{what}: {error}"),
            "as root: modprobe -a bridge veth nf_tables nft_masq nft_nat nft_ct nft_fib_ipv4",
        )
    };
    let ip = find_tool("ip").ok_or_else(|| Lacking::package("ip is not installed", "iproute2"))?;
    let links = format!(
        "link add {BRIDGE} type bridge\nlink add rootling1 master {BRIDGE} type veth peer name eth0\n"
    );
    apart(&ip, &["-batch", "-"], &links).map_err(|error| failed("no bridge or no veth", error))?;
    let firewall = Firewall::find()?;
    let (tool, arguments) = firewall.call();
    apart(tool, arguments, &firewall.sample()).map_err(|error| failed("no address translation", error))
}

/// Runs a program in a network namespace of its own.
fn apart(tool: &Path, arguments: &[&str], script: &str) -> rootling_backends::Result<()> {
    let mut command = tool::command(tool);
    let new = || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
    super::super::sys::before_exec(&mut command, new);
    tool::feed_to(command.args(arguments), tool, script)
}
