//! The mounts of a step: what must be opened, made and given back.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rootling_backends::{Context as _, Result};

use super::agent::Forward;
use super::{Cache, CacheWanted, Room, Template, bind};
use crate::build::plan::{MountKind, Owner, RunMount, RunStep};
use crate::runner::{Bind, FileAt, Restrictions, Tmpfs};
use crate::store::{Scratch, Store};

/// What a step has besides its tree. Dropped, what was made for it is gone.
#[derive(Default)]
pub(super) struct Mounts<'a> {
    pub(super) binds: Vec<Bind>,
    pub(super) tmpfs: Vec<Tmpfs>,
    pub(super) files: Vec<FileAt>,
    /// Variables, which hold whatever the image says.
    pub(super) env: Vec<(String, OsString)>,
    pub(super) shm_bytes: Option<u64>,
    caches: Vec<Box<dyn Cache + 'a>>,
    agents: Vec<Forward>,
    scratch: LazyScratch,
}

/// A directory for what one step writes and nobody keeps, made when it is needed.
#[derive(Debug, Default)]
pub(super) struct LazyScratch(OnceCell<Scratch>);

impl LazyScratch {
    pub(super) fn path(&self, store: &Store) -> Result<&Path> {
        if self.0.get().is_none() {
            // Nobody else has this cell.
            drop(self.0.set(store.scratch()?));
        }
        Ok(self.0.get().expect("it was just set").path())
    }
}

impl<'a> Mounts<'a> {
    /// Opens what the step's mounts show, in order; waits where a cache is locked.
    pub(super) fn open(step: &RunStep, room: Room<'a>) -> Result<Self> {
        let Template { binds, tmpfs, .. } = room.template;
        let mut mounts = Self { binds: binds.clone(), tmpfs: tmpfs.clone(), ..Self::default() };
        for (number, mount) in step.mounts.iter().enumerate() {
            mounts.add(number, mount, room).context(|| shown(mount))?;
        }
        Ok(mounts)
    }

    fn add(&mut self, number: usize, mount: &RunMount, room: Room<'a>) -> Result<()> {
        let target = Path::new(&mount.target);
        match &mount.kind {
            MountKind::Bind { from, source, writable } => {
                let files = room.inputs.files(from.as_ref())?;
                let wanted = bind::Wanted { target, source: Path::new(source), writable: *writable, number };
                self.binds.push(bind::bind(files, &wanted, room.store, &self.scratch)?);
            }
            MountKind::Cache { id, sharing, from, source, read_only, owner } => {
                let from = from.as_ref().map(|ground| (ground, source.as_str()));
                let cache = room.inputs.cache(CacheWanted { id, sharing: *sharing, owner: *owner, from })?;
                let restrictions = Restrictions { read_only: *read_only, ..Restrictions::default() };
                self.binds.push(Bind { restrictions, ..Bind::new(cache.dir(), target) });
                self.caches.push(cache);
            }
            // It is a part of `/dev`, where the walls let nobody mount.
            MountKind::Tmpfs { size: Some(size) } if target == Path::new("/dev/shm") => {
                self.shm_bytes = Some(*size);
            }
            MountKind::Tmpfs { .. } if target == Path::new("/dev/shm") => {}
            MountKind::Tmpfs { size } => {
                self.tmpfs.push(Tmpfs { size_bytes: *size, ..Tmpfs::new(target, 0o1777) });
            }
            MountKind::Secret { id, required, env, is_file, owner } => {
                let given = &room.template.given;
                let Some(content) = given.secret(id) else {
                    return if *required { Err(given.no_secret(id)) } else { Ok(()) };
                };
                if let Some(name) = env {
                    self.env.push((name.clone(), OsString::from_vec(content.to_vec())));
                }
                if *is_file {
                    self.files.push(secret(target, content, *owner));
                }
            }
            MountKind::Ssh { id, required, owner } => {
                let given = &room.template.given;
                let Some(agent) = given.agent(id) else {
                    return if *required { Err(given.no_agent(id)) } else { Ok(()) };
                };
                let place = self.scratch.path(room.store)?;
                let name = format!("agent-{number}");
                self.agents.push(Forward::listen(place, &name, agent, *owner, &room.template.users)?);
                self.binds.push(Bind::new(place.join(name), target));
                if !self.env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK") {
                    self.env.push(("SSH_AUTH_SOCK".to_owned(), target.into()));
                }
            }
        }
        Ok(())
    }

    /// Gives back what was taken; `succeeded` says whether the command did.
    pub(super) fn end(self, succeeded: bool) -> Result<()> {
        let Self { caches, agents, .. } = self;
        drop(agents);
        // All of them, whatever becomes of one.
        let ended: Vec<Result<()>> = caches.into_iter().map(|cache| cache.end(succeeded)).collect();
        ended.into_iter().collect()
    }
}

fn secret(target: &Path, content: &[u8], owner: Owner) -> FileAt {
    FileAt {
        mode: owner.mode,
        owner: (owner.uid, owner.gid),
        restrictions: Restrictions { read_only: true, no_exec: true, ..Restrictions::default() },
        optional: false,
        ..FileAt::new(target, content)
    }
}

fn shown(mount: &RunMount) -> String {
    let kind = match &mount.kind {
        MountKind::Bind { .. } => "bind",
        MountKind::Cache { .. } => "cache",
        MountKind::Tmpfs { .. } => "tmpfs",
        MountKind::Secret { .. } => "secret",
        MountKind::Ssh { .. } => "ssh",
    };
    format!("--mount=type={kind},target={}", mount.target)
}
