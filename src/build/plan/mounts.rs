//! `RUN --mount`: what is there, and how it is owned.

use rootling_backends::{Error, ErrorKind, Result};

use super::outline::Outline;
use super::paths;
use super::scene::Scene;
use super::step::{Ground, MountKind, Owner, RunMount, Sharing};
use crate::build::syntax::mount::{self, Kind, Mount};

/// Expands the mounts of a `RUN` in stage `number`.
pub(super) fn mounts(
    list: &[String],
    scene: &Scene,
    outline: &Outline<'_>,
    number: usize,
    escape: char,
) -> Result<Vec<RunMount>> {
    let mut sockets = 0;
    let expanded = list.iter().map(|text| {
        let mount = mount::parse(text, &mut |value| scene.words(escape).word(value));
        let mount = mount.and_then(|mount| {
            let from = match &mount.from {
                Some(from) if mount.kind != Kind::Tmpfs => Some(outline.source(from, number)?),
                _ => None,
            };
            mapped(mount, from, &scene.workdir(), &mut sockets)
        });
        mount.map_err(|error| error.context(format!("read --mount={text}")))
    });
    expanded.collect()
}

fn mapped(mount: Mount, from: Option<Ground>, workdir: &str, sockets: &mut usize) -> Result<RunMount> {
    let Mount { kind, source, target, .. } = &mount;
    let source_path = || source.as_deref().map_or_else(|| "/".to_owned(), |path| paths::absolute("/", path));
    let wanted = || {
        let target = target.as_deref().unwrap_or_default();
        match paths::absolute(workdir, target) {
            path if path == "/" || target.is_empty() => {
                let error = Error::new(ErrorKind::InvalidInput, "the mount has no target");
                Err(error.hint("say where it is, as in target=/root/.cache"))
            }
            path => Ok(path),
        }
    };
    let owner = |mode| Owner {
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(mode),
    };
    let made = |target, kind| Ok(RunMount { target, kind });
    match kind {
        Kind::Bind => {
            let source = source_path();
            made(wanted()?, MountKind::Bind { from, source, writable: !mount.read_only })
        }
        Kind::Cache => {
            let path = wanted()?;
            // The id is the target as it was typed: two directories of one image may share it on purpose.
            let id = mount.id.clone().unwrap_or_else(|| clean(target.as_deref().unwrap_or_default()));
            let sharing = mount.sharing.unwrap_or(Sharing::Shared);
            let read_only = mount.read_only;
            let from = from.filter(|from| *from != Ground::Scratch);
            made(
                path,
                MountKind::Cache { id, sharing, from, source: source_path(), read_only, owner: owner(0o755) },
            )
        }
        Kind::Tmpfs => made(wanted()?, MountKind::Tmpfs { size: mount.size.filter(|size| *size > 0) }),
        Kind::Secret => {
            let base =
                |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
            let id = source.clone().or(mount.id.clone()).or_else(|| target.as_deref().map(base));
            let id = id.filter(|id| !id.is_empty()).ok_or_else(|| {
                let error = Error::new(ErrorKind::InvalidInput, "the mount does not say which secret it is");
                error.hint("say which, as in type=secret,id=token")
            })?;
            let is_file = mount.env.is_none() || target.is_some();
            let path = match target {
                Some(target) => paths::absolute(workdir, target),
                None => format!("/run/secrets/{}", base(&id)),
            };
            let (env, owner) = (mount.env.clone(), owner(0o400));
            made(path, MountKind::Secret { id, required: mount.required, env, is_file, owner })
        }
        Kind::Ssh => {
            if source.is_some() {
                let error = Error::new(ErrorKind::InvalidInput, "an ssh mount has no source");
                return Err(error.hint("say which agent with id="));
            }
            let path = match target {
                Some(target) => paths::absolute(workdir, target),
                None => format!("/run/buildkit/ssh_agent.{sockets}"),
            };
            *sockets += 1;
            let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
            made(path, MountKind::Ssh { id, required: mount.required, owner: owner(0o600) })
        }
    }
}

/// Returns a path without needless parts; one that is relative stays so.
fn clean(path: &str) -> String {
    let absolute = paths::absolute("/", path);
    if path.starts_with('/') { absolute } else { absolute.trim_start_matches('/').to_owned() }
}
