//! A cgroup of one's own for a user, from systemd.
//!
//! A login session lies in a cgroup of root's, beside the one that systemd hands to the user
//! (`user@UID.service`), and moving between the two takes root. So systemd is asked, over the user's bus and with its
//! own tool, to move this process into a new scope of the user's (systemd.io/CONTAINER_DELEGATION). The scope goes
//! when this process ends. Nothing is installed and nothing waits for a timer.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rootling_backends::{Error, ErrorKind, Result};

use super::layout::Layout;
use super::settings::{Controller, Version};

/// How long systemd may take.
const PATIENCE: Duration = Duration::from_secs(10);

const HINT: &str =
    "log in through systemd with a user bus (loginctl enable-linger, XDG_RUNTIME_DIR set), or run it as root";

/// Makes sure that this process may make cgroups of version 2, asking systemd where it may not yet.
///
/// Call it before entering a user namespace: the bus takes us for somebody else there. Does nothing where we may
/// already, and nothing where limits are on version 1, which is root's alone: then making a cgroup says so.
/// `PermissionDenied` where there is no systemd to ask, or it refuses. Costs a process and about 20 ms, where it
/// has to ask.
pub fn delegate() -> Result<()> {
    let layout = Layout::read()?;
    let Some(unified) = layout.unified() else { return Ok(()) };
    // Limits that are on version 1 do not come from a scope.
    let elsewhere =
        Controller::ALL.iter().any(|controller| layout.v1(controller.name(Version::V1)).is_some());
    if elsewhere || unified.base().is_some() {
        return Ok(());
    }
    ask().map_err(|error| {
        error
            .context(format!(
                "{:?} was not handed to you, and systemd does not hand you another",
                unified.own
            ))
            .hint(HINT)
    })?;
    wait_for_base()
}

/// Is there a bus of the user's, and the tool to speak to it? Looks only for the two files.
pub(super) fn can_be_asked() -> bool {
    let bus = std::env::var_os("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join("bus"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    bus.is_some_and(|bus| bus.exists())
        && std::env::split_paths(&path).any(|directory| directory.join("busctl").is_file())
}

/// `busctl` speaks D-Bus; the call is org.freedesktop.systemd1(5), StartTransientUnit.
fn ask() -> Result<()> {
    let me = std::process::id().to_string();
    let unit = format!("rootling-{me}.scope");
    let mut command = Command::new("busctl");
    command
        .args(["--user", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
        .args(["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", &unit, "fail"])
        .args(["4", "Description", "s", "rootling", "PIDs", "au", "1", &me, "Delegate", "b", "true"])
        .args(["CollectMode", "s", "inactive-or-failed", "0"])
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| Error::io("execute \"busctl\"", error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("nothing").trim();
    Err(Error::new(ErrorKind::PermissionDenied, format!("busctl said {said:?}")))
}

/// The answer comes before the move.
fn wait_for_base() -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let layout = Layout::read()?;
        if layout.unified().is_some_and(|unified| unified.base().is_some()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let own = Layout::read()?.unified().map(|unified| unified.own.clone());
    let own = own.as_deref().unwrap_or(Path::new("/"));
    let message = format!("systemd was asked for a scope, and {own:?} is still not ours");
    Err(Error::new(ErrorKind::PermissionDenied, message).hint(HINT))
}
