//! What `run`, `enter` and `exec` have in common: from flags to a process, and how it ended.

use std::ffi::OsString;
use std::fs::File;

use rootling_backends::{Dir, Error, ErrorKind, Mount, Result};

use super::Context;
use super::mounts::{MountFlags, Mounts};
use super::surroundings::Surroundings;
use super::users::{self, Chosen};
use super::walls::Walls;
use crate::process::{self, Request};
use crate::runner::{self, Entered, Outcome, Plan, Process, Running, Seccomp, Spec, User, Userns};
use crate::store::Store;

/// The flags that these commands share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flags<'a> {
    pub(super) walls: &'a Walls,
    pub(super) surroundings: &'a Surroundings,
    pub(super) mounts: &'a MountFlags,
    /// May further commands join?
    pub(super) joinable: bool,
}

/// What was asked for, with the ids lent for it.
#[derive(Debug)]
pub(super) struct Wanted {
    request: Request,
    chosen: Chosen,
    /// The use locks of volumes.
    _used: Vec<File>,
}

/// Makes a request of the flags.
pub(super) fn request(
    context: &Context,
    store: &Store,
    flags: Flags<'_>,
    args: Vec<OsString>,
    label: &str,
) -> Result<Wanted> {
    let walls = flags.walls;
    let chosen = users::choose(context, store, walls)?;
    let (net, dns) = walls.net.settle(context, store)?;
    let request = Request {
        command: command(context, flags, args, label)?,
        hosts: flags.mounts.hosts(&net)?,
        namespaces: walls.namespaces(store, net)?,
        dns,
        userns: chosen.userns.clone(),
        security: walls.security(flags.joinable)?,
        limits: walls.limits.limits()?,
        devices: walls.devices()?,
        sysctls: walls.sysctls()?,
        read_only: walls.read_only,
        binds: Vec::new(),
        tmpfs: Vec::new(),
    };
    Ok(Wanted { request, chosen, _used: Vec::new() })
}

impl Wanted {
    /// Opens what is to be mounted in the tree whose root `root` is, volumes of the store included.
    pub(super) fn mounted(self, flags: Flags<'_>, store: &Store, root: &Dir) -> Result<Self> {
        let Mounts { binds, tmpfs, used } = flags.mounts.open(store, root, flags.walls.dry_run)?;
        Ok(Self { request: Request { binds, tmpfs, ..self.request }, _used: used, ..self })
    }
}

/// Makes the command alone, for a box that runs.
pub(super) fn process(
    context: &Context,
    flags: Flags<'_>,
    args: Vec<OsString>,
    label: &str,
    root: &Dir,
) -> Result<Process> {
    let process = command(context, flags, args, label)?.process(root)?;
    require_mapped(context, &process)?;
    Ok(process)
}

fn command(
    context: &Context,
    flags: Flags<'_>,
    args: Vec<OsString>,
    label: &str,
) -> Result<process::Command> {
    let Flags { walls, surroundings, .. } = flags;
    Ok(process::Command {
        args,
        env: surroundings.env()?,
        cwd: surroundings.workdir.clone(),
        user: surroundings.user(context, walls),
        hostname: walls.hostname.clone().unwrap_or_else(|| process::hostname_of(label)),
        tty: surroundings.terminal(),
    })
}

/// Runs it in a tree shown by `mount`, whose root `root` is; returns the exit code, or `None` where it was only printed.
pub(super) fn start(
    context: &Context,
    wanted: &Wanted,
    flags: Flags<'_>,
    mount: Mount,
    root: &Dir,
    started: impl FnOnce(&Running),
) -> Result<Option<i32>> {
    let spec = wanted.request.spec(mount, root)?;
    require_mapped(context, &spec.process)?;
    if spec.security.seccomp == Seccomp::Default && process::makes_i386_sockets(root) {
        log::warn!(
            "the programs of this tree are for i386 and cannot open sockets: --security-opt seccomp=i386 lets them"
        );
    }
    let plan = Plan::build(&spec)?;
    if flags.walls.dry_run {
        context.output.data(&plan, || plan.to_string());
        return Ok(None);
    }
    flags.walls.net.say_ports(context, &plan);
    let mut started = Some(started);
    let mut tell = |running: &Running| {
        if let Some(started) = started.take() {
            started(running);
        }
    };
    let outcome = match runner::run(&plan, &mut tell) {
        Err(error) if wanted.chosen.optional && error.kind() == ErrorKind::Unsupported => {
            unmapped(context, spec, &error, &mut tell)
        }
        outcome => outcome,
    };
    report(context, outcome?).map(Some)
}

/// The second try, where the tree cannot be shown to a root that is nobody outside.
fn unmapped(context: &Context, spec: Spec, error: &Error, started: impl FnOnce(&Running)) -> Result<Outcome> {
    if !runner::is_sealed() {
        log::warn!(
            "root inside is root outside, because the tree's owners cannot be mapped: {}",
            innermost(error)
        );
    }
    context.seal_for(&Userns::Host)?;
    runner::run(&Plan::build(&Spec { userns: Userns::Host, ..spec })?, started)
}

fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Without a range of ids there is nobody inside but root.
fn require_mapped(context: &Context, process: &Process) -> Result<()> {
    let User { uid, gid, .. } = process.user;
    match &context.entered {
        Entered::Single { reason, .. } if (uid, gid) != (0, 0) => {
            let message = format!("user {uid}:{gid} does not exist for you: {reason}");
            Err(Error::new(ErrorKind::PermissionDenied, message)
                .hint("run it as root inside, or get a range of ids (see `rootling doctor`)"))
        }
        _ => Ok(()),
    }
}

/// Says what went wrong and returns the exit code.
pub(super) fn report(context: &Context, outcome: Outcome) -> Result<i32> {
    for note in &outcome.notes {
        log::info!("{note}");
    }
    if let Some(refused) = &outcome.refused {
        context.output.error(refused);
    }
    Ok(i32::from(outcome.status))
}
