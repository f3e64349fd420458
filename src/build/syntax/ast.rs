//! What a Dockerfile says, before anything is expanded.

/// A place in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What its first lines ask for.
    pub directives: Directives,
    /// Its instructions, in order.
    pub instructions: Vec<Instruction>,
}

/// What the first lines of a file ask for, as `# name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The language, as an image of a front end: remembered, and not used.
    pub syntax: Option<String>,
    /// What continues lines and takes meaning from characters: `\`, or a backtick.
    pub escape: char,
    /// The value of `check`.
    pub check: Option<String>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Its first word, as it was typed.
    pub keyword: String,
    /// Where that begins.
    pub position: Position,
    /// Its last line, from 1, with its heredocs.
    pub last_line: usize,
    /// Its flags, as they were typed, in order.
    pub flags: Vec<Flag>,
    /// All of it, lines joined, as it was typed.
    pub source: String,
    /// What follows the flags, lines joined.
    pub text: String,
    /// The arguments as the language splits them, with their quotes; of a JSON list its strings. A command line of a
    /// shell is one; of `HEALTHCHECK CMD ...` and `ONBUILD ...` the first word is one more.
    pub arguments: Vec<String>,
    /// Were the arguments a JSON list?
    pub is_json: bool,
    /// The text of its heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// The comment lines right before it, without `#`, in order.
    pub comments: Vec<String>,
    /// The numbers of empty lines between its lines.
    pub empty_lines: Vec<usize>,
    /// What it says.
    pub command: Command,
}

/// `--name=value`, or `--name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub name: String,
    /// What is behind the `=`.
    pub value: Option<String>,
    /// Where it begins.
    pub position: Position,
}

/// Text that follows the line of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Its lines, each with its line feed, without the last word; leading tabs are gone where `<<-` said so.
    pub content: String,
    /// Are variables in it expanded? Not where the word was quoted.
    pub expand: bool,
    /// The number before `<<`: which file descriptor it is; 0 without one.
    pub descriptor: u32,
    /// Was it `<<-`?
    pub strips_tabs: bool,
}

/// What an instruction says. Nothing is expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `FROM [--platform=P] IMAGE [AS NAME]`.
    From {
        /// `--platform`.
        platform: Option<String>,
        /// An image, a stage, a context, or `scratch`.
        image: String,
        /// The stage's name, as it was typed.
        name: Option<String>,
    },
    /// `RUN`.
    Run {
        /// The values of `--mount`, in order: read once expanded, see `syntax::mount`.
        mounts: Vec<String>,
        /// `--network`: `default`, `none`, `host`.
        network: Option<String>,
        /// `--security`: `sandbox`, `insecure`.
        security: Option<String>,
        /// `--device`, in order.
        devices: Vec<String>,
        /// What is run; with heredocs, the line that names them.
        line: CommandLine,
    },
    /// `COPY`.
    Copy {
        /// What is copied where.
        transfer: Transfer,
        /// Its flags.
        flags: CopyFlags,
    },
    /// `ADD`.
    Add {
        /// What is copied where.
        transfer: Transfer,
        /// Its flags.
        flags: AddFlags,
    },
    /// `ARG NAME[=DEFAULT] ...`.
    Arg(Vec<(String, Option<String>)>),
    /// `ENV NAME=VALUE ...`, with the quotes and backslashes of each value.
    Env(Vec<(String, String)>),
    /// `LABEL NAME=VALUE ...`, likewise.
    Label(Vec<(String, String)>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `EXPOSE PORT ...`.
    Expose(Vec<String>),
    /// `VOLUME DIRECTORY ...`.
    Volume(Vec<String>),
    /// `USER`.
    User(String),
    /// `WORKDIR`.
    Workdir(String),
    /// `SHELL [...]`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    Stopsignal(String),
    /// `ONBUILD INSTRUCTION`: the instruction as text, for the image, and as it is understood.
    Onbuild(String, Box<Instruction>),
    /// `MAINTAINER`.
    Maintainer(String),
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// A line for the shell.
    Shell(String),
    /// A JSON list: a program with its arguments.
    Exec(Vec<String>),
}

/// Sources and destination of `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Paths, patterns, URLs, in order, without the heredocs.
    pub sources: Vec<String>,
    /// The last argument.
    pub destination: String,
}

/// The flags that `COPY` and `ADD` share, and those of `COPY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyFlags {
    /// `--from`.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<String>,
}

/// The flags of `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddFlags {
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<String>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`; where it is not said, local archives are unpacked and fetched ones are not.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`.
    None,
    /// `CMD`, with the flags as they were typed: `--interval` and the others are in the instruction's.
    Cmd(CommandLine),
}
