//! The home directory in a box: `--home`, from the choice to what is mounted.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rootling_backends::{Dir, Error, ErrorKind, FS, Result};

use super::mounts::Mounts;
use super::{Context, me, output};
use crate::process::Person;
use crate::runner::{self, Bind, Restrictions, Tmpfs, Userns};
use crate::store::{BoxSettings, Home, HomeMode, Name, RemoveVolume, Store, VolumeReference};

/// The homes, as they are written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum HomeChoice {
    /// Your own: what is written inside is written outside
    Share,
    /// One of the box's own, begun from what the tree has
    Private,
    /// Your own under a layer that takes what is written
    Overlay,
    /// One of the box's own, begun as a copy of yours
    Snapshot,
    /// What the tree has
    None,
}

/// The flag.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct HomeFlag {
    /// Home directory in the box; unless --user says otherwise you are yourself in it (--user me)
    #[arg(long, value_enum, value_name = "WHICH")]
    pub(super) home: Option<HomeChoice>,
}

impl HomeFlag {
    /// Was it given?
    pub(super) fn is_given(self) -> bool {
        self.home.is_some()
    }

    /// Returns the settings with the home that was asked for, making a copy of the person's where that is it.
    ///
    /// Whoever cannot use them lets go of the copy: see [`let_go`].
    pub(super) fn settle(
        self,
        context: &Context,
        store: &Store,
        name: &Name,
        settings: BoxSettings,
    ) -> Result<BoxSettings> {
        let Some(choice) = self.home else { return Ok(settings) };
        let mode = match choice {
            HomeChoice::Share => Some(HomeMode::Share),
            HomeChoice::Private => Some(HomeMode::Private),
            HomeChoice::Overlay => Some(HomeMode::Overlay),
            HomeChoice::Snapshot => Some(HomeMode::Snapshot),
            HomeChoice::None => None,
        };
        let Some(mode) = mode else { return Ok(BoxSettings { home: None, ..settings }) };
        let me = settings.me.map_or_else(|| me::uid(context), Ok)?;
        let path = me::home(me)?;
        check(store, mode, &path)?;
        let volume = mode.has_volume().then(|| store.free_home_name(name, 1)).transpose()?;
        if let (HomeMode::Snapshot, Some(volume)) = (mode, &volume) {
            super::run::start_quiet_workers();
            let progress = context.output.progress(format!("copying {}", output::plain(&path)));
            let copied = store.copy_to_volume(volume, &path);
            drop(progress);
            let node = copied?;
            let what = format!("copied {} to volume {volume}", output::plain(&path));
            context.output.cost(&what, node.record.backend, &node.record.cost);
        }
        let mut settings = BoxSettings { home: Some(Home { mode, path, volume }), me: Some(me), ..settings };
        settings.flags.entry("user".to_owned()).or_insert_with(|| vec!["me".to_owned()]);
        settings.grammar = BoxSettings::GRAMMAR;
        Ok(settings)
    }
}

/// Lets go of the volume that settings name which nothing keeps: it was made for nothing.
pub(super) fn let_go(store: &Store, settings: &BoxSettings) {
    let Some(volume) = settings.own_volume() else { return };
    // Not forced: a home that was only named may be that of another box by now, which needs it.
    let how = RemoveVolume { for_good: true, force: false };
    // Best effort: `volume prune` finds it.
    store.remove_volume(&VolumeReference { name: volume.clone(), label: None }, how).unwrap_or_default();
}

/// Names the volume of the home that a box had by these settings: it stays, and may hold what nothing else holds.
pub(super) fn say_what_stays(context: &Context, store: &Store, name: &Name, settings: &BoxSettings) {
    let Some(volume) = settings.own_volume() else { return };
    if store.volume(&VolumeReference { name: volume.clone(), label: None }).is_ok() {
        context
            .output
            .say(format!("kept volume {volume}, which held the home of {name}: rootling volume rm {volume}"));
    }
}

/// Refuses what could not be started.
fn check(store: &Store, mode: HomeMode, path: &Path) -> Result<()> {
    if mode == HomeMode::Private {
        return Ok(());
    }
    let Ok(real) = path.canonicalize() else {
        let message = format!("there is no home directory {path:?}");
        return Err(
            Error::new(ErrorKind::NotFound, message).hint("make one of the box's own: --home private")
        );
    };
    let store = store.root().canonicalize().unwrap_or_else(|_| store.root().to_owned());
    if mode == HomeMode::Overlay && store.starts_with(&real) {
        let message =
            format!("the store {store:?} lies in {path:?}: OverlayFS takes no layers that lie in each other");
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint("use --home snapshot, or a store elsewhere: --root PATH"));
    }
    Ok(())
}

/// Adds what the home of a box comes to when it starts; a private one is filled when it is new.
pub(super) fn mount(
    store: &Store,
    home: &Home,
    tree: &Dir,
    person: Option<&Person>,
    userns: &Userns,
    dry_run: bool,
    mounts: &mut Mounts,
) -> Result<()> {
    let held = match &home.volume {
        Some(volume) if dry_run => Some(PathBuf::from(format!("volume {volume}"))),
        Some(volume) => {
            super::run::start_quiet_workers();
            let content = (home.mode == HomeMode::Private).then(|| begun_from(tree, &home.path)).flatten();
            let (node, used): (_, File) = store.use_volume(volume, content.as_ref())?;
            mounts.used.push(used);
            let held = store.slot(&node).join(FS);
            if let (HomeMode::Private, Some(person)) = (home.mode, person) {
                let (uid, gid) = on_disk(userns, person);
                runner::give_once(&Dir::open(&held)?, uid, gid)?;
            }
            Some(held)
        }
        None => None,
    };
    let bind = match (home.mode, held) {
        (HomeMode::Private | HomeMode::Snapshot, Some(held)) => Bind::new(held, &home.path),
        (HomeMode::Overlay, layer @ Some(_)) => Bind { layer, ..Bind::new(&home.path, &home.path) },
        _ => {
            mounts.tmpfs.extend(cover(store, home));
            Bind::new(&home.path, &home.path)
        }
    };
    mounts.binds.push(bind);
    Ok(())
}

/// Whoever can write to the store can write to every tree in it: where it lies in a home that is shared, it is covered.
fn cover(store: &Store, home: &Home) -> Option<Tmpfs> {
    let (root, real) = (store.root().canonicalize().ok()?, home.path.canonicalize().ok()?);
    let below = root.strip_prefix(&real).ok()?;
    let restrictions = Restrictions { read_only: true, no_exec: true, ..Restrictions::default() };
    let empty = Tmpfs::new(home.path.join(below), 0o500);
    Some(Tmpfs { size_bytes: Some(4096), restrictions, ..empty })
}

/// What the tree has for a new home: that home, or what new homes are made of.
fn begun_from(tree: &Dir, path: &Path) -> Option<Dir> {
    let there = |path: &Path| {
        let file = tree.open_in_root(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).ok()?;
        let dir = Dir::from_fd(file, tree.path().join(path.strip_prefix("/").unwrap_or(path)));
        dir.entries().is_ok_and(|entries| !entries.is_empty()).then_some(dir)
    };
    there(path).or_else(|| there(Path::new("/etc/skel")))
}

/// The numbers that a person's files have on disk.
fn on_disk(userns: &Userns, person: &Person) -> (u32, u32) {
    let own = (person.uid, person.gid);
    if userns.maps_tree() { own } else { userns.outside(person.uid, person.gid).unwrap_or(own) }
}

/// Returns the caller's directory, if that is the same directory inside: one in a place that is shown at its own path.
///
/// `shown` are all the places where something is mounted, and whether it is at its own path; the nearest one above holds. A directory
/// of the tree that happens to have the same path, as `/etc` does, is another one.
pub(super) fn same_directory(shown: &[(PathBuf, bool)]) -> Option<PathBuf> {
    if shown.is_empty() {
        return None;
    }
    // One that was removed is nowhere.
    let here = std::env::current_dir().ok()?;
    let above = shown.iter().filter(|(place, _)| here.starts_with(place));
    let (_, is_same) = above.max_by_key(|(place, _)| place.components().count())?;
    is_same.then_some(here)
}
