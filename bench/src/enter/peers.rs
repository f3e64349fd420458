//! The others: bwrap, crun, runc, unshare, systemd-nspawn, podman.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use super::Place;
use super::bundle::Bundles;
use super::ours::{WALLS, WALLS_IN_HOST_NETWORK};
use super::runner::Runner;
use crate::cases::START;
use crate::command::command;
use crate::podman::Podman;
use crate::samples::Samples;

/// What root's crun, runc and podman make.
pub(super) const WITHOUT_USER: [&str; 6] = ["mnt", "pid", "ipc", "uts", "cgroup", "net"];
const SOME: [&str; 4] = ["mnt", "pid", "ipc", "uts"];

const SLOW: &str = "left out: a hundred at once would take minutes";

/// Everybody, without a network; the tools that a user can use too, as a user of one id.
pub(super) fn without_network(
    place: &Place,
    podman: Option<&Rc<Podman>>,
    samples: &mut Samples,
) -> Vec<Runner> {
    let mut runners = Vec::new();
    for guest in std::iter::once(None).chain(place.single().map(Some)) {
        runners.push(in_tree("bwrap", &WALLS, &place.root, |root| bwrap(root, &[])).of(guest));
        for (runtime, name) in [("crun", "crun run"), ("runc", "runc run")] {
            let walls: &'static [&'static str] = if guest.is_some() { &WALLS } else { &WITHOUT_USER };
            match Bundles::new(runtime, guest, &place.root, &place.directory, &place.run) {
                Ok(bundles) => {
                    let run = move |inside: &[&str]| bundles.run(&bundles.name(), inside);
                    runners.push(Runner::new(name, walls, run).of(guest));
                }
                Err(error) => {
                    let name = guest.map_or(name.to_owned(), |guest| format!("{name}, {}", guest.label));
                    samples.fail(place.key(START.id, &name), &error);
                }
            }
        }
    }
    runners.push(
        in_tree("systemd-nspawn", &SOME, &place.root, |root| nspawn(root, &["--private-network"]))
            .alone("left out: it locks the tree"),
    );
    if let Some(podman) = podman {
        let podman = Rc::clone(podman);
        let run = move |inside: &[&str]| Ok(podman.run_command(&["--net=none"], inside));
        runners.push(Runner::new("podman run", &WITHOUT_USER, run).alone(SLOW));
    }
    runners
}

/// Those who can use the host's network.
pub(super) fn in_host_network(root: &Path, podman: Option<&Rc<Podman>>) -> Vec<Runner> {
    let mut runners = vec![
        in_tree("bwrap", &WALLS_IN_HOST_NETWORK, root, |root| bwrap(root, &["--share-net"])),
        in_tree("unshare + chroot", &SOME, root, unshare),
        in_tree("systemd-nspawn", &SOME, root, |root| nspawn(root, &[])),
        in_tree("systemd-nspawn --ephemeral", &SOME, root, |root| nspawn(root, &["--ephemeral"])),
    ];
    if let Some(podman) = podman {
        let podman = Rc::clone(podman);
        let run = move |inside: &[&str]| Ok(podman.run_command(&["--net=host"], inside));
        runners.push(Runner::new("podman run", &SOME, run));
    }
    runners
}

/// Somebody whose command line ends with the words to run.
fn in_tree(
    name: &str,
    walls: &'static [&'static str],
    root: &Path,
    start: impl Fn(&Path) -> Command + 'static,
) -> Runner {
    let root: PathBuf = root.to_owned();
    Runner::new(name, walls, move |inside| {
        let mut command = start(&root);
        command.args(inside);
        Ok(command)
    })
}

/// `more` are flags.
pub(super) fn bwrap(root: &Path, more: &[&str]) -> Command {
    let mut command = command("bwrap", ["--unshare-all"]);
    command.args(more).arg("--bind").arg(root);
    command.args(["/", "--proc", "/proc", "--dev", "/dev", "--"]);
    command
}

fn unshare(root: &Path) -> Command {
    let mut proc = std::ffi::OsString::from("--mount-proc=");
    proc.push(root.join("proc"));
    let mut command = command("unshare", ["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork"]);
    command.arg(proc).arg("chroot").arg(root);
    command
}

fn nspawn(root: &Path, more: &[&str]) -> Command {
    let mut command = command("systemd-nspawn", ["--quiet", "--register=no", "--keep-unit"]);
    command.args(more).arg("--directory").arg(root).arg("--");
    command
}
