//! `enter` and `exec`: commands in boxes. The first starts the box, further ones join it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rootling_backends::{Context as _, Dir, Error, ErrorKind, Form, Mount, Result};

use super::mounts::MountFlags;
use super::start::{self, Flags};
use super::surroundings::Surroundings;
use super::walls::Walls;
use super::{Context, store};
use crate::runner::{self, Running};
use crate::store::{Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct EnterArguments {
    /// The box
    pub(super) name: String,

    #[command(flatten)]
    pub(super) walls: Walls,

    #[command(flatten)]
    surroundings: Surroundings,

    #[command(flatten)]
    mounts: MountFlags,

    /// The command [default: the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExecArguments {
    /// The box; if it runs, the command joins it
    pub(super) name: String,

    #[command(flatten)]
    pub(super) walls: Walls,

    #[command(flatten)]
    surroundings: Surroundings,

    #[command(flatten)]
    mounts: MountFlags,

    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn enter(context: &Context, arguments: EnterArguments) -> Result<i32> {
    let EnterArguments { walls, surroundings, mounts, .. } = &arguments;
    let flags = Flags { walls, surroundings, mounts, joinable: true };
    run_in_box(context, &arguments.name, flags, arguments.command.clone())
}

pub(super) fn exec(context: &Context, arguments: ExecArguments) -> Result<i32> {
    let ExecArguments { walls, surroundings, mounts, .. } = &arguments;
    let flags = Flags { walls, surroundings, mounts, joinable: true };
    run_in_box(context, &arguments.name, flags, arguments.command.clone())
}

fn run_in_box(context: &Context, name: &str, flags: Flags<'_>, command: Vec<OsString>) -> Result<i32> {
    let store = context.store()?;
    let (node, _used) = store.open_box(&store::find(&store, name)?)?;
    store::remember(&store, &node);
    let note = store.slot(&node).join(store::RUNNING);
    let mut running = match claim(&note)? {
        Claim::Ours(file) => file,
        Claim::Runs(running) => return join(context, &node, &running, flags, command),
    };
    refuse_second_mount(&store, &node)?;
    let wanted = start::request(context, &store, flags, command, node.label())?;
    let (mount, _) = store.mount(&node)?;
    let root = show_for_reading(&store, &node, &mount)?;
    let wanted = wanted.mounted(flags, &store, &root)?;
    let code = start::start(context, &wanted, flags, mount, &root, |started| {
        // Best effort: without the note others cannot join, and say so.
        if let Err(error) = write_note(&mut running, started) {
            log::warn!("others cannot join {}: {error:?}", node.label());
        }
    });
    // Best effort: a note of a process that has ended is known to be stale.
    drop(running.set_len(0));
    Ok(code?.unwrap_or(0))
}

/// Runs a command in a box that somebody else started, with the walls of then.
fn join(
    context: &Context,
    node: &Node,
    running: &Running,
    flags: Flags<'_>,
    command: Vec<OsString>,
) -> Result<i32> {
    if let Some(flag) = flags.walls.given().or_else(|| flags.mounts.given()) {
        let message = format!("{} runs already: {flag} is settled when a box starts", node.label());
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint("leave it out, or end what runs in the box first"));
    }
    context.seal_for(&running.userns)?;
    let root =
        Dir::open(format!("/proc/{}/root", running.pid)).context(|| format!("enter {}", node.label()))?;
    let process = start::process(context, flags, command, node.label(), &root)?;
    if flags.walls.dry_run {
        context.output.data(&process, || format!("join process {} and run {:?}", running.pid, process.args));
        return Ok(0);
    }
    start::report(context, runner::exec(running, &process)?)
}

fn show_for_reading(store: &Store, node: &Node, mount: &Mount) -> Result<Dir> {
    match mount {
        Mount::Bind { source } => Dir::open(source),
        _ => store.open_root(node),
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
    Runs(Box<Running>),
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
            return Ok(Claim::Runs(Box::new(running)));
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
