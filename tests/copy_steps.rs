//! `COPY`, `ADD` and `WORKDIR` as steps: what they make of a tree, on every backend of every file system.
//!
//! A tree is written down as lines `TYPE MODE OWNER PATH`, with ` = CONTENT`, ` -> TARGET` or ` == OTHER NAME`; what is not told of there is
//! not there.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt as _, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rootling::build::context::{Context, Loading};
use rootling::build::copy::{self, Chosen, Copied, Destination};
use rootling::build::ignore::{IgnoreFile, Patterns};
use rootling::build::plan::{CopyStep, From, Heredoc};
use rootling::registry::{Client, Settings};
use rootling::sources::{Fetch, Means};
use rootling::store::{Base, CreateOptions, Description, Ephemeral, Name, Node, Store};
use rootling_backends::graft::Origin;
use rootling_backends::{Access, Cost, Dir, Error, Kind, Result};

use crate::environment::Environment;
use crate::grounds::on_file_systems;
use crate::host::FileSystem;

mod beside;
mod cases;
mod hostile;
mod more;

// ---------------------------------------------------------------- trees as text

/// Makes what the lines say.
fn make(root: &Path, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        let [kind, mode, owner] = [(); 3].map(|()| words.next().unwrap());
        let rest = words.next().unwrap();
        let mode = u32::from_str_radix(mode, 8).unwrap();
        let (user, group) = owner.split_once(':').unwrap();
        let (path, content) =
            match rest.split_once(" = ").or(rest.split_once(" -> ")).or(rest.split_once(" == ")) {
                Some((path, content)) => (path, content),
                None => (rest, ""),
            };
        let path = if path == "/" { root.to_owned() } else { root.join(path) };
        if let Some(above) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(above).unwrap();
        }
        match kind {
            "d" if path.is_dir() => {}
            "d" => fs::DirBuilder::new().mode(0o755).create(&path).unwrap(),
            "f" if rest.contains(" == ") => {
                fs::hard_link(root.join(content), &path).unwrap();
                continue;
            }
            "f" => fs::write(&path, content).unwrap(),
            "l" => symlink(content, &path).unwrap(),
            "p" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "s" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            other => panic!("type {other}"),
        }
        let (user, group) = (user.parse().unwrap(), group.parse().unwrap());
        std::os::unix::fs::lchown(&path, Some(user), Some(group)).unwrap();
        if kind != "l" {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// Reads a tree as lines, the root left out.
fn lines(root: &Path) -> String {
    let mut inodes: HashMap<u64, String> = HashMap::new();
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let path = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let kind = metadata.file_type();
        let (letter, content) = if kind.is_dir() {
            ("d", String::new())
        } else if kind.is_symlink() {
            ("l", format!(" -> {}", fs::read_link(entry.path()).unwrap().display()))
        } else if kind.is_fifo() {
            ("p", String::new())
        } else if kind.is_file() {
            let text = || {
                format!(
                    " = {}",
                    String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).replace('\n', "\\n")
                )
            };
            match inodes.get(&metadata.ino()).filter(|_| metadata.nlink() > 1) {
                Some(first) => ("f", format!(" == {first}")),
                None => {
                    inodes.insert(metadata.ino(), path.clone());
                    ("f", text())
                }
            }
        } else {
            ("?", String::new())
        };
        let mode = if kind.is_symlink() { 0o777 } else { metadata.mode() & 0o7777 };
        let line = format!("{letter} {mode:o} {}:{} {path}{content}", metadata.uid(), metadata.gid());
        found.insert(path, line);
    }
    found.into_values().map(|line| line + "\n").collect()
}

/// Brings lines into the form and order of [`lines`].
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let path = |line: &str| {
        let rest = line.splitn(4, ' ').nth(3).unwrap().to_owned();
        rest.split(" = ")
            .next()
            .unwrap()
            .split(" -> ")
            .next()
            .unwrap()
            .split(" == ")
            .next()
            .unwrap()
            .to_owned()
    };
    lines.sort_by_key(|line| path(line));
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

// ---------------------------------------------------------------- steps as text

/// Reads `COPY [--FLAG[=VALUE]]... SOURCE... DESTINATION`, without the rules of the language.
fn step(text: &str) -> CopyStep {
    let mut step = CopyStep {
        is_add: text.starts_with("ADD"),
        sources: Vec::new(),
        destination: String::new(),
        ..CopyStep::of_all(From::MainContext)
    };
    for word in text.split_ascii_whitespace().skip(1) {
        match word.split_once('=').unwrap_or((word, "")) {
            ("--chown", value) => step.chown = Some(value.to_owned()),
            ("--chmod", value) => step.chmod = Some(value.to_owned()),
            ("--link", _) => step.link = true,
            ("--parents", _) => step.parents = true,
            ("--exclude", value) => step.exclude.push(value.to_owned()),
            ("--unpack", value) => step.unpack = Some(value == "true"),
            ("--checksum", value) => step.checksum = Some(value.to_owned()),
            _ => step.sources.push(word.to_owned()),
        }
    }
    step.destination = step.sources.pop().unwrap();
    let (heredocs, sources) = step.sources.into_iter().partition(|source| source.starts_with("<<"));
    step.sources = sources;
    let heredoc = |name: String| Heredoc { name: name[2..].to_owned(), content: format!("text of {name}\n") };
    step.heredocs = Vec::into_iter(heredocs).map(heredoc).collect();
    step
}

// ---------------------------------------------------------------- trees of a store

/// A store with trees to copy into.
struct Bench {
    store: Store,
    kinds: Vec<Kind>,
}

impl Bench {
    fn new(environment: &Environment, sort: FileSystem) -> Self {
        let store = Store::open(&environment.store()).unwrap();
        let works = |kind: &Kind| match kind {
            Kind::Btrfs => sort == FileSystem::Btrfs,
            Kind::Reflink => sort.clones_files(),
            Kind::Overlay | Kind::Copy => true,
        };
        Self { store, kinds: Kind::ALL.into_iter().filter(works).collect() }
    }

    fn import(&self, name: &str, lines: &str) -> Node {
        let fill = |root: &Dir| {
            make(root.path(), lines);
            Ok(Cost::default())
        };
        self.store.import(&Name::parse(name).unwrap(), "a test", CreateOptions::default(), fill).unwrap()
    }

    fn fork(&self, node: &Node, kind: Kind) -> Ephemeral {
        let options = CreateOptions { backend: Some(kind), ..CreateOptions::default() };
        self.store.ephemeral(Base::Node(node), options).unwrap()
    }

    /// Copies out of a context of the host.
    fn copy(&self, fork: &Ephemeral, step: &CopyStep, context: &Context) -> Result<Copied> {
        let origin = Origin::plain(context.root().try_clone()?);
        self.copy_of(fork, step, context, &origin)
    }

    fn copy_of(
        &self,
        fork: &Ephemeral,
        step: &CopyStep,
        context: &Context,
        origin: &Origin,
    ) -> Result<Copied> {
        self.with_means(|means| {
            let chosen = copy::choose(step, context, means)?;
            let listing = chosen.list()?;
            copy::perform(step, &chosen, &listing, origin, &Destination::of(&self.store, fork)?)
        })
    }

    fn with_means<T>(&self, act: impl FnOnce(&Loading<'_>) -> T) -> T {
        let make = || Settings::of(&|_| None, 0).map(Client::new);
        let (fetch, scratch) = (Fetch::new(&make), self.store.root().join("tmp"));
        let bind = rootling::runner::ends_with_caller_keeping;
        let means = Means { fetch: &fetch, scratch: &scratch, bind, source_date_epoch: None, tell: &|_| {} };
        act(&Loading::new(&self.store, &means, None))
    }

    /// Makes a committed node of a fork.
    fn commit(&self, fork: Ephemeral, name: &str) -> Node {
        let made = self.store.keep(fork, &Name::parse(&format!("{name}-box")).unwrap()).unwrap();
        let name = Name::parse(name).unwrap();
        self.store.commit(&made, &name, &Description::default()).unwrap()
    }

    /// Copies out of a node, as `COPY --from` does.
    fn copy_from(&self, fork: &Ephemeral, step: &CopyStep, node: &Node) -> Result<Copied> {
        let origin = self.store.open_origin(node)?;
        let context = Context::of_tree(origin.root().try_clone()?, "stage build");
        self.copy_of(fork, step, &context, &origin)
    }

    fn shown<T>(&self, fork: &Ephemeral, look: impl FnOnce(&Path) -> T) -> T {
        use std::os::fd::{AsFd, AsRawFd};
        let mount = fork.mount(&self.store, Access::ReadOnly, false).unwrap();
        let root = mount.open_root().unwrap();
        let path = format!("/proc/self/fd/{}/.", root.as_fd().as_raw_fd());
        look(Path::new(&path))
    }

    fn lines(&self, fork: &Ephemeral) -> String {
        self.shown(fork, lines)
    }
}

/// Returns a context of the host with what the lines say; `ignored` is its `.dockerignore`.
fn context(root: &Path, lines: &str, ignored: &str) -> Context {
    fs::create_dir_all(root).unwrap();
    make(root, lines);
    let context = Context::of_files(Dir::open(root).unwrap(), "the context");
    if ignored.is_empty() {
        return context;
    }
    let patterns = Patterns::parse_file(ignored.replace(' ', "\n").as_bytes()).unwrap();
    context.with_ignored(IgnoreFile { name: Some(".dockerignore".to_owned()), patterns })
}

/// Returns what a key says of what is read.
fn key(chosen: &Chosen<'_>) -> String {
    chosen.read(None).unwrap().0.to_string()
}

/// Returns an error and all that it stands on, and its hints.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    match error.first_hint() {
        Some(hint) => format!("{text} [{hint}]"),
        None => text,
    }
}
