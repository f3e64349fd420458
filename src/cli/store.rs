//! Finding the store and the nodes that references mean.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rootling_backends::{Context as _, Error, ErrorKind, Result, sys};

use super::{Context, live};
use crate::image::{Digest, ImageReference, Platform};
use crate::loop_store;
use crate::near;
use crate::reference::{Reference, Which};
use crate::runner::{self, Entered, Running};
use crate::store::{BoxSettings, Image, Name, Node, Role, Store};

/// Sets what is a property of the whole process: messages, umask, the number of open files.
///
/// Returns the umask that was.
pub(super) fn prepare_process() -> libc::mode_t {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("ROOTLING_LOG", "warn"))
        .format(|formatter, record| {
            use std::io::Write;
            writeln!(formatter, "rootling: {}", record.args())
        })
        .init();
    // Modes are set exactly as asked; a command run inside gets 022 of its own.
    let umask = sys::clear_umask();
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Best effort: with fewer files open at once, an error will say so.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap_or_default();
    }
    umask
}

impl Context {
    /// Returns the directory of the store, whether it exists or not.
    pub(super) fn store_path(&self) -> Result<PathBuf> {
        path(self.root.as_deref(), self.entered == Entered::Root)
    }

    /// Refuses host:/ to an ordinary user: the kernel locks the mounts of the host together in a user namespace, so that
    /// nothing can be stacked on them, and much of what is in them is root's alone.
    pub(super) fn require_root_for_host(&self) -> Result<()> {
        if self.entered == Entered::Root {
            return Ok(());
        }
        let message = "host:/ is only for root: others may neither stack on its mounts nor read all of it";
        Err(Error::new(ErrorKind::PermissionDenied, message)
            .hint("run it as root, or import what you may read: rootling import dir:PATH NAME"))
    }

    /// Opens the store, making the default one where there is none.
    pub(super) fn store(&self) -> Result<Store> {
        let path = self.store_path()?;
        if loop_store::exists(&path) {
            return Store::open(&loop_store::open(&path)?);
        }
        // A path that was given is not made by accident: a mistyped one would look like an empty store.
        // And one who only looks could not find out what works here for those who do more.
        let makes = self.root.is_none() && self.entered != Entered::Nothing;
        if makes { Store::open_or_init(&path) } else { Store::open(&path) }
    }
}

/// Returns the directory of the store: the one asked for, the system's, or the user's own.
fn path(root: Option<&Path>, is_root: bool) -> Result<PathBuf> {
    if let Some(root) = root {
        return Ok(root.to_owned());
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/rootling"));
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("rootling")).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "neither XDG_DATA_HOME nor HOME says where your store is")
            .hint("say where: rootling --root PATH")
    })
}

/// Returns the command of a box that runs, and what the box keeps, looked up before we are root of anything.
///
/// Only looks: every failure is `None` here, and told by the command itself, which looks again.
pub(super) fn look(root: Option<&Path>, name: &str) -> (Option<Running>, Option<BoxSettings>) {
    let open = || Store::open(&path(root, runner::is_root()).ok()?).ok();
    let Some(store) = open() else { return (None, None) };
    let running = running(&store, name).ok();
    let kept = || find(&store, name).ok().map(|node| node.record.life.settings);
    let kept = if running.is_none() { kept().filter(|kept| !kept.is_empty()) } else { None };
    (running, kept)
}

/// Returns what runs in a box, or in a fork that is thrown away; that nothing does is an error.
pub(super) fn running(store: &Store, name: &str) -> Result<Running> {
    let found = live::find(store, name)?;
    found.alive().map(|note| note.running.clone())
}

/// Returns the node that a reference means; what does not exist suggests near names.
pub(super) fn find(store: &Store, text: &str) -> Result<Node> {
    if Reference::held_key(text).is_none()
        && let Some(node) = find_image(store, text)?
    {
        return Ok(node);
    }
    match Reference::parse(text)? {
        Reference::Host => Err(Error::new(ErrorKind::InvalidInput, "host:/ is not a node of the store")
            .hint("make one of it: rootling import host:/ NAME")),
        Reference::Node { which, back } => find_back(store, text, &which, back),
    }
}

/// Returns the node of exactly this name, else the image that a text means: a digest, `docker://NAME`, a name with a digest, without its tag, or
/// with what its name here has not: `docker.io/library/alpine`.
fn find_image(store: &Store, text: &str) -> Result<Option<Node>> {
    let (name, must_be) = match text.strip_prefix("docker://") {
        Some(name) => (name, true),
        None => (text, false),
    };
    if let Ok(digest) = Digest::parse(text) {
        let missing = || {
            let message = format!("there is no image {text} in store {:?}", store.root());
            Error::new(ErrorKind::NotFound, message).hint("`rootling images --digests` lists those there are")
        };
        return store.image_of_digest(&digest)?.ok_or_else(missing).map(Some);
    }
    // What was pushed here since is what the name means now; only a box or a tree of exactly the name is meant before that.
    let known = Name::parse(name).ok().map(|name| store.named(&name)).transpose()?.flatten();
    if known.as_ref().is_none_or(|node| node.record.is_image())
        && let Ok(reference) = ImageReference::parse(name)
        && let Some(node) = store.materialize(&reference, &Platform::host())?
    {
        return Ok(Some(node));
    }
    if !must_be && known.is_some() {
        return Ok(known);
    }
    let reference = match ImageReference::parse(name) {
        Ok(reference) => reference,
        Err(error) if must_be => return Err(error),
        // It may be a state of a box, or the beginning of an id.
        Err(_) => return Ok(None),
    };
    let named = store.named(&Name::parse(&reference.default_name())?)?;
    let Some(digest) = reference.digest() else {
        return if must_be && named.is_none() { Err(not_pulled(store, text, name)) } else { Ok(named) };
    };
    let has = |node: &Node| {
        let image = node.record.image.as_ref();
        image.is_some_and(|image| image.manifest == *digest || image.index.as_ref() == Some(digest))
            || node.record.made.as_ref().is_some_and(|made| made.manifest == *digest)
    };
    if let Some(node) = named.filter(has) {
        return Ok(Some(node));
    }
    let is_it = |image: &Image| image.manifest == *digest || image.index.as_ref() == Some(digest);
    let entry = store.images()?.into_iter().find(|entry| entry.image.as_ref().is_some_and(is_it));
    match entry {
        Some(entry) => Ok(Some(Node { name: entry.names.first().cloned(), ..store.node(&entry.id)? })),
        None => Err(not_pulled(store, text, name)),
    }
}

fn not_pulled(store: &Store, text: &str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {text} in store {:?}", store.root()))
        .hint(format!("pull it: rootling pull {name}"))
}

/// Could this be the name of an image, because it says a registry or a tag?
fn says_image(name: &str) -> bool {
    ImageReference::parse(name).is_ok_and(|reference| reference.tag().is_some() || name.contains('/'))
}

fn find_back(store: &Store, text: &str, which: &Which, back: u32) -> Result<Node> {
    let mut node = find_one(store, which)?;
    for _ in 0..back {
        let Some(parent) = store.predecessor(&node)? else {
            let message = format!("{text} goes back further than {} has parents", node.label());
            return Err(Error::new(ErrorKind::NotFound, message).hint("see `rootling show` for its history"));
        };
        node = Node { name: store.name_of(&parent.id)?, ..parent };
    }
    Ok(node)
}

fn find_one(store: &Store, which: &Which) -> Result<Node> {
    let name = match which {
        Which::Last => return last(store),
        Which::Failed { before } => return store.failure(*before),
        Which::Held { key } => {
            let node = store.held_by_key(key)?;
            return Ok(Node { name: store.name_of(&node.id)?, ..node });
        }
        Which::Named(name) => name,
    };
    if let Some(node) = store.named(name)? {
        return Ok(node);
    }
    if let Some(prefix) = which.id_prefix() {
        let ids: Vec<_> = store.ids()?.into_iter().filter(|id| id.as_str().starts_with(prefix)).collect();
        match ids.as_slice() {
            [] => {}
            [id] => {
                let node = store.node(id)?;
                if node.record.role == Role::Volume {
                    let message = format!("{id} is a volume, or a snapshot of one");
                    return Err(Error::new(ErrorKind::FailedPrecondition, message)
                        .hint("`rootling volume ls` says which; mount it with -v NAME:/PATH"));
                }
                return Ok(Node { name: store.name_of(id)?, ..node });
            }
            several => {
                let several: Vec<&str> = several.iter().map(|id| id.as_str()).collect();
                let message = format!("{prefix} is the beginning of several ids: {}", several.join(", "));
                return Err(Error::new(ErrorKind::InvalidInput, message).hint("write more of it"));
            }
        }
    }
    let mut names = store.names()?;
    let owner = name.of_snapshot().map(|(owner, _)| owner);
    if let Some(owner) = owner {
        // Of a box that is there, one of its snapshots was meant; of another, the box is the mistake.
        let snapshots = store.snapshots(&owner)?.into_iter();
        names.extend(snapshots.filter_map(|(_, node)| Some((node.name?, node.id))));
    }
    let near = near::near(name.as_str(), names.keys().map(|name| name.as_str()));
    let hint = match near.as_slice() {
        [] if says_image(name.as_str()) => format!("pull it: rootling pull {name}"),
        [] if names.is_empty() => {
            "the store is empty: begin with `rootling pull IMAGE` or `rootling import SOURCE NAME`".to_owned()
        }
        [] => "`rootling ls` lists what there is".to_owned(),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Err(Error::new(ErrorKind::NotFound, format!("there is no {name} in store {:?}", store.root())).hint(hint))
}

// ---------------------------------------------------------------- the last one used

fn last_file(store: &Store) -> PathBuf {
    store.root().join("last")
}

fn last(store: &Store) -> Result<Node> {
    let none = || {
        Error::new(ErrorKind::NotFound, "nothing was used yet that - could stand for")
            .hint("say a name instead of -")
    };
    let name = fs::read_to_string(last_file(store)).map_err(|_| none())?;
    let name = Name::parse_with_label(name.trim()).map_err(|_| none())?;
    store.named(&name)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{name}, which was used last, is gone"))
            .hint("say a name instead of -")
    })
}

/// Remembers what `-` stands for from now on.
pub(super) fn remember(store: &Store, node: &Node) {
    if let Some(name) = &node.name {
        // Best effort: a convenience is no reason to fail, and a read-only store has no last one.
        if let Err(error) = fs::write(last_file(store), name.as_str()).context(|| "write(last)") {
            log::debug!("{error:?}");
        }
    }
}
