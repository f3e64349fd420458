//! The directory of a bundle: made in steps that a kill may end at any point, and taken away again.
//!
//! ```text
//! DIR/                mode 0700
//!     config.json     written once the box is there; mode 0600, because variables may be secret
//!     rootfs/         where the box's tree is mounted; made first: that is how one of two calls gets the directory
//!     files/          what is shown over files of the tree: etc-hosts, etc-hostname, etc-resolv.conf
//! ```
//!
//! In order: `DIR` and `rootfs`, the box (whose record names `DIR`), the files, the mount. What is there of it is known by the box; without one
//! it is an empty `rootfs`, or nothing.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::super::{Context, mount, output};
use super::name_of;
use crate::runner::{Spec, oci};
use crate::store::{Base, CreateOptions, Name, Node, Store, fault};

pub(super) const CONFIG: &str = "config.json";
pub(super) const ROOTFS: &str = "rootfs";
pub(super) const FILES: &str = "files";

/// A bundle that is being made: dropped before it is finished, it is taken away.
#[derive(Debug)]
pub(super) struct Making<'a> {
    store: &'a Store,
    path: PathBuf,
    /// Was the directory made, too?
    made: bool,
    node: Option<Node>,
    finished: bool,
}

impl<'a> Making<'a> {
    /// Takes the directory: one that is not empty is an error of kind `AlreadyExists`.
    pub(super) fn begin(store: &'a Store, directory: &Path) -> Result<Self> {
        let intent = || format!("make a bundle in {directory:?}");
        let made = match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
                let error = Error::io(format!("mkdir({directory:?})"), error);
                return Err(match (error.kind(), above) {
                    (ErrorKind::NotFound, Some(above)) => {
                        error.hint(format!("make it first: mkdir -p {}", above.display()))
                    }
                    _ => error,
                })
                .context(intent);
            }
        };
        let path = directory.canonicalize().context(|| format!("realpath({directory:?})")).context(intent)?;
        if path.starts_with(store.root()) {
            if made {
                // Best effort: it is ours and empty.
                fs::remove_dir(&path).unwrap_or_default();
            }
            let error = Error::new(ErrorKind::InvalidInput, "it is in the store");
            return Err(error.hint("choose a directory outside of the store").context(intent()));
        }
        let mut entries = fs::read_dir(&path).context(|| format!("readdir({path:?})")).context(intent)?;
        let rootfs = path.join(ROOTFS);
        let taken = entries.next().is_some();
        match DirBuilder::new().mode(0o755).create(&rootfs) {
            Ok(()) if !taken => {}
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).context(|| format!("mkdir({rootfs:?})")).context(intent);
            }
            made => {
                if made.is_ok() {
                    // Best effort: it is ours and empty.
                    fs::remove_dir(&rootfs).unwrap_or_default();
                }
                let error = Error::new(ErrorKind::AlreadyExists, format!("{path:?} is not empty"));
                return Err(error.hint(format!(
                    "choose another directory, or take a bundle away that is there: rootling bundle --rm {}",
                    path.display()
                )));
            }
        }
        fault::point("bundle.begun");
        Ok(Self { store, path, made, node: None, finished: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the box.
    pub(super) fn node(&self) -> &Node {
        self.node.as_ref().expect("it was forked")
    }

    /// Refuses a directory that others can enter, where the mount will have set-user-id programs or devices in it.
    pub(super) fn require_closed(&self, walls: u64) -> Result<()> {
        let stat = fs::metadata(&self.path).context(|| format!("stat({:?})", self.path))?;
        if walls == mount::WALLS || stat.mode() & 0o077 == 0 {
            return Ok(());
        }
        let message = format!(
            "others may enter {:?}, and set-user-id programs or devices of the tree would work for them",
            self.path
        );
        Err(Error::new(ErrorKind::PermissionDenied, message)
            .hint(format!("chmod 700 {}", self.path.display())))
    }

    /// Makes the box.
    pub(super) fn fork(mut self, base: Base<'_>, name: &Name, options: CreateOptions) -> Result<Self> {
        self.node = Some(self.store.create(base, name, options)?);
        fault::point("bundle.forked");
        Ok(self)
    }

    /// Writes the configuration and what it binds.
    pub(super) fn write(&self, spec: &Spec, configuration: &oci::Configuration) -> Result<()> {
        let files = self.path.join(FILES);
        DirBuilder::new().mode(0o700).create(&files).context(|| format!("mkdir({files:?})"))?;
        for file in &spec.files {
            let path = files.join(oci::file_name(&file.target));
            write(&path, &file.content, file.mode)?;
            let (uid, gid) = file.owner;
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).context(|| format!("chown({path:?})"))?;
        }
        fault::point("bundle.files");
        write(&self.path.join(CONFIG), configuration.to_text().as_bytes(), 0o600)?;
        fault::point("bundle.configured");
        Ok(())
    }

    /// Mounts the box, with these `MOUNT_ATTR_*`: then it can be used.
    pub(super) fn finish(mut self, walls: u64) -> Result<(Node, PathBuf)> {
        let (node, _used) = self.store.open_box(self.node())?;
        mount::show(self.store, &node, &self.path.join(ROOTFS), false, walls)?;
        fault::point("bundle.mounted");
        self.finished = true;
        Ok((node, self.path.clone()))
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Best effort: the first error is told, and `bundle --rm` takes away what is left.
        if let Some(node) = &self.node
            && let Err(error) = self.store.remove(node, true)
        {
            log::warn!("{error}");
        }
        remove_files(&self.path).unwrap_or_default();
        if self.made {
            fs::remove_dir(&self.path).unwrap_or_default();
        }
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = file.context(|| format!("open({path:?}, O_CREAT | O_EXCL)"))?;
    file.write_all(content).context(|| format!("write({path:?})"))?;
    file.set_permissions(fs::Permissions::from_mode(mode)).context(|| format!("fchmod({path:?})"))
}

/// Removes what a bundle is made of, the mount excepted; what else is in the directory stays.
fn remove_files(path: &Path) -> Result<()> {
    let gone = |removed: std::io::Result<()>, what: &Path| match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {what:?}"), error))
        }
        _ => Ok(()),
    };
    let (config, files, rootfs) = (path.join(CONFIG), path.join(FILES), path.join(ROOTFS));
    gone(fs::remove_file(&config), &config)?;
    gone(fs::remove_dir_all(&files), &files)?;
    gone(fs::remove_dir(&rootfs), &rootfs)
}

/// Returns what the box of a bundle is called, unless that is said.
pub(super) fn default_name(directory: &Path) -> Result<Name> {
    // As `.` and `..` say nothing.
    let path = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    name_of(path.file_name())
}

/// `bundle --rm`: what is left of a bundle that was never finished goes as well. Durable as far as the box goes; a kill leaves some of it,
/// and a second call takes the rest away.
pub(super) fn remove(context: &Context, store: &Store, directory: &Path, keep_box: bool) -> Result<()> {
    let intent = || format!("take the bundle {directory:?} away");
    let path = directory.canonicalize().context(|| format!("realpath({directory:?})"));
    let path = path.map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.hint("`rootling show BOX` says where the bundle of a box is"),
        _ => error,
    });
    let path = path.context(intent)?;
    let rootfs = path.join(ROOTFS);
    let node = store.box_of_bundle(&path, &rootfs).context(intent)?;
    if node.is_none() && !is_all_there_is(&path, &rootfs)? {
        let message = format!("{path:?} is not a bundle of this store");
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("its box may have been removed: then remove the directory by hand, or undelete the box"));
    }
    if let Some(node) = node.as_ref().filter(|node| !keep_box && node.record.life.marks.locked) {
        let message = format!("{} is locked", node.label());
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .hint(format!("rootling unlock {}, or leave the box: --keep-box", node.label()))
            .context(intent()));
    }
    if store.shows_at(&rootfs)? {
        mount::refuse_while_used(&rootfs).context(intent)?;
        mount::unmount(&rootfs).context(intent)?;
    }
    fault::point("bundle.unmounted");
    remove_files(&path).context(intent)?;
    fault::point("bundle.emptied");
    if let Some(node) = &node {
        let node = store.leave_bundle(node)?;
        fault::point("bundle.left");
        let name = node.label();
        if keep_box {
            context.output.say(format!("took the bundle away; its box is {name}"));
        } else {
            store.retire(&node, false)?;
            context.output.say(format!(
                "took the bundle away and removed {name}: rootling undelete {name} brings it back"
            ));
        }
    }
    fault::point("bundle.retired");
    if let Err(error) = fs::remove_dir(&path) {
        context.output.say(format!("{} stays: {error}", output::plain(&path)));
    }
    Ok(())
}

/// Is there nothing but an empty directory for the tree, or nothing at all?
fn is_all_there_is(path: &Path, rootfs: &Path) -> Result<bool> {
    let names = |path: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path).context(|| format!("readdir({path:?})"))?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    };
    let there = names(path)?;
    Ok(there.iter().all(|entry| entry == rootfs) && (there.is_empty() || names(rootfs)?.is_empty()))
}
