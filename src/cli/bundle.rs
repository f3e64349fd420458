//! `bundle`: a tree as an OCI runtime bundle, for runc, crun, youki and whoever calls them.
//!
//! A bundle is a directory with a `config.json` and a root file system. That is a box of its own, forked from what was named and mounted at
//! `rootfs`, so it is there at once and can be snapshotted, compared, committed and removed like any other. The box says which bundle it was
//! made for, so whatever a kill leaves is found again and taken away by `bundle --rm`.
//!
//! The flags are those of `run`, and mean the same there: what another runtime cannot be told is refused by name (`runner::oci`). They are
//! kept with the box, so `start` of the box comes to the same, and the volumes in them are not removed under it. What differs from `run`:
//!
//! | | `run` | here |
//! |---|---|---|
//! | users | ids lent for the run | the host's: nobody could say when lent ones come back |
//! | network | private, else the host's | loopback only, or one that is named: nobody connects another |
//! | Landlock | where it can | cannot be said |
//! | terminal | if there is one | only with `-t`: whoever starts it may have none |
//! | `TERM`, `LANG` | the caller's | the same whoever makes it: `TERM=xterm` with a terminal |
//! | mount points that were missing | removed again | stay in the tree: the runtime makes them |

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rootling_backends::{Access, Dir, Error, ErrorKind, Mount, Result};
use serde::Serialize;

use super::pull::PullWhen;
use super::start::{self, Settings, Settled, Wanted};
use super::users::Chosen;
use super::walls::{Users, Walls};
use super::{Context, Materialize, live, mount, output, said, store};
use crate::image::{Configuration, DOCUMENT_MAX, ImageConfig, Platform};
use crate::process;
use crate::reference::Reference;
use crate::runner::{self, Plan, Spec, Tty, Userns, oci};
use crate::store::{Base, CreateOptions, Name, Node, Store};

mod directory;

use directory::Making;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What to fork: an image, a tree, a box as it stands, host:/; docker://NAME is pulled if it is not there
    #[arg(required_unless_present = "rm")]
    reference: Option<String>,

    /// Directory of the bundle; made where it is missing, else it must be empty
    #[arg(required_unless_present = "rm")]
    directory: Option<PathBuf>,

    /// Take a bundle away: unmount its root file system, remove its files and its box, which `undelete` brings back
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["reference", "directory", "name", "entrypoint", "pull", "platform", "backend"])]
    rm: Option<PathBuf>,

    /// Leave the box, with --rm
    #[arg(long, requires = "rm")]
    keep_box: bool,

    /// Name of the box [default: the last part of DIRECTORY]
    #[arg(long, value_name = "NAME", value_parser = said(Name::parse))]
    name: Option<Name>,

    /// Program to run before the arguments, instead of the tree's own: a path, or a JSON list
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    #[command(flatten)]
    pull: PullWhen,

    #[command(flatten)]
    materialize: Materialize,

    #[command(flatten)]
    settings: Settings,

    /// The command [default: the tree's own, else the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What is printed of a bundle.
#[derive(Debug, Serialize)]
struct Made<'a> {
    bundle: &'a Path,
    rootfs: PathBuf,
    config: PathBuf,
    /// The box.
    name: &'a str,
    id: &'a str,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    mount::require_visible_mounts(context, "bundle")?;
    let store = context.store()?;
    if let Some(directory) = &arguments.rm {
        if let Some(flag) = context.given.first() {
            let message = format!("--{flag} means nothing to --rm");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave it out"));
        }
        return directory::remove(context, &store, directory, arguments.keep_box);
    }
    let (Some(reference), Some(directory)) = (&arguments.reference, &arguments.directory) else {
        unreachable!("required unless --rm is given");
    };
    let node = if Reference::is_host(reference) {
        None
    } else {
        Some(arguments.pull.find(context, &store, reference)?)
    };
    let base = node.as_ref().map_or(Base::Host, Base::Node);
    let config = node.as_ref().map(|node| node.record.config.clone()).unwrap_or_default();
    let annotations = annotations(&store, node.as_ref(), &config)?;
    if arguments.settings.walls.dry_run {
        let name = arguments.name.clone().map_or_else(|| directory::default_name(directory), Ok)?;
        let wanted = Wish::of(context, &store, arguments, &config, &name)?;
        let fork = store.ephemeral(base, arguments.materialize.options())?;
        let root = fork.open_parent(&store)?;
        let planned = wanted.planned(&store, &fork.mount(&store, Access::ReadWrite, false)?, &root)?;
        let configuration = planned.configuration(directory, annotations)?;
        context.output.data(&configuration, || configuration.to_text());
        return Ok(());
    }
    let making = Making::begin(&store, directory)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => free_name(&store, &directory::default_name(making.path())?)?,
    };
    live::require_free(&store, &name)?;
    let wish = Wish::of(context, &store, arguments, &config, &name)?;
    making.require_closed(mount_walls(&wish.wanted))?;
    let settings = context.given.kept(context, crate::store::BoxSettings::default())?;
    let bundle = Some(making.path().to_owned());
    let options = CreateOptions { settings: Some(settings), bundle, ..arguments.materialize.options() };
    let progress = context.output.progress(format!("forking {reference}"));
    let making = making.fork(base, &name, options)?;
    drop(progress);
    let node = making.node();
    context.output.cost(&format!("forked {reference} as {name}"), node.record.backend, &node.record.cost);
    let (shown, _) = store.mount(node)?;
    let root = store.open_root(node)?;
    let planned = wish.planned(&store, &shown, &root)?;
    let configuration = planned.configuration(making.path(), annotations)?;
    runner::check_sources(&Plan::build(&planned.spec)?)?;
    making.write(&planned.spec, &configuration)?;
    let (node, path) = making.finish(mount_walls(&planned.wanted))?;
    store::remember(&store, &node);
    tell(context, &node, &path);
    Ok(())
}

fn tell(context: &Context, node: &Node, path: &Path) {
    let made = Made {
        bundle: path,
        rootfs: path.join(directory::ROOTFS),
        config: path.join(directory::CONFIG),
        name: node.label(),
        id: node.id.as_str(),
    };
    context.output.say(format!("made bundle {} with box {}", output::plain(path), node.label()));
    match context.output.format {
        output::Format::Json => context.output.data(&made, String::new),
        _ => context.output.raw(format!("{}\n", node.id).as_bytes()),
    }
}

/// What is to be run, before there is a tree to look into.
struct Wish<'a> {
    wanted: Wanted,
    flags: start::Flags<'a>,
}

/// What will be run.
struct Planned {
    wanted: Wanted,
    spec: Spec,
}

impl<'a> Wish<'a> {
    /// Refuses what is wrong, or means nothing here, before anything is forked.
    fn of(
        context: &Context,
        store: &Store,
        arguments: &'a Arguments,
        config: &ImageConfig,
        name: &Name,
    ) -> Result<Self> {
        // Commands may join what runs: so there is no Landlock.
        let flags = arguments.settings.flags(0, true);
        let (net, dns) = flags.walls.net.named(store)?;
        let chosen = users(context, flags.walls)?;
        let args = process::arguments(config, arguments.entrypoint.as_deref(), arguments.command.clone());
        let settled = Settled { chosen, net, dns };
        let wanted = start::request_with(context, store, flags, args, config, name.as_str(), settled)?;
        Ok(Self { wanted, flags })
    }

    /// Looks up in the tree, and in the store, what the words of the flags mean.
    fn planned(self, store: &Store, shown: &Mount, root: &Dir) -> Result<Planned> {
        let wanted = self.wanted.mounted(self.flags, store, root)?;
        let is_terminal = self.flags.surroundings.wants_terminal();
        let terminal = is_terminal.then(|| ("TERM", OsString::from("xterm")));
        let ambient = std::iter::once(("container", OsString::from("oci"))).chain(terminal);
        let mut spec = wanted.spec_for(shown.clone(), root, ambient.collect())?;
        spec.process.tty = if is_terminal { Tty::On } else { Tty::Off };
        // Where there is no place for it, the runtime would make one in the tree.
        spec.files.retain(|file| !file.optional || has_place(root, &file.target));
        Ok(Planned { wanted, spec })
    }
}

impl Planned {
    fn configuration(
        &self,
        directory: &Path,
        annotations: BTreeMap<String, String>,
    ) -> Result<oci::Configuration> {
        let files = directory.join(directory::FILES);
        oci::Configuration::build(
            &self.spec,
            Path::new(directory::ROOTFS),
            &files,
            runner::bounding_set()?,
            annotations,
        )
    }
}

/// The host's: ids are lent to what runs, and of a bundle nobody says when it has run.
fn users(context: &Context, walls: &Walls) -> Result<Chosen> {
    let refused = match walls.userns {
        Users::Auto if context.given.has("userns") => "auto",
        Users::Auto | Users::Host => return Ok(Chosen::given(Userns::Host)),
        Users::KeepId => "keep-id",
        Users::Box(_) => "box",
    };
    let message = format!("a bundle cannot have users by --userns {refused}");
    Err(Error::new(ErrorKind::Unsupported, message)
        .hint("leave it out: root inside is root outside, held by the other walls; for others use run"))
}

/// Set-user-id programs and device nodes work where they are to, as in a box that we run.
fn mount_walls(wanted: &Wanted) -> u64 {
    let security = wanted.security();
    let walls = [
        (security.no_new_privileges, rootling_backends::sys::MOUNT_ATTR_NOSUID),
        (!security.device_nodes, rootling_backends::sys::MOUNT_ATTR_NODEV),
    ];
    walls.iter().filter(|(stands, _)| *stands).fold(0, |all, (_, wall)| all | wall)
}

/// Is there something to cover, or a directory for it, without making any?
fn has_place(root: &Dir, target: &Path) -> bool {
    let there = |path: &Path, flags| root.open_in_root(path, flags).is_ok();
    let parent = target.parent().unwrap_or(Path::new("/"));
    let is_link = || root.open_in_root(target, OFlag::O_PATH | OFlag::O_NOFOLLOW).is_ok();
    there(target, OFlag::O_PATH) || (there(parent, OFlag::O_PATH | OFlag::O_DIRECTORY) && !is_link())
}

/// The name, or one with a number behind it.
fn free_name(store: &Store, name: &Name) -> Result<Name> {
    let (mut called, mut number) = (name.clone(), 1_u32);
    while live::is_taken(store, &called)? {
        number += 1;
        called = Name::parse(&format!("{name}-{number}"))?;
    }
    Ok(called)
}

/// What the image says of itself, by the rules of the image specification (conversion.md, "Annotations"): labels go before what is implied.
fn annotations(store: &Store, node: Option<&Node>, config: &ImageConfig) -> Result<BTreeMap<String, String>> {
    let mut said = BTreeMap::new();
    let mut say = |key: &str, value: String| {
        if !value.is_empty() {
            said.insert(format!("org.opencontainers.image.{key}"), value);
        }
    };
    let record = node.map(|node| &node.record);
    let mut platform = Platform::host();
    if let Some(image) = record.and_then(|record| record.image.as_ref()) {
        let found = Configuration::parse(&store.read_blob(&image.config, DOCUMENT_MAX)?)?;
        say("author", found.author.clone());
        say("created", found.created.clone().unwrap_or_default());
        platform = found.platform();
    } else if let Some(built) = record.and_then(|record| record.built.as_ref()) {
        say("author", built.author.clone().unwrap_or_default());
        say("created", built.created.map(|time| time.to_string()).unwrap_or_default());
        platform = built.platform.clone().unwrap_or(platform);
    }
    say("os", platform.os.clone());
    say("architecture", platform.architecture.clone());
    say("variant", platform.variant.clone());
    say("os.version", platform.os_version.clone());
    say("os.features", platform.os_features.join(","));
    say("stopSignal", config.stop_signal.clone());
    let ports: Vec<&str> = config.exposed_ports.keys().map(String::as_str).collect();
    say("exposedPorts", ports.join(","));
    // The runtime specification forbids keys without a letter.
    said.extend(config.labels.clone().into_iter().filter(|(key, _)| !key.is_empty()));
    Ok(said)
}

/// The last part of a path, as a name.
fn name_of(last: Option<&OsStr>) -> Result<Name> {
    let text = last.map(|last| last.to_string_lossy()).unwrap_or_default();
    let tame = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let text: String = text.chars().map(tame).collect();
    Name::parse(text.trim_start_matches(['-', '.', '_']))
        .map_err(|error| error.hint("say what the box is called: --name NAME"))
}
