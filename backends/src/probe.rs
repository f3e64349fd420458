//! Finds out what a directory's file system can do, by doing it.
//!
//! Names and versions of file systems say little (an XFS may lack reflinks, a container may forbid overlay mounts), so each ability is
//! tried in a scratch directory that is removed afterwards. A crash leaves `.rootling-probe-*` behind, which holds nothing of value.
//!
//! [`probe`] fails only where no backend can work: on NFS, on an XFS that does not tell entry types, on a directory that folds case.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statvfs::FsFlags;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Kind};
use crate::dir::{Dir, EntryType};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::{Access, Mount, Overlay, Upper};
use crate::overlay::{OverlayFs, is_opaque, layer_limit};
use crate::plain::Plain;
use crate::{fuse, reap, sys};

/// One thing that works here, or does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ability {
    /// Does it?
    pub works: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The one action that would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Ability {
    fn yes() -> Self {
        Self { works: true, ..Self::default() }
    }

    fn no(reason: impl Into<String>) -> Self {
        Self { works: false, reason: Some(reason.into()), hint: None }
    }

    fn hint(self, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..self }
    }

    /// Turns the outcome of an attempt into an ability; the whole chain of a failure is its reason.
    fn of(outcome: Result<()>) -> Self {
        match outcome {
            Ok(()) => Self::yes(),
            Err(error) => Self {
                works: false,
                reason: Some(chain(&error)),
                hint: error.first_hint().map(str::to_owned),
            },
        }
    }
}

/// Shows `yes`, or the reason.
impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.works { "yes" } else { self.reason.as_deref().unwrap_or("no") })
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What a directory's file system, and this process on it, can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Abilities {
    /// The file system's name, as `mount` has it; a number where it is not known here.
    pub file_system: String,
    /// The file system's id: two directories with the same one may share data. On btrfs each subvolume has its own.
    pub file_system_id: String,
    /// Nothing can be written: nothing else was tried.
    pub read_only: bool,
    /// Subvolumes and snapshots.
    pub subvolumes: Ability,
    /// FICLONE.
    pub reflink: Ability,
    /// An overlay mount with its upper directory here, written through.
    pub overlay: Ability,
    /// OverlayFS has to keep its marks in `user.overlay.*`.
    pub userxattr: bool,
    /// Layers that one overlay mount takes.
    pub overlay_layers: usize,
    /// The program fuse-overlayfs, with `/dev/fuse`.
    pub fuse_overlay: Ability,
    /// Overlays are mounted by fuse-overlayfs: the kernel refuses them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub overlay_by_fuse: bool,
    /// Extended attributes `user.*`.
    pub user_xattrs: Ability,
    /// Extended attributes `trusted.*`.
    pub trusted_xattrs: Ability,
    /// A listing tells the type of each entry.
    pub entry_types: Ability,
}

/// Tries everything in a scratch directory in `directory`. Takes some 10 ms; on btrfs two transaction commits more.
pub fn probe(directory: &Path) -> Result<Abilities> {
    let dir = Dir::open(directory)?;
    let what = || format!("probe {directory:?}");
    let (mut abilities, magic) = identify(&dir).context(what)?;
    if magic == NFS_SUPER_MAGIC {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{directory:?} is on NFS, which has neither the locks nor the attributes that a store needs"
            ),
        )
        .hint("put the store on a local file system with --store"));
    }
    if abilities.read_only {
        return Ok(read_only(abilities));
    }
    let scratch = Scratch::make(&dir).context(what)?;
    abilities.entry_types = entry_types(&scratch.dir).context(what)?;
    if !abilities.entry_types.works && magic == XFS_SUPER_MAGIC {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{directory:?} is on an XFS made without entry types"),
        )
        .hint("make the file system anew with `mkfs.xfs -n ftype=1`"));
    }
    refuse_case_folding(&scratch.dir, directory).context(what)?;
    abilities.user_xattrs = xattr(&scratch.dir, "user.rootling.probe");
    abilities.trusted_xattrs = xattr(&scratch.dir, "trusted.rootling.probe");
    abilities.reflink = Ability::of(clone_a_file(&scratch.dir));
    (abilities.overlay, abilities.userxattr) = overlay(&scratch.dir);
    abilities.overlay_layers = layer_limit();
    abilities.fuse_overlay = fuse_overlay();
    if !abilities.overlay.works && abilities.fuse_overlay.works {
        abilities.userxattr = !abilities.trusted_xattrs.works;
        match write_through_overlay(&scratch.dir, "overlay-fuse", abilities.userxattr, Mount::FuseOverlay) {
            Ok(()) => (abilities.overlay, abilities.overlay_by_fuse) = (Ability::yes(), true),
            failed => abilities.fuse_overlay = Ability::of(failed),
        }
    }
    abilities.subvolumes = subvolumes(&scratch, magic, &abilities);
    scratch.remove().context(what)?;
    Ok(abilities)
}

/// Returns the backend of that kind, or why it cannot work here and what would help.
pub fn open(kind: Kind, abilities: &Abilities) -> Result<Box<dyn Backend>> {
    let ability = ability_for(kind, abilities);
    if !ability.works {
        let error = Error::new(
            ErrorKind::Unsupported,
            format!("backend {kind} does not work on this {}: {ability}", abilities.file_system),
        );
        return Err(match ability.hint {
            Some(hint) => error.hint(hint),
            None => error.hint(format!("use --backend {}", auto_persistent(abilities))),
        });
    }
    Ok(match kind {
        #[cfg(feature = "btrfs")]
        Kind::Btrfs => Box::new(crate::btrfs::Btrfs::new(abilities.userxattr)),
        #[cfg(not(feature = "btrfs"))]
        Kind::Btrfs => return Err(Error::new(ErrorKind::Unsupported, LACKS_FEATURE)),
        Kind::Overlay if abilities.overlay_by_fuse => Box::new(OverlayFs::new(abilities.userxattr).by_fuse()),
        Kind::Overlay => Box::new(OverlayFs::new(abilities.userxattr)),
        Kind::Reflink => Box::new(plain(Plain::reflink(abilities.userxattr), abilities)),
        Kind::Copy => Box::new(plain(Plain::copy(abilities.userxattr), abilities)),
    })
}

/// Where no overlay works, nobody could read a delta.
fn plain(backend: Plain, abilities: &Abilities) -> Plain {
    if abilities.overlay.works { backend } else { backend.without_deltas() }
}

/// Returns the backend for trees that live long: one whose trees are plain to read, and cheap.
pub fn auto_persistent(abilities: &Abilities) -> Kind {
    first_working([Kind::Btrfs, Kind::Reflink, Kind::Overlay, Kind::Copy], abilities)
}

/// Returns the backend for trees that are thrown away: the one that makes them fastest.
pub fn auto_ephemeral(abilities: &Abilities) -> Kind {
    first_working([Kind::Btrfs, Kind::Overlay, Kind::Reflink, Kind::Copy], abilities)
}

fn first_working(order: [Kind; 4], abilities: &Abilities) -> Kind {
    order.into_iter().find(|kind| ability_for(*kind, abilities).works).unwrap_or(Kind::Copy)
}

fn ability_for(kind: Kind, abilities: &Abilities) -> Ability {
    match kind {
        Kind::Btrfs => abilities.subvolumes.clone(),
        Kind::Reflink => abilities.reflink.clone(),
        Kind::Overlay => abilities.overlay.clone(),
        Kind::Copy if abilities.read_only => Ability::no("the file system is read-only"),
        Kind::Copy => Ability::yes(),
    }
}

// ---------------------------------------------------------------- what it is

// linux/magic.h, and each file system's own headers
const BTRFS_SUPER_MAGIC: i64 = 0x9123_683e;
const NFS_SUPER_MAGIC: i64 = 0x6969;
const XFS_SUPER_MAGIC: i64 = 0x5846_5342;
const NAMES: [(i64, &str); 14] = [
    (BTRFS_SUPER_MAGIC, "btrfs"),
    (NFS_SUPER_MAGIC, "nfs"),
    (XFS_SUPER_MAGIC, "xfs"),
    (0xef53, "ext4"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x2fc1_2fc1, "zfs"),
    (0x6573_5546, "fuse"),
    (0xff53_4d42, "cifs"),
    (0x0102_1997, "9p"),
    (0xe0f5_e1e2, "erofs"),
    (0x7371_7368, "squashfs"),
];

fn identify(dir: &Dir) -> Result<(Abilities, i64)> {
    let status = nix::sys::statfs::fstatfs(dir.as_fd()).context(|| format!("fstatfs({dir})"))?;
    let details = nix::sys::statvfs::fstatvfs(dir.as_fd()).context(|| format!("fstatvfs({dir})"))?;
    // The type of f_type depends on the machine; the number is 32 bits wide and not negative.
    let magic = (status.filesystem_type().0 as i64) & 0xffff_ffff;
    let name = NAMES.iter().find(|(known, _)| *known == magic);
    let abilities = Abilities {
        file_system: name.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned()),
        file_system_id: format!("{:x}", details.filesystem_id()),
        read_only: details.flags().contains(FsFlags::ST_RDONLY),
        ..Abilities::default()
    };
    Ok((abilities, magic))
}

fn read_only(abilities: Abilities) -> Abilities {
    let no = || Ability::no("the file system is read-only").hint("mount it writable");
    Abilities {
        subvolumes: no(),
        reflink: no(),
        overlay: no(),
        fuse_overlay: no(),
        user_xattrs: no(),
        trusted_xattrs: no(),
        entry_types: no(),
        ..abilities
    }
}

// ---------------------------------------------------------------- what it can do

/// The directory in which things are tried; gone when this is dropped.
struct Scratch {
    path: PathBuf,
    dir: Dir,
}

impl Scratch {
    fn make(parent: &Dir) -> Result<Self> {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .context(|| "clock_gettime(CLOCK_MONOTONIC)")?;
        let name = format!(".rootling-probe-{}-{}.{:09}", std::process::id(), time.tv_sec(), time.tv_nsec());
        parent.make_dir(&name, 0o700)?;
        Ok(Self { path: parent.path().join(&name), dir: parent.open_dir(&name)? })
    }

    fn remove(&self) -> Result<()> {
        reap::reap(&self.path).map(drop)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: after a success it is gone already, and after a failure that one is what the caller needs to hear.
        drop(self.remove());
    }
}

fn entry_types(scratch: &Dir) -> Result<Ability> {
    scratch.create_file("entry-type", 0o600)?;
    let told = scratch.entries()?.iter().all(|entry| entry.entry_type.is_some());
    Ok(if told { Ability::yes() } else { Ability::no("a listing does not tell the types of its entries") })
}

fn refuse_case_folding(scratch: &Dir, directory: &Path) -> Result<()> {
    if scratch.stat_if_exists("ENTRY-TYPE")?.is_none() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{directory:?} does not tell `a` from `A`"))
        .hint("use a directory without case folding (`chattr -F` on an empty one)"))
}

fn xattr(scratch: &Dir, name: &str) -> Ability {
    Ability::of(scratch.set_xattr("entry-type", OsStr::new(name), b"1"))
}

fn clone_a_file(scratch: &Dir) -> Result<()> {
    let source = scratch.create_file("clone-source", 0o600)?;
    // A whole block: files of less may lie in their inodes and be refused.
    (&source).write_all(&[b'x'; 4096]).context(|| format!("write({scratch}, \"clone-source\")"))?;
    let (source, target) = (scratch.open_file("clone-source")?, scratch.create_file("clone-target", 0o600)?);
    sys::ficlone(target.as_fd(), source.as_fd()).context(|| format!("ioctl({scratch}, FICLONE)"))
}

/// Tries the two ways of keeping marks; the second answer says whether the one that works is `userxattr`.
fn overlay(scratch: &Dir) -> (Ability, bool) {
    let trusted = Ability::of(write_through_overlay(scratch, "overlay-trusted", false, Mount::Overlay));
    if trusted.works {
        return (trusted, false);
    }
    let user = Ability::of(write_through_overlay(scratch, "overlay-user", true, Mount::Overlay));
    if user.works { (user, true) } else { (trusted, false) }
}

/// Mounts, copies a file up, and makes a directory where one was deleted, which needs an opaque mark.
fn write_through_overlay(
    scratch: &Dir,
    name: &str,
    userxattr: bool,
    way: impl Fn(Overlay) -> Mount,
) -> Result<()> {
    scratch.make_dir(name, 0o700)?;
    let base = scratch.open_dir(name)?;
    for name in ["lower", "upper", "work"] {
        base.make_dir(name, 0o755)?;
    }
    let lower = base.open_dir("lower")?;
    lower.create_file("file", 0o644)?;
    lower.make_dir("directory", 0o755)?;
    lower.make_dir("gone", 0o755)?;
    let mount = way(Overlay {
        lowers: vec![base.path().join("lower")],
        upper: Some(Upper { dir: base.path().join("upper"), work: base.path().join("work") }),
        volatile: false,
        userxattr,
    })
    .open(Access::ReadWrite)?;
    let root = readable(&mount)?;
    let file = root.open_beneath("file", OFlag::O_WRONLY)?;
    nix::unistd::write(&file, b"written").context(|| "write(file in the overlay)")?;
    // What a server in user space was told is with it only now.
    drop(file);
    root.remove_dir("gone")?;
    root.remove_dir("directory")?;
    root.make_dir("directory", 0o755)?;
    let upper = base.open_dir("upper")?;
    // fuse-overlayfs makes files of other names where it cannot make whiteouts: nobody else would know them.
    let gone = upper.stat_if_exists("gone")?;
    if gone.is_none_or(|stat| EntryType::of_mode(stat.st_mode) != EntryType::CharDevice) {
        let message = "the file system takes no whiteouts (character devices 0:0)";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if upper.stat("file")?.st_size == 7 && is_opaque(&upper.open_dir("directory")?) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "the upper directory lacks what was written"))
}

fn readable(mount: &OwnedFd) -> Result<Dir> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::openat(mount, ".", flags, Mode::empty()).context(|| "openat(overlay, \".\")")?;
    Ok(Dir::from_fd(fd, "overlay"))
}

fn fuse_overlay() -> Ability {
    if !fuse::is_installed() {
        return Ability::no(format!("{} is not installed", fuse::PROGRAM)).hint("install fuse-overlayfs");
    }
    let open = std::fs::File::options().read(true).write(true).open(fuse::DEVICE);
    match open {
        Ok(_) => Ability::yes(),
        Err(error) => {
            let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
            let hint = if denied { "as root: chmod 666 /dev/fuse" } else { "as root: modprobe fuse" };
            Ability::no(format!("open({:?}): {error}", fuse::DEVICE)).hint(hint)
        }
    }
}

#[cfg(not(feature = "btrfs"))]
const LACKS_FEATURE: &str = "this build lacks the feature `btrfs`";

#[cfg(not(feature = "btrfs"))]
fn subvolumes(_scratch: &Scratch, _magic: i64, _abilities: &Abilities) -> Ability {
    Ability::no(LACKS_FEATURE).hint("build with `--features btrfs`")
}

#[cfg(feature = "btrfs")]
fn subvolumes(scratch: &Scratch, magic: i64, abilities: &Abilities) -> Ability {
    if magic != BTRFS_SUPER_MAGIC {
        return Ability::no(format!("the file system is {}, not btrfs", abilities.file_system));
    }
    Ability::of(make_and_snapshot(scratch, abilities.userxattr))
}

#[cfg(feature = "btrfs")]
fn make_and_snapshot(scratch: &Scratch, userxattr: bool) -> Result<()> {
    use crate::backend::{ForkOptions, Tree};
    let backend = crate::btrfs::Btrfs::new(userxattr);
    let (parent, child) = (scratch.path.join("subvolume"), scratch.path.join("snapshot"));
    scratch.dir.make_dir("subvolume", 0o700)?;
    scratch.dir.make_dir("snapshot", 0o700)?;
    backend.create(&parent)?;
    backend.fork(&Tree::full(parent), &child, ForkOptions::default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_leaves_nothing_behind_and_what_it_found_opens() {
        let directory = tempfile::tempdir().unwrap();
        let abilities = probe(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        for kind in [Kind::Btrfs, Kind::Overlay] {
            let opened = open(kind, &abilities);
            assert_eq!(opened.is_ok(), ability_for(kind, &abilities).works, "{kind}: {opened:?}");
        }
    }

    #[test]
    fn an_overlay_by_fuse_is_written_through_where_the_program_works() {
        let directory = tempfile::tempdir().unwrap();
        let abilities = probe(directory.path()).unwrap();
        let scratch = Dir::open(directory.path()).unwrap();
        let written = write_through_overlay(&scratch, "fuse", false, Mount::FuseOverlay);
        let may = abilities.fuse_overlay.works && nix::unistd::geteuid().is_root();
        assert_eq!(written.is_ok(), may, "{written:?}");
    }

    #[test]
    fn a_kind_that_does_not_work_is_refused_with_reason_and_hint() {
        let no = Ability::no("no such ioctl").hint("use a better one");
        let abilities = Abilities { file_system: "ext4".into(), reflink: no, ..Abilities::default() };
        let error = open(Kind::Reflink, &abilities).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "backend reflink does not work on this ext4: no such ioctl");
        assert_eq!(error.first_hint(), Some("use a better one"));
    }

    #[test]
    fn what_lives_long_prefers_plain_trees_and_what_does_not_prefers_speed() {
        let abilities =
            Abilities { reflink: Ability::yes(), overlay: Ability::yes(), ..Abilities::default() };
        assert_eq!(auto_persistent(&abilities), Kind::Reflink);
        assert_eq!(auto_ephemeral(&abilities), Kind::Overlay);
        assert_eq!(auto_persistent(&Abilities::default()), Kind::Copy);
    }

    #[test]
    fn abilities_survive_a_record() {
        let abilities = read_only(Abilities { overlay_layers: 500, ..Abilities::default() });
        let text = serde_json::to_string(&abilities).unwrap();
        assert_eq!(serde_json::from_str::<Abilities>(&text).unwrap(), abilities);
    }
}
