//! rootling: stores of root's and of each user's, and what runs in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use rootling_backends::{Context, Kind, Result};

use super::Place;
use super::guest::Guest;
use super::runner::Runner;
use crate::command::{command, timed};
use crate::fixture::FileSystem;

/// Whose network the box is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Net {
    Host,
    None,
}

/// All that it makes by default, and without a network.
pub(super) const WALLS: [&str; 7] = ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"];
/// The same in the host's network.
pub(super) const WALLS_IN_HOST_NETWORK: [&str; 6] = ["mnt", "pid", "ipc", "uts", "cgroup", "user"];

/// A store with the tree in it as `base`.
#[derive(Debug, Clone)]
pub(super) struct Store {
    program: PathBuf,
    path: PathBuf,
    pub(super) kind: Kind,
    pub(super) guest: Option<Guest>,
}

/// Returns root's stores and, of overlays, the users'; each is made when it is first asked for.
pub(super) fn stores(place: &Place) -> Result<Vec<Store>> {
    let mut whose = vec![(Kind::Overlay, None)];
    if place.file_system == FileSystem::Btrfs {
        whose.push((Kind::Btrfs, None));
    }
    whose.extend(place.guests.iter().map(|guest| (Kind::Overlay, Some(guest))));
    whose.into_iter().map(|(kind, guest)| Store::make(place, kind, guest)).collect()
}

pub(super) fn runners(place: &Place, net: Net) -> Result<Vec<Runner>> {
    let mut stores = stores(place)?;
    // The users' rows are those without a network: a peer of theirs cannot show the host's.
    stores.retain(|store| net == Net::None || store.guest.is_none());
    Ok(stores.into_iter().map(|store| store.runner(net)).collect())
}

impl Store {
    fn make(place: &Place, kind: Kind, guest: Option<&Guest>) -> Result<Self> {
        let path = place.home(guest).join(format!("store-{kind}"));
        let store = Self { program: place.program.clone(), path, kind, guest: guest.cloned() };
        if store.path.exists() {
            return Ok(store);
        }
        store.does(&["init", "--backend", kind.name()], Some(&store.path))?;
        let mut import = store.command(&["import"]);
        // From standard input, because a user may not see where the archive lies.
        let path = &place.archive.path;
        let archive = std::fs::File::open(path).context(|| format!("open({path:?})"))?;
        if guest.is_some_and(|guest| !guest.has_range()) {
            import.arg("--no-owners");
        }
        import.args(["tar:-", "base"]).stdin(archive);
        store.dressed(&mut import);
        timed(&mut import)?;
        Ok(store)
    }

    /// Returns the command line of these words.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.program, ["--quiet", "--root"]);
        command.arg(&self.path).args(words);
        command
    }

    /// Runs these words to their end.
    pub(super) fn does(&self, words: &[&str], path: Option<&Path>) -> Result<()> {
        let mut command = self.command(words);
        command.args(path);
        self.dressed(&mut command);
        timed(&mut command).map(drop)
    }

    pub(super) fn dressed(&self, command: &mut Command) {
        if let Some(guest) = &self.guest {
            guest.dress(command);
        }
    }

    fn runner(self, net: Net) -> Runner {
        let (net, walls): (_, &'static [&'static str]) = match net {
            Net::Host => ("host", &WALLS_IN_HOST_NETWORK),
            Net::None => ("none", &WALLS),
        };
        let guest = self.guest.clone();
        let name = format!("rootling {}", self.kind);
        let runner = Runner::new(name, walls, move |inside| {
            let mut command = self.command(&["run", "--net", net, "base", "--"]);
            command.args(inside);
            Ok(command)
        });
        runner.of(guest.as_ref())
    }
}
