//! What `run`, `enter` and `exec` have in common: from flags to a process, and how it ended.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use jiff::Timestamp;
use nix::fcntl::OFlag;
use rootling_backends::{Dir, Error, ErrorKind, Mount, Result};

use super::Context;
use super::autosnap::{self, Channel};
use super::home;
use super::live::{Claimed, Inherited, Note};
use super::me;
use super::mounts::{MountFlags, Mounts};
use super::surroundings::Surroundings;
use super::users::{self, Chosen};
use super::walls::Walls;
use crate::image::ImageConfig;
use crate::process::{self, Person, Request};
use crate::runner::log::Log;
use crate::runner::net::Dns;
use crate::runner::{
    self, Attendant, Bind, Entered, Net, Outcome, Plan, Process, Running, Seccomp, Security, Spec, User,
    Userns,
};
use crate::store::{BoxSettings, HomeMode, Name, Store, Trigger};

/// How a directory is looked for.
const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);

/// The flags that all of these commands have.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    #[command(flatten)]
    pub(super) walls: Walls,

    #[command(flatten)]
    pub(super) surroundings: Surroundings,

    #[command(flatten)]
    pub(super) mounts: MountFlags,
}

impl Settings {
    /// Returns them with what a command has settled besides.
    pub(super) fn flags(&self, log_limit: u64, joinable: bool) -> Flags<'_> {
        let Self { walls, surroundings, mounts } = self;
        Flags { walls, surroundings, mounts, kept: None, log_limit, joinable, autosnap: false, trigger: None }
    }

    /// Refuses what would be refused when a box is started with them, as far as that can be known before.
    pub(super) fn check(&self) -> Result<()> {
        self.walls.check()?;
        self.walls.security(true)?;
        self.walls.limits.limits()?;
        self.walls.devices()?;
        self.walls.sysctls()?;
        self.surroundings.env().map(drop)
    }
}

/// What was asked for, as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flags<'a> {
    pub(super) walls: &'a Walls,
    pub(super) surroundings: &'a Surroundings,
    pub(super) mounts: &'a MountFlags,
    /// What the box keeps besides flags; those are among these already.
    pub(super) kept: Option<&'a BoxSettings>,
    /// Bytes of each of its two logs, where it is left running.
    pub(super) log_limit: u64,
    /// May further commands join?
    pub(super) joinable: bool,
    /// Is the box snapshotted after each command of its shell?
    pub(super) autosnap: bool,
    /// What makes a snapshot before it, if the box's policy says so.
    pub(super) trigger: Option<Trigger>,
}

/// What was asked for, with the ids lent for it.
#[derive(Debug)]
pub(super) struct Wanted {
    request: Request,
    chosen: Chosen,
    /// The use locks of volumes.
    _used: Vec<File>,
    /// Where a shell asks for snapshots after its commands.
    autosnap: Option<Channel>,
    /// What commands that join get.
    inherited: Inherited,
    stop_signal: String,
}

/// Where something is started.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// How the tree is shown.
    pub(super) mount: Mount,
    /// The root of the tree, or of what it was forked from.
    pub(super) root: &'a Dir,
    /// The object's directory: for its log.
    pub(super) slot: &'a Path,
    /// What it is called, if it is a fork.
    pub(super) name: Option<&'a Name>,
    /// Its name or id.
    pub(super) label: &'a str,
    pub(super) id: &'a str,
}

/// Makes a request of the flags.
pub(super) fn request(
    context: &Context,
    store: &Store,
    flags: Flags<'_>,
    args: Vec<OsString>,
    config: &ImageConfig,
    label: &str,
) -> Result<Wanted> {
    flags.walls.check()?;
    let chosen = users::choose(context, store, flags.walls, flags.surroundings.is_me())?;
    let (net, dns) = flags.walls.net.settle(context, store)?;
    request_with(context, store, flags, args, config, label, Settled { chosen, net, dns })
}

/// Whose users and which network something has.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) chosen: Chosen,
    pub(super) net: Net,
    pub(super) dns: Dns,
}

/// As [`request`], with users and a network that were settled for it.
pub(super) fn request_with(
    context: &Context,
    store: &Store,
    flags: Flags<'_>,
    args: Vec<OsString>,
    config: &ImageConfig,
    label: &str,
    settled: Settled,
) -> Result<Wanted> {
    let (walls, is_me) = (flags.walls, flags.surroundings.is_me());
    let Settled { chosen, net, dns } = settled;
    let me = match flags.kept.and_then(|kept| kept.me) {
        _ if !is_me => None,
        Some(uid) => Some(uid),
        None => Some(me::uid(context)?),
    };
    let person = me.map(|uid| me::person(context, uid, &chosen.userns)).transpose()?;
    if let (true, Some(Person { uid: 0, name, .. })) = (context.entered != Entered::Root, &person) {
        context.output.say(format!("rootling: {name} is root inside, where no other id is yours"));
    }
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let image = Inherited {
        env: config.env.clone(),
        workdir: some(&config.working_dir).map(|path| Path::new("/").join(path)),
        user: some(&config.user),
        ..Inherited::default()
    };
    let command = command(context, flags, args, &image, person, label)?;
    let mut inherited =
        Inherited { workdir: command.cwd.clone(), user: Some(command.user.clone()), me, ..image };
    inherited.env.extend(command.env.iter().filter_map(|given| with_value(given)));
    let request = Request {
        command,
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
        // One that was asked for by a flag and is missing is more likely a slip.
        make_dirs: image.workdir.into_iter().filter(|_| flags.surroundings.workdir.is_none()).collect(),
    };
    Ok(Wanted {
        request,
        chosen,
        _used: Vec::new(),
        autosnap: None,
        inherited,
        stop_signal: config.stop_signal.clone(),
    })
}

impl Wanted {
    /// Opens what is to be mounted in the tree whose root `root` is, volumes of the store and the box's home included.
    pub(super) fn mounted(mut self, flags: Flags<'_>, store: &Store, root: &Dir) -> Result<Self> {
        let mut mounts = flags.mounts.open(store, Some(root), flags.walls.dry_run)?;
        let home = flags.kept.and_then(|kept| kept.home.as_ref());
        let command = &mut self.request.command;
        if let Some(home) = home {
            let person = command.person.as_ref();
            home::mount(store, home, root, person, &self.chosen.userns, flags.walls.dry_run, &mut mounts)?;
            if command.cwd.is_none() && command.person.is_some() {
                command.cwd = Some(home.path.clone());
            }
        }
        let mut shown = mounts.shown();
        for (place, is_same) in &mut shown {
            // What the host had when the box was made.
            *is_same |= home.is_some_and(|home| home.mode == HomeMode::Snapshot && home.path == *place);
        }
        if let (None, Some(here)) = (&flags.surroundings.workdir, home::same_directory(&shown)) {
            let is_there = |bind: &Bind| {
                let below = here.strip_prefix(&bind.target).ok()?;
                let there = Dir::open(&bind.source).and_then(|dir| dir.open_in_root(below, DIRECTORY));
                there.is_ok().then_some(())
            };
            if mounts.binds.iter().any(|bind| is_there(bind).is_some()) {
                command.cwd = Some(here);
            }
        }
        self.inherited.shown = shown;
        let Mounts { binds, tmpfs, used } = mounts;
        Ok(Self { request: Request { binds, tmpfs, ..self.request }, _used: used, ..self })
    }

    /// Returns what it may not do.
    pub(super) fn security(&self) -> &Security {
        &self.request.security
    }

    /// Returns the box as it would be started, for another runner, whose `ambient` variables the command gets.
    pub(super) fn spec_for(
        &self,
        mount: Mount,
        root: &Dir,
        ambient: Vec<(&'static str, OsString)>,
    ) -> Result<Spec> {
        let command = process::Command { ambient, ..self.request.command.clone() };
        Request { command, ..self.request.clone() }.spec(mount, root)
    }

    /// Lets a shell ask for a snapshot after each of its commands.
    pub(super) fn autosnapped(mut self, channel: Channel) -> Self {
        self.request.binds.push(channel.bind());
        Self { autosnap: Some(channel), ..self }
    }
}

/// A variable with its value: ours, where only the name was given.
fn with_value(given: &str) -> Option<String> {
    if given.contains('=') {
        return Some(given.to_owned());
    }
    Some(format!("{given}={}", std::env::var_os(given)?.to_str()?))
}

/// Makes the command alone, for a box that runs.
pub(super) fn process(
    context: &Context,
    flags: Flags<'_>,
    args: Vec<OsString>,
    inherited: &Inherited,
    label: &str,
    root: &Dir,
    userns: &Userns,
) -> Result<Process> {
    let me = match (flags.surroundings.is_me(), flags.surroundings.names_user()) {
        (true, _) => Some(me::uid(context)?),
        (false, true) => None,
        (false, false) => inherited.me,
    };
    let person = me.map(|uid| me::person(context, uid, userns)).transpose()?;
    let mut command = command(context, flags, args, inherited, person, label)?;
    if let (None, Some(here)) = (&flags.surroundings.workdir, home::same_directory(&inherited.shown))
        && root.open_in_root(&here, DIRECTORY).is_ok()
    {
        command.cwd = Some(here);
    }
    let process = command.process(root)?;
    require_mapped(context, &process)?;
    Ok(process)
}

fn command(
    context: &Context,
    flags: Flags<'_>,
    args: Vec<OsString>,
    inherited: &Inherited,
    person: Option<Person>,
    label: &str,
) -> Result<process::Command> {
    let Flags { walls, surroundings, .. } = flags;
    Ok(process::Command {
        args,
        ambient: process::Command::usual_ambient(),
        image_env: inherited.env.clone(),
        env: surroundings.env()?,
        cwd: surroundings.workdir.clone().or_else(|| inherited.workdir.clone()),
        user: surroundings.user(context, walls, inherited.user.as_deref()),
        person,
        hostname: walls.hostname.clone().unwrap_or_else(|| process::hostname_of(label)),
        tty: surroundings.terminal(context.detaches()),
    })
}

/// Runs it and writes down what runs; returns the exit code, or `None` where it was only printed.
///
/// What is left running says so once it runs, and with that lets the caller go.
pub(super) fn start(
    context: &Context,
    wanted: &Wanted,
    flags: Flags<'_>,
    place: &Place<'_>,
    claimed: &mut Claimed,
) -> Result<Option<i32>> {
    let mut spec = wanted.request.spec(place.mount.clone(), place.root)?;
    if wanted.autosnap.is_some() {
        autosnap::prepare(&mut spec.process)?;
    }
    require_mapped(context, &spec.process)?;
    if spec.security.seccomp == Seccomp::Default && process::makes_i386_sockets(place.root) {
        log::warn!(
            "the programs of this tree are for i386 and cannot open sockets: --security-opt seccomp=i386 lets them"
        );
    }
    if flags.walls.dry_run {
        let plan = Plan::build(&spec)?;
        context.output.data(&plan, || format!("{plan}\n"));
        return Ok(None);
    }
    let outcome = match run(context, wanted, flags, place, claimed, &spec) {
        Err(error) if wanted.chosen.optional && error.kind() == ErrorKind::Unsupported => {
            let spec = unmapped(context, spec, &error)?;
            run(context, wanted, flags, place, claimed, &spec)
        }
        outcome => outcome,
    };
    let code = outcome.and_then(|outcome| report(context, outcome));
    claimed.ended(code.as_ref().map_or(125, |code| u8::try_from(*code).unwrap_or(125)));
    code.map(Some)
}

fn run(
    context: &Context,
    wanted: &Wanted,
    flags: Flags<'_>,
    place: &Place<'_>,
    claimed: &mut Claimed,
    spec: &Spec,
) -> Result<Outcome> {
    let plan = Plan::build(spec)?;
    flags.walls.net.say_ports(context, &plan);
    let detached = context.detaches();
    let mut announced = Ok(());
    let started = |running: &Running| {
        claimed.started(Note {
            running: running.clone(),
            name: place.name.cloned(),
            command: spec.process.args.iter().map(|text| text.to_string_lossy().into_owned()).collect(),
            started: Some(Timestamp::now()),
            detached,
            terminal: plan.command.tty,
            stop_signal: wanted.stop_signal.clone(),
            inherited: wanted.inherited.clone(),
            ended: None,
        });
        if let Some(caller) = context.caller.filter(|_| !detached) {
            caller.remember();
        }
        announced = context.announce(place.label, place.id);
    };
    let outcome = if detached {
        let log = Log::open(place.slot, flags.log_limit, plan.command.tty)?;
        let attendant = Attendant::new(place.slot, log, plan.command.tty)?;
        runner::run_detached(&plan, attendant, started)
    } else {
        runner::run(&plan, started)
    };
    announced.and(outcome)
}

/// What is tried where the tree cannot be shown to a root that is nobody outside.
fn unmapped(context: &Context, spec: Spec, error: &Error) -> Result<Spec> {
    if !runner::is_sealed() {
        log::warn!(
            "root inside is root outside, because the tree's owners cannot be mapped: {}",
            innermost(error)
        );
    }
    context.seal_for(&Userns::Host)?;
    Ok(Spec { userns: Userns::Host, ..spec })
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
