//! `enter` and `exec`: commands in boxes. The first starts the box, further ones join it.

use std::ffi::OsString;

use rootling_backends::{Context as _, Dir, Error, ErrorKind, Form, Mount, Result};

use super::autosnap::Channel;
use super::detach::DetachFlags;
use super::live::{self, Claim, Note};
use super::run::{self, Ran, Wish};
use super::start::{self, Flags, Place, Settings};
use super::walls::Users;
use super::{Context, autosnap, store};
use crate::process;
use crate::runner::{self, IdBlock, Userns};
use crate::store::{BoxSettings, CreateOptions, Node, StepRecord, Store, Trigger};

#[derive(Debug, clap::Args)]
pub(super) struct EnterArguments {
    /// The box; or a step of a build, @fail for the one that failed last, of which a fork is made that is thrown away
    pub(super) name: String,

    #[command(flatten)]
    pub(super) detach: DetachFlags,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// Snapshot the box after each command of its interactive bash or zsh that changed something
    #[arg(long, conflicts_with = "detach")]
    autosnap: bool,

    /// The command [default: the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExecArguments {
    /// The box, or a fork that runs; if it runs, the command joins it
    pub(super) name: String,

    #[command(flatten)]
    pub(super) detach: DetachFlags,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn enter(context: &Context, arguments: EnterArguments) -> Result<i32> {
    let EnterArguments { name, detach, settings, autosnap, command } = arguments;
    let trigger = Some(Trigger::Enter);
    let flags = Flags { autosnap, trigger, ..settings.flags(detach.log.limit(), true) };
    run_in_box(context, &name, flags, What::Given(command))
}

pub(super) fn exec(context: &Context, arguments: ExecArguments) -> Result<i32> {
    let ExecArguments { name, detach, settings, command } = arguments;
    let flags = Flags { trigger: Some(Trigger::Exec), ..settings.flags(detach.log.limit(), true) };
    run_in_box(context, &name, flags, What::Given(command))
}

/// What is run in a box.
#[derive(Debug)]
pub(super) enum What {
    /// This; the user's shell where it is empty.
    Given(Vec<OsString>),
    /// The box's own entrypoint and command, with these arguments.
    Own {
        /// Instead of the box's own entrypoint.
        entrypoint: Option<String>,
        args: Vec<OsString>,
    },
}

pub(super) fn run_in_box(context: &Context, name: &str, flags: Flags<'_>, what: What) -> Result<i32> {
    let store = context.store()?;
    let found = live::find(&store, name)?;
    if !found.is_box {
        return join(context, &found.label, found.alive()?, flags, what);
    }
    let node = store::find(&store, name)?;
    if let (Some(step), What::Given(command)) = (&node.record.step, &what) {
        return run_in_step(context, &store, (name, step), flags, command.clone());
    }
    if let (Some(trigger), What::Given(words), false) = (flags.trigger, &what, flags.walls.dry_run) {
        // Before it is in use: then a delta is sealed where it is.
        autosnap::before(context, &store, &node, trigger, words)?;
    }
    let (node, _used) = store.open_box(&node)?;
    store::remember(&store, &node);
    let slot = store.slot(&node);
    let mut claimed = match live::claim(&slot)? {
        Claim::Ours(claimed) => claimed,
        Claim::Runs(note) => return join(context, node.label(), &note, flags, what),
    };
    refuse_second_mount(&store, &node)?;
    let kept = &node.record.life.settings;
    // What was typed is all there is where the box keeps nothing.
    let merged = if kept.is_empty() { None } else { Some(context.given.with(kept)?) };
    let flags = match &merged {
        Some(Settings { walls, surroundings, mounts }) => {
            Flags { walls, surroundings, mounts, kept: Some(kept), ..flags }
        }
        None => flags,
    };
    if flags.walls.userns == Users::Host {
        context.seal_for(&Userns::Host)?;
    }
    let args = arguments(&node, what, flags)?;
    let wanted = start::request(context, &store, flags, args, &node.record.config, node.label())?;
    let (mount, _) = store.mount(&node)?;
    let root = show_for_reading(&store, &node, &mount)?;
    let mut wanted = wanted.mounted(flags, &store, &root)?;
    if flags.autosnap && !flags.walls.dry_run {
        wanted = wanted.autosnapped(Channel::open(&store, &node)?);
    }
    let place =
        Place { mount, root: &root, slot: &slot, name: None, label: node.label(), id: node.id.as_str() };
    Ok(start::start(context, &wanted, flags, &place, &mut claimed)?.unwrap_or(0))
}

/// Runs a command where that of a step of a build was run, in a fork that is thrown away.
fn run_in_step(
    context: &Context,
    store: &Store,
    (name, step): (&str, &StepRecord),
    flags: Flags<'_>,
    command: Vec<OsString>,
) -> Result<i32> {
    if flags.autosnap {
        let message = format!("{name} is a step of a build: what is done in it is thrown away");
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint(format!("make a box of it: rootling create {name} NAME")));
    }
    let kept =
        BoxSettings { grammar: BoxSettings::GRAMMAR, flags: step.flags.clone(), ..BoxSettings::default() };
    let Settings { walls, surroundings, mounts } = &context.given.with(&kept)?;
    let wish = Wish {
        reference: name,
        pull: None,
        name: None,
        // What the image would start is not what is looked for.
        entrypoint: Some(""),
        command,
        flags: Flags { walls, surroundings, mounts, trigger: None, ..flags },
        options: CreateOptions::default(),
        volatile: true,
    };
    Ok(run::in_fork(context, store, wish)?.map_or(0, Ran::throw_away))
}

fn arguments(node: &Node, what: What, flags: Flags<'_>) -> Result<Vec<OsString>> {
    let (entrypoint, args) = match what {
        What::Given(args) => return Ok(args),
        What::Own { entrypoint, args } => (entrypoint, args),
    };
    let args = process::arguments(&node.record.config, entrypoint.as_deref(), args);
    if args.is_empty() && !flags.surroundings.wants_terminal() {
        let message = format!("{} has no command of its own to start", node.label());
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("name one after the box; or -t for a shell that `rootling attach` finds"));
    }
    Ok(args)
}

/// Runs a command in a box that somebody else started, with the walls of then.
fn join(context: &Context, label: &str, note: &Note, flags: Flags<'_>, what: What) -> Result<i32> {
    // What a variable may stand for, too, counts when it was typed.
    let typed = || {
        let by_variable =
            ["--net", "--userns"].into_iter().find(|flag| context.given.has(flag.trim_start_matches('-')));
        by_variable.or(flags.autosnap.then_some("--autosnap"))
    };
    if let Some(flag) = flags.walls.given().or_else(|| flags.mounts.given()).or_else(typed) {
        let message = format!("{label} runs already: {flag} is settled when a box starts");
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint("leave it out, or end what runs in the box first"));
    }
    let What::Given(command) = what else {
        let message = format!("{label} runs already");
        return Err(Error::new(ErrorKind::FailedPrecondition, message).hint(format!(
            "end it first: rootling stop {label}; or join it: rootling exec {label} COMMAND"
        )));
    };
    if context.detaches() {
        let message = format!("{label} runs already, and only what starts a box can be left running");
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint(format!("start it inside: rootling exec {label} sh -c 'COMMAND &'")));
    }
    let running = &note.running;
    context.seal_for(&running.userns)?;
    let root = Dir::open(format!("/proc/{}/root", running.pid)).context(|| format!("enter {label}"))?;
    let process = start::process(context, flags, command, &note.inherited, label, &root, &running.userns)?;
    if flags.walls.dry_run {
        context
            .output
            .data(&process, || format!("join process {} and run {:?}\n", running.pid, process.args));
        return Ok(0);
    }
    // Its ids stay lent as long as the command runs, which looks whether the box does after this.
    let _block = IdBlock::keep(&running.userns)?;
    let joined = runner::exec(running, &process).map_err(|error| match error.kind() {
        ErrorKind::NotFound if !running.is_alive() => error
            .context(format!("join what runs in {label}"))
            .hint("it has just ended: try again, and the command starts the box anew"),
        _ => error,
    });
    start::report(context, joined?)
}

fn show_for_reading(store: &Store, node: &Node, mount: &Mount) -> Result<Dir> {
    match mount {
        Mount::Bind { source } => Dir::open(source),
        _ => store.open_root(node),
    }
}

/// OverlayFS does not survive two mounts of one upper directory.
pub(super) fn refuse_second_mount(store: &Store, node: &Node) -> Result<()> {
    match store.mounted_at(node)?.first() {
        Some(place) if node.record.form == Form::Delta => {
            let message = format!("{} is mounted at {place:?}", node.label());
            Err(Error::new(ErrorKind::Busy, message).hint(format!("rootling umount {}", place.display())))
        }
        _ => Ok(()),
    }
}
