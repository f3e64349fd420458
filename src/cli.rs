//! The command line: what may be said, and which file answers.
//!
//! One file for each command; only `output` prints. Nothing imports this module.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use rootling_backends::{Context as _, ErrorKind, Kind, Result};

use crate::runner::{self, Announcer, Detached, Entered, Userns};

mod command;
mod output;
mod store;

mod attach;
mod autosnap;
mod bisect;
mod blame;
mod build;
mod build_run;
mod bundle;
mod commit;
mod completion;
mod cp;
mod create;
mod detach;
mod diff;
mod doctor;
mod du;
mod enter;
mod export;
mod fork;
mod fsck;
mod generate;
mod home;
mod images;
mod import;
mod init;
mod inspect;
mod keep;
mod kept;
mod limits;
mod live;
mod log;
mod login;
mod logs;
mod ls;
mod man;
mod marks;
mod me;
mod merging;
mod mount;
mod mounts;
mod net;
mod places;
mod policy;
mod promote;
mod prune;
mod ps;
mod pull;
mod push;
mod rename;
mod restore;
mod rm;
mod run;
mod save;
mod serve;
mod set;
mod show;
mod snapshot;
#[cfg(feature = "containerd")]
mod snapshotter;
mod start;
mod stats;
mod step;
mod stop;
mod surroundings;
mod trying;
mod undelete;
mod undo_host;
mod unshare;
mod users;
mod verify;
mod volume;
mod walls;

use command::Command;
use kept::Given;
use output::{Format, Output};

/// Make, fork, enter and compare Linux root filesystems on the copy-on-write the host already has
#[derive(Debug, Parser)]
#[command(name = "rootling", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Arguments {
    /// Store to use [default: /var/lib/rootling for root, else $XDG_DATA_HOME/rootling]
    #[arg(long, global = true, env = "ROOTLING_ROOT", value_name = "PATH")]
    root: Option<PathBuf>,

    /// How to print data
    #[arg(long, global = true, value_enum, default_value = "table")]
    format: Format,

    /// Print only data, and of that only ids and names
    #[arg(short, long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

/// The backends, as they are written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BackendChoice {
    /// The best one that works here
    Auto,
    /// Subvolumes and their snapshots
    Btrfs,
    /// OverlayFS
    Overlay,
    /// Plain directories, files sharing their extents
    Reflink,
    /// Plain directories, files copied
    Copy,
}

impl BackendChoice {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Auto => None,
            Self::Btrfs => Some(Kind::Btrfs),
            Self::Overlay => Some(Kind::Overlay),
            Self::Reflink => Some(Kind::Reflink),
            Self::Copy => Some(Kind::Copy),
        }
    }
}

/// How a tree is made.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Materialize {
    /// Backend that makes the tree [default: the store's]
    #[arg(long, value_enum)]
    backend: Option<BackendChoice>,

    /// Whether files may be copied where they cannot be cloned
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    reflink: Reflink,
}

/// Clone or copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reflink {
    /// Clone what can be cloned, copy and report the rest
    Auto,
    /// Fail if a file cannot be cloned
    Always,
}

impl Materialize {
    fn options(self) -> crate::store::CreateOptions {
        crate::store::CreateOptions {
            backend: self.backend.and_then(BackendChoice::kind),
            always_clone: self.reflink == Reflink::Always,
            ..Default::default()
        }
    }
}

/// Makes a parser for clap of one of ours: clap shows one sentence, so the hint goes into it.
fn said<T>(parse: fn(&str) -> Result<T>) -> impl Fn(&str) -> std::result::Result<T, String> + Clone {
    move |text| {
        parse(text).map_err(|error| match error.first_hint() {
            Some(hint) => format!("{error}: {hint}"),
            None => error.to_string(),
        })
    }
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    root: Option<PathBuf>,
    output: Output,
    entered: Entered,
    /// What the caller's was before we set modes ourselves.
    umask: libc::mode_t,
    /// Flags of boxes that were typed.
    given: Given,
    /// Who wants this program to end with them.
    caller: Option<runner::Caller>,
    /// The flags for commands that `fork` or `bisect` was given, to give them to each.
    settings: Vec<OsString>,
    /// Where something is to be left running: who waits for it to start.
    announcer: RefCell<Option<Announcer>>,
}

/// Runs the program and returns its exit code.
pub fn main() -> i32 {
    runner::begin_process();
    let caller = runner::Caller::who_asked();
    if let Some(code) = step::run(caller) {
        return code;
    }
    let (arguments, given, settings) = match read() {
        Ok(read) => read,
        Err(code) => return code,
    };
    let output = Output { format: arguments.format, quiet: arguments.quiet };
    let trouble = arguments.command.trouble();
    let prepared = prepare(arguments.root, output, &arguments.command, given);
    let prepared = prepared.map(|context| Context { caller, settings, ..context }).and_then(|context| {
        if arguments.command.detaches() {
            match runner::detach()? {
                Detached::Caller(code) => std::process::exit(code.into()),
                Detached::Supervisor(announcer) => {
                    context.announcer.replace(Some(announcer));
                }
            }
        }
        Ok(context)
    });
    match prepared.and_then(|context| dispatch(&context, arguments.command)) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            match trouble {
                1 if error.kind() == ErrorKind::InvalidInput => 2,
                code => code,
            }
        }
    }
}

/// Reads the command line: what it says, which flags of boxes it says itself, and what is passed on to
/// each of many boxes; else the exit code.
fn read() -> std::result::Result<(Arguments, Given, Vec<OsString>), i32> {
    let matches = Arguments::command().try_get_matches();
    let read = matches.and_then(|matches| {
        let arguments = Arguments::from_arg_matches(&matches)?;
        if arguments.format.draws() && !matches!(arguments.command, Command::Log(_)) {
            let message = "only `log` draws: --format dot and svg are its";
            return Err(Arguments::command().error(clap::error::ErrorKind::InvalidValue, message));
        }
        let given = matches.subcommand().map(|(_, given)| given);
        let settings = match (&arguments.command, given) {
            (Command::Fork(_) | Command::Bisect(_), Some(given)) => fork::settings(given),
            _ => Vec::new(),
        };
        let of_boxes = matches.subcommand().filter(|(name, _)| OF_BOXES.contains(name));
        Ok((arguments, of_boxes.map_or_else(Given::default, |(_, given)| Given::of(given)), settings))
    });
    read.map_err(|error| {
        // A closed pipe is no error of ours.
        error.print().unwrap_or_default();
        match error.exit_code() {
            0 => 0,
            // 2 could be the command's own.
            _ if std::env::args_os()
                .take_while(|word| word != "--")
                .any(|word| word.to_str().is_some_and(|word| RUNNING.contains(&word))) =>
            {
                125
            }
            code => code,
        }
    })
}

/// The commands that have the flags of boxes.
const OF_BOXES: [&str; 8] = ["run", "try", "enter", "exec", "start", "create", "set", "bundle"];

/// The commands that end as the command they run, or say with 1 or 2 what came of it.
const RUNNING: [&str; 8] = ["run", "try", "exec", "enter", "shell", "start", "bisect", "build-run"];

/// Sets what is a property of the whole process, before anything starts a thread.
fn prepare(root: Option<PathBuf>, output: Output, command: &Command, given: Given) -> Result<Context> {
    let umask = store::prepare_process();
    let looks_ahead = !runner::is_root() || command.detaches();
    let found = command.box_name().filter(|_| looks_ahead).map(|name| store::look(root.as_deref(), name));
    let (running, kept) = found.unwrap_or_default();
    // Root is root of every namespace already.
    let mut running = running.filter(|_| !runner::is_root());
    // What is wrong with what it keeps is said when the box starts.
    let kept = kept.filter(|_| running.is_none() && command.runs()).and_then(|kept| given.with(&kept).ok());
    let walls = kept.as_ref().map(|kept| &kept.walls).or_else(|| command.walls());
    if running.is_none() && !runner::is_root() {
        // A box to be entered that does not run yet may join another that does.
        let joined = walls.and_then(walls::Walls::joined_box);
        running = joined.and_then(|name| store::look(root.as_deref(), name).0);
    }
    let before = entered_before();
    let joins_cgroup = command.runs() && running.as_ref().is_some_and(|running| running.cgroup.is_some());
    if before.is_none() && !runner::is_root() && (joins_cgroup || walls.is_some_and(walls::Walls::limits_box))
    {
        // Now, because the user's bus takes us for somebody else in a user namespace.
        runner::cgroup::delegate().context(|| "limits need a cgroup of your own")?;
    }
    let entered = match (before, &running, command) {
        (Some(entered), ..) => entered,
        (_, _, command) if command.only_looks() => match runner::is_root() {
            true => Entered::Root,
            false => Entered::Nothing,
        },
        (_, Some(running), _) => match runner::join_userns(running) {
            // The box has ended since it was found: as if it had never run.
            Err(error) if error.kind() == ErrorKind::NotFound => runner::enter_userns(),
            joined => joined.context(|| "join the user namespace of the box"),
        }?,
        (_, None, Command::Doctor(_)) => runner::enter_userns().unwrap_or(Entered::Nothing),
        (_, None, _) => runner::enter_userns().context(|| "become root of a user namespace of your own")?,
    };
    let shares_users = walls.is_some_and(|walls| walls.userns == walls::Users::Host);
    let (caller, settings, announcer) = Default::default();
    let context = Context { root, output, entered, umask, given, caller, settings, announcer };
    if command.runs() && (context.entered != Entered::Root || shares_users) {
        context.seal_for(&Userns::Host)?;
    }
    let entered = &context.entered;
    if let Entered::Single { reason, fix } = entered
        && matches!(command, Command::Init(_) | Command::Import(_))
    {
        ::log::warn!("only your own user id exists inside: {reason} ({fix})");
    }
    Ok(context)
}

/// How this program tells itself, when it starts again, what it has become.
const ENTERED: &str = "ROOTLING_ENTERED";

/// What this process became before it started itself again (see [`runner::seal`]); a user can set the variable too, and
/// gains nothing: what one is not, the kernel refuses.
fn entered_before() -> Option<Entered> {
    let text = std::env::var(ENTERED).ok()?;
    serde_json::from_str(&text).ok().filter(|_| runner::is_root())
}

impl Context {
    /// Returns one in which only data is printed, for a command that another one runs.
    fn quiet(&self) -> Self {
        Self {
            root: self.root.clone(),
            output: Output { quiet: true, ..self.output },
            entered: self.entered.clone(),
            umask: self.umask,
            given: Given::default(),
            caller: self.caller,
            settings: Vec::new(),
            announcer: RefCell::default(),
        }
    }

    /// The variable that tells this program, when it is started by itself, what it is already.
    fn as_entered(&self) -> Option<(&'static str, String)> {
        let entered = Some(&self.entered).filter(|entered| **entered != Entered::Root);
        entered.map(|entered| (ENTERED, serde_json::to_string(entered).expect("plain fields")))
    }

    /// Makes sure that a box with these users cannot write this program; may start it again.
    fn seal_for(&self, userns: &Userns) -> Result<()> {
        let exposed = *userns == Userns::Host || self.entered != Entered::Root;
        if !exposed || runner::is_sealed() {
            return Ok(());
        }
        let sealed = if self.entered == Entered::Root {
            runner::seal("ROOTLING_USERNS", "host")
        } else {
            let (name, value) = self.as_entered().expect("it is not the machine's root");
            runner::seal(name, &value)
        };
        sealed.map(|never| match never {})
    }
}

fn dispatch(context: &Context, command: Command) -> Result<i32> {
    let done = match command {
        Command::Init(arguments) => init::run(context, &arguments),
        Command::Import(arguments) => import::run(context, &arguments),
        Command::Export(arguments) => export::run(context, &arguments),
        Command::Build(arguments) => return build::run(context, &arguments),
        Command::BuildRun(arguments) => return build_run::run(context, arguments),
        Command::Pull(arguments) => pull::run(context, &arguments),
        Command::Push(arguments) => push::push(context, &arguments),
        Command::Copy(arguments) => push::run_copy(context, &arguments),
        Command::Login(arguments) => login::login(context, &arguments),
        Command::Logout(arguments) => login::logout(context, &arguments),
        Command::Search(arguments) => login::search(context, &arguments),
        Command::Images(arguments) => images::list(context, &arguments),
        Command::Rmi(arguments) => images::remove(context, &arguments),
        Command::Inspect(arguments) => inspect::inspect(context, &arguments),
        Command::History(arguments) => inspect::history(context, &arguments),
        Command::Save(arguments) => save::save(context, &arguments),
        Command::Load(arguments) => save::load(context, &arguments),
        Command::Run(arguments) => return run::run(context, arguments),
        Command::Try(arguments) => return trying::run(context, arguments),
        Command::Create(arguments) => create::create(context, &arguments),
        Command::Set(arguments) => set::run(context, &arguments),
        Command::Cp(arguments) => cp::run(context, &arguments),
        Command::Fork(arguments) => return fork::fork(context, &arguments),
        Command::Promote(arguments) => promote::run(context, &arguments),
        Command::Enter(arguments) => return enter::enter(context, arguments),
        Command::Exec(arguments) => return enter::exec(context, arguments),
        Command::Start(arguments) => return detach::start(context, arguments),
        Command::Ps(arguments) => ps::ps(context, &arguments),
        Command::Top(arguments) => ps::top(context, &arguments),
        Command::Logs(arguments) => logs::run(context, &arguments),
        Command::Attach(arguments) => return attach::run(context, &arguments),
        Command::Stop(arguments) => stop::stop(context, &arguments),
        Command::Kill(arguments) => stop::kill(context, &arguments),
        Command::Wait(arguments) => stop::wait(context, &arguments),
        Command::Generate(arguments) => generate::run(context, &arguments),
        Command::Commit(arguments) => commit::run(context, &arguments),
        Command::Snapshot(arguments) => snapshot::run(context, &arguments),
        Command::Restore(arguments) => restore::restore(context, &arguments),
        Command::Undo(arguments) => restore::undo(context, &arguments),
        Command::Redo(arguments) => restore::redo(context, &arguments),
        Command::Apply(arguments) => return merging::apply(context, &arguments),
        Command::Revert(arguments) => return merging::revert(context, &arguments),
        Command::Rebase(arguments) => return merging::rebase(context, &arguments),
        Command::Bisect(arguments) => return bisect::run(context, &arguments),
        Command::Blame(arguments) => blame::run(context, &arguments),
        Command::Ls(arguments) => ls::run(context, &arguments),
        Command::Show(arguments) => show::run(context, &arguments),
        Command::Log(arguments) => log::run(context, &arguments),
        Command::Diff(arguments) => return diff::run(context, &arguments),
        Command::Rm(arguments) => rm::run(context, &arguments),
        Command::Undelete(arguments) => undelete::run(context, &arguments),
        Command::Rename(arguments) => rename::run(context, &arguments),
        Command::Lock(arguments) => marks::lock(context, &arguments, true),
        Command::Unlock(arguments) => marks::lock(context, &arguments, false),
        Command::Tag(arguments) => images::tag(context, &arguments),
        Command::Note(arguments) => marks::note(context, &arguments),
        Command::Policy(arguments) => policy::run(context, &arguments),
        Command::Du(arguments) => du::run(context, &arguments),
        Command::Mount(arguments) => mount::mount(context, &arguments),
        Command::Umount(arguments) => mount::umount(context, &arguments),
        Command::Bundle(arguments) => bundle::run(context, &arguments),
        Command::Volume(command) => volume::run(context, &command),
        Command::Unshare(arguments) => return unshare::run(context, &arguments),
        Command::Stats(arguments) => stats::run(context, &arguments),
        Command::Fsck(arguments) => return fsck::run(context, &arguments),
        Command::Verify(arguments) => return verify::run(context, &arguments),
        Command::Serve(arguments) => serve::run(context, &arguments),
        #[cfg(feature = "containerd")]
        Command::Snapshotter(arguments) => snapshotter::run(context, &arguments),
        Command::Prune(arguments) => prune::run(context, &arguments),
        Command::Doctor(arguments) => return doctor::run(context, &arguments),
        Command::Completion(arguments) => completion::completion(context, &arguments),
        Command::CompleteWords(arguments) => completion::words(context, &arguments),
        Command::Man(arguments) => man::run(context, &arguments),
    };
    done.map(|()| 0)
}
