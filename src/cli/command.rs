//! The commands, as they are typed, and what the start of the program must know of each.

use clap::Subcommand;

#[cfg(feature = "containerd")]
use super::snapshotter;
use super::{
    attach, bisect, blame, build, build_run, bundle, commit, completion, cp, create, detach, diff, doctor,
    du, enter, export, fork, fsck, generate, images, import, init, inspect, log, login, logs, ls, man, marks,
    merging, mount, policy, promote, prune, ps, pull, push, rename, restore, rm, run, save, serve, set, show,
    snapshot, stats, stop, trying, undelete, unshare, verify, volume, walls,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a store
    Init(init::Arguments),
    /// Make a committed tree of a directory, an archive, packages, an image or the running machine
    Import(import::Arguments),
    /// Write a tree as files, as a tar archive or as an image
    Export(export::Arguments),
    /// Build an image from a Dockerfile, or by a command in a fork; each step is a snapshot
    Build(Box<build::Arguments>),
    /// Run what a Dockerfile builds, building it first where that was not done: a Dockerfile can be a program
    BuildRun(build_run::Arguments),
    /// Fetch an image from a registry, a directory or an archive
    Pull(pull::Arguments),
    /// Send an image, a box with its history or a tree to a registry
    Push(push::PushArguments),
    /// Copy images between registries, directories, archives and the store, without unpacking them
    Copy(push::CopyArguments),
    /// Check who you are at a registry, and keep it
    Login(login::LoginArguments),
    /// Forget who you are at a registry
    Logout(login::LogoutArguments),
    /// Look for images in a registry
    Search(login::SearchArguments),
    /// List images
    Images(images::ImagesArguments),
    /// Remove names of images, and images with their last name; they can be brought back for a while
    Rmi(rm::Arguments),
    /// Show what an image says of itself
    Inspect(inspect::InspectArguments),
    /// Show by which steps an image came to be
    History(inspect::HistoryArguments),
    /// Write images to an archive that docker and podman load
    Save(save::SaveArguments),
    /// Take all images of an archive into the store
    Load(save::LoadArguments),
    /// Run a command in a fork that is thrown away afterwards
    Run(run::RunArguments),
    /// Run a command in a fork, show what it changed, then keep, apply or discard that
    Try(trying::TryArguments),
    /// Make a box on a tree
    Create(create::CreateArguments),
    /// Change what is kept with a box: the flags it is started with, its home
    #[command(alias = "update")]
    Set(set::Arguments),
    /// Copy files into a box, out of a box or tree, or from one to another
    Cp(cp::Arguments),
    /// Fork a tree or a box as it stands, once or many times
    #[command(visible_alias = "clone")]
    Fork(fork::ForkArguments),
    /// Give a box the name of another; what that held becomes a snapshot
    Promote(promote::Arguments),
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
    Undo(restore::UndoArguments),
    /// Take back an undo
    Redo(restore::StepArguments),
    /// Make the changes of a state, or of a range of states, to a box: cherry-pick
    Apply(merging::TakeArguments),
    /// Take back what a state, or a range of states, changed
    Revert(merging::TakeArguments),
    /// Put what a box changed on top of another state
    Rebase(merging::RebaseArguments),
    /// Find the state of a box, or the step of a build, in which something broke, by running a command in forks of its states that are thrown away
    ///
    /// As with git, the good state and the bad one are believed, and those between are halved: of 100, seven are tried. The
    /// command's exit code says what a state is: 0 good, 1 to 124, 126 and 127 bad, 125 it cannot be told: skip it; 128 and above end
    /// the search. The exit code is 0 if the first bad state was found, 1 if those that were skipped leave several, else 125.
    Bisect(bisect::Arguments),
    /// Show which step of a build, layer or snapshot last changed a path
    Blame(blame::Arguments),
    /// List boxes and trees
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    /// Show all that is known of one tree
    Show(show::Arguments),
    /// List the states that something went through, or draw who was made from what
    Log(log::Arguments),
    /// Show what differs in a box, or between any two states
    Diff(diff::Arguments),
    /// Remove boxes, trees and snapshots; they can be brought back for a while
    #[command(visible_aliases = ["delete", "remove"])]
    Rm(rm::Arguments),
    /// Bring back what was removed, or list it
    Undelete(undelete::Arguments),
    /// Give a box with its snapshots, a tree or a snapshot another name
    #[command(visible_alias = "mv")]
    Rename(rename::Arguments),
    /// Keep boxes, trees and snapshots from being removed by anything
    Lock(marks::LockArguments),
    /// Undo a lock
    Unlock(marks::LockArguments),
    /// Give an image, a tree or a snapshot one name more
    Tag(images::TagArguments),
    /// Write a note on a box, a tree or a snapshot, or show it
    Note(marks::NoteArguments),
    /// Say when a box is snapshotted by itself, and which of its snapshots stay
    Policy(policy::Arguments),
    /// Show what trees occupy
    #[command(visible_alias = "df")]
    Du(du::Arguments),
    /// Show a tree at a directory of the host, without its set-user-id bits and devices
    Mount(mount::MountArguments),
    /// Undo a mount
    Umount(mount::UmountArguments),
    /// Make a directory that runc, crun and other OCI runtimes run: a configuration, and a box mounted as its root file system
    Bundle(Box<bundle::Arguments>),
    /// Make, show, snapshot and remove volumes: data that boxes mount and that outlives them
    #[command(subcommand)]
    Volume(volume::Command),
    /// Run a command as root of your own user namespace, where your trees are
    Unshare(unshare::Arguments),
    /// Show what running boxes use
    Stats(stats::Arguments),
    /// Check the store
    Fsck(fsck::Arguments),
    /// Compare images, and what was made from them, with what they were, byte by byte
    Verify(verify::Arguments),
    /// Serve the images of the store to docker, podman and others, as a registry that they can push to
    Serve(serve::Arguments),
    /// Serve the store to containerd and Kubernetes, as a snapshotter
    #[cfg(feature = "containerd")]
    Snapshotter(snapshotter::Arguments),
    /// Remove what nothing needs any more: what was removed a while ago, what no policy keeps, leftovers
    Prune(prune::Arguments),
    /// Say what this machine can do, and what to do where it cannot
    Doctor(doctor::Arguments),
    /// Print the completion script of a shell
    Completion(completion::Arguments),
    /// Print what the last word of a command line may become
    #[command(hide = true)]
    CompleteWords(completion::WordsArguments),
    /// Print the manual page
    Man(man::Arguments),
}

impl Command {
    /// Returns what it exits with when it fails. Commands that run commands keep 1 for those (as docker does), and a comparison keeps it
    /// for what differs (as diff does).
    pub(super) fn trouble(&self) -> i32 {
        match self {
            Self::Run(arguments) => arguments.failure_code.into(),
            _ if self.runs() => 125,
            Self::Diff(arguments) if arguments.tells_by_exit_code() => 2,
            _ => 1,
        }
    }

    /// Does it run commands in boxes?
    pub(super) fn runs(&self) -> bool {
        match self {
            Self::Run(_)
            | Self::Try(_)
            | Self::Enter(_)
            | Self::Exec(_)
            | Self::Start(_)
            | Self::Bisect(_)
            | Self::BuildRun(_) => true,
            Self::Fork(arguments) => arguments.runs(),
            _ => false,
        }
    }

    /// Is what it runs left running?
    pub(super) fn detaches(&self) -> bool {
        match self {
            Self::Run(arguments) => arguments.detach.detach && !arguments.settings.walls.dry_run,
            Self::Enter(arguments) => arguments.detach.detach && !arguments.settings.walls.dry_run,
            Self::Exec(arguments) => arguments.detach.detach && !arguments.settings.walls.dry_run,
            Self::Start(arguments) => !arguments.foreground && !arguments.settings.walls.dry_run,
            _ => false,
        }
    }

    /// Is it done without touching a tree? Then an ordinary user stays what they are, and can go into the namespaces of each box.
    pub(super) fn only_looks(&self) -> bool {
        #[cfg(feature = "containerd")]
        if let Self::Snapshotter(arguments) = self {
            return arguments.only_prints();
        }
        matches!(
            self,
            Self::Completion(_)
                | Self::CompleteWords(_)
                | Self::Man(_)
                | Self::Ps(_)
                | Self::Logs(_)
                | Self::Attach(_)
                | Self::Stop(_)
                | Self::Kill(_)
                | Self::Wait(_)
                | Self::Generate(_)
                | Self::Login(_)
                | Self::Logout(_)
                | Self::Search(_)
        )
    }

    /// What is settled when the box starts that this command may start.
    pub(super) fn walls(&self) -> Option<&walls::Walls> {
        match self {
            Self::Run(arguments) => Some(&arguments.settings.walls),
            Self::Try(arguments) => Some(&arguments.settings.walls),
            Self::Enter(arguments) => Some(&arguments.settings.walls),
            Self::Exec(arguments) => Some(&arguments.settings.walls),
            Self::Start(arguments) => Some(&arguments.settings.walls),
            Self::Fork(arguments) => Some(&arguments.settings.walls),
            Self::Bisect(arguments) => Some(&arguments.settings.walls),
            Self::Build(arguments) => Some(&arguments.walls),
            _ => None,
        }
    }

    /// The box that it goes into.
    pub(super) fn box_name(&self) -> Option<&str> {
        match self {
            Self::Enter(arguments) => Some(&arguments.name),
            Self::Exec(arguments) => Some(&arguments.name),
            Self::Start(arguments) => Some(&arguments.name),
            Self::Top(arguments) => Some(&arguments.name),
            Self::Snapshot(arguments) => Some(&arguments.reference),
            Self::Cp(arguments) => arguments.box_name(),
            _ => None,
        }
    }
}
