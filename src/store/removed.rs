//! Removing what can be brought back: names that are moved from `n/` to `removed/`, where they still keep what they lead to.
//!
//! ```text
//! removed/<when>/<name>    one directory for each removal; the links are those of n/, only the last part of their target counts
//! ```
//!
//! A removed name takes no name away: a new box may be called the same, and one name may have been removed several times.
//! What was removed long enough ago goes with `prune` (see `retention`).

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::Serialize;

use super::{Name, ObjectId, State, Store, VolumeReference, fault, files};

/// One name that was removed and can be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// What it was called.
    pub name: Name,
    /// What it led to.
    pub id: ObjectId,
    /// When it was removed. What was removed together has the same time.
    pub at: Timestamp,
}

impl Store {
    fn removed_dir(&self, at: Timestamp) -> PathBuf {
        self.root.join("removed").join(at.to_string())
    }

    pub(super) fn removed_link(&self, removed: &Removed) -> PathBuf {
        self.removed_dir(removed.at).join(removed.name.encoded())
    }

    /// Returns what was removed and can be brought back, oldest first. O(removed names).
    pub fn removed(&self) -> Result<Vec<Removed>> {
        let directory = self.root.join("removed");
        let mut removed = Vec::new();
        for when in files::list(&directory)? {
            let Ok(at) = when.parse::<Timestamp>() else { continue };
            for file_name in files::list(&directory.join(&when))? {
                let Ok(name) = Name::decode(&file_name) else { continue };
                let target = match fs::read_link(directory.join(&when).join(&file_name)) {
                    Ok(target) => target,
                    // Brought back since the listing, or no link at all: fsck's business.
                    Err(_) => continue,
                };
                let id = target.file_name().and_then(|id| id.to_str()).map(ObjectId::parse);
                if let Some(Ok(id)) = id {
                    removed.push(Removed { name, id, at });
                }
            }
        }
        removed.sort_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)));
        Ok(removed)
    }

    /// Does a name that was removed lead to this object?
    pub(super) fn is_removed(&self, id: &ObjectId) -> Result<bool> {
        Ok(self.removed()?.iter().any(|removed| removed.id == *id))
    }

    /// Moves names to a removal of their own, in this order. Durable on return.
    ///
    /// The caller holds the store's lock, and the change lock of what all of them belong to: the move of its name is the commit point.
    pub(super) fn move_to_removed(&self, names: &[Name]) -> Result<Timestamp> {
        let removed = self.root.join("removed");
        files::make_dir(&removed)?;
        let (at, directory) = loop {
            let at = Timestamp::now();
            let directory = self.removed_dir(at);
            match fs::create_dir(&directory) {
                Ok(()) => break (at, directory),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(format!("mkdir({directory:?})"), error)),
            }
        };
        files::sync_dir(&removed)?;
        files::sync_dir(&self.root)?;
        fault::point("removed.made");
        for name in names {
            let id = self.resolve_name(name)?;
            files::rename_new(&self.name_link(name), &directory.join(name.encoded()))?;
            if let Some(id) = id {
                self.unnote_name(&id, name);
            }
            fault::point("removed.moved");
        }
        // Where they are now first: after a power cut they may be in both places, never in neither.
        files::sync_dir(&directory)?;
        files::sync_dir(&self.root.join("n"))?;
        fault::point("removed.synced");
        Ok(at)
    }

    /// Brings back what was removed, a box with the snapshots and the home that were removed with it; returns the names that it and its
    /// snapshots have now.
    ///
    /// With `as_name` under another name. One that is taken is an error of kind `AlreadyExists`, and nothing is done. Durable on
    /// return; after a kill a second call brings back the rest.
    pub fn undelete(&self, removed: &Removed, as_name: Option<&Name>) -> Result<Vec<Name>> {
        let intent = || format!("bring back {}", removed.name);
        let _lock = self.share_to_write().context(intent)?;
        let node = self.node(&removed.id).context(intent)?;
        let target = as_name.unwrap_or(&removed.name);
        if node.record.state == State::Active && target.is_snapshot() {
            let message = format!("{target} is the name of a snapshot, and {} is a box", removed.name);
            return Err(Error::new(ErrorKind::InvalidInput, message)).context(intent);
        }
        if removed.name.is_volume() != target.is_volume() {
            let message =
                format!("{target} is a volume's name and {} a tree's, or the other way round", removed.name);
            return Err(Error::new(ErrorKind::InvalidInput, message)).context(intent);
        }
        let own = node.record.life.settings.own_volume().filter(|_| node.record.state == State::Active);
        let mut moves = Vec::new();
        for other in self.removed().context(intent)?.into_iter().filter(|other| other.at == removed.at) {
            match other.name.of_snapshot() {
                Some((owner, label)) if owner == removed.name => {
                    moves.push((
                        self.removed_link(&other),
                        target.snapshot(&label).context(intent)?,
                        other.id,
                    ));
                }
                // The settings of the box know it by its name, so it keeps that.
                _ if own.is_some() && VolumeReference::of(&other.name).map(|of| of.name).as_ref() == own => {
                    moves.push((self.removed_link(&other), other.name, other.id));
                }
                _ => {}
            }
        }
        // The box itself last: as long as it is not back, saying it again goes on.
        moves.push((self.removed_link(removed), target.clone(), removed.id.clone()));
        let taken = |name: &Name| {
            if let Some(volume) = VolumeReference::of(name).filter(|_| own.is_some()) {
                return self.volume_taken(&volume.name);
            }
            Error::new(ErrorKind::AlreadyExists, format!("the name {name} is taken"))
                .hint(format!("bring it back under another: rootling undelete {} --as NAME", removed.name))
        };
        for (_, name, _) in &moves {
            self.require_free(name).map_err(|_| taken(name)).context(intent)?;
        }
        for (number, (link, name, id)) in moves.iter().enumerate() {
            if as_name.is_some() {
                self.forget_continuation(id, name).context(intent)?;
            }
            if let Err(error) = self.bring_back(link, name, id) {
                // Somebody was faster.
                self.remove_again(&moves[..number]);
                let error = if error.kind() == ErrorKind::AlreadyExists { taken(name) } else { error };
                return Err(error).context(intent);
            }
            fault::point("undelete.moved");
        }
        files::sync_dir(&self.root.join("n")).context(intent)?;
        files::sync_dir(&self.removed_dir(removed.at)).context(intent)?;
        fault::point("undelete.synced");
        let names = moves.into_iter().map(|(_, name, _)| name);
        Ok(names.filter(|name| name.is_volume() == target.is_volume()).collect())
    }

    /// Gives one removed name back to its object. It may be taken since, or brought back by somebody else (kind `NotFound`).
    fn bring_back(&self, link: &Path, name: &Name, id: &ObjectId) -> Result<()> {
        self.note_name(id, name)?;
        let moved = files::rename_new(link, &self.name_link(name));
        if moved.is_err() && self.resolve_name(name).is_ok_and(|has_it| has_it.as_ref() != Some(id)) {
            self.unnote_name(id, name);
        }
        moved.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("{name} was brought back or destroyed meanwhile"))
            }
            _ => error,
        })
    }

    /// Takes back what an undelete that cannot be finished has brought back.
    fn remove_again(&self, moves: &[(PathBuf, Name, ObjectId)]) {
        for (link, name, id) in moves.iter().rev() {
            // Best effort: what is not removed again is back, which loses nothing.
            match files::rename_new(&self.name_link(name), link) {
                Ok(()) => self.unnote_name(id, name),
                Err(error) => log::warn!("{name} is back: {error}"),
            }
        }
    }

    /// Can it still be brought back?
    pub(super) fn is_still_removed(&self, removed: &Removed) -> Result<bool> {
        let link = self.removed_link(removed);
        match fs::read_link(&link) {
            Ok(target) => Ok(target.file_name().is_some_and(|id| id == removed.id.as_str())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(format!("readlink({link:?})"), error)),
        }
    }

    /// Forgets a removed name for good; says whether it was still there. What it led to is the sweep's.
    pub(super) fn forget_removed(&self, removed: &Removed) -> Result<bool> {
        files::remove_if_exists(&self.removed_link(removed))
    }

    /// Removes the directories of removals of which nothing is left. The caller holds the store alone.
    pub(super) fn tidy_removed(&self) -> Result<()> {
        let directory = self.root.join("removed");
        for when in files::list(&directory)? {
            if files::list(&directory.join(&when))?.is_empty() {
                let place = directory.join(&when);
                fs::remove_dir(&place).context(|| format!("rmdir({place:?})"))?;
            }
        }
        Ok(())
    }
}
