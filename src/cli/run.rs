//! `run`, `enter` and `exec`: commands in forks and boxes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rootling_backends::{Access, Context as _, Dir, Error, ErrorKind, Form, Kind, Mount, Result};

use super::net::NetFlags;
use super::{Context, Materialize, said, store};
use crate::process::{self, Request};
use crate::runner::net::Dns;
use crate::reference::Reference;
use crate::runner::{self, Entered, Net, Outcome, Plan, Process, Running, Tty, User, Userns};
use crate::store::{Base, Name, Node, Store};

/// How a command is run.
#[derive(Debug, Clone, clap::Args)]
struct Surroundings {
    /// Set a variable, or pass ours on
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Directory to start in [default: the user's home]
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<PathBuf>,

    /// User to run as: a name or number of the tree's own, with :GROUP if wanted
    #[arg(short, long, default_value = "root")]
    user: String,

    /// Give it a terminal [default: if standard input and output are one]
    #[arg(short, long)]
    tty: bool,

    /// Give it no terminal
    #[arg(short = 'T', long, conflicts_with = "tty")]
    no_tty: bool,
}

/// What is settled when a box starts, and not for each command in it.
#[derive(Debug, Clone, clap::Args)]
struct Walls {
    /// Name of the machine as seen inside [default: after the tree]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    #[command(flatten)]
    net: NetFlags,

    /// Let nothing be written to the tree
    #[arg(long)]
    read_only: bool,

    /// Print what would be done, and do not do it
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArguments {
    /// What to fork: a tree, a box as it stands, host:/
    reference: String,

    /// Keep the fork as a box of this name
    #[arg(long, value_name = "NAME", value_parser = said(Name::parse))]
    keep: Option<Name>,

    #[command(flatten)]
    materialize: Materialize,

    #[command(flatten)]
    walls: Walls,

    #[command(flatten)]
    surroundings: Surroundings,

    /// The command [default: the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(super) struct EnterArguments {
    /// The box
    pub(super) name: String,

    #[command(flatten)]
    walls: Walls,

    #[command(flatten)]
    surroundings: Surroundings,

    /// The command [default: the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExecArguments {
    /// The box; if it runs, the command joins it
    pub(super) name: String,

    #[command(flatten)]
    walls: Walls,

    #[command(flatten)]
    surroundings: Surroundings,

    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn run(context: &Context, arguments: RunArguments) -> Result<i32> {
    let store = context.store()?;
    let reference = Reference::parse(&arguments.reference)?;
    let node = match &reference {
        Reference::Host => {
            context.require_root_for_host()?;
            None
        }
        Reference::Node { .. } => Some(store::find(&store, &arguments.reference)?),
    };
    if let Some(name) = &arguments.keep
        && store.resolve_name(name)?.is_some()
    {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("the name {name} is taken"))
            .hint("choose another name"));
    }
    workers_take_no_signals(&store);
    let progress = context.output.progress(format!("forking {reference}"));
    let base = node.as_ref().map_or(Base::Host, Base::Node);
    let fork = store.ephemeral(base, arguments.materialize.options());
    drop(progress);
    let fork = fork?;
    context.output.cost(&format!("forked {reference}"), fork.backend(), fork.cost());
    let mut request = request(
        &arguments.walls,
        arguments.surroundings,
        arguments.command,
        &label(&reference, node.as_ref()),
    );
    (request.net, request.dns) = arguments.walls.net.settle(context)?;
    let mount = fork.mount(&store, Access::ReadWrite, arguments.keep.is_none())?;
    let spec = request.spec(mount, &fork.open_parent(&store)?)?;
    require_mapped(context, &spec.process)?;
    let plan = Plan::build(&spec)?;
    if arguments.walls.dry_run {
        context.output.data(&plan, || plan.to_string());
        return Ok(0);
    }
    let code = report(context, runner::run(&plan, |_| {}))?;
    if let Some(name) = &arguments.keep {
        let kept = store.keep(fork, name)?;
        store::remember(&store, &kept);
        context.output.say(format!("kept as {}", kept.label()));
    }
    Ok(code)
}

fn label(reference: &Reference, node: Option<&Node>) -> String {
    match (reference, node) {
        (Reference::Host, _) | (_, None) => "fork-of-host".to_owned(),
        (_, Some(node)) => node.label().to_owned(),
    }
}

pub(super) fn enter(context: &Context, arguments: EnterArguments) -> Result<i32> {
    run_in_box(context, &arguments.name, &arguments.walls, arguments.surroundings, arguments.command)
}

pub(super) fn exec(context: &Context, arguments: ExecArguments) -> Result<i32> {
    run_in_box(context, &arguments.name, &arguments.walls, arguments.surroundings, arguments.command)
}

fn run_in_box(
    context: &Context,
    name: &str,
    walls: &Walls,
    surroundings: Surroundings,
    command: Vec<OsString>,
) -> Result<i32> {
    let store = context.store()?;
    let (node, _used) = store.open_box(&store::find(&store, name)?)?;
    store::remember(&store, &node);
    let mut request = request(walls, surroundings, command, node.label());
    let note = store.slot(&node).join(store::RUNNING);
    let mut running = match claim(&note)? {
        Claim::Ours(file) => file,
        Claim::Runs(running) => {
            let root = Dir::open(format!("/proc/{}/root", running.pid))
                .context(|| format!("enter {}", node.label()))?;
            let process = request.process(&root)?;
            require_mapped(context, &process)?;
            return report(context, runner::exec(&running, &process));
        }
    };
    refuse_second_mount(&store, &node)?;
    (request.net, request.dns) = walls.net.settle(context)?;
    let (mount, _) = store.mount(&node)?;
    let root = show_for_reading(&store, &node, &mount)?;
    let spec = request.spec(mount, &root)?;
    require_mapped(context, &spec.process)?;
    let plan = Plan::build(&spec)?;
    drop(root);
    if walls.dry_run {
        context.output.data(&plan, || plan.to_string());
        return Ok(0);
    }
    let outcome = runner::run(&plan, |started| {
        // Best effort: without the note others cannot join, and say so.
        if let Err(error) = write_note(&mut running, started) {
            log::warn!("others cannot join {}: {error:?}", node.label());
        }
    });
    // Best effort: a note of a process that has ended is known to be stale.
    drop(running.set_len(0));
    report(context, outcome)
}

fn show_for_reading(store: &Store, node: &Node, mount: &Mount) -> Result<Dir> {
    match mount {
        Mount::Bind { source } => Dir::open(source),
        _ => store.open_root(node),
    }
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

/// OverlayFS does not survive two mounts of one upper directory.
fn refuse_second_mount(store: &Store, node: &Node) -> Result<()> {
    match store.mounted_at(node)?.first() {
        Some(place) if node.record.form == Form::Delta => {
            let message = format!("{} is mounted at {place:?}", node.label());
            Err(Error::new(ErrorKind::Busy, message).hint(format!("rootling umount {}", place.display())))
        }
        _ => Ok(()),
    }
}

// ---------------------------------------------------------------- who runs the box

enum Claim {
    /// Nobody: we do, as long as this file is open.
    Ours(File),
    /// Somebody else does.
    Runs(Running),
}

/// Finds out who runs the box. The note is flocked by the process that does.
fn claim(note: &Path) -> Result<Claim> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(note);
    let mut file = opened.context(|| format!("open({note:?}, O_CREAT)"))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Claim::Ours(file)),
            Err(TryLockError::Error(error)) => return Err(Error::io(format!("flock({note:?})"), error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let mut text = Vec::new();
        let read = file.rewind().and_then(|()| file.read_to_end(&mut text));
        read.context(|| format!("read({note:?})"))?;
        if let Ok(running) = serde_json::from_slice::<Running>(&text)
            && running.is_alive()
        {
            return Ok(Claim::Runs(running));
        }
        // It is just starting, or just ending.
        if start.elapsed() > Duration::from_secs(10) {
            return Err(Error::new(ErrorKind::Busy, format!("somebody holds {note:?} and runs nothing"))
                .hint("try again when it has ended"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn write_note(file: &mut File, running: &Running) -> Result<()> {
    let text = serde_json::to_vec(running).expect("plain fields");
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
    written.context(|| "write(running.json)")
}

// ---------------------------------------------------------------- from flags to data

fn request(walls: &Walls, surroundings: Surroundings, args: Vec<OsString>, label: &str) -> Request {
    Request {
        args,
        env: surroundings.env,
        cwd: surroundings.workdir,
        user: surroundings.user,
        hostname: walls.hostname.clone().unwrap_or_else(|| process::hostname_of(label)),
        tty: match (surroundings.tty, surroundings.no_tty) {
            (true, _) => Tty::On,
            (_, true) => Tty::Off,
            _ => Tty::Auto,
        },
        net: Net::Host,
        dns: Dns::default(),
        userns: Userns::Host,
        read_only: walls.read_only,
        binds: Vec::new(),
        tmpfs: Vec::new(),
    }
}

/// Says what went wrong and returns the exit code.
fn report(context: &Context, outcome: Result<Outcome>) -> Result<i32> {
    let outcome = outcome?;
    for note in &outcome.notes {
        log::info!("{note}");
    }
    if let Some(refused) = &outcome.refused {
        context.output.error(refused);
    }
    Ok(i32::from(outcome.status))
}

/// Threads that walk trees must leave signals to the one that runs the command.
///
/// Started here only where a fork will walk one: starting them costs 0.3 ms.
fn workers_take_no_signals(store: &Store) {
    if matches!(store.ephemeral_backend(), Kind::Reflink | Kind::Copy) {
        let quiet = rayon::ThreadPoolBuilder::new().start_handler(|_| {
            // A thread that may not block signals still walks trees.
            SigSet::all().thread_block().unwrap_or_default();
        });
        // There is a pool already: then somebody else configured it.
        drop(quiet.build_global());
    }
}
