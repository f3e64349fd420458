//! Unpacks a tar into a tree.
//!
//! Members are placed in the order of the archive: a later one replaces an earlier one of the same path, and two
//! directories become one with the later attributes. In an image layer, names that begin with `.wh.` take away what
//! the layers beneath made, and never what the layer itself makes, before them or after. What cannot be kept but does not change what the tree
//! means to a program is skipped and told of ([`Applied::skipped`]); everything else is an error that names the
//! member. After an error the tree is half made: the caller throws it away.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, futimens, makedev};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use rootling_backends::attributes::is_overlay_xattr;
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result};

use super::content::Writer;
use super::member::{Content, Member};
use super::place::{Parent, Place, explain_owner, split, times};
use super::read::{Archive, Entry, Limits};
use super::whiteout::Whiteout;

/// What names with the prefix `.wh.` mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whiteouts {
    /// Nothing: the archive is a whole root filesystem, and they are names like others.
    #[default]
    Plain,
    /// Nothing, and the tree has something in it that is no layer's: what is added to it.
    ///
    /// What is there gives way, but directories become one. The root stays as it is, and absolute names are relative to it.
    Added,
    /// The archive is an image layer, and the tree holds the layers beneath: what they take away is deleted.
    ///
    /// Directories of the layers beneath that have no entry in this one keep mode, owner and times.
    Delete,
    /// The archive is an image layer, and the tree, an empty directory, is to be an OverlayFS layer over those beneath:
    /// they become what OverlayFS hides names with.
    ///
    /// A layer that means something only on those beneath (it has something in a directory that it has no entry for,
    /// behind a link or hard link that is not its own) is an error of the kind [`ErrorKind::NeedsLower`]: throw the tree
    /// away and unpack the layer once more on a fork of those, with [`Whiteouts::Delete`]. See also [`Applied::fits`].
    Overlay {
        /// Write the marks in `user.overlay.`, for mounts in a user namespace, instead of in `trusted.overlay.`.
        userxattr: bool,
    },
}

/// How to unpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyOptions {
    /// What names with the prefix `.wh.` mean.
    pub whiteouts: Whiteouts,
    /// Take the SHA-256 of every file on its way.
    pub digests: bool,
    /// Give everything to the owners the archive names; without, all belongs to the caller.
    pub owners: bool,
    /// Give everything to this user and group, whatever the archive names, if `owners` says that it gives owners at all.
    pub owner: Option<(u32, u32)>,
    /// Make devices and pipes; without, they are left out.
    pub devices: bool,
    /// What the archive may ask for.
    pub limits: Limits,
}

impl Default for ApplyOptions {
    /// A root filesystem with its owners, without digests.
    fn default() -> Self {
        Self {
            whiteouts: Whiteouts::Plain,
            digests: false,
            owners: true,
            owner: None,
            devices: true,
            limits: Limits::default(),
        }
    }
}

/// What came of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Members placed.
    pub entries: u64,
    /// Directories that no member told of.
    pub implied: u64,
    /// Whiteouts and opaque markers obeyed.
    pub whiteouts: u64,
    /// Directories of the tree, sorted, that hold OverlayFS's whiteouts: none unless [`Whiteouts::Overlay`] made it.
    pub whiteout_directories: Vec<Vec<u8>>,
    /// Directories of such a tree, sorted, whose entries came after those of something in them.
    pub late_directories: Vec<Vec<u8>>,
    /// Did the archive have an entry for the root? Without, the root looks as it did before.
    pub root_is_told: bool,
    /// Sum of the sizes of the files placed, holes included.
    pub bytes: u64,
    /// Bytes written: without the holes.
    pub bytes_written: u64,
    /// Length of the tar, all that follows its end included.
    pub archive_bytes: u64,
    /// What was left out: the first hundred.
    pub skipped: Vec<Skipped>,
    /// How much was left out.
    pub skipped_count: u64,
}

/// A member, or a side of one, that could not be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where.
    pub path: Vec<u8>,
    /// What and why, as a lowercase fragment.
    pub reason: String,
}

const SKIPPED_SHOWN: usize = 100;
const BUFFER_BYTES: usize = 256 << 10;

impl Applied {
    /// Does what [`Whiteouts::Overlay`] made of a layer in `upper` show right over the tree `lower`?
    ///
    /// It does not where the layer deletes something from a directory that is none in `lower` (OverlayFS lists the
    /// whiteouts of a directory that it does not merge), where something came before the directory that it is in and
    /// `lower` has a link there, or where the layer has no entry for the root and the roots look different. Then unpack
    /// it on a fork of `lower`. O(directories named here), mostly none but the few that hold whiteouts.
    pub fn fits(&self, upper: &Dir, lower: &Dir) -> Result<bool> {
        for path in &self.whiteout_directories {
            if kind(lower, path)? != Some(EntryType::Directory) {
                return Ok(false);
            }
        }
        for path in &self.late_directories {
            if !matches!(kind(lower, path)?, Some(EntryType::Directory) | None) {
                return Ok(false);
            }
        }
        Ok(self.root_is_told || look(upper)? == look(lower)?)
    }

    fn skip(&mut self, path: &[u8], reason: String) {
        self.skipped_count += 1;
        if self.skipped.len() < SKIPPED_SHOWN {
            self.skipped.push(Skipped { path: path.to_vec(), reason });
        }
    }
}

/// Returns what stands at a path of a tree, if all above it are directories.
fn kind(root: &Dir, path: &[u8]) -> Result<Option<EntryType>> {
    let (parent, name) = split(path);
    let name = if name.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(name) };
    let parent = match root.open_deep(Path::new(OsStr::from_bytes(parent))) {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
            return Ok(None);
        }
        other => other?,
    };
    Ok(parent.stat_if_exists(name)?.map(|stat| EntryType::of_mode(stat.st_mode)))
}

type Look = (u32, u32, u32, Vec<(OsString, Vec<u8>)>);

/// Returns mode, owners and extended attributes of a root.
fn look(root: &Dir) -> Result<Look> {
    let stat = root.stat_self()?;
    let mut xattrs = root.xattrs(".")?;
    xattrs.retain(|(name, _)| !is_overlay_xattr(name));
    Ok((stat.st_mode, stat.st_uid, stat.st_gid, xattrs))
}

/// Unpacks a tar that is not packed (see [`decompress`](super::decompress)) into `root`: an empty directory, or a fork
/// of the layers beneath (see [`Whiteouts`]).
pub fn apply(reader: impl Read, root: &Dir, options: &ApplyOptions) -> Result<Applied> {
    apply_with(reader, root, options, &mut |_| {})
}

/// Unpacks like [`apply`], and reports each member once it is placed.
///
/// A path that comes twice is reported twice: the later one counts, and where it is not a directory nothing
/// reported below it counts any more. The path is that in the tree, and directories that were made because a
/// member needed them are reported before it. Nothing skipped is reported.
pub fn apply_with(
    reader: impl Read,
    root: &Dir,
    options: &ApplyOptions,
    report: &mut dyn FnMut(&Member),
) -> Result<Applied> {
    apply_buffered(&mut BufReader::with_capacity(BUFFER_BYTES, reader), root, options, report)
}

/// The same with the caller's buffer, from which files are written without a copy in between.
pub(super) fn apply_buffered(
    reader: &mut impl BufRead,
    root: &Dir,
    options: &ApplyOptions,
    report: &mut dyn FnMut(&Member),
) -> Result<Applied> {
    let mut archive = Archive::new(reader, options.limits);
    if options.whiteouts == Whiteouts::Added {
        archive = archive.trimming();
    }
    let place = Place::new(root, options.owners, options.whiteouts)?;
    let mut apply = Apply { place, options, applied: Applied::default(), report };
    loop {
        let offset = archive.offset();
        let Some(entry) = archive.next_entry()? else { break };
        let path = entry.member.path.clone();
        apply
            .member(&mut archive, entry)
            .context(|| format!("unpack member {:?} at offset {offset}", String::from_utf8_lossy(&path)))?;
    }
    apply.finish()?;
    apply.applied.archive_bytes = archive.offset();
    Ok(apply.applied)
}

struct Apply<'a> {
    place: Place<'a>,
    options: &'a ApplyOptions,
    applied: Applied,
    report: &'a mut dyn FnMut(&Member),
}

impl Apply<'_> {
    fn member<R: BufRead>(&mut self, archive: &mut Archive<R>, mut entry: Entry) -> Result<()> {
        let path = std::mem::take(&mut entry.member.path);
        if let Some((uid, gid)) = self.options.owner {
            (entry.member.uid, entry.member.gid) = (uid, gid);
        }
        if !matches!(self.options.whiteouts, Whiteouts::Plain | Whiteouts::Added)
            && let Some(whiteout) = Whiteout::of(&path)?
        {
            self.applied.whiteouts += u64::from(whiteout != Whiteout::Nothing);
            return self.place.whiteout(whiteout);
        }
        if entry.has_text_acl
            && !entry.member.xattrs.iter().any(|(name, _)| name.starts_with(b"system.posix_acl_"))
        {
            self.applied.skip(&path, "its ACL is in a form that needs the archive's user names".to_owned());
        }
        if path.is_empty() && self.options.whiteouts == Whiteouts::Added {
            return Ok(());
        }
        if path.is_empty() {
            self.place.root_directory(entry.member.clone());
            return self.placed(&entry.member);
        }
        let (parent, name, real) = self.parent(&path)?;
        entry.member.path = real;
        let is_placed = match &entry.member.content {
            Content::Directory => self.place.directory(&parent, name, entry.member.clone()).map(|()| true),
            Content::File { .. } => self.file(archive, &parent, name, &mut entry).map(|()| true),
            Content::Symlink { target } => {
                let target = OsStr::from_bytes(target);
                self.place.replace(&parent, name, |dir, name| dir.make_symlink(name, target))?;
                self.place.attributes(&parent, name, &entry.member).map(|()| true)
            }
            Content::HardLink { target } => {
                let target = self.link(&parent, name, &entry.member.path, target)?;
                entry.member.content = Content::HardLink { target };
                Ok(true)
            }
            Content::CharDevice { .. } | Content::BlockDevice { .. } | Content::Fifo => {
                self.node(&parent, name, &entry.member)
            }
        }?;
        for note in self.place.take_notes() {
            self.applied.skip(&entry.member.path, note);
        }
        if !is_placed {
            return Ok(());
        }
        self.place.made(&entry.member.path);
        self.placed(&entry.member)
    }

    fn placed(&mut self, member: &Member) -> Result<()> {
        self.applied.entries += 1;
        self.applied.bytes += member.size();
        (self.report)(member);
        Ok(())
    }

    fn parent<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<Parent>, &'p OsStr, Vec<u8>)> {
        let (report, implied) = (&mut self.report, &mut self.applied.implied);
        self.place.parent(path, &mut |member| {
            *implied += 1;
            report(member);
        })
    }

    // ------------------------------------------------------------ files

    fn file<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        parent: &Parent,
        name: &OsStr,
        entry: &mut Entry,
    ) -> Result<()> {
        let mode = entry.member.mode;
        // Attributes are set by who may write the file.
        let first = if entry.member.xattrs.is_empty() { mode & 0o777 } else { 0o600 };
        let file = self.place.replace(parent, name, |dir, name| dir.create_file(name, first))?;
        let mut writer = Writer::new(&file, self.options.digests);
        let call = |what: &str| format!("{what}({}, {name:?})", parent.dir);
        match &entry.map {
            None => copy(archive, &mut writer, entry.member.size(), &call)?,
            Some(map) => {
                for region in &map.regions {
                    writer.hole(region.offset - writer.position());
                    copy(archive, &mut writer, region.length, &call)?;
                }
                writer.hole(map.real_size - writer.position());
            }
        }
        let (digest, written) = writer.finish().context(|| call("ftruncate"))?;
        self.applied.bytes_written += written;
        entry.member.content = Content::File { size: entry.member.size(), digest };

        let member = &entry.member;
        if !member.xattrs.is_empty() {
            return self.place.attributes(parent, name, member);
        }
        // The same by descriptor, where it is not so from the start: no names to resolve.
        if self.options.owners && !self.place.is_own(parent, member) {
            let (user, group) = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
            fchown(&file, user, group)
                .context(|| call("fchown"))
                .map_err(|error| explain_owner(error, member))?;
        }
        if mode & !0o777 != 0 {
            fchmod(&file, Mode::from_bits_truncate(mode)).context(|| call("fchmod"))?;
        }
        let times = times(member);
        let (accessed, modified) = (
            TimeSpec::new(times.accessed.0, times.accessed.1),
            TimeSpec::new(times.modified.0, times.modified.1),
        );
        futimens(&file, &accessed, &modified).context(|| call("futimens"))
    }

    // ------------------------------------------------------------ everything else

    /// Returns the path of the first name in the tree.
    fn link(&mut self, parent: &Parent, name: &OsStr, path: &[u8], target: &[u8]) -> Result<Vec<u8>> {
        let (old_parent, old_name, old_path) = match self.place.existing(target) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => {
                return Err(self.place.missing_target(target));
            }
            other => other?,
        };
        let stat = old_parent.dir.stat_if_exists(old_name)?;
        let stat = stat.ok_or_else(|| self.place.missing_target(target))?;
        if EntryType::of_mode(stat.st_mode) == EntryType::Directory {
            let shown = String::from_utf8_lossy(target);
            let message = format!("the target of the hard link, {shown:?}, is a directory");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if path != old_path {
            self.place.replace(parent, name, |dir, name| dir.make_link(name, &old_parent.dir, old_name))?;
        }
        Ok(old_path)
    }

    /// Makes a device or pipe, and returns whether it could be made.
    fn node(&mut self, parent: &Parent, name: &OsStr, member: &Member) -> Result<bool> {
        if !self.options.devices {
            self.applied.skip(&member.path, "no devices and pipes are made here".to_owned());
            return Ok(false);
        }
        let (kind, device) = match member.content {
            Content::CharDevice { major: 0, minor: 0 } => {
                self.applied.skip(&member.path, "character device 0:0 is a whiteout to OverlayFS".to_owned());
                return Ok(false);
            }
            Content::CharDevice { major, minor } => (libc::S_IFCHR, makedev(major.into(), minor.into())),
            Content::BlockDevice { major, minor } => (libc::S_IFBLK, makedev(major.into(), minor.into())),
            _ => (libc::S_IFIFO, 0),
        };
        match self.place.replace(parent, name, |dir, name| dir.make_node(name, kind | 0o600, device)) {
            // mknod(2) of a device needs CAP_MKNOD in the first user namespace.
            Err(error) if error.errno() == Some(Errno::EPERM) => {
                self.applied.skip(&member.path, "this user may not make devices".to_owned());
                return Ok(false);
            }
            other => other?,
        }
        self.place.attributes(parent, name, member).map(|()| true)
    }

    fn finish(&mut self) -> Result<()> {
        self.applied.root_is_told = self.place.root_is_told();
        let applied = &mut self.applied;
        let assumed = self.place.finish(&mut |path, note| applied.skip(path, note))?;
        applied.whiteout_directories = assumed.merged;
        applied.late_directories = assumed.late;
        Ok(())
    }
}

fn copy<R: BufRead>(
    archive: &mut Archive<R>,
    writer: &mut Writer<'_>,
    mut length: u64,
    call: &dyn Fn(&str) -> String,
) -> Result<()> {
    while length > 0 {
        let data = archive.data(length)?;
        let read = data.len();
        // A map is checked against the data, a size is the data's: only a bug gets here.
        if read == 0 {
            return Err(Error::new(ErrorKind::Corrupt, "the data ends before the file"));
        }
        writer.data(data).context(|| call("pwrite"))?;
        archive.consume_data(read);
        length -= read as u64;
    }
    Ok(())
}
