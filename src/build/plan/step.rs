//! What is to be done, with all that it depends on: nothing of a Dockerfile is left to be understood.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::{ImageConfig, Platform};

/// A stage that is needed.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its number in the file, from 0.
    pub number: usize,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// First and last line of its `FROM`.
    pub lines: (usize, usize),
    /// Its `FROM`, on one line, as it was typed.
    pub shown: String,
    /// What it stands on.
    pub ground: Ground,
    /// What it is made for; an image that it stands on is pulled for this.
    pub platform: Platform,
    /// The other stages that it needs, by number, in order: all are lower than its own.
    pub needs: Vec<usize>,
    /// What is done, in order; those that only say something of the image are among them.
    pub steps: Vec<Step>,
    /// What the image says in the end: `ONBUILD` is `OnBuild` in it, as `SHELL` and `HEALTHCHECK` are `Shell` and `Healthcheck`.
    pub config: ImageConfig,
    /// Who made it: `MAINTAINER`; empty where nobody says so.
    pub author: String,
}

/// What a stage, or a `COPY --from`, stands on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Ground {
    /// Nothing: an empty tree.
    Scratch,
    /// The end of another stage, by its number.
    Stage(usize),
    /// An image or any other node, as it was typed; pulled where it is not there: for the platform of the stage that stands on it, or
    /// for the target's where files are only taken from it.
    Image(String),
    /// A context that was named with `--build-context`.
    Context(String),
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// First and last line of the instruction, 0 where it is in no file; for one that was left by a base, of the `FROM`.
    pub lines: (usize, usize),
    /// What is shown: the instruction on one line, as it was typed.
    pub shown: String,
    /// What the image's history says: `RUN /bin/sh -c make # buildkit`; empty for `ONBUILD`, of which it says nothing.
    pub created_by: String,
    /// What is done.
    pub work: Work,
    /// What the image says after this step.
    pub config: ImageConfig,
    /// Does a layer end here, whatever comes? Asked for by the comment `# rootling: layer` before it.
    pub is_marked: bool,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Nothing with files.
    Say,
    /// A command.
    Run(RunStep),
    /// Files.
    Copy(CopyStep),
    /// A directory, where there is none, with those it is in: `WORKDIR`.
    MakeDir {
        /// Absolute.
        path: String,
        /// Who owns what is made: as `USER` said it by then; empty for root.
        user: String,
    },
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStep {
    /// The program with its arguments: the shell is among them.
    pub args: Vec<String>,
    /// A heredoc that is a program of its own (`#!`): path in the tree, content, mode; only read, and gone afterwards. All others
    /// are part of what the shell is given in `args`, as BuildKit does it.
    pub files: Vec<(String, String, u32)>,
    /// Variables: those of the image, and arguments that were declared before.
    pub env: BTreeMap<String, String>,
    /// Predefined arguments (proxies), none of which is in `env`: given to the command, and no part of the key.
    pub quiet_env: BTreeMap<String, String>,
    /// As `USER` says it; empty for root.
    pub user: String,
    /// Absolute.
    pub workdir: String,
    /// Mounts, in order.
    pub mounts: Vec<RunMount>,
    /// Which network it has.
    pub network: Network,
    /// Which walls it has.
    pub security: Security,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// That of any box.
    #[default]
    Default,
    /// None but loopback.
    None,
    /// That of the machine.
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// The walls of any box.
    #[default]
    Sandbox,
    /// Those of `run --privileged`; only where the build was told `--allow security.insecure`.
    Insecure,
}

/// `RUN --mount`, expanded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunMount {
    /// Absolute path in the tree.
    pub target: String,
    /// What is there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountKind {
    /// Files of a context, stage or image: nothing that is written there is kept.
    Bind {
        /// Whose; `None` for the context of the build.
        from: Option<Ground>,
        /// Path below it.
        source: String,
        /// May it be written to?
        writable: bool,
    },
    /// A directory that stays from one build to the next.
    Cache {
        /// Which.
        id: String,
        /// What two builds at once do.
        sharing: Sharing,
        /// What it begins as.
        from: Option<Ground>,
        /// Path below that.
        source: String,
        /// May it only be read?
        read_only: bool,
        /// Owner and mode of a new one.
        owner: Owner,
    },
    /// Memory that is gone afterwards; bytes at the most.
    Tmpfs {
        /// `None`: half of the memory.
        size: Option<u64>,
    },
    /// A file, or a variable, that leaves no trace.
    Secret {
        /// Which.
        id: String,
        /// Is it an error if there is none?
        required: bool,
        /// The variable that has it; then there is a file only if a target was named.
        env: Option<String>,
        /// Is there a file?
        is_file: bool,
        /// Owner and mode of the file.
        owner: Owner,
    },
    /// The socket of an ssh agent.
    Ssh {
        /// Which.
        id: String,
        /// Is it an error if there is none?
        required: bool,
        /// Owner and mode of the socket.
        owner: Owner,
    },
}

/// Owner and mode of what a mount makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What two builds do that use a cache at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// Both write to it.
    #[default]
    Shared,
    /// The second gets a fork.
    Private,
    /// The second waits.
    Locked,
}

/// `COPY` and `ADD`, expanded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyStep {
    /// Is it `ADD`?
    pub is_add: bool,
    /// Where the sources are.
    pub from: From,
    /// Paths, patterns and, for `ADD`, URLs; relative to the root of `from`.
    pub sources: Vec<String>,
    /// Files that stand in the Dockerfile.
    pub heredocs: Vec<Heredoc>,
    /// Absolute; ends with `/` where it was typed so.
    pub destination: String,
    /// Owner: names or numbers of the tree's own files; `None` for root.
    pub chown: Option<String>,
    /// Octal or symbolic.
    pub chmod: Option<String>,
    /// Is the destination made as if there were nothing below it?
    pub link: bool,
    /// Do sources keep the directories they are in?
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// `ADD --checksum`.
    pub checksum: Option<String>,
    /// `ADD --unpack`.
    pub unpack: Option<bool>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: bool,
}

impl CopyStep {
    /// Returns what copies all that there is somewhere to the root.
    pub fn of_all(from: From) -> Self {
        Self {
            is_add: false,
            from,
            sources: vec!["/".to_owned()],
            heredocs: Vec::new(),
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            checksum: None,
            unpack: None,
            keep_git_dir: false,
        }
    }
}

/// Where `COPY` takes files from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum From {
    /// The context of the build.
    MainContext,
    /// Something else.
    Ground(Ground),
}

/// A file that stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heredoc {
    /// Its name.
    pub name: String,
    /// Its content, expanded.
    pub content: String,
}
