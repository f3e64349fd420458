//! Boxes that run already, and the commands that join them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::bundle::Bundles;
use super::guest::Guest;
use super::ours::{Store, WALLS};
use super::peers::{WITHOUT_USER, bwrap};
use super::runner::Runner;
use super::{Place, ours};
use crate::cases::EXEC;
use crate::command::{command, spawn, timed};
use crate::podman::Podman;
use crate::samples::Samples;

/// What the box does: it says that it is there, and then nothing for as long as it is wanted.
const STAY: [&str; 3] = ["/bin/sh", "-c", "echo up; exec sleep 3600"];
const BOX: &str = "bench-box";

/// A box; it ends when this is dropped.
pub(super) struct Alive {
    child: Child,
    /// What ends it, where it outlives the process that started it.
    end: Option<Command>,
}

/// Fails if one of them ended meanwhile: then nobody joined it.
pub(super) fn still_up(boxes: &mut [Alive]) -> Result<()> {
    for alive in boxes {
        if let Some(status) = alive.child.try_wait().context(|| "waitpid")? {
            let message = format!("a box ended while commands joined it: {status}");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
    }
    Ok(())
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Best effort: its process is killed in any case.
        if let Some(end) = &mut self.end {
            drop(timed(end));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Starts one box of each contender and returns each with the runner that joins it.
pub(super) fn start_all(
    place: &Place,
    podman: Option<&Rc<Podman>>,
    samples: &mut Samples,
) -> Result<Vec<(Alive, Runner)>> {
    let mut boxes = Vec::new();
    for store in ours::stores(place)? {
        boxes.push(of_store(store)?);
    }
    let mut others: Vec<(&str, Result<(Alive, Runner)>)> = vec![("nsenter", of_bwrap(&place.root))];
    for guest in std::iter::once(None).chain(place.single().map(Some)) {
        for (runtime, name) in [("crun", "crun exec"), ("runc", "runc exec")] {
            others.push((name, of_bundle(runtime, name, guest, place)));
        }
    }
    if let Some(podman) = podman {
        others.push(("podman exec", of_podman(podman)));
    }
    for (name, started) in others {
        match started {
            Ok(started) => boxes.push(started),
            Err(error) => samples.fail(place.key(EXEC.id, name), &error),
        }
    }
    Ok(boxes)
}

fn of_store(store: Store) -> Result<(Alive, Runner)> {
    store.does(&["create", "base", BOX], None)?;
    let mut stay = store.command(&["exec", "--net", "none", BOX, "--"]);
    stay.args(STAY);
    store.dressed(&mut stay);
    let guest = store.guest.clone();
    let join = Runner::new(format!("rootling {} exec", store.kind), &WALLS, move |inside| {
        let mut command = store.command(&["exec", BOX, "--"]);
        command.args(inside);
        Ok(command)
    });
    up(&mut stay, None, join.of(guest.as_ref()))
}

fn of_bundle(
    runtime: &'static str,
    name: &str,
    guest: Option<&Guest>,
    place: &Place,
) -> Result<(Alive, Runner)> {
    let bundles = Bundles::new(runtime, guest, &place.root, &place.directory, &place.run)?;
    let container = bundles.name();
    let (mut stay, mut end) = (bundles.run(&container, &STAY)?, bundles.delete(&container));
    for command in [&mut stay, &mut end] {
        guest.iter().for_each(|guest| guest.dress(command));
    }
    let walls: &'static [&'static str] = if guest.is_some() { &WALLS } else { &WITHOUT_USER };
    let join = Runner::new(name, walls, move |inside| Ok(bundles.exec(&container, inside)));
    up(&mut stay, Some(end), join.of(guest))
}

fn of_podman(podman: &Rc<Podman>) -> Result<(Alive, Runner)> {
    let mut stay = podman.run_command(&["--net=none", "--name", BOX], &STAY);
    let end = podman.remove_command(BOX);
    let podman = Rc::clone(podman);
    let join = Runner::new("podman exec", &WITHOUT_USER, move |inside| Ok(podman.exec_command(BOX, inside)));
    up(&mut stay, Some(end), join)
}

/// nsenter joins what bwrap made: the least that joining can cost a program.
fn of_bwrap(root: &Path) -> Result<(Alive, Runner)> {
    let mut stay = bwrap(root, &["--die-with-parent"]);
    stay.args(STAY);
    let alive = alive(&mut stay, None)?;
    let started = alive.child.id();
    let join = Runner::new("nsenter", &WALLS, move |inside| {
        let target = youngest(started)?.to_string();
        let flags = ["--all", "--preserve-credentials", "--target", &target, "--"];
        let mut command = command("nsenter", flags);
        command.args(inside);
        Ok(command)
    });
    Ok((alive, join))
}

fn up(stay: &mut Command, end: Option<Command>, join: Runner) -> Result<(Alive, Runner)> {
    Ok((alive(stay, end)?, join))
}

/// Starts a box and waits until its command runs: who joins sooner would start a box of their own.
fn alive(stay: &mut Command, end: Option<Command>) -> Result<Alive> {
    let (name, child) = spawn(stay.stdout(Stdio::piped()).stderr(Stdio::null()))?;
    let mut alive = Alive { child, end };
    let mut line = String::new();
    if let Some(stdout) = &mut alive.child.stdout {
        BufReader::new(stdout).read_line(&mut line).context(|| format!("read what {name} says"))?;
    }
    if line.trim() == "up" {
        return Ok(alive);
    }
    Err(Error::new(ErrorKind::FailedPrecondition, format!("the box of {name} did not come up")))
}

/// Returns the last of a line of first children, which is the command in the box: proc(5), /proc/PID/task/TID/children.
fn youngest(process: u32) -> Result<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = std::fs::read_to_string(&path).context(|| format!("read({path:?})"))?;
    match children.split_whitespace().next().and_then(|child| child.parse().ok()) {
        Some(child) => youngest(child),
        None => Ok(process),
    }
}
