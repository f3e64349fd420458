//! Version 2: controllers have to be handed down before a cgroup below can use them.
//!
//! A cgroup hands a controller to its children by `cgroup.subtree_control`, and may do so only while no process is
//! in it ("No Internal Process Constraint", cgroup-v2.rst); the root alone is free of that. So our boxes are leaves:
//! `base/rootling/NAME`, and a process of ours that sits in the base itself moves into a leaf as well. The kernel's
//! refusal is not waited for: with some controllers it makes the cgroup a threaded one instead, in which no box can
//! be ("Threads", same place).

use std::path::Path;

use rootling_backends::{Error, ErrorKind, Result};

use super::directory::Directory;
use super::layout::{DIRECTORY, has_word};
use super::settings::{Controller, Version};

const DELEGATE: &str = "let systemd delegate it: in `systemctl edit user@.service` write [Service] and Delegate=cpu cpuset \
                        io memory pids, then log in again";

/// Hands `required` down from `base` to the cgroups in `base/rootling`, which exists; each comes with the flag that
/// needs it. What else can be had is handed down too, so that it is counted. Doing it again writes nothing.
pub(super) fn enable(base: &Path, required: &[(Controller, &'static str)]) -> Result<()> {
    let middle = base.join(DIRECTORY);
    for path in [base, &middle] {
        let directory = Directory::open(path, Version::V2)?;
        let there = directory.read("cgroup.controllers")?;
        let on = directory.read("cgroup.subtree_control")?;
        for (controller, flag) in required {
            let name = controller.name(Version::V2);
            if has_word(&on, name) {
                continue;
            }
            if !has_word(&there, name) {
                let message = format!("{flag} needs the controller {name}, which {path:?} does not have");
                return Err(Error::new(ErrorKind::Unsupported, message).hint(DELEGATE));
            }
            step_aside(&directory)
                .and_then(|()| directory.write("cgroup.subtree_control", &format!("+{name}")))
                .map_err(|error| {
                    error.context(format!("{flag} needs the controller {name} below {path:?}"))
                })?;
        }
        for controller in [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::Io] {
            let name = controller.name(Version::V2);
            let asked = required.iter().any(|(other, _)| *other == controller);
            if !asked && !required.is_empty() && has_word(&there, name) && !has_word(&on, name) {
                // Best effort: nobody asked for it, only `stats` would like to read it.
                drop(directory.write("cgroup.subtree_control", &format!("+{name}")));
            }
        }
    }
    Ok(())
}

/// Moves this process out of a cgroup that it has for itself, into a leaf below; where it is in another, or this is
/// the root, there is nothing to do.
fn step_aside(directory: &Directory) -> Result<()> {
    let me = std::process::id();
    // The root alone has no type.
    if !directory.path.join("cgroup.type").exists() {
        return Ok(());
    }
    let text = directory.read("cgroup.procs")?;
    if text.is_empty() {
        return Ok(());
    }
    let others = text.lines().filter(|line| line.parse() != Ok(me)).count();
    if others > 0 {
        let message = format!(
            "{others} other processes are in {:?} itself, so that it can hand nothing down",
            directory.path
        );
        return Err(Error::new(ErrorKind::Busy, message)
            .hint("start it in a cgroup of its own: systemd-run --scope -p Delegate=yes rootling ... (in a container: move its processes into a cgroup below first)"));
    }
    match Directory::make(&directory.path, &format!("self-{me}"), Version::V2) {
        // "0" is whoever writes.
        Ok(leaf) => leaf.write("cgroup.procs", "0"),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
