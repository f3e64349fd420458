//! A private network for users by `slirp4netns`, where pasta is not: slower, IPv4 only, and with an address that is not the
//! host's. Peers of published ports are seen by their own addresses, the host's 127.0.0.1 as 10.0.2.2.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rootling_backends::{Context, Error, ErrorKind, Result, sys};

use super::publish::Publish;
use super::tool::{self, Beside, Lacking, Shelf};

/// The box's address: slirp4netns gives the hundredth of its network (slirp4netns(1), `--cidr`).
const ADDRESS: &str = "10.0.2.100";

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts slirp4netns on a network namespace and returns once that is configured and every port is published.
pub(super) fn start(netns: OwnedFd, ports: &[Publish]) -> Result<Beside> {
    let tool = tool::find_tool("slirp4netns")
        .ok_or_else(|| Lacking::package("slirp4netns is not installed", "slirp4netns"))?;
    let shelf = Shelf::new()?;
    let (ready, theirs) = std::io::pipe().context(|| "pipe()")?;
    let mut command = tool::command(&tool);
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"]);
    command.arg(format!("--ready-fd={}", theirs.as_raw_fd()));
    if !ports.is_empty() {
        command.arg("--api-socket=/tmp/api");
    }
    command.args(["/tmp/netns", "eth0"]);
    sys::pass_descriptors(&mut command, vec![theirs.into()]);
    let mut beside = Beside::start(&tool, &mut command, &shelf, netns)?;
    // Our copy of the writing end goes with it: the pipe then ends with slirp4netns.
    drop(command);
    let mut waiting = [PollFd::new(std::os::fd::AsFd::as_fd(&ready), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    poll(&mut waiting, timeout).context(|| "poll(slirp4netns)")?;
    let is_ready = waiting[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
    if !is_ready {
        return Err(beside.complaint().context("slirp4netns made no network"));
    }
    for port in ports {
        publish(&shelf, port)?;
    }
    Ok(beside)
}

/// One request per connection: that is its protocol (slirp4netns(1), "API socket").
fn publish(shelf: &Shelf, port: &Publish) -> Result<()> {
    let talk = || -> std::io::Result<String> {
        let mut socket = UnixStream::connect(shelf.path("api"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let request = serde_json::json!({
            "execute": "add_hostfwd",
            "arguments": {
                "proto": port.protocol.to_string(),
                "host_addr": port.address.to_string(),
                "host_port": port.host_port,
                "guest_addr": ADDRESS,
                "guest_port": port.box_port,
            },
        });
        socket.write_all(request.to_string().as_bytes())?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = talk().context(|| format!("publish {port} by slirp4netns"))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    if answer.get("return").is_some() {
        return Ok(());
    }
    let said = answer["error"]["desc"].as_str().unwrap_or("no answer").to_owned();
    let error = Error::new(ErrorKind::Io, format!("publish {port}: slirp4netns says {said:?}"));
    Err(match port.address {
        IpAddr::V4(_) => error,
        IpAddr::V6(_) => {
            error.hint("slirp4netns publishes on IPv4 addresses only: install the package passt")
        }
    })
}
