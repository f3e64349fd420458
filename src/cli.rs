//! The command line: what may be said, and which file answers.
//!
//! One file for each command; only `output` prints. Nothing imports this module.

use std::cell::RefCell;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use rootling_backends::{Context as _, ErrorKind, Kind, Result};

use crate::runner::{self, Announcer, Detached, Entered, Userns};

mod output;
mod store;

mod attach;
mod commit;
mod completion;
mod create;
mod detach;
mod diff;
mod doctor;
mod du;
mod enter;
mod fsck;
mod generate;
mod import;
mod init;
mod limits;
mod live;
mod log;
mod logs;
mod ls;
mod man;
mod mount;
mod mounts;
mod net;
mod prune;
mod ps;
mod restore;
mod rm;
mod run;
mod show;
mod snapshot;
mod start;
mod stats;
mod stop;
mod surroundings;
mod unshare;
mod users;
mod volume;
mod walls;

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

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a store
    Init(init::Arguments),
    /// Make a committed tree of a directory, a tar archive or the running machine
    Import(import::Arguments),
    /// Run a command in a fork that is thrown away afterwards
    Run(run::RunArguments),
    /// Make a box on a tree
    Create(create::CreateArguments),
    /// Fork a tree or a box as it stands
    #[command(visible_aliases = ["clone", "copy"])]
    Fork(create::ForkArguments),
    /// Enter a box
    #[command(visible_alias = "shell")]
    Enter(enter::EnterArguments),
    /// Run a command in a box
    Exec(enter::ExecArguments),
    /// Start a box's own command, or another, and leave it running
    Start(detach::StartArguments),
    /// List what runs
    Ps(ps::PsArguments),
    /// List the processes of a box
    Top(ps::TopArguments),
    /// Show what something said that was left running
    Logs(logs::Arguments),
    /// Sit at the terminal of something that was left running
    Attach(attach::Arguments),
    /// Ask what runs to end, then kill it
    Stop(stop::StopArguments),
    /// Kill what runs, or send it a signal
    Kill(stop::KillArguments),
    /// Wait until something ends and print its exit code
    Wait(stop::WaitArguments),
    /// Print what service managers need to run a box
    Generate(generate::Arguments),
    /// Seal what changed in a box as a committed tree
    Commit(commit::Arguments),
    /// Keep the present state of a box, stopped or running
    #[command(visible_alias = "snap")]
    Snapshot(snapshot::Arguments),
    /// Give a box the content of a snapshot or another tree, or some paths of it; what it held becomes a snapshot first
    Restore(restore::RestoreArguments),
    /// Take a box back to the state before; what it held becomes a snapshot first
    Undo(restore::StepArguments),
    /// Take back an undo
    Redo(restore::StepArguments),
    /// List boxes and trees
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    /// Show all that is known of one tree
    Show(show::Arguments),
    /// List the states that something went through, or draw who was made from what
    Log(log::Arguments),
    /// Show what differs in a box, or between two trees
    Diff(diff::Arguments),
    /// Remove boxes and trees
    #[command(visible_aliases = ["delete", "remove"])]
    Rm(rm::Arguments),
    /// Show what trees occupy
    #[command(visible_alias = "df")]
    Du(du::Arguments),
    /// Show a tree at a directory of the host, without its set-user-id bits and devices
    Mount(mount::MountArguments),
    /// Undo a mount
    Umount(mount::UmountArguments),
    /// Make, show, snapshot and remove volumes: data that boxes mount and that outlives them
    #[command(subcommand)]
    Volume(volume::Command),
    /// Run a command as root of your own user namespace, where your trees are
    Unshare(unshare::Arguments),
    /// Show what running boxes use
    Stats(stats::Arguments),
    /// Check the store
    Fsck(fsck::Arguments),
    /// Remove what nothing needs any more
    Prune(prune::Arguments),
    /// Say what this machine can do, and what to do where it cannot
    Doctor(doctor::Arguments),
    /// Print the completion script of a shell
    Completion(completion::Arguments),
    /// Print the manual page
    Man(man::Arguments),
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
    /// Flags that a variable may stand for, and that were typed.
    typed: Vec<&'static str>,
    /// Where something is to be left running: who waits for it to start.
    announcer: RefCell<Option<Announcer>>,
}

/// Runs the program and returns its exit code.
pub fn main() -> i32 {
    runner::begin_process();
    let (arguments, typed) = match read() {
        Ok(read) => read,
        Err(code) => return code,
    };
    let output = Output { format: arguments.format, quiet: arguments.quiet };
    let runs = arguments.command.runs();
    let prepared = prepare(arguments.root, output, &arguments.command);
    let prepared = prepared.map(|context| Context { typed, ..context }).and_then(|context| {
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
            // The commands that run commands keep 1 for those (as docker does).
            if runs {
                125
            } else if error.kind() == ErrorKind::InvalidInput {
                2
            } else {
                1
            }
        }
    }
}

/// The flags that a variable may stand for, if they were typed.
const BY_VARIABLE: [(&str, &str); 2] = [("net", "--net"), ("userns", "--userns")];

/// Reads the command line: what it says, and which of [`BY_VARIABLE`] it says itself; else the exit code.
fn read() -> std::result::Result<(Arguments, Vec<&'static str>), i32> {
    let matches = Arguments::command().try_get_matches();
    let read = matches.and_then(|matches| {
        let arguments = Arguments::from_arg_matches(&matches)?;
        if arguments.format.draws() && !matches!(arguments.command, Command::Log(_)) {
            let message = "only `log` draws: --format dot and svg are its";
            return Err(Arguments::command().error(clap::error::ErrorKind::InvalidValue, message));
        }
        let given = matches.subcommand().map(|(_, given)| given);
        let is_typed = |id: &str| {
            let known = given.filter(|given| given.try_contains_id(id).unwrap_or(false));
            known.and_then(|given| given.value_source(id)) == Some(ValueSource::CommandLine)
        };
        let typed = BY_VARIABLE.into_iter().filter(|(id, _)| is_typed(id)).map(|(_, flag)| flag);
        Ok((arguments, typed.collect()))
    });
    read.map_err(|error| {
        // A closed pipe is no error of ours.
        error.print().unwrap_or_default();
        match error.exit_code() {
            0 => 0,
            // 2 could be the command's own.
            _ if std::env::args().take_while(|word| word != "--").any(|word| RUNNING.contains(&&*word)) => {
                125
            }
            code => code,
        }
    })
}

/// The commands that end as the command they run.
const RUNNING: [&str; 5] = ["run", "exec", "enter", "shell", "start"];

/// Sets what is a property of the whole process, before anything starts a thread.
fn prepare(root: Option<PathBuf>, output: Output, command: &Command) -> Result<Context> {
    let umask = store::prepare_process();
    // A box to be entered that does not run yet may join another that does.
    let box_names = match command {
        Command::Enter(arguments) => [Some(arguments.name.as_str()), arguments.settings.walls.joined_box()],
        Command::Exec(arguments) => [Some(arguments.name.as_str()), arguments.settings.walls.joined_box()],
        Command::Start(arguments) => [Some(arguments.name.as_str()), arguments.settings.walls.joined_box()],
        Command::Top(arguments) => [Some(arguments.name.as_str()), None],
        Command::Snapshot(arguments) => [Some(arguments.reference.as_str()), None],
        Command::Run(arguments) => [arguments.settings.walls.joined_box(), None],
        _ => [None, None],
    };
    let mut box_names = box_names.into_iter().flatten().filter(|_| !runner::is_root());
    let running = box_names.find_map(|name| store::running_box(root.as_deref(), name));
    let before = entered_before();
    let joins_cgroup = command.runs() && running.as_ref().is_some_and(|running| running.cgroup.is_some());
    if before.is_none() && !runner::is_root() && (joins_cgroup || command.limits_box()) {
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
    let context = Context { root, output, entered, umask, typed: Vec::new(), announcer: RefCell::new(None) };
    if command.runs() && (context.entered != Entered::Root || command.shares_users()) {
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
    /// Makes sure that a box with these users cannot write this program; may start it again.
    fn seal_for(&self, userns: &Userns) -> Result<()> {
        let exposed = *userns == Userns::Host || self.entered != Entered::Root;
        if !exposed || runner::is_sealed() {
            return Ok(());
        }
        let sealed = if self.entered == Entered::Root {
            runner::seal("ROOTLING_USERNS", "host")
        } else {
            runner::seal(ENTERED, &serde_json::to_string(&self.entered).expect("plain fields"))
        };
        sealed.map(|never| match never {})
    }
}

impl Command {
    /// Does it run commands in boxes?
    fn runs(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Enter(_) | Self::Exec(_) | Self::Start(_))
    }

    /// Is what it runs left running?
    fn detaches(&self) -> bool {
        match self {
            Self::Run(arguments) => arguments.detach.detach && !arguments.settings.walls.dry_run,
            Self::Enter(arguments) => arguments.detach.detach && !arguments.settings.walls.dry_run,
            Self::Exec(arguments) => arguments.detach.detach && !arguments.settings.walls.dry_run,
            Self::Start(arguments) => !arguments.foreground && !arguments.settings.walls.dry_run,
            _ => false,
        }
    }

    /// Is it done without touching a tree? Then an ordinary user stays what they are, and can go into the namespaces of each box.
    fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Completion(_)
                | Self::Man(_)
                | Self::Ps(_)
                | Self::Logs(_)
                | Self::Attach(_)
                | Self::Stop(_)
                | Self::Kill(_)
                | Self::Wait(_)
                | Self::Generate(_)
        )
    }

    /// What is settled when the box starts that this command may start.
    fn walls(&self) -> Option<&walls::Walls> {
        match self {
            Self::Run(arguments) => Some(&arguments.settings.walls),
            Self::Enter(arguments) => Some(&arguments.settings.walls),
            Self::Exec(arguments) => Some(&arguments.settings.walls),
            Self::Start(arguments) => Some(&arguments.settings.walls),
            _ => None,
        }
    }

    /// Is the box asked for one with the caller's users?
    fn shares_users(&self) -> bool {
        self.walls().is_some_and(|walls| walls.userns == walls::Users::Host)
    }

    /// Is a box asked for that needs a cgroup?
    fn limits_box(&self) -> bool {
        // What is wrong with the limits is said when the box starts.
        let limits = self.walls().and_then(|walls| walls.limits.limits().ok());
        limits.is_some_and(|limits| limits.need_cgroup())
    }
}

fn dispatch(context: &Context, command: Command) -> Result<i32> {
    let done = match command {
        Command::Init(arguments) => init::run(context, &arguments),
        Command::Import(arguments) => import::run(context, &arguments),
        Command::Run(arguments) => return run::run(context, arguments),
        Command::Create(arguments) => create::create(context, &arguments),
        Command::Fork(arguments) => create::fork(context, &arguments),
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
        Command::Ls(arguments) => ls::run(context, &arguments),
        Command::Show(arguments) => show::run(context, &arguments),
        Command::Log(arguments) => log::run(context, &arguments),
        Command::Diff(arguments) => diff::run(context, &arguments),
        Command::Rm(arguments) => rm::run(context, &arguments),
        Command::Du(arguments) => du::run(context, &arguments),
        Command::Mount(arguments) => mount::mount(context, &arguments),
        Command::Umount(arguments) => mount::umount(context, &arguments),
        Command::Volume(command) => volume::run(context, &command),
        Command::Unshare(arguments) => return unshare::run(context, &arguments),
        Command::Stats(arguments) => stats::run(context, &arguments),
        Command::Fsck(arguments) => return fsck::run(context, &arguments),
        Command::Prune(arguments) => prune::run(context, &arguments),
        Command::Doctor(arguments) => return doctor::run(context, &arguments),
        Command::Completion(arguments) => completion::completion(context, &arguments),
        Command::Man(arguments) => man::run(context, &arguments),
    };
    done.map(|()| 0)
}
